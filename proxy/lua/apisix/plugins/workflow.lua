-- workflow: the first rule whose case fits decides: it answers ("return"), or has the request looked at by another plugin that
-- has registered itself here (limit-count, limit-req).
local core = require("apisix.core")
local vars = require("dpproxy.plugin.vars")

local ipairs, tostring = ipairs, tostring

local schema = {
    type = "object",
    properties = {
        rules = {
            type = "array",
            items = {
                type = "object",
                properties = {
                    case = {type = "array", items = {anyOf = {{type = "array"}, {type = "string"}}}, minItems = 1},
                    actions = {
                        type = "array",
                        items = {type = "array", minItems = 1},
                    },
                },
                required = {"actions"},
            },
        },
    },
    required = {"rules"},
}

local return_schema = {
    type = "object",
    properties = {
        code = {type = "integer", minimum = 100, maximum = 599},
    },
    required = {"code"},
}

local M = {
    version = 0.1,
    priority = 1006,
    name = "workflow",
    schema = schema,
}

local actions = {
    ["return"] = {
        check = function(conf)
            return core.schema.check(return_schema, conf)
        end,
        handler = function(conf)
            return conf.code, {error_msg = "rejected by workflow"}
        end,
    },
}

-- For plugins, from their workflow_handler(): handler(conf, ctx) -> code, body; check(conf) -> true | false, err
function M.register(name, handler, check)
    actions[name] = {handler = handler, check = check}
end

function M.check_schema(conf)
    local ok, err = core.schema.check(schema, conf)
    if not ok then
        return false, err
    end
    for _, rule in ipairs(conf.rules) do
        if rule.case then
            ok, err = vars.check(rule.case)
            if not ok then
                return false, "failed to validate the 'case' expression: " .. err
            end
        end
        for _, action in ipairs(rule.actions) do
            local known = actions[action[1]]
            if not known then
                return false, "unsupported action: " .. tostring(action[1])
            end
            ok, err = known.check(action[2])
            if not ok then
                return false, "failed to validate the '" .. action[1] .. "' action: " .. tostring(err)
            end
        end
    end
    return true
end

function M.access(conf, ctx)
    for _, rule in ipairs(conf.rules) do
        if not rule.case or vars.match(rule.case, ctx) then
            -- As in APISIX, only the first one.
            local action = rule.actions[1]
            if not action then
                return
            end
            return actions[action[1]].handler(action[2], ctx)
        end
    end
end

return M
