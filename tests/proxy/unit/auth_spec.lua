-- Consumers, credentials, and the plugins that look for them.
local fake_ngx = require("fake_ngx")
local fake_store = require("fake_store")
local vectors = require("jws_vectors")

local fake, store, core, loader, crypto, ctx

local names = {"key-auth", "basic-auth", "jwt-auth", "hmac-auth", "consumer-restriction"}

local function start()
    fake = fake_ngx.install()
    fake_ngx.unload()
    store = fake_store.new()
    package.loaded["dpproxy.config.store"] = store
    core = require("apisix.core")
    crypto = require("dpproxy.base.crypto")
    loader = require("dpproxy.plugin.loader")
    require("dpproxy.plugin.runtime").use({store = store})
    loader.load(names)
end

local function put_consumer(name, plugins, more)
    local value = more or {}
    value.username, value.plugins = name, plugins
    for plugin, conf in pairs(plugins or {}) do
        assert(loader.check_plugin(plugin, conf, "consumers"))
    end
    return store:put("consumers", name, value)
end

local function put_credential(consumer, id, plugins)
    for plugin, conf in pairs(plugins) do
        assert(loader.check_plugin(plugin, conf, "credentials"))
    end
    return store:put("consumers", consumer .. "/credentials/" .. id, {plugins = plugins})
end

-- What plugin.rewrite does with a request. -> code, body.message
local function rewrite(name, conf, request)
    fake.next(request)
    ctx = {}
    core.ctx.set_vars_meta(ctx)
    ngx.ctx.api_ctx = ctx
    assert(loader.check_plugin(name, conf, "routes"))
    local code, body = loader.get(name).rewrite(conf, ctx)
    return code, body and body.message
end

before_each(start)
after_each(function()
    package.loaded["dpproxy.config.store"] = nil
end)

describe("consumers", function()
    local function who(key)
        local consumer = require("apisix.consumer").find_consumer("key-auth", "key", key)
        return consumer and consumer.consumer_name .. (consumer.credential_id and "/" .. consumer.credential_id or "")
    end

    it("are found by key, and only for as long as they have it", function()
        put_consumer("jack", {["key-auth"] = {key = "a"}})
        put_credential("jack", "c1", {["key-auth"] = {key = "b"}})
        assert.same({"jack", "jack/c1", nil}, {who("a"), who("b"), who("c")})
        put_credential("jack", "c1", {["key-auth"] = {key = "c"}})
        assert.is_nil(who("b"))
        assert.equal("jack/c1", who("c"))
        assert.equal("jack", who("a"))
        store:delete("consumers", "jack/credentials/c1")
        assert.is_nil(who("c"))
        store:delete("consumers", "jack")
        assert.is_nil(who("a"))
    end)
    it("take and give up their credentials with themselves, in any order", function()
        put_credential("jack", "c1", {["key-auth"] = {key = "b"}})
        assert.is_nil(who("b"))
        put_consumer("jack", nil)
        assert.equal("jack/c1", who("b"))
        local before = require("apisix.consumer").find_consumer("key-auth", "key", "b")
        put_consumer("jack", nil, {group_id = "g", labels = {custom_id = "x"}})
        local after = require("apisix.consumer").find_consumer("key-auth", "key", "b")
        assert.same({"g", "x"}, {after.group_id, after.custom_id})
        assert.is_false(before.version == after.version)
        store:delete("consumers", "jack")
        assert.is_nil(who("b"))
    end)
    it("with the same key: the last one has it, then the one before", function()
        put_consumer("one", {["key-auth"] = {key = "k"}})
        assert.equal("one", who("k"))
        put_consumer("two", {["key-auth"] = {key = "k"}})
        put_consumer("three", {["key-auth"] = {key = "k"}})
        assert.equal("three", who("k"))
        put_consumer("two", {["key-auth"] = {key = "other"}})
        assert.equal("three", who("k"))
        store:delete("consumers", "three")
        assert.equal("one", who("k"))
        store:delete("consumers", "one")
        assert.is_nil(who("k"))
    end)
    it("with unresolved secrets are left out, until these are there", function()
        put_consumer("jack", {["key-auth"] = {key = "$ENV://DPPROXY_KEY"}})
        assert.is_nil(who("$ENV://DPPROXY_KEY"))
        core.os.setenv("DPPROXY_KEY", "k1")
        fake.now = fake.now + 61
        assert.equal("jack", who("k1"))
        core.os.setenv("DPPROXY_KEY", "k2")
        store:put("secrets", "x/1", {})
        assert.equal("jack", who("k2"))
        assert.is_nil(who("k1"))
        core.os.setenv("DPPROXY_KEY", nil)
    end)
    it("are all known again after plugins were loaded anew", function()
        put_consumer("jack", {["key-auth"] = {key = "a"}})
        assert.equal("jack", who("a"))
        loader.load({"basic-auth"})
        assert.is_nil(who("a"))
        loader.load(names)
        assert.equal("jack", who("a"))
    end)
    it("change at little cost", function()
        for i = 1, 2000 do
            store:put("consumers", "u" .. i, {username = "u" .. i, plugins = {["key-auth"] = {key = "k" .. i}}})
        end
        assert.equal("u7", who("k7"))
        local lists = 0
        local list = store.list
        store.list = function(...)
            lists = lists + 1
            return list(...)
        end
        for i = 1, 100 do
            store:put("consumers", "u7", {username = "u7", plugins = {["key-auth"] = {key = "n" .. i}}})
            assert.equal("u7", who("n" .. i))
        end
        assert.equal(0, lists)
    end)
    it("have the shapes that APISIX' plugins know", function()
        put_consumer("jack", {["key-auth"] = {key = "a"}})
        put_credential("jack", "c1", {["basic-auth"] = {username = "u", password = "p"}})
        local mod = require("apisix.consumer")
        local conf = mod.plugin("key-auth")
        assert.equal(1, conf.len)
        assert.equal("jack", conf.nodes[1].consumer_name)
        assert.equal("a", conf.nodes[1].auth_conf.key)
        assert.equal("jack", mod.consumers_kv("key-auth", conf, "key").a.consumer_name)
        assert.is_nil(mod.plugin("jwt-auth"))
        assert.equal(1, #mod.consumers())
    end)
end)

describe("key-auth", function()
    before_each(function()
        put_consumer("jack", {["key-auth"] = {key = "secret"}}, {labels = {custom_id = "77"}})
        put_consumer("anon", nil)
    end)
    it("takes a header, then the query", function()
        assert.is_nil(rewrite("key-auth", {}, {headers = {apikey = "secret"}}))
        assert.equal("jack", ctx.consumer_name)
        assert.same({"jack", "77"}, {fake.request_headers["x-consumer-username"], fake.request_headers["x-consumer-custom-id"]})
        assert.is_nil(rewrite("key-auth", {}, {args = "apikey=secret&x=1"}))
        assert.equal("apikey=secret&x=1", fake.request.args)
    end)
    it("refuses", function()
        assert.same({401, "Missing API key in request"}, {rewrite("key-auth", {}, {})})
        assert.equal('apikey realm="key"', fake.response_headers["www-authenticate"])
        assert.same({401, "Invalid API key in request"}, {rewrite("key-auth", {}, {headers = {apikey = "x"}})})
        assert.same({401, "Invalid API key in request"}, {rewrite("key-auth", {}, {args = "apikey"})})
        assert.same({401, "Invalid API key in request"}, {rewrite("key-auth", {}, {args = "apikey=secret&apikey=secret"})})
        rewrite("key-auth", {realm = "mine"}, {})
        assert.equal('apikey realm="mine"', fake.response_headers["www-authenticate"])
        assert.is_false((loader.check_plugin("key-auth", {realm = 'a"b'}, "routes")))
    end)
    it("hides credentials", function()
        rewrite("key-auth", {hide_credentials = true}, {headers = {apikey = "secret"}})
        assert.is_nil(fake.request_headers.apikey)
        rewrite("key-auth", {hide_credentials = true, query = "k"}, {args = "k=secret&x=1"})
        assert.equal("x=1", fake.request.args)
    end)
    it("falls back to an anonymous consumer, and removes what the client claimed", function()
        local request = {headers = {apikey = "wrong", ["x-consumer-username"] = "root", ["x-consumer-custom-id"] = "0",
            ["x-credential-identifier"] = "c"}, args = "apikey=wrong"}
        assert.is_nil(rewrite("key-auth", {anonymous_consumer = "anon", hide_credentials = true}, request))
        assert.equal("anon", ctx.consumer_name)
        assert.equal("anon", fake.request_headers["x-consumer-username"])
        assert.is_nil(fake.request_headers["x-consumer-custom-id"] or fake.request_headers["x-credential-identifier"])
        assert.is_nil(fake.request_headers.apikey)
        assert.equal("", fake.request.args)
        assert.same({401, "Invalid user authorization"}, {rewrite("key-auth", {anonymous_consumer = "nobody"}, {})})
    end)
end)

describe("basic-auth", function()
    local function header(text)
        return {headers = {authorization = "Basic " .. crypto.encode_base64(text)}}
    end
    before_each(function()
        put_consumer("foo", {["basic-auth"] = {username = "foo", password = "bar"}})
    end)
    it("takes user and password", function()
        assert.is_nil(rewrite("basic-auth", {}, header("foo:bar")))
        assert.equal("foo", ctx.consumer_name)
        assert.is_nil(rewrite("basic-auth", {}, header(" f oo:bar\n:more")))
        assert.is_nil(rewrite("basic-auth", {hide_credentials = true}, header("foo:bar")))
        assert.is_nil(fake.request_headers.authorization)
    end)
    it("refuses", function()
        assert.same({401, "Missing authorization in request"}, {rewrite("basic-auth", {}, {})})
        assert.equal('Basic realm="basic"', fake.response_headers["www-authenticate"])
        for _, text in ipairs({"foo", "Basic", "Basic !", "Basic " .. crypto.encode_base64("foo")}) do
            local request = {headers = {authorization = text}}
            assert.same({401, "Invalid authorization in request"}, {rewrite("basic-auth", {}, request)})
        end
        assert.same({401, "Invalid user authorization"}, {rewrite("basic-auth", {}, header("foo:baz"))})
        assert.same({401, "Invalid user authorization"}, {rewrite("basic-auth", {}, header("foo:"))})
        assert.same({401, "Invalid user authorization"}, {rewrite("basic-auth", {}, header("bar:bar"))})
    end)
end)

describe("jwt-auth", function()
    local function sign(payload, secret, alg, digest)
        local text = crypto.encode_base64url('{"alg":"' .. (alg or "HS256") .. '","typ":"JWT"}') .. "."
            .. crypto.encode_base64url(core.json.encode(payload))
        return text .. "." .. crypto.encode_base64url(crypto.hmac(digest or "sha256", secret, text))
    end
    local function try(token, conf)
        return {rewrite("jwt-auth", conf or {}, {headers = {authorization = token}})}
    end
    before_each(function()
        put_consumer("jack", {["jwt-auth"] = {key = "k", secret = "s3cret"}})
    end)

    it("takes a header, the query, a cookie", function()
        local token = sign({key = "k"}, "s3cret")
        assert.same({}, try("Bearer " .. token))
        assert.same({}, try("bearer " .. token))
        assert.same({}, try(token))
        assert.equal("jack", ctx.consumer_name)
        assert.is_nil(rewrite("jwt-auth", {hide_credentials = true}, {args = "jwt=" .. token .. "&a=1"}))
        assert.equal("a=1", fake.request.args)
        assert.is_nil(rewrite("jwt-auth", {hide_credentials = true, store_in_ctx = true},
            {headers = {cookie = "a=b; jwt=" .. token .. "; c=d=e"}}))
        assert.equal("a=b; c=d=e", fake.request_headers.cookie)
        assert.equal("k", ctx.jwt_auth_payload.key)
    end)
    it("refuses", function()
        assert.same({401, "Missing JWT token in request"}, {rewrite("jwt-auth", {}, {})})
        assert.equal('Bearer realm="jwt"', fake.response_headers["www-authenticate"])
        assert.same({401, "JWT token invalid"}, try("Bearer x.y"))
        assert.same({401, "missing user key in JWT token"}, try(sign({}, "s3cret")))
        assert.same({401, "Invalid user key in JWT token"}, try(sign({key = "j"}, "s3cret")))
        assert.same({401, "Invalid user key in JWT token"}, try(sign({key = {"k"}}, "s3cret")))
        assert.same({401, "failed to verify jwt"}, try(sign({key = "k"}, "wrong")))
        assert.same({401, "failed to verify jwt"}, try(sign({key = "k"}, "s3cret", "HS512", "sha512")))
        assert.same({401, "failed to verify jwt"}, try(sign({key = "k"}, "s3cret", "none")))
        assert.same({401, "failed to verify jwt"}, try((sign({key = "k"}, "s3cret"):gsub("%.[^.]*$", "."))))
    end)
    it("checks times", function()
        local now = fake.now
        assert.same({}, try(sign({key = "k", exp = now + 5, nbf = now - 5}, "s3cret")))
        assert.same({401, "failed to verify jwt"}, try(sign({key = "k", exp = now - 5}, "s3cret")))
        assert.same({401, "failed to verify jwt"}, try(sign({key = "k", nbf = now + 5}, "s3cret")))
        assert.same({401, "failed to verify jwt"}, try(sign({key = "k"}, "s3cret"), {claims_to_verify = {"exp"}}))
        assert.same({}, try(sign({key = "k", exp = now + 5}, "s3cret"), {claims_to_verify = {"exp"}}))
        put_consumer("jack", {["jwt-auth"] = {key = "k", secret = "s3cret", lifetime_grace_period = 10}})
        assert.same({}, try(sign({key = "k", exp = now - 5}, "s3cret")))
    end)
    it("decodes secrets", function()
        put_consumer("jack", {["jwt-auth"] = {key = "k", secret = crypto.encode_base64("raw\0bytes"), base64_secret = true}})
        assert.same({}, try(sign({key = "k"}, "raw\0bytes")))
        assert.is_false((loader.check_plugin("jwt-auth", {key = "k", secret = "!", base64_secret = true}, "consumers")))
    end)
    it("wants what its algorithm needs", function()
        assert.is_false((loader.check_plugin("jwt-auth", {key = "k"}, "consumers")))
        assert.is_false((loader.check_plugin("jwt-auth", {key = "k", algorithm = "RS256"}, "consumers")))
        assert.is_false((loader.check_plugin("jwt-auth", {key = "k", algorithm = "none", secret = "x"}, "consumers")))
    end)
    for _, algorithm in ipairs({"RS512", "PS256", "ES384", "ES512"}) do
        it("verifies " .. algorithm .. ", and takes no public key for a secret", function()
            local vector = vectors[algorithm]
            put_consumer("jack", {["jwt-auth"] = {key = "k", algorithm = algorithm, public_key = vector.key}})
            assert.same({}, try(vector.token))
            assert.same({}, try(vector.token))
            assert.same({401, "failed to verify jwt"}, try(sign({key = "k"}, vector.key)))
            assert.same({401, "failed to verify jwt"}, try(sign({key = "k"}, vector.key, algorithm)))
        end)
    end
end)

describe("hmac-auth", function()
    local date = "Tue, 14 Nov 2023 22:13:20 GMT"
    local function signature(text, secret)
        return crypto.encode_base64(crypto.hmac("sha256", secret or "sk", text))
    end
    local function request(headers, signed, more)
        local all = {date = date, authorization = 'Signature keyId="kid",algorithm="hmac-sha256",headers="' .. headers
            .. '",signature="' .. signed .. '"'}
        for k, v in pairs(more or {}) do
            all[k] = v
        end
        return {method = "GET", uri = "/get", args = "a=1", headers = all}
    end
    before_each(function()
        put_consumer("jack", {["hmac-auth"] = {key_id = "kid", secret_key = "sk"}})
        fake.ngx.parse_http_time = function(text)
            return text == date and 1700000000 or nil
        end
    end)
    it("takes signatures of headers and the request line", function()
        local text = "kid\nGET /get?a=1\ndate: " .. date .. "\nx-a: 1\n"
        assert.is_nil(rewrite("hmac-auth", {}, request("@request-target date x-a", signature(text), {["x-a"] = "1"})))
        assert.equal("jack", ctx.consumer_name)
    end)
    it("refuses", function()
        local text = "kid\nGET /get?a=1\ndate: " .. date .. "\n"
        local refused = {401, "client request can't be validated"}
        assert.same({401, "client request can't be validated: missing Authorization header"}, {rewrite("hmac-auth", {}, {})})
        assert.equal('hmac realm="hmac"', fake.response_headers["www-authenticate"])
        assert.same(refused, {rewrite("hmac-auth", {}, request("@request-target date", signature(text, "other")))})
        assert.same(refused, {rewrite("hmac-auth", {}, request("@request-target", signature("kid\nGET /get?a=1\n")))})
        assert.same(refused, {rewrite("hmac-auth", {}, request("@request-target date", signature(text), {date = "never"}))})
        assert.same(refused, {rewrite("hmac-auth", {allowed_algorithms = {"hmac-sha512"}},
            request("@request-target date", signature(text)))})
        fake.now = fake.now + 301
        assert.same(refused, {rewrite("hmac-auth", {}, request("@request-target date", signature(text)))})
    end)
    it("looks at the body when told", function()
        local text = "kid\nGET /get?a=1\ndate: " .. date .. "\n"
        local with_body = request("@request-target date", signature(text),
            {digest = "SHA-256=" .. crypto.encode_base64(crypto.sha256("body"))})
        with_body.body = "body"
        local conf = {validate_request_body = true}
        assert.is_nil(rewrite("hmac-auth", conf, with_body))
        with_body.body = "other"
        assert.equal(401, (rewrite("hmac-auth", conf, with_body)))
    end)
end)

describe("auth plugins", function()
    -- Pieces that look like credentials, in random order and damaged: a client sees 401, whatever it sends.
    local pieces = {
        "Bearer ", "Basic ", "Signature ", "eyJhbGciOiJIUzI1NiJ9", ".", "e30", "W10", "bnVsbA", "MQ", "=", ":", '"', ",", ";",
        " ", "\0", "\255",
        'keyId="kid"', 'algorithm="hmac-sha256"', 'signature="', 'headers="date', "Og==", "Zm9vOg==", "%s", "(", "[",
    }
    local function damaged()
        local text = {}
        for i = 1, math.random(0, 9) do
            text[i] = pieces[math.random(#pieces)]
        end
        local joined = table.concat(text)
        if #joined > 0 and math.random(4) == 1 then
            local at = math.random(#joined)
            joined = joined:sub(1, at - 1) .. string.char(math.random(0, 255)) .. joined:sub(at + 1)
        end
        return joined
    end
    it("refuse whatever is thrown at them", function()
        local seed = tonumber(os.getenv("SEED")) or 1
        math.randomseed(seed)
        put_consumer("foo", {["basic-auth"] = {username = "foo", password = "bar"},
            ["key-auth"] = {key = "longer than any piece"},
            ["jwt-auth"] = {key = "k", secret = "s"}, ["hmac-auth"] = {key_id = "kid", secret_key = "sk"}})
        fake.ngx.parse_http_time = function() return nil end
        for _ = 1, 3000 do
            local text = damaged()
            local request = {headers = {authorization = text, apikey = text, cookie = "jwt=" .. text, date = text}}
            for _, name in ipairs({"key-auth", "basic-auth", "jwt-auth", "hmac-auth"}) do
                local ok, code = pcall(rewrite, name, {}, request)
                assert.is_true(ok and code == 401, ("seed %d: %s: %q: %s"):format(seed, name, text, tostring(code)))
            end
            fake.logs = {}
        end
    end)
end)

describe("consumer-restriction", function()
    local function access(conf, fields, method)
        conf._meta = nil
        assert(loader.check_plugin("consumer-restriction", conf, "routes"))
        fake.request.method = method
        local code, body = loader.get("consumer-restriction").access(conf, fields)
        return code, body and body.message
    end
    it("knows black, white, and methods", function()
        assert.same({401, "The request is rejected, please check the consumer_name for this request"},
            {access({whitelist = {"a"}}, {})})
        assert.same({403, "The consumer_name is forbidden."}, {access({whitelist = {"a"}}, {consumer_name = "b"})})
        assert.is_nil(access({whitelist = {"a"}}, {consumer_name = "a"}))
        assert.same({451, "go"}, {access({blacklist = {"a"}, rejected_code = 451, rejected_msg = "go"}, {consumer_name = "a"})})
        assert.is_nil(access({blacklist = {"a"}}, {consumer_name = "b"}))
        assert.equal(403, (access({blacklist = {"a"}, whitelist = {"a"}}, {consumer_name = "a"})))
        local rules = {{user = "a", methods = {"GET"}}}
        assert.is_nil(access({allowed_by_methods = rules}, {consumer_name = "a"}, "GET"))
        assert.equal(403, (access({allowed_by_methods = rules}, {consumer_name = "a"}, "POST")))
        assert.is_nil(access({allowed_by_methods = rules}, {consumer_name = "b"}, "POST"))
        assert.is_nil(access({allowed_by_methods = rules, whitelist = {"a"}}, {consumer_name = "a"}, "POST"))
        assert.equal(403, (access({type = "route_id", blacklist = {"1"}}, {route_id = "1"})))
        assert.is_false((loader.check_plugin("consumer-restriction", {}, "routes")))
    end)
end)
