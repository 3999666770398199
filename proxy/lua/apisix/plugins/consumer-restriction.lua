-- consumer-restriction: which consumers (or groups, routes, services) may pass, and with which methods.
local core = require("apisix.core")

local ipairs = ipairs

local list = {type = "array", minItems = 1, items = {type = "string"}}

local schema = {
    type = "object",
    properties = {
        type = {
            type = "string",
            enum = {"consumer_name", "service_id", "route_id", "consumer_group_id"},
            default = "consumer_name",
        },
        blacklist = list,
        whitelist = list,
        allowed_by_methods = {
            type = "array",
            items = {
                type = "object",
                properties = {
                    user = {type = "string"},
                    methods = {type = "array", minItems = 1, items = require("apisix.schema_def").method_schema},
                },
            },
        },
        rejected_code = {type = "integer", minimum = 200, default = 403},
        rejected_msg = {type = "string"},
    },
    anyOf = {
        {required = {"blacklist"}},
        {required = {"whitelist"}},
        {required = {"allowed_by_methods"}},
    },
}

local M = {
    version = 0.1,
    priority = 2400,
    name = "consumer-restriction",
    schema = schema,
}

function M.check_schema(conf)
    return core.schema.check(schema, conf)
end

local function is_listed(names, name)
    for i = 1, names and #names or 0 do
        if names[i] == name then
            return true
        end
    end
    return false
end

-- Whoever is not named may use any method.
local function may_use(rules, user, method)
    for _, rule in ipairs(rules) do
        if rule.user == user then
            return is_listed(rule.methods, method)
        end
    end
    return true
end

local function is_rejected(conf, name)
    if is_listed(conf.blacklist, name) then
        return true
    end
    if conf.whitelist and #conf.whitelist > 0 then
        if is_listed(conf.whitelist, name) then
            return false -- whatever the method
        end
        return true
    end
    return conf.allowed_by_methods ~= nil and not may_use(conf.allowed_by_methods, name, core.request.get_method())
end

function M.access(conf, ctx)
    local name = ctx[conf.type]
    if not name then
        return 401, {message = "The request is rejected, please check the " .. conf.type .. " for this request"}
    end
    if is_rejected(conf, name) then
        return conf.rejected_code, {message = conf.rejected_msg or "The " .. conf.type .. " is forbidden."}
    end
end

return M
