-- Seconds of a clock that never goes back and that all processes of the machine share. Not nginx' own, which each worker reads
-- once in a turn of its event loop: one that is 20 ms behind its sibling would see a bucket that fills at 100,000 a second as
-- full.
local ffi = require("ffi")

pcall(ffi.cdef, [[
    typedef struct { long seconds; long nanoseconds; } dpproxy_timespec;
    int clock_gettime(int clock, dpproxy_timespec *into);
]])

local C = ffi.C
local CLOCK_MONOTONIC = 1
local into = ffi.new("dpproxy_timespec")
local tonumber = tonumber

local M = {}

function M.now()
    C.clock_gettime(CLOCK_MONOTONIC, into)
    return tonumber(into.seconds) + tonumber(into.nanoseconds) / 1e9
end

return M
