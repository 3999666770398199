-- In the way of auth plugins from elsewhere.
local core = require("apisix.core")
local consumer_mod = require("apisix.consumer")

local plugin_name = "t-token"
local schema = {type = "object", properties = {}}
local consumer_schema = {
    type = "object",
    properties = {token = {type = "string"}},
    required = {"token"},
    encrypt_fields = {"token"},
}

local _M = {
    version = 0.1,
    priority = 2555,
    type = "auth",
    name = plugin_name,
    schema = schema,
    consumer_schema = consumer_schema,
}

function _M.check_schema(conf, schema_type)
    if schema_type == core.schema.TYPE_CONSUMER then
        return core.schema.check(consumer_schema, conf)
    end
    return core.schema.check(schema, conf)
end

function _M.rewrite(conf, ctx)
    local token = core.request.header(ctx, "X-Token")
    if not token then
        return 401, {message = "no token"}
    end
    local consumer_conf = consumer_mod.plugin(plugin_name)
    if not consumer_conf then
        return 401, {message = "Missing related consumer"}
    end
    local consumers = consumer_mod.consumers_kv(plugin_name, consumer_conf, "token")
    local consumer = consumers[token]
    if not consumer then
        return 401, {message = "wrong token"}
    end
    consumer_mod.attach_consumer(ctx, consumer, consumer_conf)
end

return _M
