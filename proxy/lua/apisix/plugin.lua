-- APISIX' name for what plugins ask of dpproxy.plugin.*.
local core = require("apisix.core")
local loader = require("dpproxy.plugin.loader")
local merge = require("dpproxy.plugin.merge")

local setmetatable, tostring, type, pairs = setmetatable, tostring, type, pairs

local M = {version = 0.3}

-- plugin_attr.<name> of the configuration file
function M.plugin_attr(name)
    return core.table.try_read_attr(core.config.local_conf(), "plugin_attr", name)
end

local store -- when it is first asked: it is loaded later, and require() in a request's way ends LuaJIT's trace

-- -> item of /plugin_metadata/<name> | nil
function M.plugin_metadata(name)
    store = store or require("dpproxy.config.store")
    return store.get("plugin_metadata", name)
end

M.plugin_metadatas = setmetatable({}, {__index = {
    get = function(_, name)
        return M.plugin_metadata(name)
    end,
}})

function M.get(name)
    return loader.get(name)
end

-- -> name -> attributes of each plugin
function M.get_all(attrs)
    local all = {}
    for name, plugin in pairs(loader.by_name) do
        all[name] = core.table.pick(plugin, attrs)
    end
    return all, {}
end

local versions = setmetatable({}, {__mode = "k"})

-- Depends on what the configuration says, not on where it is.
function M.conf_version(conf)
    local version = versions[conf]
    if not version then
        version = tostring(ngx.crc32_short(core.json.stably_encode(conf)))
        versions[conf] = version
    end
    return version
end

-- All plugins of an object: true | false, err
function M.check_schema(plugins, schema_type, skip_unknown)
    local kind = schema_type == core.schema.TYPE_CONSUMER and "consumers"
        or schema_type == core.schema.TYPE_METADATA and "plugin_metadata" or nil
    for name, conf in pairs(plugins) do
        if type(conf) ~= "table" then
            return false, "invalid plugin conf " .. tostring(conf) .. " for plugin [" .. tostring(name) .. "]"
        end
        local ok, err = loader.check_plugin(name, conf, kind)
        if ok == "unknown" then
            if not skip_unknown then
                return false, "unknown plugin [" .. name .. "]"
            end
        elseif not ok then
            return false, "failed to check the configuration of plugin " .. name .. " err: " .. err
        end
    end
    return true
end

function M.plugin_checker(item, schema_type)
    if item.plugins then
        return M.check_schema(item.plugins, schema_type, true)
    end
    return true
end

-- For the rest of the request the plugin does not run (again).
function M.skip_plugin(ctx, name)
    ctx._skip_plugins = ctx._skip_plugins or {}
    ctx._skip_plugins[name] = true
end

M.set_plugins_meta_parent = merge.set_parent

-- phase, the plugins of filter(), the request's context
function M.run_plugin(phase, plugins, ctx)
    ctx = ctx or ngx.ctx.api_ctx
    if not ctx then
        return nil
    end
    return ctx, require("dpproxy.plugin.runtime").run(phase, ctx, plugins)
end

-- For plugins that answer themselves: the next piece of the body, through the lua_body_filter of the request's plugins, to
-- the client.
function M.lua_response_filter(ctx, headers, body)
    return require("dpproxy.plugin.runtime").lua_response_filter(ctx, headers, body)
end

function M.filter(ctx, conf)
    return require("dpproxy.plugin.runtime").filter(ctx, conf)
end

return M
