-- X-Forwarded-*: what we see ourselves, unless the peer is in apisix.trusted_addresses (spec 4.3). nginx.conf sends our own
-- values to the upstream; here a client's headers are put right, because plugins read them, and a trusted peer's go on.
local ipmatch = require("dpproxy.router.ipmatch")

local ngx = ngx
local ngx_var = ngx.var
local set_header, clear_header, get_headers = ngx.req.set_header, ngx.req.clear_header, ngx.req.get_headers

local M = {}

local trusted

function M.init(conf)
    local list = conf.apisix.trusted_addresses
    trusted = nil
    if list and #list > 0 then
        trusted = assert(ipmatch.new(list))
    end
end

local function text_of(header)
    return type(header) == "table" and table.concat(header, ", ") or header
end

local function go_on(proto, host, port)
    if proto then
        ngx_var.var_x_forwarded_proto = proto
    end
    if host then
        ngx_var.var_x_forwarded_host = host
    end
    if port then
        ngx_var.var_x_forwarded_port = port
    end
    ngx_var.dpproxy_forwarded = text_of(get_headers(0)["forwarded"]) or ""
end

-- Must it be done before the route is known? nginx overwrites the headers anyway: otherwise only plugins would see a difference.
function M.is_early()
    return trusted ~= nil
end

function M.check()
    local proto, host, port = ngx_var.http_x_forwarded_proto, ngx_var.http_x_forwarded_host, ngx_var.http_x_forwarded_port
    if trusted then
        if trusted:match(ngx_var.realip_remote_addr) then
            return go_on(proto, host, port)
        end
        -- Whoever is not trusted has not spoken for others: the list starts with it.
        clear_header("X-Forwarded-For")
        ngx_var.dpproxy_forwarded_for = ngx_var.remote_addr
    end
    if proto then
        set_header("X-Forwarded-Proto", ngx_var.scheme)
    end
    if host then
        set_header("X-Forwarded-Host", ngx_var.host)
    end
    if port then
        set_header("X-Forwarded-Port", ngx_var.server_port)
    end
end

return M
