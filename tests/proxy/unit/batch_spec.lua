local fake_ngx = require("fake_ngx")

local fake, batch

before_each(function()
    fake = fake_ngx.install()
    fake_ngx.unload()
    package.loaded["apisix.plugin"] = {
        plugin_metadata = function() return {value = {max_pending_entries = 10}} end,
        conf_version = function(conf) return conf end,
        plugin_attr = function() end,
    }
    batch = require("apisix.utils.batch-processor")
end)

-- Lets time pass: timers that are due run, in order.
local function pass(seconds)
    local till = fake.now + seconds
    for _, timer in ipairs(fake.timers) do
        timer.at = timer.at or fake.now + timer.delay
    end
    while true do
        local first
        for i, timer in ipairs(fake.timers) do
            timer.at = timer.at or fake.now + timer.delay
            if timer.at <= till and (not first or timer.at < fake.timers[first].at) then
                first = i
            end
        end
        if not first then
            break
        end
        local timer = table.remove(fake.timers, first)
        fake.now = math.max(fake.now, timer.at)
        timer.fn(false, unpack(timer.args))
    end
    fake.now = till
end

local function processor(config, answers)
    local sent = {}
    local p = assert(batch:new(function(entries, max)
        table.insert(sent, {at = fake.now, max = max, unpack(entries)})
        local answer = table.remove(answers or {}, 1)
        if answer then
            return unpack(answer)
        end
        return true
    end, config))
    return p, sent
end

describe("batch-processor", function()
    it("sends when nothing more comes", function()
        local p, sent = processor({inactive_timeout = 2})
        p:push("a")
        pass(1)
        p:push("b")
        pass(1.9)
        assert.equal(0, #sent)
        assert.equal(2, batch.pending())
        pass(0.7)
        assert.same({"a", "b"}, {unpack(sent[1])})
        assert.equal(0, batch.pending())
        pass(10)
        assert.same({}, fake.timers)
    end)
    it("sends at the latest after buffer_duration", function()
        local p, sent = processor({inactive_timeout = 5, buffer_duration = 6})
        for i = 1, 10 do
            p:push(i)
            pass(1)
        end
        assert.is_true(#sent >= 1 and #sent[1] >= 6 and #sent[1] <= 7, tostring(#sent))
    end)
    it("sends at once when the batch is full", function()
        local p, sent = processor({batch_max_size = 2})
        p:push(1)
        p:push(2)
        p:push(3)
        pass(0)
        assert.same({1, 2}, {unpack(sent[1])})
        assert.equal(2, sent[1].max)
        local single, singles = processor({batch_max_size = 1})
        single:push("x")
        pass(0)
        assert.same({"x"}, {unpack(singles[1])})
    end)
    it("tries again, with those that did not arrive", function()
        local p, sent = processor({batch_max_size = 3, max_retry_count = 2, retry_delay = 3},
            {{false, "away"}, {false, "half", 2}, {true}})
        for i = 1, 3 do
            p:push(i)
        end
        pass(20)
        assert.equal(3, #sent)
        assert.same({2, 3}, {unpack(sent[3])})
        assert.is_true(sent[2].at - sent[1].at >= 3)
        assert.equal(3, p.processed_entries)
    end)
    it("gives up after max_retry_count, also on a Lua error", function()
        local p = assert(batch:new(function() error("broken") end, {batch_max_size = 1, max_retry_count = 1}))
        p:push(1)
        pass(20)
        assert.equal(1, p.processed_entries)
        assert.equal(0, batch.pending())
        assert.is_truthy(fake.logs[#fake.logs].text:find("exceeded the max_retry_count", 1, true))
    end)
    it("is bounded by its manager", function()
        local manager = require("apisix.utils.batch-processor-manager").new("log", "x")
        local ctx = {var = {}}
        for i = 1, 20 do
            if not manager:add_entry("conf", i) then
                manager:add_entry_to_new_processor("conf", i, ctx, function() return false, "away" end)
            end
        end
        assert.equal(10, batch.pending())
        pass(30)
        assert.equal(0, batch.pending())
        assert.is_true(manager:add_entry("conf", 21))
        assert.equal(1, batch.pending())
    end)
    it("refuses bad configurations", function()
        assert.is_nil((batch:new(function() end, {batch_max_size = 0})))
        assert.is_nil((batch:new(1, {})))
    end)
end)

describe("http_post.parse_url", function()
    it("takes URLs apart", function()
        local parse = require("dpproxy.base.http_post").parse_url
        local function parts(url)
            local u = parse(url)
            return u.scheme .. " " .. u.host .. " " .. u.port .. " " .. u.target .. " " .. u.authority
        end
        assert.equal("http a.com 80 / a.com", parts("http://a.com"))
        assert.equal("https a.com 443 /?x=1 a.com", parts("https://a.com?x=1"))
        assert.equal("http a.com 81 /p/q?x a.com:81", parts("http://u:p@a.com:81/p/q?x#y"))
        assert.equal("http [::1] 8080 /p [::1]:8080", parts("HTTP://[::1]:8080/p#f"))
        for _, bad in ipairs({"a.com", "ftp://a.com", "http://"}) do
            assert.is_nil((parse(bad)), bad)
        end
    end)
end)
