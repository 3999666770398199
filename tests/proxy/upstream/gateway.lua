-- The phases of tests/proxy/upstream/nginx.conf.in: what dpproxy.http does, and nothing else.
local balancer = require("ngx.balancer")
local health = require("dpproxy.health")
local json = require("dpproxy.base.json")
local runtime = require("dpproxy.upstream.runtime")
local upstream = require("dpproxy.upstream")

local M = {}

-- Items as dpproxy.config.store has them, one decoded table for each version.
local cache = {}
local store = {}

function store.get(kind, id)
    local key = "/apisix/" .. kind .. "/" .. id
    local text, version = ngx.shared.conf:get(key)
    if not text then
        return nil
    end
    local item = cache[key]
    if not item or item.modifiedIndex ~= version then
        item = {key = key, value = json.decode(text), modifiedIndex = version}
        cache[key] = item
    end
    return item
end

function M.init_worker(settings)
    math.randomseed(ngx.worker.pid())
    runtime.init_worker(json.decode(settings), {store = store})
end

function M.configure()
    ngx.req.read_body()
    local key = "/apisix/" .. ngx.var.uri:match("^/_conf/(.+)$")
    local text = ngx.req.get_body_data()
    local version = ngx.shared.conf:incr("version", 1, 0)
    ngx.shared.conf:set(key, text, 0, version)
    ngx.say(version)
end

function M.health()
    ngx.say(json.encode(health.control()))
end

function M.access()
    local id = ngx.var.uri:match("^/([^/]+)")
    local item = store.get("upstreams", id)
    if not item then
        return ngx.exit(404)
    end
    local ctx = {var = ngx.var, upstream_key = item.key, upstream_version = item.modifiedIndex}
    ctx.consumer_name = ngx.var.http_consumer
    ngx.ctx.api_ctx = ctx
    local up, status, message = upstream.resolve(ctx, item.value)
    if not up then
        ngx.log(ngx.ERR, message)
        return ngx.exit(status)
    end
    local node, err = upstream.pick(ctx, up)
    if not node then
        ngx.log(ngx.ERR, err)
        return ngx.exit(502)
    end
    ctx.up, ctx.node = up, node
    local host = upstream.host_header(ctx, up, node)
    if host then
        ngx.var.upstream_host = host
    end
end

function M.balance()
    local ctx = ngx.ctx.api_ctx
    local node = ctx.node
    if node then
        ctx.node = nil
        local tries = upstream.tries(ctx.up, #ctx.up.nodes)
        if tries > 0 then
            balancer.set_more_tries(tries)
            ctx.deadline = upstream.deadline(ctx.up, ngx.now())
        end
    else
        upstream.failed(ctx, balancer.get_last_failure())
        if ctx.deadline and ctx.deadline < ngx.now() then
            return ngx.exit(upstream.GIVE_UP)
        end
        local err
        node, err = upstream.pick(ctx, ctx.up)
        if not node then
            ngx.log(ngx.WARN, err)
            return ngx.exit(upstream.GIVE_UP)
        end
        local host = upstream.host_header(ctx, ctx.up, node)
        if host and host ~= ngx.var.upstream_host then
            ngx.var.upstream_host = host
            balancer.recreate_request()
        end
    end
    local connect, send, read = upstream.timeouts(nil, ctx.up)
    if connect then
        balancer.set_timeouts(connect, send, read)
    end
    assert(balancer.set_current_peer(node.host, node.port))
end

function M.log()
    local ctx = ngx.ctx.api_ctx
    if ctx and ctx.up then
        upstream.done(ctx, ngx.status)
    end
end

return M
