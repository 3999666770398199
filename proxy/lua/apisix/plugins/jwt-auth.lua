-- jwt-auth: the client shows a signed token whose claim names the consumer's key.
local auth = require("dpproxy.plugin.auth")
local consumers = require("apisix.consumer")
local core = require("apisix.core")
local crypto = require("dpproxy.base.crypto")
local jwt = require("dpproxy.plugin.jwt")

local ngx = ngx
local setmetatable, type = setmetatable, type
local str_sub, str_match, str_gmatch = string.sub, string.match, string.gmatch

local name = "jwt-auth"

local schema = {
    type = "object",
    properties = auth.properties("jwt", {
        header = {type = "string", default = "authorization"},
        query = {type = "string", default = "jwt"},
        cookie = {type = "string", default = "jwt"},
        key_claim_name = {type = "string", default = "key", minLength = 1},
        store_in_ctx = {type = "boolean", default = false},
        claims_to_verify = {type = "array", items = {type = "string", enum = {"exp", "nbf"}}, uniqueItems = true},
    }),
}

local consumer_schema = {
    type = "object",
    properties = {
        key = {type = "string", minLength = 1},
        secret = {type = "string", minLength = 1},
        public_key = {type = "string", minLength = 1},
        algorithm = {
            type = "string",
            enum = {
                "HS256", "HS384", "HS512", "RS256", "RS384", "RS512", "ES256", "ES384", "ES512", "PS256", "PS384", "PS512",
                "EdDSA",
            },
            default = "HS256",
        },
        exp = {type = "integer", minimum = 1, default = 86400},
        base64_secret = {type = "boolean", default = false},
        lifetime_grace_period = {type = "integer", minimum = 0, default = 0},
    },
    encrypt_fields = {"secret"},
    required = {"key"},
}

local M = {
    version = 0.1,
    priority = 2510,
    type = "auth",
    name = name,
    schema = schema,
    consumer_schema = consumer_schema,
}

local function algorithm_of(credential)
    return credential.algorithm or "HS256"
end

local function uses_secret(credential)
    return str_sub(algorithm_of(credential), 1, 2) == "HS"
end

function M.check_schema(conf, schema_type)
    if schema_type ~= core.schema.TYPE_CONSUMER then
        return core.schema.check(schema, conf)
    end
    local ok, err = core.schema.check(consumer_schema, conf)
    if not ok then
        return false, err
    end
    if not uses_secret(conf) then
        if not conf.public_key then
            return false, "missing valid public key"
        end
        return true
    end
    if not conf.secret then
        return false, 'property "secret" is required when using HS based algorithms'
    end
    local reference = require("apisix.core.secret_ref").is_secret_ref(conf.secret)
    if conf.base64_secret and not reference and not crypto.decode_base64(conf.secret) then
        return false, "base64_secret required but the secret is not in base64 format"
    end
    return true
end

local function without_cookie(cookies, unwanted)
    local kept = {}
    for pair in str_gmatch(cookies, "[^;]+") do
        local cookie = str_match(pair, "^%s*(.-)%s*$")
        if str_match(cookie, "^([^=]*)") ~= unwanted then
            kept[#kept + 1] = cookie
        end
    end
    return kept[1] and core.table.concat(kept, "; ") or nil
end

-- Header, query, cookie, in this order. Hides what it finds.
local function fetch_token(conf, ctx)
    local token = core.request.header(ctx, conf.header)
    if token then
        if conf.hide_credentials then
            core.request.set_header(ctx, conf.header, nil)
        end
        return str_match(token, "^[Bb]earer (.*)$") or token
    end
    local args = core.request.get_uri_args(ctx)
    token = args[conf.query]
    if token then
        if conf.hide_credentials then
            args[conf.query] = nil
            core.request.set_uri_args(ctx, args)
        end
        return token
    end
    token = ctx.var["cookie_" .. conf.cookie]
    if token and conf.hide_credentials then
        core.request.set_header(ctx, "Cookie", without_cookie(ctx.var.http_cookie, conf.cookie))
    end
    return token
end

local parsed_keys = setmetatable({}, {__mode = "k"}) -- credential -> its public key, to keep that from being parsed again

local function verify(token, credential)
    local algorithm = algorithm_of(credential)
    if token.header.alg ~= algorithm then
        return nil, "algorithm mismatch, expected " .. algorithm
    end
    if not uses_secret(credential) then
        local ok, err, key = jwt.verify(token, algorithm, credential.public_key)
        parsed_keys[credential] = key
        return ok, err
    end
    local secret = credential.secret
    if credential.base64_secret then
        secret = crypto.decode_base64(secret)
    end
    if not secret or secret == "" then
        return nil, "no secret"
    end
    return jwt.verify(token, algorithm, secret)
end

local function find(conf, ctx)
    local text = fetch_token(conf, ctx)
    if not text then
        return nil, nil, "Missing JWT token in request"
    end
    local token, err = jwt.parse(text)
    if not token then
        return auth.deny(ctx, "JWT token invalid: " .. err, "JWT token invalid")
    end
    local key = token.payload[conf.key_claim_name]
    if not key then
        return nil, nil, "missing user key in JWT token"
    end
    local consumer, consumer_conf
    if type(key) == "string" then
        consumer, consumer_conf = consumers.find_consumer(name, "key", key)
    end
    if not consumer then
        return auth.deny(ctx, "failed to find consumer: invalid user key", "Invalid user key in JWT token")
    end
    local credential = consumer.auth_conf
    local ok
    ok, err = verify(token, credential)
    if ok then
        ok, err = jwt.check_times(token.payload, conf.claims_to_verify, ngx.time(), credential.lifetime_grace_period or 0)
    end
    if not ok then
        return auth.deny(ctx, "failed to verify jwt: " .. err, "failed to verify jwt")
    end
    if conf.store_in_ctx then
        ctx.jwt_auth_payload = token.payload
    end
    return consumer, consumer_conf
end

function M.rewrite(conf, ctx)
    return auth.finish(name, "Bearer", conf, ctx, find(conf, ctx))
end

return M
