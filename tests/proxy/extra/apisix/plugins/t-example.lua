-- A plugin as somebody would write it for APISIX: own upstream, metadata, attributes of config.yaml, a control API.
local ngx = ngx
local core = require("apisix.core")
local plugin = require("apisix.plugin")
local upstream = require("apisix.upstream")

local schema = {
    type = "object",
    properties = {
        i = {type = "number", minimum = 0},
        t = {type = "array", minItems = 1},
        ip = {type = "string"},
        port = {type = "integer"},
        greeting = {type = "string", default = "hello"},
    },
    required = {"i"},
}

local metadata_schema = {
    type = "object",
    properties = {ikey = {type = "number", minimum = 0}, skey = {type = "string"}},
    required = {"ikey", "skey"},
}

local plugin_name = "t-example"

local _M = {
    version = 0.1,
    priority = 0,
    name = plugin_name,
    schema = schema,
    metadata_schema = metadata_schema,
}

local attr_value = "none"

function _M.check_schema(conf, schema_type)
    if schema_type == core.schema.TYPE_METADATA then
        return core.schema.check(metadata_schema, conf)
    end
    return core.schema.check(schema, conf)
end

function _M.init()
    local attr = plugin.plugin_attr(plugin_name)
    if attr then
        attr_value = attr.val
    end
end

function _M.destroy()
    core.log.warn(plugin_name, " is destroyed")
end

function _M.rewrite(conf, ctx)
    core.request.set_header(ctx, "X-Conf", core.json.encode({
        type = ctx.conf_type, id = ctx.conf_id, greeting = conf.greeting, attr = attr_value,
    }))
    local metadata = plugin.plugin_metadata(plugin_name)
    if metadata then
        core.request.set_header(ctx, "X-Metadata", metadata.value.skey)
    end
end

function _M.access(conf, ctx)
    if not conf.ip then
        return
    end
    local up_conf = {
        type = "roundrobin",
        nodes = {{host = conf.ip, port = conf.port, weight = 1}},
    }
    local ok, err = upstream.check_schema(up_conf)
    if not ok then
        return 500, err
    end
    local matched_route = ctx.matched_route
    upstream.set(ctx, up_conf.type .. "#route_" .. matched_route.value.id, ctx.conf_version, up_conf)
end

function _M.header_filter(conf, ctx)
    core.response.set_header("X-Upstream", core.response.get_upstream_status(ctx), "X-Source",
        core.response.get_response_source(ctx))
end

function _M.log(conf, ctx)
    core.log.warn("t-example logs ", ctx.var.route_id, " ", ngx.status)
end

local function hello()
    local args = ngx.req.get_uri_args()
    if args["json"] then
        return 200, {msg = "world"}
    end
    return 200, "world\n"
end

function _M.control_api()
    return {{methods = {"GET"}, uris = {"/v1/plugin/t-example/hello"}, handler = hello}}
end

return _M
