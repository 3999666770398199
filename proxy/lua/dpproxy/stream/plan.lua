-- From the objects of the configuration to a plan (render.lua has its shape): which stream routes there are, in order, and which
-- upstream each has. An object that cannot be used is told of, and its connections are closed: a route that is in force must not
-- leave its clients to the next one. No ngx in here.
local fields = require("dpproxy.stream.fields")
local servers = require("dpproxy.stream.servers")
local sni = require("dpproxy.tls.sni")

local ipairs, pairs, type, tostring = ipairs, pairs, type, tostring

local M = {}

-- Plugins that only watch. Without any other a route would do what it was told not to: such routes are closed.
local function only_watches(name)
    return name == "prometheus" or name == "syslog" or name:find("%-logger$") ~= nil
end

local function unusable_plugin(plugins)
    local names = {}
    for name, conf in pairs(type(plugins) == "table" and plugins or {}) do
        local meta = type(conf) == "table" and conf._meta
        if not (type(meta) == "table" and meta.disable) and not only_watches(tostring(name)) then
            names[#names + 1] = tostring(name)
        end
    end
    table.sort(names)
    return names[1]
end

-- The order of spec 2.4: the route's upstream_id, the service under the route, the route's own upstream.
-- -> the item that has it, the upstream | nil, err
local function upstream_of(item, service, opts)
    local value = item.value
    if service and not value.upstream_id then
        if value.upstream then
            return item, value.upstream
        end
        item, value = service, service.value
    end
    if value.upstream_id then
        local id = tostring(value.upstream_id)
        local found = opts.get("upstreams", id)
        if not found then
            return nil, "failed to find upstream by id: " .. id
        end
        return found, found.value
    end
    if not value.upstream then
        return nil, "no upstream"
    end
    return item, value.upstream
end

local function service_of(value, opts)
    if not value.service_id then
        return nil
    end
    local service = opts.get("services", tostring(value.service_id))
    if not service then
        return nil, "failed to find service by id: " .. tostring(value.service_id)
    end
    return service
end

-- -> index of the block | 0, err
local function target_of(item, self)
    local value = item.value
    local service, err = service_of(value, self.opts)
    if err then
        return 0, err
    end
    local plugin = unusable_plugin(value.plugins) or service and unusable_plugin(service.value.plugins)
    if plugin then
        return 0, "plugin " .. plugin .. " is not there for streams"
    elseif value.protocol then
        return 0, "protocol " .. tostring(value.protocol.name) .. " is not there"
    end
    local owner, up = upstream_of(item, service, self.opts)
    if not owner then
        return 0, up
    end
    local known = self.by_owner[owner]
    if not known then
        local block, problem = servers.block(up, self.opts)
        known = {index = 0, problem = problem}
        if block then
            self.plan.upstreams[#self.plan.upstreams + 1] = block
            known.index = #self.plan.upstreams
        end
        self.by_owner[owner] = known
    end
    return known.index, known.problem
end

local function reject(self, item, reason)
    self.rejected[#self.rejected + 1] = {
        key = item.key, kind = item.kind, reason = reason, mod_revision = item.modifiedIndex,
    }
end

-- The matching part -> route | nil, err. The schema has looked at it; this is what nginx will see.
local function conditions_of(item)
    local value = item.value
    local route = {id = item.short_key}
    if value.server_port then
        route.port = fields.port(value.server_port)
        if not route.port then
            return nil, "invalid server_port"
        end
    end
    for name, field in pairs({remote_addr = "remote", server_addr = "server"}) do
        if value[name] then
            local network = fields.network(value[name])
            if not network then
                return nil, "invalid " .. name .. ": " .. tostring(value[name])
            end
            route[field] = network.text
        end
    end
    if value.sni then
        route.sni = fields.sni(value.sni)
        if not route.sni then
            return nil, "invalid sni: " .. tostring(value.sni)
        end
    end
    return route
end

local function add_route(self, item)
    local route, err = conditions_of(item)
    if not route then
        return reject(self, item, err)
    end
    route.target, err = target_of(item, self)
    if err then
        reject(self, item, err)
    end
    self.plan.routes[#self.plan.routes + 1] = route
end

-- Server names -> files. What asks for client certificates cannot be had here, so it is not served at all.
local function add_certificate(self, item)
    local value = item.value
    if value.status == 0 or (value.type or "server") ~= "server" then
        return
    end
    if value.client then
        return reject(self, item, "client certificates are not there for streams: no TLS stream for its names")
    end
    local names = {}
    for _, name in ipairs(sni.names_of(value)) do
        local good = fields.sni(name)
        if good and (good == "*" or good:sub(1, 1) ~= "*" or good:sub(1, 2) == "*.") then
            names[#names + 1] = good
        end
    end
    local file, err = self.opts.file_of(item)
    if not file then
        return reject(self, item, err)
    end
    if #names > 0 then
        self.plan.certificates[#self.plan.certificates + 1] = {names = names, file = file}
    end
end

-- opts: {routes = items in order, get = fn(kind, id) -> item, ssls = items (none without TLS), resolve = fn(domain) -> addresses,
--        discover = fn(upstream) -> nodes, file_of = fn(ssl item) -> name of the file that has its pair | nil, err}
-- -> plan, rejected, opts.domains: were there names to resolve
function M.make(opts)
    local self = {opts = opts, by_owner = {}, rejected = {}, plan = {routes = {}, upstreams = {}, certificates = {}}}
    for _, item in ipairs(opts.routes) do
        add_route(self, item)
    end
    if #self.plan.routes > 0 then
        for _, item in ipairs(opts.ssls) do
            add_certificate(self, item)
        end
    end
    return self.plan, self.rejected
end

return M
