-- The plugins that shape traffic, one request at a time, over a fake ngx. What they do together, with
-- nginx, is seen in tests/proxy/plugins.py.
local fake_dict = require("fake_dict")
local fake_ngx = require("fake_ngx")

local fake, core, ctx, metadata, wall

-- A request with a plugin's configuration: -> plugin, conf (checked, with defaults)
local function start(name, conf, request)
    fake = fake_ngx.install(request)
    fake_ngx.unload()
    for module in pairs(package.loaded) do
        if module:find("^dpproxy%.cache") or module:find("^dpproxy%.limit") then
            package.loaded[module] = nil
        end
    end
    wall = fake
    for _, dict in ipairs({"plugin-limit-count", "plugin-limit-req", "plugin-limit-conn", "memory_cache"}) do
        ngx.shared[dict] = fake_dict.new(function() return wall.now end)
    end
    metadata = nil
    package.loaded["apisix.plugin"] = {
        plugin_metadata = function() return metadata and {value = metadata, modifiedIndex = 1} end,
        plugin_attr = function() return nil end,
        conf_version = function(c) return tostring(c):sub(-6) end,
    }
    core = require("apisix.core")
    ctx = {conf_type = "route", conf_id = "1"}
    core.ctx.set_vars_meta(ctx)
    ngx.ctx.api_ctx = ctx
    local plugin = require("apisix.plugins." .. name)
    assert.equal(name, plugin.name)
    if conf then
        local ok, err = plugin.check_schema(conf)
        assert(ok, err)
        conf._meta = setmetatable({}, {__index = {parent = {resource_key = "/apisix/routes/1"}}})
    end
    return plugin, conf
end

local function refuses(name, conf, message)
    local plugin = start(name)
    local ok, err = plugin.check_schema(conf)
    assert.is_falsy(ok)
    if message then
        assert.is_truthy(tostring(err):find(message, 1, true), tostring(err))
    end
end

describe("defaults", function()
    it("names plugins that exist, with the priorities they have", function()
        start("cors")
        local before = math.huge
        for _, entry in ipairs(require("dpproxy.plugin.defaults").http) do
            assert.is_true(entry[2] < before, entry[1])
            before = entry[2]
            local plugin = require("apisix.plugins." .. entry[1])
            assert.equal(entry[2], plugin.priority)
            assert.equal(entry[1], plugin.name)
            assert.is_table(plugin.schema)
            assert.is_function(plugin.check_schema)
        end
    end)
end)

describe("limit-count", function()
    it("answers 503 and three headers", function()
        local plugin, conf = start("limit-count", {count = 2, time_window = 10, rejected_msg = "slow down"})
        assert.is_nil(plugin.access(conf, ctx))
        assert.equal("2", ngx.header["X-RateLimit-Limit"])
        assert.equal(1, ngx.header["X-RateLimit-Remaining"])
        assert.equal(10, ngx.header["X-RateLimit-Reset"])
        assert.is_nil(plugin.access(conf, ctx))
        fake.now = fake.now + 3.456
        local code, body = plugin.access(conf, ctx)
        assert.equal(503, code)
        assert.same({error_msg = "slow down"}, body)
        assert.equal(0, ngx.header["X-RateLimit-Remaining"])
        assert.equal(6.54, ngx.header["X-RateLimit-Reset"])
        fake.now = fake.now + 7
        assert.is_nil(plugin.access(conf, ctx))
    end)
    it("counts by what the key says", function()
        local plugin, conf = start("limit-count", {count = 1, time_window = 10, key = "$remote_addr $http_x",
            key_type = "var_combination"}, {headers = {x = "a"}})
        assert.is_nil(plugin.access(conf, ctx))
        assert.equal(503, (plugin.access(conf, ctx)))
        fake.request_headers.x, ctx.var.http_x = "b", "b"
        assert.is_nil(plugin.access(conf, ctx))
        plugin, conf = start("limit-count", {count = 1, time_window = 10, key = "arg_flag"}, {args = "flag"})
        assert.is_nil(plugin.access(conf, ctx))
        assert.equal(503, (plugin.access(conf, ctx)))
        plugin, conf = start("limit-count", {count = 1, time_window = 10, key = "consumer_name"})
        assert.is_nil(plugin.access(conf, ctx))
        assert.equal(503, (plugin.access(conf, ctx)))   -- by the address, since there is no consumer
    end)
    it("counts a group together", function()
        local plugin, a = start("limit-count", {count = 1, time_window = 10, group = "g", key_type = "constant", key = "k"})
        local b = {count = 1, time_window = 10, group = "g", key_type = "constant", key = "k"}
        assert.is_true((plugin.check_schema(b)))
        assert.is_nil(plugin.access(a, ctx))
        assert.equal(503, (plugin.access(b, ctx)))
        local ok, err = plugin.check_schema({count = 2, time_window = 10, group = "g", key_type = "constant", key = "k"})
        assert.is_false(ok)
        assert.equal("group conf mismatched", err)
    end)
    it("takes numbers from variables, and refuses bad ones", function()
        local plugin, conf = start("limit-count", {count = "${http_count ?? 1}", time_window = 10})
        assert.is_nil(plugin.access(conf, ctx))
        assert.equal(503, (plugin.access(conf, ctx)))
        plugin, conf = start("limit-count", {count = "$http_count", time_window = 10}, {headers = {count = "-1"}})
        assert.equal(500, (plugin.access(conf, ctx)))
        plugin, conf = start("limit-count", {count = "$http_count", time_window = 10, allow_degradation = true})
        assert.is_nil((plugin.access(conf, ctx)))
    end)
    it("has rules with headers of their own", function()
        local plugin, conf = start("limit-count", {rules = {
            {count = 1, time_window = 10, key = "$http_user", header_prefix = "User"},
            {count = 5, time_window = 10, key = "$remote_addr"},
        }})
        assert.is_nil(plugin.access(conf, ctx))
        assert.is_nil(ngx.header["X-User-RateLimit-Limit"])
        assert.equal("5", ngx.header["X-2-RateLimit-Limit"])
        ctx.var.http_user = "u"
        assert.is_nil(plugin.access(conf, ctx))
        assert.equal("1", ngx.header["X-User-RateLimit-Limit"])
        assert.equal(503, (plugin.access(conf, ctx)))
    end)
    it("renames headers by metadata", function()
        local plugin, conf = start("limit-count", {count = 1, time_window = 10})
        metadata = {limit_header = "A", remaining_header = "B", reset_header = "C"}
        plugin.access(conf, ctx)
        assert.equal("1", ngx.header["A"])
        assert.equal(0, ngx.header["B"])
        assert.is_nil(ngx.header["X-RateLimit-Limit"])
    end)
    it("degrades when it may", function()
        local plugin, conf = start("limit-count", {count = 1, time_window = 10, allow_degradation = true})
        ngx.shared["plugin-limit-count"].full = true
        assert.is_nil((plugin.access(conf, ctx)))
        conf.allow_degradation = false
        local code, body = plugin.access(conf, ctx)
        assert.equal(500, code)
        assert.equal("failed to limit count", body.error_msg)
    end)
    it("refuses what it cannot do", function()
        refuses("limit-count", {count = 1})
        refuses("limit-count", {count = 0, time_window = 1})
        refuses("limit-count", {count = 1, time_window = 1, rules = {}}, "cannot be specified at the same time")
        refuses("limit-count", {count = 1, time_window = 1, policy = "redis"}, "then clause did not match")
        refuses("limit-count", {count = 1, time_window = 1, policy = "redis-cluster", redis_cluster_nodes = {"a:1"}})
        refuses("limit-count", {count = 1, time_window = 1, policy = "redis-sentinel", redis_sentinels = {{host = "a"}}})
        refuses("limit-count", {count = 1, time_window = 1, policy = "redis", redis_host = "a1",
                                sync_interval = 0.01}, "sync_interval")
        refuses("limit-count", {rules = {{count = 1, time_window = 1, key = "$a"}, {count = 2, time_window = 1, key = "$a"}}},
            "duplicate key '$a' in rules")
    end)
end)

describe("limit-req", function()
    it("delays, then rejects", function()
        local plugin, conf = start("limit-req", {rate = 10, burst = 1, key = "remote_addr", rejected_msg = "no"})
        assert.is_nil(plugin.access(conf, ctx))
        assert.same({}, fake.sleeps)
        assert.is_nil(plugin.access(conf, ctx))
        assert.is_true(math.abs(fake.sleeps[1] - 0.1) < 0.05)
        local code, body = plugin.access(conf, ctx)
        assert.equal(503, code)
        assert.same({error_msg = "no"}, body)
    end)
    it("does not delay with nodelay", function()
        local plugin, conf = start("limit-req", {rate = 1, burst = 5, key = "remote_addr", nodelay = true})
        for _ = 1, 5 do
            assert.is_nil(plugin.access(conf, ctx))
        end
        assert.same({}, fake.sleeps)
    end)
end)

describe("limit-conn", function()
    it("frees its place in the log phase", function()
        local plugin, conf = start("limit-conn", {conn = 1, burst = 0, default_conn_delay = 0.1, key = "remote_addr"})
        assert.is_nil(plugin.access(conf, ctx))
        local other = {conf_type = "route", conf_id = "1", var = ctx.var}
        assert.equal(503, (plugin.access(conf, other)))
        plugin.log(conf, other)
        assert.equal(503, (plugin.access(conf, other)))
        plugin.log(conf, ctx)
        plugin.log(conf, ctx)
        assert.is_nil(plugin.access(conf, other))
    end)
    it("learns how long a request takes", function()
        local plugin, conf = start("limit-conn", {conn = 1, burst = 9, default_conn_delay = 1, key = "remote_addr"})
        ctx.var.upstream_response_time = "0.5, 3.0"
        plugin.access(conf, ctx)
        plugin.log(conf, ctx)
        plugin.access(conf, ctx)
        plugin.access(conf, ctx)
        assert.same({1, 1}, fake.sleeps)    -- (1 + 3) / 2 = 2 s, slept in pieces of one
        plugin.log(conf, ctx)
    end)
end)

describe("proxy-rewrite", function()
    local function uri_of(conf, request)
        local plugin, checked = start("proxy-rewrite", conf, request)
        local code, body = plugin.rewrite(checked, ctx)
        return fake.request.vars.upstream_uri, code, body
    end
    it("rewrites the uri and keeps the query", function()
        assert.equal("/new", uri_of({uri = "/new"}, {uri = "/a"}))
        assert.equal("/new?x=1", uri_of({uri = "/new"}, {uri = "/a", args = "x=1"}))
        assert.equal("/new?y=2&x=1", uri_of({uri = "/new?y=2"}, {uri = "/a", args = "x=1"}))
        assert.equal("/a/127.0.0.1", uri_of({uri = "/a/$remote_addr"}, {uri = "/b"}))
    end)
    it("takes the first pattern that matches", function()
        local conf = {regex_uri = {"^/x/(.*)", "/1/$1", "^/(.*)/(.*)", "/2/$2/$1", "^/", "/3"}}
        assert.equal("/1/b", uri_of(conf, {uri = "/x/b"}))
        assert.equal("/2/b/a", uri_of(conf, {uri = "/a/b"}))
        assert.equal("/3c", uri_of(conf, {uri = "/c"}))
        assert.equal("/9?a=1", uri_of({uri = "/9", regex_uri = conf.regex_uri}, {uri = "/x/b", args = "a=1"}))
    end)
    it("lets no line break or question mark of a path through", function()
        assert.equal("/1/a%0D%0AX:%20b", uri_of({regex_uri = {"(?s)^/x/(.*)", "/1/$1"}}, {uri = "/x/a\r\nX: b"}))
        assert.equal("/1?q=a%0D%0A", (uri_of({regex_uri = {"(?s)^/x/(.*)", "/1?q=$1"}}, {uri = "/x/a\r\n"})))
        assert.equal("/u/a%253Fb", uri_of({uri = "/u$uri"}, {uri = "/a?b"}))
        assert.equal("/a%3Fb", uri_of({host = "h"}, {uri = "/a?b"}))
    end)
    it("changes headers in order: add, set, remove", function()
        local plugin, conf = start("proxy-rewrite", {regex_uri = {"^/(.*)/(.*)", "/$2"}, headers = {
            add = {["X-A"] = "$1-$http_x"}, set = {["X-B"] = {"1", "${2}"}, ["X-C"] = "$remote_addr", ["X-E"] = 7},
            remove = {"X-D"}}}, {uri = "/v1/v2", headers = {["X-A"] = "old", ["X-D"] = "gone", x = "hx"}})
        plugin.rewrite(conf, ctx)
        assert.same({"old", "v1-hx"}, fake.request_headers["x-a"])
        assert.same({"1", "v2"}, fake.request_headers["x-b"])
        assert.equal("127.0.0.1", fake.request_headers["x-c"])
        assert.equal("7", tostring(fake.request_headers["x-e"]))
        assert.is_nil(fake.request_headers["x-d"])
    end)
    it("sets the host", function()
        local plugin, conf = start("proxy-rewrite", {host = "other.com"})
        plugin.rewrite(conf, ctx)
        assert.equal("other.com", fake.request.vars.upstream_host)
    end)
    it("refuses bad configurations", function()
        refuses("proxy-rewrite", {uri = "no-slash"})
        refuses("proxy-rewrite", {method = "FOO"})
        refuses("proxy-rewrite", {regex_uri = {"^/a", "/b", "^/c"}}, "The length of regex_uri should be an even number")
        refuses("proxy-rewrite", {regex_uri = {"^/(a", "/b"}}, "invalid regex_uri(^/(a, /b): ")
        refuses("proxy-rewrite", {headers = {["X-A"] = "a\r\nb"}}, "invalid value character in header")
        refuses("proxy-rewrite", {headers = {["X A"] = "a"}}, "invalid field character in header")
        refuses("proxy-rewrite", {host = "a/b"})
    end)
end)

describe("response-rewrite", function()
    local function body_of(plugin, conf, chunks)
        local out = {}
        for i, chunk in ipairs(chunks) do
            ngx.arg[1], ngx.arg[2] = chunk, i == #chunks
            plugin.body_filter(conf, ctx)
            out[#out + 1] = ngx.arg[1]
        end
        return table.concat(out)
    end
    it("replaces status, headers and body", function()
        local plugin, conf = start("response-rewrite", {status_code = 201, body = "bmV3", body_base64 = true,
            headers = {add = {"X-A: a"}, set = {["X-S"] = "$remote_addr"}, remove = {"X-R"}}})
        ngx.header["ETag"], ngx.header["Content-Length"], ngx.header["X-R"], ngx.header["X-A"] = "e", 3, "r", "0"
        plugin.header_filter(conf, ctx)
        assert.equal(201, ngx.status)
        assert.is_nil(ngx.header["ETag"])
        assert.is_nil(ngx.header["Content-Length"])
        assert.is_nil(ngx.header["X-R"])
        assert.same({"0", "a"}, ngx.header["X-A"])
        assert.equal("127.0.0.1", ngx.header["X-S"])
        assert.equal("new", body_of(plugin, conf, {"old"}))
        assert.is_true(ngx.arg[2])
    end)
    it("does nothing when its vars do not match", function()
        local plugin, conf = start("response-rewrite", {status_code = 201, body = "x", vars = {{"http_a", "==", "1"}}})
        ngx.status = 200
        plugin.header_filter(conf, ctx)
        assert.equal(200, ngx.status)
        assert.equal("old", body_of(plugin, conf, {"o", "ld"}))
    end)
    it("filters the body, also a packed one", function()
        local plugin, conf = start("response-rewrite", {filters = {{regex = "l+", replace = "L", scope = "global"},
            {regex = "W", replace = "w$0"}}})
        plugin.header_filter(conf, ctx)
        ctx._plugin_name = "response-rewrite"
        assert.equal("heLo wWorLd", body_of(plugin, conf, {"hel", "lo World"}))
        plugin, conf = start("response-rewrite", {filters = {{regex = "hello", replace = "bye"}}})
        ctx._plugin_name = "response-rewrite"
        ngx.header["Content-Encoding"] = "gzip"
        local handle = io.popen("printf 'hello you' | gzip -c | base64 -w0")
        local packed = ngx.decode_base64((handle:read("*a")))
        handle:close()
        plugin.header_filter(conf, ctx)
        assert.is_nil(ngx.header["Content-Encoding"])
        assert.equal("bye you", body_of(plugin, conf, {packed:sub(1, 10), packed:sub(11)}))
    end)
    it("leaves what it cannot unpack as it is", function()
        local plugin, conf = start("response-rewrite", {filters = {{regex = "a", replace = "b"}}})
        ngx.header["Content-Encoding"] = "br"
        plugin.header_filter(conf, ctx)
        assert.equal("br", ngx.header["Content-Encoding"])
        assert.equal("aaa", body_of(plugin, conf, {"aaa"}))
    end)
    it("refuses bad configurations", function()
        refuses("response-rewrite", {status_code = 100})
        refuses("response-rewrite", {body = "###", body_base64 = true}, "invalid base64 content")
        refuses("response-rewrite", {body = "a", filters = {{regex = "a", replace = "b"}}})
        refuses("response-rewrite", {filters = {{regex = "(a", replace = "b"}}}, "regex \"(a\" validation failed")
        refuses("response-rewrite", {vars = {{"a", "b", "c", "d", "e"}}}, "failed to validate the 'vars' expression")
    end)
end)

describe("cors", function()
    local function headers_for(conf, origin, request_headers)
        request_headers = request_headers or {}
        request_headers.origin = origin
        local plugin, checked = start("cors", conf, {headers = request_headers})
        plugin.rewrite(checked, ctx)
        plugin.header_filter(checked, ctx)
        return ngx.header["Access-Control-Allow-Origin"], ngx.header["Vary"]
    end
    it("allows all by default", function()
        local allowed, vary = headers_for({}, "http://a.com")
        assert.equal("*", allowed)
        assert.is_nil(vary)
        assert.equal("*", ngx.header["Access-Control-Allow-Methods"])
        assert.equal("*", ngx.header["Access-Control-Allow-Headers"])
        assert.equal(5, ngx.header["Access-Control-Max-Age"])
    end)
    it("echoes with **", function()
        local allowed, vary = headers_for({allow_origins = "**", allow_methods = "**", allow_headers = "**",
            allow_credential = true}, "http://a.com", {["access-control-request-headers"] = "x-a"})
        assert.equal("http://a.com", allowed)
        assert.equal("Origin", vary)
        assert.equal("x-a", ngx.header["Access-Control-Allow-Headers"])
        assert.equal("true", ngx.header["Access-Control-Allow-Credentials"])
        assert.is_truthy(ngx.header["Access-Control-Allow-Methods"]:find("PATCH", 1, true))
    end)
    it("knows lists, patterns and metadata", function()
        local list = {allow_origins = "http://a.com,http://b.com"}
        assert.equal("http://b.com", (headers_for(list, "http://b.com")))
        local allowed, vary = headers_for({allow_origins = "http://a.com,http://b.com"}, "http://c.com")
        assert.is_nil(allowed)
        assert.equal("Origin", vary)
        assert.is_nil(ngx.header["Access-Control-Allow-Methods"])
        assert.is_nil((headers_for({allow_origins = "http://a.com"}, nil)))
        local regex = {allow_origins_by_regex = {".*\\.test\\.com$", "^http://x$"}}
        assert.equal("http://a.test.com", (headers_for(regex, "http://a.test.com")))
        assert.is_nil((headers_for({allow_origins_by_regex = {".*\\.test\\.com$"}}, "http://a.other.com")))

        local plugin, conf = start("cors", {allow_origins_by_metadata = {"k"}}, {headers = {origin = "http://m.com"}})
        metadata = {allow_origins = {k = "http://m.com,http://n.com"}}
        plugin.rewrite(conf, ctx)
        plugin.header_filter(conf, ctx)
        assert.equal("http://m.com", ngx.header["Access-Control-Allow-Origin"])
        plugin, conf = start("cors", {allow_origins_by_metadata = {"k"}}, {headers = {origin = "http://z.com"}})
        metadata = {allow_origins = {k = "http://m.com,http://n.com"}}
        plugin.rewrite(conf, ctx)
        plugin.header_filter(conf, ctx)
        assert.is_nil(ngx.header["Access-Control-Allow-Origin"])
    end)
    it("answers OPTIONS", function()
        local plugin, conf = start("cors", {}, {method = "OPTIONS"})
        assert.equal(200, (plugin.rewrite(conf, ctx)))
    end)
    it("sets timing headers", function()
        headers_for({timing_allow_origins = "http://a.com"}, "http://a.com")
        assert.equal("http://a.com", ngx.header["Timing-Allow-Origin"])
        headers_for({timing_allow_origins = "http://a.com"}, "http://b.com")
        assert.is_nil(ngx.header["Timing-Allow-Origin"])
    end)
    it("refuses * with credentials", function()
        local message = "you can not set '*' for other option when 'allow_credential' is true"
        refuses("cors", {allow_credential = true}, message)
        refuses("cors", {allow_credential = true, allow_origins = "**", allow_methods = "**", allow_headers = "**",
            expose_headers = "*"}, message)
        refuses("cors", {allow_origins = "a.com"})
        refuses("cors", {allow_origins_by_regex = {"(a"}})
    end)
end)

describe("ip-restriction", function()
    local function code_of(conf, address)
        local plugin, checked = start("ip-restriction", conf, {vars = {remote_addr = address}})
        return plugin.access(checked, ctx)
    end
    it("knows both lists", function()
        local code, body = code_of({whitelist = {"10.0.0.0/8", "::1"}}, "11.0.0.1")
        assert.equal(403, code)
        assert.same({message = "Your IP address is not allowed"}, body)
        assert.is_nil(code_of({whitelist = {"10.0.0.0/8", "::1"}}, "10.9.9.9"))
        assert.is_nil(code_of({whitelist = {"10.0.0.0/8", "::1"}}, "::1"))
        assert.equal(404, (code_of({blacklist = {"10.0.0.1"}, response_code = 404}, "10.0.0.1")))
        assert.is_nil(code_of({blacklist = {"10.0.0.1"}}, "10.0.0.2"))
    end)
    it("refuses bad configurations", function()
        refuses("ip-restriction", {})
        refuses("ip-restriction", {whitelist = {"1.2.3.4"}, blacklist = {"1.2.3.4"}})
        refuses("ip-restriction", {whitelist = {"nonsense"}})
        refuses("ip-restriction", {blacklist = {}})
    end)
end)

describe("real-ip", function()
    local function address_of(conf, request)
        request.vars = request.vars or {}
        local plugin, checked = start("real-ip", conf, request)
        plugin.rewrite(checked, ctx)
        return ctx.var.remote_addr, fake.request.vars.dpproxy_forwarded_for
    end
    it("believes trusted peers", function()
        local conf = {source = "http_x_forwarded_for", trusted_addresses = {"127.0.0.0/8", "10.0.0.0/8"}}
        local headers = {["x-forwarded-for"] = "1.1.1.1, 2.2.2.2,10.0.0.1"}
        assert.same({"10.0.0.1", "1.1.1.1, 2.2.2.2,10.0.0.1, 10.0.0.1"}, {address_of(conf, {headers = headers})})
        assert.equal("127.0.0.1", ctx.var.realip_remote_addr)
        conf.recursive, conf._meta = true, nil
        assert.equal("2.2.2.2", (address_of(conf, {headers = headers})))
        conf._meta = nil
        assert.equal("9.9.9.9", (address_of(conf, {headers = headers, vars = {remote_addr = "9.9.9.9"}})))
    end)
    it("takes other sources, and no nonsense", function()
        assert.equal("1.2.3.4", (address_of({source = "http_x_real"}, {headers = {x_real = "1.2.3.4:5678"}})))
        assert.equal("5678", ctx.var.remote_port)
        assert.equal("::1", (address_of({source = "arg_ip"}, {args = "ip=%5B::1%5D:80"})))
        for _, bad in ipairs({"nonsense", "1.2.3.4:0", "1.2.3", ""}) do
            assert.equal("127.0.0.1", (address_of({source = "arg_ip"}, {args = "ip=" .. bad})))
        end
        refuses("real-ip", {})
        refuses("real-ip", {source = "a", trusted_addresses = {"x"}})
    end)
end)

describe("gzip", function()
    local inflate = require("dpproxy.base.inflate").inflate
    local function respond(conf, request, headers, chunks)
        local plugin, checked = start("gzip", conf, request)
        ngx.status = headers.status or 200
        headers.status = nil
        for name, value in pairs(headers) do
            ngx.header[name] = value
        end
        plugin.header_filter(checked, ctx)
        if ctx.last_header_filter then
            ctx.last_header_filter(ctx)
        end
        local out = {}
        for i, chunk in ipairs(chunks) do
            ngx.arg[1], ngx.arg[2] = chunk, i == #chunks
            plugin.delayed_body_filter(checked, ctx)
            plugin.delayed_body_filter({}, ctx)
            out[#out + 1] = ngx.arg[1]
        end
        return table.concat(out), out
    end
    local takes = {headers = {["accept-encoding"] = "br, gzip;q=0.8"}}
    it("packs", function()
        local long = ("hello "):rep(50000)
        local body = respond({vary = true}, takes, {["Content-Type"] = "text/html; charset=utf-8", ["Content-Length"] = 300003,
            ETag = '"x"'}, {"abc", long, ""})
        assert.equal("abc" .. long, inflate(body))
        assert.is_true(#body < 10000)
        assert.equal("gzip", ngx.header["Content-Encoding"])
        assert.is_nil(ngx.header["Content-Length"])
        assert.equal('W/"x"', ngx.header["ETag"])
        assert.equal("Accept-Encoding", ngx.header["Vary"])
        assert.equal("", inflate((respond({}, takes, {["Content-Type"] = "text/html"}, {""}))))
    end)
    it("packs events as they come", function()
        local _, chunks = respond({types = "*"}, takes, {["Content-Type"] = "text/event-stream"},
            {"data: 1\n\n", "data: 2\n\n", ""})
        assert.is_true(#chunks[1] > 10 and #chunks[2] > 5)
    end)
    it("leaves alone what it should", function()
        for _, case in ipairs({
            {{}, {headers = {}}, {["Content-Type"] = "text/html"}},
            {{}, {headers = {["accept-encoding"] = "gzip;q=0"}}, {["Content-Type"] = "text/html"}},
            {{}, takes, {["Content-Type"] = "text/plain"}},
            {{}, takes, {}},
            {{}, takes, {["Content-Type"] = "text/html", ["Content-Length"] = 19}},
            {{}, takes, {["Content-Type"] = "text/html", ["Content-Encoding"] = "br"}},
            {{}, takes, {["Content-Type"] = "text/html", status = 206}},
            {{}, {method = "HEAD", headers = takes.headers}, {["Content-Type"] = "text/html"}},
        }) do
            assert.equal("abc", (respond(case[1], case[2], case[3], {"a", "bc"})))
            assert.not_equal("gzip", ngx.header["Content-Encoding"])
        end
    end)
    it("knows what clients take", function()
        local accepts = require("apisix.plugins.gzip").accepts_gzip
        for header, want in pairs({["gzip"] = true, ["GZIP, br"] = true, ["*"] = true, ["*;q=0"] = false, ["br"] = false,
                ["*, gzip;q=0.0"] = false, ["gzip; q=0"] = false, ["gzip;q=0.001"] = true, [""] = false}) do
            assert.equal(want, accepts(header), header)
        end
    end)
end)

describe("request-id", function()
    it("makes one, passes it on and returns it", function()
        local plugin, conf = start("request-id", {})
        plugin.rewrite(conf, ctx)
        local id = fake.request_headers["x-request-id"]
        assert.equal(36, #id)
        plugin.header_filter(conf, ctx)
        assert.equal(id, ngx.header["X-Request-Id"])
    end)
    it("keeps what the client and the upstream say", function()
        local plugin, conf = start("request-id", {}, {headers = {["x-request-id"] = "mine"}})
        plugin.rewrite(conf, ctx)
        assert.equal("mine", fake.request_headers["x-request-id"])
        ngx.header["X-Request-Id"] = "theirs"
        plugin.header_filter(conf, ctx)
        assert.equal("theirs", ngx.header["X-Request-Id"])
    end)
    it("knows several algorithms", function()
        for algorithm, size in pairs({uuid = 36, uuidv7 = 36, nanoid = 21, ksuid = 27, range_id = 16}) do
            local plugin, conf = start("request-id", {algorithm = algorithm, header_name = "X-Id", include_in_response = false})
            plugin.rewrite(conf, ctx)
            assert.equal(size, #fake.request_headers["x-id"], algorithm)
            plugin.header_filter(conf, ctx)
            assert.is_nil(ngx.header["X-Id"])
        end
    end)
end)

describe("redirect", function()
    local function go(conf, request)
        local plugin, checked = start("redirect", conf, request)
        return (plugin.rewrite(checked, ctx)), ngx.header["Location"]
    end
    it("goes to https", function()
        local host = {host = "a.com"}
        assert.same({301, "https://a.com/x?y=1"}, {go({http_to_https = true}, {uri = "/x", args = "y=1", headers = host})})
        assert.same({308, "https://a.com/x"}, {go({http_to_https = true}, {uri = "/x", method = "POST", headers = host})})
        assert.same({}, {go({http_to_https = true}, {headers = {["x-forwarded-proto"] = "https"}})})
        local plugin, conf = start("redirect", {http_to_https = true}, {uri = "/x", headers = {host = "a.com"}})
        package.loaded["apisix.plugin"].plugin_attr = function() return {https_port = 8443} end
        plugin.rewrite(conf, ctx)
        assert.equal("https://a.com:8443/x", ngx.header["Location"])
    end)
    it("goes to templates and patterns", function()
        assert.same({302, "/a/127.0.0.1/x-localhost.z"}, {go({uri = "/a/$remote_addr/x-${host}.z"}, {uri = "/q"})})
        assert.same({301, "/b?p=1"}, {go({uri = "/b", ret_code = 301, append_query_string = true}, {uri = "/q", args = "p=1"})})
        assert.same({302, "/b?c=d&p=1"}, {go({uri = "/b?c=d", append_query_string = true}, {uri = "/q", args = "p=1"})})
        assert.same({302, "/n/7"}, {go({regex_uri = {"^/o/(.*)", "/n/$1"}}, {uri = "/o/7"})})
        assert.same({}, {go({regex_uri = {"^/o/(.*)", "/n/$1"}}, {uri = "/p/7"})})
        assert.same({302, "/a%20b?c d"}, {go({uri = "/a b?c d", encode_uri = true}, {uri = "/q"})})
    end)
    it("refuses bad configurations", function()
        refuses("redirect", {})
        refuses("redirect", {uri = "/a", http_to_https = true})
        refuses("redirect", {http_to_https = true, append_query_string = true}, "only one of")
        refuses("redirect", {regex_uri = {"(a", "b"}}, "invalid regex_uri (")
    end)
end)

describe("fault-injection", function()
    it("aborts and delays", function()
        local plugin, conf = start("fault-injection", {abort = {http_status = 418, body = "at $remote_addr",
            headers = {["X-A"] = "$request_method"}}, delay = {duration = 0.2}})
        local code, body = plugin.rewrite(conf, ctx)
        assert.equal(418, code)
        assert.equal("at 127.0.0.1", body)
        assert.equal("GET", ngx.header["X-A"])
        assert.same({0.2}, fake.sleeps)
    end)
    it("asks percentage and vars", function()
        local plugin, conf = start("fault-injection", {abort = {http_status = 500, percentage = 0}})
        assert.is_nil(plugin.rewrite(conf, ctx))
        local vars = {{{"http_a", "==", "1"}}, {{"http_b", "==", "1"}}}
        plugin, conf = start("fault-injection", {abort = {http_status = 500, vars = vars}}, {headers = {b = "1"}})
        assert.equal(500, (plugin.rewrite(conf, ctx)))
        plugin, conf = start("fault-injection", {abort = {http_status = 500, vars = vars}}, {headers = {c = "1"}})
        assert.is_nil(plugin.rewrite(conf, ctx))
    end)
    it("refuses bad configurations", function()
        refuses("fault-injection", {})
        refuses("fault-injection", {abort = {http_status = 100}})
        refuses("fault-injection", {abort = {http_status = 500, vars = {{{"a", "~~~~", "b"}}}}})
    end)
end)

describe("serverless functions", function()
    it("run in their phase, until one answers", function()
        local plugin, conf = start("serverless-pre-function", {phase = "rewrite", functions = {
            "local n = 0; return function(conf, ctx) n = n + 1; ctx.n = n end",
            "return function(conf, ctx) if ctx.n == 2 then return 418, 'n' .. ctx.n end end",
            "return function(conf, ctx) ctx.last = true end"}})
        assert.is_nil(plugin.access(conf, ctx))
        assert.is_nil(plugin.rewrite(conf, ctx))
        assert.is_true(ctx.last)
        local code, body = plugin.rewrite(conf, ctx)
        assert.equal(418, code)
        assert.equal("n2", body)
    end)
    it("refuse what is no function", function()
        refuses("serverless-post-function", {functions = {"return 1"}},
            "only accept Lua function, the input code type is number")
        refuses("serverless-post-function", {functions = {"return ("}}, "failed to loadstring")
        refuses("serverless-post-function", {functions = {"error('x')"}}, "pcall error")
        refuses("serverless-post-function", {phase = "init", functions = {"return function() end"}})
    end)
end)

describe("uri-blocker", function()
    it("blocks", function()
        local plugin, conf = start("uri-blocker", {block_rules = {"root.exe", "^/adm"}, rejected_msg = "no"},
            {uri = "/a/root.exe"})
        local code, body = plugin.rewrite(conf, ctx)
        assert.equal(403, code)
        assert.same({error_msg = "no"}, body)
        plugin, conf = start("uri-blocker", {block_rules = {"^/ADM"}}, {uri = "/adm"})
        assert.is_nil(plugin.rewrite(conf, ctx))
        plugin, conf = start("uri-blocker", {block_rules = {"^/ADM"}, case_insensitive = true}, {uri = "/adm"})
        assert.equal(403, (plugin.rewrite(conf, ctx)))
    end)
end)

describe("ua-restriction", function()
    local function asks(conf, agent)
        local plugin, checked = start("ua-restriction", conf, {headers = {["User-Agent"] = agent}})
        return (plugin.access(checked, ctx))
    end
    it("knows both lists, and those who do not say", function()
        assert.is_nil(asks({allowlist = {"^good/", "bot$"}}, "my bot"))
        assert.equal(403, asks({allowlist = {"^good/"}}, "my bot"))
        assert.equal(403, asks({denylist = {"bot"}}, "my bot"))
        assert.is_nil(asks({denylist = {"bot"}}, "curl"))
        assert.equal(403, asks({denylist = {"bot"}}))
        assert.is_nil(asks({denylist = {"bot"}, bypass_missing = true}))
        assert.equal(403, asks({denylist = {"bot"}}, {"curl", "bot"}))
        refuses("ua-restriction", {})
        refuses("ua-restriction", {allowlist = {"a"}, denylist = {"b"}})
        refuses("ua-restriction", {denylist = {"("}})
    end)
end)

describe("referer-restriction", function()
    local function asks(conf, referer)
        local plugin, checked = start("referer-restriction", conf, {headers = {referer = referer}})
        ctx.var.http_referer = referer
        local code, body = plugin.access(checked, ctx)
        return code, body
    end
    it("knows both lists, and those who do not say", function()
        local list = {whitelist = {"a.com", "*.b.com"}}
        for _, good in ipairs({"http://a.com", "https://A.com:8080/x?y", "http://x.b.com/", "http://x.y.b.com"}) do
            assert.is_nil((asks(list, good)), good)
        end
        for _, bad in ipairs({"http://b.com", "http://xa.com", "http://a.com.evil.com", "a.com", "http://a.com@evil.com/"}) do
            assert.equal(403, (asks(list, bad)), bad)
        end
        assert.same({403, {message = "no"}}, {asks({whitelist = {"a.com"}, message = "no"})})
        assert.is_nil((asks({whitelist = {"a.com"}, bypass_missing = true})))
        assert.equal(403, (asks({blacklist = {"*.b.com"}}, "http://x.b.com")))
        assert.is_nil((asks({blacklist = {"*.b.com"}}, "http://b.com")))
        refuses("referer-restriction", {})
    end)
end)

describe("api-breaker", function()
    it("opens for 2, 4, 8 seconds, and closes after successes", function()
        local plugin, conf = start("api-breaker", {break_response_code = 502, unhealthy = {failures = 2},
                                             healthy = {successes = 2},
            break_response_body = "later", break_response_headers = {{key = "X-Why", value = "$host"}}, max_breaker_sec = 5})
        ngx.shared["plugin-api-breaker"] = fake_dict.new(function() return wall.now end)
        local status
        core.response.get_upstream_status = function() return status end
        local function ends(with)
            status = with
            plugin.log(conf, ctx)
        end
        local function open()
            return plugin.access(conf, ctx) ~= nil
        end
        ends(500)
        assert.is_false(open())
        ends(500)
        assert.same({502, "later"}, {plugin.access(conf, ctx)})
        assert.equal(ctx.var.host, ngx.header["X-Why"])
        fake.now = fake.now + 3
        assert.is_false(open())
        ends(500)
        ends(500)
        fake.now = fake.now + 4
        assert.is_true(open())      -- 4 seconds now
        fake.now = fake.now + 1
        assert.is_false(open())
        ends(200)
        ends(404)                   -- neither the one nor the other
        ends(200)
        ends(500)
        assert.is_false(open())
        ends(nil)
        refuses("api-breaker", {})
        refuses("api-breaker", {break_response_code = 502, unhealthy = {http_statuses = {404}}})
    end)
end)

describe("workflow", function()
    it("has the first case that fits decide", function()
        local conf = {rules = {
            {case = {{"uri", "==", "/a"}, {"arg_x", "==", "1"}}, actions = {{"return", {code = 403}}}},
            {case = {"OR", {"uri", "==", "/b"}, {"uri", "==", "/c"}}, actions = {{"limit-count", {count = 1, time_window = 60}}}},
        }}
        local plugin = start("workflow", nil, {uri = "/a", args = "x=1"})
        require("apisix.plugins.limit-count").workflow_handler()
        assert(plugin.check_schema(conf))
        assert.same({403, {error_msg = "rejected by workflow"}}, {plugin.access(conf, ctx)})
        plugin = start("workflow", nil, {uri = "/c"})
        require("apisix.plugins.limit-count").workflow_handler()
        assert.is_nil(plugin.access(conf, ctx))
        assert.equal(503, (plugin.access(conf, ctx)))
        plugin = start("workflow", nil, {uri = "/d"})
        assert.is_nil(plugin.access(conf, ctx))
    end)
    it("refuses bad configurations", function()
        refuses("workflow", {rules = {{case = {{"uri", "==", "/a"}}, actions = {{"fly", {}}}}}}, "unsupported action: fly")
        refuses("workflow", {rules = {{case = {{"uri", "like", "/a"}},
                                       actions = {{"return", {code = 403}}}}}}, "'case' expression")
        refuses("workflow", {rules = {{actions = {{"return", {code = 1}}}}}}, "failed to validate the 'return' action")
    end)
end)

describe("traffic-split", function()
    local function fake_store(known)
        package.loaded["dpproxy.config.store"] = {get = function(kind, id) return kind == "upstreams" and known[id] end}
    end
    after_each(function()
        package.loaded["dpproxy.config.store"] = nil
    end)
    it("splits by weight", function()
        local plugin, conf = start("traffic-split", {rules = {{weighted_upstreams = {
            {upstream_id = "u", weight = 3},
            {upstream = {type = "roundrobin", nodes = {["1.1.1.1:80"] = 1}}, weight = 1},
            {weight = 1},
        }}}})
        fake_store({u = {}})
        local counts = {u = 0, inline = 0, own = 0}
        for _ = 1, 50 do
            ctx.upstream_id, ctx.upstream_conf, ctx.upstream_key = nil, nil, nil
            assert.is_nil(plugin.access(conf, ctx))
            local to = ctx.upstream_id or ctx.upstream_conf and "inline" or "own"
            counts[to] = counts[to] + 1
            if to == "inline" then
                assert.is_truthy(ctx.upstream_key)
                assert.equal(1, ctx.upstream_conf.nodes["1.1.1.1:80"])
            end
        end
        assert.same({u = 30, inline = 10, own = 10}, counts)
    end)
    it("takes the first rule that matches", function()
        local rules = {
            {match = {{vars = {{"http_a", "==", "1"}}}, {vars = {{"http_b", "==", "1"}}}},
                weighted_upstreams = {{upstream_id = "x"}}},
            {match = {{vars = {{"http_c", "==", "1"}}}}, weighted_upstreams = {{upstream_id = "y"}}},
        }
        for header, id in pairs({a = "x", b = "x", c = "y"}) do
            local plugin, conf = start("traffic-split", {rules = rules}, {headers = {[header] = "1"}})
            fake_store({x = {}, y = {}})
            assert.is_nil(plugin.access(conf, ctx))
            assert.equal(id, ctx.upstream_id)
        end
        local plugin, conf = start("traffic-split", {rules = rules})
        fake_store({x = {}, y = {}})
        assert.is_nil(plugin.access(conf, ctx))
        assert.is_nil(ctx.upstream_id)
        fake_store({})
        assert.equal(500, (plugin.access(conf, ctx)))
    end)
end)

describe("proxy-cache", function()
    local hit_dict
    local function request(conf, opts)
        opts = opts or {}
        local vars = opts.vars or {}
        vars.request_method = opts.method
        local plugin, checked = start("proxy-cache", conf,
            {uri = "/c", method = opts.method, headers = opts.headers, vars = vars})
        package.loaded["apisix.core"].config.local_conf = function() return {apisix = {}} end
        if hit_dict then
            ngx.shared.memory_cache = hit_dict
            hit_dict.clock = function() return fake.now end
        end
        hit_dict = ngx.shared.memory_cache
        if opts.at then
            fake.now = fake.now + opts.at
        end
        rawset(ngx, "parse_http_time", function() return nil end)
        rawset(ngx, "resp", {get_headers = function() return opts.response_headers or {["Content-Type"] = "text/plain"} end})
        ctx.consumer_name = opts.consumer
        ctx._plugin_name = "proxy-cache"
        local code, body = plugin.access(checked, ctx)
        if code == nil then
            ngx.status = opts.status or 200
            plugin.header_filter(checked, ctx)
            ngx.arg[1], ngx.arg[2] = opts.body or "fresh", false
            plugin.body_filter(checked, ctx)
            ngx.arg[1], ngx.arg[2] = "", true
            plugin.body_filter(checked, ctx)
        end
        return ngx.header["Apisix-Cache-Status"], code, body
    end
    local function memory(more)
        local conf = {cache_strategy = "memory", cache_zone = "memory_cache", cache_ttl = 10}
        for k, v in pairs(more or {}) do
            conf[k] = v
        end
        return conf
    end
    before_each(function()
        hit_dict = nil
    end)
    it("keeps and serves", function()
        assert.equal("MISS", (request(memory())))
        assert.same({"HIT", 200, "fresh"}, {request(memory())})
        assert.equal("text/plain", ngx.header["Content-Type"])
        assert.equal("EXPIRED", (request(memory(), {at = 11})))
    end)
    it("purges", function()
        request(memory())
        local _, code = request(memory(), {method = "PURGE"})
        assert.equal(200, code)
        _, code = request(memory(), {method = "PURGE"})
        assert.equal(404, code)
        assert.equal("MISS", (request(memory())))
    end)
    it("keeps consumers apart", function()
        request(memory(), {consumer = "jack"})
        assert.equal("MISS", (request(memory(), {consumer = "joe"})))
        assert.equal("HIT", (request(memory(), {consumer = "jack"})))
        assert.equal("MISS", (request(memory())))
    end)
    it("does not keep what is personal, too large or not wanted", function()
        for _, opts in ipairs({
            {vars = {upstream_http_cache_control = "private, max-age=60"}},
            {vars = {upstream_http_cache_control = "no-store"}},
            {response_headers = {["Set-Cookie"] = "a=b"}},
            {status = 500}, {method = "HEAD"}, {method = "POST"},
            {vars = {upstream_http_vary = "*"}},
            {vars = {upstream_http_content_length = "100"}},
            {body = ("x"):rep(200), conf = {max_resp_body_size = 100}},
            {conf = {no_cache = {"$http_x"}}, headers = {x = "1"}},
        }) do
            hit_dict = nil
            request(memory(opts.conf), opts)
            assert.same({}, hit_dict:get_keys(0))
        end
    end)
    it("varies", function()
        local vary = {upstream_http_vary = "Accept-Encoding, X"}
        request(memory(), {headers = {["accept-encoding"] = "gzip"}, vars = vary, body = "packed"})
        assert.equal("MISS", (request(memory(), {vars = {upstream_http_vary = "x,accept-encoding"}, body = "plain"})))
        assert.same({"HIT", 200, "packed"}, {request(memory(), {headers = {["accept-encoding"] = "gzip"}})})
        assert.same({"HIT", 200, "plain"}, {request(memory())})
        local _, code = request(memory(), {method = "PURGE"})
        assert.equal(200, code)
        assert.same({}, hit_dict:get_keys(0))
    end)
    it("bounds the variants", function()
        for i = 1, 80 do
            request(memory(), {headers = {x = tostring(i)}, vars = {upstream_http_vary = "X"}})
        end
        assert.equal(65, #hit_dict:get_keys(0))
    end)
    it("cannot be made to mix up keys", function()
        local store = require("dpproxy.cache.store")
        local dict = fake_dict.new(function() return 1 end)
        local function header() return nil end
        local function put(key, names, body)
            assert(store.put(dict, key, names, header, ngx.md5, {status = 200, headers = {}, body = body, ttl = 9, at = 1}))
        end
        put("a", {"x"}, "victim")
        local signature = ngx.md5("0:")
        put("a::" .. signature, {}, "attacker")
        put("1:a::" .. signature, {}, "attacker")
        assert.equal("victim", store.get(dict, "a", header, ngx.md5).body)
    end)
    it("obeys cache-control when told to", function()
        local conf = memory({cache_control = true})
        request(conf, {vars = {upstream_http_cache_control = "max-age=5"}})
        assert.equal("HIT", (request(memory({cache_control = true}))))
        assert.equal("BYPASS", (request(memory({cache_control = true}), {vars = {http_cache_control = "no-cache"}})))
        assert.equal("EXPIRED", (request(memory({cache_control = true}), {at = 6, vars = {http_cache_control = "x"}})))
        hit_dict = nil
        local _, code = request(memory({cache_control = true}), {vars = {http_cache_control = "only-if-cached"}})
        assert.equal(504, code)
    end)
    it("tells nginx what to keep on disk", function()
        local plugin = start("proxy-cache", nil, {uri = "/c", headers = {x = "1"}})
        local conf = {cache_bypass = {"$http_x"}}
        package.loaded["apisix.core"].config.local_conf = function()
            return {apisix = {proxy_cache = {zones = {{name = "disk_cache_one", disk_path = "/nowhere"},
                {name = "memory_cache"}}}}}
        end
        assert(plugin.check_schema(conf))
        assert.is_nil(plugin.access(conf, ctx))
        assert.equal("disk_cache_one", fake.request.vars.upstream_cache_zone)
        assert.equal("localhost/c", fake.request.vars.upstream_cache_key)
        assert.equal("1", fake.request.vars.upstream_cache_bypass)
        ngx.status = 200
        plugin.header_filter(conf, ctx)
        assert.equal("0", fake.request.vars.upstream_no_cache)
        ngx.status = 500
        plugin.header_filter(conf, ctx)
        assert.equal("1", fake.request.vars.upstream_no_cache)
        local ok, err = plugin.check_schema({cache_zone = "nope"})
        assert.is_false(ok)
        assert.equal("cache_zone nope not found", err)
        ok, err = plugin.check_schema({cache_strategy = "memory"})
        assert.is_false(ok)
        assert.equal("invalid or empty cache_zone for cache_strategy: memory", err)
        local file_name = require("dpproxy.cache.disk").file_name
        assert.equal("/p/d/31/3c6e0b8a9c15224a8228b9a98ca1531d", file_name("/p/", "1:2", "key"))
    end)
end)
