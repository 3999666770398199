-- Picks a node for a request: groups of equal priority, highest first, each with the upstream's algorithm; unhealthy nodes left
-- out, but when all are, all are used; what a request has tried is not tried again. A picker is built once for a version of an
-- upstream and a state of its health, and picking allocates nothing (retries take a table for the tried set). No ngx in here.
local sort = table.sort

local M = {}
local mt = {__index = M}

local ALGORITHMS = {
    roundrobin = require("dpproxy.upstream.roundrobin"),
    chash = require("dpproxy.upstream.chash"),
    ewma = require("dpproxy.upstream.ewma"),
    least_conn = require("dpproxy.upstream.least_conn"),
}
local custom = require("dpproxy.upstream.custom")

local function descending(a, b)
    return a > b
end

-- -> arrays of nodes, one for each priority, highest first
local function by_priority(nodes)
    local groups, priorities = {}, {}
    for i = 1, #nodes do
        local node = nodes[i]
        local group = groups[node.priority]
        if not group then
            group = {}
            groups[node.priority] = group
            priorities[#priorities + 1] = node.priority
        end
        group[#group + 1] = node
    end
    sort(priorities, descending)
    for i = 1, #priorities do
        priorities[i] = groups[priorities[i]]
    end
    return priorities
end

-- -> set of unhealthy nodes, or nil when all are healthy or none is
local function unhealthy(nodes, health)
    if not health then
        return nil
    end
    local set, count = {}, 0
    for i = 1, #nodes do
        if not health(nodes[i].host, nodes[i].port) then
            set[nodes[i]] = true
            count = count + 1
        end
    end
    if count == 0 or count == #nodes then
        return nil
    end
    return set
end

local function without(nodes, set)
    if not set then
        return nodes
    end
    local rest = {}
    for i = 1, #nodes do
        if not set[nodes[i]] then
            rest[#rest + 1] = nodes[i]
        end
    end
    return rest
end

-- value: an upstream with `nodes` as nodes.normalize gives them. opts: {random = fn(n) -> 1..n, clock = fn, dict = shared
-- dictionary, health = fn(host, port) -> bool, key = the upstream's key, old = picker of the same nodes with another health}
function M.new(value, version, opts)
    local nodes = value.nodes
    if not nodes or #nodes == 0 then
        return nil, "no valid upstream node"
    end
    local self = setmetatable({value = value, version = version, nodes = nodes, count = #nodes}, mt)
    local kind = value.type or "roundrobin"
    if self.count == 1 and kind ~= "least_conn" then
        -- Nothing to choose: the node is given for every try. (least_conn counts it, for the day the upstream grows.)
        self.only = nodes[1]
        return self
    end
    local algorithm = ALGORITHMS[kind] or custom
    local keep_all = kind == "chash"
    local set = unhealthy(nodes, opts.health)
    local old = opts.old
    if old and (old.nodes ~= nodes or not old.groups) then
        old = nil
    end
    self.priorities = old and old.priorities or by_priority(nodes)
    self.unusable = keep_all and set or nil
    self.groups = {}
    local group_opts = {random = opts.random, clock = opts.clock, dict = opts.dict, key = opts.key}
    for i = 1, #self.priorities do
        local members = keep_all and self.priorities[i] or without(self.priorities[i], set)
        if #members > 0 then
            group_opts.old = old and keep_all and old.groups[i] or nil
            local group, err = algorithm.new(members, value, group_opts)
            if not group then
                return nil, err
            end
            self.groups[#self.groups + 1] = group
        end
    end
    return self
end

-- -> node | nil, err. Remembers the node in ctx until after().
function M:get(ctx)
    local only = self.only
    if only then
        ctx.balancer_node = only
        return only
    end
    local groups, tried, reason = self.groups, ctx.balancer_tried, nil
    for i = ctx.balancer_group or 1, #groups do
        local node, err = groups[i]:pick(ctx, tried, self.unusable)
        if node then
            ctx.balancer_group, ctx.balancer_node = i, node
            return node
        end
        reason = err or reason
    end
    return nil, reason or "all upstream servers tried"
end

-- The request lets go of its node (or of `node`): before a retry, which will get another one, or for good. Twice does no harm.
function M:after(ctx, node, before_retry)
    node = node or ctx.balancer_node
    ctx.balancer_node = nil
    if not node or self.only then
        return
    end
    local group = self.groups[ctx.balancer_group or 1]
    if group.after then
        group:after(ctx, node, before_retry)
    end
    -- Of a single node there is no other one to go to: it is tried again.
    if before_retry and self.count > 1 then
        local tried = ctx.balancer_tried
        if not tried then
            tried = {}
            ctx.balancer_tried = tried
        end
        tried[node] = true
    end
end

return M
