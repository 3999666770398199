-- A balancer of somebody else's, with APISIX' contract: module `apisix.balancer.<type>`, new({["host:port"] = weight}, upstream,
-- priority) -> {get(ctx) -> "host:port", after_balance(ctx, before_retry), before_retry_next_priority(ctx)}. It keeps its own
-- tried servers in ctx.
local M = {}
local mt = {__index = M}

function M.new(nodes, value, _)
    local ok, balancer = pcall(require, "apisix.balancer." .. value.type)
    if not ok or type(balancer) ~= "table" or type(balancer.new) ~= "function" then
        return nil, "invalid balancer type: " .. value.type
    end
    local weights, by_id = {}, {}
    for i = 1, #nodes do
        weights[nodes[i].id] = nodes[i].weight
        by_id[nodes[i].id] = nodes[i]
    end
    local inner, err = balancer.new(weights, value, nodes[1].priority)
    if not inner then
        return nil, err or "the balancer gives no picker"
    end
    return setmetatable({nodes = nodes, inner = inner, by_id = by_id}, mt)
end

function M:pick(ctx, tried)
    local server, err = self.inner.get(ctx)
    if not server then
        if self.inner.before_retry_next_priority then
            self.inner.before_retry_next_priority(ctx)
        end
        return nil, err
    end
    local node = self.by_id[server]
    if not node then
        return nil, "the balancer names a server that is not a node"
    end
    if tried and tried[node] and not self.inner.after_balance then
        return nil -- it does not look at what was tried, and would give it forever
    end
    ctx.balancer_server = server
    return node
end

function M:after(ctx, _, before_retry)
    if self.inner.after_balance then
        self.inner.after_balance(ctx, before_retry)
    end
end

return M
