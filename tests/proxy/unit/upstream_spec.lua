-- Nodes in all their forms, resolve(), pick() and the small helpers of a request.
local nodes_of = require("dpproxy.upstream.nodes")
local upstream = require("dpproxy.upstream")
local generations = require("dpproxy.upstream.generations")

describe("upstream.nodes", function()
    it("splits addresses", function()
        local function parse(addr)
            return {nodes_of.parse_addr(addr)}
        end
        assert.same({"a.example", 80}, parse("a.example:80"))
        assert.same({"a.example"}, parse("a.example"))
        assert.same({"127.0.0.1", 1980}, parse("127.0.0.1:1980"))
        assert.same({"[::1]", 80}, parse("[::1]:80"))
        assert.same({"[::1]"}, parse("[::1]"))
        assert.same({"[2001:db8::1]"}, parse("2001:db8::1"))
    end)
    it("knows addresses from domains", function()
        for _, text in ipairs({"127.0.0.1", "255.255.255.255", "::1", "[::1]", "2001:db8::1", "::ffff:10.0.0.1"}) do
            assert.is_true(nodes_of.is_ip(text), text)
        end
        for _, text in ipairs({"256.0.0.1", "1.2.3", "a.b", "localhost", "1.2.3.4.5", "10.0.0.x", "de", "beef"}) do
            assert.is_false(nodes_of.is_ip(text), text)
        end
    end)
    it("C17: fills ports by scheme, and the rest", function()
        local list, domains = nodes_of.normalize({["10.0.0.1"] = 1, ["a.example:81"] = 2, ["[::1]"] = 0}, "https")
        assert.is_true(domains)
        assert.same({"10.0.0.1:443", "[::1]:443", "a.example:81"}, {list[1].id, list[2].id, list[3].id})
        assert.equal(0, list[2].weight)
        assert.equal(0, list[1].priority)
        assert.is_true(list[3].needs_domain)
        list, domains = nodes_of.normalize({{host = "::1", port = 90, weight = 3, priority = -2, metadata = {a = 1}},
            {host = "10.0.0.1", weight = 1}}, "grpc")
        assert.is_false(domains)
        assert.equal("[::1]:90", list[1].id)
        assert.equal(-2, list[1].priority)
        assert.equal(1, list[1].metadata.a)
        assert.equal(80, list[2].port)
    end)
    it("of equal nodes keeps the last", function()
        local list = nodes_of.normalize({{host = "10.0.0.1", port = 80, weight = 3}, {host = "10.0.0.2", weight = 1},
            {host = "10.0.0.1", weight = 7}}, "http")
        assert.equal(2, #list)
        assert.equal(7, list[1].weight)
    end)
    it("has no nodes of nothing", function()
        assert.equal(0, #nodes_of.normalize(nil, "http"))
        assert.equal(0, #nodes_of.normalize({}, "http"))
    end)
end)

describe("upstream.resolve", function()
    local addresses, asked
    before_each(function()
        addresses, asked = {["a.example"] = "10.0.0.1", ["b.example"] = "2001:db8::2"}, 0
        upstream.setup({
            random = function() return 1 end,
            clock = function() return 100 end,
            address = function(domain)
                asked = asked + 1
                return addresses[domain], addresses[domain] == nil and "no such domain" or nil
            end,
        })
    end)
    local function ctx_of(key, version, scheme)
        return {upstream_key = key, upstream_version = version, upstream_scheme = scheme, var = {remote_addr = "192.0.2.1"}}
    end

    it("leaves the configuration as it is, and is the same table for each request", function()
        local value = {nodes = {["10.0.0.1"] = 1}, scheme = "https"}
        local up = upstream.resolve(ctx_of("u1", 1), value)
        assert.is_nil(value.nodes[1])
        assert.equal(443, up.nodes[1].port)
        assert.equal("roundrobin", up.type)
        assert.equal(up, upstream.resolve(ctx_of("u1", 1), value))
        assert.are_not.equal(up, upstream.resolve(ctx_of("u1", 2), value))
    end)
    it("takes the ports of the request's scheme", function()
        local value = {nodes = {["10.0.0.1"] = 1}}
        assert.equal(80, upstream.resolve(ctx_of("u2", 1), value).nodes[1].port)
        assert.equal(443, upstream.resolve(ctx_of("u2", 1, "https"), value).nodes[1].port)
        assert.equal(80, upstream.resolve(ctx_of("u2", 1), value).nodes[1].port)
        assert.equal(443, upstream.resolve(ctx_of(nil, nil, "grpcs"), value).nodes[1].port)
    end)
    it("C14: follows a record, and keeps the picker while it stays", function()
        local value = {nodes = {["a.example:81"] = 1, ["b.example"] = 1, ["10.9.9.9"] = 1}}
        local up = upstream.resolve(ctx_of("u3", 1), value)
        assert.same({"10.9.9.9", "10.0.0.1", "[2001:db8::2]"}, {up.nodes[1].host, up.nodes[2].host, up.nodes[3].host})
        assert.equal("a.example", up.nodes[2].domain)
        assert.equal("a.example:81", up.nodes[2].upstream_host)
        assert.equal("b.example", up.nodes[3].upstream_host)
        assert.equal(up, upstream.resolve(ctx_of("u3", 1), value))
        assert.equal(4, asked)
        addresses["a.example"] = "10.0.0.77"
        local other = upstream.resolve(ctx_of("u3", 1), value)
        assert.equal("10.0.0.77", other.nodes[2].host)
        assert.equal("10.0.0.1", up.nodes[2].host) -- a request under way keeps what it has
    end)
    it("C14: a domain that fails is left out, the others go on; without any it is 503", function()
        local value = {nodes = {["a.example"] = 1, ["b.example"] = 1}}
        addresses["a.example"] = nil
        local up = upstream.resolve(ctx_of("u4", 1), value)
        assert.equal(1, #up.nodes)
        addresses["b.example"] = nil
        local none, status, message = upstream.resolve(ctx_of("u4", 1), value)
        assert.is_nil(none)
        assert.equal(503, status)
        assert.equal("no valid upstream node: no such domain", message)
        addresses["a.example"] = "10.0.0.1"
        assert.equal("10.0.0.1", upstream.resolve(ctx_of("u4", 1), value).nodes[1].host)
    end)
    it("is 503 without an upstream or nodes", function()
        assert.equal(503, (select(2, upstream.resolve(ctx_of("u5", 1), nil))))
        assert.equal(503, (select(2, upstream.resolve(ctx_of("u6", 1), {nodes = {}}))))
        assert.equal(503, (select(2, upstream.resolve(ctx_of("u7", 1), {service_name = "x", discovery_type = "dns"}))))
    end)

    it("takes the nodes that stand beside a service's name", function()
        local value = {service_name = "x", discovery_type = "consul", nodes = {{host = "10.0.0.1", port = 1, weight = 1}}}
        local up = upstream.resolve(ctx_of("u7a", 1), value)
        assert.equal("10.0.0.1", up.nodes[1].host)
        value = {service_name = "x", discovery_type = "consul", nodes = {}}
        assert.equal(503, (select(2, upstream.resolve(ctx_of("u7b", 1), value))))
    end)

    it("picks, retries, and starts anew with the next request", function()
        local value = {nodes = {["10.0.0.1:1"] = 1, ["10.0.0.2:2"] = 1}}
        local ctx = ctx_of("u8", 1)
        local up = upstream.resolve(ctx, value)
        local first = upstream.pick(ctx, up)
        assert.equal(first.host, ctx.balancer_ip)
        assert.equal(first.port, ctx.balancer_port)
        local second = upstream.pick(ctx, up)
        assert.are_not.equal(first.host, second.host)
        assert.equal(2, ctx.balancer_try_count)
        assert.is_nil((upstream.pick(ctx, up)))
        upstream.done(ctx, 502)
        upstream.done(ctx, 502)
        local picker = ctx.balancer_picker
        assert.is_nil(picker)
        local again = ctx_of("u8", 1)
        assert.is_not_nil(upstream.pick(again, upstream.resolve(again, value)))
    end)
    it("builds a picker once for a version and a health", function()
        local value = {nodes = {["10.0.0.1:1"] = 1, ["10.0.0.2:2"] = 1}, checks = {active = {}}}
        local health, sick, reports = 1, nil, {}
        local checker = {
            has_passive = true,
            health_version = function() return health end,
            usable = function(_, host) return host ~= sick end,
            report = function(_, host, port, kind, status)
                reports[#reports + 1] = {host, port, kind, status}
            end,
        }
        upstream.setup({checker = function() return checker end})
        local function one()
            local ctx = ctx_of("u9", 1)
            local node = upstream.pick(ctx, upstream.resolve(ctx, value))
            local p = ctx.balancer_picker
            upstream.done(ctx, 200)
            return p, node
        end
        local p = one()
        assert.equal(p, (one()))
        sick = "10.0.0.1"
        assert.equal(p, (one()))
        health = 2
        local q = one()
        assert.are_not.equal(p, q)
        for _ = 1, 5 do
            local _, node = one()
            assert.equal("10.0.0.2", node.host)
        end
        assert.same({"10.0.0.2", 2, "http", 200}, reports[#reports])
        local ctx = ctx_of("u9", 1)
        upstream.pick(ctx, upstream.resolve(ctx, value))
        upstream.failed(ctx, "failed", 504)
        upstream.failed(ctx, "failed", 502)
        upstream.failed(ctx, "next", 500)
        assert.same({{"10.0.0.2", 2, "timeout"}, {"10.0.0.2", 2, "tcp"}, {"10.0.0.2", 2, "http", 500}},
            {reports[#reports - 2], reports[#reports - 1], reports[#reports]})
        ctx.var.upstream_header_time = "0.001, -"
        upstream.done(ctx, 502)
        assert.same({"10.0.0.2", 2, "tcp"}, reports[#reports])
        ctx = ctx_of("u9", 1)
        upstream.pick(ctx, upstream.resolve(ctx, value))
        ctx.var.upstream_header_time = "-, 0.001"
        upstream.done(ctx, 504)
        assert.same({"10.0.0.2", 2, "http", 504}, reports[#reports])
        upstream.setup({checker = function() return nil end})
    end)
    it("allocates nothing per request", function()
        local value = {nodes = {["10.0.0.1:1"] = 3, ["10.0.0.2:2"] = 1}}
        local hashed = {nodes = {["10.0.0.1:1"] = 3, ["10.0.0.2:2"] = 1}, type = "chash", key = "remote_addr"}
        local counted = {nodes = {["10.0.0.1:1"] = 3, ["10.0.0.2:2"] = 1}, type = "least_conn"}
        for key, one in pairs({plain = value, hashed = hashed, counted = counted}) do
            local ctx = ctx_of(key, 1)
            jit.off()
            jit.flush()
            for _ = 1, 10 do
                ctx.balancer_hash, ctx.balancer_group = nil, nil
                upstream.pick(ctx, upstream.resolve(ctx, one))
                upstream.done(ctx, 200)
            end
            collectgarbage()
            collectgarbage("stop")
            local before = collectgarbage("count")
            for _ = 1, 10000 do
                ctx.balancer_hash, ctx.balancer_group = nil, nil
                upstream.pick(ctx, upstream.resolve(ctx, one))
                upstream.done(ctx, 200)
            end
            local grown = collectgarbage("count") - before
            collectgarbage("restart")
            jit.on()
            -- The smallest object has 24 bytes: one for each request would be 234 KiB.
            assert.is_true(grown < 100, key .. " grew by " .. grown .. " KiB in 10000 requests")
        end
    end)
end)

describe("upstream helpers", function()
    it("C9: host_header by pass_host", function()
        local node = nodes_of.make({weight = 1}, "a.example", 443, "https", "10.0.0.1")
        local ctx = {}
        assert.is_nil(upstream.host_header(ctx, {}, node))
        assert.is_nil(upstream.host_header(ctx, {pass_host = "pass", upstream_host = "x"}, node))
        assert.equal("x", upstream.host_header(ctx, {pass_host = "rewrite", upstream_host = "x"}, node))
        assert.equal("a.example", upstream.host_header(ctx, {pass_host = "node", scheme = "https"}, node))
        local other = {upstream_scheme = "http"}
        assert.equal("a.example:443", upstream.host_header(other, {pass_host = "node", scheme = "https"}, node))
        local v6 = nodes_of.make({weight = 1}, "[::1]", 8080, "http")
        assert.equal("[::1]:8080", upstream.host_header(ctx, {pass_host = "node"}, v6))
    end)
    it("C7: tries and deadline", function()
        assert.equal(2, upstream.tries({}, 3))
        assert.equal(0, upstream.tries({}, 1))
        assert.equal(0, upstream.tries({retries = 0}, 3))
        assert.equal(5, upstream.tries({retries = 5}, 1))
        assert.is_nil(upstream.deadline({}, 10))
        assert.is_nil(upstream.deadline({retry_timeout = 0}, 10))
        assert.equal(11.5, upstream.deadline({retry_timeout = 1.5}, 10))
    end)
    it("C18: the route's timeout before the upstream's", function()
        assert.same({1, 2, 3}, {upstream.timeouts({timeout = {connect = 1, send = 2, read = 3}}, {timeout = {connect = 9}})})
        assert.same({9, 9, 9}, {upstream.timeouts({}, {timeout = {connect = 9, send = 9, read = 9}})})
        assert.is_nil((upstream.timeouts(nil, {})))
    end)
end)

describe("upstream.generations", function()
    it("keeps what is used and bounds the rest", function()
        local cache = generations.new(10)
        cache:set("kept", 0)
        for i = 1, 100 do
            cache:set(i, i)
            assert.equal(0, cache:get("kept"))
        end
        assert.is_nil(cache:get(1))
        assert.equal(100, cache:get(100))
        local count = 0
        for _, half in ipairs({cache.young, cache.old}) do
            for _ in pairs(half) do
                count = count + 1
            end
        end
        assert.is_true(count <= 20)
        cache:delete(100)
        assert.is_nil(cache:get(100))
    end)
end)
