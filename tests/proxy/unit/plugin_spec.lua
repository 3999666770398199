-- Loading, merging and running plugins, with plugins as others write them for APISIX.
local fake_ngx = require("fake_ngx")
local fake_store = require("fake_store")

local fake, store, core, loader, merge, runtime, ctx

local function define(name, plugin)
    plugin.name = plugin.name or name
    plugin.version = plugin.version or 0.1
    plugin.schema = plugin.schema or {type = "object", properties = {}}
    package.preload["apisix.plugins." .. name] = function() return plugin end
    return plugin
end

local function start(names, request)
    fake = fake_ngx.install(request)
    fake_ngx.unload()
    store = fake_store.new()
    package.loaded["dpproxy.config.store"] = store
    core = require("apisix.core")
    loader = require("dpproxy.plugin.loader")
    merge = require("dpproxy.plugin.merge")
    runtime = require("dpproxy.plugin.runtime")
    runtime.use({store = store})
    loader.load(names)
end

local function new_ctx()
    ctx = {}
    core.ctx.set_vars_meta(ctx)
    ngx.ctx.api_ctx = ctx
    fake.printed, fake.exited, ngx.status = "", nil, nil
    return ctx
end

-- One request up to the choice of a node. -> did it get there
local function request(route)
    new_ctx()
    return (fake_ngx.run(function()
        runtime.access(ctx, assert(merge.route(route, store)))
        return true
    end))
end

local function route_of(plugins, more)
    local value = more or {}
    value.plugins = plugins
    return store:put("routes", value.id or "1", value)
end

local trace

-- A plugin that writes down what is called.
local function tracing(name, priority, more)
    local plugin = more or {}
    plugin.priority = priority
    for _, phase in ipairs({"rewrite", "access", "before_proxy", "header_filter", "body_filter", "log"}) do
        if plugin[phase] == nil then
            plugin[phase] = function(conf)
                trace[#trace + 1] = name .. "." .. phase .. (conf.tag and ":" .. conf.tag or "")
            end
        end
    end
    return define(name, plugin)
end

local function logged(text)
    for _, line in ipairs(fake.logs) do
        if line.text:find(text, 1, true) then
            return true
        end
    end
    return false
end

before_each(function()
    trace = {}
end)

after_each(function()
    for name in pairs(package.preload) do
        if name:find("^apisix%.plugins%.") then
            package.preload[name] = nil
        end
    end
    package.loaded["dpproxy.config.store"] = nil
end)

describe("plugin.merge", function()
    it("lets the route win over its plugin config, that over the service, plugin by plugin", function()
        start({})
        store:put("services", "s", {plugins = {a = {from = "s", x = 1}, b = {from = "s"}, c = {from = "s"}}, upstream_id = "u",
            name = "service", hosts = {"s.com"}, labels = {l = "s"}})
        store:put("plugin_configs", "p", {plugins = {a = {from = "p", y = 1}, b = {from = "p"}, d = {from = "p"}}})
        local route = route_of({a = {from = "r"}}, {service_id = "s", plugin_config_id = "p", host = "r.com"})
        local conf = merge.route(route, store)
        local plugins = conf.value.plugins
        assert.same({"r", "p", "s", "p"}, {plugins.a.from, plugins.b.from, plugins.c.from, plugins.d.from})
        assert.is_nil(plugins.a.x or plugins.a.y)
        assert.equal("u", conf.value.upstream_id)
        assert.same({"s.com"}, conf.value.hosts)
        assert.is_nil(conf.value.host)
        assert.is_nil(conf.value.name)
        assert.same({"1", "s"}, {conf.value.id, conf.value.service_id})
        assert.same({"route&service", "1&s", "3#2&1"}, {conf.type, conf.id, conf.version})
    end)
    it("replaces the upstream as a whole", function()
        start({})
        store:put("services", "s", {upstream_id = "u", upstream = {type = "chash"}})
        local conf = merge.route(route_of(nil, {service_id = "s", upstream = {type = "roundrobin"}}), store)
        assert.same({type = "roundrobin"}, conf.value.upstream)
        assert.is_nil(conf.value.upstream_id)
        conf = merge.route(route_of(nil, {service_id = "s", upstream_id = "v"}), store)
        assert.equal("v", conf.value.upstream_id)
    end)
    it("keeps a result until one of its parts changes", function()
        start({})
        store:put("services", "s", {plugins = {a = {n = 1}}})
        local route = route_of(nil, {service_id = "s"})
        local conf = merge.route(route, store)
        assert.equal(conf, merge.route(route, store))
        store:put("services", "s", {plugins = {a = {n = 2}}})
        assert.equal(2, merge.route(route, store).value.plugins.a.n)
        local plain = route_of({a = {}}, {id = "2"})
        assert.equal(plain.value, merge.route(plain, store).value)
    end)
    it("names what is missing", function()
        start({})
        local conf, status = merge.route(route_of(nil, {service_id = "s"}), store)
        assert.same({nil, 404}, {conf, status})
        conf, status = merge.route(route_of(nil, {plugin_config_id = 7}), store)
        assert.same({nil, 503}, {conf, status})
    end)
    it("tells each plugin's configuration where it came from, out of JSON's sight", function()
        start({})
        store:put("services", "s", {plugins = {a = {}}})
        local route = route_of({b = {_meta = {priority = 1}}}, {service_id = "s"})
        local plugins = merge.route(route, store).value.plugins
        assert.equal("/apisix/services/s", plugins.a._meta.parent.resource_key)
        assert.equal("/apisix/routes/1", plugins.b._meta.parent.resource_key)
        assert.equal('{"_meta":{"priority":1}}', core.json.encode(plugins.b))
    end)
end)

describe("plugin.runtime", function()
    it("runs phases by priority, global rules first", function()
        tracing("low", 10)
        tracing("high", 20)
        tracing("global", 1)
        start({"low", "high", "global"})
        store:put("global_rules", "g", {plugins = {global = {}}})
        assert.is_true(request(route_of({low = {}, high = {}})))
        assert.same({"global.rewrite", "high.rewrite", "low.rewrite", "global.access", "high.access", "low.access"}, trace)
        trace = {}
        runtime.phase("header_filter", ctx)
        runtime.phase("body_filter", ctx)
        runtime.phase("log", ctx)
        assert.same({"global.header_filter", "high.header_filter", "low.header_filter", "global.body_filter", "high.body_filter",
            "low.body_filter", "global.log", "high.log", "low.log"}, trace)
    end)
    it("shows global rules as such to their plugins", function()
        local seen
        tracing("g", 1, {access = function(_, c) seen = {c.conf_type, c.conf_id} end})
        start({"g"})
        store:put("global_rules", "1", {plugins = {g = {}}})
        request(route_of({}))
        assert.same({"global_rule", 1}, seen)
        assert.same({"route", "1"}, {ctx.conf_type, ctx.conf_id})
    end)
    it("ends the request when a plugin says so", function()
        tracing("first", 2, {access = function() return 403, {message = "no"} end})
        tracing("second", 1)
        start({"first", "second"})
        assert.is_false(request(route_of({first = {}, second = {}})))
        assert.equal(403, fake.exited)
        assert.equal('{"message":"no"}\n', fake.printed)
        assert.same({"first.rewrite", "second.rewrite"}, trace)
    end)
    it("lets plugins change what another one answers", function()
        tracing("answers", 30)
        tracing("changes", 20, {lua_body_filter = function(conf, _, headers, body)
            trace[#trace + 1] = conf.tag .. headers.kind
            return nil, body and body:upper()
        end})
        tracing("looks", 10, {lua_body_filter = function(_, _, _, body)
            trace[#trace + 1] = body
        end})
        start({"answers", "changes", "looks"}, {args = "go=1"})
        request(route_of({answers = {}, changes = {tag = "t"}, looks = {}}))
        trace = {}
        require("apisix.plugin").lua_response_filter(ctx, {kind = "k"}, "piece")
        assert.same({"tk", "PIECE"}, trace)
        assert.equal("PIECE", fake.printed)
        request(route_of({changes = {tag = "t", _meta = {filter = {{"arg_go", "==", "2"}}}}}))
        require("apisix.plugin").lua_response_filter(ctx, {}, "piece")
        assert.equal("piece", fake.printed)
        request(route_of({}))
        require("apisix.plugin").lua_response_filter(ctx, {}, "nobody looks")
        assert.equal("nobody looks", fake.printed)
    end)
    it("ends an answer when a plugin that looks at it says so", function()
        tracing("refuses", 20, {lua_body_filter = function() return 451, "not this" end})
        tracing("late", 10, {lua_body_filter = function() trace[#trace + 1] = "late" end})
        start({"refuses", "late"})
        request(route_of({refuses = {}, late = {}}))
        trace = {}
        fake_ngx.run(function()
            require("apisix.plugin").lua_response_filter(ctx, {}, "piece")
        end)
        assert.equal(451, ngx.status)
        assert.equal("not this", fake.printed)
        assert.same({}, trace)
    end)
    it("shows a request that a global rule ended to global rules only", function()
        tracing("g", 2, {rewrite = function() return 403 end})
        tracing("r", 1)
        start({"g", "r"})
        store:put("global_rules", "1", {plugins = {g = {}}})
        assert.is_false(request(route_of({r = {}})))
        runtime.phase("header_filter", ctx)
        runtime.phase("log", ctx)
        assert.same({"g.header_filter", "g.log"}, trace)
    end)
    it("honours _meta", function()
        tracing("a", 2)
        tracing("b", 1)
        tracing("c", 0, {access = function() return 401, {message = "true reason"} end})
        start({"a", "b", "c"}, {args = "go=1"})
        request(route_of({a = {_meta = {disable = true}}, b = {}}))
        assert.same({"b.rewrite", "b.access"}, trace)
        trace = {}
        request(route_of({a = {}, b = {_meta = {priority = 100}}}))
        assert.same({"b.rewrite", "a.rewrite", "b.access", "a.access"}, trace)
        trace = {}
        request(route_of({a = {_meta = {filter = {{"arg_go", "==", "1"}}}}, b = {_meta = {filter = {{"arg_go", "==", "2"}}}}}))
        assert.same({"a.rewrite", "a.access"}, trace)
        request(route_of({c = {_meta = {error_response = {told = "this"}}}}))
        assert.equal('{"told":"this"}\n', fake.printed)
        request(route_of({c = {_meta = {error_response = "text"}}}))
        assert.equal("text", fake.printed)
        trace = {}
        request(route_of({a = {_meta = {pre_function = "return function(conf, ctx) ctx.var.seen = conf.tag end"}, tag = "t"}}))
        assert.equal("t", ctx.var.seen)
        request(route_of({a = {_meta = {pre_function = "return function() error('oops') end"}}}))
        assert.is_true(logged("pre_function execution for plugin a failed"))
    end)
    it("evaluates a filter once per request", function()
        tracing("a", 1, {rewrite = function(_, c) c.var.x = "2" end})
        start({"a"})
        core.ctx.register_var("x", function() return "1" end)
        request(route_of({a = {_meta = {filter = {{"x", "==", "1"}}}}}))
        assert.same({"a.access"}, trace)
    end)
    it("drops a plugin that two global rules have", function()
        tracing("a", 2)
        tracing("b", 1)
        start({"a", "b"})
        store:put("global_rules", "1", {plugins = {a = {}}})
        store:put("global_rules", "2", {plugins = {a = {}, b = {}}})
        request(route_of({}))
        assert.same({"b.rewrite", "b.access"}, trace)
        assert.is_true(logged("Found a configured across different global rules"))
        store:delete("global_rules", "1")
        trace = {}
        request(route_of({}))
        assert.same({"a.rewrite", "b.rewrite", "a.access", "b.access"}, trace)
    end)
    it("prefers the route's copy of a plugin that wants it", function()
        tracing("m", 1, {run_policy = "prefer_route"})
        start({"m"})
        store:put("global_rules", "1", {plugins = {m = {tag = "g"}}})
        request(route_of({m = {tag = "r"}}))
        assert.same({"m.rewrite:r", "m.access:r"}, trace)
        trace = {}
        request(route_of({m = {tag = "r", _meta = {disable = true}}}))
        assert.same({"m.rewrite:g", "m.access:g"}, trace)
        trace = {}
        request(route_of({}))
        assert.same({"m.rewrite:g", "m.access:g"}, trace)
    end)
    it("turns a plugin's error into 500, and goes on serving", function()
        tracing("bad", 1, {access = function(conf) return conf.no.such.field end})
        start({"bad"})
        local route = route_of({bad = {}})
        for _ = 1, 2 do
            assert.is_false(request(route))
            assert.equal(500, fake.exited)
        end
        assert.is_true(logged("plugin [bad] failed in access"))
        assert.is_true(logged("stack traceback"))
    end)
    it("keeps one plugin's error in log from the others", function()
        tracing("bad", 2, {log = function() error("oops") end})
        tracing("good", 1)
        start({"bad", "good"})
        request(route_of({bad = {}, good = {}}))
        trace = {}
        runtime.phase("log", ctx)
        assert.same({"good.log"}, trace)
        assert.is_true(logged("plugin [bad] failed in log"))
    end)
    it("answers 500 without the upstream's body when a header filter fails", function()
        tracing("bad", 1, {header_filter = function() error("oops") end})
        start({"bad"})
        request(route_of({bad = {}}))
        local phase = fake.phase
        fake.phase = "header_filter"
        runtime.phase("header_filter", ctx)
        fake.phase = phase
        assert.equal(500, fake.exited) -- nginx throws the upstream's body away
        ngx.arg[1] = "nginx' page"
        runtime.phase("body_filter", ctx)
        assert.equal("nginx' page", ngx.arg[1])
        assert.is_true(logged("plugin [bad] failed in header_filter"))
    end)
    it("merges the consumer's and its group's plugins, and runs the rewrite of the new ones", function()
        local consumer
        tracing("auth", 100, {type = "auth", rewrite = function(_, c)
            trace[#trace + 1] = "auth.rewrite"
            require("apisix.consumer").attach_consumer(c, (consumer()), {conf_version = 1})
        end})
        tracing("a", 3)
        tracing("b", 2)
        tracing("c", 1)
        start({"auth", "a", "b", "c"})
        store:put("consumer_groups", "g", {plugins = {a = {tag = "g"}, b = {tag = "g"}, c = {tag = "g"}}})
        store:put("consumers", "jack", {username = "jack", group_id = "g", plugins = {a = {tag = "j"}, auth = {key = "x"}}})
        consumer = function() return require("apisix.consumer").get_anonymous_consumer("jack") end
        local route = route_of({auth = {}, b = {tag = "r"}})
        assert.is_true(request(route))
        assert.same({"auth.rewrite", "b.rewrite:r", "a.rewrite:j", "c.rewrite:g",
            "auth.access", "a.access:j", "b.access:g", "c.access:g"}, trace)
        assert.same({"route&consumer&consumer_group", "1&jack&g"}, {ctx.conf_type, ctx.conf_id})
        assert.equal("jack", fake.request_headers["x-consumer-username"])
        store:delete("consumer_groups", "g")
        assert.is_false(request(route))
        assert.equal(503, fake.exited)
    end)
    it("forgets what is replaced", function()
        tracing("auth", 100, {type = "auth", rewrite = function(_, c)
            local consumer = require("apisix.consumer").get_anonymous_consumer("jack")
            require("apisix.consumer").attach_consumer(c, consumer, {conf_version = 1})
        end})
        tracing("a", 1)
        start({"auth", "a"})
        local function change(n)
            for i = 1, n do
                local filler = ("x"):rep(1000) .. i
                store:put("services", "s", {plugins = {a = {filler = filler .. "s"}}})
                local policy = i % 2 == 0 and {a = {filler = filler .. "c"}} or nil
                store:put("consumers", "jack", {username = "jack", plugins = policy})
                store:put("global_rules", "1", {plugins = {a = {_meta = {filter = {{"arg_x", "==", filler}}}}}})
                request(route_of({auth = {}, a = {filler = filler .. "r"}}, {service_id = i % 3 ~= 0 and "s" or nil}))
                trace = {}
            end
            ctx = nil
            ngx.ctx = {}
            fake.logs = {}
            for _ = 1, 8 do -- what weak tables hold goes step by step
                collectgarbage()
            end
            return collectgarbage("count")
        end
        change(100)
        local before = change(100)
        assert.is_true(change(1000) - before < 500)
    end)
    it("lets a plugin skip another", function()
        tracing("a", 2, {rewrite = function(_, c) require("apisix.plugin").skip_plugin(c, "b") end})
        tracing("b", 1)
        start({"a", "b"})
        request(route_of({a = {}, b = {}}))
        assert.same({"a.access"}, trace)
    end)
    it("skips plugins that it does not know", function()
        tracing("a", 1)
        start({"a"})
        assert.is_true(request(route_of({a = {}, nobody = {}})))
        assert.same({"a.rewrite", "a.access"}, trace)
    end)
    it("resolves secrets, and again when they change", function()
        local seen
        tracing("a", 1, {access = function(conf) seen = conf end})
        package.preload["apisix.secret.test"] = function()
            return {get = function(conf, key) return conf[key] end}
        end
        start({"a"})
        core.os.setenv("DPPROXY_SPEC", "from the environment")
        store:put("secrets", "test/1", {k = "one"})
        local route = route_of({a = {e = "$env://DPPROXY_SPEC", s = {"$secret://test/1/k"}, n = "$env://DPPROXY_NONE"}})
        request(route)
        assert.equal("from the environment", seen.e)
        assert.same({"one"}, seen.s)
        assert.equal("$env://DPPROXY_NONE", seen.n)
        assert.is_true(logged("failed to resolve secret reference: $env://DPPROXY_NONE"))
        local first = seen
        request(route)
        assert.equal(first, seen)
        store:put("secrets", "test/1", {k = "two"})
        request(route)
        assert.same({"two"}, seen.s)
        assert.equal("$secret://test/1/k", route.value.plugins.a.s[1])
        package.preload["apisix.secret.test"] = nil
    end)
end)

describe("plugin.loader", function()
    it("leaves out what cannot be loaded", function()
        tracing("good", 1)
        package.preload["apisix.plugins.throws"] = function() error("syntax, or so") end
        define("no-priority", {})
        define("own-meta", {priority = 1, schema = {type = "object", properties = {_meta = {}}}})
        define("bad-init", {priority = 1, init = function() error("no") end})
        start({"good", "throws", "no-priority", "own-meta", "bad-init", "absent"})
        assert.equal(1, #loader.sorted)
        assert.truthy(loader.get("good"))
        for _, name in ipairs({"throws", "no-priority", "own-meta"}) do
            assert.is_true(logged("failed to load plugin [" .. name .. "]"), name)
        end
        assert.is_true(logged("there is no plugin [absent] here"))
        assert.is_true(logged("plugin [bad-init] failed in init()"))
    end)
    it("loads again what could not be loaded before", function()
        local broken = true
        package.preload["helper_of_p"] = function()
            if broken then
                error("not yet")
            end
            return {}
        end
        package.preload["apisix.plugins.p"] = function()
            require("helper_of_p")
            return {name = "p", version = 1, priority = 1, schema = {type = "object"}}
        end
        start({"p"})
        assert.is_nil(loader.get("p"))
        broken = false
        loader.load({"p"})
        assert.truthy(loader.get("p"))
        package.preload["helper_of_p"], package.loaded["helper_of_p"] = nil, nil
    end)
    it("gives plugins their attributes, and init in workers only", function()
        local inits = 0
        define("p", {priority = 1, init = function() inits = inits + 1 end})
        start({})
        require("apisix.core.config_local").set({plugin_attr = {p = {x = 1}}})
        fake.phase = "init"
        loader.load({"p"})
        assert.equal(0, inits)
        fake.phase = "init_worker"
        loader.init_worker()
        loader.init_worker()
        assert.equal(1, inits)
        assert.same({x = 1}, loader.get("p").attr)
    end)
    it("loads code anew in all workers, and in those that are born later", function()
        local loads = 0
        package.preload["apisix.plugins.p"] = function()
            loads = loads + 1
            return {name = "p", version = 1, priority = 1, schema = {type = "object"}}
        end
        start({})
        local dict = require("fake_dict").new(function() return 0 end)
        ngx.shared.dpproxy_state = dict
        fake.phase = "init"
        loader.init({plugins = {"p"}})
        fake.phase = "init_worker"
        loader.init_worker()
        assert.equal(1, loads)
        local timer = fake.timers[#fake.timers]
        timer.fn(false)
        assert.equal(1, loads)
        dict:incr("plugins:reloads", 1, 0) -- another worker's
        timer.fn(false)
        assert.equal(2, loads)
        loader.reload()
        assert.equal(3, loads)
        timer.fn(false)
        assert.equal(3, loads)
        dict:incr("plugins:reloads", 1, 0)
        loader.init_worker()
        assert.equal(4, loads)
    end)
    it("follows /plugins in etcd, and goes back to the file without it", function()
        tracing("a", 2)
        tracing("b", 1)
        start({})
        loader.init({plugins = {"a"}})
        loader.init_worker()
        assert.truthy(loader.get("a"))
        store:put("plugins", "plugins", {{name = "b"}, {name = "mqtt", stream = true}})
        assert.is_nil(loader.get("a"))
        assert.truthy(loader.get("b"))
        store:delete("plugins", "plugins")
        assert.truthy(loader.get("a"))
        assert.is_nil(loader.get("b"))
    end)
    it("checks configurations that are older than their plugin", function()
        define("late", {priority = 1, access = function(conf) trace[#trace + 1] = conf.n end,
            schema = {type = "object", properties = {n = {type = "integer", default = 5}}}})
        start({})
        local route = route_of({late = {}})
        local wrong = route_of({late = {n = "x"}}, {id = "2"})
        request(route)
        loader.load({"late"})
        request(route)
        assert.same({5}, trace)
        assert.is_true(request(wrong))
        assert.same({5}, trace)
        assert.is_true(logged("plugin [late] does not accept its configuration"))
    end)
    it("loads code of a plugin anew", function()
        local loads, destroyed = 0, 0
        package.preload["apisix.plugins.p"] = function()
            loads = loads + 1
            local mine = loads
            return {name = "p", version = 1, priority = 1, schema = {type = "object"},
                destroy = function() destroyed = destroyed + 1 end,
                access = function() trace[#trace + 1] = mine end}
        end
        start({})
        loader.init({plugins = {"p"}})
        local route = route_of({p = {}})
        request(route)
        loader.reload()
        request(route)
        assert.same({1, 2}, trace)
        assert.equal(1, destroyed)
        loader.load({})
        request(route)
        assert.same({1, 2}, trace)
    end)
    it("checks configurations by kind, with defaults and _meta", function()
        define("p", {priority = 1,
            schema = {type = "object", properties = {n = {type = "integer", default = 5}}, additionalProperties = false},
            consumer_schema = {type = "object", required = {"key"}, encrypt_fields = {"key"}},
            metadata_schema = {type = "object", required = {"log"}}})
        local plugin = require("apisix.plugins.p")
        plugin.check_schema = function(conf, kind)
            return core.schema.check(({plugin.consumer_schema, plugin.metadata_schema})[kind or 0] or plugin.schema, conf)
        end
        start({"p"})
        local conf = {_meta = {priority = 3}}
        assert.is_true(loader.check_plugin("p", conf, "routes"))
        assert.equal(5, conf.n)
        assert.is_false((loader.check_plugin("p", {x = 1}, "routes")))
        assert.is_false((loader.check_plugin("p", {_meta = {unknown = 1}}, "routes")))
        assert.is_false((loader.check_plugin("p", {}, "consumers")))
        local credential = {key = core.data_encryption.encrypt("secret")}
        assert.is_true(loader.check_plugin("p", credential, "credentials"))
        assert.equal("secret", credential.key)
        credential = {key = "plain"}
        assert.is_true(loader.check_plugin("p", credential, "consumers"))
        assert.equal("plain", credential.key)
        assert.is_false((loader.check_plugin("p", {}, "plugin_metadata")))
        assert.equal("unknown", loader.check_plugin("q", {}, "routes"))
        plugin.check_schema = function() error("oops") end
        assert.is_false((loader.check_plugin("p", {}, "routes")))
    end)
end)
