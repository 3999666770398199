-- What the control API tells of the schemas in use (GET /v1/schema).
local kinds = require("dpproxy.schema.kinds")
local upstream = require("dpproxy.schema.upstream")

local pairs, package = pairs, package

local M = {}

local main = {
    consumer = kinds.consumers,
    consumer_group = kinds.consumer_groups,
    credential = kinds.credentials,
    global_rule = kinds.global_rules,
    graphql_cost_decoration = kinds.decorations,
    plugin_config = kinds.plugin_configs,
    plugins = kinds.plugins,
    proto = kinds.protos,
    route = kinds.routes,
    service = kinds.services,
    ssl = kinds.ssls,
    stream_route = kinds.stream_routes,
    upstream = kinds.upstreams,
    upstream_hash_header_schema = upstream.hash_keys.header,
    upstream_hash_vars_schema = upstream.hash_keys.vars,
}

-- plugins: by name; those that are loaded, if left out
function M.all(plugins)
    local loader = package.loaded["dpproxy.plugin.loader"]
    plugins = plugins or loader and loader.by_name or {}
    local described = {}
    for name, plugin in pairs(plugins) do
        described[name] = {
            version = plugin.version, priority = plugin.priority, type = plugin.type, scope = plugin.scope,
            schema = plugin.schema, metadata_schema = plugin.metadata_schema, consumer_schema = plugin.consumer_schema,
        }
    end
    return {main = main, plugins = described, stream_plugins = {}}
end

return M
