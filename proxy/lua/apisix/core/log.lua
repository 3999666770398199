-- core.log.<level>(...): nginx' error log. A level that the log would drop anyway costs an empty call.
local ngx = ngx
local ngx_log = ngx.log
local get_phase = ngx.get_phase
local select, tostring, unpack = select, tostring, unpack

local M = {version = 0.4}

local levels = {
    stderr = ngx.STDERR,
    emerg = ngx.EMERG,
    alert = ngx.ALERT,
    crit = ngx.CRIT,
    error = ngx.ERR,
    warn = ngx.WARN,
    notice = ngx.NOTICE,
    info = ngx.INFO,
    debug = ngx.DEBUG,
}

local function nothing() end

local errlog_ok, errlog = pcall(require, "ngx.errlog")

-- The level of error_log; unknown in the master's init phase, where nginx logs with a level of its own.
local function filter_level()
    if not errlog_ok or get_phase() == "init" then
        return nil
    end
    return errlog.get_sys_filter_level()
end

-- The functions tail-call, so that nginx names the caller's file and line.
local function method(name, prefix)
    local level = levels[name]
    if not level then
        return nil
    end
    local limit = filter_level()
    if limit and level > limit then
        return nothing
    end
    if prefix then
        return function(...)
            return ngx_log(level, prefix, ...)
        end
    end
    return function(...)
        return ngx_log(level, ...)
    end
end

local function lazily(prefix)
    return {
        __index = function(self, name)
            local fn = method(name, prefix)
            if fn and get_phase() ~= "init" then
                self[name] = fn
            end
            return fn
        end,
    }
end

function M.new(prefix)
    return setmetatable({version = M.version}, lazily(prefix))
end

-- log.info("x: ", log.delay_exec(fn, …)): fn runs only when the line is written.
local delayed = setmetatable({args = {}}, {
    __tostring = function(self)
        if not self.text then
            local result, err = self.fn(unpack(self.args, 1, self.n))
            if err then
                ngx_log(ngx.WARN, "failed to exec: ", err)
            end
            self.text = tostring(result)
        end
        return self.text
    end,
})

function M.delay_exec(fn, ...)
    delayed.fn = fn
    delayed.n = select("#", ...)
    delayed.args = {...}
    delayed.text = nil
    return delayed
end

return setmetatable(M, lazily(nil))
