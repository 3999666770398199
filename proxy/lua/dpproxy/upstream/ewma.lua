-- Of two random nodes the one whose answers were faster lately. "Lately" is an exponentially weighted moving average with a decay
-- of 10 seconds, kept for all workers in a shared dictionary: value = seconds, flags = when, in milliseconds modulo 2^32. One set
-- writes both at once; two workers at the same moment may lose a sample, which an average bears. No ngx in here.
local exp, floor = math.exp, math.floor
local match, tonumber, type = string.match, tonumber, type

local M = {}
local mt = {__index = M}

local DECAY = 10
local TTL = 60
local WRAP = 4294967296

local candidates = {} -- reused; nothing yields while it is in use

function M.new(nodes, _, opts)
    if not opts.dict then
        return nil, "no shared dictionary for ewma"
    end
    local weighted = {}
    for i = 1, #nodes do
        if nodes[i].weight > 0 then
            weighted[#weighted + 1] = nodes[i]
        end
    end
    if #weighted == 0 then
        weighted = nodes
    end
    local keys = {}
    for i = 1, #nodes do
        keys[nodes[i]] = "ewma:" .. nodes[i].id
    end
    return setmetatable({nodes = weighted, keys = keys, dict = opts.dict, clock = opts.clock, random = opts.random}, mt)
end

local function milliseconds(now)
    return floor(now * 1000) % WRAP
end

-- The average, with a sample of `rtt` taken now; 0 for "no sample" lets it fade, so that a slow node is asked again.
local function average(self, node, rtt)
    local value, at = self.dict:get(self.keys[node])
    if not value then
        return rtt * 1.0
    end
    local age = (milliseconds(self.clock()) - (at or 0)) % WRAP / 1000
    if age > TTL then
        age = 0 -- the clock went back
    end
    local weight = exp(-age / DECAY)
    return value * weight + rtt * (1 - weight)
end
M.average = average

function M:pick(_, tried)
    local list, count = self.nodes, #self.nodes
    if tried then
        count = 0
        for i = 1, #list do
            if not tried[list[i]] then
                count = count + 1
                candidates[count] = list[i]
            end
        end
        list = candidates
    end
    if count == 0 then
        return nil
    elseif count == 1 then
        return list[1]
    end
    local a = self.random(count)
    local b = self.random(count - 1)
    if b >= a then
        b = b + 1
    end
    local node, other = list[a], list[b]
    if average(self, node, 0) > average(self, other, 0) then
        node = other
    end
    return node
end

-- "0.010, 0.020 : 0.005" (one for each try) -> the last; "-" and nothing -> 0
local function last_number(value)
    if type(value) == "number" then
        return value
    end
    return value and tonumber(match(value, "([%d.]+)%s*$")) or 0
end

function M:after(ctx, node, before_retry)
    if before_retry then
        return
    end
    local var = ctx.var
    local rtt = last_number(var.upstream_connect_time) + last_number(var.upstream_response_time)
    self.dict:set(self.keys[node], average(self, node, rtt), TTL, milliseconds(self.clock()))
end

return M
