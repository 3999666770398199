-- Large loads leave much garbage, and what LuaJIT once took from the system it hardly ever gives back. So while one runs, the
-- collector keeps in step with it instead of waiting until memory has doubled.
local collectgarbage = collectgarbage

local M = {}

-- Calls fn(...), whose results are handed on (at most three).
function M.keep_low(fn, ...)
    local pause = collectgarbage("setpause", 135)
    local step = collectgarbage("setstepmul", 400)
    collectgarbage()
    local a, b, c = fn(...)
    collectgarbage("setpause", pause)
    collectgarbage("setstepmul", step)
    return a, b, c
end

return M
