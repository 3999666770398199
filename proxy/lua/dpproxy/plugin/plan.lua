-- Of a set of plugin configurations: which plugins run, in which order, with which functions per phase. Made once per
-- configuration and kept; a request only walks along it.
local core = require("apisix.core")
local expr = require("dpproxy.router.expr")
local loader = require("dpproxy.plugin.loader")
local secrets = require("dpproxy.plugin.secrets")

local log = core.log
local pairs, type, loadstring, pcall, setmetatable = pairs, type, loadstring, pcall, setmetatable
local sort = table.sort

local M = {}

local function meta_of(conf)
    local meta = conf._meta
    return type(meta) == "table" and meta or nil
end

function M.disabled(conf)
    local meta = type(conf) == "table" and meta_of(conf)
    return meta and meta.disable == true or false
end

local function load_pre_function(name, source)
    local chunk, err = loadstring(source, "meta pre_function")
    if not chunk then
        log.error("failed to load _meta.pre_function in plugin ", name, ": ", err)
        return nil
    end
    local ok, fn = pcall(chunk)
    if not ok or type(fn) ~= "function" then
        log.error("_meta.pre_function in plugin ", name, " is no function: ", fn)
        return nil
    end
    return fn
end

local guards = setmetatable({}, {__mode = "k"}) -- conf -> guard | false

-- What `_meta` asks for before and after the plugin: {filter = fn, pre_function = fn, error_response = value} | false
local function guard_of(name, conf)
    local guard = guards[conf]
    if guard ~= nil then
        return guard
    end
    local meta = meta_of(conf)
    guard = false
    if meta and (meta.filter or meta.pre_function or meta.error_response) then
        guard = {error_response = meta.error_response}
        if meta.filter then
            local test, err = expr.compile(meta.filter)
            if not test then
                log.warn("failed to get the 'vars' expression: ", err, " plugin_name: ", name)
            end
            guard.filter = test or nil
        end
        if meta.pre_function then
            guard.pre_function = load_pre_function(name, meta.pre_function)
        end
    end
    guards[conf] = guard
    return guard
end

local function by_meta_priority(a, b)
    if a.priority ~= b.priority then
        return a.priority > b.priority
    end
    return a.rank < b.rank
end

local plan_mt = {}

-- A phase's steps, four values each: function, configuration, plugin, guard. Found out when first asked for.
function plan_mt.__index(plan, phase)
    local plugins = plan.plugins
    local steps, n = {}, 0
    for i = 1, #plugins, 2 do
        local plugin, conf = plugins[i], plugins[i + 1]
        local fn = plugin[phase]
        if type(fn) == "function" then
            steps[n + 1], steps[n + 2], steps[n + 3], steps[n + 4] = fn, conf, plugin, guard_of(plugin.name, conf)
            n = n + 4
        end
    end
    steps.n = n
    plan[phase] = n > 0 and steps or false
    return plan[phase]
end

-- confs: name -> configuration. without: names to leave out | nil.
-- -> {plugin, conf, plugin, conf, …, plan = by phase, dynamic = bool, prefer_route = bool}
function M.build(confs, without)
    local entries, custom, dynamic, prefer_route = {}, false, false, false
    for rank = 1, #loader.sorted do
        local plugin = loader.sorted[rank]
        local conf = confs and confs[plugin.name]
        if type(conf) == "table" and not M.disabled(conf) and not (without and without[plugin.name])
                and loader.is_checked(plugin.name, conf) then
            local meta = meta_of(conf)
            local priority = meta and meta.priority
            custom = custom or priority ~= nil
            dynamic = dynamic or secrets.is_dynamic(conf)
            prefer_route = prefer_route or plugin.run_policy == "prefer_route"
            entries[#entries + 1] = {
                plugin = plugin, conf = secrets.resolve(conf), priority = priority or plugin.priority, rank = rank,
            }
        end
    end
    if custom then
        sort(entries, by_meta_priority)
    end
    local plugins = {dynamic = dynamic, prefer_route = prefer_route}
    for i = 1, #entries do
        plugins[2 * i - 1], plugins[2 * i] = entries[i].plugin, entries[i].conf
    end
    plugins.plan = setmetatable({plugins = plugins}, plan_mt)
    return plugins
end

-- Names of those plugins in confs that a route has enabled itself, and that then do not run from a global rule.
function M.preferred(confs, route_confs)
    local names
    for name, conf in pairs(confs) do
        local plugin = loader.get(name)
        if plugin and plugin.run_policy == "prefer_route" and type(conf) == "table" then
            local own = route_confs and route_confs[name]
            if own and not M.disabled(own) then
                names = names or {}
                names[name] = true
            end
        end
    end
    return names
end

-- Has a secret changed since the plan was made?
function M.outdated(plugins, confs)
    for i = 1, #plugins, 2 do
        local conf = confs[plugins[i].name]
        if conf == nil or secrets.resolve(conf) ~= plugins[i + 1] then
            return true
        end
    end
    return false
end

return M
