-- From a request to its route, as APISIX' routers do it. A change costs what the changed route's own paths and hosts cost.
--
--   new(mode, opts) -> r       opts.service_of(id) -> service item | nil; opts.on_error(item, err): a predicate failed
--   r:upsert(item) -> true | nil, err          an item that does not compile leaves its old version in place
--   r:remove(short_key) ; r:service_changed(service_id)
--   r:match(req, matched) -> item | nil, matched
--       req: {uri =, method =, host =, http_host =, remote_addr =, vars =}, host in lower case and without port, as $host
--       matched: {_path =, _host =, _method =, captures by name}; cleared first. Without one, the router's own is used each time.
--   check(value) -> true | nil, err
local parse_path = require("dpproxy.router.path").parse
local paths = require("dpproxy.router.paths")
local prefixes = require("dpproxy.router.prefixes")
local routes = require("dpproxy.router.route")
local clear = require("table.clear")

local type, ipairs, pairs, next, tostring, setmetatable = type, ipairs, pairs, next, tostring, setmetatable
local lower, sub, byte = string.lower, string.sub, string.byte

local M = {check = routes.check}

local modes = {
    radixtree_host_uri = {by_host = true},
    radixtree_uri = {},
    radixtree_uri_with_parameter = {with_parameter = true},
}

local Router = {}
Router.__index = Router

function M.new(mode, opts)
    local features = modes[mode]
    if not features then
        return nil, "no such router: " .. tostring(mode)
    end
    opts = opts or {}
    local guard = {busy = 0, on_error = opts.on_error}
    return setmetatable({
        guard = guard,
        by_host = features.by_host or false,
        with_parameter = features.with_parameter or false,
        service_of = opts.service_of,
        any_host = paths.new(guard), -- routes without hosts; in the other modes: all
        hosts = {}, -- exact host -> paths
        wildcards = prefixes.new(true), -- what follows the star -> paths
        routes = {}, -- short key -> compiled route, and in its array: entry, paths, host or false, entry, …
        by_service = {}, -- service id -> set of short keys of routes that take their hosts from there
        last_order = 0,
        matched = {},
    }, Router)
end

-- The hosts of a route | nil, and the service that gives them (or might).
local function hosts_of(self, value)
    local hosts = value.hosts or value.host and {value.host}
    if hosts then
        return hosts
    end
    local id = value.service_id and tostring(value.service_id)
    if not id then
        return nil
    end
    local service = self.service_of and self.service_of(id)
    hosts = service and service.value.hosts
    return hosts, id
end

-- The paths for a host, made when the first route comes.
local function paths_for(self, host)
    if byte(host, 1) ~= 42 then
        if not self.hosts[host] then
            self.hosts[host] = paths.new(self.guard)
        end
        return self.hosts[host]
    end
    local suffix = sub(host, 2)
    local node = self.wildcards:get(suffix) or self.wildcards:add(suffix, paths.new(self.guard))
    node.host = host
    return node.value
end

local function drop_if_empty(self, host, empty)
    if not host or empty.count > 0 then
        return
    elseif byte(host, 1) ~= 42 then
        self.hosts[host] = nil
    else
        self.wildcards:remove(sub(host, 2))
    end
end

-- A route's paths as they are written | nil, err
local function paths_of(value)
    local list = value.uris or {value.uri}
    if type(list) ~= "table" or #list == 0 then
        return nil, "a route without a path"
    end
    for _, path in ipairs(list) do
        if type(path) ~= "string" then
            return nil, "a path is not a string"
        end
    end
    return list
end

local function add_entry(self, route, path, index, host)
    local literal, check = parse_path(path, self.with_parameter)
    local entry = paths.entry(route, path, literal, check, index)
    local where = host and paths_for(self, host) or self.any_host
    where:add(entry)
    local n = #route
    route[n + 1], route[n + 2], route[n + 3] = entry, where, host or false
end

local function add_entries(self, route, list)
    for index, path in ipairs(list) do
        if not self.by_host or not route.given_hosts then
            add_entry(self, route, path, index)
        else
            local seen = {}
            for _, host in ipairs(route.given_hosts) do
                host = lower(host)
                if not seen[host] then
                    seen[host] = true
                    add_entry(self, route, path, index, host)
                end
            end
        end
    end
end

local function remove_entries(self, route)
    for i = 1, #route, 3 do
        local entry, where, host = route[i], route[i + 1], route[i + 2]
        where:remove(entry)
        drop_if_empty(self, host, where)
    end
end

local function watch_service(self, id, short_key)
    if id then
        self.by_service[id] = self.by_service[id] or {}
        self.by_service[id][short_key] = true
    end
end

local function unwatch_service(self, id, short_key)
    local set = id and self.by_service[id]
    if set then
        set[short_key] = nil
        if next(set) == nil then
            self.by_service[id] = nil
        end
    end
end

local function order_of(self, item, old)
    if item.order then
        return item.order
    elseif old then
        return old.order
    end
    self.last_order = self.last_order + 1
    return self.last_order
end

-- Most routes have neither: then there are no fields for them, as a table of four needs half the memory of one of five.
local function take_hosts(self, route, value)
    local hosts, service_id = hosts_of(self, value)
    if hosts then
        route.given_hosts = hosts
    end
    if service_id then
        route.service_id = service_id
    end
    if not self.by_host then
        routes.set_hosts(route, hosts)
    end
end

function Router:upsert(item)
    local value, short_key = item.value, tostring(item.short_key or item.value.id)
    local route, err = routes.compile(value)
    if not route then
        return nil, err
    end
    local list
    list, err = paths_of(value)
    if not list then
        return nil, err
    end
    route.item, route.order = item, order_of(self, item, self.routes[short_key])
    take_hosts(self, route, value)

    self:remove(short_key)
    self.routes[short_key] = route
    watch_service(self, route.service_id, short_key)
    if value.status ~= 0 then
        add_entries(self, route, list)
    end
    return true
end

function Router:remove(short_key)
    short_key = tostring(short_key)
    local route = self.routes[short_key]
    if route then
        remove_entries(self, route)
        unwatch_service(self, route.service_id, short_key)
        self.routes[short_key] = nil
    end
end

local function same_list(a, b)
    if a == nil or b == nil or #a ~= #b then
        return a == b
    end
    for i = 1, #a do
        if a[i] ~= b[i] then
            return false
        end
    end
    return true
end

-- A service came, went, or is another: the routes that take their hosts from it move.
function Router:service_changed(service_id)
    local moved = {}
    for short_key in pairs(self.by_service[tostring(service_id)] or {}) do
        local route = self.routes[short_key]
        if not same_list(route.given_hosts, (hosts_of(self, route.item.value))) then
            moved[#moved + 1] = route.item
        end
    end
    for _, item in ipairs(moved) do
        self:upsert(item)
    end
end

local function match_wildcard(node, req, matched)
    local item = node.value:match(req, matched)
    if item then
        matched._host = node.host
    end
    return item
end

-- The most likely way has no loop (router/paths.lua says why).
local function match_hosts(self, req, matched)
    local host = req.host
    local exact = self.hosts[host]
    if exact then
        local item = exact:match(req, matched)
        if item then
            matched._host = host
            return item
        end
    end
    local wildcards = self.wildcards
    local node = wildcards.count > 0 and wildcards:find(host, #host)
    if not node then
        return nil
    end
    return match_wildcard(node, req, matched) or wildcards:shorter(host, #node.key - 1, match_wildcard, req, matched)
end

function Router:match(req, matched)
    matched = matched or self.matched
    clear(matched)
    local item
    if self.by_host and req.host then
        item = match_hosts(self, req, matched)
    end
    item = item or self.any_host:match(req, matched)
    if not item then
        matched._host = nil -- of a candidate
        return nil, matched
    end
    matched._method = req.method
    return item, matched
end

return M
