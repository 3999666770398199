-- Routes by path: exact ones by hash, then prefixes from the longest to the shortest; each has a list in the order in which its
-- routes are asked: higher priority, longer path as it was written, earlier created, earlier in the route's own list.
--
--   new(guard) -> p       guard: {busy = number of predicates that are running, and may yield; on_error =}
--   entry(route, path, literal, check, index) -> entry       route: {item =, order =, and the predicates}; check: path.lua's
--   p:add(entry) ; p:remove(entry)
--   p:match(req, matched) -> item | nil
local bit = require("bit")
local prefixes = require("dpproxy.router.prefixes")
local routes = require("dpproxy.router.route")

local accepts, method_bits = routes.accepts, routes.method_bits
local type, setmetatable = type, setmetatable
local band, insert, remove, sub = bit.band, table.insert, table.remove, string.sub

local M = {}

-- An entry is an array: with ten thousand routes a match waits for memory, and this is less of it. What a match needs comes
-- first; it does not look at the route itself unless there are predicates besides methods.
local ITEM, METHODS, CHECK, PATH, PREDICATES, ROUTE, LITERAL, INDEX = 1, 2, 3, 4, 5, 6, 7, 8

function M.entry(route, path, literal, check, index)
    local predicates = (route.addresses or route.hosts or route.vars or route.filter) and route
    return {route.item, route.methods, check or false, path, predicates or false, route, literal, index}
end

local Paths = {}
Paths.__index = Paths

function M.new(guard)
    return setmetatable({guard = guard, exact = {}, prefixes = prefixes.new(), count = 0}, Paths)
end

local function before(a, b)
    local a_route, b_route = a[ROUTE], b[ROUTE]
    local a_priority, b_priority = a[ITEM].value.priority or 0, b[ITEM].value.priority or 0
    if a_priority ~= b_priority then
        return a_priority > b_priority
    elseif #a[PATH] ~= #b[PATH] then
        return #a[PATH] > #b[PATH]
    elseif a_route.order ~= b_route.order then
        return a_route.order < b_route.order
    end
    return a[INDEX] < b[INDEX]
end

-- The place of an entry in a list that is in order.
local function place(list, entry)
    local low, high = 1, #list + 1
    while low < high do
        local middle = (low + high - (low + high) % 2) / 2
        if before(list[middle], entry) then
            low = middle + 1
        else
            high = middle
        end
    end
    return low
end

-- A list that a suspended request may be walking is not changed: the change goes to a copy.
local function writable(self, list)
    if self.guard.busy == 0 then
        return list
    end
    local copy = {}
    for i = 1, #list do
        copy[i] = list[i]
    end
    return copy
end

function Paths:add(entry)
    local literal = entry[LITERAL]
    self.count = self.count + 1
    if literal == entry[PATH] then
        local list = self.exact[literal]
        list = list and writable(self, list) or {}
        insert(list, place(list, entry), entry)
        self.exact[literal] = list
        return
    end
    local node = self.prefixes:get(literal)
    if not node then
        self.prefixes:add(literal, {entry})
        return
    end
    node.value = writable(self, node.value)
    insert(node.value, place(node.value, entry), entry)
end

local function without(self, list, entry)
    local i = place(list, entry)
    -- entries that compare equal are neighbours
    while list[i] and list[i] ~= entry do
        i = i + 1
    end
    if not list[i] then
        return list
    end
    list = writable(self, list)
    remove(list, i)
    self.count = self.count - 1
    return list
end

function Paths:remove(entry)
    local literal = entry[LITERAL]
    if literal == entry[PATH] then
        local list = self.exact[literal]
        if list then
            list = without(self, list, entry)
            self.exact[literal] = list[1] and list or nil
        end
        return
    end
    local node = self.prefixes:get(literal)
    if node then
        node.value = without(self, node.value, entry)
        if not node.value[1] then
            self.prefixes:remove(literal)
        end
    end
end

-- Does the request match the entry? What APISIX calls the matched path and host is noted.
local function is_match(entry, req, matched, guard)
    local methods, predicates, check = entry[METHODS], entry[PREDICATES], entry[CHECK]
    if methods ~= 0 and band(methods, method_bits[req.method] or 0) == 0
        or predicates and not accepts(predicates, req, matched, guard) then
        return false
    end
    if type(check) == "string" then
        matched[check] = sub(req.uri, #entry[LITERAL] + 1)
    elseif check and not check(req.uri, matched) then
        return false
    end
    matched._path = entry[PATH]
    if not predicates or not predicates.hosts then
        matched._host = nil -- of an earlier candidate
    end
    return true
end

-- The first entry of most lists, and the longest prefix of most requests, is the answer. That way has no loop: to LuaJIT, a loop
-- that is seldom repeated is a reason not to compile what is around it, and after a few attempts it would never do so.
local function other_of(list, req, matched, guard)
    for i = 2, #list do
        if is_match(list[i], req, matched, guard) then
            return list[i][ITEM]
        end
    end
end

local function first_of(list, req, matched, guard)
    local first = list[1]
    if is_match(first, req, matched, guard) then
        return first[ITEM]
    elseif list[2] then
        return other_of(list, req, matched, guard)
    end
end

local function match_prefix(node, req, matched, guard)
    return first_of(node.value, req, matched, guard)
end

function Paths:match(req, matched)
    local uri, guard = req.uri, self.guard
    local list = self.exact[uri]
    if list then
        local item = first_of(list, req, matched, guard)
        if item then
            return item
        end
    end
    local node = self.prefixes:find(uri, #uri)
    if not node then
        return nil
    end
    return match_prefix(node, req, matched, guard) or self.prefixes:shorter(uri, #node.key - 1, match_prefix, req, matched, guard)
end

return M
