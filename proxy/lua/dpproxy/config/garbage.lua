-- Large loads leave much garbage, and what LuaJIT once took from the system it hardly ever gives back. So while one runs, the
-- collector keeps in step with it instead of waiting until memory has doubled.
local collectgarbage = collectgarbage

local M = {}

-- Once begun, a collection goes through ten times as much memory as is allocated meanwhile. With the default, twice as much, the
-- tables of ten thousand routes grow to two and a half times their size until it has ended, and stay so; each of its steps takes
-- some ten microseconds this way.
local lasting_step = 1000

-- In each worker, at its start.
function M.init_worker()
    collectgarbage("setstepmul", lasting_step)
end

-- Calls fn(...), whose results are handed on (at most three).
function M.keep_low(fn, ...)
    local pause = collectgarbage("setpause", 135)
    collectgarbage()
    local a, b, c = fn(...)
    collectgarbage("setpause", pause)
    return a, b, c
end

return M
