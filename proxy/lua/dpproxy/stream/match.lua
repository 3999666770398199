-- "The first stream route that matches wins" in nginx' terms: geo blocks (the longest network counts) and maps. The result for a
-- list of routes is an expression, the name of an upstream block or a variable that holds one. No ngx in here.
--
-- A geo block knows only the longest network that an address is in. That is enough: an address is in exactly those networks of
-- the list that contain its longest one, so for each network the first route is known whose network contains it.
local fields = require("dpproxy.stream.fields")

local ipairs, tostring = ipairs, tostring

local M = {}
local mt = {__index = M}

-- w: dpproxy.cli.nginx' writer
function M.new(w)
    return setmetatable({w = w, count = 0}, mt)
end

local function variable(self)
    self.count = self.count + 1
    return "$dpproxy_s" .. self.count
end

-- Networks of the routes' field `name`, each once.
local function networks_of(routes, name)
    local list, seen = {}, {}
    for _, route in ipairs(routes) do
        local network = route[name]
        if network and not seen[network.text] then
            seen[network.text] = true
            list[#list + 1] = network
        end
    end
    return list
end

-- The routes that match an address whose longest network is `network` (nil: it is in none).
local function within(routes, name, network)
    local list = {}
    for _, route in ipairs(routes) do
        local wants = route[name]
        if not wants or network and fields.contains(wants, network) then
            list[#list + 1] = route
        end
    end
    return list
end

-- What follows a route without conditions is never reached. (Of those that are left for a server_addr, that one matches.)
local function reachable(routes, server_matches)
    local list = {}
    for i, route in ipairs(routes) do
        list[i] = route
        if not route.remote and (server_matches or not route.server) then
            break
        end
    end
    return list
end

local function target_of(route, fallback)
    if route then
        return route.target
    end
    return fallback
end

local function write_geo(self, source, networks)
    local class = variable(self)
    self.w:open("geo", source, class)
    self.w:set("default", "0")
    for i, network in ipairs(networks) do
        self.w:set(network.text, tostring(i))
    end
    self.w:close()
    return class
end

-- values[0]: none of the networks; values[i]: the i-th network
local function write_choice(self, class, values, count)
    local result = variable(self)
    self.w:open("map", class, result)
    self.w:set_quoted("default", values[0])
    for i = 1, count do
        if values[i] ~= values[0] then
            self.w:set_quoted(tostring(i), values[i])
        end
    end
    self.w:close()
    return result
end

-- One dimension: `each(routes) -> expression` decides about those that are left for a network.
local function by_network(self, routes, name, source, each)
    local networks = networks_of(routes, name)
    if #networks == 0 then
        return each(routes)
    end
    local class, values = write_geo(self, source, networks), {[0] = each(within(routes, name, nil))}
    for i, network in ipairs(networks) do
        values[i] = each(within(routes, name, network))
    end
    return write_choice(self, class, values, #networks)
end

-- routes: {target =, remote = network | nil, server = network | nil} in order; fallback: expression when none matches
function M:first(routes, fallback)
    return by_network(self, reachable(routes), "server", "$server_addr", function(left)
        return by_network(self, reachable(left, true), "remote", "$remote_addr", function(rest)
            return target_of(rest[1], fallback)
        end)
    end)
end

local function ends_with(text, suffix)
    return #text >= #suffix and text:sub(#text - #suffix + 1) == suffix
end

-- "*.example" -> ".example"; "*" -> ""
local function suffix_of(name)
    return name:sub(1, 1) == "*" and name:sub(2) or nil
end

-- Routes by their name: exact names, and wildcards, the longest first.
local function group_by_sni(routes)
    local groups, order = {}, {}
    for _, route in ipairs(routes) do
        local list = groups[route.sni]
        if not list then
            list = {}
            groups[route.sni] = list
            order[#order + 1] = {name = route.sni, suffix = suffix_of(route.sni), routes = list}
        end
        list[#list + 1] = route
    end
    table.sort(order, function(a, b)
        if (a.suffix ~= nil) ~= (b.suffix ~= nil) then
            return a.suffix == nil
        elseif a.suffix and #a.suffix ~= #b.suffix then
            return #a.suffix > #b.suffix
        end
        return a.name < b.name
    end)
    return order
end

local function wildcard_pattern(suffix)
    return "~*^.+" .. suffix:gsub("%.", "\\.") .. "$"
end

-- Routes with a name come first, by the longest one that fits; none of them matching, the others' expression counts.
function M:by_sni(source, routes, others)
    if #routes == 0 then
        return others
    end
    local order, values = group_by_sni(routes), {}
    -- Backwards: shorter wildcards are what longer ones and exact names fall back to.
    for i = #order, 1, -1 do
        local group, fallback = order[i], others
        for k = i + 1, #order do
            local suffix = order[k].suffix
            if suffix and #group.name > #suffix and ends_with(group.name, suffix) and (group.suffix ~= suffix) then
                fallback = values[k]
                break
            end
        end
        values[i] = self:first(group.routes, fallback)
    end
    local result = variable(self)
    self.w:open("map", source, result)
    self.w:set_quoted("default", others)
    for i, group in ipairs(order) do
        -- The backslash: "default" and "hostnames" are names, too.
        self.w:set_quoted(group.suffix and wildcard_pattern(group.suffix) or "\\" .. group.name, values[i])
    end
    self.w:close()
    return result
end

return M
