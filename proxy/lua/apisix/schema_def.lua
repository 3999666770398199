-- Schemas that plugins share: dpproxy.schema's under APISIX' names.
local defs = require("dpproxy.schema.defs")
local kinds = require("dpproxy.schema.kinds")

local M = {
    id_schema = defs.id,
    host_def = defs.host,
    host_def_pat = defs.host_pattern,
    ip_def = defs.ip,
    uri_def = defs.uri,
    method_schema = defs.method,
    plugins_schema = defs.plugins,
    timeout_def = defs.timeout,
    upstream = kinds.upstreams,
    route = kinds.routes,
    service = kinds.services,
    consumer = kinds.consumers,
    credential = kinds.credentials,
    consumer_group = kinds.consumer_groups,
    plugin_config = kinds.plugin_configs,
    global_rule = kinds.global_rules,
    ssl = kinds.ssls,
    proto = kinds.protos,
    stream_route = kinds.stream_routes,
    anonymous_consumer_schema = {type = "string", minLength = 1},
}

-- Printable ASCII without quotes and backslashes: it goes into a header between quotes.
function M.get_realm_schema(default)
    return {
        type = "string",
        pattern = [[^[\x20-\x21\x23-\x5B\x5D-\x7E]+$]],
        default = default,
        minLength = 1,
        maxLength = 128,
    }
end

return M
