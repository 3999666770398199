-- Pickers: algorithms, priorities, tried sets, health, and the state that outlives a picker. Randomness is seeded, time is ours.
local fake_dict = require("fake_dict")
local nodes_of = require("dpproxy.upstream.nodes")
local picker = require("dpproxy.upstream.picker")

local function lcg(seed)
    return function(n)
        seed = (seed * 1103515245 + 12345) % 2147483648
        return math.floor(seed / 65536) % n + 1
    end
end

local function new(nodes, fields, opts)
    local value = {nodes = nodes_of.normalize(nodes, "http")}
    for k, v in pairs(fields or {}) do
        value[k] = v
    end
    opts = opts or {}
    opts.random = opts.random or lcg(7)
    local p, err = picker.new(value, 1, opts)
    return assert(p, err), value
end

local function ctx_of(var)
    return {var = var or {remote_addr = "192.0.2.1"}}
end

local function node_at(value, port)
    for _, node in ipairs(value.nodes) do
        if node.port == port then
            return node
        end
    end
end

-- How often each port is picked in `count` requests.
local function spread(p, count, var)
    local seen = {}
    for i = 1, count do
        local ctx = ctx_of(var and var(i))
        local node = assert(p:get(ctx))
        seen[node.port] = (seen[node.port] or 0) + 1
        p:after(ctx, nil, false)
    end
    return seen
end

-- The ports that one request walks through when every try fails.
local function walk(p, tries)
    local ctx, ports = ctx_of(), {}
    for i = 1, tries do
        if i > 1 then
            p:after(ctx, nil, true)
        end
        local node = p:get(ctx)
        ports[i] = node and node.port or "none"
    end
    return ports
end

describe("upstream.roundrobin", function()
    it("C1: follows the weights, exactly over a round, and never picks weight 0", function()
        local p = new({["127.0.0.1:1"] = 5, ["127.0.0.1:2"] = 1, ["127.0.0.1:3"] = 0})
        local seen = spread(p, 600)
        assert.equal(500, seen[1])
        assert.equal(100, seen[2])
        assert.is_nil(seen[3])
    end)
    it("interleaves", function()
        local p = new({["127.0.0.1:1"] = 400, ["127.0.0.1:2"] = 200, ["127.0.0.1:3"] = 200})
        local longest, run, last = 0, 0, nil
        for _ = 1, 400 do
            local port = p:get(ctx_of()).port
            run = port == last and run + 1 or 1
            longest, last = math.max(longest, run), port
        end
        assert.is_true(longest <= 3)
    end)
    it("takes all when all weights are 0", function()
        local seen = spread(new({["127.0.0.1:1"] = 0, ["127.0.0.1:2"] = 0}), 10)
        assert.equal(5, seen[1])
        assert.equal(5, seen[2])
    end)
    it("starts at a random node", function()
        local first = {}
        for seed = 1, 40 do
            local p = new({["127.0.0.1:1"] = 1, ["127.0.0.1:2"] = 1, ["127.0.0.1:3"] = 1}, nil, {random = lcg(seed * 77777)})
            first[p:get(ctx_of()).port] = true
        end
        assert.is_true(first[1] and first[2] and first[3])
    end)
    it("is quick for any weights, in retries too", function()
        local p = new({["127.0.0.1:1"] = 1, ["127.0.0.1:2"] = 1000000007, ["127.0.0.1:3"] = 0})
        local ports = walk(p, 3)
        assert.same({2, 1, "none"}, ports)
    end)
end)

describe("upstream.picker", function()
    it("tries each node once in a request, for every algorithm", function()
        local dict = {get = function() end, set = function() end}
        for _, kind in ipairs({"roundrobin", "chash", "least_conn", "ewma"}) do
            local p = new({["127.0.0.1:1"] = 1, ["127.0.0.1:2"] = 2, ["127.0.0.1:3"] = 3}, {type = kind, key = "remote_addr"},
                {dict = dict, clock = function() return 0 end})
            local ports = walk(p, 4)
            assert.equal("none", ports[4], kind)
            table.sort(ports, function(a, b) return tostring(a) < tostring(b) end)
            assert.same({1, 2, 3, "none"}, ports, kind)
        end
    end)
    it("C5: goes to the next priority only after all of the first", function()
        local nodes = {
            {host = "127.0.0.1", port = 1, weight = 1, priority = -1}, {host = "127.0.0.1", port = 2, weight = 1},
            {host = "127.0.0.1", port = 3, weight = 1, priority = 0}, {host = "127.0.0.1", port = 4, weight = 1, priority = 5},
        }
        for _, kind in ipairs({"roundrobin", "chash", "least_conn"}) do
            local p = new(nodes, {type = kind, key = "remote_addr"})
            local ports = walk(p, 5)
            assert.equal(4, ports[1], kind)
            assert.equal(5, ports[2] + ports[3], kind)
            assert.equal(1, ports[4], kind)
            assert.equal("none", ports[5], kind)
            assert.is_nil(spread(p, 20)[1], kind)
        end
    end)
    it("C5: uses the lower priority when the higher is unhealthy", function()
        local nodes = {{host = "127.0.0.1", port = 1, weight = 1, priority = -1}, {host = "127.0.0.1", port = 2, weight = 1}}
        for _, kind in ipairs({"roundrobin", "chash", "least_conn"}) do
            local p = new(nodes, {type = kind, key = "remote_addr"}, {health = function(_, port) return port ~= 2 end})
            assert.same({[1] = 20}, spread(p, 20), kind)
        end
    end)
    it("C12: leaves unhealthy nodes out, and uses all when all are", function()
        for _, kind in ipairs({"roundrobin", "chash", "least_conn"}) do
            local nodes = {["127.0.0.1:1"] = 1, ["127.0.0.1:2"] = 1, ["127.0.0.1:3"] = 1}
            local function vary(i)
                return {k = "k" .. i}
            end
            local p = new(nodes, {type = kind, key = "k"}, {health = function(_, port) return port ~= 2 end})
            local seen = spread(p, 60, vary)
            assert.is_nil(seen[2], kind)
            assert.is_true(seen[1] > 0 and seen[3] > 0, kind)
            p = new(nodes, {type = kind, key = "k"}, {health = function() return false end})
            seen = spread(p, 60, vary)
            assert.is_true(seen[1] > 0 and seen[2] > 0 and seen[3] > 0, kind)
        end
    end)
    it("keeps the ring when only the health changes, and moves only the sick node's keys", function()
        local sick
        local opts = {health = function(_, port) return port ~= sick end}
        local p, value = new({["127.0.0.1:1"] = 1, ["127.0.0.1:2"] = 1, ["127.0.0.1:3"] = 1}, {type = "chash", key = "k"}, opts)
        local before = {}
        for i = 1, 200 do
            before[i] = p:get(ctx_of({k = "k" .. i})).port
        end
        sick = 2
        local q = picker.new(value, 1, {random = lcg(1), health = opts.health, old = p})
        assert.equal(p.groups[1].ring, q.groups[1].ring)
        for i = 1, 200 do
            local port = q:get(ctx_of({k = "k" .. i})).port
            assert.is_true(port ~= 2)
            assert.is_true(before[i] == 2 or before[i] == port)
        end
    end)
    it("keeps to the key's first sum when plugins change the request between tries", function()
        local p = new({["127.0.0.1:1"] = 1, ["127.0.0.1:2"] = 1, ["127.0.0.1:3"] = 1}, {type = "chash", key = "k"})
        local plain, changed = {}, {}
        for i = 1, 30 do
            for _, list in ipairs({plain, changed}) do
                local ctx = ctx_of({k = "k" .. i})
                p:get(ctx)
                if list == changed then
                    ctx.var.k = "other"
                end
                p:after(ctx, nil, true)
                list[i] = p:get(ctx).port
            end
        end
        assert.same(plain, changed)
    end)
    it("gives a single node for every try", function()
        for _, kind in ipairs({"roundrobin", "chash", "least_conn", "ewma", "nobody_knows"}) do
            assert.same({1, 1, 1}, walk(new({["127.0.0.1:1"] = 0}, {type = kind, key = "k"}), 3), kind)
        end
    end)
    it("says no to a type that is not there, and to no nodes", function()
        local nodes = nodes_of.normalize({["127.0.0.1:1"] = 1, ["127.0.0.1:2"] = 1}, "http")
        local p, err = picker.new({nodes = nodes, type = "nobody_knows"}, 1, {})
        assert.is_nil(p)
        assert.equal("invalid balancer type: nobody_knows", err)
        assert.is_nil((picker.new({nodes = {}}, 1, {})))
    end)
    it("runs a balancer of somebody else's", function()
        package.loaded["apisix.balancer.first_come"] = {new = function(weights, upstream, priority)
            local ids = {}
            for id in pairs(weights) do
                ids[#ids + 1] = id
            end
            table.sort(ids)
            return {
                upstream = upstream, priority = priority,
                get = function(ctx)
                    for _, id in ipairs(ids) do
                        if not (ctx.mine and ctx.mine[id]) then
                            return id
                        end
                    end
                    return nil, "mine are all tried"
                end,
                after_balance = function(ctx, before_retry)
                    ctx.mine = ctx.mine or {}
                    ctx.mine[ctx.balancer_server] = before_retry
                end,
                before_retry_next_priority = function(ctx)
                    ctx.mine = nil
                end,
            }
        end}
        local nodes = {
            {host = "127.0.0.1", port = 1, weight = 1}, {host = "127.0.0.1", port = 2, weight = 1},
            {host = "127.0.0.1", port = 3, weight = 1, priority = -1},
        }
        assert.same({1, 2, 3}, walk(new(nodes, {type = "first_come"}), 3))
        package.loaded["apisix.balancer.first_come"] = nil
    end)
end)

describe("upstream.least_conn", function()
    it("C4: goes to the node with the fewest in flight for its weight", function()
        local p = new({["127.0.0.1:1"] = 1, ["127.0.0.1:2"] = 3}, {type = "least_conn"})
        local held, seen = {}, {}
        for i = 1, 40 do
            held[i] = ctx_of()
            local port = p:get(held[i]).port
            seen[port] = (seen[port] or 0) + 1
        end
        assert.equal(10, seen[1])
        assert.equal(30, seen[2])
        for i = 1, 40 do
            p:after(held[i], nil, false)
            p:after(held[i], nil, false) -- a second time does no harm
        end
        for _, entry in pairs(p.groups[1].state.entries) do
            assert.equal(0, entry.in_flight)
        end
    end)
    it("C4: gives a slow node less", function()
        local p = new({["127.0.0.1:1"] = 1, ["127.0.0.1:2"] = 1}, {type = "least_conn"})
        local slow, seen = {}, {}
        for _ = 1, 100 do
            local ctx = ctx_of()
            local port = p:get(ctx).port
            seen[port] = (seen[port] or 0) + 1
            if port == 1 then
                slow[#slow + 1] = ctx -- never answers
            else
                p:after(ctx, nil, false)
            end
        end
        assert.equal(1, #slow)
        assert.equal(99, seen[2])
    end)
    it("takes turns when nothing is in flight", function()
        local seen = spread(new({["127.0.0.1:1"] = 1, ["127.0.0.1:2"] = 1, ["127.0.0.1:3"] = 1}, {type = "least_conn"}), 30)
        assert.same({10, 10, 10}, seen)
    end)
    it("C4: counts connections of before when the upstream grows, from one node on", function()
        local opts = {key = "/apisix/upstreams/grow"}
        local p = new({["127.0.0.1:1"] = 1}, {type = "least_conn"}, opts)
        local held = {}
        for i = 1, 10 do
            held[i] = ctx_of()
            p:get(held[i])
        end
        local q = new({["127.0.0.1:1"] = 1, ["127.0.0.1:2"] = 1}, {type = "least_conn"}, opts)
        for _ = 1, 10 do
            assert.equal(2, q:get(ctx_of()).port)
        end
        for i = 1, 10 do
            p:after(held[i], nil, false) -- their websockets close on the old picker
        end
        for _ = 1, 9 do
            assert.equal(1, q:get(ctx_of()).port)
        end
    end)
    it("keeps the counts of a node that is away for a while", function()
        local opts, healthy = {key = "/apisix/upstreams/away"}, true
        opts.health = function(_, port) return healthy or port ~= 1 end
        local nodes = {["127.0.0.1:1"] = 1, ["127.0.0.1:2"] = 1}
        local p = new(nodes, {type = "least_conn"}, opts)
        local held = {ctx_of(), ctx_of()}
        for _, ctx in ipairs(held) do
            p:get(ctx)
        end
        healthy = false
        local q = new(nodes, {type = "least_conn"}, opts)
        assert.equal(2, q:get(ctx_of()).port)
        healthy = true
        local r = new(nodes, {type = "least_conn"}, opts)
        assert.equal(1, r:get(ctx_of()).port) -- one in flight there, two on the other
    end)
    it("never gives an old request a node that its configuration does not have", function()
        local opts = {key = "/apisix/upstreams/swap"}
        local p = new({["127.0.0.1:1"] = 1, ["127.0.0.1:2"] = 1}, {type = "least_conn"}, opts)
        local ctx = ctx_of()
        local first = p:get(ctx).port
        new({["127.0.0.1:8"] = 9, ["127.0.0.1:9"] = 9}, {type = "least_conn"}, opts)
        p:after(ctx, nil, true)
        assert.equal(3 - first, p:get(ctx).port)
    end)
    it("stands a thousand random steps", function()
        local random = lcg(42)
        local opts = {key = "/apisix/upstreams/random"}
        local held = {}
        local p
        for step = 1, 1000 do
            if step % 50 == 1 then
                local nodes = {}
                for port = 1, 2 + random(6) do
                    if random(3) > 1 or port < 3 then
                        nodes["127.0.0.1:" .. port] = random(4)
                    end
                end
                p = new(nodes, {type = "least_conn"}, opts)
            end
            if random(2) == 1 or #held == 0 then
                local ctx = ctx_of()
                local group = p.groups[1]
                local node = p:get(ctx)
                for _, other in ipairs(group.nodes) do
                    local entry = group.entry_of[other]
                    local mine = group.entry_of[node]
                    assert.is_true(mine.in_flight / mine.weight <= (entry.in_flight + 1) / entry.weight)
                end
                held[#held + 1] = {p, ctx}
            else
                local one = table.remove(held, random(#held))
                one[1]:after(one[2], nil, false)
            end
            local heap = p.groups[1].state.heap
            for at = 2, heap.count do
                assert.is_true(heap[math.floor(at / 2)].score <= heap[at].score)
                assert.equal(at, heap[at].at)
            end
        end
        for _, one in ipairs(held) do
            one[1]:after(one[2], nil, false)
        end
        for _, entry in pairs(p.groups[1].state.entries) do
            assert.equal(0, entry.in_flight)
        end
    end)
end)

describe("upstream.ewma", function()
    local now, dict
    local function ewma()
        now = 1700000000
        dict = fake_dict.new(function() return now end)
        return new({["127.0.0.1:1"] = 1, ["127.0.0.1:2"] = 1}, {type = "ewma"}, {dict = dict, clock = function() return now end})
    end
    local function answer(p, rtt)
        local ctx = ctx_of({upstream_connect_time = "0.001", upstream_response_time = rtt})
        local node = p:get(ctx)
        p:after(ctx, nil, false)
        return node.port
    end
    it("prefers the faster node", function()
        local p, value = ewma()
        p:after(ctx_of({upstream_response_time = "0.900"}), node_at(value, 1), false)
        p:after(ctx_of({upstream_response_time = "0.010"}), node_at(value, 2), false)
        for _ = 1, 20 do
            assert.equal(2, answer(p, "0.010"))
        end
    end)
    it("forgets, so that a slow node is asked again", function()
        local p, value = ewma()
        p:after(ctx_of({upstream_response_time = "0.900"}), node_at(value, 1), false)
        local asked = false
        for _ = 1, 12 do
            now = now + 10
            asked = asked or answer(p, "0.020") == 1
        end
        assert.is_true(asked)
    end)
    it("decays by e in ten seconds, and across the wrap of the milliseconds", function()
        local p, value = ewma()
        local group = p.groups[1]
        now = 4294967.290 -- 6 ms before 2^32 ms
        p:after(ctx_of({upstream_response_time = "1.000"}), node_at(value, 1), false)
        assert.equal(1, group.average(group, node_at(value, 1), 0))
        now = now + 10
        local got = group.average(group, node_at(value, 1), 0)
        assert.is_true(math.abs(got - math.exp(-1)) < 0.001, got)
    end)
    it("takes the last of several times, and bears odd ones", function()
        local p, value = ewma()
        local group = p.groups[1]
        local node = node_at(value, 1)
        p:after(ctx_of({upstream_connect_time = "0.001, 0.002", upstream_response_time = "9.000, 0.500"}), node, false)
        assert.equal(0.502, group.average(group, node, 0))
        p:after(ctx_of({upstream_connect_time = "-", upstream_response_time = "-"}), node, false)
        p:after(ctx_of({}), node, false)
        assert.is_true(group.average(group, node, 0) <= 0.502)
    end)
    it("needs its dictionary", function()
        local nodes = nodes_of.normalize({["127.0.0.1:1"] = 1, ["127.0.0.1:2"] = 1}, "http")
        local p, err = picker.new({nodes = nodes, type = "ewma"}, 1, {random = lcg(1)})
        assert.is_nil(p)
        assert.equal("no shared dictionary for ewma", err)
    end)
end)
