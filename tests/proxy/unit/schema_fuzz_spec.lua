-- Valid objects with random damage: what comes out is accepted, or refused with a text, and never ends in an error; what is
-- accepted as a route can be routed.
local expr = require("dpproxy.router.expr")
local json = require("dpproxy.base.json")
local objects = require("dpproxy.schema.objects")
local router = require("dpproxy.router")
local validator = require("dpproxy.schema.validator")

local pem = ("c"):rep(200)
local upstream = [=[{"type":"chash","hash_on":"vars","key":"arg_x","nodes":[{"host":"::1","port":80,"weight":1,"priority":-1}],
    "checks":{"active":{"type":"http","healthy":{"http_statuses":[200]},"req_headers":["a: b"]},"passive":{"unhealthy":{}}},
    "retries":1,"timeout":{"connect":1,"send":1,"read":1},"tls":{"client_cert":"PEM","client_key":"PEM"},
    "pass_host":"rewrite","upstream_host":"a.com","keepalive_pool":{"size":1},"labels":{"a":"b"}}]=]
local samples = {
    {"routes", "1", [=[{"id":"1","uris":["/a/*","/b/:x"],"hosts":["*.a.com"],"remote_addrs":["10.0.0.0/8"],"methods":["GET"],
        "vars":[["arg_a","==","1"],["OR",["b","in",["c"]],["d","!","ipmatch",["::1"]]]],"priority":1,"status":1,
        "filter_func":"function(vars) return true end","plugins":{"p":{"_meta":{"filter":[["a","~~","b"]],"priority":1}}},
        "timeout":{"connect":1,"send":1,"read":1},"upstream":UPSTREAM}]=]},
    {"routes", "2", '{"uri":"/a","host":"a.com","remote_addr":"::1","service_id":1,"plugin_config_id":"x","labels":{"a":"b"}}'},
    {"services", "1", '{"name":"s","hosts":["a.com"],"plugins":{"p":{}},"upstream":UPSTREAM}'},
    {"services", "1/graphql_cost_decorations/1", '{"field_path":"a.b","add_arguments":["x"]}'},
    {"upstreams", "1", "UPSTREAM"},
    {"upstreams", "2", '{"nodes":{"a.com:80":1,"[::1]:80":0}}'},
    {"consumers", "jack", '{"username":"jack","plugins":{"key-auth":{"key":"k"}},"group_id":1}'},
    {"consumers", "jack/credentials/1", '{"plugins":{"key-auth":{"key":"k"}}}'},
    {"consumer_groups", "1", '{"plugins":{"p":{}}}'},
    {"plugin_configs", "1", '{"plugins":{"p":{}}}'},
    {"global_rules", "1", '{"plugins":{"p":{"_meta":{"disable":true}}}}'},
    {"plugin_metadata", "p", '{"a":{"b":[1]}}'},
    {"plugins", "", '[{"name":"p"},{"name":"q","stream":true}]'},
    {"ssls", "1", [=[{"snis":["a.com"],"cert":"PEM","key":"PEM","certs":["PEM"],"keys":["PEM"],
        "client":{"ca":"PEM","skip_mtls_uri_regex":["^/"]},"ssl_protocols":["TLSv1.2"]}]=]},
    {"secrets", "vault/1", '{"uri":"http://a","prefix":"b","token":"c"}'},
    {"protos", "1", '{"content":"x"}'},
    {"stream_routes", "1", [=[{"server_addr":"127.0.0.1","sni":"a.com",
        "protocol":{"name":"x","logger":[{"name":"y","conf":{}}]}}]=]},
}
for _, sample in ipairs(samples) do
    sample[3] = sample[3]:gsub("UPSTREAM", upstream):gsub("PEM", pem)
end

local function junk(depth)
    local kind = math.random(16)
    if kind == 1 then
        return {}
    elseif kind == 2 then
        return {junk(depth + 1), depth < 5 and junk(depth + 1) or nil}
    elseif kind == 3 then
        return {a = depth < 5 and junk(depth + 1) or 1, [""] = 1}
    elseif kind == 4 then
        return json.null
    end
    local flat = {-1, 0, 1.5, 1e300, true, false, "", "x", "$env://X", "$secret://vault/1/a", ("y"):rep(5000), "\0\255", "*", "/"}
    return flat[math.random(#flat)]
end

-- Puts junk somewhere.
local function damage(value)
    local keys = {}
    for key in pairs(value) do
        keys[#keys + 1] = key
    end
    if #keys == 0 or math.random(10) == 1 then
        value[math.random(2) == 1 and "extra" or #value + 1] = junk(1)
        return
    end
    table.sort(keys, function(a, b)
        return tostring(a) < tostring(b)
    end)
    local key = keys[math.random(#keys)]
    if type(value[key]) == "table" and math.random(3) > 1 then
        return damage(value[key])
    elseif math.random(6) == 1 then
        value[key] = nil
    else
        value[key] = junk(1)
    end
end

describe("schemas with random damage", function()
    local seed = tonumber(os.getenv("SEED")) or 1

    it("objects", function()
        math.randomseed(seed)
        local accepted, routers = 0, {}
        for i, mode in ipairs({"radixtree_host_uri", "radixtree_uri", "radixtree_uri_with_parameter"}) do
            routers[i] = assert(router.new(mode))
        end
        for round = 1, 6000 do
            local sample = samples[round % #samples + 1]
            local value = assert(json.decode(sample[3]))
            for _ = 1, math.random(0, 2) do
                damage(value)
            end
            local message = ("SEED=%d, round %d: %s %s"):format(seed, round, sample[1], tostring(json.encode(value)):sub(1, 1000))
            local ran, ok, err = pcall(objects.check, sample[1], value, sample[2], {})
            assert.is_true(ran, message .. ": " .. tostring(ok))
            if not ok then
                assert.is_string(err, message)
            else
                accepted = accepted + 1
                for _, r in ipairs(sample[1] == "routes" and routers or {}) do
                    assert.is_true(r:upsert({short_key = sample[2], value = value, order = 1}), message)
                    r:match({uri = "/a/b", method = "GET", host = "x.a.com", remote_addr = "10.0.0.1", vars = {b = {"c"}}})
                end
            end
        end
        assert.is_true(accepted > 1000, "seed " .. seed .. ": only " .. accepted .. " accepted")
    end)

    it("schemas", function()
        math.randomseed(seed)
        for round = 1, 2000 do
            local schema = {
                type = "object", required = {"a"}, additionalProperties = false, minProperties = 1, dependencies = {a = {"b"}},
                patternProperties = {["^x"] = {type = "string"}}, ["not"] = {type = "array"},
                ["if"] = {required = {"a"}}, ["then"] = {},
                properties = {
                    a = {type = {"string", "integer"}, minLength = 1, maxLength = 9, pattern = "^a", enum = {"a", 1}},
                    b = {type = "array", items = {{type = "string"}}, additionalItems = {}, uniqueItems = true, minItems = 1},
                    c = {anyOf = {{const = 1}, {["$ref"] = "#/definitions/d"}}, default = {1}, multipleOf = 2, format = "ipv4"},
                },
                definitions = {d = {type = "object", properties = {e = {["$ref"] = "#"}}}},
            }
            damage(schema)
            local message = ("SEED=%d, round %d"):format(seed, round)
            local ran, check, err = pcall(validator.compile, schema)
            assert.is_true(ran, message)
            if not check then
                assert.is_string(err, message)
            end
        end
    end)

    it("expressions", function()
        math.randomseed(seed)
        for round = 1, 3000 do
            local rule = {
                {"arg_a", "==", "1"}, {"OR", {"b", "in", {"c"}}, {"d", "!", "ipmatch", {"::1"}}},
                {"e", "has", 1}, {"f", "~*", "x"},
            }
            damage(rule)
            local message = ("SEED=%d, round %d: %s"):format(seed, round, tostring(json.encode(rule)))
            local ran, test, err = pcall(expr.compile, rule)
            assert.is_true(ran, message)
            if test then
                assert.is_boolean(test({arg_a = "1", b = "c", d = "::1", e = {1}, f = "X"}), message)
            else
                assert.is_string(err, message)
            end
        end
    end)
end)
