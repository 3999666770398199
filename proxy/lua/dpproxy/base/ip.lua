-- IP addresses as numbers, by the C library's parser. No names, no ports.
local ffi = require("ffi")
local bit = require("bit")

local find, byte, sub, tonumber, match = string.find, string.byte, string.sub, tonumber, string.match
local bswap, tobit = bit.bswap, bit.tobit

ffi.cdef([[
    int inet_pton(int af, const char *src, void *dst);
]])

local M = {}

local AF_INET, AF_INET6 = 2, 10
local C = ffi.C
local little_endian = ffi.abi("le")
local v4, v6 = ffi.new("int32_t[1]"), ffi.new("int32_t[4]")

local function host_order(word)
    return little_endian and bswap(word) or tobit(word)
end

-- -> the address as a signed 32 bit number | nil
function M.parse_v4(text)
    if find(text, "\0", 1, true) or C.inet_pton(AF_INET, text, v4) ~= 1 then
        return nil
    end
    return host_order(v4[0])
end

-- -> four signed 32 bit numbers | nil. Brackets are allowed.
function M.parse_v6(text)
    if byte(text, 1) == 91 and byte(text, #text) == 93 then
        text = sub(text, 2, -2)
    end
    if find(text, "\0", 1, true) or C.inet_pton(AF_INET6, text, v6) ~= 1 then
        return nil
    end
    return host_order(v6[0]), host_order(v6[1]), host_order(v6[2]), host_order(v6[3])
end

-- "address" or "address/bits" -> address, bits | nil
function M.split_cidr(text)
    if not find(text, "/", 1, true) then
        return text
    end
    local address, bits = match(text, "^([^/]+)/(%d%d?%d?)$")
    return address, tonumber(bits)
end

-- Is it an address, or a network in CIDR notation?
function M.valid(text)
    local address, bits = M.split_cidr(text)
    if not address then
        return false
    end
    if M.parse_v4(address) then
        return bits == nil or bits <= 32
    end
    return M.parse_v6(address) ~= nil and (bits == nil or bits <= 128)
end

return M
