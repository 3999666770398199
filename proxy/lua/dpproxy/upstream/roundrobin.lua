-- Weighted round robin, interleaved: a level goes down from the highest weight in steps of the weights' greatest common divisor,
-- and each node whose weight reaches the level has its turn. It starts behind a random node, so that workers do not march in
-- step.
local M = {}
local mt = {__index = M}

local function gcd(a, b)
    while b ~= 0 do
        a, b = b, a % b
    end
    return a
end
M.gcd = gcd

function M.new(nodes, _, opts)
    local step, highest = 0, 0
    for i = 1, #nodes do
        local weight = nodes[i].weight
        step = gcd(step, weight)
        if weight > highest then
            highest = weight
        end
    end
    -- All weights zero: the level stays at zero, and each node reaches it.
    return setmetatable({nodes = nodes, step = step, highest = highest, level = highest, at = opts.random(#nodes)}, mt)
end

local function next_untried(self, tried)
    local nodes, at = self.nodes, self.at
    local count = #nodes
    local least = self.highest > 0 and 1 or 0
    for _ = 1, count do
        at = at % count + 1
        local node = nodes[at]
        if node.weight >= least and not tried[node] then
            self.at = at
            return node
        end
    end
    return nil
end

-- tried: nil, or a set of nodes that this request had already
function M:pick(_, tried)
    local nodes, at, level = self.nodes, self.at, self.level
    local count = #nodes
    -- Without tried nodes a turn is at most one round away: the heaviest node reaches every level. With them it may be as far as
    -- the weights are apart; then plain order will do.
    for _ = 1, 2 * count do
        at = at + 1
        if at > count then
            at = 1
            level = level - self.step
            if level <= 0 then
                level = self.highest
            end
        end
        local node = nodes[at]
        if node.weight >= level and not (tried and tried[node]) then
            self.at, self.level = at, level
            return node
        end
    end
    return tried and next_untried(self, tried)
end

return M
