-- DNS: messages, hostile ones too, and the client with servers, clock and randomness of our own.
local fake_dict = require("fake_dict")
local wire = require("dpproxy.upstream.dns_wire")
local files = require("dpproxy.upstream.dns_files")
local dns = require("dpproxy.upstream.dns")

local function u16(n)
    return string.char(math.floor(n / 256) % 256, n % 256)
end

local function u32(n)
    return u16(math.floor(n / 65536)) .. u16(n % 65536)
end

local function labels(name)
    return (name:gsub("([^.]+)%.?", function(label)
        return string.char(#label) .. label
    end)) .. "\0"
end

local KINDS = {A = 1, CNAME = 5, SOA = 6, AAAA = 28, SRV = 33}

-- A record as text: {"a.example", "A", ttl, data}
local function record(r)
    local data = r[4]
    if r[2] == "A" then
        data = data:gsub("(%d+)%.?", function(n) return string.char(n) end)
    elseif r[2] == "CNAME" then
        data = labels(data)
    elseif r[2] == "SRV" then
        data = u16(data[1]) .. u16(data[2]) .. u16(data[3]) .. labels(data[4])
    elseif r[2] == "SOA" then
        data = labels("ns.example") .. labels("root.example") .. u32(1) .. u32(2) .. u32(3) .. u32(4) .. u32(data)
    end
    return (r.name or labels(r[1])) .. u16(KINDS[r[2]]) .. u16(1) .. u32(r[3]) .. u16(#data) .. data
end

-- The response to a query packet.
local function response(query, opts)
    local answers, authorities = opts.answers or {}, opts.authorities or {}
    local parts = {
        query:sub(1, 2), string.char(opts.truncated and 0x83 or 0x81, 0x80 + (opts.rcode or 0)), u16(1),
        u16(opts.count or #answers), u16(#authorities), u16(0), query:sub(13),
    }
    for _, list in ipairs({answers, authorities}) do
        for _, r in ipairs(list) do
            parts[#parts + 1] = type(r) == "string" and r or record(r)
        end
    end
    return table.concat(parts)
end

local function asked_name(query)
    local at, parts = 13, {}
    while query:byte(at) ~= 0 do
        local length = query:byte(at)
        parts[#parts + 1] = query:sub(at + 1, at + length)
        at = at + length + 1
    end
    return table.concat(parts, "."), query:byte(at + 2)
end

describe("upstream.dns_wire", function()
    local query = wire.query(0x1234, "a.example", wire.A)
    local function parse(packet)
        return wire.response(packet, 0x1234, "a.example", wire.A)
    end

    it("asks", function()
        assert.equal("\18\52\1\0\0\1\0\0\0\0\0\0\1a\7example\0\0\1\0\1", query)
        for _, bad in ipairs({"", ".", "a..b", ("x"):rep(64) .. ".de", ("abcdefghi."):rep(26) .. "de", "a b", "a\0b", "ä.de"}) do
            assert.is_nil((wire.query(1, bad, 1)), bad)
        end
        assert.equal(wire.query(1, "a.example", 1), wire.query(1, "a.example.", 1))
    end)
    it("reads all kinds", function()
        local six = "\32\1\13\184" .. ("\0"):rep(11) .. "\1"
        local r = assert(parse(response(query, {answers = {
            {"A.example", "CNAME", 30, "b.Example"}, {"b.example", "A", 60, "10.0.0.1"}, {"b.example", "AAAA", 60, six},
            {"_http._tcp.example", "SRV", 9, {1, 2, 8080, "n1.example"}},
        }, authorities = {{"example", "SOA", 100, 7}}})))
        assert.same({name = "a.example", kind = 5, ttl = 30, target = "b.example"}, r.answers[1])
        assert.equal("10.0.0.1", r.answers[2].address)
        assert.equal("2001:db8::1", r.answers[3].address)
        local srv = r.answers[4]
        assert.same({1, 2, 8080, "n1.example"}, {srv.priority, srv.weight, srv.port, srv.target})
        assert.equal(7, r.negative_ttl)
    end)
    it("follows compressed names backwards only", function()
        local function compressed(name)
            return parse(response(query, {answers = {{name = name, "x", "A", 60, "10.0.0.1"}}}))
        end
        assert.equal("a.example", compressed("\192\12").answers[1].name)
        assert.equal("www.example", compressed("\3www\192\14").answers[1].name)
        local here = #query -- the answer's name begins there, counted from 0
        for _, name in ipairs({
            string.char(192, here), string.char(192, here + 1), "\1a" .. string.char(192, here), "\255\255", "\192\0", "\192\5",
        }) do
            assert.is_nil((compressed(name)))
        end
        -- forward, to a good name in the record's data
        local forward = string.char(192, here + 12)
        assert.is_nil((parse(response(query, {answers = {{name = forward, "x", "CNAME", 60, "b.example"}}}))))
    end)
    it("refuses what does not answer", function()
        local good = response(query, {answers = {{"a.example", "A", 60, "10.0.0.1"}}})
        assert.is_not_nil(parse(good))
        for _, bad in ipairs({
            "", good:sub(1, 11), "\18\53" .. good:sub(3), good:sub(1, 2) .. "\1" .. good:sub(4),
            good:sub(1, 2) .. "\137" .. good:sub(4),
            good:gsub("example", "exbmple", 1), good:sub(1, 5) .. "\2" .. good:sub(7), good:sub(1, -2),
            response(wire.query(0x1234, "a.example", wire.AAAA), {}),
            response(query, {answers = {{"a.example", "A", 60, "10.0.0"}}}), response(query, {count = 5}),
            response(query, {answers = {labels("a.example") .. u16(1) .. u16(1) .. u32(9) .. u16(65535) .. "xx"}}),
            response(query, {answers = {{"a.example", "CNAME", 1, "x"}}}):gsub("\1x\0$", "\1x\9"),
            response(query, {answers = {{name = "\4a\0b\1\0", "x", "A", 60, "10.0.0.1"}}}),
        }) do
            assert.is_nil((parse(bad)))
        end
    end)
    it("bounds how many records it reads", function()
        local many = {}
        for i = 1, 3000 do
            many[i] = {name = "\192\12", "x", "A", 60, "10.0.0." .. i % 250}
        end
        assert.equal(64, #parse(response(query, {answers = many})).answers)
    end)
    it("stands any bytes", function()
        local seed = 1
        local function random(n)
            seed = (seed * 1103515245 + 12345) % 2147483648
            return math.floor(seed / 65536) % n
        end
        local good = response(query, {answers = {
            {"a.example", "CNAME", 30, "b.example"}, {name = "\192\12", "b.example", "A", 60, "10.0.0.1"},
            {"s.example", "SRV", 9, {1, 2, 8080, "n1.example"}},
        }, authorities = {{"example", "SOA", 100, 7}}})
        for _ = 1, 20000 do
            local bytes = {good:byte(1, -1)}
            for _ = 1, 1 + random(6) do
                bytes[1 + random(#bytes)] = random(256)
            end
            local packet = string.char(unpack(bytes)):sub(1, random(2) == 0 and #bytes or random(#bytes))
            local ok, r = pcall(parse, packet)
            assert.is_true(ok, r)
        end
    end)
end)

describe("upstream.dns_files", function()
    it("reads resolv.conf", function()
        local conf = files.resolv_conf("# c\nnameserver 10.0.0.53\nnameserver fe80::1%eth0 ; x\nnameserver nonsense\n" ..
            "domain old.example\nsearch svc.local. example\noptions ndots:5 timeout:3 rotate attempts:4\r\n")
        assert.same({{host = "10.0.0.53", port = 53}, {host = "[fe80::1]", port = 53}}, conf.servers)
        assert.same({"svc.local", "example"}, conf.search)
        assert.same({5, 3, 4}, {conf.ndots, conf.timeout, conf.attempts})
        assert.same({servers = {}, search = {}, ndots = 1}, files.resolv_conf(nil))
    end)
    it("reads hosts, IPv4 first", function()
        local hosts = files.hosts("127.0.0.1 localhost\n::1 localhost v6 # x\n::2 Both\n10.0.0.2 both alias\n" ..
            "nonsense both\n10.0.0.9\n")
        assert.same({localhost = "127.0.0.1", v6 = "::1", both = "10.0.0.2", alias = "10.0.0.2"}, hosts)
    end)
    it("reads servers", function()
        assert.same({host = "[::1]", port = 5353}, files.server("[::1]:5353"))
        assert.same({host = "1.1.1.1", port = 53}, files.server("1.1.1.1"))
        assert.is_nil(files.server("dns.example"))
    end)
end)

describe("upstream.dns", function()
    local now, zone, texts, queries, shared, warnings, spawned
    -- zone: server -> fn(name, kind, query, proto) -> list of packets | nil for silence | "refused"
    local function socket(proto)
        local sock = {waiting = {}}
        function sock:setpeername(host, port)
            self.server = host .. ":" .. port
            return true
        end
        sock.connect = sock.setpeername
        function sock.settimeout(_, ms)
            sock.ms = ms
        end
        function sock:send(data)
            if proto == "tcp" then
                data = data:sub(3)
            end
            local name, kind = asked_name(data)
            queries[#queries + 1] = {self.server, name, kind, proto, data:sub(1, 2)}
            local packets = zone(self.server, name, kind, data, proto)
            if packets == "refused" then
                self.refused = true
            else
                self.waiting = packets or {}
            end
            return #data
        end
        function sock:receive(n)
            if self.refused then
                return nil, "connection refused"
            end
            if proto == "tcp" then
                local all = table.concat(self.waiting)
                local part = all:sub(1, n)
                self.waiting = {all:sub(n + 1)}
                if #part < n then
                    return nil, "closed"
                end
                return part
            end
            local packet = table.remove(self.waiting, 1)
            if not packet then
                now = now + self.ms / 1000
                return nil, "timeout"
            end
            return packet
        end
        function sock.close() end
        return sock
    end

    local function client(opts)
        opts = opts or {}
        opts.clock = function() return now end
        opts.random = opts.random or function() return 1 end
        local id = 0
        opts.random16 = function()
            id = id + 7919
            return id % 65536
        end
        opts.udp = function() return socket("udp") end
        opts.tcp = function() return socket("tcp") end
        opts.sleep = function(s) now = now + s end
        opts.spawn = function(...)
            spawned[#spawned + 1] = {...}
            return true
        end
        opts.read_file = function(path) return texts[path] end
        opts.timeout = opts.timeout or 5
        opts.log = function(_, message) warnings[#warnings + 1] = message end
        if not opts.servers then
            opts.servers = {"10.0.0.53"}
        elseif opts.servers == "file" then
            opts.servers = nil
        end
        return assert(dns.new(opts))
    end

    local records
    before_each(function()
        now, queries, texts, warnings, spawned = 1700000000, {}, {}, {}, {}
        records = {
            ["a.example"] = {A = {{"a.example", "A", 60, "10.0.0.1"}}},
            ["six.example"] = {AAAA = {{"six.example", "AAAA", 60, ("\0"):rep(15) .. "\1"}}},
            ["alias.example"] = {A = {{"alias.example", "CNAME", 20, "a.example"}, {"a.example", "A", 60, "10.0.0.1"}}},
            ["far.example"] = {A = {{"far.example", "CNAME", 20, "a.example"}}},
            ["loop.example"] = {A = {{"loop.example", "CNAME", 20, "loop2.example"}}},
            ["loop2.example"] = {A = {{"loop2.example", "CNAME", 20, "loop.example"}}},
        }
        zone = function(_, name, kind, query)
            local known = records[name]
            if not known then
                return {response(query, {rcode = 3})}
            end
            for text, list in pairs(known) do
                if KINDS[text] == kind then
                    return {response(query, {answers = list})}
                end
            end
            return {response(query, {})}
        end
        shared = fake_dict.new(function() return now end)
    end)

    it("resolves, and asks again only after the TTL", function()
        local c = client()
        assert.equal("10.0.0.1", c:address("a.example"))
        now = now + 59
        assert.equal("10.0.0.1", c:address("a.example"))
        assert.equal(1, #queries)
        records["a.example"].A[1][4] = "10.0.0.2"
        now = now + 1
        assert.equal("10.0.0.2", c:address("a.example"))
        assert.equal("127.0.0.1", c:address("127.0.0.1"))
        assert.equal(2, #queries)
    end)
    it("dns_resolver_valid is instead of the TTL", function()
        local c = client({valid = 5})
        c:address("a.example")
        now = now + 6
        c:address("a.example")
        assert.equal(2, #queries)
    end)
    it("asks for IPv6 when there is no IPv4, unless told not to", function()
        assert.equal("::1", client():address("six.example"))
        local address, err = client({ipv6 = false}):address("six.example")
        assert.is_nil(address)
        assert.equal("no address", err)
    end)
    it("follows aliases, within an answer and across answers, for the smallest TTL, but not in circles", function()
        local c = client()
        assert.equal("10.0.0.1", c:address("alias.example"))
        assert.equal("10.0.0.1", c:address("far.example"))
        assert.equal(3, #queries)
        now = now + 21
        c:address("alias.example")
        assert.equal(4, #queries)
        local address, err = c:address("loop.example")
        assert.is_nil(address)
        assert.equal("too many aliases", err)
        assert.is_true(#queries < 40)
    end)
    it("knows for a while that there is nothing", function()
        local c = client()
        for _ = 1, 3 do
            local address, err = c:address("none.example")
            assert.is_nil(address)
            assert.equal("no such domain", err)
        end
        assert.equal(1, #queries)
        records["none.example"] = {A = {{"none.example", "A", 60, "10.0.0.7"}}}
        now = now + 5
        assert.equal("10.0.0.7", c:address("none.example"))
    end)
    it("believes 'no such domain' at once, though it had an address", function()
        local c = client()
        c:address("a.example")
        records["a.example"] = nil
        now = now + 61
        assert.is_nil((c:address("a.example")))
    end)
    it("goes to the next server after silence, refusal or failure, and stays there", function()
        for _, trouble in ipairs({"silence", "refused", "servfail"}) do
            queries = {}
            local before = zone
            zone = function(server, name, kind, query, proto)
                if server == "10.0.0.53:53" then
                    if trouble == "servfail" then
                        return {response(query, {rcode = 2})}
                    end
                    return trouble == "refused" and "refused" or nil
                end
                return before(server, name, kind, query, proto)
            end
            local c = client({servers = {"10.0.0.53", "10.0.0.54:5353"}})
            assert.equal("10.0.0.1", c:address("a.example"))
            assert.equal("10.0.0.54:5353", queries[2][1])
            c:address("alias.example")
            assert.equal("10.0.0.54:5353", queries[3][1])
            zone = before
        end
    end)
    it("ends in its time when nobody answers, and does not ask for each request", function()
        zone = function() end
        local c = client({servers = {"10.0.0.53", "10.0.0.54"}, timeout = 3})
        local start = now
        local address, err = c:address("a.example")
        assert.is_nil(address)
        assert.equal("timeout", err)
        assert.is_true(now - start <= 3.01)
        local count = #queries
        c:address("a.example")
        assert.equal(count, #queries)
        now = now + 1.1
        c:address("a.example")
        assert.is_true(#queries > count)
    end)
    it("keeps the last address while no server answers, and then nobody waits", function()
        local c = client()
        c:address("a.example")
        local before = zone
        zone = function() end
        now = now + 61
        assert.equal("10.0.0.1", c:address("a.example"))
        assert.equal(1, #warnings)
        now = now + 2
        local start = now
        assert.equal("10.0.0.1", c:address("a.example"))
        assert.equal(start, now)
        assert.equal(1, #spawned)
        zone = before
        records["a.example"].A[1][4] = "10.0.0.8"
        spawned[1][1](unpack(spawned[1], 2))
        assert.equal("10.0.0.8", c:address("a.example"))
        zone = function() end
        now = now + 61
        c:address("a.example")
        now = now + 4000
        c:address("a.example")
        spawned[#spawned][1](unpack(spawned[#spawned], 2))
        assert.is_nil((c:address("a.example")))
    end)
    it("waits for the true answer among forged ones, with random ids", function()
        local before = zone
        zone = function(server, name, kind, query, proto)
            local forged = response("\0\0" .. query:sub(3), {answers = {{name, "A", 60, "6.6.6.6"}}})
            local b_query = wire.query(query:byte(1) * 256 + query:byte(2), "b.example", 1)
            local other = response(b_query, {answers = {{"b.example", "A", 1, "6.6.6.6"}}})
            return {forged, "x", other, before(server, name, kind, query, proto)[1]}
        end
        local c = client()
        assert.equal("10.0.0.1", c:address("a.example"))
        c:address("far.example")
        assert.are_not.equal(queries[1][5], queries[2][5])
        zone = function(_, _, _, query)
            local many = {}
            for i = 1, 1000 do
                many[i] = response("\0\0" .. query:sub(3), {})
            end
            return many
        end
        assert.is_nil((c:address("flood.example")))
    end)
    it("takes TCP when the answer is too long for UDP", function()
        zone = function(_, name, _, query, proto)
            if proto == "udp" then
                return {response(query, {truncated = true})}
            end
            local answers = {}
            for i = 1, 60 do
                answers[i] = {name, "A", 60, "10.0.1." .. i}
            end
            local packet = response(query, {answers = answers})
            return {u16(#packet), packet}
        end
        local c = client({random = function(n) return n end})
        assert.equal("10.0.1.60", c:address("a.example"))
        assert.equal("tcp", queries[2][4])
    end)
    it("searches like the system's resolver", function()
        texts["/etc/resolv.conf"] = "nameserver 10.0.0.99\nsearch svc.local example\noptions ndots:2\n"
        local c = client({servers = "file"})
        assert.equal("10.0.0.1", c:address("a"))
        assert.same({"10.0.0.99:53", "a.svc.local"}, {queries[1][1], queries[1][2]})
        assert.equal("a.example", queries[2][2])
        queries = {}
        assert.equal("10.0.0.1", c:address("a.example"))
        assert.equal("a.example.svc.local", queries[1][2])
        queries = {}
        assert.equal("10.0.0.1", c:address("a.example."))
        assert.equal(1, #queries)
        queries = {}
        assert.equal("10.0.0.1", client({servers = "file", search = false}):address("a.example"))
        assert.equal(1, #queries)
    end)
    it("looks into hosts first, and again after a while", function()
        texts["/etc/hosts"] = "10.1.1.1 a.example\n"
        local c = client()
        assert.equal("10.1.1.1", c:address("A.example"))
        assert.equal("127.0.0.1", c:address("localhost"))
        assert.equal(0, #queries)
        texts["/etc/hosts"] = ""
        now = now + 11
        assert.equal("10.0.0.1", c:address("A.example"))
    end)
    it("shares answers between workers, and their choice", function()
        records["a.example"].A[2] = {"a.example", "A", 60, "10.0.0.2"}
        local one = client({dict = shared, random = function() return 2 end})
        local two = client({dict = shared, random = function() return 1 end})
        assert.equal("10.0.0.2", one:address("a.example"))
        assert.equal("10.0.0.2", two:address("a.example"))
        one:address("none.example")
        local address, err = two:address("none.example")
        assert.is_nil(address)
        assert.equal("no such domain", err)
        assert.equal(2, #queries)
        now = now + 61
        assert.equal("10.0.0.1", two:address("a.example"))
        assert.equal("10.0.0.1", one:address("a.example"))
    end)
    it("asks once for all that wait", function()
        local c = client()
        local inner
        local before = zone
        zone = function(...)
            inner = coroutine.create(function()
                return c:address("a.example")
            end)
            zone = before
            return before(...)
        end
        -- The second request comes while the first one's question is out; it sleeps until the answer is there.
        local done
        c.opts.sleep = function()
            coroutine.yield()
        end
        local send = c.opts.udp
        c.opts.udp = function()
            local sock = send()
            local receive = sock.receive
            function sock.receive(...)
                assert.is_true(coroutine.resume(inner))
                assert.equal("suspended", coroutine.status(inner))
                return receive(...)
            end
            return sock
        end
        assert.equal("10.0.0.1", c:address("a.example"))
        local ok
        ok, done = coroutine.resume(inner)
        assert.is_true(ok)
        assert.equal("10.0.0.1", done)
        assert.equal(1, #queries)
    end)
    it("gives a service's nodes, by SRV or by addresses, as the same table while they stay", function()
        records["_web._tcp.example"] = {SRV = {
            {"_web._tcp.example", "SRV", 30, {10, 0, 8080, "a.example"}},
            {"_web._tcp.example", "SRV", 30, {5, 7, 8081, "b.example"}},
        }}
        local c = client()
        local nodes = c:service("_web._tcp.example")
        assert.same({
            {host = "b.example", port = 8081, weight = 7, priority = -5},
            {host = "a.example", port = 8080, weight = 1, priority = -10},
        }, nodes)
        now = now + 31
        assert.equal(nodes, c:service("_web._tcp.example"))
        -- while one asks, the others take what was
        now = now + 31
        local count, inner = #queries, nil
        local before = zone
        zone = function(...)
            inner = c:service("_web._tcp.example")
            return before(...)
        end
        assert.equal(nodes, c:service("_web._tcp.example"))
        assert.equal(nodes, inner)
        assert.equal(count + 1, #queries)
        zone = before
        assert.same({{host = "10.0.0.1", port = 99, weight = 1, priority = 0}}, c:service("a.example:99"))
        local none, err = c:service("none.example")
        assert.is_nil(none)
        assert.equal("no such domain", err)
    end)
    it("gives plugins all addresses", function()
        records["a.example"].A[2] = {"a.example", "A", 60, "10.0.0.2"}
        texts["/etc/hosts"] = "10.1.1.1 known\n"
        assert.same({nil, "no resolver"}, {dns.resolve("a.example")})
        dns.default = client()
        assert.same({"10.0.0.1", "10.0.0.2"}, dns.resolve("a.example"))
        assert.same({"::1"}, dns.resolve("six.example"))
        assert.same({"10.1.1.1"}, dns.resolve("known"))
        assert.same({"::5"}, dns.resolve("::5"))
        assert.same({nil, "no such domain"}, {dns.resolve("none.example")})
        dns.default = nil
    end)
    it("says which server it does not understand", function()
        local c, err = dns.new({servers = {"dns.example"}, clock = os.time})
        assert.is_nil(c)
        assert.equal("not an address of a DNS server: dns.example", err)
    end)
end)
