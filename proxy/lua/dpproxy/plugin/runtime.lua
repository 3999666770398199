-- Runs plugins: which ones a request has, phase by phase. A plugin that returns (code, body) ends the request; one that
-- throws ends its own request with 500 and a traceback in the log. A plugin that loops forever cannot be stopped: LuaJIT
-- has no interrupt in compiled code, and nginx' workers are single threads.
local consumer_of = require("dpproxy.plugin.consumer")
local core = require("apisix.core")
local loader = require("dpproxy.plugin.loader")
local merge = require("dpproxy.plugin.merge")
local plans = require("dpproxy.plugin.plan")
local secrets = require("dpproxy.plugin.secrets")

local ngx = ngx
local log = core.log
local respond = core.response.exit
local xpcall, pcall, error, setmetatable, type, tostring = xpcall, pcall, error, setmetatable, type, tostring
local traceback = debug.traceback

local M = {}

local store

-- opts.store: dpproxy.config.store, or what stands in for it
function M.use(opts)
    store = opts.store
    secrets.use(opts)
    consumer_of.use(opts)
end

local function get_store()
    if not store then
        store = require("dpproxy.config.store")
    end
    return store
end

-- Which plugins

local filtered = setmetatable({}, {__mode = "k"}) -- conf -> {generation =, plugins =}

local function plugins_of(conf)
    local entry = filtered[conf]
    if entry and entry.generation == loader.generation then
        local plugins = entry.plugins
        if not plugins.dynamic or not plans.outdated(plugins, conf.value.plugins) then
            return plugins
        end
    end
    local plugins = plans.build(conf.value.plugins)
    filtered[conf] = {generation = loader.generation, plugins = plugins}
    return plugins
end

-- conf: from merge. -> {plugin, conf, …}, shared by all requests: read only
function M.filter(ctx, conf)
    local plugins = plugins_of(conf)
    ctx.plugins = plugins
    return plugins
end

-- One phase

-- `_meta.filter` decides once per request, in the first phase that asks.
local function passes(ctx, guard)
    local results = ctx._meta_filter
    if not results then
        results = {}
        ctx._meta_filter = results
    end
    local result = results[guard]
    if result == nil then
        result = guard.filter(ctx.var)
        results[guard] = result
    end
    return result
end

local function prepare(ctx, conf, plugin, guard)
    if guard.filter and not passes(ctx, guard) then
        return false
    end
    if guard.pre_function then
        local ok, err = pcall(guard.pre_function, conf, ctx)
        if not ok then
            log.error("pre_function execution for plugin ", plugin.name, " failed: ", err)
        end
    end
    return true
end

-- Of other numbers nginx would make a status line that is none, or nothing at all.
local function is_status(code)
    return type(code) == "number" and code % 1 == 0 and (code >= 200 and code <= 999 or code == ngx.ERROR)
end

local function end_request(plugin, guard, code, body)
    code = code or 200
    if not is_status(code) then
        error(plugin.name .. " returned no status: " .. tostring(code), 0)
    end
    if code >= 400 then
        log.warn(plugin.name, " exits with http status code ", code)
        if guard and guard.error_response then
            body = guard.error_response
        end
    end
    return respond(code, body)
end

-- Does the request have this step, for all that _meta and other plugins say?
local function has_step(steps, i, ctx)
    local plugin, guard, skipped = steps[i + 2], steps[i + 3], ctx._skip_plugins
    return not (skipped and skipped[plugin.name] or guard and not prepare(ctx, steps[i + 1], plugin, guard))
end

-- -> code, body
local function call_step(steps, i, ctx)
    local conf, plugin = steps[i + 1], steps[i + 2]
    if not has_step(steps, i, ctx) then
        return
    end
    ctx._plugin_name = plugin.name
    local code, body = steps[i](conf, ctx)
    ctx._plugin_name = nil
    return code, body
end

-- The kinds of steps; -> true when no other shall follow.

local function deciding(steps, i, ctx)
    local code, body = call_step(steps, i, ctx)
    if code or body then
        end_request(steps[i + 2], steps[i + 3], code, body)
        return true
    end
    return false
end

local function filtering(steps, i, ctx)
    call_step(steps, i, ctx)
    return false
end

-- What a client sent may be in the message: it must not begin a line of the log.
local function failed(ctx, phase, err)
    log.error("plugin [", ctx._plugin_name or "?", "] failed in ", phase, ": ", (tostring(err):gsub("[\r\n]+%s*", "\n\t")))
    ctx._plugin_name = nil
end

-- One plugin's failure must not keep another from releasing what it holds.
local function logging(steps, i, ctx)
    local ok, err = xpcall(call_step, traceback, steps, i, ctx)
    if not ok then
        failed(ctx, "log", err)
    end
    return false
end

-- The first steps are not in the loop: LuaJIT does not compile loops that are left after a round or two, nor what calls them.
local function walk(step, steps, ctx)
    local n = steps.n
    if step(steps, 1, ctx) or n == 4 then
        return
    elseif step(steps, 5, ctx) or n == 8 then
        return
    elseif step(steps, 9, ctx) or n == 12 then
        return
    elseif step(steps, 13, ctx) or n == 16 then
        return
    end
    for i = 17, n, 4 do
        if step(steps, i, ctx) then
            return
        end
    end
end

-- The header is not sent yet: the client shall see 500, and nothing of the upstream's body. nginx throws that away and makes a
-- page of its own; a body that went on behind another length would be the next answer on the client's connection.
local function fail_header(ctx)
    ctx._plugin_failed = true
    ngx.exit(500)
end

local filters = {header_filter = true, body_filter = true, delayed_body_filter = true}

local function run_filter(phase, steps, ctx)
    if ctx._plugin_failed then
        return
    end
    local ok, err = xpcall(walk, traceback, filtering, steps, ctx)
    if ok then
        return
    end
    failed(ctx, phase, err)
    if phase ~= "header_filter" then
        error("a plugin failed in " .. phase, 0) -- nginx closes the connection: half a body must not look whole
    end
    fail_header(ctx)
end

-- phase: rewrite, access, before_proxy, header_filter, body_filter, delayed_body_filter, log. plugins: those of the
-- request when not given. -> did any plugin run
function M.run(phase, ctx, plugins)
    plugins = plugins or ctx.plugins
    if not plugins then
        return false
    end
    local steps = plugins.plan[phase]
    if not steps then
        return false
    end
    if phase == "log" then
        walk(logging, steps, ctx)
        return true
    elseif filters[phase] then
        run_filter(phase, steps, ctx)
        return true
    end
    local ok, err = xpcall(walk, traceback, deciding, steps, ctx)
    if not ok then
        failed(ctx, phase, err)
        respond(500)
    end
    return true
end

-- An answer that a plugin makes itself, piece by piece, on its way to the client: plugins with lua_body_filter may put another
-- text in its place, or end it with a code. (conf, ctx, headers, body) -> code, body
function M.lua_response_filter(ctx, headers, body)
    local steps = ctx.plugins and ctx.plugins.plan.lua_body_filter
    for i = 1, steps and steps.n or 0, 4 do
        if has_step(steps, i, ctx) then
            local code, text = steps[i](steps[i + 1], ctx, headers, body)
            if code then
                if code ~= ngx.OK then
                    ngx.status = code
                end
                if text then
                    ngx.print(text)
                end
                return ngx.exit(ngx.OK)
            end
            body = text or body
        end
    end
    ngx.print(body)
    ngx.flush()
end

-- Global rules

local global -- {version =, generation =, conf =, plugins =, variants = route conf -> plugins}

local function report_duplicate(name)
    log.error("Found ", name, " configured across different global rules. Removing it from execution list")
end

local function global_of()
    local version = get_store().version("global_rules")
    if not global or global.version ~= version then
        local items = store.list("global_rules")
        local conf = merge.global_rules(items, version, report_duplicate)
        global = {version = version, conf = conf, empty = #items == 0}
    end
    if global.generation ~= loader.generation or global.plugins.dynamic
            and plans.outdated(global.plugins, global.conf.value.plugins) then
        global.generation = loader.generation
        global.plugins = plans.build(global.conf.value.plugins)
        global.variants = setmetatable({}, {__mode = "k"})
    end
    return global
end

-- Without the plugins that the route itself has, for those plugins that prefer that.
local function variant_of(rules, route)
    local plugins = rules.plugins
    if not plugins.prefer_route or not route then
        return plugins
    end
    local variant = rules.variants[route]
    if not variant then
        local without = plans.preferred(rules.conf.value.plugins, route.value.plugins)
        variant = without and plans.build(rules.conf.value.plugins, without) or plugins
        rules.variants[route] = variant
    end
    return variant
end

local function filters_body(plugins)
    local plan = plugins.plan
    return (plan.body_filter or plan.delayed_body_filter) and true or false
end

-- Has this request a plugin at all? conf: from merge.route, or nil without a route
function M.has_plugins(ctx, conf)
    return not global_of().empty or conf ~= nil and #(ctx.plugins or M.filter(ctx, conf)) > 0
end

-- Has this request a plugin that looks at bodies? conf: from merge.route, or nil without a route
function M.filters_body(ctx, conf)
    local rules = global_of()
    return not rules.empty and filters_body(rules.plugins) or conf ~= nil and filters_body(ctx.plugins or M.filter(ctx, conf))
end

-- The set is chosen in rewrite, and in access again, since the consumer may have changed the route's plugins; later
-- phases keep it.
function M.global_rules(phase, ctx)
    if phase == "rewrite" or phase == "access" then
        local rules = global_of()
        ctx.global_plugins = not rules.empty and variant_of(rules, ctx.matched_route) or nil
        ctx.global_conf = rules.conf
    end
    local plugins = ctx.global_plugins
    if not plugins or not plugins.plan[phase] then
        return
    end
    local conf_type, conf_id, conf_version = ctx.conf_type, ctx.conf_id, ctx.conf_version
    local conf = ctx.global_conf
    ctx.conf_type, ctx.conf_id, ctx.conf_version = conf.type, conf.id, conf.version
    M.run(phase, ctx, plugins)
    ctx.conf_type, ctx.conf_id, ctx.conf_version = conf_type, conf_id, conf_version
end

-- The whole way

-- Puts into ctx what plugins read of a matched route. conf: from merge.route
function M.begin(ctx, conf)
    local value, service = conf.value, conf.service
    ctx.matched_route = conf
    ctx.conf_type, ctx.conf_id, ctx.conf_version = conf.type, conf.id, conf.version
    ctx.route_id, ctx.route_name = value.id, value.name
    if service then
        ctx.service_id, ctx.service_name = service.value.id, service.value.name
    end
end

-- After the route's rewrite phase: the consumer that an auth plugin attached brings its plugins. -> conf
function M.merge_consumer(ctx)
    local consumer, conf = ctx.consumer, ctx.matched_route
    if not consumer then
        return conf
    end
    local group
    if consumer.group_id then
        group = get_store().get("consumer_groups", consumer.group_id)
        if not group then
            log.error("failed to fetch consumer group config by id: ", consumer.group_id)
            respond(503)
            return conf
        end
    end
    local entry = merge.consumer(conf, consumer, group, loader.is_auth)
    ctx.conf_type, ctx.conf_id, ctx.conf_version = entry.type, entry.id, entry.version
    if not entry.changed then
        return conf
    end
    local merged = entry.conf
    ctx.matched_route = merged
    M.filter(ctx, merged)
    if merged.late then
        M.run("rewrite", ctx, plugins_of(merged.late))
    end
    return merged
end

-- rewrite and access of a request with a route; what is left is to choose a node, and before_proxy. -> conf
function M.access(ctx, conf)
    M.begin(ctx, conf)
    ctx.plugins = nil -- a request that a global rule ends does not meet the route's plugins, in later phases neither
    M.global_rules("rewrite", ctx)
    M.run("rewrite", ctx, M.filter(ctx, conf))
    conf = M.merge_consumer(ctx)
    M.global_rules("access", ctx)
    M.run("access", ctx)
    return conf
end

-- The other phases: global rules first, then the route's plugins. body_filter includes delayed_body_filter.
function M.phase(phase, ctx)
    M.global_rules(phase, ctx)
    M.run(phase, ctx)
    if phase == "body_filter" then
        M.global_rules("delayed_body_filter", ctx)
        M.run("delayed_body_filter", ctx)
    end
end

return M
