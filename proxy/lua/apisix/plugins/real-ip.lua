-- real-ip: takes the client's address from a header or another variable, when the peer is trusted.
--
-- nginx' own idea of the connection stays (its access log, allow and deny): what changes is what routes' plugins see, and what
-- upstreams are told.
local addresses = require("dpproxy.plugin.addresses")
local core = require("apisix.core")

local type = type

local schema = {
    type = "object",
    properties = {
        trusted_addresses = {type = "array", items = {anyOf = core.schema.ip_def}, minItems = 1},
        source = {type = "string", minLength = 1},
        recursive = {type = "boolean", default = false},
    },
    required = {"source"},
}

local M = {
    version = 0.1,
    priority = 23000,
    name = "real-ip",
    schema = schema,
}

function M.check_schema(conf)
    local ok, err = core.schema.check(schema, conf)
    if not ok then
        return false, err
    end
    if conf.trusted_addresses then
        return addresses.check(conf.trusted_addresses)
    end
    return true
end

local function is_trusted(conf, address)
    return addresses.match(conf.trusted_addresses, address) or false
end

-- X-Forwarded-For: each proxy adds the address that it saw at the end.
local function from_forwarded_for(conf, ctx)
    local header = core.request.headers(ctx)["X-Forwarded-For"]
    if type(header) == "table" then
        header = header[#header]
    end
    if not header then
        return nil
    end
    local listed = {}
    for address in header:gmatch("[^,%s]+") do
        listed[#listed + 1] = address
    end
    local last = #listed
    if conf.recursive and conf.trusted_addresses then
        while last > 1 and is_trusted(conf, listed[last]) do
            last = last - 1
        end
    end
    return listed[last]
end

-- "1.2.3.4", "1.2.3.4:80", "::1", "[::1]:80" -> address, port | nil
local function parse(text)
    local host, port = core.utils.parse_addr(text)
    if not host or not (core.utils.parse_ipv4(host) or core.utils.parse_ipv6(host)) then
        return nil
    end
    if port and (port < 1 or port > 65535) then
        return nil
    end
    return host:match("^%[(.*)%]$") or host, port
end

function M.rewrite(conf, ctx)
    local peer = ctx.var.remote_addr
    if conf.trusted_addresses and not is_trusted(conf, peer) then
        return
    end
    local text
    if conf.source == "http_x_forwarded_for" then
        text = from_forwarded_for(conf, ctx)
    else
        text = ctx.var[conf.source]
    end
    if not text then
        core.log.warn("missing real address")
        return
    end
    local address, port = parse(tostring(text))
    if not address then
        core.log.warn("bad address: ", text)
        return
    end
    if not ctx.var.realip_remote_addr then
        ctx.var.realip_remote_addr = peer
    end
    ctx.var.realip_remote_port = ctx.var.remote_port
    ctx.var.remote_addr = address
    ctx.var.remote_port = port and tostring(port) or ""
    ngx.var.dpproxy_real_ip = address
    local forwarded = ngx.var.http_x_forwarded_for
    ngx.var.dpproxy_forwarded_for = forwarded and forwarded ~= "" and forwarded .. ", " .. address or address
end

return M
