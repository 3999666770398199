-- APISIX' timers of plugins: register_timer(name, fn, privileged), each called once a second in each worker. There is no
-- privileged agent in Debian's nginx: worker 0 stands in for it.
local log = require("apisix.core.log")

local ngx = ngx
local pairs, xpcall = pairs, xpcall
local traceback = debug.traceback

local M = {}

local timers = {}
local running = false
local started = false

local function run(premature)
    if premature or running then
        return
    end
    running = true
    for name, timer in pairs(timers) do
        if not timer.privileged or ngx.worker.id() == 0 then
            local ok, err = xpcall(timer.fn, traceback)
            if not ok then
                log.error("timer ", name, " failed: ", err)
            end
        end
    end
    running = false
end

function M.register_timer(name, fn, privileged)
    timers[name] = {fn = fn, privileged = privileged}
    if not started then
        local ok, err = ngx.timer.every(1, run)
        if not ok then
            log.error("no timer for plugins: ", err)
            return
        end
        started = true
    end
end

function M.unregister_timer(name)
    timers[name] = nil
end

return M
