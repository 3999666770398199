-- What single values of streams may look like, before nginx gets them: the worker that makes a plan and the launcher that
-- renders one both ask here. No ngx in here.
local bit = require("bit")
local ip = require("dpproxy.base.ip")

local band, lshift, tobit, rshift = bit.band, bit.lshift, bit.tobit, bit.rshift
local find, format, lower, sub, match = string.find, string.format, string.lower, string.sub, string.match
local type, floor = type, math.floor

local M = {}

function M.is_whole(value, from, to)
    return type(value) == "number" and value == floor(value) and value >= from and value <= to
end

function M.port(value)
    return M.is_whole(value, 1, 65535) and value or nil
end

-- The first bits of a word, as a signed number. (A shift by 32 does nothing to a word.)
local function masked(word, bits)
    if bits <= 0 then
        return 0
    elseif bits >= 32 then
        return tobit(word)
    end
    return band(word, lshift(-1, 32 - bits))
end

-- "10.1.2.3/8" -> {family = 4, bits = 8, words = {…}, text = "10.0.0.0/8"} | nil. Bits behind the network are dropped.
function M.network(value)
    if type(value) ~= "string" or not ip.valid(value) then
        return nil
    end
    local address, bits = ip.split_cidr(value)
    local v4 = ip.parse_v4(address)
    if v4 then
        bits = bits or 32
        local word = masked(v4, bits)
        return {
            family = 4, bits = bits, words = {word},
            text = format("%d.%d.%d.%d/%d", band(rshift(word, 24), 255), band(rshift(word, 16), 255), band(rshift(word, 8), 255),
                band(word, 255), bits),
        }
    end
    local words = {ip.parse_v6(address)}
    bits = bits or 128
    local groups = {}
    for i = 1, 4 do
        words[i] = masked(words[i], bits - 32 * (i - 1))
        groups[#groups + 1] = format("%x", band(rshift(words[i], 16), 0xffff))
        groups[#groups + 1] = format("%x", band(words[i], 0xffff))
    end
    return {family = 6, bits = bits, words = words, text = table.concat(groups, ":") .. "/" .. bits}
end

-- Is all of the network `inner` in `outer`?
function M.contains(outer, inner)
    if outer.family ~= inner.family or outer.bits > inner.bits then
        return false
    end
    for i = 1, #outer.words do
        if masked(inner.words[i], outer.bits - 32 * (i - 1)) ~= outer.words[i] then
            return false
        end
    end
    return true
end

-- A node's address for a `server` directive: IPv6 in brackets -> text | nil
function M.address(value)
    if type(value) ~= "string" then
        return nil
    end
    if ip.parse_v4(value) then
        return value
    end
    local plain = match(value, "^%[(.*)%]$") or value
    return ip.parse_v6(plain) and "[" .. plain .. "]" or nil
end

-- "a.example", "*.example", "*": lower case, without the dot at the end -> text | nil
function M.sni(value)
    if type(value) ~= "string" or #value > 253 then
        return nil
    end
    value = lower(value)
    if sub(value, -1) == "." then
        value = sub(value, 1, -2)
    end
    if value == "*" or find(value, "^%*?[%w._-]+$") then
        return value
    end
    return nil
end

-- A name that a server is asked for by TLS.
function M.host(value)
    return type(value) == "string" and #value <= 253 and find(value, "^[%w._-]+$") ~= nil and value or nil
end

-- Seconds of the configuration as whole milliseconds, within what nginx can count.
function M.milliseconds(seconds)
    local ms = floor(seconds * 1000 + 0.5)
    return ms < 1 and 1 or ms > 2000000000 and 2000000000 or ms
end

return M
