-- Health checks without nginx: the dictionary, the clock, the sockets and the "threads" are ours.
local fake_dict = require("fake_dict")
local health = require("dpproxy.health")
local settings = require("dpproxy.health.settings")
local prober = require("dpproxy.health.prober")
local probe = require("dpproxy.health.probe")
local nodes_of = require("dpproxy.upstream.nodes")

local now

local function new_dict()
    return fake_dict.new(function() return now end)
end

local function up_of(nodes, checks, fields)
    local up = {nodes = nodes_of.normalize(nodes, "http"), checks = checks}
    for k, v in pairs(fields or {}) do
        up[k] = v
    end
    return up
end

local messages
local function env_of(dict)
    messages = {}
    return {dict = dict, clock = function() return now end, log = function(level, message)
        messages[#messages + 1] = level .. " " .. message
    end}
end

local function times(n, fn)
    for _ = 1, n do
        fn()
    end
end

local TWO = {["10.0.0.1:80"] = 1, ["10.0.0.2:80"] = 1}

describe("health.settings", function()
    it("fills defaults, and needs an active part", function()
        local s = settings.of({active = {type = "tcp", unhealthy = {tcp_failures = 9}}})
        assert.equal("tcp", s.active.type)
        assert.same({1, 10, "GET", "/", true}, {s.active.timeout, s.active.concurrency, s.active.http_method, s.active.http_path,
            s.active.https_verify_certificate})
        assert.same({9, 5, 3, 1}, {s.active.unhealthy.tcp_failures, s.active.unhealthy.http_failures, s.active.unhealthy.timeouts,
            s.active.unhealthy.interval})
        assert.is_true(s.active.unhealthy.http_statuses[505] and s.active.healthy.http_statuses[302])
        assert.is_nil(s.active.healthy.http_statuses[301])
        local sick = s.passive.unhealthy
        assert.same({5, 2, 7, 5}, {sick.http_failures, sick.tcp_failures, sick.timeouts, s.passive.healthy.successes})
        assert.is_false(s.has_passive)
        assert.is_nil(settings.of({passive = {}}))
        assert.is_nil(settings.of(nil))
        assert.equal(1, settings.of({active = {concurrency = 0}}).active.concurrency)
    end)
    it("C12: knows whom to probe, and under which name", function()
        local function first(nodes, active, fields)
            local t = settings.targets(up_of(nodes, {active = active}, fields))[1]
            return {t.ip, t.port, t.hostname, t.header}
        end
        assert.same({"10.0.0.1", 80, "10.0.0.1", "10.0.0.1"}, first({["10.0.0.1"] = 1}, {}))
        assert.same({"10.0.0.1", 99, "h.example", "h.example"}, first({["10.0.0.1"] = 1}, {host = "h.example", port = 99}))
        local resolved = {{host = "10.0.0.1", port = 80, weight = 1, domain = "d.example"}}
        assert.same({"10.0.0.1", 80, "h.example", "d.example"}, first(resolved, {host = "h.example"}))
        assert.same({"10.0.0.1", 80, "10.0.0.1", "u.example"},
            first(resolved, {}, {pass_host = "rewrite", upstream_host = "u.example"}))
        assert.equal(1, #settings.targets(up_of({["10.0.0.1:1"] = 1, ["10.0.0.1:2"] = 1}, {active = {port = 9}})))
    end)
end)

describe("health", function()
    local dict, registry
    before_each(function()
        now, dict = 1000, new_dict()
        registry = health.setup(env_of(dict))
    end)

    it("C13: five 500s turn a node, and five answers turn it back; others do not count", function()
        local checker = health.checker("/apisix/upstreams/1", 1, up_of(TWO, {active = {}, passive = {}}))
        local version = checker:health_version()
        local function report(status)
            checker:report("10.0.0.1", 80, "http", status)
        end
        times(4, function() report(500) end)
        assert.is_true(checker:usable("10.0.0.1", 80))
        report(404) -- neither list has it
        report(503)
        assert.is_false(checker:usable("10.0.0.1", 80))
        assert.is_true(checker:usable("10.0.0.2", 80))
        assert.is_true(checker:health_version() > version)
        version = checker:health_version()
        times(4, function() report(200) end)
        assert.is_false(checker:usable("10.0.0.1", 80))
        report(301)
        assert.is_true(checker:usable("10.0.0.1", 80))
        assert.is_true(checker:health_version() > version)
        assert.equal(2, #messages)
        assert.equal("warn health check: /apisix/upstreams/1: 10.0.0.1:80 is unhealthy, http failures: 5", messages[1])
    end)
    it("counts failures of each kind by itself, and a success wipes them", function()
        local checker = health.checker("/apisix/upstreams/1", 1, up_of(TWO, {active = {}, passive = {}}))
        checker:report("10.0.0.1", 80, "tcp")
        times(6, function() checker:report("10.0.0.1", 80, "timeout") end)
        times(4, function() checker:report("10.0.0.1", 80, "http", 500) end)
        assert.is_true(checker:usable("10.0.0.1", 80))
        checker:report("10.0.0.1", 80, "http", 200)
        checker:report("10.0.0.1", 80, "tcp")
        assert.is_true(checker:usable("10.0.0.1", 80))
        checker:report("10.0.0.1", 80, "tcp")
        assert.is_false(checker:usable("10.0.0.1", 80))
        times(7, function() checker:report("10.0.0.2", 80, "timeout") end)
        assert.is_false(checker:usable("10.0.0.2", 80))
    end)
    it("a failure wipes successes", function()
        local checker = health.checker("/apisix/upstreams/1", 1, up_of(TWO, {active = {}, passive = {}}))
        times(2, function() checker:report("10.0.0.1", 80, "tcp") end)
        times(4, function() checker:report("10.0.0.1", 80, "http", 200) end)
        checker:report("10.0.0.1", 80, "timeout")
        assert.equal(0, health.status("upstreams", "1").nodes[1].counter.success)
        times(4, function() checker:report("10.0.0.1", 80, "http", 200) end)
        assert.is_false(checker:usable("10.0.0.1", 80))
        checker:report("10.0.0.1", 80, "http", 200)
        assert.is_true(checker:usable("10.0.0.1", 80))
    end)
    it("0 turns a counter off, and a long run of answers overflows nothing", function()
        local passive = {unhealthy = {http_failures = 0, tcp_failures = 254}, healthy = {successes = 0}}
        local checker = health.checker("/apisix/upstreams/1", 1, up_of(TWO, {active = {}, passive = passive}))
        times(5000, function() checker:report("10.0.0.1", 80, "http", 500) end)
        times(5000, function() checker:report("10.0.0.1", 80, "http", 200) end)
        times(253, function() checker:report("10.0.0.1", 80, "tcp") end)
        assert.is_true(checker:usable("10.0.0.1", 80))
        times(5000, function() checker:report("10.0.0.1", 80, "tcp") end)
        assert.is_false(checker:usable("10.0.0.1", 80))
    end)
    it("does not know targets that are not its own", function()
        local checker = health.checker("/apisix/upstreams/1", 1, up_of(TWO, {active = {}, passive = {}}))
        times(9, function() checker:report("10.9.9.9", 80, "tcp") end)
        assert.is_true(checker:usable("10.9.9.9", 80))
        assert.is_false(health.checker("/apisix/upstreams/2", 1, up_of(TWO, {passive = {}})))
        assert.is_false(health.checker({}, 1, up_of(TWO, {active = {}})))
    end)
    it("shares all between workers, and reports through a request's context", function()
        local up = up_of(TWO, {active = {}, passive = {}})
        local one, two = health.checker("/apisix/upstreams/1", 1, up), health.checker("/apisix/upstreams/1", 1, up)
        health.report({balancer_checker = one}, "10.0.0.1", 80, "tcp")
        health.report({balancer_checker = two}, "10.0.0.1", 80, "tcp")
        health.report({}, "10.0.0.1", 80, "tcp")
        assert.is_false(one:usable("10.0.0.1", 80))
        assert.is_false(two:usable("10.0.0.1", 80))
        assert.equal(one:health_version(), two:health_version())
        assert.equal(1, dict:get("hc:gen"))
    end)
    it("keeps what is known when nodes or checks change, and forgets nodes that go", function()
        local name = "/apisix/upstreams/1"
        local checker = health.checker(name, 1, up_of(TWO, {active = {}, passive = {}}))
        times(2, function() checker:report("10.0.0.1", 80, "tcp") end)
        local three = {["10.0.0.1:80"] = 5, ["10.0.0.2:80"] = 1, ["10.0.0.3:80"] = 1}
        checker = health.checker(name, 2, up_of(three, {active = {timeout = 3}, passive = {}}))
        assert.is_false(checker:usable("10.0.0.1", 80))
        assert.is_true(checker:usable("10.0.0.3", 80))
        health.checker(name, 3, up_of({["10.0.0.2:80"] = 1}, {active = {}}))
        checker = health.checker(name, 4, up_of(three, {active = {}}))
        assert.is_true(checker:usable("10.0.0.1", 80))
    end)
    it("a worker that is behind does not bring the old configuration back", function()
        local name = "/apisix/upstreams/1"
        health.checker(name, "12#2", up_of(TWO, {active = {}}))
        assert.is_table(health.checker(name, 9, up_of({["10.0.0.9:1"] = 1}, {active = {}})))
        assert.equal(2, #health.status("upstreams", "1").nodes)
    end)
    it("a request takes an upstream that was to be deleted in again", function()
        local up = up_of(TWO, {active = {}})
        health.checker("/apisix/upstreams/1", 1, up)
        registry:leave("/apisix/upstreams/1")
        assert.is_nil(health.status("upstreams", "1"))
        health.checker("/apisix/upstreams/1", 1, up)
        assert.is_table(health.status("upstreams", "1"))
    end)
    it("makes no change without the upstream's lock, and the next request tries again", function()
        dict:add("hc:lock:/apisix/upstreams/1", 1, 1)
        local up = up_of(TWO, {active = {}})
        assert.is_nil(health.checker("/apisix/upstreams/1", 1, up))
        assert.is_table(health.checker("/apisix/upstreams/2", 1, up))
        now = now + 1.1
        assert.is_table(health.checker("/apisix/upstreams/1", 1, up))
        assert.is_nil(dict:get("hc:lock:/apisix/upstreams/1"))
    end)
    it("takes upstreams in and out at the same cost however many there are", function()
        local function register(from, to)
            local reads, get = 0, dict.get
            dict.get = function(...)
                reads = reads + 1
                return get(...)
            end
            for i = from, to do
                assert.is_table(health.checker("/apisix/upstreams/" .. i, 1, up_of({["10.0.0.1:80"] = 1}, {active = {}})))
            end
            dict.get = get
            return reads / (to - from + 1)
        end
        local few = register(1, 10)
        register(11, 500)
        assert.equal(few, register(501, 510))
        assert.equal(510, #registry:names())
        for i = 1, 400 do
            assert.is_true(registry:remove("/apisix/upstreams/" .. i))
        end
        assert.equal(110, #registry:names())
        register(1, 400)
        assert.equal(510, dict:get("hc:places")) -- the free ones were used again
        local seen = {}
        for _, name in ipairs(registry:names()) do
            assert.is_nil(seen[name])
            seen[name] = true
        end
        dict.safe_set = function() return false, "no memory" end
        for _ = 1, 3 do
            assert.is_nil(health.checker("/apisix/upstreams/other", 1, up_of({["10.0.0.1:80"] = 1}, {active = {}})))
        end
        assert.same({"error health check: /apisix/upstreams/other is not checked: no memory"}, messages)
        assert.is_table(health.checker("/apisix/upstreams/5", 1, up_of({["10.0.0.1:80"] = 1}, {active = {}})))
        assert.equal(510, #registry:names())
        dict.safe_set = nil
        dict.full = true
        assert.is_nil(health.checker("/apisix/upstreams/new", 1, up_of({["10.0.0.1:80"] = 1}, {active = {}})))
        dict.full = false
        assert.is_table(health.checker("/apisix/upstreams/new", 1, up_of({["10.0.0.1:80"] = 1}, {active = {}})))
    end)
    it("tells the control API in APISIX' shape", function()
        local checker = health.checker("/apisix/upstreams/1", 1, up_of(TWO, {active = {type = "tcp"}, passive = {}}))
        health.checker("/apisix/routes/7", 1, up_of({["10.0.0.5"] = 1}, {active = {}}))
        checker:report("10.0.0.1", 80, "tcp")
        local all = health.control()
        assert.same({"/apisix/routes/7", "/apisix/upstreams/1"}, {all[1].name, all[2].name})
        assert.same({name = "/apisix/upstreams/1", type = "tcp", nodes = {
            {ip = "10.0.0.1", port = 80, hostname = "10.0.0.1", hostheader = "10.0.0.1", status = "mostly_healthy",
                counter = {success = 0, http_failure = 0, tcp_failure = 1, timeout_failure = 0}},
            {ip = "10.0.0.2", port = 80, hostname = "10.0.0.2", hostheader = "10.0.0.2", status = "healthy",
                counter = {success = 0, http_failure = 0, tcp_failure = 0, timeout_failure = 0}},
        }}, health.status("upstreams", "1"))
        assert.is_nil(health.status("upstreams", "2"))
        assert.is_nil(health.status("services", "1"))
    end)
end)

describe("health.probe", function()
    local script, calls
    local function tcp()
        local sock = {}
        for _, name in ipairs({"settimeout", "connect", "sslhandshake", "send", "receive", "close"}) do
            sock[name] = function(_, ...)
                calls[#calls + 1] = {name, ...}
                local step = script[name]
                if step then
                    return unpack(step, 1, 2)
                end
                return true
            end
        end
        return sock
    end
    local function run(active, target, given)
        script, calls = given or {}, {}
        local s = settings.of({active = active}).active
        return {probe.run(s, target or {ip = "10.0.0.1", port = 80, header = "a.example"}, tcp)}
    end
    local function call(name)
        for _, c in ipairs(calls) do
            if c[1] == name then
                return c
            end
        end
    end

    it("asks and reads twelve bytes", function()
        assert.same({"http", 302}, run({timeout = 0.5, http_path = "/up"}, nil, {receive = {"HTTP/1.1 302"}}))
        assert.same({"settimeout", 500}, call("settimeout"))
        assert.same({"connect", "10.0.0.1", 80}, call("connect"))
        assert.same({"receive", 12}, call("receive"))
        assert.equal("GET /up HTTP/1.1\r\nConnection: close\r\nHost: a.example\r\n\r\n", call("send")[2])
        assert.is_not_nil(call("close"))
        assert.is_nil(call("sslhandshake"))
    end)
    it("sends what it is told, but never a second request", function()
        local headers = {"X-A: b", "host: mine", "Bad\r\nX: y", "GET / HTTP/1.1"}
        run({http_method = "POST", http_req_body = "ping", req_headers = headers}, nil, {receive = {"HTTP/1.0 200"}})
        assert.equal("POST / HTTP/1.1\r\nConnection: close\r\nX-A: b\r\nhost: mine\r\nContent-Length: 4\r\n\r\nping",
            call("send")[2])
        run({http_path = "/a b\r\nX: y"}, {ip = "1.1.1.1", port = 1, header = "a\r\nb"}, {receive = {"HTTP/1.0 200"}})
        assert.equal("GET /abX:y HTTP/1.1\r\nConnection: close\r\nHost: ab\r\n\r\n", call("send")[2])
    end)
    it("tells kinds of failure apart", function()
        assert.same({"tcp", "connection refused"}, run({}, nil, {connect = {nil, "connection refused"}}))
        assert.same({"timeout", "timeout"}, run({}, nil, {connect = {nil, "timeout"}}))
        assert.same({"timeout", "timeout"}, run({}, nil, {receive = {nil, "timeout"}}))
        assert.same({"tcp", "closed"}, run({}, nil, {receive = {nil, "closed"}}))
        assert.same({"tcp", "closed"}, run({}, nil, {send = {nil, "closed"}}))
        assert.same({"http", 0}, run({}, nil, {receive = {"SSH-2.0-Open"}}))
        assert.same({"http", 0}, run({}, nil, {receive = {"HTTP/1.1 2x0"}}))
        assert.same({"tcp", "bad certificate"}, run({type = "https"}, nil, {sslhandshake = {nil, "bad certificate"}}))
        assert.is_not_nil(call("close"))
    end)
    it("shakes hands for https, and only connects for tcp", function()
        assert.same({"http", 200}, run({type = "https"}, {ip = "1.1.1.1", port = 1, header = "s.example:8443"},
            {receive = {"HTTP/1.1 200"}}))
        assert.same({"sslhandshake", false, "s.example", true}, call("sslhandshake"))
        run({type = "https", https_verify_certificate = false}, nil, {receive = {"HTTP/1.1 200"}})
        assert.is_false(call("sslhandshake")[4])
        assert.same({"success"}, run({type = "tcp"}))
        assert.is_nil(call("send"))
    end)
end)

describe("health.prober", function()
    local dict, registry, world, answers, probes, threads, most, fate
    -- Threads are coroutines; a probe's connect yields until the test lets them go on.
    local function resume_all()
        local list = threads
        threads = {}
        for _, co in ipairs(list) do
            local ok, err = coroutine.resume(co)
            assert.is_true(ok, err)
            if coroutine.status(co) ~= "dead" then
                threads[#threads + 1] = co
            end
        end
    end
    local function new_prober(id, fields)
        local opts = {
            registry = registry, dict = dict, id = id, clock = function() return now end, random = function() return 0.5 end,
            spawn = function(fn, ...)
                local args, n = {...}, select("#", ...)
                threads[#threads + 1] = coroutine.create(function()
                    fn(unpack(args, 1, n))
                end)
                return true
            end,
            tcp = function()
                local sock = {settimeout = function() end, close = function() end, send = function() return 1 end}
                function sock:connect(ip, port)
                    world = world + 1
                    most = math.max(most, world)
                    probes[#probes + 1] = ip .. ":" .. port
                    coroutine.yield()
                    world = world - 1
                    self.answer = answers[ip] or "HTTP/1.1 200"
                    if self.answer == "refused" then
                        return nil, "connection refused"
                    end
                    return true
                end
                function sock:receive()
                    return self.answer
                end
                return sock
            end,
            log = function(level, message) messages[#messages + 1] = level .. " " .. message end,
            look = function()
                return fate, 2
            end,
        }
        for k, v in pairs(fields or {}) do
            opts[k] = v
        end
        return prober.new(opts)
    end
    -- One tick, with all probes that it starts.
    local function step(p, seconds)
        now = now + (seconds or 0)
        p:tick()
        for _ = 1, 50 do
            resume_all()
        end
        assert.equal(0, #threads)
    end

    before_each(function()
        now, dict, world, answers, probes, threads, most, fate = 1000, new_dict(), 0, {}, {}, {}, 0, "stay"
        registry = health.setup(env_of(dict))
    end)

    it("C12: turns a node after two refused probes and back after two answers", function()
        local checker = health.checker("/apisix/upstreams/1", 1, up_of(TWO, {active = {}}))
        answers["10.0.0.1"] = "refused"
        local p = new_prober(1)
        step(p)
        step(p, 1)
        assert.is_true(checker:usable("10.0.0.1", 80))
        step(p, 1)
        assert.is_false(checker:usable("10.0.0.1", 80))
        assert.is_true(checker:usable("10.0.0.2", 80))
        answers["10.0.0.1"] = nil
        step(p, 1)
        assert.is_false(checker:usable("10.0.0.1", 80))
        step(p, 1)
        assert.is_true(checker:usable("10.0.0.1", 80))
    end)
    it("keeps to the intervals of healthy and unhealthy targets", function()
        local checks = {active = {healthy = {interval = 10}, unhealthy = {interval = 1, http_failures = 1}}}
        health.checker("/apisix/upstreams/1", 1, up_of(TWO, checks))
        answers["10.0.0.1"] = "HTTP/1.1 500"
        local p = new_prober(1)
        step(p)
        step(p, 0.1)
        assert.equal(2, #probes)
        probes = {}
        for _ = 1, 20 do
            step(p, 0.25)
        end
        assert.equal(5, #probes) -- five seconds: the sick one only
        for _, each in ipairs(probes) do
            assert.equal("10.0.0.1:80", each)
        end
    end)
    it("only one worker probes; when it ends or dies another takes over", function()
        health.checker("/apisix/upstreams/1", 1, up_of(TWO, {active = {}}))
        local one, two = new_prober(1), new_prober(2)
        step(one)
        step(two)
        step(one, 0.2)
        step(two)
        assert.equal(2, #probes)
        step(two, 1.9) -- the lease was renewed 1.9 s ago
        assert.equal(2, #probes)
        step(two, 0.2)
        step(two, 0.2)
        assert.equal(4, #probes)
        two:stop()
        step(one)
        step(one, 0.2)
        assert.equal(6, #probes)
        one:stop()
        two:stop()
        assert.is_nil(dict:get("hc:prober"))
    end)
    it("bounds probes: of an upstream by its concurrency, of all by the limit, of a slow target to one", function()
        local many = {}
        for i = 1, 30 do
            many["10.0.1." .. i .. ":80"] = 1
        end
        health.checker("/apisix/upstreams/1", 1, up_of(many, {active = {concurrency = 4}}))
        local p = new_prober(1)
        step(p)
        step(p, 0.1)
        assert.equal(30, #probes)
        assert.equal(4, most)
        most = 0
        for i = 2, 6 do
            health.checker("/apisix/upstreams/" .. i, 1, up_of(many, {active = {concurrency = 30}}))
        end
        p = new_prober(1, {limit = 16})
        step(p)
        step(p, 0.1)
        assert.equal(16, most)
        probes = {}
        now = now + 5
        p:tick()
        resume_all() -- all hang in connect now
        local hanging = #probes
        for _ = 1, 10 do
            now = now + 1
            p:tick()
        end
        assert.equal(hanging, #probes)
        assert.is_true(#p.queue <= 180)
        for _ = 1, 200 do
            resume_all()
        end
        assert.equal(180, #probes)
    end)
    it("deletes ten seconds after the upstream has gone, and not when it comes back", function()
        local name = "/apisix/upstreams/1"
        local checker = health.checker(name, 1, up_of(TWO, {active = {}, passive = {}}))
        times(2, function() checker:report("10.0.0.1", 80, "tcp") end)
        answers["10.0.0.1"] = "refused"
        local p = new_prober(1)
        step(p)
        fate = "leave"
        step(p, 1)
        assert.is_nil(health.status("upstreams", "1"))
        probes = {}
        step(p, 2)
        assert.equal(0, #probes)
        fate = "stay"
        step(p, 2)
        step(p, 1)
        assert.is_table(health.status("upstreams", "1"))
        assert.is_false(checker:usable("10.0.0.1", 80))
        fate = "leave"
        for _ = 1, 13 do
            step(p, 1)
        end
        assert.same({}, registry:names())
        assert.is_nil(registry:record(name))
        assert.is_true(checker:usable("10.0.0.1", 80))
        for _, key in ipairs(dict:get_keys(0)) do
            assert.is_nil(key:match("^hc:[scn]:"), key)
        end
    end)
    it("a request takes an upstream that is leaving in again", function()
        local name, up = "/apisix/upstreams/1", up_of(TWO, {active = {}})
        local checker = health.checker(name, 1, up)
        local p = new_prober(1)
        step(p)
        fate = "leave"
        local version = checker:health_version()
        step(p, 1)
        assert.is_true(checker:health_version() > version)
        health.checker(name, 1, up)
        fate = "stay"
        for _ = 1, 13 do
            step(p, 1)
        end
        assert.is_table(health.status("upstreams", "1"))
    end)
    it("follows nodes without traffic", function()
        health.checker("/apisix/upstreams/1", 1, up_of(TWO, {active = {}}))
        local p = new_prober(1)
        step(p)
        fate = up_of({["10.0.0.9:80"] = 1}, {active = {}})
        step(p, 1)
        probes = {}
        step(p, 1)
        assert.same({"10.0.0.9:80"}, probes)
    end)
    it("goes on when the configuration or a probe throws", function()
        health.checker("/apisix/upstreams/1", 1, up_of(TWO, {active = {}}))
        local broken = true
        local p = new_prober(1, {look = function()
            error("no store")
        end})
        local tcp = p.opts.tcp
        p.opts.tcp = function()
            if broken then
                error("no sockets")
            end
            return tcp()
        end
        step(p)
        step(p, 1)
        assert.equal(0, #probes)
        assert.is_true(#messages > 0)
        broken = false
        step(p, 1)
        assert.equal(2, #probes)
    end)
end)
