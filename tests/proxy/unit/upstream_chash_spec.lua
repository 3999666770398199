-- Consistent hashing: against vectors made with Python's zlib, and against a second implementation written from the description
-- alone.
local bit = require("bit")
local crc32 = require("dpproxy.upstream.crc32")
local chash = require("dpproxy.upstream.chash")
local nodes_of = require("dpproxy.upstream.nodes")

local function ctx_of(key)
    return {var = {k = key, remote_addr = "192.0.2.1"}}
end

local function group(map)
    return chash.new(nodes_of.normalize(map, "http"), {key = "k"}, {})
end

-- Bit by bit, no table.
local function plain_crc(text)
    local crc = bit.bnot(0)
    for i = 1, #text do
        crc = bit.bxor(crc, text:byte(i))
        for _ = 1, 8 do
            local low = bit.band(crc, 1)
            crc = bit.rshift(crc, 1)
            if low == 1 then
                crc = bit.bxor(crc, 0xedb88320)
            end
        end
    end
    return bit.bnot(crc) % 2 ^ 32
end

local function plain_ring(weights)
    local ring = {}
    for id, points in pairs(weights) do
        local name, previous = id:gsub(":", "\0"), 0
        for _ = 1, points * 160 do
            local bytes = {}
            for i = 0, 3 do
                bytes[#bytes + 1] = string.char(math.floor(previous / 256 ^ i) % 256)
            end
            previous = plain_crc(name .. table.concat(bytes))
            ring[#ring + 1] = {previous, id}
        end
    end
    return ring
end

-- No sorting: the smallest point at or behind the key, or the smallest of all; tried nodes are left out.
local function plain_find(ring, key, tried)
    local sum, best, first = plain_crc(key), nil, nil
    for _, point in ipairs(ring) do
        if not tried[point[2]] then
            if point[1] >= sum and (not best or point[1] < best[1]) then
                best = point
            end
            if not first or point[1] < first[1] then
                first = point
            end
        end
    end
    return (best or first)[2]
end

describe("upstream.crc32", function()
    it("is zlib's", function()
        assert.equal(0xcbf43926, crc32.sum("123456789"))
        assert.equal(0, crc32.sum(""))
        assert.equal(0x414fa339, crc32.sum("The quick brown fox jumps over the lazy dog"))
        assert.equal(plain_crc("\0\255\128x"), crc32.sum("\0\255\128x"))
    end)
    it("adds up over parts", function()
        local state = crc32.update(crc32.update(crc32.start, "12345"), "6789")
        assert.equal(0xcbf43926, crc32.finish(state))
        assert.equal(crc32.sum("a\1\2\3\4"),
            crc32.finish(crc32.update_u32(crc32.update(crc32.start, "a"), bit.tobit(0x04030201))))
    end)
end)

describe("upstream.chash", function()
    it("gives the nodes that Python's zlib gives", function()
        local g = group({["127.0.0.1:1980"] = 1, ["127.0.0.1:1981"] = 2, ["127.0.0.1:1982"] = 1})
        local expected = {
            a = 1981, b = 1981, hello = 1980, ["user-1"] = 1980, ["user-2"] = 1982, ["10.0.0.1"] = 1981, [""] = 1982,
            ["/index.html"] = 1981, ["session=42"] = 1981, ["Ümläut"] = 1982,
        }
        for key, port in pairs(expected) do
            assert.equal(port, g:pick(ctx_of(key)).port, key)
        end
    end)
    it("equals the description, retries and unhealthy nodes too", function()
        local weights = {["10.0.0.1:80"] = 30, ["10.0.0.2:80"] = 10, ["[2001:db8::1]:8080"] = 20, ["n.example:81"] = 10}
        local g = group(weights)
        local ring = plain_ring({["10.0.0.1:80"] = 3, ["10.0.0.2:80"] = 1, ["[2001:db8::1]:8080"] = 2, ["n.example:81"] = 1})
        for i = 1, 60 do
            local key, tried, tried_ids = "key-" .. i, {}, {}
            local ctx = ctx_of(key)
            for _ = 1, 4 do
                local node = g:pick(ctx, tried)
                assert.equal(plain_find(ring, key, tried_ids), node.id)
                tried[node], tried_ids[node.id] = true, true
            end
            assert.is_nil(g:pick(ctx, tried))
            local unusable = {[g.nodes[1]] = true, [g.nodes[2]] = true}
            assert.equal(plain_find(ring, key, {[g.nodes[1].id] = true, [g.nodes[2].id] = true}), g:pick(ctx, nil, unusable).id)
        end
    end)
    it("a key with the very sum of a point is that point's", function()
        local ring_group = group({["10.0.0.1:80"] = 1, ["10.0.0.2:80"] = 1})
        local ring = ring_group.ring
        for at = 0, ring.count - 1 do
            assert.equal(ring.nodes[ring.owners[at]], ring_group:pick({balancer_hash = ring.hashes[at]}))
        end
        assert.equal(ring.nodes[ring.owners[0]], ring_group:pick({balancer_hash = ring.hashes[ring.count - 1] + 1}))
    end)
    it("moves only the keys of a node that goes", function()
        local before = group({["10.0.0.1:80"] = 1, ["10.0.0.2:80"] = 1, ["10.0.0.3:80"] = 1})
        local after = group({["10.0.0.1:80"] = 1, ["10.0.0.3:80"] = 1})
        local moved, stayed = 0, 0
        for i = 1, 3000 do
            local old, new = before:pick(ctx_of("k" .. i)).id, after:pick(ctx_of("k" .. i)).id
            if old == "10.0.0.2:80" then
                moved = moved + 1
            else
                assert.equal(old, new)
                stayed = stayed + 1
            end
        end
        assert.is_true(moved > 600 and stayed > 1500)
    end)
    it("does not depend on the order of nodes", function()
        local one, two = {host = "10.0.0.1", port = 1, weight = 1}, {host = "10.0.0.2", port = 1, weight = 1}
        local a = chash.new(nodes_of.normalize({one, two}), {key = "k"}, {})
        local b = chash.new(nodes_of.normalize({two, one}), {key = "k"}, {})
        for i = 1, 500 do
            assert.equal(a:pick(ctx_of("k" .. i)).id, b:pick(ctx_of("k" .. i)).id)
        end
    end)
    it("leaves weight 0 out, and takes all when all have it", function()
        local g = group({["10.0.0.1:80"] = 0, ["10.0.0.2:80"] = 3})
        local all = group({["10.0.0.1:80"] = 0, ["10.0.0.2:80"] = 0})
        local seen = {}
        for i = 1, 200 do
            assert.equal("10.0.0.2:80", g:pick(ctx_of("k" .. i)).id)
            seen[all:pick(ctx_of("k" .. i)).id] = true
        end
        assert.is_true(seen["10.0.0.1:80"] and seen["10.0.0.2:80"])
    end)
    it("bounds the ring whatever the weights are", function()
        local g = group({["10.0.0.1:80"] = 1, ["10.0.0.2:80"] = 1000003})
        assert.is_true(g.ring.count <= 6252 * 160)
        assert.is_not_nil(g:pick(ctx_of("k")))
    end)
end)

describe("upstream.hash_key", function()
    local hash_key = require("dpproxy.upstream.hash_key")
    local function sum(value, ctx)
        return hash_key.sum(hash_key.compile(value), ctx)
    end
    local ctx = {consumer_name = "jack", var = {
        arg_k = "v", http_x_user = "u", cookie_sid = "c", remote_addr = "192.0.2.7", uri = "/a", remote_port = 4711,
    }}
    it("knows all kinds", function()
        assert.equal(crc32.sum("v"), sum({key = "arg_k"}, ctx))
        assert.equal(crc32.sum("4711"), sum({key = "remote_port", hash_on = "vars"}, ctx))
        assert.equal(crc32.sum("u"), sum({key = "X-User", hash_on = "header"}, ctx))
        assert.equal(crc32.sum("c"), sum({key = "sid", hash_on = "cookie"}, ctx))
        assert.equal(crc32.sum("jack"), sum({hash_on = "consumer"}, ctx))
        assert.equal(crc32.sum("/a-v!"), sum({key = "$uri-${arg_k}!", hash_on = "vars_combinations"}, ctx))
        assert.equal(crc32.sum("/ax"), sum({key = "$uri${ arg_no ?? x }", hash_on = "vars_combinations"}, ctx))
        assert.equal(crc32.sum("\\$uri/a"), sum({key = "\\$uri$uri", hash_on = "vars_combinations"}, ctx))
    end)
    it("falls back to remote_addr", function()
        for _, value in ipairs({
            {key = "arg_no"}, {key = "X-No", hash_on = "header"}, {key = "no", hash_on = "cookie"},
            {key = "$arg_no-$arg_none", hash_on = "vars_combinations"}, {key = "plain", hash_on = "vars_combinations"},
        }) do
            assert.equal(crc32.sum("192.0.2.7"), sum(value, ctx))
        end
        assert.equal(crc32.sum("192.0.2.7"), sum({hash_on = "consumer"}, {var = ctx.var}))
    end)
end)
