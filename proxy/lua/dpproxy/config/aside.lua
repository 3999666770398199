-- Work in a child of this worker, so that no request waits for it: it sees the shared memory, and a copy of all else. Not in a
-- thread: a process with a second thread pays for locks in each of its system calls. nginx takes the ended child away.
local ffi = require("ffi")
local posix = require("dpproxy.config.posix")

local M = {}

-- nginx' locks in shared memory have their holder's number: the child's, and nginx frees them should it be killed.
ffi.cdef [[
extern int dpproxy_config_ngx_pid __asm__("ngx_pid");
]]

local job_mt = {}
job_mt.__index = job_mt

-- A copy of a client's connection would keep it open after the worker has closed it: they go first of all.
local function child(fn, to)
    posix.close_others(to)
    ffi.C.dpproxy_config_ngx_pid = posix.getpid()
    -- The collector would touch, and so copy, all of the worker's memory.
    collectgarbage("stop")
    local ok, text = pcall(fn)
    posix.say(to, ok and text or "failed " .. tostring(text))
    posix.leave()
end

-- fn() -> text of at most a few hundred bytes -> job | nil, err
function M.start(fn)
    local from, to = posix.pipe()
    if not from then
        return nil, to
    end
    local pid, err = posix.fork()
    if pid == 0 then
        child(fn, to)
    end
    posix.close(to)
    if not pid then
        posix.close(from)
        return nil, err
    end
    return setmetatable({from = from}, job_mt)
end

-- Waits for at most so many seconds -> text that fn gave | nil, err | nil when it still runs
function job_mt:answer(seconds)
    if not posix.readable(self.from, seconds or 0) then
        return nil
    end
    local text, err = posix.read(self.from)
    posix.close(self.from)
    if text == "" then
        return nil, "the process that did it ended"
    end
    return text, err
end

return M
