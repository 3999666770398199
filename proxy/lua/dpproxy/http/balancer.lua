-- The balancer phase: nginx asks for a server, once per try.
local lib = require("dpproxy.upstream")
local ngx_balancer = require("ngx.balancer")
local plain = require("dpproxy.http.plain")
local runtime = require("dpproxy.plugin.runtime")
local upstream = require("dpproxy.http.upstream")

local ngx = ngx
local ngx_now, ngx_exit, ngx_log, ERR = ngx.now, ngx.exit, ngx.log, ngx.ERR
local set_current_peer, set_more_tries, set_timeouts = ngx_balancer.set_current_peer, ngx_balancer.set_more_tries,
    ngx_balancer.set_timeouts
local get_last_failure, recreate_request = ngx_balancer.get_last_failure, ngx_balancer.recreate_request

local M = {}

local function allow_tries(ctx, up)
    local tries = lib.tries(up, #up.nodes)
    if tries > 0 then
        local ok, err = set_more_tries(tries)
        if not ok then
            ngx_log(ERR, "no more tries: ", err)
        end
        ctx.dpproxy_deadline = lib.deadline(up, ngx_now())
    end
end

-- -> node | nil, err
local function another_try(ctx, up)
    lib.failed(ctx, get_last_failure())
    if ctx.dpproxy_deadline and ngx_now() > ctx.dpproxy_deadline then
        return nil, "retry_timeout is over"
    end
    local node, err = lib.pick(ctx, up)
    if not node then
        return nil, err
    end
    ctx.picked_server = node
    local changed = upstream.set_host(ctx, up, node)
    runtime.phase("before_proxy", ctx)
    if changed then
        local ok
        ok, err = recreate_request()
        if not ok then
            return nil, "the request cannot be made anew: " .. err
        end
    end
    return node
end

local function go_to(node, connect, send, read)
    if connect then
        local ok, err = set_timeouts(connect, send, read)
        if not ok then
            ngx_log(ERR, "timeouts are not set: ", err)
        end
    end
    local ok, err = set_current_peer(node.host, node.port)
    if not ok then
        ngx_log(ERR, "node ", node.host, ":", node.port, " cannot be used: ", err)
        return ngx_exit(lib.GIVE_UP)
    end
end

-- The first try of a plain request with several nodes, or tries -> ctx
local function begin_plain(plan)
    local ctx = plain.begin(plan)
    ngx.ctx = {api_ctx = ctx}
    ctx.picked_server = lib.pick(ctx, plan.up)
    return ctx
end

function M.run()
    local ngx_ctx = ngx.ctx
    local ctx, plan = ngx_ctx.api_ctx, ngx_ctx.dpproxy_plan
    if plan then
        if plan.node then
            return go_to(plan.node, plan.connect, plan.send, plan.read)
        end
        ctx = begin_plain(plan)
    end
    local up = ctx and ctx.dpproxy_up
    if not up then
        return ngx_exit(500)
    end
    local node, err = ctx.picked_server
    if not ctx._apisix_proxied then
        ctx._apisix_proxied, ctx.proxy_passed = true, true
        allow_tries(ctx, up)
    else
        node, err = another_try(ctx, up)
        if not node then
            ngx_log(ERR, "no other node of upstream ", ctx.upstream_key, ": ", err)
            return ngx_exit(lib.GIVE_UP)
        end
    end
    return go_to(node, lib.timeouts(ctx.dpproxy_conf.value, up))
end

return M
