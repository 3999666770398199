-- core.timer.new(name, fn, opts): fn runs again and again, never twice at once in this worker.
local log = require("apisix.core.log")

local ngx = ngx
local pcall = pcall

local M = {version = 0.1}

local function run(timer)
    local started = ngx.now()
    repeat
        local ok, err = pcall(timer.callback_fun)
        if not ok then
            log.error("failed to run the timer: ", timer.name, " err: ", err)
        end
        local pause = ok and timer.sleep_succ or timer.sleep_fail
        if pause > 0 then
            ngx.sleep(pause)
        end
        ngx.update_time()
    until timer.each_ttl <= 0 or ngx.worker.exiting() or ngx.now() >= started + timer.each_ttl
end

local function tick(premature, timer)
    if premature or timer.running then
        return
    end
    timer.running = true
    local ok, err = pcall(run, timer)
    if not ok then
        log.error("failed to run timer[", timer.name, "] err: ", err)
    end
    timer.running = false
end

function M.new(name, callback_fun, opts)
    if not name then
        return nil, "missing argument: name"
    end
    if not callback_fun then
        return nil, "missing argument: callback_fun"
    end
    opts = opts or {}
    local timer = {
        name = name,
        callback_fun = callback_fun,
        each_ttl = opts.each_ttl or 1,
        sleep_succ = opts.sleep_succ or 1,
        sleep_fail = opts.sleep_fail or 5,
        running = false,
    }
    local handle, err = ngx.timer.every(opts.check_interval or 1, tick, timer)
    if not handle then
        return nil, err
    end
    handle, err = ngx.timer.at(0, tick, timer)
    if not handle then
        return nil, err
    end
    return timer
end

return M
