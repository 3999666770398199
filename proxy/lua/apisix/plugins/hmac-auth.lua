-- hmac-auth: the client signs the request line and some headers with a secret that both know:
--   Authorization: Signature keyId="…",algorithm="hmac-sha256",headers="@request-target date",signature="<base64>"
local auth = require("dpproxy.plugin.auth")
local consumers = require("apisix.consumer")
local core = require("apisix.core")
local crypto = require("dpproxy.base.crypto")

local ngx = ngx
local ipairs = ipairs
local abs = math.abs
local str_match, str_gmatch, str_sub = string.match, string.gmatch, string.sub

local name = "hmac-auth"

local digests = {["hmac-sha1"] = "sha1", ["hmac-sha256"] = "sha256", ["hmac-sha512"] = "sha512"}
local algorithms = {"hmac-sha1", "hmac-sha256", "hmac-sha512"}

local schema = {
    type = "object",
    title = "work with route or service object",
    properties = auth.properties("hmac", {
        allowed_algorithms = {
            type = "array", minItems = 1, items = {type = "string", enum = algorithms}, default = algorithms,
        },
        clock_skew = {type = "integer", default = 300, minimum = 1},
        signed_headers = {type = "array", default = {"date"}, items = {type = "string", minLength = 1, maxLength = 50}},
        validate_request_body = {type = "boolean", default = false},
        max_req_body_size = {type = "integer", minimum = 1, default = 67108864},
    }),
}

local consumer_schema = {
    type = "object",
    title = "work with consumer object",
    properties = {
        key_id = {type = "string", minLength = 1, maxLength = 256},
        secret_key = {type = "string", minLength = 1, maxLength = 256},
    },
    encrypt_fields = {"secret_key"},
    required = {"key_id", "secret_key"},
}

local M = {
    version = 0.1,
    priority = 2530,
    type = "auth",
    name = name,
    schema = schema,
    consumer_schema = consumer_schema,
    check_schema = auth.checker(schema, consumer_schema),
}

local function split_headers(text)
    local headers = {}
    for header in str_gmatch(text, "[^ ]+") do
        headers[#headers + 1] = header
    end
    return headers
end

-- -> {keyId =, algorithm =, signature =, headers = array} | nil, err
local function parse(ctx)
    local text = core.request.header(ctx, "Authorization")
    if not text then
        return nil, "missing Authorization header"
    end
    if str_sub(text, 1, 9) ~= "Signature" then
        return nil, "Authorization header does not start with 'Signature'"
    end
    local params = {headers = {}}
    for field in str_gmatch(str_sub(text, 10), "[^,]+") do
        local key, value = str_match(field, '%s*(%w+)="(.-)"')
        if key == "headers" then
            params.headers = split_headers(value)
        elseif key == "keyId" or key == "algorithm" or key == "signature" then
            params[key] = value
        end
    end
    return params
end

local function signed_text(ctx, params)
    local lines = {params.keyId}
    for _, header in ipairs(params.headers) do
        local value = core.request.header(ctx, header)
        if value then
            lines[#lines + 1] = header .. ": " .. value
        elseif header == "@request-target" then
            local uri = ctx.var.request_uri
            lines[#lines + 1] = core.request.get_method() .. " " .. (uri == "" and "/" or uri)
        end
    end
    return core.table.concat(lines, "\n") .. "\n"
end

local function check_clock(conf, ctx)
    local date = core.request.header(ctx, "Date")
    if not date then
        return nil, "Date header missing. failed to validate clock skew"
    end
    local time = ngx.parse_http_time(date)
    if not time then
        return nil, "Invalid GMT format time"
    end
    if abs(ngx.time() - time) > conf.clock_skew then
        return nil, "Clock skew exceeded"
    end
    return true
end

local function check_body(conf, ctx)
    local digest = core.request.header(ctx, "Digest")
    if not digest then
        return nil, "Invalid digest"
    end
    local body, err = core.request.get_body(conf.max_req_body_size, ctx)
    if err then
        core.log.error("failed to read request body: ", err)
        return nil, err, 413
    end
    if not crypto.equal(digest, "SHA-256=" .. crypto.encode_base64(crypto.sha256(body or ""))) then
        return nil, "Invalid digest"
    end
    return true
end

-- -> true | nil, err, status
local function check(conf, ctx, params, credential)
    if not core.table.array_find(conf.allowed_algorithms, params.algorithm) then
        return nil, "Invalid algorithm"
    end
    local ok, err = check_clock(conf, ctx)
    if not ok then
        return nil, err
    end
    for _, header in ipairs(conf.signed_headers) do
        if not core.table.array_find(params.headers, header) then
            return nil, 'expected header "' .. header .. '" missing in signing'
        end
    end
    local expected = crypto.hmac(digests[params.algorithm], credential.secret_key, signed_text(ctx, params))
    local shown = crypto.decode_base64(params.signature)
    if not expected or not shown or not crypto.equal(expected, shown) then
        return nil, "Invalid signature"
    end
    if conf.validate_request_body then
        return check_body(conf, ctx)
    end
    return true
end

-- -> consumer, consumer_conf | nil, nil, message, status
local function find(conf, ctx)
    local params, err = parse(ctx)
    if not params then
        err = "client request can't be validated: " .. err
        return auth.deny(ctx, err, err)
    end
    local reason, status
    if not params.keyId or not params.signature then
        reason = "keyId or signature missing"
    elseif not params.algorithm then
        reason = "algorithm missing"
    else
        local consumer, consumer_conf = consumers.find_consumer(name, "key_id", params.keyId)
        if not consumer then
            reason = "Invalid key_id"
        else
            local ok
            ok, reason, status = check(conf, ctx, params, consumer.auth_conf)
            if ok then
                return consumer, consumer_conf
            end
        end
    end
    if status then
        return nil, nil, reason, status
    end
    return auth.deny(ctx, "client request can't be validated: " .. reason, "client request can't be validated")
end

function M.rewrite(conf, ctx)
    local consumer, consumer_conf, message, status = find(conf, ctx)
    if status then
        return status, {message = message}
    end
    if conf.hide_credentials and (consumer or conf.anonymous_consumer) then
        core.request.set_header(ctx, "Authorization", nil)
    end
    return auth.finish(name, "hmac", conf, ctx, consumer, consumer_conf, message)
end

return M
