-- The rest of what plugins of others may call: views of the configuration, timers, addresses, upstreams.
local fake_ngx = require("fake_ngx")
local fake_store = require("fake_store")

local fake, store, core

before_each(function()
    fake = fake_ngx.install()
    fake_ngx.unload()
    store = fake_store.new()
    package.loaded["dpproxy.config.store"] = store
    core = require("apisix.core")
end)

after_each(function()
    package.loaded["dpproxy.config.store"] = nil
end)

describe("core.config", function()
    it("shows a kind of objects as it is now", function()
        store:put("routes", "1", {uri = "/a"})
        local routes = assert(core.config.new("/routes", {automatic = true}))
        assert.equal("/a", routes:get("1").value.uri)
        assert.equal(1, #routes.values)
        local version = routes.conf_version
        store:put("routes", "2", {uri = "/b"})
        assert.is_true(routes.conf_version > version)
        assert.equal(2, #routes.values)
        assert.equal(routes, core.config.fetch_created_obj("/routes"))
        assert.is_nil((core.config.new("/a/b")))
    end)
end)

describe("core.etcd", function()
    it("reads what is here, and does not write", function()
        store:put("routes", "1", {uri = "/a"})
        local answer = core.etcd.get("/routes/1")
        assert.same({200, "/a", "/apisix/routes/1"}, {answer.status, answer.body.node.value.uri, answer.body.node.key})
        assert.equal(404, core.etcd.get("/routes/2").status)
        assert.equal(1, #core.etcd.get("/routes", true).body.node.nodes)
        for _, name in ipairs({"set", "atomic_set", "push", "delete"}) do
            local done, err = core.etcd[name]("/routes/1", {})
            assert.is_nil(done)
            assert.is_string(err)
        end
    end)
end)

describe("core.timer", function()
    it("runs again and again, one at a time, whatever happens", function()
        local runs = 0
        local timer = core.timer.new("t", function()
            runs = runs + 1
            if runs == 1 then
                error("oops")
            end
        end, {check_interval = 2, each_ttl = 0, sleep_succ = 0, sleep_fail = 3})
        assert.same({2, 0}, {fake.timers[1].every, fake.timers[2].delay})
        local tick = fake.timers[1]
        tick.fn(false, unpack(tick.args))
        assert.same({3}, fake.sleeps)
        tick.fn(false, unpack(tick.args))
        tick.fn(true, unpack(tick.args))
        assert.equal(2, runs)
        timer.running = true
        tick.fn(false, unpack(tick.args))
        assert.equal(2, runs)
    end)
end)

describe("core.ip, event, config_util, id, log", function()
    it("match addresses", function()
        local matcher = core.ip.create_ip_matcher({"10.0.0.0/8", "::1"})
        assert.is_true(matcher:match("10.1.2.3"))
        assert.is_true(matcher:match("::1"))
        assert.is_false((matcher:match("11.0.0.1")))
        assert.is_nil((core.ip.create_ip_matcher({"nonsense"})))
        assert.is_true(core.ip.validate_cidr_or_ip("1.2.3.0/24"))
        assert.is_false(core.ip.validate_cidr_or_ip("1.2.3.666"))
        assert.is_truthy(core.utils.parse_ipv4("1.2.3.4"))
        assert.is_false(core.utils.parse_ipv4("1.2.3"))
        assert.is_truthy(core.utils.parse_ipv6("::1"))
        assert.is_false(core.utils.parse_ipv6("1.2.3.4"))
    end)
    it("hand on events", function()
        local seen
        core.event.register(core.event.CONST.BUILD_ROUTER, function(x) seen = x end)
        core.event.push(core.event.CONST.BUILD_ROUTER, 7)
        assert.equal(7, seen)
        core.event.unregister(core.event.CONST.BUILD_ROUTER)
        core.event.push(core.event.CONST.BUILD_ROUTER, 8)
        assert.equal(7, seen)
    end)
    it("walk and convert", function()
        local seen = {}
        for _, item in core.config_util.iterate_values({{n = 1}, false, {n = 2}}) do
            seen[#seen + 1] = item.n
        end
        assert.same({1, 2}, seen)
        assert.same({5, 5400, 90061}, {core.config_util.parse_time_unit(5), core.config_util.parse_time_unit("1h 30m"),
            core.config_util.parse_time_unit("1d 1h 1m 1s")})
        assert.is_nil((core.config_util.parse_time_unit("1x")))
        assert.same({"/apisix/routes", "1"}, {core.config_util.parse_path("/apisix/routes/1")})
    end)
    it("have one identity", function()
        assert.equal(core.id.get(), core.id.get())
        core.id.set("mine")
        assert.equal("mine", core.id.get())
    end)
    it("put words in front of lines", function()
        core.log.new("p: ").warn("x")
        core.log.warn("late: ", core.log.delay_exec(function(a, b) return a .. b end, "1", "2"))
        assert.same({"p: x", "late: 12"}, {fake.logs[1].text, fake.logs[2].text})
    end)
end)

describe("apisix.upstream", function()
    it("chooses, checks and finds", function()
        local upstream = require("apisix.upstream")
        local ctx = {}
        core.ctx.set_vars_meta(ctx)
        local conf = {type = "roundrobin", nodes = {{host = "127.0.0.1", port = 80, weight = 1}}}
        assert.is_true((upstream.check_schema(conf)))
        assert.is_false((upstream.check_schema({nodes = 5})))
        assert.is_false((upstream.check_upstream_conf({type = "chash", nodes = {}})))
        upstream.set(ctx, "k", 3, conf)
        assert.same({conf, "k", 3}, {ctx.upstream_conf, ctx.upstream_key, ctx.upstream_version})
        assert.has_error(function() upstream.set(ctx, nil, 3, conf) end)
        upstream.set_scheme(ctx, {scheme = "https"})
        assert.same({"https", "https"}, {ctx.upstream_scheme, fake.request.vars.upstream_scheme})
        store:put("upstreams", "1", {type = "roundrobin"})
        assert.equal("roundrobin", upstream.get_by_id(1).type)
        assert.is_nil(upstream.get_by_id(2))
    end)
end)

describe("apisix.plugin", function()
    it("answers plugins", function()
        require("apisix.core.config_local").set({plugin_attr = {p = {x = 1}}})
        local plugin = require("apisix.plugin")
        local loader = require("dpproxy.plugin.loader")
        package.preload["apisix.plugins.p"] = function()
            return {version = 2, priority = 3, schema = {type = "object", properties = {n = {type = "integer"}}}}
        end
        loader.load({"p"})
        package.preload["apisix.plugins.p"] = nil
        assert.same({x = 1}, plugin.plugin_attr("p"))
        assert.equal(3, plugin.get("p").priority)
        assert.same({p = {version = 2}}, (plugin.get_all({version = true})))
        store:put("plugin_metadata", "p", {log = 1})
        assert.equal(1, plugin.plugin_metadata("p").value.log)
        assert.equal(1, plugin.plugin_metadatas:get("p").value.log)
        assert.equal(plugin.conf_version({a = 1, b = 2}), plugin.conf_version({b = 2, a = 1}))
        assert.is_false(plugin.conf_version({a = 1}) == plugin.conf_version({a = 2}))
        assert.is_true(plugin.check_schema({p = {n = 1}}))
        assert.is_false((plugin.check_schema({p = {n = "x"}})))
        assert.is_false((plugin.check_schema({q = {}})))
        assert.is_true(plugin.check_schema({q = {}}, nil, true))
    end)
end)
