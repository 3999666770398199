-- Seconds of a clock that never goes back and that all processes of the machine share: nginx' own milliseconds. They are as
-- fresh as the event loop's turn, and cost a memory read.
local ffi = require("ffi")

pcall(ffi.cdef, "extern volatile uintptr_t ngx_current_msec;")

local M = {}

local ok, cell = pcall(function()
    return ffi.C.ngx_current_msec
end)

if ok and cell then
    local C = ffi.C
    function M.now()
        return tonumber(C.ngx_current_msec) / 1000
    end
else
    -- Outside of nginx (unit tests, command line).
    pcall(ffi.cdef, [[
        typedef struct { long tv_sec; long tv_nsec; } dpproxy_timespec;
        int clock_gettime(int clock, dpproxy_timespec *tp);
    ]])
    local spec = ffi.new("dpproxy_timespec")
    function M.now()
        ffi.C.clock_gettime(1, spec)
        return tonumber(spec.tv_sec) + tonumber(spec.tv_nsec) / 1e9
    end
end

return M
