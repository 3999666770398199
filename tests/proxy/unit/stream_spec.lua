-- Streams without nginx: which route an address and a name get (compared with a plain walk through the list), what becomes of
-- upstreams, and that nothing of an object can become a directive.
local fields = require("dpproxy.stream.fields")
local match = require("dpproxy.stream.match")
local nginx = require("dpproxy.cli.nginx")
local plan = require("dpproxy.stream.plan")
local render = require("dpproxy.stream.render")
local servers = require("dpproxy.stream.servers")

local function network(text)
    return assert(fields.network(text), text)
end

-- The few directives that match.lua writes, evaluated as nginx does.
local function parse(text)
    local blocks, current = {}, nil
    for line in text:gmatch("[^\n]+") do
        local kind, source, name = line:match("^%s*(%a+) (%S+) (%$%S+) {$")
        if kind then
            current = {kind = kind, source = source, entries = {}}
            blocks[name] = current
        else
            local key, value = line:match('^%s*(%S+) "?([^"]*)"?;$')
            if key then
                key = key:match('^"(.*)"$') or key
                current.entries[#current.entries + 1] = {key:gsub("\\\\", "\\"), value}
            end
        end
    end
    return blocks
end

local evaluate

local function from_geo(block, address)
    local best, value
    for _, entry in ipairs(block.entries) do
        if entry[1] == "default" then
            value = value or entry[2]
        elseif fields.contains(network(entry[1]), network(address)) and (not best or network(entry[1]).bits > best) then
            best, value = network(entry[1]).bits, entry[2]
        end
    end
    return value
end

local function from_map(block, text)
    local default
    for _, entry in ipairs(block.entries) do
        local key = entry[1]
        if key == "default" then
            default = entry[2]
        elseif key == text or key == "\\" .. text:lower() then
            return entry[2]
        end
    end
    for _, entry in ipairs(block.entries) do -- ~*^.+SUFFIX$
        local suffix = entry[1]:match("^~%*%^%.%+(.*)%$$")
        suffix = suffix and suffix:gsub("\\%.", ".")
        if suffix and #text > #suffix and (suffix == "" or text:lower():sub(-#suffix) == suffix) then
            return entry[2]
        end
    end
    return default
end

function evaluate(blocks, expression, vars)
    if expression:sub(1, 1) ~= "$" then
        return expression
    elseif vars[expression] then
        return vars[expression]
    end
    local block = assert(blocks[expression], expression)
    local input = evaluate(blocks, block.source, vars)
    local value = block.kind == "geo" and from_geo(block, input) or from_map(block, input)
    return evaluate(blocks, value, vars)
end

local function compiled(named, others)
    local w = nginx.new()
    local m = match.new(w)
    local expression = m:by_sni("$sni", named, m:first(others, ""))
    local blocks = parse(w:text())
    return function(remote, server, sni)
        return evaluate(blocks, expression, {["$remote_addr"] = remote, ["$server_addr"] = server, ["$sni"] = sni or ""})
    end
end

-- Spec 2.4, as it is said there.
local function walk(named, others, remote, server, sni)
    local function fits(route)
        return (not route.remote or fields.contains(route.remote, network(remote)))
            and (not route.server or fields.contains(route.server, network(server)))
    end
    local candidates = {}
    for i, route in ipairs(named) do
        local suffix = route.sni:match("^%*(.*)$")
        local hit = sni ~= "" and (suffix and #sni > #suffix and sni:sub(#sni - #suffix + 1) == suffix or route.sni == sni)
        if hit then
            candidates[#candidates + 1] = {route, suffix and #suffix or math.huge, i}
        end
    end
    table.sort(candidates, function(a, b)
        if a[2] ~= b[2] then
            return a[2] > b[2]
        end
        return a[3] < b[3]
    end)
    for _, each in ipairs(candidates) do
        if fits(each[1]) then
            return each[1].target
        end
    end
    for _, route in ipairs(others) do
        if fits(route) then
            return route.target
        end
    end
    return ""
end

describe("networks", function()
    it("lose the bits behind them", function()
        assert.equal("10.0.0.0/8", network("10.1.2.3/8").text)
        assert.equal("0.0.0.0/0", network("10.1.2.3/0").text)
        assert.equal("200.1.2.3/32", network("200.1.2.3").text)
        assert.equal("fe80:0:0:0:0:0:0:0/10", network("febf::1/10").text)
        assert.equal("2001:db8:0:0:0:0:0:1/128", network("2001:db8::1").text)
    end)

    it("contain others", function()
        assert.is_true(fields.contains(network("10.0.0.0/8"), network("10.2.0.0/16")))
        assert.is_true(fields.contains(network("0.0.0.0/0"), network("255.255.255.255")))
        assert.is_false(fields.contains(network("10.2.0.0/16"), network("10.0.0.0/8")))
        assert.is_false(fields.contains(network("::/0"), network("10.0.0.1")))
        assert.is_true(fields.contains(network("2001:db8::/33"), network("2001:db8:7fff::1")))
        assert.is_false(fields.contains(network("2001:db8::/33"), network("2001:db8:8000::1")))
    end)

    it("are nothing else", function()
        for _, text in ipairs({"", "10.0.0.0/33", "10.0.0",
            "::/129", "127.0.0.1; x", "a.example", "10.0.0.0/8/8", "10.0.0.1\0"}) do
            assert.is_nil(fields.network(text), text)
        end
        assert.is_nil(fields.network(1))
    end)
end)

describe("the first stream route that matches", function()
    it("is the one that a walk through the list finds", function()
        local random = math.random
        math.randomseed(7)
        local addresses = {"10.0.0.1", "10.0.0.2", "10.0.1.1", "10.1.0.1", "192.168.0.1", "2001:db8::1", "2001:db8:1::1"}
        local bits = {"/0", "/8", "/15", "/24", "/31", "/32", ""}
        local names = {"a.test", "b.test", "*.test", "*.b.test", "x.b.test", "*", "default", "*st", "other"}
        local asked = {"", "a.test", "b.test", "x.b.test", "y.x.b.test", "default", "other", "hostnames"}
        local function maybe_network()
            return random() < 0.6 and network(addresses[random(#addresses)] .. bits[random(#bits)]) or nil
        end
        local hits = 0
        for round = 1, 300 do
            local named, others = {}, {}
            for i = 1, random(0, 6) do
                named[i] = {target = "n" .. i, sni = names[random(#names)], remote = maybe_network(),
                    server = maybe_network()}
            end
            for i = 1, random(0, 6) do
                others[i] = {target = "o" .. i, remote = maybe_network(), server = maybe_network()}
            end
            local choose = compiled(named, others)
            for _ = 1, 40 do
                local remote, server, sni = addresses[random(#addresses)], addresses[random(#addresses)], asked[random(#asked)]
                local expected = walk(named, others, remote, server, sni)
                hits = hits + (expected ~= "" and 1 or 0)
                assert.equal(expected, choose(remote, server, sni), "round " .. round)
            end
        end
        assert.is_true(hits > 1000)
    end)
end)

local function block(up, resolve)
    up.type = up.type or "roundrobin"
    up.scheme = up.scheme or "tcp"
    up.hash_on = "vars"
    return servers.block(up, {resolve = resolve})
end

describe("an upstream of a stream", function()
    it("keeps weights in proportion", function()
        local made = block({nodes = {
            {host = "10.0.0.1", port = 1, weight = 4000000000}, {host = "10.0.0.2", port = 2, weight = 2000000000},
        }})
        assert.equal(2, made.servers[1].weight)
        assert.equal(1, made.servers[2].weight)
        made = block({type = "chash", key = "remote_addr", nodes = {["10.0.0.1:1"] = 2000000011, ["10.0.0.2:1"] = 1}})
        assert.is_true(made.servers[1].weight <= 6000)
        assert.equal(1, made.servers[2].weight)
        assert.equal("hash", made.method)
    end)

    it("gives nothing to weight 0, unless all have it", function()
        local made = block({nodes = {["10.0.0.1:1"] = 0, ["10.0.0.2:1"] = 5}})
        assert.is_true(made.servers[1].down)
        assert.is_nil(made.servers[2].down)
        made = block({nodes = {["10.0.0.1:1"] = 0, ["10.0.0.2:1"] = 0}})
        assert.is_nil(made.servers[1].down)
        assert.equal(1, made.servers[1].weight)
    end)

    it("has lower priorities as backup, a hash leaves them out", function()
        local nodes = {{host = "10.0.0.1", port = 1, weight = 1, priority = 2},
            {host = "10.0.0.2", port = 1, weight = 1, priority = 1}}
        local made = block({nodes = nodes})
        assert.is_nil(made.servers[1].backup)
        assert.is_true(made.servers[2].backup)
        assert.equal(1, #block({type = "chash", key = "remote_addr", nodes = nodes}).servers)
    end)

    it("asks for all addresses of a domain", function()
        local made = block({nodes = {["a.example:80"] = 3, ["[::1]:81"] = 1}}, function(name)
            assert.equal("a.example", name)
            return {"10.0.0.2", "10.0.0.1", "2001:db8::1"}
        end)
        local seen = {}
        for i, server in ipairs(made.servers) do
            seen[i] = server.address .. ":" .. server.port
        end
        assert.same({"[::1]:81", "10.0.0.1:80", "10.0.0.2:80", "[2001:db8::1]:80"}, seen)
    end)

    it("says what it cannot do", function()
        local nodes = {["10.0.0.1:1"] = 1}
        local function refused(up)
            local made, err = block(up, function() return nil, "no such domain" end)
            assert.is_nil(made)
            return err
        end
        assert.matches("balancer custom", refused({type = "custom", nodes = nodes}))
        assert.matches("scheme grpc", refused({scheme = "grpc", nodes = nodes}))
        assert.matches("without a port", refused({nodes = {["10.0.0.1"] = 1}}))
        assert.matches("no such domain", refused({nodes = {["a.example:1"] = 1}}))
        assert.matches("client certificate", refused({scheme = "tls", tls = {client_cert_id = "1"}, nodes = nodes}))
        assert.matches("no nodes", refused({nodes = {}}))
    end)

    it("counts tries and milliseconds", function()
        local made = block({nodes = {["10.0.0.1:1"] = 1}, retries = 0, retry_timeout = 0.5,
            timeout = {connect = 0.0001, send = 2, read = 3}})
        assert.equal(1, made.tries)
        assert.equal(500, made.tries_ms)
        assert.equal(1, made.connect_ms)
        assert.equal(3000, made.idle_ms)
    end)
end)

local function item(kind, id, value)
    return {key = "/apisix/" .. kind .. "/" .. id, kind = kind, short_key = id, value = value, modifiedIndex = 5}
end

local function upstream(port)
    return {type = "roundrobin", scheme = "tcp", nodes = {["10.0.0.1:" .. port] = 1}}
end

local function make(routes, objects, ssls)
    return plan.make({
        routes = routes, ssls = ssls or {},
        get = function(kind, id) return objects and objects[kind .. "/" .. id] end,
        file_of = function(ssl) return ("a"):rep(39) .. ssl.short_key end,
    })
end

describe("a plan", function()
    it("takes the upstream of the route before that of its service", function()
        local objects = {
            ["upstreams/1"] = item("upstreams", "1", upstream(1)), ["upstreams/2"] = item("upstreams", "2", upstream(2)),
            ["services/1"] = item("services", "1", {upstream_id = 1}),
            ["services/2"] = item("services", "2", {upstream = upstream(3)}),
        }
        local made, rejected = make({
            item("stream_routes", "1", {upstream_id = "2", service_id = "1"}), item("stream_routes", "2", {service_id = "1"}),
            item("stream_routes", "3", {service_id = "2"}),
            item("stream_routes", "4", {service_id = "2", upstream = upstream(4)}),
            item("stream_routes", "5", {service_id = "1", upstream = upstream(5)}),
        }, objects)
        assert.same({}, rejected)
        local ports = {}
        for i, route in ipairs(made.routes) do
            ports[i] = made.upstreams[route.target].servers[1].port
        end
        assert.same({2, 1, 3, 4, 5}, ports)
    end)

    it("closes what it cannot do, and says so", function()
        local made, rejected = make({
            item("stream_routes", "1", {upstream_id = "none"}), item("stream_routes", "2", {service_id = "none"}),
            item("stream_routes", "3", {}),
            item("stream_routes", "4", {upstream = upstream(1), plugins = {["ip-restriction"] = {}}}),
            item("stream_routes", "5", {upstream = upstream(1), protocol = {name = "redis"}}),
            item("stream_routes", "6", {upstream = upstream(1), plugins = {prometheus = {}, ["tcp-logger"] = {},
                ["limit-conn"] = {_meta = {disable = true}}}}),
        })
        for i = 1, 5 do
            assert.equal(0, made.routes[i].target)
            assert.equal("/apisix/stream_routes/" .. i, rejected[i].key)
            assert.equal(5, rejected[i].mod_revision)
        end
        assert.equal(1, made.routes[6].target)
        assert.equal(5, #rejected)
    end)

    it("leaves out conditions that are none", function()
        local made, rejected = make({
            item("stream_routes", "1", {upstream = upstream(1), remote_addr = "x"}),
            item("stream_routes", "2", {upstream = upstream(1), server_port = "80;"}),
            item("stream_routes", "3", {upstream = upstream(1), sni = 'a" b'}),
        })
        assert.equal(0, #made.routes)
        assert.equal(3, #rejected)
    end)

    it("does not serve certificates that ask clients for theirs", function()
        local made, rejected = make({item("stream_routes", "1", {upstream = upstream(1)})}, nil, {
            item("ssls", "1", {snis = {"A.example.", "*.b.example"}}),
            item("ssls", "2", {sni = "c.example", client = {ca = "x"}}),
            item("ssls", "3", {sni = "d.example", status = 0}), item("ssls", "4", {type = "client"}),
        })
        assert.same({{names = {"a.example", "*.b.example"}, file = ("a"):rep(39) .. "1"}}, made.certificates)
        assert.equal("/apisix/ssls/2", rejected[1].key)
    end)
end)

local node = {folder = "/r/stream/", listeners = {
    {where = "127.0.0.1:1", port = 1}, {where = "2", port = 2, tls = true}, {where = "3", port = 3, udp = true},
}}

local function text_of(change)
    local made = {
        routes = {{id = "1", target = 1, port = 1, remote = "10.0.0.0/8"},
            {id = "2", target = 1, sni = "a.example"}, {id = "3", target = 0}},
        upstreams = {{method = "roundrobin", servers = {{address = "10.0.0.1", port = 80, weight = 1}}}},
        certificates = {{names = {"a.example", "*.b.example", "*"}, file = ("0"):rep(40)}},
    }
    if change then
        change(made, made.routes[1], made.upstreams[1], made.upstreams[1].servers[1], made.certificates[1])
    end
    return render.text(made, node)
end

describe("nginx' stream part", function()
    it("is the same for the same plan", function()
        local text = assert(text_of())
        assert.equal(text, text_of())
        assert.matches("listen 127.0.0.1:1;", text, 1, true)
        assert.matches("listen 2 ssl;", text, 1, true)
        assert.matches("listen 3 udp;", text, 1, true)
        assert.matches("server 10.0.0.1:80 weight=1;", text, 1, true)
    end)

    it("closes all without routes", function()
        local text = assert(render.text(render.empty_plan(), node))
        local _, closed = text:gsub('return "";', "")
        assert.equal(3, closed)
        assert.is_nil(text:find("proxy_pass", 1, true))
    end)

    it("takes nothing that is not what it must be", function()
        local evil = {'x"; } http {', "a;b", "$hostname", "a b", "\n", "{",
            1.5, -1, 0, 1e300, "", true, {}, "../../etc/passwd", "127.0.0.1; include x"}
        local changes = {
            function(v) return function(_, route) route.port = v end end,
            function(v) return function(_, route) route.remote = v end end,
            function(v) return function(_, route) route.server = v end end,
            function(v) return function(_, route) route.sni = v end end,
            function(v) return function(_, route) route.id = v end end,
            function(v) return function(_, route) route.target = v end end,
            function(v) return function(_, _, up) up.method = v end end,
            function(v) return function(_, _, up) up.method, up.key = "hash", v end end,
            function(v) return function(_, _, up) up.name = v end end,
            function(v) return function(_, _, up) up.tries = v end end,
            function(v) return function(_, _, up) up.tries_ms = v end end,
            function(v) return function(_, _, up) up.connect_ms = v end end,
            function(v) return function(_, _, up) up.idle_ms = v end end,
            function(v) return function(_, _, up) up.servers = v end end,
            function(v) return function(_, _, _, server) server.address = v end end,
            function(v) return function(_, _, _, server) server.port = v end end,
            function(v) return function(_, _, _, server) server.weight = v end end,
            function(v) return function(_, _, _, _, cert) cert.file = v end end,
            function(v) return function(_, _, _, _, cert) cert.names = {v} end end,
            function(v) return function(made) made.routes = v end end,
            function(v) return function(made) made.certificates = v end end,
        }
        local shape = text_of():gsub("[^;{}]", "")
        local refused = 0
        for i, change in ipairs(changes) do
            for _, value in ipairs(evil) do
                local text = text_of(change(value))
                if not text then
                    refused = refused + 1
                else
                    for _, bad in ipairs({"http {", "a;b", "$hostname", "a b", "include", "passwd", "e+"}) do
                        assert.is_nil(text:find(bad, 1, true), i .. ": " .. tostring(value))
                    end
                end
            end
        end
        assert.is_true(refused > 200)
        assert.is_true(#shape > 20)
    end)

    it("has TLS to upstreams or not, but not both on a port", function()
        local text, problems = text_of(function(made)
            made.upstreams[2] = {method = "roundrobin", tls = true, name = "a.example", servers = made.upstreams[1].servers}
            made.routes[#made.routes] = {id = "9", target = 2, port = 1}
        end)
        assert.is_nil(text:find("proxy_ssl on", 1, true))
        assert.equal("9", problems[1].id)
        text = text_of(function(made, route, up)
            up.tls, up.name, route.remote = true, "a.example", nil
        end)
        assert.matches("proxy_ssl_name a.example;", text, 1, true)
    end)
end)

describe("stream listeners", function()
    local values = require("dpproxy.cli.values")

    it("are ports, addresses, or tables of them", function()
        assert.same({{port = 9100}, {ip = "127.0.0.1", port = 9101}, {ip = "::1", port = 9102, tls = true}, {port = 9103}},
            values.stream_tcp({9100, "127.0.0.1:9101", {addr = "[::1]:9102", tls = true}, {addr = 9103, tls = false}}))
        assert.same({{port = 9200}}, values.stream_udp({"9200"}))
    end)

    it("are nothing else", function()
        for _, bad in ipairs({"x", {"a:b"}, {{addr = {9100}}}, {{tls = true}}, {{addr = 9100, tls = "yes"}},
            {9100, "9100"}, {"1;2:3"}, {70000}}) do
            assert.is_nil((values.stream_tcp(bad)))
        end
        assert.is_nil((values.stream_udp({{addr = 9100, tls = true}})))
    end)
end)
