-- Sets of IP addresses and networks (CIDR). A look-up costs what the number of different prefix lengths costs, whatever the
-- number of entries, and makes no garbage.
--
--   new(list) -> m | nil, err        m:match(text) -> bool
local bit = require("bit")
local ip = require("dpproxy.base.ip")
local child = require("dpproxy.base.tables").child

local band, lshift = bit.band, bit.lshift
local type, ipairs, tostring, setmetatable, min, max = type, ipairs, tostring, setmetatable, math.min, math.max

local M = {}
local Matcher = {}
Matcher.__index = Matcher

-- The mask that keeps the first `bits` of a word (a shift by 32 would be none).
local function word_mask(bits)
    return bits <= 0 and 0 or lshift(-1, 32 - min(bits, 32))
end

-- The networks of one prefix length: `set` by masked address (IPv6: nested by word).
local function network_group(groups, bits)
    for _, group in ipairs(groups) do
        if group.bits == bits then
            return group
        end
    end
    local group = {bits = bits, set = {}}
    for i = 1, 4 do
        group[i] = word_mask(max(bits - 32 * (i - 1), 0))
    end
    groups[#groups + 1] = group
    return group
end

local function add(self, text)
    local address, bits = ip.split_cidr(text)
    local a, b, c, d
    a = address and ip.parse_v4(address)
    if a and (bits or 32) <= 32 then
        local group = network_group(self.v4, bits or 32)
        group.set[band(a, group[1])] = true
        return true
    end
    if address and not a then
        a, b, c, d = ip.parse_v6(address)
        if a and (bits or 128) <= 128 then
            local group = network_group(self.v6, bits or 128)
            local node = child(child(child(group.set, band(a, group[1])), band(b, group[2])), band(c, group[3]))
            node[band(d, group[4])] = true
            return true
        end
    end
    return nil, "invalid ip address: " .. text
end

function M.new(list)
    if type(list) ~= "table" then
        return nil, "not a list of ip addresses"
    end
    local self = setmetatable({v4 = {}, v6 = {}}, Matcher)
    for _, text in ipairs(list) do
        if type(text) ~= "string" then
            return nil, "invalid ip address: " .. tostring(text)
        end
        local ok, err = add(self, text)
        if not ok then
            return nil, err
        end
    end
    return self
end

local function match_v6(groups, text)
    local a, b, c, d = ip.parse_v6(text)
    if not a then
        return false
    end
    for i = 1, #groups do
        local group = groups[i]
        local node = group.set[band(a, group[1])]
        node = node and node[band(b, group[2])]
        node = node and node[band(c, group[3])]
        if node and node[band(d, group[4])] then
            return true
        end
    end
    return false
end

-- What is no address is in no set.
function Matcher:match(text)
    if type(text) ~= "string" then
        return false
    end
    local address = ip.parse_v4(text)
    if not address then
        return match_v6(self.v6, text)
    end
    local groups = self.v4
    for i = 1, #groups do
        local group = groups[i]
        if group.set[band(address, group[1])] then
            return true
        end
    end
    return false
end

return M
