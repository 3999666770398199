-- prometheus: counts requests, for the metrics port. The work is in dpproxy.metrics.
local core = require("apisix.core")
local plugin = require("apisix.plugin")
local export = require("dpproxy.metrics.export")
local label_map = require("dpproxy.metrics.http").metric_label_map

local ipairs, pairs = ipairs, pairs

local schema = {
    type = "object",
    properties = {
        prefer_name = {type = "boolean", default = false},
    },
}

-- These say what a series is; without them unlike things would be added up.
local structural = {http_status = "code", http_latency = "type", bandwidth = "type"}

local function disabled_labels_def()
    local properties = {}
    for metric, labels in pairs(label_map) do
        local names = {}
        for _, label in ipairs(labels) do
            if label ~= structural[metric] then
                names[#names + 1] = label
            end
        end
        properties[metric] = {type = "array", items = {type = "string", enum = names}}
    end
    return {type = "object", properties = properties, additionalProperties = false}
end

local metadata_schema = {
    type = "object",
    properties = {disabled_labels = disabled_labels_def()},
}

local M = {
    version = 0.2,
    priority = 500,
    name = "prometheus",
    schema = schema,
    metadata_schema = metadata_schema,
    run_policy = "prefer_route",
}

function M.check_schema(conf, schema_type)
    if schema_type == core.schema.TYPE_METADATA then
        return core.schema.check(metadata_schema, conf)
    end
    return core.schema.check(schema, conf)
end

function M.init()
    if ngx.get_phase() ~= "init" then
        export.start()
    end
end

function M.log(conf, ctx)
    local metadata = plugin.plugin_metadata("prometheus")
    export.log(conf, ctx, metadata and metadata.value and metadata.value.disabled_labels)
end

-- With public-api: the same text on the proxy's port.
function M.api()
    local attr = plugin.plugin_attr("prometheus") or {}
    if attr.enable_export_server ~= false then
        return {}
    end
    return {{
        methods = {"GET"},
        uri = attr.export_uri or "/apisix/prometheus/metrics",
        handler = function() return export.http() end,
    }}
end

return M
