-- From a matched route to the server that a request goes to: which upstream, which node, what nginx is told (spec 4).
local core_response = require("apisix.core.response")
local lib = require("dpproxy.upstream")
local store = require("dpproxy.config.store")
local upstream_tls = require("dpproxy.http.upstream_tls")

local ngx = ngx
local ngx_var = ngx.var
local ngx_log, ERR = ngx.log, ngx.ERR
local tostring, tonumber = tostring, tonumber

local M = {}

local with_tls = {https = true, grpcs = true}

-- Which upstream: a plugin's choice, the route's upstream_id, its own upstream -> value, key, version | nil, status, message
function M.choose(ctx, conf)
    if ctx.upstream_conf then
        return ctx.upstream_conf, ctx.upstream_key, ctx.upstream_version
    end
    local id = ctx.upstream_id or conf.value.upstream_id
    if id then
        local item = store.get("upstreams", tostring(id))
        if not item then
            return nil, 502, "failed to find upstream by id: " .. tostring(id)
        end
        return item.value, item.key, item.modifiedIndex
    end
    local value = conf.value.upstream
    if not value then
        return nil, 503, "missing upstream configuration in Route or Service"
    end
    -- Pickers and health checks belong to the object that has the upstream: one for all routes of a service, and not made anew
    -- when something else of the route changes.
    local service = conf.service
    if service and value == service.value.upstream then
        return value, service.key, service.modifiedIndex
    elseif value == conf.route_upstream then
        return value, conf.key, conf.route_version
    end
    return value, conf.key, conf.version
end

-- Tells nginx the Host for a node. -> true when it is another one than before
function M.set_host(ctx, up, node)
    local host = lib.host_header(ctx, up, node)
    if host and host ~= ctx.var.upstream_host then
        ctx.var.upstream_host = host
        return true
    end
    return false
end

local function refuse(ctx, status, message)
    ngx_log(ERR, "route ", ctx.route_id, ", upstream ", ctx.upstream_key, ": ", message)
    return core_response.exit(status)
end

-- The first node is chosen here, where plugins still see it and where waiting is allowed; balancer.lua tells nginx.
function M.prepare(ctx, conf)
    local value, key, version = M.choose(ctx, conf)
    if not value then
        return refuse(ctx, key, version)
    end
    ctx.upstream_key, ctx.upstream_version = key, version
    local up, status, message = lib.resolve(ctx, value)
    if not up then
        return refuse(ctx, status, message)
    end
    ctx.matched_upstream, ctx.upstream_conf, ctx.dpproxy_up = value, value, up
    local scheme = ctx.upstream_scheme or up.scheme
    ctx.upstream_scheme = scheme
    if scheme ~= "http" then
        ctx.var.upstream_scheme = scheme
    end
    local node, err = lib.pick(ctx, up)
    if not node then
        return refuse(ctx, 502, err)
    end
    ctx.picked_server = node
    if up.pass_host ~= "pass" or ctx.pass_host then
        M.set_host(ctx, up, node)
    end
end

-- After before_proxy, when scheme and Host are final -> scheme
function M.finish(ctx)
    local scheme = ctx.upstream_scheme
    if with_tls[scheme] then
        local block, cert, key = upstream_tls.block(ctx, ctx.dpproxy_up)
        ngx_var.dpproxy_block = block
        if cert then
            ngx_var.upstream_certificate = cert
            ngx_var.upstream_certificate_key = key
        end
    end
    return scheme
end

-- Log phase.
function M.done(ctx)
    if ctx.dpproxy_up then
        -- What the last server said; a status that we made (502, 504) is reported by the failure behind it.
        local status = ctx.balancer_checker and ngx_var.upstream_status
        lib.done(ctx, status and tonumber(status:sub(-3)) or ngx.status)
        if ctx.dpproxy_tls_slot then
            upstream_tls.done(ctx)
        end
    end
end

return M
