-- Base64 as etcd's JSON has it (standard alphabet, padded). Plain LuaJIT, so that the client runs without nginx.
local ffi = require("ffi")
local bit = require("bit")

local band, bor, lshift, rshift = bit.band, bit.bor, bit.lshift, bit.rshift

local M = {}

local alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
local encode_map = ffi.new("uint8_t[64]")
local decode_map = ffi.new("uint8_t[256]")
for i = 0, 255 do
    decode_map[i] = 255
end
for i = 0, 63 do
    local byte = alphabet:byte(i + 1)
    encode_map[i] = byte
    decode_map[byte] = i
end
-- The URL-safe letters too: some gateways write them.
decode_map[("-"):byte()] = 62
decode_map[("_"):byte()] = 63

local buffer, capacity = nil, 0

local function reserve(size)
    if size > capacity then
        capacity = math.max(4096, size)
        buffer = ffi.new("uint8_t[?]", capacity)
    elseif capacity > 4194304 and size < 65536 then -- one huge value is not kept for ever
        capacity = 65536
        buffer = ffi.new("uint8_t[?]", capacity)
    end
    return buffer
end

function M.encode(text)
    local length = #text
    local from = ffi.cast("const uint8_t *", text)
    local out = reserve(math.floor((length + 2) / 3) * 4)
    local o = 0
    for i = 0, length - 1, 3 do
        local left = length - i
        local word = bor(lshift(from[i], 16), left > 1 and lshift(from[i + 1], 8) or 0, left > 2 and from[i + 2] or 0)
        out[o] = encode_map[rshift(word, 18)]
        out[o + 1] = encode_map[band(rshift(word, 12), 63)]
        out[o + 2] = left > 1 and encode_map[band(rshift(word, 6), 63)] or 61
        out[o + 3] = left > 2 and encode_map[band(word, 63)] or 61
        o = o + 4
    end
    return ffi.string(out, o)
end

-- text -> bytes | nil when it is not base64
function M.decode(text)
    local length = #text
    while length > 0 and text:byte(length) == 61 do
        length = length - 1
    end
    if #text - length > 2 or length % 4 == 1 then
        return nil
    end
    local from = ffi.cast("const uint8_t *", text)
    local out = reserve(math.floor(length * 3 / 4) + 4)
    local o, word, bits = 0, 0, 0
    for i = 0, length - 1 do
        local six = decode_map[from[i]]
        if six == 255 then
            return nil
        end
        word = band(bor(lshift(word, 6), six), 0xffffff)
        bits = bits + 6
        if bits >= 8 then
            bits = bits - 8
            out[o] = band(rshift(word, bits), 255)
            o = o + 1
        end
    end
    return ffi.string(out, o)
end

return M
