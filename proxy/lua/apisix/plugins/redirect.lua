-- redirect: answers with a Location, to https or to another URI.
local core = require("apisix.core")
local plugin = require("apisix.plugin")
local is_reference = require("apisix.core.secret_ref").is_secret_ref

local type = type
local find, sub = string.find, string.sub

-- \$escaped, ${name}, $name, other text
local template_pattern = [[(\\\$[0-9a-zA-Z_]+)|\$\{([0-9a-zA-Z_]+)\}|\$([0-9a-zA-Z_]+)|(\$|[^$\\]+)]]

local schema = {
    type = "object",
    properties = {
        ret_code = {type = "integer", minimum = 200, default = 302},
        uri = {type = "string", minLength = 2, pattern = template_pattern},
        regex_uri = {type = "array", maxItems = 2, minItems = 2, items = {type = "string"}},
        http_to_https = {type = "boolean"},
        encode_uri = {type = "boolean", default = false},
        append_query_string = {type = "boolean", default = false},
    },
    oneOf = {
        {required = {"uri"}},
        {required = {"regex_uri"}},
        {required = {"http_to_https"}},
    },
}

local M = {
    version = 0.1,
    priority = 900,
    name = "redirect",
    schema = schema,
}

function M.check_schema(conf)
    local ok, err = core.schema.check(schema, conf)
    if not ok then
        return false, err
    end
    if conf.regex_uri and not is_reference(conf.regex_uri[1]) then
        local pattern, replacement = conf.regex_uri[1], conf.regex_uri[2]
        local _, _, bad = ngx.re.sub("/fake_uri", pattern, is_reference(replacement) and "" or replacement, "jo")
        if bad then
            return false, "invalid regex_uri (" .. pattern .. ", " .. replacement .. "), err:" .. bad
        end
    end
    if conf.http_to_https and conf.append_query_string then
        return false, "only one of `http_to_https` and `append_query_string` can be configured."
    end
    return true
end

local resolving

local function resolve_part(m)
    -- A group that took no part is false or nil.
    local name = m[2] or m[3]
    if name and name ~= "" then
        local value = resolving[name]
        return value == nil and "" or tostring(value)
    end
    return m[0]
end

local function resolve(template, ctx)
    resolving = ctx.var
    local text, _, err = ngx.re.gsub(template, template_pattern, resolve_part, "jo")
    resolving = nil
    return text, err
end

-- The port that the Location shows: the attribute's, else one of those that listen for https.
local function https_port()
    local attr = plugin.plugin_attr("redirect")
    if attr and attr.https_port then
        return attr.https_port
    end
    local conf = core.config.local_conf()
    local ssl = conf and conf.apisix and conf.apisix.ssl
    local listen = ssl and ssl.enable and ssl.listen
    if not listen or #listen == 0 then
        return nil
    end
    local chosen = listen[math.random(1, #listen)]
    return type(chosen) == "table" and chosen.port or chosen
end

local function to_https(ctx)
    local port = https_port()
    if not port or port == 443 or port <= 0 or port > 65535 then
        port = ""
    else
        port = ":" .. port
    end
    local method = ctx.var.request_method
    -- 308 keeps the method and the body.
    local code = (method == "GET" or method == "HEAD") and 301 or 308
    return code, "https://" .. ctx.var.host .. port .. ctx.var.request_uri
end

local function location_of(conf, ctx)
    if conf.uri then
        return resolve(conf.uri, ctx)
    end
    if not conf.regex_uri then
        return false
    end
    local uri, n, err = ngx.re.sub(ctx.var.uri, conf.regex_uri[1], conf.regex_uri[2], "jo")
    if not uri then
        return nil, err
    end
    return n > 0 and uri
end

local function finish(conf, ctx, location)
    local query = find(location, "?", 1, true)
    if conf.encode_uri then
        location = query and core.utils.uri_safe_encode(sub(location, 1, query - 1)) .. sub(location, query)
            or core.utils.uri_safe_encode(location)
    end
    if conf.append_query_string and ctx.var.is_args == "?" then
        location = location .. (query and "&" or "?") .. (ctx.var.args or "")
    end
    return location
end

function M.rewrite(conf, ctx)
    local code, location = conf.ret_code
    local scheme = core.request.header(ctx, "X-Forwarded-Proto") or core.request.get_scheme(ctx)
    if conf.http_to_https and scheme ~= "https" then
        code, location = to_https(ctx)
    else
        local err
        location, err = location_of(conf, ctx)
        if location == nil then
            core.log.error("failed to make the new uri of ", ctx.var.uri, ": ", err)
            return 500
        end
    end
    if not location then
        return
    end
    core.response.set_header("Location", finish(conf, ctx, location))
    return code
end

return M
