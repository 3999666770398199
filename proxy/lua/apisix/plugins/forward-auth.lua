-- forward-auth: asks another server whether a request may go on.
local core = require("apisix.core")
local http = require("resty.http")

local ipairs, pairs = ipairs, pairs

local names_def = {type = "array", items = {type = "string"}, default = {}}

local schema = {
    type = "object",
    properties = {
        uri = {type = "string"},
        allow_degradation = {type = "boolean", default = false},
        status_on_error = {type = "integer", minimum = 200, maximum = 599, default = 403},
        ssl_verify = {type = "boolean", default = true},
        request_method = {type = "string", default = "GET", enum = {"GET", "POST"}},
        request_headers = names_def,
        extra_headers = {type = "object", minProperties = 1, patternProperties = {["^[^:]+$"] = {type = "string"}}},
        upstream_headers = names_def,
        client_headers = names_def,
        timeout = {type = "integer", minimum = 1, maximum = 60000, default = 3000},
        keepalive = {type = "boolean", default = true},
        keepalive_timeout = {type = "integer", minimum = 1000, default = 60000},
        keepalive_pool = {type = "integer", minimum = 1, default = 5},
        max_req_body_bytes = {type = "integer", minimum = 1, default = 67108864},
        max_resp_body_bytes = {type = "integer", minimum = 1, default = 1048576},
    },
    required = {"uri"},
}

local M = {
    version = 0.1,
    priority = 2002,
    name = "forward-auth",
    schema = schema,
}

function M.check_schema(conf)
    local ok, err = core.schema.check(schema, conf)
    if not ok then
        return false, err
    end
    local parsed
    parsed, err = http.parse_uri(nil, conf.uri)
    if not parsed then
        return false, err
    end
    return true
end

local function headers_for(conf, ctx)
    local headers = {
        ["X-Forwarded-Proto"] = core.request.get_scheme(ctx),
        ["X-Forwarded-Method"] = core.request.get_method(),
        ["X-Forwarded-Host"] = core.request.get_host(ctx),
        ["X-Forwarded-Uri"] = ctx.var.request_uri,
        ["X-Forwarded-For"] = core.request.get_remote_client_ip(ctx),
    }
    for name, value in pairs(conf.extra_headers or {}) do
        headers[name] = core.utils.resolve_var(value, ctx.var)
    end
    for _, name in ipairs(conf.request_headers) do
        if not headers[name] then
            headers[name] = core.request.header(ctx, name)
        end
    end
    return headers
end

local function ask(conf, ctx)
    local params = {
        method = conf.request_method, headers = headers_for(conf, ctx), ssl_verify = conf.ssl_verify, keepalive = conf.keepalive,
        keepalive_timeout = conf.keepalive_timeout, keepalive_pool = conf.keepalive_pool, max_body = conf.max_resp_body_bytes,
    }
    if conf.request_method == "POST" then
        local body, err = core.request.get_body(conf.max_req_body_bytes, ctx)
        if err then
            return nil, err
        end
        params.body = body
        params.headers["Content-Type"] = core.request.header(ctx, "Content-Type")
        params.headers["Content-Encoding"] = core.request.header(ctx, "Content-Encoding")
    end
    local client, err = http.new()
    if not client then
        return nil, err
    end
    client:set_timeout(conf.timeout)
    return client:request_uri(conf.uri, params)
end

function M.access(conf, ctx)
    local answer, err = ask(conf, ctx)
    if not answer then
        core.log.warn("failed to process forward auth, err: ", err)
        if conf.allow_degradation then
            return
        end
        return conf.status_on_error
    end
    if answer.status >= 300 then
        for _, name in ipairs(conf.client_headers) do
            core.response.set_header(name, answer.headers[name])
        end
        return answer.status, answer.body
    end
    -- What the server did not say, the client shall not say instead.
    for _, name in ipairs(conf.upstream_headers) do
        core.request.set_header(ctx, name, answer.headers[name])
    end
end

return M
