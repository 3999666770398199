-- Plugins by name: found as modules `apisix.plugins.<name>` (extra_lua_path comes first in nginx' search path, so that a
-- file there replaces a built-in one), checked, sorted by priority, and loaded again when told. One that cannot be loaded
-- is logged and left out.
local core = require("apisix.core")

local ngx = ngx
local log = core.log
local pairs, ipairs, type, pcall, xpcall, require, tostring = pairs, ipairs, type, pcall, xpcall, require, tostring
local setmetatable = setmetatable
local sort = table.sort
local str_sub, str_find = string.sub, string.find
local traceback = debug.traceback
local loaded_modules = package.loaded

local M = {
    generation = 0, -- grows with every load: caches of what plugins gave are keyed by it
    by_name = {},
    sorted = {}, -- by priority, highest first; names decide between equal ones
}

local initialised = false -- have the plugins' init functions run?
local configured -- names in the configuration file
local published -- names under /plugins in etcd, which count instead | nil
local reloads = 0 -- how many reloads this process knows of; the shared dictionary counts them
local checked = setmetatable({}, {__mode = "k"}) -- configurations that their plugin has accepted

local function module_name(name)
    return "apisix.plugins." .. name
end

local function attr(name)
    return core.table.try_read_attr(core.config.local_conf(), "plugin_attr", name)
end

-- `_meta` becomes a property of the plugin's own schema.
local function inject_meta(plugin)
    local schema = plugin.schema
    schema.properties = schema.properties or {}
    local injected = core.schema.plugin_injected_schema
    if schema["$comment"] == injected["$comment"] then
        return true
    end
    if schema.properties._meta then
        return nil, "found forbidden '_meta' field in the schema"
    end
    schema.properties._meta = injected._meta
    schema["$comment"] = injected["$comment"]
    return true
end

-- A require that failed leaves LuaJIT's mark in package.loaded, for the module and for those that wanted it: the next one would
-- only say that there was an error before. The mark is there, too, while a module is being loaded, as this one now.
local mark = loaded_modules[...]

local function forget_failures()
    for module, value in pairs(loaded_modules) do
        if value == mark then
            loaded_modules[module] = nil
        end
    end
end

local function require_plugin(name)
    local ok, plugin = xpcall(require, traceback, module_name(name))
    if not ok then
        forget_failures()
        return nil, plugin
    end
    if type(plugin) ~= "table" then
        return nil, "the module is no table"
    elseif type(plugin.priority) ~= "number" then
        return nil, "missing field: priority"
    elseif not plugin.version then
        return nil, "missing field: version"
    elseif type(plugin.schema) ~= "table" then
        return nil, "missing field: schema"
    end
    local injected, err = inject_meta(plugin)
    if not injected then
        return nil, err
    end
    plugin.name = name
    plugin.attr = attr(name)
    return plugin
end

-- Calls one of a plugin's life-cycle functions, if it has it.
local function call(plugin, fn)
    if type(plugin[fn]) ~= "function" then
        return true
    end
    local ok, err = xpcall(plugin[fn], traceback)
    if not ok then
        log.error("plugin [", plugin.name, "] failed in ", fn, "(): ", err)
    end
    return ok
end

local function start(plugin)
    return call(plugin, "init") and call(plugin, "workflow_handler")
end

local function by_priority(a, b)
    if a.priority ~= b.priority then
        return a.priority > b.priority
    end
    return a.name < b.name
end

local function unload(name, plugin)
    if initialised then
        call(plugin, "destroy")
    end
    local module = module_name(name)
    for loaded in pairs(loaded_modules) do
        if type(loaded) == "string" and (loaded == module or str_sub(loaded, 1, #module + 1) == module .. ".") then
            loaded_modules[loaded] = nil
        end
    end
end

local function is_absent(name, err)
    return str_find(err, "module '" .. module_name(name) .. "' not found", 1, true) ~= nil
end

-- names: as in the configuration file; nil: all that are built in. opts.init: run the plugins' init(), which may start timers; by
-- default everywhere but in the master's init phase (see init_worker). -> {by_name =, sorted =}
function M.load(names, opts)
    names = names or require("dpproxy.plugin.defaults").names()
    for name, plugin in pairs(M.by_name) do
        unload(name, plugin)
    end
    local init = opts and opts.init
    if init == nil then
        init = ngx.get_phase() ~= "init"
    end

    local by_name, sorted = {}, {}
    for _, name in ipairs(names) do
        if type(name) == "table" then
            name = name.name -- the form that /plugins has in etcd
        end
        if type(name) == "string" and not by_name[name] then
            local plugin, err = require_plugin(name)
            if not plugin and is_absent(name, err) then
                log.warn("there is no plugin [", name, "] here")
            elseif not plugin then
                log.error("failed to load plugin [", name, "] err: ", err)
            elseif not init or start(plugin) then
                by_name[name] = plugin
                sorted[#sorted + 1] = plugin
            end
        end
    end
    sort(sorted, by_priority)

    M.by_name, M.sorted = by_name, sorted
    M.generation = M.generation + 1
    checked = setmetatable({}, {__mode = "k"})
    initialised = init
    return M
end

local function counter()
    return ngx.shared.dpproxy_state
end

local function reloads_of_all()
    local dict = counter()
    return dict and dict:get("plugins:reloads") or 0
end

-- In the master: loads what the configuration file names, and has objects checked with the plugins' schemas from then on.
function M.init(conf)
    require("dpproxy.schema.objects").configure({plugin_schema = M.check_plugin, warn = log.warn})
    configured = conf.plugins
    reloads = reloads_of_all()
    M.load(configured)
end

local function load_again()
    reloads = reloads_of_all()
    M.load(published or configured)
end

-- /plugins in etcd: an array of {name =, stream =}.
local function follow_published(item)
    local names
    for _, entry in ipairs(item and item.value or {}) do
        names = names or {}
        if type(entry) == "table" and not entry.stream then
            names[#names + 1] = entry.name
        end
    end
    if names or published then
        published = names
        load_again()
    end
end

local function follow_reloads(premature)
    if not premature and reloads ~= reloads_of_all() then
        load_again()
    end
end

-- In a worker, when the master has loaded the plugins: starts them. A worker that is born after a reload still has the master's
-- code.
function M.init_worker()
    if not initialised then
        initialised = true
        for i = #M.sorted, 1, -1 do
            local plugin = M.sorted[i]
            if not start(plugin) then
                table.remove(M.sorted, i)
                M.by_name[plugin.name] = nil
            end
        end
        M.generation = M.generation + 1
    end
    follow_reloads()
    require("dpproxy.config.store").subscribe("plugins", follow_published)
    local ok, err = ngx.timer.every(1, follow_reloads)
    if not ok then
        log.error("plugins are not loaded anew here when they are elsewhere: ", err)
    end
end

-- Loads all modules anew, here at once and in the other workers within a second.
function M.reload()
    local dict = counter()
    if dict then
        dict:incr("plugins:reloads", 1, 0)
    end
    load_again()
    return true
end

function M.exit_worker()
    for name, plugin in pairs(M.by_name) do
        unload(name, plugin)
    end
    M.by_name, M.sorted = {}, {}
end

function M.get(name)
    return M.by_name[name]
end

function M.is_auth(name)
    local plugin = M.by_name[name]
    return plugin ~= nil and plugin.type == "auth"
end

-- encrypt_fields: dotted paths; on the way arrays are passed through, at the end are strings, or arrays or objects of strings.
local function decrypt_value(conf, key)
    local value = conf[key]
    if type(value) == "string" then
        conf[key] = core.data_encryption.decrypt(value) or value
    elseif type(value) == "table" then
        for k, v in pairs(value) do
            if type(v) == "string" then
                value[k] = core.data_encryption.decrypt(v) or v
            end
        end
    end
end

local function decrypt_path(conf, path)
    local dot = str_find(path, ".", 1, true)
    if not dot then
        return decrypt_value(conf, path)
    end
    local child, rest = conf[str_sub(path, 1, dot - 1)], str_sub(path, dot + 1)
    if type(child) ~= "table" then
        return
    end
    if child[1] == nil then
        return decrypt_path(child, rest)
    end
    for _, element in ipairs(child) do
        if type(element) == "table" then
            decrypt_path(element, rest)
        end
    end
end

local function decrypt(plugin, conf, schema_type)
    local schema = plugin.schema
    if schema_type == core.schema.TYPE_CONSUMER then
        schema = plugin.consumer_schema or schema
    elseif schema_type == core.schema.TYPE_METADATA then
        schema = plugin.metadata_schema
    end
    local fields = schema and schema.encrypt_fields
    if not fields or not core.data_encryption.enabled() then
        return
    end
    for _, path in ipairs(fields) do
        decrypt_path(conf, path)
    end
end

local schema_types = {
    consumers = core.schema.TYPE_CONSUMER,
    credentials = core.schema.TYPE_CONSUMER,
    plugin_metadata = core.schema.TYPE_METADATA,
}

-- Is this a configuration of that plugin, in an object of that kind? Decrypts and fills in defaults.
-- -> true | false, err | "unknown"
function M.check_plugin(name, conf, kind)
    local plugin = M.by_name[name]
    if not plugin then
        return "unknown"
    end
    local schema_type = schema_types[kind]
    decrypt(plugin, conf, schema_type)
    if schema_type == core.schema.TYPE_METADATA and not plugin.metadata_schema then
        return true
    end
    local ran, ok, err
    if plugin.check_schema then
        ran, ok, err = pcall(plugin.check_schema, conf, schema_type)
    else
        ran, ok, err = pcall(core.schema.check, plugin.schema, conf)
    end
    if not ran then
        return false, tostring(ok)
    end
    if not ok then
        return false, tostring(err)
    end
    checked[conf] = true
    return true
end

-- A configuration may be older than its plugin, which was loaded since: it has not been checked, and lacks its defaults.
function M.is_checked(name, conf, kind)
    if checked[conf] then
        return true
    end
    local ok, err = M.check_plugin(name, conf, kind)
    if ok ~= true then
        log.error("plugin [", name, "] does not accept its configuration and is left out: ", err)
        return false
    end
    return true
end

return M
