-- Requests that need nothing but a node: their route has no plugin, and nothing on their way waits, is remembered, or must be let
-- go of at the end. They are told apart in nginx' rewrite phase (request.lua), and have neither access phase, nor ctx, nor log
-- phase.
local lib = require("dpproxy.upstream")
local loader = require("dpproxy.plugin.loader")
local merge = require("dpproxy.plugin.merge")
local nodes_of = require("dpproxy.upstream.nodes")
local runtime = require("dpproxy.plugin.runtime")
local store = require("dpproxy.config.store")
local upstream = require("dpproxy.http.upstream")

local next, setmetatable = next, setmetatable

local M = {}

-- Of what another upstream has to be asked, when, or who is told afterwards.
local function is_simple(value)
    return not value.checks and not value.service_name and (value.scheme or "http") == "http" and not value.retry_timeout
        and not select(2, nodes_of.normalize(value.nodes, "http"))
end

-- -> Host for all nodes | nil for the client's | nil, true when it depends on the node
local function host_of(ctx, up, node)
    local mode = up.pass_host
    if mode == "node" and not node then
        return nil, true
    end
    return lib.host_header(ctx, up, node)
end

-- -> plan | nil when the request must go the whole way
local function build(item)
    local conf = merge.route(item, store)
    if not conf or conf.value.enable_websocket or next(conf.value.plugins or {}) or runtime.has_plugins({}, conf) then
        return nil
    end
    local ctx = {}
    local value, key, version = upstream.choose(ctx, conf)
    if not value or not is_simple(value) then
        return nil
    end
    ctx.upstream_key, ctx.upstream_version = key, version
    local up = lib.resolve(ctx, value)
    if not up or not lib.pick(ctx, up) then
        return nil
    end
    local node = ctx.balancer_picker.only
    if not node and up.type ~= "roundrobin" then
        return nil
    end
    if lib.tries(up, #up.nodes) > 0 then
        node = nil
    end
    local host, depends = host_of(ctx, up, node)
    if depends then
        return nil
    end
    local connect, send, read = lib.timeouts(conf.value, up)
    return {
        node = node, host = host, up = up, conf = conf, key = key, version = version, connect = connect, send = send, read = read,
    }
end

-- Route item -> {changes =, generation =, plan =}. A plan is good until anything of the configuration changes.
local plans = setmetatable({}, {__mode = "k"})

local function renew(item, changes)
    local entry = {changes = changes, generation = loader.generation, plan = build(item) or false}
    if entry.plan then
        -- What ngx.ctx is for such a request: one table for all of them.
        entry.ctx = {dpproxy_plan = entry.plan}
    end
    plans[item] = entry
    return entry
end

-- -> {dpproxy_plan =} for ngx.ctx | nil. Does not yield.
function M.of(item)
    local entry, changes = plans[item], store.changes()
    if not entry or entry.changes ~= changes or entry.generation ~= loader.generation then
        entry = renew(item, changes)
    end
    return entry.ctx
end

-- A ctx for a request with several nodes, or tries: as far as the balancer reads it.
function M.begin(plan)
    return {
        dpproxy_up = plan.up, dpproxy_conf = plan.conf, upstream_key = plan.key, upstream_version = plan.version,
        route_id = plan.conf.value.id, upstream_scheme = "http", var = {upstream_host = plan.host},
    }
end

return M
