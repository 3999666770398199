-- proxy-mirror: sends a copy of requests to another server, whose answers are thrown away.
local core = require("apisix.core")

local schema = {
    type = "object",
    properties = {
        host = {type = "string", pattern = [=[^http(s)?:\/\/([\da-zA-Z.-]+|\[[\da-fA-F:]+\])(:\d+)?$]=]},
        path = {type = "string", pattern = [[^/[^?&]+$]]},
        path_concat_mode = {type = "string", default = "replace", enum = {"replace", "prefix"}},
        sample_ratio = {type = "number", minimum = 0.00001, maximum = 1, default = 1},
    },
    required = {"host"},
}

local M = {
    version = 0.1,
    priority = 1010,
    name = "proxy-mirror",
    schema = schema,
}

function M.check_schema(conf)
    return core.schema.check(schema, conf)
end

-- "http://name:8080" -> "http://10.0.0.1:8080", "name:8080" | nil, err
local function resolve(url)
    local scheme, host, port = url:match("^(https?)://(%[[%x:]+%])(:?%d*)$")
    if not scheme then
        scheme, host, port = url:match("^(https?)://([%w.-]+)(:?%d*)$")
    end
    local address = host
    if host:sub(1, 1) ~= "[" and not core.utils.parse_ipv4(host) then
        local err
        address, err = core.resolver.parse_domain(host)
        if not address then
            return nil, "cannot resolve " .. host .. ": " .. (err or "")
        end
    end
    return scheme .. "://" .. address .. port, host .. port
end

local function path_of(conf, ctx)
    local query = ctx.var.is_args == "?" and "?" .. (ctx.var.args or "") or ""
    if conf.path and conf.path_concat_mode == "replace" then
        return conf.path .. query
    end
    local uri = ctx.var.upstream_uri
    if not uri or uri == "" then
        -- $uri is decoded: as it stands it could end the request line.
        uri = core.utils.uri_safe_encode(ctx.var.uri) .. query
    end
    return (conf.path or "") .. uri
end

function M.rewrite(conf, ctx)
    if conf.sample_ratio < 1 and math.random() >= conf.sample_ratio then
        return
    end
    local url, host = resolve(conf.host)
    if not url then
        core.log.error("proxy-mirror: ", host)
        return
    end
    ctx.var.upstream_mirror_host = host
    ctx.var.upstream_mirror_uri = url .. path_of(conf, ctx)
end

return M
