-- basic-auth: user name and password as in RFC 7617, with APISIX' leniencies.
local auth = require("dpproxy.plugin.auth")
local consumers = require("apisix.consumer")
local core = require("apisix.core")
local crypto = require("dpproxy.base.crypto")

local str_match, str_gsub = string.match, string.gsub

local name = "basic-auth"

local schema = {
    type = "object",
    title = "work with route or service object",
    properties = auth.properties("basic", {}),
}

local consumer_schema = {
    type = "object",
    title = "work with consumer object",
    properties = {username = {type = "string"}, password = {type = "string"}},
    encrypt_fields = {"password"},
    required = {"username", "password"},
}

local M = {
    version = 0.1,
    priority = 2520,
    type = "auth",
    name = name,
    schema = schema,
    consumer_schema = consumer_schema,
    check_schema = auth.checker(schema, consumer_schema),
}

-- -> user name, password | nil, nil, err. White space is dropped; the password ends at a second colon.
local function parse(header)
    local encoded = str_match(header, "[Bb][Aa][Ss][Ii][Cc]%s([^\n]+)")
    if not encoded then
        return nil, nil, "Invalid authorization header format"
    end
    local text = crypto.decode_base64(encoded)
    if not text then
        return nil, nil, "Failed to decode authentication header"
    end
    local user, password = str_match(text, "^([^:]*):([^:]*)")
    if not user then
        return nil, nil, "Split authorization err: invalid decoded data"
    end
    return (str_gsub(user, "%s+", "")), (str_gsub(password, "%s+", ""))
end

local function find(ctx)
    local header = core.request.header(ctx, "Authorization")
    if not header then
        return nil, nil, "Missing authorization in request"
    end
    local user, password, err = parse(header)
    if err then
        return auth.deny(ctx, err, "Invalid authorization in request")
    end
    local consumer, consumer_conf
    consumer, consumer_conf, err = consumers.find_consumer(name, "username", user)
    if not consumer then
        return auth.deny(ctx, "failed to find user: " .. (err or "invalid user"), "Invalid user authorization")
    end
    if not crypto.equal(consumer.auth_conf.password, password) then
        return nil, nil, "Invalid user authorization"
    end
    return consumer, consumer_conf
end

function M.rewrite(conf, ctx)
    local consumer, consumer_conf, message = find(ctx)
    if conf.hide_credentials and (consumer or conf.anonymous_consumer) then
        core.request.set_header(ctx, "Authorization", nil)
    end
    return auth.finish(name, "Basic", conf, ctx, consumer, consumer_conf, message)
end

return M
