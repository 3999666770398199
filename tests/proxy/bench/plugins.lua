-- luajit tests/proxy/bench/plugins.lua [N]: what the plugin runtime costs per request, in nanoseconds of processor time, with a
-- stand-in for nginx: merge, begin, rewrite, access, header_filter, body_filter, log. Run it from the top of the tree.
package.path = "proxy/lua/?.lua;tests/proxy/lib/?.lua;/usr/share/lua/5.1/?.lua;" .. package.path

local fake_ngx = require("fake_ngx")
local fake_store = require("fake_store")

local fake = fake_ngx.install({headers = {apikey = "key-500"}})
-- The stand-in's headers and variables are made for tests, not for speed.
local vars = {http_apikey = "key-500", remote_addr = "127.0.0.1", request_method = "GET", http_x_a = "1"}
fake.ngx.var = vars
fake.ngx.req.set_header = function() end
fake.ngx.req.clear_header = function() end

local store = fake_store.new()
package.loaded["dpproxy.config.store"] = store
local core_ctx = require("apisix.core.ctx")
local loader = require("dpproxy.plugin.loader")
local merge = require("dpproxy.plugin.merge")
local runtime = require("dpproxy.plugin.runtime")
local tablepool = require("apisix.core.tablepool")
runtime.use({store = store})

for i = 1, 3 do
    local name = "empty-" .. i
    package.preload["apisix.plugins." .. name] = function()
        local count = 0
        local function work()
            count = count + 1
        end
        return {version = 1, priority = i, name = name, schema = {type = "object"}, rewrite = work, access = work,
            header_filter = work, body_filter = work, log = work}
    end
end
loader.load({"key-auth", "consumer-restriction", "empty-1", "empty-2", "empty-3"})

for i = 1, 1000 do
    store.put(store, "consumers", "user" .. i, {username = "user" .. i, plugins = {["key-auth"] = {key = "key-" .. i}}})
end

local function one(route)
    local ctx = tablepool.fetch("api_ctx", 0, 32)
    ngx.ctx.api_ctx = ctx
    core_ctx.set_vars_meta(ctx)
    runtime.access(ctx, merge.route(route, store))
    runtime.phase("before_proxy", ctx)
    runtime.phase("header_filter", ctx)
    runtime.phase("body_filter", ctx)
    runtime.phase("body_filter", ctx)
    runtime.phase("log", ctx)
    core_ctx.release_vars(ctx)
    tablepool.release("api_ctx", ctx)
    return ctx
end

local n = tonumber(arg[1]) or 200000

local function measure(name, route)
    local best, memory
    for _ = 1, 5 do
        collectgarbage()
        collectgarbage("stop")
        local before, began = collectgarbage("count"), os.clock()
        for _ = 1, n do
            one(route)
        end
        local took = (os.clock() - began) / n * 1e9
        memory = (collectgarbage("count") - before) * 1024 / n
        collectgarbage("restart")
        best = best and math.min(best, took) or took
    end
    print(("%-44s %6.0f ns %6.0f bytes of garbage"):format(name, best, memory))
end

local function route(id, plugins, more)
    local value = more or {}
    value.plugins = plugins
    return store.put(store, "routes", id, value)
end

measure("no plugins", route("1", nil))
measure("one empty plugin", route("2", {["empty-1"] = {}}))
measure("three empty plugins", route("3", {["empty-1"] = {}, ["empty-2"] = {}, ["empty-3"] = {}}))
store.put(store, "services", "s", {plugins = {["empty-1"] = {}}})
store.put(store, "plugin_configs", "p", {plugins = {["empty-2"] = {}}})
measure("the same of service, plugin config, route", route("4", {["empty-3"] = {}}, {service_id = "s", plugin_config_id = "p"}))
measure("three, one with _meta.filter", route("5", {["empty-1"] = {}, ["empty-2"] = {},
    ["empty-3"] = {_meta = {filter = {{"http_x_a", "==", "1"}}}}}))
measure("key-auth, 1000 consumers", route("6", {["key-auth"] = {}}))
measure("key-auth, consumer-restriction, three empty", route("7", {["key-auth"] = {}, ["empty-1"] = {}, ["empty-2"] = {},
    ["empty-3"] = {}, ["consumer-restriction"] = {blacklist = {"user1"}}}))
store.put(store, "global_rules", "1", {plugins = {["empty-1"] = {}}})
measure("a global rule with an empty plugin", route("8", nil))
