-- Strings and the longest of them that a text starts with (or, backwards: ends with). One pass over the text with a running hash;
-- no garbage, and a cost that depends on the text and the longest string, not on how many strings there are.
--
--   new(backwards) -> p
--   p:find(text, limit) -> node | nil      the longest string of at most `limit` bytes; node: {key =, value =}
--   p:shorter(text, limit, try, a, b, c)   those strings, the longest first, until try(node, a, b, c) returns something
--   p:get(key) -> node | nil ; p:add(key, value) -> node ; p:remove(key)
local bit = require("bit")
local ffi = require("ffi")

local byte, min, max = string.byte, math.min, math.max
local tobit, cast, copy, new = bit.tobit, ffi.cast, ffi.copy, ffi.new
local C, setmetatable = ffi.C, setmetatable

ffi.cdef([[
    int memcmp(const void *, const void *, size_t);
]])

local M = {}
local Prefixes = {}
Prefixes.__index = Prefixes

function M.new(backwards)
    return setmetatable({
        backwards = backwards or false,
        count = 0,
        longest = 0, -- no string is longer
        size = 15, -- of `lengths`, which starts at 0
        lengths = new("uint32_t[?]", 16), -- how many strings have that length
        nodes = {}, -- hash -> node, others of the same hash by node.next
    }, Prefixes)
end

local function hash_of(self, key)
    local h, n = 0, #key
    for i = 1, n do
        h = tobit(h * 31 + byte(key, self.backwards and n - i + 1 or i))
    end
    return h
end

-- Does the text start (end, from `at` on) with the node's string?
local function fits(node, text, at, len)
    local key = node.key
    return #key == len and C.memcmp(cast("const char *", text) + at, key, len) == 0
end

-- A hash that several strings have: hardly ever, so it is not where the loop over the text is compiled (paths.lua says why).
local function other_of(node, text, at, len)
    while node and not fits(node, text, at, len) do
        node = node.next
    end
    return node
end

function Prefixes:find(text, limit)
    if self.count == 0 then
        return nil
    end
    local lengths, nodes, backwards, size = self.lengths, self.nodes, self.backwards, #text
    local best = limit >= 0 and lengths[0] > 0 and other_of(nodes[0], text, 0, 0) or nil
    local h = 0
    for i = 1, min(size, limit, self.longest) do
        h = tobit(h * 31 + byte(text, backwards and size - i + 1 or i))
        if lengths[i] > 0 then
            local node, at = nodes[h], backwards and size - i or 0
            if node then
                best = fits(node, text, at, i) and node or node.next and other_of(node.next, text, at, i) or best
            end
        end
    end
    return best
end

-- For what comes behind the first: found anew each time, for few need more than one, and `try` may yield.
function Prefixes:shorter(text, limit, try, a, b, c)
    while limit >= 0 do
        local node = self:find(text, limit)
        if not node then
            return nil
        end
        local result = try(node, a, b, c)
        if result ~= nil then
            return result
        end
        limit = #node.key - 1
    end
end

function Prefixes:get(key)
    local node = self.nodes[hash_of(self, key)]
    while node and node.key ~= key do
        node = node.next
    end
    return node
end

local function make_room(self, len)
    if len > self.size then
        local size = max(len, self.size * 2)
        local lengths = new("uint32_t[?]", size + 1)
        copy(lengths, self.lengths, (self.size + 1) * 4)
        self.lengths, self.size = lengths, size
    end
end

-- For a key that is not there yet.
function Prefixes:add(key, value)
    local len, h = #key, hash_of(self, key)
    make_room(self, len)
    local node = {key = key, value = value}
    if self.nodes[h] then
        node.next = self.nodes[h] -- few have one, and memory for it
    end
    self.nodes[h] = node
    self.lengths[len] = self.lengths[len] + 1
    self.longest = max(self.longest, len)
    self.count = self.count + 1
    return node
end

function Prefixes:remove(key)
    local h = hash_of(self, key)
    local node, before = self.nodes[h], nil
    while node and node.key ~= key do
        node, before = node.next, node
    end
    if not node then
        return
    end
    if before then
        before.next = node.next
    else
        self.nodes[h] = node.next
    end
    local lengths = self.lengths
    lengths[#key] = lengths[#key] - 1
    while self.longest > 0 and lengths[self.longest] == 0 do
        self.longest = self.longest - 1
    end
    self.count = self.count - 1
end

return M
