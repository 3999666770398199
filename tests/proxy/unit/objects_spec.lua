local json = require("dpproxy.base.json")
local objects = require("dpproxy.schema.objects")

local pem = ("c"):rep(200)

local function check(kind, text, short_key, opts)
    local value = type(text) == "string" and assert(json.decode(text)) or text
    local ok, err = objects.check(kind, value, short_key or "1", opts)
    return ok, err, value
end

local up = '"upstream":{"nodes":{"127.0.0.1:80":1}}'

-- {kind, JSON, error (none: it passes), short key}
local cases = {
    -- routes
    {"routes", '{"uri":"/a",' .. up .. '}'},
    {"routes", '{"uris":["/a","/b"],"plugins":{}}'},
    {"routes", '{"uri":"/a","upstream_id":1}'},
    {"routes", '{"uri":"/a","service_id":"s-1"}'},
    {"routes", '{"uri":"/a","plugins":[],"labels":[]}'},
    {"routes", '{"uri":1,"plugins":{}}', 'property "uri" validation failed: wrong type: expected string, got number'},
    {"routes", '{"uri":"","plugins":{}}',
        'property "uri" validation failed: string too short, expected at least 1, got 0'},
    {"routes", '{"uri":"/a","uris":["/b"],"plugins":{}}',
        "allOf 1 failed: value should match only one schema, but matches both schemas 1 and 2"},
    {"routes", '{"plugins":{}}', "allOf 1 failed: value should match only one schema, but matches none"},
    {"routes", '{"uri":"/a","host":"a.com","hosts":["b.com"],"plugins":{}}',
        "allOf 2 failed: value should match only one schema, but matches both schemas 2 and 3"},
    {"routes", '{"uri":"/a","remote_addr":"::1","remote_addrs":["::2"],"plugins":{}}',
        "allOf 3 failed: value should match only one schema, but matches both schemas 2 and 3"},
    {"routes", '{"uri":"/a"}', 'object matches none of the required: ["plugins","uri"] or ["upstream","uri"] or ' ..
        '["upstream_id","uri"] or ["service_id","uri"] or ["plugins","uris"] or ["upstream","uris"] or ' ..
        '["upstream_id","uris"] or ["service_id","uris"] or ["script","uri"] or ["script","uris"]'},
    {"routes", '{"uri":"/a","plugins":{},"x":1}', "additional properties forbidden, found x"},
    {"routes", '{"uri":"/a","plugins":{},"methods":["FOO"]}',
        'property "methods" validation failed: failed to validate item 1: matches none of the enum values'},
    {"routes", '{"uri":"/a","plugins":{},"methods":[]}'},
    {"routes", '{"uri":"/a","plugins":{},"host":"a_b.com"}'},
    {"routes", '{"uri":"/a","plugins":{},"host":"a.com/x"}',
        'property "host" validation failed: failed to match pattern "^\\\\*$|^\\\\*?[0-9a-zA-Z-._\\\\[\\\\]:]+$" with "a.com/x"'},
    {"routes", '{"uri":"/a","plugins":{},"host":"*"}'},
    {"routes", '{"uri":"/a","plugins":{},"host":"a.*"}', 'property "host" validation failed: failed to match pattern ' ..
        '"^\\\\*$|^\\\\*?[0-9a-zA-Z-._\\\\[\\\\]:]+$" with "a.*"'},
    {"routes", '{"uri":"/a","plugins":{},"hosts":[]}',
        'property "hosts" validation failed: expect array to have at least 1 items'},
    {"routes", '{"uri":"/a","plugins":{},"remote_addr":"10.0.0.0/8"}'},
    {"routes", '{"uri":"/a","plugins":{},"remote_addr":"fe80::/64"}'},
    {"routes", '{"uri":"/a","plugins":{},"remote_addr":"10.0.0.256"}',
        'property "remote_addr" validation failed: object matches none of the required'},
    {"routes", '{"uri":"/a","plugins":{},"remote_addr":":/8"}', "invalid ip address: :/8"},
    {"routes", '{"uri":"/a","plugins":{},"timeout":{"connect":1,"send":1}}',
        'property "timeout" validation failed: property "read" is required'},
    {"routes", '{"uri":"/a","plugins":{},"timeout":{"connect":0,"send":1,"read":1}}',
        'property "timeout" validation failed: property "connect" validation failed: expected 0 to be greater than 0'},
    {"routes", '{"uri":"/a","plugins":{},"vars":[["arg_x","==","1"]]}'},
    {"routes", '{"uri":"/a","plugins":{},"vars":[["arg_x","=","1"]]}',
        "failed to validate the 'vars' expression: invalid operator '='"},
    {"routes", '{"uri":"/a","plugins":{},"filter_func":"function(vars) return true end"}'},
    {"routes", '{"uri":"/a","plugins":{},"filter_func":"function(vars) return tru"}', "failed to load 'filter_func' string: " ..
        '[string "filter_func of route 1"]:1: \'end\' expected near \'<eof>\''},
    {"routes", '{"uri":"/a","plugins":{},"filter_func":"function_xyz"}', "'filter_func' should be a function"},
    {"routes", '{"uri":"/a","plugins":{},"filter_func":"return 1 + 1"}', 'property "filter_func" validation failed: ' ..
        'failed to match pattern "^function" with "return 1 + 1"'},
    {"routes", '{"uri":"/a","plugins":{},"script":"return {}  --"}', "value wasn't supposed to match schema"},
    {"routes", '{"uri":"/a","plugins":{},"status":2}', 'property "status" validation failed: matches none of the enum values'},
    {"routes", '{"uri":"/a","plugins":{},"id":"a b"}', 'property "id" validation failed: object matches none of the required'},
    {"routes", '{"uri":"/a","plugins":{},"labels":{"a":"b c"}}', 'property "labels" validation failed: failed to validate a ' ..
        '(matching ".*"): failed to match pattern "^\\\\S+$" with "b c"'},
    {"routes", '{"uri":"/a","plugins":{"x":1}}', "invalid plugin conf 1 for plugin [x]"},
    {"routes", '{"uri":"/a","plugins":{"x":{"_meta":{"filter":[["a","=",1]]}}}}',
        "failed to validate the 'vars' expression: invalid operator '='"},
    {"routes", '{"uri":"/a","upstream":{}}', 'property "upstream" validation failed: ' ..
        'value should match only one schema, but matches none'},
    {"routes", "[]", "allOf 1 failed: value should match only one schema, but matches none"},
    -- services
    {"services", "{}"},
    {"services", '{"hosts":["a.com"],"upstream_id":"1"}'},
    {"services", '{"host":"a.com"}', "additional properties forbidden, found host"},
    {"services", '{"field_path":"Query.a"}', nil, "1/graphql_cost_decorations/2"},
    {"services", '{"field_path":"1"}', 'property "field_path" validation failed: failed to match pattern ' ..
        '"^[A-Za-z_][A-Za-z0-9_]*(\\\\.[A-Za-z_][A-Za-z0-9_]*)*$" with "1"', "1/graphql_cost_decorations/2"},
    -- upstreams
    {"upstreams", '{"nodes":{"127.0.0.1:80":1,"a.com":0,"[::1]:80":2}}'},
    {"upstreams", '{"nodes":{}}'},
    {"upstreams", '{"nodes":[]}'},
    {"upstreams", '{"nodes":[{"host":"127.0.0.1","port":80,"weight":1}]}'},
    {"upstreams", '{"nodes":[{"host":"127.0.0.1","port":80}]}',
        'property "nodes" validation failed: object matches none of the required'},
    {"upstreams", '{"nodes":{"127.0.0.1:80":-1}}',
        'property "nodes" validation failed: object matches none of the required'},
    {"upstreams", '{"nodes":{"127.0.0.1:70000":1}}', "invalid port 70000"},
    {"upstreams", '{"nodes":{"[::1]:0":1}}', "invalid port 0"},
    {"upstreams", '{"service_name":"a","discovery_type":"dns"}'},
    {"upstreams", '{"service_name":"a"}', "value should match only one schema, but matches none"},
    {"upstreams", '{"nodes":{},"service_name":"a","discovery_type":"dns"}'},
    {"upstreams", '{"nodes":[{"host":"a","weight":1}],"service_name":"a","discovery_type":"consul"}'},
    {"upstreams", '{"nodes":{},"type":"chash"}', "missing key"},
    {"upstreams", '{"nodes":{},"type":"chash","key":"arg_x"}'},
    {"upstreams", '{"nodes":{},"type":"chash","hash_on":"consumer"}'},
    {"upstreams", '{"nodes":{},"type":"chash","hash_on":"header","key":"x-y"}'},
    {"upstreams", '{"nodes":{},"type":"chash","hash_on":"cookie","key":"a b"}',
        'failed to match pattern "^[a-zA-Z0-9-_]+$" with "a b"'},
    {"upstreams", '{"nodes":{},"type":"chash","hash_on":"vars_combinations","key":"$a$b"}'},
    {"upstreams", '{"nodes":{},"type":"chash","hash_on":"x","key":"a"}',
        'property "hash_on" validation failed: matches none of the enum values'},
    {"upstreams", '{"nodes":{},"pass_host":"rewrite"}', "`upstream_host` can't be empty when `pass_host` is `rewrite`"},
    {"upstreams", '{"nodes":{},"pass_host":"rewrite","upstream_host":"a.com"}'},
    {"upstreams", '{"nodes":{},"scheme":"ftp"}', 'property "scheme" validation failed: matches none of the enum values'},
    {"upstreams", '{"nodes":{},"retries":-1}', 'property "retries" validation failed: expected -1 to be at least 0'},
    {"upstreams", '{"nodes":{},"checks":{"active":{}}}'},
    {"upstreams", '{"nodes":{},"checks":{"passive":{}}}', 'property "checks" validation failed: ' ..
        'object matches none of the required: ["active"] or ["active","passive"]'},
    {"upstreams", '{"nodes":{},"checks":{"active":{"healthy":{"successes":0}}}}', 'property "checks" validation failed: ' ..
        'property "active" validation failed: property "healthy" validation failed: property "successes" validation failed: ' ..
        "expected 0 to be at least 1"},
    {"upstreams", '{"nodes":{},"tls":{"client_cert":"' .. pem .. '"}}', 'property "tls" validation failed: ' ..
        'failed to validate dependent schema for "client_cert": property "client_key" is required'},
    {"upstreams", '{"nodes":{},"tls":{"client_cert_id":1}}'},
    -- consumers and credentials
    {"consumers", '{"username":"jack","plugins":{"key-auth":{"key":"x"}}}', nil, "jack"},
    {"consumers", '{"plugins":{}}', 'property "username" is required', "jack"},
    {"consumers", '{"username":"a b"}', 'property "username" validation failed: failed to match pattern ' ..
        '"^[a-zA-Z0-9_\\\\-]+$" with "a b"', "jack"},
    {"consumers", '{"id":"c1","plugins":{"key-auth":{"key":"x"}}}', nil, "jack/credentials/c1"},
    {"consumers", '{"id":"jack/credentials/c1","plugins":{}}', nil, "jack/credentials/c1"},
    {"consumers", '{"plugins":{"a":{},"b":{}}}', 'property "plugins" validation failed: ' ..
        "expect object to have at most 1 properties", "jack/credentials/c1"},
    {"consumers", '{"username":"jack"}', "additional properties forbidden, found username", "jack/credentials/c1"},
    -- the others
    {"consumer_groups", '{"plugins":{}}'},
    {"consumer_groups", "{}", 'property "plugins" is required'},
    {"plugin_configs", '{"id":5,"plugins":{}}'},
    {"plugin_configs", '{"id":5}', 'property "plugins" is required'},
    {"global_rules", '{"plugins":{}}'},
    {"global_rules", '{"plugins":{},"name":"x"}', "additional properties forbidden, found name"},
    {"plugin_metadata", '{"log_format":{"a":1}}', nil, "http-logger"},
    {"plugins", '[{"name":"key-auth"},{"name":"mqtt-proxy","stream":true}]', nil, ""},
    {"plugins", '[{"stream":true}]', 'failed to validate item 1: property "name" is required', ""},
    {"protos", '{"content":"syntax"}'},
    {"protos", '{"content":""}', 'property "content" validation failed: string too short, expected at least 1, got 0'},
    {"secrets", '{"uri":"http://127.0.0.1:8200","prefix":"kv","token":"$env://TOKEN"}', nil, "vault/1"},
    {"secrets", '{"uri":"http://127.0.0.1:8200","prefix":"kv"}', 'property "token" is required', "vault/1"},
    {"secrets", '{"access_key_id":"a","secret_access_key":"b"}', nil, "aws/1"},
    {"secrets", '{"auth_config":{"client_email":"a","private_key":"b","project_id":"c"}}', nil, "gcp/1"},
    {"secrets", "{}", "value should match only one schema, but matches none", "gcp/1"},
    {"secrets", "{}", "invalid secret manager: x", "x/1"},
    {"stream_routes", '{"server_port":9100,"upstream_id":1}'},
    {"stream_routes", '{"remote_addr":"10.0.0.0/8","sni":"*.a.com",' .. up .. '}'},
    {"stream_routes", '{"server_port":0}', 'property "server_port" validation failed: expected 0 to be at least 1'},
    {"stream_routes", '{"server_addr":":/8"}', "invalid server_addr: :/8"},
    {"stream_routes", '{"uri":"/a"}', "additional properties forbidden, found uri"},
    {"gadgets", "{}", "unknown kind of object: gadgets"},
    {"routes", "1", "an object is expected, got number"},
    -- certificates
    {"ssls", '{"sni":"a.com","cert":"' .. pem .. '","key":"' .. pem .. '"}'},
    {"ssls", '{"snis":["*.a.com","*"],"cert":"' .. pem .. '","key":"' .. pem .. '"}'},
    {"ssls", '{"type":"client","cert":"' .. pem .. '","key":"' .. pem .. '"}'},
    {"ssls", '{"cert":"' .. pem .. '","key":"' .. pem .. '"}', "then clause did not match"},
    {"ssls", '{"sni":"a","snis":["b"],"cert":"' .. pem .. '","key":"' .. pem .. '"}', "then clause did not match"},
    {"ssls", '{"type":"client","cert":"' .. pem .. '"}', "else clause did not match"},
    {"ssls", '{"sni":"a.com","cert":"short","key":"' .. pem .. '"}',
        'property "cert" validation failed: string too short, expected at least 128, got 5'},
    {"ssls", '{"sni":"a.com","cert":"$secret://vault/1/x/cert","key":"$env://KEY"}'},
    {"ssls", '{"sni":"a.com","cert":"' .. pem .. '","key":"' .. pem .. '","certs":["' .. pem .. '"]}',
        "mismatched number of certs and keys"},
    {"ssls", '{"sni":"a.com","cert":"' .. pem .. '","key":"' .. pem .. '","client":{}}',
        'property "client" validation failed: property "ca" is required'},
    {"ssls", '{"sni":"a.com","cert":"' .. pem .. '","key":"' .. pem .. '","ssl_protocols":["SSLv3"]}',
        'property "ssl_protocols" validation failed: failed to validate item 1: matches none of the enum values'},
}

describe("schema.objects", function()
    for i, case in ipairs(cases) do
        it(i .. ": " .. case[1] .. " " .. case[2]:sub(1, 100), function()
            local ok, err = check(case[1], case[2], case[4])
            assert.equal(case[3], err)
            assert.equal(case[3] == nil, ok)
        end)
    end

    it("fills in defaults and the id, and lowers hosts", function()
        local ok, err, route = check("routes", '{"uri":"/a","hosts":["A.com"],"id":7,"upstream":{"nodes":[' ..
            '{"host":"::1","port":80,"weight":1}],"checks":{"active":{"unhealthy":{}}},"keepalive_pool":{}}}', "r7")
        assert.is_nil(err)
        assert.is_true(ok)
        assert.same({
            id = "r7", uri = "/a", hosts = {"a.com"}, priority = 0, status = 1,
            upstream = {
                type = "roundrobin", hash_on = "vars", scheme = "http", pass_host = "pass",
                nodes = {{host = "[::1]", port = 80, weight = 1, priority = 0}},
                keepalive_pool = {size = 320, idle_timeout = 60, requests = 1000},
                checks = {active = {
                    type = "http", timeout = 1, concurrency = 10, http_method = "GET", http_path = "/", http_req_body = "",
                    https_verify_certificate = true,
                    unhealthy = {
                        interval = 1, http_statuses = {429, 404, 500, 501, 502, 503, 504, 505}, http_failures = 5,
                        tcp_failures = 2, timeouts = 3,
                    },
                }},
            },
        }, route)
        local _, _, credential = check("consumers", '{"plugins":{}}', "jack/credentials/c1")
        assert.equal("jack/credentials/c1", credential.id)
        local _, _, secret = check("secrets", '{"access_key_id":"a","secret_access_key":"b"}', "aws/1")
        assert.equal("us-east-1", secret.region)
        assert.equal("aws/1", secret.id)
    end)

    describe("plugins", function()
        local asked, warnings
        local opts = {
            plugin_schema = function(name, conf, kind)
                asked[#asked + 1] = name .. "@" .. kind
                if name == "unknown" then
                    return false, "unknown"
                elseif name == "stranger" then
                    return "unknown"
                elseif conf.bad then
                    return false, "bad thing"
                end
                conf.default = 1
                return true
            end,
            warn = function(message)
                warnings[#warnings + 1] = message
            end,
        }
        before_each(function()
            asked, warnings = {}, {}
        end)

        it("are asked, each with the kind of the object", function()
            local ok, _, route = check("routes", '{"uri":"/a","plugins":{"b":{},"a":{}}}', "1", opts)
            assert.is_true(ok)
            assert.equal(1, route.plugins.a.default)
            check("consumers", '{"username":"jack","plugins":{"c":{}}}', "jack", opts)
            check("consumers", '{"plugins":{"d":{}}}', "jack/credentials/1", opts)
            check("plugin_metadata", '{"id":"e"}', "e", opts)
            assert.same({"a@routes", "b@routes", "c@consumers", "d@credentials", "e@plugin_metadata"}, asked)
        end)
        it("that nobody knows are skipped with a warning", function()
            assert.is_true((check("routes", '{"uri":"/a","plugins":{"unknown":{},"stranger":{},"a":{}}}', "1", opts)))
            assert.same({"unknown plugin [stranger] is skipped", "unknown plugin [unknown] is skipped"}, warnings)
            assert.is_true((check("plugin_metadata", "{}", "unknown", opts)))
            assert.equal(2, #warnings)
        end)
        it("refuse their configuration", function()
            local ok, err = check("global_rules", '{"plugins":{"a":{"bad":true}}}', "1", opts)
            assert.is_false(ok)
            assert.equal("failed to check the configuration of plugin a err: bad thing", err)
        end)
        it("are asked without opts when somebody configured it", function()
            assert.is_true((check("routes", '{"uri":"/a","plugins":{"a":{"bad":true}}}')))
            objects.configure({plugin_schema = opts.plugin_schema})
            assert.is_false((check("routes", '{"uri":"/a","plugins":{"a":{"bad":true}}}')))
            objects.configure({warn = opts.warn})
            assert.is_true((check("routes", '{"uri":"/a","plugins":{"unknown":{}}}')))
            assert.same({"unknown plugin [unknown] is skipped"}, warnings)
            objects.configure({
                plugin_schema = function()
                    return true
                end,
            })
        end)
        it("that are disabled may be wrong", function()
            assert.is_true((check("services", '{"plugins":{"a":{"bad":true,"_meta":{"disable":true}}}}', "1", opts)))
            assert.equal(1, #warnings)
        end)
    end)

    it("asks about certificates, not about references", function()
        local asked = {}
        local opts = {
            check_certificate = function(cert, key)
                asked[#asked + 1] = cert:sub(1, 1) .. (key and key:sub(1, 1) or "")
                return cert:sub(1, 1) ~= "x", "failed to parse cert"
            end,
        }
        local function many(letter)
            return letter:rep(200)
        end
        local ssl = {sni = "a", cert = many("a"), key = many("b"), certs = {many("c"), "$env://X"}, keys = {many("d"), many("e")},
                     client = {ca = many("f")}}
        assert.is_true((check("ssls", ssl, "1", opts)))
        assert.same({"ab", "cd", "f"}, asked)
        ssl.certs[1] = many("x")
        local _, err = check("ssls", ssl, "1", opts)
        assert.equal("failed to handle cert-key pair[1]: failed to parse cert", err)
        _, err = check("upstreams", {nodes = {}, tls = {client_cert = many("x"), client_key = many("k")}}, "1", opts)
        assert.equal("failed to parse cert", err)
    end)

    it("tells the control API its schemas, as JSON", function()
        local plugins = {p = {version = 1, priority = 5, schema = {type = "object"}, secret = 1}}
        local all = require("dpproxy.schema.control").all(plugins)
        local decoded = assert(json.decode(assert(json.encode(all))))
        assert.equal("roundrobin", decoded.main.route.properties.upstream.properties.type.default)
        assert.equal("string", decoded.main.upstream_hash_vars_schema.type)
        assert.same({version = 1, priority = 5, schema = {type = "object"}}, decoded.plugins.p)
    end)

    it("checks ten thousand routes in well under a second", function()
        local texts = {}
        for i = 1, 10000 do
            texts[i] = json.decode('{"uri":"/a' .. i .. '","methods":["GET","POST"],"hosts":["a.com","b.com"],' ..
                '"vars":[["arg_x","==","1"]],"upstream":{"nodes":{"127.0.0.1:80":1,"127.0.0.1:81":1},' ..
                '"timeout":{"connect":1,"send":1,"read":1}}}')
        end
        local started = os.clock()
        for i = 1, 10000 do
            assert(objects.check("routes", texts[i], tostring(i)))
        end
        local took = os.clock() - started
        assert.is_true(took < 1, "took " .. took .. " s")
    end)
end)
