-- Which requests need nginx to call us for each piece of a body. That costs every request of its location: most go without.
local loader = require("dpproxy.plugin.loader")
local runtime = require("dpproxy.plugin.runtime")
local store = require("dpproxy.config.store")

local pairs = pairs

local M = {}

local bringing = 0 -- consumers and groups with a plugin that looks at bodies

local function looks_at_bodies(item)
    for name in pairs(item and item.value.plugins or {}) do
        local plugin = loader.get(name)
        if plugin and (plugin.body_filter or plugin.delayed_body_filter) then
            return true
        end
    end
    return false
end

-- What an item brought is remembered: plugins may be loaded anew before it goes.
local brought = setmetatable({}, {__mode = "k"})

local function changed(new, old)
    if old and brought[old] then
        bringing = bringing - 1
        brought[old] = nil
    end
    if new and looks_at_bodies(new) then
        bringing = bringing + 1
        brought[new] = true
    end
end

function M.init_worker()
    store.subscribe("consumers", changed)
    store.subscribe("consumer_groups", changed)
end

local function may_get_a_consumer(plugins)
    for i = 1, #plugins, 2 do
        if plugins[i].type == "auth" then
            return true
        end
    end
    return false
end

-- Before the plugins run; ctx.plugins is set when there is a route.
function M.needed(ctx, conf)
    if runtime.filters_body(ctx, conf) then
        return true
    end
    return bringing > 0 and conf ~= nil and may_get_a_consumer(ctx.plugins)
end

return M
