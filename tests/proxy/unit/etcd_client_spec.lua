local base64 = require("dpproxy.etcd.base64")
local client = require("dpproxy.etcd.client")
local endpoints = require("dpproxy.etcd.endpoints")
local fake_etcd = require("fake_etcd")
local http = require("dpproxy.etcd.http")

-- A socket that says what it is told, piece by piece.
local function scripted(pieces)
    local at = 0
    return {
        receiveany = function()
            at = at + 1
            local piece = pieces[at]
            if piece == nil then
                return nil, "closed"
            elseif piece == false then
                return nil, "timeout"
            end
            return piece
        end,
        send = function(_, text) return #text end,
        close = function() end, settimeouts = function() end,
    }
end

local function split(text, sizes)
    local pieces = {}
    local at = 1
    for i = 1, math.huge do
        if at > #text then
            return pieces
        end
        local size = sizes[(i - 1) % #sizes + 1]
        pieces[i] = text:sub(at, at + size - 1)
        at = at + size
    end
end

describe("etcd.base64", function()
    it("agrees with the standard's examples, and with itself", function()
        local examples = {[""] = "", f = "Zg==", fo = "Zm8=", foo = "Zm9v", foob = "Zm9vYg==", fooba = "Zm9vYmE=",
            foobar = "Zm9vYmFy"}
        for plain, coded in pairs(examples) do
            assert.equal(coded, base64.encode(plain))
            assert.equal(plain, base64.decode(coded))
        end
        local all = {}
        for i = 0, 255 do
            all[#all + 1] = string.char(i)
        end
        local text = table.concat(all):rep(40)
        for length = 0, 300 do
            assert.equal(text:sub(1, length), base64.decode(base64.encode(text:sub(1, length))))
        end
        assert.equal(text, base64.decode(base64.encode(text)))
    end)
    it("refuses what is none", function()
        for _, text in ipairs({"A", "Zg=====", "Zm9v\n", "Zm 9v", "Z===", "\0\0\0\0", "Zg==Zg=="}) do
            assert.is_nil(base64.decode(text))
        end
    end)
end)

describe("etcd.http", function()
    local chunked = "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" ..
        "5;x=y\r\nhello\r\nA \r\n0123456789\r\n0\r\nTrailer: x\r\n\r\n"

    it("reads a chunked body cut anywhere, and goes on after timeouts", function()
        for first = 1, #chunked do
            for _, second in ipairs({1, 3, 1000}) do
                local pieces = {}
                for _, piece in ipairs(split(chunked, {first, second})) do
                    pieces[#pieces + 1] = false
                    pieces[#pieces + 1] = piece
                end
                local conn = http.wrap(scripted(pieces))
                conn:request("GET", "/", {})
                local status, err
                repeat
                    status, err = conn:response()
                until err ~= "timeout"
                assert.equal(200, status)
                local body = {}
                while true do
                    local piece
                    piece, err = conn:read()
                    if piece then
                        body[#body + 1] = piece
                    elseif err ~= "timeout" then
                        break
                    end
                end
                assert.is_nil(err)
                assert.equal("hello0123456789", table.concat(body))
            end
        end
    end)

    it("never takes a cut response for a whole one", function()
        local counted = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"
        for _, whole in ipairs({chunked, counted}) do
            for length = 0, #whole - 1 do
                local conn = http.wrap(scripted({whole:sub(1, length)}))
                conn:request("GET", "/", {})
                local status = conn:response()
                if status then
                    assert.is_nil((conn:read_all(100)))
                end
            end
        end
    end)

    it("has limits", function()
        local function answer(text, limit)
            local conn = http.wrap(scripted(split(text, {50000})))
            conn:request("GET", "/", {})
            local status, err = conn:response()
            if not status then
                return err
            end
            return select(2, conn:read_all(limit or 100))
        end
        assert.equal("response too large", answer("HTTP/1.1 200 OK\r\nContent-Length: 101\r\n\r\n" .. ("x"):rep(101)))
        assert.equal("header line too long", answer("HTTP/1.1 200 OK\r\nX: " .. ("x"):rep(70000)))
        assert.equal("too many headers", answer("HTTP/1.1 200 OK\r\n" .. ("X: y\r\n"):rep(200)))
        assert.equal("bad chunk size", answer("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nfffffffffffffffff\r\n"))
        assert.equal("bad chunk size", answer("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-1\r\n"))
        assert.equal("bad chunk end", answer("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nxy\r\n0\r\n\r\n"))
        assert.equal("bad content length", answer("HTTP/1.1 200 OK\r\nContent-Length: 5x\r\n\r\n"))
        assert.equal("not an HTTP response", answer("SSH-2.0-OpenSSH\r\n"))
    end)

    it("finds lines wherever the pieces end", function()
        local text = "one\n\ntwo and more\nthree"
        for a = 1, #text do
            for b = 1, 4 do
                local pieces = split(text, {a, b})
                local at = 0
                local lines = http.lines({read = function()
                    at = at + 1
                    return pieces[at]
                end}, 1000)
                assert.same({"one", "two and more", "three"}, {lines:next(), lines:next(), lines:next()})
                assert.is_nil((lines:next()))
            end
        end
        local lines = http.lines({read = function() return ("x"):rep(100) end}, 1000)
        assert.same({nil, "line too long"}, {lines:next()})
    end)
end)

describe("etcd.endpoints", function()
    it("reads URLs", function()
        local function parts(url)
            local e = endpoints.parse(url)
            return e and {e.scheme, e.host, e.port, e.unix, e.authority}
        end
        assert.same({"http", "a.b", 2379, nil, "a.b:2379"}, parts("http://a.b:2379"))
        assert.same({"https", "a", 2379, nil, "a:2379"}, parts("https://a/"))
        assert.same({"http", "a", 1, nil, "a:1"}, parts("a:1"))
        assert.same({"https", "::1", 7, nil, "[::1]:7"}, parts("https://[::1]:7"))
        assert.same({"http", "localhost", nil, "/run/x.sock", "localhost"}, parts("unix:/run/x.sock"))
        assert.same({"http", "localhost", nil, "/run/x.sock", "localhost"}, parts("unix:///run/x.sock"))
        for _, url in ipairs({"ftp://a", "http://", "http://a:99999", "http://a/b", "http://a b", "http://u:p@h:1"}) do
            assert.is_nil((endpoints.parse(url)))
        end
    end)

    it("goes round, leaves failing ones alone for a while, and comes back", function()
        local now = 0
        local list = endpoints.new({"http://a", "http://b", "http://c"}, {clock = function() return now end,
            random = function() return 0.9 end})
        local seen = {}
        for i = 1, 6 do
            seen[i] = list:pick().host
        end
        assert.equal("c a b c a b", table.concat(seen, " "))
        local c = list:pick()
        list:bad(c)
        for _ = 1, 6 do
            assert.not_equal("c", list:pick().host)
        end
        now = 0.2
        seen = {}
        for _ = 1, 3 do
            seen[list:pick().host] = true
        end
        assert.is_true(seen.c)
        for _ = 1, 40 do
            list:bad(c)
        end
        assert.is_true(c.retry_at - now <= 5)
        for _, one in ipairs(list.list) do
            list:bad(one)
        end
        local none, wait = list:pick()
        assert.is_nil(none)
        assert.is_true(wait > 0 and wait <= 5)
        now = -3600 -- the clock jumped back: nobody is locked out for an hour
        assert.is_table((list:pick()))
    end)
end)

describe("etcd.client", function()
    local now, etcd

    local function new_client(opts)
        opts = opts or {}
        opts.endpoints = opts.endpoints or {"http://a:1"}
        opts.connect, opts.clock, opts.random = etcd:connect(), function() return now end, function() return 0.5 end
        return client.new(opts)
    end

    before_each(function()
        now = 1000
        etcd = fake_etcd.new({
            random = function(n) return math.random(n) end, clock = function() return now end,
            wait = function(seconds) now = now + seconds end,
        })
        etcd:put("/k", "v")
    end)

    local range = {key = base64.encode("/k")}

    it("gets a token, uses it, renews it by age, and at once when the server forgot it", function()
        for gateway = 1, 2 do
            etcd.gateway, etcd.user, etcd.password, etcd.tokens = gateway, "u", "p", 0
            local c = new_client({user = "u", password = "p"})
            assert.is_table((c:call("/v3/kv/range", range)))
            assert.is_table((c:call("/v3/kv/range", range)))
            assert.equal(1, etcd.tokens)
            now = now + 300
            assert.is_table((c:call("/v3/kv/range", range)))
            assert.equal(2, etcd.tokens)
            etcd.token = "forgotten"
            assert.is_table((c:call("/v3/kv/range", range)))
            assert.equal(3, etcd.tokens)
            etcd.token = "forgotten"
            local stream = assert(c:watch({key = range.key, range_end = base64.encode("/l"), start_revision = "1"}))
            assert.is_true(stream:next(1).created)
            assert.equal(4, etcd.tokens)
        end
    end)

    it("says that the password is wrong, without a storm", function()
        etcd.user, etcd.password = "u", "p"
        local c = new_client({user = "u", password = "wrong", endpoints = {"http://a:1", "http://b:1"}})
        local answer, err, kind = c:call("/v3/kv/range", range)
        assert.is_nil(answer)
        assert.equal("auth", kind)
        assert.truthy(err:find("authentication failed", 1, true))
        assert.is_nil(err:find("wrong"))
        assert.equal(1, #etcd.requests)
    end)

    it("fails over, and comes back", function()
        local c = new_client({endpoints = {"http://a:1", "http://b:1", "http://c:1"}})
        etcd.down = {["http://a:1"] = true, ["http://c:1"] = true}
        for _ = 1, 10 do
            assert.is_table((c:call("/v3/kv/range", range)))
        end
        etcd.down["http://b:1"] = true
        local answer, _, kind = c:call("/v3/kv/range", range)
        assert.is_nil(answer)
        assert.equal("away", kind)
        etcd.down = {}
        now = now + c:wait()
        assert.is_table((c:call("/v3/kv/range", range)))
    end)

    it("understands errors of both gateways", function()
        local function kind_of(status, body)
            etcd.answer = function() return status, body end
            local _, err, kind = new_client():call("/v3/kv/range", range)
            return kind, err
        end
        local compacted = "etcdserver: mvcc: required revision has been compacted"
        assert.equal("compacted", (kind_of(400, {error = compacted, message = compacted, code = 11})))
        assert.equal("compacted", (kind_of(400, {message = compacted, code = 11, details = {}})))
        assert.equal("auth", (kind_of(403, {error = "etcdserver: permission denied", code = 7})))
        assert.equal("auth", (kind_of(403, {message = "etcdserver: permission denied", code = 7})))
        assert.equal("too large", (kind_of(429, {error = "grpc: received message larger than max (5 vs. 4)", code = 8})))
        assert.equal("away", (kind_of(503, {error = "etcdserver: no leader", code = 14})))
        assert.equal("away", (kind_of(504, {message = "context deadline exceeded", code = 4})))
        assert.equal("away", (kind_of(502, "<html>")))
        assert.equal("refused", (kind_of(404, {error = "Not Found", code = 5})))
        assert.equal("protocol", (kind_of(200, "hello")))
    end)

    it("reads a stream's errors, and what is none", function()
        local function next_of(line)
            local c = new_client()
            local stream = assert(c:watch({key = range.key, range_end = base64.encode("/l"), start_revision = "1"}))
            stream:next(1)
            stream.conn.sock.out = ("%x\r\n%s\r\n"):format(#line + 1, line .. "\n")
            local _, err, kind = stream:next(1)
            return kind, err
        end
        assert.equal("away",
            (next_of('{"error":{"grpc_code":14,"http_code":503,"message":"x","http_status":"Service Unavailable"}}')))
        assert.equal("away", (next_of('{"error":{"code":14,"message":"x"}}')))
        assert.equal("auth", (next_of('{"error":{"grpc_code":16,"http_code":401,"message":"etcdserver: invalid auth token"}}')))
        assert.equal("protocol", (next_of("<html>")))
        assert.equal("protocol", (next_of("[]")))
        local c = new_client()
        local stream = assert(c:watch({key = range.key, range_end = base64.encode("/l"), start_revision = "9"}))
        assert.is_true(stream:next(1).created)
        local begun = now
        assert.same({nil, "timeout"}, {stream:next(2)})
        assert.is_true(now - begun >= 2)
    end)
end)
