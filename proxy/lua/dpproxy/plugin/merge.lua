-- What applies to a request: the route with its plugin config and service merged in, then the consumer and its group.
-- Later wins, by whole plugins and whole fields, never deeper:  service < plugin config < route < consumer group <
-- consumer. Results are cached for as long as the same objects go in: equal results are the same table, and other caches
-- can be keyed by it. No ngx in here.
local clone = require("table.clone")
local nkeys = require("table.nkeys")

local pairs, next, type, tostring = pairs, next, type, tostring
local getmetatable, setmetatable = getmetatable, setmetatable

local M = {}

local function weak_keys()
    return setmetatable({}, {__mode = "k"})
end

-- conf._meta.parent: which object a plugin's configuration came from. APISIX hides it in a metatable, so that it is never written
-- out as JSON.
local marked = weak_keys()

local function mark(conf, item)
    local parent = {resource_key = item.key, resource_version = tostring(item.modifiedIndex)}
    local meta = conf._meta
    if type(meta) ~= "table" then
        meta = {}
        conf._meta = meta
    end
    local old = getmetatable(meta)
    setmetatable(meta, {__jsontype = old and old.__jsontype or nil, __index = {parent = parent}})
end

function M.set_parent(plugins, item)
    if not plugins or marked[plugins] then
        return
    end
    marked[plugins] = true
    for _, conf in pairs(plugins) do
        if type(conf) == "table" and not (type(conf._meta) == "table" and conf._meta.parent) then
            mark(conf, item)
        end
    end
end

-- Fields that the route takes over from itself when it has a service; the rest is the service's, as in APISIX.
local function merge_service(route, plugins, service)
    local value = clone(service.value)
    local own = route.value
    value.service_id = service.value.id
    value.id = own.id

    local merged = value.plugins and clone(value.plugins) or nil
    for name, conf in pairs(plugins or {}) do
        merged = merged or {}
        merged[name] = conf
    end
    value.plugins = merged

    if own.upstream then
        value.upstream = own.upstream
        value.upstream_id = nil
    end
    if own.upstream_id then
        value.upstream_id = own.upstream_id
    end
    value.script = own.script or value.script
    value.timeout = own.timeout or value.timeout
    value.name = own.name
    value.hosts = own.hosts or value.hosts
    if not value.hosts and own.host then
        value.host = own.host
    end
    value.labels = own.labels or value.labels
    if own.enable_websocket ~= nil then
        value.enable_websocket = own.enable_websocket
    end
    return value
end

-- The plugin config fills in what the route lacks.
local function merge_plugin_config(route, plugin_config)
    local plugins = clone(plugin_config.value.plugins or {})
    for name, conf in pairs(route.value.plugins or {}) do
        plugins[name] = conf
    end
    return plugins
end

local function build(route, plugin_config, service)
    local own = route.value
    local value, plugins, version = own, own.plugins, route.modifiedIndex
    M.set_parent(own.plugins, route)
    if plugin_config then
        M.set_parent(plugin_config.value.plugins, plugin_config)
        plugins = merge_plugin_config(route, plugin_config)
        version = version .. "#" .. plugin_config.modifiedIndex
    end
    local conf = {
        key = route.key, createdIndex = route.createdIndex, modifiedIndex = version, kind = route.kind,
        short_key = route.short_key, type = "route", id = own.id, version = version,
        -- Not the route itself: a weak table whose value holds its key never lets go of it.
        route_upstream = own.upstream, route_version = route.modifiedIndex, plugin_config = plugin_config, service = service,
    }
    if service then
        M.set_parent(service.value.plugins, service)
        value = merge_service(route, plugins, service)
        conf.type = "route&service"
        conf.id = own.id .. "&" .. service.value.id
        conf.version = version .. "&" .. service.modifiedIndex
    elseif plugin_config then
        value = clone(own)
        value.plugins = plugins
    end
    conf.value = value
    return conf
end

local routes = weak_keys() -- route item -> conf

-- -> conf | nil, status, message
function M.route(route, store)
    local value = route.value
    local plugin_config, service
    if value.plugin_config_id then
        plugin_config = store.get("plugin_configs", tostring(value.plugin_config_id))
        if not plugin_config then
            return nil, 503, "failed to fetch plugin config by id: " .. value.plugin_config_id
        end
    end
    if value.service_id then
        service = store.get("services", tostring(value.service_id))
        if not service then
            return nil, 404, "failed to fetch service configuration by id: " .. value.service_id
        end
    end
    local conf = routes[route]
    if not conf or conf.plugin_config ~= plugin_config or conf.service ~= service then
        conf = build(route, plugin_config, service)
        routes[route] = conf
    end
    return conf
end

-- The consumer's plugins over the group's over the route's. `late`: those whose rewrite phase has not been run for the route. An
-- auth plugin's configuration in a consumer is its credential, no policy.
local function build_consumer(conf, consumer, group, is_auth)
    local route_plugins = conf.value.plugins or {}
    local plugins, late = clone(route_plugins), {}
    local function add(more)
        for name, plugin_conf in pairs(more or {}) do
            if not is_auth(name) then
                plugins[name] = plugin_conf
                if route_plugins[name] == nil then
                    late[name] = plugin_conf
                end
            end
        end
    end
    add(group and group.value.plugins)
    add(consumer.plugins)

    local merged = clone(conf)
    merged.value = clone(conf.value)
    merged.value.plugins = plugins
    merged.late = next(late) and {value = {plugins = late}} or nil
    return merged
end

local consumers = weak_keys() -- conf -> consumer -> {group =, conf =, type =, id =, version =}
local consumers_count, consumers_max = 0, 8192

-- is_auth(name) -> bool. -> {conf =, changed =, type =, id =, version =}; changed: plugins came from the consumer or its group,
-- and conf is there
function M.consumer(conf, consumer, group, is_auth)
    local by_consumer = consumers[conf]
    local entry = by_consumer and by_consumer[consumer]
    if entry and entry.group == group then
        return entry
    end
    if consumers_count >= consumers_max then
        consumers, consumers_count = weak_keys(), 0
        by_consumer = nil
    end
    if not by_consumer then
        by_consumer = weak_keys()
        consumers[conf] = by_consumer
    end
    consumers_count = consumers_count + 1

    local group_plugins = group and group.value.plugins
    local changed = consumer.plugins ~= nil and nkeys(consumer.plugins) > 0 or group_plugins ~= nil and nkeys(group_plugins) > 0
    if group then
        M.set_parent(group_plugins, group)
    end
    entry = {
        group = group,
        conf = changed and build_consumer(conf, consumer, group, is_auth) or nil,
        changed = changed,
        type = conf.type .. "&consumer" .. (group and "&consumer_group" or ""),
        id = conf.id .. "&" .. consumer.consumer_name .. (group and "&" .. group.value.id or ""),
        version = conf.version .. "&" .. consumer.version .. (group and "&" .. group.modifiedIndex or ""),
    }
    by_consumer[consumer] = entry
    return entry
end

-- All global rules as one set of plugins. A plugin that two of them have is dropped from both: duplicate(name) is told.
function M.global_rules(items, version, duplicate)
    local plugins, seen = {}, {}
    for i = 1, #items do
        local item = items[i]
        M.set_parent(item.value.plugins, item)
        for name, conf in pairs(item.value.plugins or {}) do
            if seen[name] then
                if plugins[name] ~= nil then
                    duplicate(name)
                end
                plugins[name] = nil
            else
                seen[name] = true
                plugins[name] = conf
            end
        end
    end
    return {
        key = "/apisix/global_rules/dummy", value = {id = 1, plugins = plugins}, createdIndex = version, modifiedIndex = version,
        type = "global_rule", id = 1, version = version,
    }
end

return M
