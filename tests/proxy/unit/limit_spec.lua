local count = require("dpproxy.limit.count")
local req = require("dpproxy.limit.req")
local conn = require("dpproxy.limit.conn")
local fake_dict = require("fake_dict")

local wall, dict

before_each(function()
    wall = 1000000
    dict = fake_dict.new(function() return wall end)
end)

describe("limit.count fixed", function()
    it("allows the limit, then rejects until the window ends", function()
        local expected = {{true, 1, 10}, {true, 0, 10}, {false, 0, 10}, {false, 0, 10}}
        for i, want in ipairs(expected) do
            assert.same(want, {count.fixed(dict, "k", 2, 10, 1)}, i)
        end
        wall = wall + 4
        assert.same({false, 0, 6}, {count.fixed(dict, "k", 2, 10, 1)})
        wall = wall + 6
        assert.same({true, 1, 10}, {count.fixed(dict, "k", 2, 10, 1)})
    end)
    it("keeps keys apart", function()
        assert.same({true, 0, 5}, {count.fixed(dict, "a", 1, 5, 1)})
        assert.same({true, 0, 5}, {count.fixed(dict, "b", 1, 5, 1)})
        assert.is_false((count.fixed(dict, "a", 1, 5, 1)))
    end)
    it("does not stall when the clock goes back", function()
        for _ = 1, 3 do
            count.fixed(dict, "k", 2, 10, 1)
        end
        wall = wall - 3600
        assert.same({true, 1, 10}, {count.fixed(dict, "k", 2, 10, 1)})
        assert.is_true((count.fixed(dict, "k", 2, 10, 1)))
        assert.is_false((count.fixed(dict, "k", 2, 10, 1)))
        wall = wall + 10
        assert.is_true((count.fixed(dict, "k", 2, 10, 1)))
    end)
    it("tells an error of the dictionary", function()
        dict.full = true
        assert.same({nil, "no memory"}, {count.fixed(dict, "k", 2, 10, 1)})
    end)
end)

describe("limit.count sliding", function()
    it("weighs the previous window", function()
        local now = 100
        for i = 1, 10 do
            local ok, remaining = count.sliding(dict, "k", 10, 10, 1, now)
            assert.is_true(ok)
            assert.equal(10 - i, remaining)
        end
        assert.same({false, 0, 10}, {count.sliding(dict, "k", 10, 10, 1, now)})
        -- In the middle of the next window half of the ten still count.
        now = 115
        local allowed = 0
        for _ = 1, 10 do
            if count.sliding(dict, "k", 10, 10, 1, now) then
                allowed = allowed + 1
            end
        end
        assert.equal(5, allowed)
        local ok, _, reset = count.sliding(dict, "k", 10, 10, 1, now)
        assert.is_false(ok)
        assert.equal(0, reset)   -- the five are exactly what is left: the next moment frees some
        now = 140
        assert.is_true((count.sliding(dict, "k", 10, 10, 1, now)))
    end)
    it("costs what it is told", function()
        assert.is_true((count.sliding(dict, "k", 3, 10, 3, 50)))
        assert.is_false((count.sliding(dict, "k", 3, 10, 1, 50)))
    end)
end)

describe("limit.req", function()
    it("is a leaky bucket", function()
        local now = 5
        assert.equal(0, req.incoming(dict, "k", 2, 2, now))
        assert.equal(0.5, req.incoming(dict, "k", 2, 2, now))
        assert.equal(1, req.incoming(dict, "k", 2, 2, now))
        assert.same({nil, "rejected"}, {req.incoming(dict, "k", 2, 2, now)})
        now = now + 0.5
        assert.equal(1, req.incoming(dict, "k", 2, 2, now))
        assert.same({nil, "rejected"}, {req.incoming(dict, "k", 2, 2, now)})
        now = now + 10
        assert.equal(0, req.incoming(dict, "k", 2, 2, now))
    end)
    it("rejects the second of two at once when there is no burst", function()
        assert.equal(0, req.incoming(dict, "k", 10, 0, 1))
        assert.same({nil, "rejected"}, {req.incoming(dict, "k", 10, 0, 1.05)})
        assert.equal(0, req.incoming(dict, "k", 10, 0, 1.11))
    end)
    it("lets the given rate through, and not more", function()
        local allowed = 0
        for i = 0, 999 do
            if req.incoming(dict, "k", 10, 5, 1 + i / 100) then
                allowed = allowed + 1
            end
        end
        assert.is_true(allowed >= 104 and allowed <= 107, tostring(allowed))
    end)
    it("does not stall when its clock goes back", function()
        for _ = 1, 4 do
            req.incoming(dict, "k", 2, 2, 1000)
        end
        assert.equal(0, req.incoming(dict, "k", 2, 2, 10))
    end)
    it("forgets a key when its bucket is empty for sure", function()
        req.incoming(dict, "k", 2, 2, 1000)
        wall = wall + 3.1
        assert.is_nil(dict:get("k"))
    end)
end)

describe("limit.conn", function()
    it("counts those in flight", function()
        assert.equal(1, conn.enter(dict, "k", 1, 1, 7))
        assert.equal(2, conn.enter(dict, "k", 1, 1, 7))
        assert.same({nil, "rejected"}, {conn.enter(dict, "k", 1, 1, 7)})
        conn.leave(dict, "k", 7)
        assert.equal(2, conn.enter(dict, "k", 1, 1, 8))
        conn.leave(dict, "k", 7)
        conn.leave(dict, "k", 8)
        assert.same({}, dict:get_keys(0))
    end)
    it("delays by places", function()
        assert.equal(0, conn.delay(2, 2, 0.1))
        assert.equal(0.1, conn.delay(3, 2, 0.1))
        assert.equal(0.2, conn.delay(5, 2, 0.1))
    end)
    it("takes back what a dead worker held, and only that", function()
        conn.enter(dict, "a:b", 10, 0, 7)
        conn.enter(dict, "a:b", 10, 0, 7)
        conn.enter(dict, "a:b", 10, 0, 8)
        conn.enter(dict, "c", 10, 0, 7)
        assert.equal(3, conn.recover(dict, function(pid) return pid == 8 end))
        assert.equal(1, dict:get("a:b"))
        assert.is_nil(dict:get("c"))
        conn.leave(dict, "a:b", 8)
        assert.same({}, dict:get_keys(0))
        assert.equal(0, conn.recover(dict, function() return false end))
    end)
end)
