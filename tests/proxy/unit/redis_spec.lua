local fake_ngx = require("fake_ngx")
local resp = require("dpproxy.limit.redis_resp")

-- A socket that has these bytes to give.
local function socket(text)
    local at = 1
    return {
        receive = function(_, what)
            local from = at
            if what == "*l" then
                local line_end = text:find("\r\n", at, true)
                if not line_end then
                    return nil, "closed"
                end
                at = line_end + 2
                return text:sub(from, line_end - 1)
            end
            local to = at + what - 1
            if to > #text then
                return nil, "closed"
            end
            at = to + 1
            return text:sub(from, to)
        end,
        rest = function() return text:sub(at) end,
    }
end

local function read(text)
    return resp.read(socket(text))
end

describe("limit.redis_resp", function()
    it("writes commands as arrays of strings", function()
        assert.equal("*3\r\n$3\r\nSET\r\n$1\r\na\r\n$2\r\n\r\n\r\n", resp.encode({"SET", "a", "\r\n"}))
        assert.equal("*2\r\n$6\r\nSELECT\r\n$1\r\n3\r\n", resp.encode({"SELECT", 3}))
    end)
    it("reads all kinds of replies", function()
        assert.equal("OK", (read("+OK\r\n")))
        assert.equal(-7, (read(":-7\r\n")))
        assert.equal("a\r\nb", (read("$4\r\na\r\nb\r\n")))
        assert.equal("", (read("$0\r\n\r\n")))
        assert.equal(resp.null, (read("$-1\r\n")))
        assert.equal(resp.null, (read("*-1\r\n")))
        assert.same({1, "b", {"c"}, resp.null}, (read("*4\r\n:1\r\n$1\r\nb\r\n*1\r\n+c\r\n$-1\r\n")))
        assert.same({nil, "ERR no", true}, {read("-ERR no\r\n")})
        -- A refusal inside an array does not end the array.
        assert.same({resp.null, 2}, (read("*2\r\n-ERR a\r\n:2\r\n")))
    end)
    it("leaves what follows for the next one", function()
        local sock = socket("*1\r\n$1\r\nx\r\n+next\r\n")
        assert.same({"x"}, (resp.read(sock)))
        assert.equal("next", (resp.read(sock)))
    end)
    it("refuses what is no reply, too large, too deep or cut off", function()
        for _, text in ipairs({"HTTP/1.1 400 Bad Request\r\n", "\r\n", "$x\r\n", "$-2\r\n", "$2000000\r\n", "*-5\r\n",
            "*999999999\r\n", ":one\r\n",
            ("*1\r\n"):rep(50), "*2\r\n:1\r\n", "$5\r\nab\r\n", "*x\r\n", "$1e9\r\n", "$nan\r\n", "*nan\r\n", ""}) do
            local value, err, refused = read(text)
            assert.is_nil(value, text)
            assert.is_string(err, text)
            assert.is_nil(refused, text)
        end
        local many = ("*9000\r\n" .. ("*0\r\n"):rep(9000)):rep(12)
        assert.is_nil((read("*12\r\n" .. many)))
    end)
    it("stands any bytes", function()
        math.randomseed(7)
        local letters = {"+", "-", ":", "$", "*", "\r\n", "1", "2", "9", "a", "-1", "\0"}
        for _ = 1, 3000 do
            local parts = {}
            for i = 1, math.random(20) do
                parts[i] = letters[math.random(#letters)]
            end
            local value, err = read(table.concat(parts))
            assert.is_true(value ~= nil or type(err) == "string")
        end
    end)
end)

describe("limit.redis_cluster", function()
    local cluster
    before_each(function()
        fake_ngx.install()
        fake_ngx.unload()
        cluster = require("dpproxy.limit.redis_cluster")
    end)

    it("knows the slot of a key", function()
        assert.equal(12739, cluster.slot("123456789"))      -- the check value of CRC16/XMODEM, 0x31c3
        assert.equal(12182, cluster.slot("foo"))
        assert.equal(0, cluster.slot(""))
        assert.equal(cluster.slot("user1000"), cluster.slot("{user1000}.following"))
        assert.equal(cluster.slot("bar"), cluster.slot("foo{bar}{zap}"))
        assert.equal(cluster.slot("{bar"), cluster.slot("foo{{bar}}zap"))
        assert.not_equal(cluster.slot("bar"), cluster.slot("foo{}{bar}"))   -- empty braces: the whole key
    end)
    it("reads where slots are, and refuses nonsense", function()
        local asked = {host = "10.0.0.9", port = 1}
        local first = {0, 1, {"10.0.0.1", 6379, "id"}, {"10.0.0.2", 6379, "replica"}}
        local slots = cluster.read_slots({first, {2, 2, {"", 6380}}}, asked)
        assert.same({"10.0.0.1", "10.0.0.1", "10.0.0.9"}, {slots[0].host, slots[1].host, slots[2].host})
        assert.equal(6380, slots[2].port)
        for _, bad in ipairs({{{0, 99999, {"a", 1}}}, {{0}}, {{0, 1, "a"}}, {{-1, 1, {"a", 1}}}, {{0, 1, {"a", "b"}}}}) do
            assert.is_nil(cluster.read_slots(bad, asked))
        end
    end)
    it("understands redirections", function()
        local asked = {host = "10.0.0.9", port = 1}
        assert.same({"MOVED", {host = "10.0.0.1", port = 6381}}, {cluster.redirection("MOVED 3999 10.0.0.1:6381", asked)})
        assert.same({"ASK", {host = "::1", port = 7}}, {cluster.redirection("ASK 1 [::1]:7", asked)})
        assert.same({"ASK", {host = "fe80::1", port = 7}}, {cluster.redirection("ASK 1 fe80::1:7", asked)})
        assert.same({"MOVED", {host = "10.0.0.9", port = 7}}, {cluster.redirection("MOVED 1 :7", asked)})
        assert.is_nil((cluster.redirection("ERR MOVED", asked)))
        assert.is_nil((cluster.redirection("MOVED", asked)))
    end)
end)
