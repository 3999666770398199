-- CRC-32 (IEEE 802.3, zlib's), in steps: a hash over several strings needs no concatenation. No ngx in here.
local bit = require("bit")
local ffi = require("ffi")

local band, bxor, bnot, rshift = bit.band, bit.bxor, bit.bnot, bit.rshift
local byte = string.byte

local M = {}

local steps = ffi.new("int32_t[256]")
for i = 0, 255 do
    local c = i
    for _ = 1, 8 do
        c = band(c, 1) == 1 and bxor(rshift(c, 1), 0xedb88320) or rshift(c, 1)
    end
    steps[i] = bit.tobit(c)
end

-- State and result are LuaJIT's signed 32 bits. A new sum starts with M.start.
M.start = -1

function M.update(state, text)
    for i = 1, #text do
        state = bxor(steps[band(bxor(state, byte(text, i)), 0xff)], rshift(state, 8))
    end
    return state
end

-- The same over the four bytes of a number, the lowest first.
function M.update_u32(state, value)
    for _ = 1, 4 do
        state = bxor(steps[band(bxor(state, value), 0xff)], rshift(state, 8))
        value = rshift(value, 8)
    end
    return state
end

-- state -> the sum, 0 .. 2^32-1
function M.finish(state)
    return bnot(state) % 4294967296
end

function M.sum(text)
    return M.finish(M.update(M.start, text))
end

return M
