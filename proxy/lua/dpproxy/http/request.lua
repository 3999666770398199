-- The access phase: from a request to the upstream it goes to (docs/internals/proxy.md, "The request, phase by phase").
local body_filters = require("dpproxy.http.body_filters")
local context = require("dpproxy.http.context")
local core_response = require("apisix.core.response")
local forwarded = require("dpproxy.http.forwarded")
local merge = require("dpproxy.plugin.merge")
local plain = require("dpproxy.http.plain")
local routes = require("dpproxy.http.routes")
local runtime = require("dpproxy.plugin.runtime")
local store = require("dpproxy.config.store")
local tls = require("dpproxy.tls")
local upstream = require("dpproxy.http.upstream")
local uri = require("dpproxy.http.uri")

local ngx = ngx
local ngx_var = ngx.var
local ngx_exec, ngx_log, ngx_now, ERR = ngx.exec, ngx.log, ngx.now, ngx.ERR
local get_method = ngx.req.get_method

local M = {}

local rewrites_uri

function M.init(conf)
    rewrites_uri = uri.init(conf)
    forwarded.init(conf)
end

local no_route = {error_msg = "404 Route Not Found"}
local no_configuration = {error_msg = "no configuration yet"}

-- resty.core's function for a variable ends in a tail call, with which LuaJIT compiles it only as a part of a caller. Whatever
-- becomes hot first is tried first, and what fails too often takes its callers with it: so it has one caller, called as often.
local function variable(name)
    local value = ngx_var[name]
    return value
end

-- Reused: nothing yields between filling it and the match. Most routes ask for neither of these two.
local req = setmetatable({}, {__index = function(_, name)
    if name == "http_host" then
        return ngx_var.http_host
    elseif name == "remote_addr" then
        return ngx_var.remote_addr
    end
end})

local function match_path(path, vars, matched)
    req.uri, req.host, req.http_host, req.remote_addr = path, variable("host"), nil, nil
    req.method, req.vars = get_method(), vars
    return (routes.match(req, matched))
end

local function match(ctx)
    local matched = ctx.dpproxy_tables.matched
    ctx.curr_req_matched = matched
    return match_path(uri.for_match(ctx), ctx.var, matched)
end

local function new_ctx()
    local ctx = context.take()
    ngx.ctx.api_ctx = ctx
    return ctx
end

-- Before anybody else has looked at ngx.ctx.
local function first_ctx()
    local ctx = context.take()
    local ngx_ctx = ctx.dpproxy_tables.ngx_ctx
    ngx_ctx.api_ctx = ctx
    ngx.ctx = ngx_ctx
    return ctx
end

-- May way() look for the route already? Not where the path is another one than nginx', or where headers or a handshake decide.
local function may_look()
    return not (rewrites_uri or uri.keeps_encoded_slash() or forwarded.is_early() or tls.mutual or routes.look_at_headers())
end

local refreshed -- when we last looked for changes

-- At most once for each of nginx' milliseconds: the look is a call with a lock, and requests come by the dozen in one.
local function refresh()
    local now = ngx_now()
    if now ~= refreshed then
        refreshed = now
        store.refresh()
    end
end

local spare_matched = {} -- for requests whose match nobody reads; changes places with a ctx's own

-- nginx' rewrite phase: must the request go the whole way? -> "" when it needs nothing but a node (plain.lua), else "1". What was
-- found so far is left for access() in the ctx. Nothing here may yield.
function M.way()
    refresh()
    if not may_look() then
        return "1"
    end
    local matched = spare_matched
    local item = match_path(variable("uri"), nil, matched)
    local shared = item and plain.of(item)
    if shared then
        ngx.ctx = shared
        local host = shared.dpproxy_plan.host
        if host then
            ngx_var.upstream_host = host
        end
        return ""
    end
    local ctx = first_ctx()
    local tables = ctx.dpproxy_tables
    spare_matched, tables.matched = tables.matched, matched
    ctx.curr_req_matched, ctx.dpproxy_item = matched, item or false
    return "1"
end

local function websocket(ctx, conf)
    if conf.value.enable_websocket then
        local upgrade = ngx_var.http_upgrade
        if upgrade then
            ctx.var.upstream_upgrade = upgrade
            ctx.var.upstream_connection = ngx_var.http_connection
        end
    end
end

-- Another location of nginx goes on; its access phase finds the ctx through $dpproxy_ctx, since ngx.exec drops ngx.ctx.
local parked, parked_next = {}, 0

local function go_to(location, ctx)
    parked_next = parked_next + 1
    parked[parked_next] = ctx
    ngx_var.dpproxy_ctx = parked_next
    return ngx_exec(location)
end

local function parked_ctx()
    local number = tonumber(ngx_var.dpproxy_ctx)
    local ctx = number and parked[number]
    if not ctx then
        return core_response.exit(500)
    end
    parked[number] = nil
    ngx.ctx.api_ctx = ctx
    return ctx
end

-- Access phase of locations that only proxy.
M.resume = parked_ctx

-- Which location proxies. The one we are in serves plain HTTP with the client's own path; @filtered all but gRPC, cache, mirror.
local function proxy(ctx)
    local scheme = upstream.finish(ctx)
    if scheme == "grpc" or scheme == "grpcs" then
        return go_to("@grpc_pass", ctx)
    end
    local plugins = ctx.dpproxy_plugins
    if plugins then
        local var = ctx.var._cache
        local mirror, zone = var.upstream_mirror_uri, var.upstream_cache_zone
        if mirror and mirror ~= "" then
            return go_to("@mirrored", ctx)
        elseif zone and zone ~= "" then
            return go_to("@cached", ctx)
        end
    end
    if not ctx.dpproxy_filtered
            and (scheme ~= "http" or plugins and (ngx_var.upstream_uri ~= "" or ngx_var.upstream_scheme ~= "http")) then
        return go_to("@proxied", ctx)
    end
end

local function run_plugins_and_proxy(ctx, conf)
    if not conf then
        -- That there is no such route is not known yet: nobody may remember it.
        if not store.loaded() then
            core_response.set_header("Cache-Control", "no-store")
            return core_response.exit(503, no_configuration)
        end
        runtime.global_rules("rewrite", ctx)
        runtime.global_rules("access", ctx)
        return core_response.exit(404, no_route)
    end
    conf = runtime.access(ctx, conf)
    ctx.dpproxy_conf = conf
    websocket(ctx, conf)
    upstream.prepare(ctx, conf)
    runtime.phase("before_proxy", ctx)
    return proxy(ctx)
end

-- Access phase of the location with a body filter: the second half of access().
function M.filtered()
    local ctx = parked_ctx()
    local conf = ctx.dpproxy_conf
    ctx.dpproxy_filtered = true
    return run_plugins_and_proxy(ctx, conf)
end

-- The ctx that way() made | a new one, and true
local function ctx_of_request()
    local ctx = ngx.ctx.api_ctx
    if ctx and ctx.dpproxy_item ~= nil then
        return ctx, false
    end
    return new_ctx(), true
end

function M.access()
    local ctx, is_new = ctx_of_request()
    if is_new then
        refresh()
    end
    if rewrites_uri then
        uri.rewrite(ctx)
    end
    if tls.mutual and not tls.client_is_known() then
        return core_response.exit(400)
    end
    local checked = forwarded.is_early() or routes.look_at_headers()
    if checked then
        forwarded.check()
    end

    local item, conf
    if is_new then
        item = match(ctx)
    else
        item, ctx.dpproxy_item = ctx.dpproxy_item, nil
    end
    if item then
        local status, message
        conf, status, message = merge.route(item, store)
        if not conf then
            ngx_log(ERR, "route ", item.short_key, ": ", message)
            return core_response.exit(status)
        end
    end
    if runtime.has_plugins(ctx, conf) then
        ctx.dpproxy_plugins = true
        if not checked then
            forwarded.check()
        end
    end
    if ctx.dpproxy_plugins and body_filters.needed(ctx, conf) then
        ctx.dpproxy_conf = conf
        return go_to("@filtered", ctx)
    end
    return run_plugins_and_proxy(ctx, conf)
end

return M
