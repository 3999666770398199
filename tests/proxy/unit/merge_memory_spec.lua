-- What merging keeps must go when the objects go: configuration changes for years.
local merge = require("dpproxy.plugin.merge")

local function item(kind, value, revision)
    return {key = "/apisix/" .. kind .. "/1", value = value, modifiedIndex = revision, createdIndex = 1, kind = kind,
        short_key = "1"}
end

local function is_auth()
    return false
end

describe("plugin.merge", function()
    local function left_after(fn)
        local watched = setmetatable({}, {__mode = "k"})
        for i = 1, 10 do
            fn(watched, i)
        end
        -- What only a collected object's entry kept goes with the next turn.
        for _ = 1, 4 do
            collectgarbage()
        end
        local n = 0
        for _ in pairs(watched) do
            n = n + 1
        end
        return n
    end

    it("lets routes go", function()
        assert.equal(0, left_after(function(watched, i)
            local route = item("routes", {id = "1", plugins = {cors = {}}, upstream = {}}, i)
            local conf = merge.route(route, {})
            assert.equal(conf, merge.route(route, {}))
            watched[route], watched[conf] = true, true
        end))
    end)
    it("lets routes with a service go, and the service's next version", function()
        local services = {}
        local store = {get = function() return services[1] end}
        assert.equal(1, left_after(function(watched, i)
            services[1] = item("services", {id = "1", plugins = {}}, i)
            local route = item("routes", {id = "1", service_id = "1", plugins = {cors = {}}}, i)
            watched[services[1]], watched[merge.route(route, store)], watched[route] = true, true, true
        end))     -- the last service is still here
    end)
    it("lets go what consumers brought", function()
        local jack = {plugins = {["limit-count"] = {}}, consumer_name = "jack", version = 1}
        local joe = {consumer_name = "joe", version = 1}
        assert.equal(0, left_after(function(watched, i)
            local conf = merge.route(item("routes", {id = "1", plugins = {cors = {}}}, i), {})
            local entry = merge.consumer(conf, jack, nil, is_auth)
            assert.is_true(entry.changed)
            assert.is_table(entry.conf.value.plugins["limit-count"])
            assert.is_false(merge.consumer(conf, joe, nil, is_auth).changed)
            watched[conf], watched[entry.conf] = true, true
        end))
    end)
end)
