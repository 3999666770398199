-- Consistent hashing on a ring, as APISIX does it (spec 4.2): 160 points for each unit of weight after the weights' common
-- divisor is taken out; a node's points are a chain of CRC-32 sums, each over the one before; a key belongs to the first point at
-- or behind its sum. All nodes stay on the ring; those that cannot be used are walked over, so only their keys move. No ngx in
-- here.
local bit = require("bit")
local ffi = require("ffi")
local crc32 = require("dpproxy.upstream.crc32")
local hash_key = require("dpproxy.upstream.hash_key")
local gcd = require("dpproxy.upstream.roundrobin").gcd

local gsub, floor, ceil, sort = string.gsub, math.floor, math.ceil, table.sort
local tobit = bit.tobit

local M = {}
local mt = {__index = M}

local POINTS = 160
-- A ring of a million points takes 8 MB. Weights that want more (1 and 1000003) are scaled down.
local MAX_UNITS = 6250

local function units_of(nodes)
    local divisor, total = 0, 0
    for i = 1, #nodes do
        divisor = gcd(divisor, nodes[i].weight)
        total = total + nodes[i].weight
    end
    local units, sum = {}, 0
    for i = 1, #nodes do
        local weight = nodes[i].weight
        if total == 0 then
            units[i] = 1
        elseif total / divisor > MAX_UNITS then
            units[i] = ceil(weight * MAX_UNITS / total)
        else
            units[i] = weight / divisor
        end
        sum = sum + units[i]
    end
    return units, sum
end

-- Least significant byte first, stable: equal sums keep their nodes' order.
local function radix_sort(hashes, owners, count)
    local hashes2, owners2 = ffi.new("uint32_t[?]", count), ffi.new("uint32_t[?]", count)
    local starts = ffi.new("uint32_t[257]")
    for pass = 0, 3 do
        local divisor = 256 ^ pass
        ffi.fill(starts, ffi.sizeof(starts))
        for i = 0, count - 1 do
            local digit = floor(hashes[i] / divisor) % 256
            starts[digit + 1] = starts[digit + 1] + 1
        end
        for digit = 1, 255 do
            starts[digit] = starts[digit] + starts[digit - 1]
        end
        for i = 0, count - 1 do
            local digit = floor(hashes[i] / divisor) % 256
            local to = starts[digit]
            starts[digit] = to + 1
            hashes2[to], owners2[to] = hashes[i], owners[i]
        end
        hashes, hashes2, owners, owners2 = hashes2, hashes, owners2, owners
    end
    return hashes, owners
end

local function by_ring_id(a, b)
    return a.ring_id < b.ring_id
end

local function build_ring(nodes)
    -- Nodes in the order of their names: which of two equal points wins must not depend on how the configuration was written.
    local sorted = {}
    for i = 1, #nodes do
        sorted[i] = {ring_id = gsub(nodes[i].id, ":", "\0"), node = nodes[i], weight = nodes[i].weight}
    end
    sort(sorted, by_ring_id)
    local units, total = units_of(sorted)
    local count = total * POINTS
    local hashes, owners = ffi.new("uint32_t[?]", count), ffi.new("uint32_t[?]", count)
    local at, owner_nodes = 0, {}
    for i = 1, #sorted do
        owner_nodes[i] = sorted[i].node
        local base = tobit(crc32.update(crc32.start, sorted[i].ring_id))
        local previous = 0
        for _ = 1, units[i] * POINTS do
            local sum = crc32.finish(crc32.update_u32(base, tobit(previous)))
            hashes[at], owners[at] = sum, i
            at = at + 1
            previous = sum
        end
    end
    hashes, owners = radix_sort(hashes, owners, count)
    return {hashes = hashes, owners = owners, count = count, nodes = owner_nodes}
end

-- opts.old: the group before, of the same nodes with another health; its ring is kept
function M.new(nodes, value, opts)
    local old = opts.old
    local ring = old and old.nodes == nodes and old.ring or build_ring(nodes)
    return setmetatable({nodes = nodes, ring = ring, key = hash_key.compile(value)}, mt)
end

-- The first point at or behind the sum, or the ring's first.
local function find(ring, sum)
    local hashes, low, high = ring.hashes, 0, ring.count
    while low < high do
        local middle = floor((low + high) / 2)
        if hashes[middle] < sum then
            low = middle + 1
        else
            high = middle
        end
    end
    return low == ring.count and 0 or low
end

local function any_left(self, tried, unusable)
    local nodes = self.ring.nodes
    for i = 1, #nodes do
        local node = nodes[i]
        if not (tried and tried[node]) and not (unusable and unusable[node]) then
            return true
        end
    end
    return false
end

-- unusable: nil, or the set of unhealthy nodes
function M:pick(ctx, tried, unusable)
    local sum = ctx.balancer_hash
    if not sum then
        -- Kept for retries: plugins may have changed the request since.
        sum = hash_key.sum(self.key, ctx)
        ctx.balancer_hash = sum
    end
    local ring = self.ring
    local at = find(ring, sum)
    if not tried and not unusable then
        return ring.nodes[ring.owners[at]]
    end
    if not any_left(self, tried, unusable) then
        return nil
    end
    for _ = 1, ring.count do
        local node = ring.nodes[ring.owners[at]]
        if not (tried and tried[node]) and not (unusable and unusable[node]) then
            return node
        end
        at = at + 1
        if at == ring.count then
            at = 0
        end
    end
    return nil
end

return M
