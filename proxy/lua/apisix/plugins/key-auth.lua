-- key-auth: the client shows a key in a header or in the query.
local auth = require("dpproxy.plugin.auth")
local consumers = require("apisix.consumer")
local core = require("apisix.core")

local name = "key-auth"

local schema = {
    type = "object",
    properties = auth.properties("key", {
        header = {type = "string", default = "apikey"},
        query = {type = "string", default = "apikey"},
    }),
}

local consumer_schema = {
    type = "object",
    properties = {key = {type = "string"}},
    encrypt_fields = {"key"},
    required = {"key"},
}

local M = {
    version = 0.1,
    priority = 2500,
    type = "auth",
    name = name,
    schema = schema,
    consumer_schema = consumer_schema,
    check_schema = auth.checker(schema, consumer_schema),
}

local function hide_header(conf, ctx)
    core.request.set_header(ctx, conf.header, nil)
end

local function hide_query(conf, ctx)
    local args = core.request.get_uri_args(ctx)
    if args[conf.query] ~= nil then
        args[conf.query] = nil
        core.request.set_uri_args(ctx, args)
    end
end

local function find(conf, ctx)
    local key = core.request.header(ctx, conf.header)
    local hide = hide_header
    if not key then
        key = core.request.get_uri_args(ctx)[conf.query]
        hide = hide_query
    end
    if not key then
        return nil, nil, "Missing API key in request"
    end
    local consumer, consumer_conf, err = consumers.find_consumer(name, "key", key)
    if not consumer then
        return auth.deny(ctx, "failed to find consumer: " .. (err or "invalid api key"), "Invalid API key in request")
    end
    if conf.hide_credentials then
        hide(conf, ctx)
    end
    return consumer, consumer_conf
end

function M.rewrite(conf, ctx)
    local consumer, consumer_conf, message = find(conf, ctx)
    if not consumer and conf.anonymous_consumer and conf.hide_credentials then
        -- A wrong key is no business of the upstream's either, and it may be in both places.
        hide_header(conf, ctx)
        hide_query(conf, ctx)
    end
    return auth.finish(name, "apikey", conf, ctx, consumer, consumer_conf, message)
end

return M
