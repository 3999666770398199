local faulty_dict = require("faulty_dict")
local lease = require("dpproxy.config.lease")

describe("config.lease", function()
    local now, dict, dead

    local function new(pid)
        return lease.new({dict = dict, id = pid, ttl = 1.5, is_dead = function(other) return dead[other] or false end})
    end

    before_each(function()
        now, dead = 100, {}
        dict = faulty_dict.new({clock = function() return now end})
    end)

    it("has one owner, who stays", function()
        local a, b = new(1), new(2)
        assert.same({true, true}, {a:tick()})
        for _ = 1, 20 do
            now = now + 1
            assert.same({true, false}, {a:tick()})
            assert.same({false, false}, {b:tick()})
        end
        assert.is_true(a:holds())
        assert.is_false(b:holds())
    end)

    it("stays with an owner who says in the middle of long work that it lives", function()
        local a, b = new(1), new(2)
        a:tick()
        for _ = 1, 10 do
            now = now + 1
            assert.is_true(a:renew())
            assert.is_false((b:tick()))
        end
        now = now + 2
        b:tick()
        assert.is_false(a:renew())
        assert.is_true(b:holds())
    end)

    it("passes on when the owner is dead, silent, or leaves", function()
        local a, b, c = new(1), new(2), new(3)
        a:tick()
        dead[1] = true
        assert.is_true((b:tick()))
        assert.is_false((c:tick()))
        now = now + 1.4
        assert.is_false((c:tick()))
        now = now + 0.2
        assert.is_true((c:tick()))
        assert.same({false, true}, {b:tick()}) -- it was busy for too long: it begins anew
        c:release()
        assert.is_true((b:tick()))
        c:release() -- not c's any more
        assert.is_true(b:holds())
    end)
end)
