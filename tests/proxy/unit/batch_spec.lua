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

describe("resty.http", function()
    -- A server's side of a connection: what it answers, and what it got.
    local function client_of(answer)
        local at, sent, closed = 1, {}, nil
        local sock = {
            settimeout = function() end,
            connect = function() return 1 end,
            getreusedtimes = function() return 0 end,
            send = function(_, parts)
                sent[#sent + 1] = type(parts) == "table" and table.concat(parts) or parts
                return 1
            end,
            receive = function(_, how)
                if how == "*l" then
                    local line, after = answer:match("^([^\n]*)\n()", at)
                    if not line then
                        return nil, "closed"
                    end
                    at = after
                    return (line:gsub("\r$", ""))
                end
                local data = answer:sub(at, at + how - 1)
                at = at + #data
                if #data < how then
                    return nil, "closed", data
                end
                return data
            end,
            close = function() closed = "closed" end,
            setkeepalive = function()
                closed = "kept"
                return 1
            end,
        }
        rawset(ngx, "socket", {tcp = function() return sock end})
        return require("resty.http").new(), sent, function() return closed end
    end
    local function ask(answer, params)
        local client, sent, closed = client_of(answer)
        local response, err = client:request_uri("http://127.0.0.1:81/p?a=1", params)
        return response, err, sent[1], closed()
    end
    it("asks and reads answers of all kinds", function()
        local response, _, sent, closed = ask("HTTP/1.1 200 OK\r\nContent-Length: 2\r\nX-A: 1\r\nx-a: 2\r\n\r\nhi",
            {method = "POST", body = "b", headers = {["X-H"] = {"1", "2"}, ["X-Evil"] = "a\r\nb"}})
        assert.equal("hi", response.body)
        assert.same({"1", "2"}, response.headers["x-a"])
        assert.equal("kept", closed)
        assert.is_truthy(sent:find("^POST /p%?a=1 HTTP/1.1\r\n"))
        for _, line in ipairs({"Host: 127.0.0.1:81", "Content-Length: 1", "X-H: 1", "X-H: 2", "X-Evil: a  b"}) do
            assert.is_truthy(sent:find("\r\n" .. line .. "\r\n", 1, true), line)
        end
        assert.is_truthy(sent:find("\r\n\r\nb$"))
        response, _, _, closed = ask("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" ..
            "3\r\nabc\r\n2;x=y\r\nde\r\n0\r\nTrailer: t\r\n\r\n")
        assert.equal("abcde", response.body)
        assert.equal("kept", closed)
        response, _, _, closed = ask("HTTP/1.0 200 OK\r\n\r\nto the end")
        assert.equal("to the end", response.body)
        assert.equal("closed", closed)
        response, _, _, closed = ask("HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n")
        assert.equal("", response.body)
        assert.equal("closed", closed)
        response = ask("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n", {method = "HEAD"})
        assert.equal("", response.body)
    end)
    it("refuses answers that are no good", function()
        for _, case in ipairs({
            {"", "closed"}, {"SMTP\r\n", "not an HTTP answer"},
            {"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nshort", "closed"},
            {"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", "bad chunk"},
            {"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n123456789", "body is larger than 5 bytes"},
            {"HTTP/1.1 200 OK\r\n" .. ("X: y\r\n"):rep(300) .. "\r\n", "too many headers"},
        }) do
            local response, err, _, closed = ask(case[1], {max_body = 5})
            assert.is_nil(response)
            assert.equal(case[2], err)
            assert.equal("closed", closed)
        end
    end)
    it("takes URLs apart", function()
        local client = client_of("")
        local function parts(url)
            local u = client:parse_uri(url, false)
            return u[1] .. " " .. u[2] .. " " .. u[3] .. " " .. u[4] .. " " .. u[5]
        end
        assert.equal("http a.com 80 / ", parts("http://a.com"))
        assert.equal("https a.com 443 / x=1", parts("https://a.com?x=1"))
        assert.equal("http a.com 81 /p/q x", parts("http://u:p@a.com:81/p/q?x#y"))
        assert.equal("http [::1] 8080 /p ", parts("HTTP://[::1]:8080/p#f"))
        assert.equal("/p?q=1", client:parse_uri("http://a.com/p?q=1").path)
        for _, bad in ipairs({"a.com", "ftp://a.com", "http://"}) do
            assert.is_nil((client:parse_uri(bad)), bad)
        end
    end)
end)

describe("resty.expr.v1 and resty.ipmatcher", function()
    it("have the interface of the originals", function()
        local expr = require("resty.expr.v1")
        local e = assert(expr.new({{"a", "==", "1"}}))
        assert.is_true(e:eval({a = "1"}))
        assert.is_false(e:eval({a = "2"}))
        assert.is_nil((expr.new({{"a", "no operator", "1"}})))
        local ip = assert(require("resty.ipmatcher").new({"10.0.0.0/8", "::1"}))
        assert.is_true(ip:match("10.1.1.1"))
        assert.is_true(ip:match("::1"))
        assert.is_false((ip:match("11.1.1.1")))
        assert.equal("invalid ip address, not ipv4 and ipv6", (select(2, ip:match("x"))))
    end)
end)
