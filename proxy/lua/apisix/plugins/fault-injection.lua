-- fault-injection: delays requests, or answers them at once.
local core = require("apisix.core")
local vars = require("dpproxy.plugin.vars")

local ipairs, pairs, type = ipairs, pairs, type
local random = math.random

local percentage_def = {type = "integer", minimum = 0, maximum = 100}
local vars_def = {type = "array", maxItems = 20, items = {type = "array"}}

local schema = {
    type = "object",
    properties = {
        abort = {
            type = "object",
            properties = {
                http_status = {type = "integer", minimum = 200},
                body = {type = "string", minLength = 0},
                headers = {
                    type = "object",
                    minProperties = 1,
                    patternProperties = {
                        ["^[^:]+$"] = {oneOf = {{type = "string"}, {type = "number"}}},
                    },
                },
                percentage = percentage_def,
                vars = vars_def,
            },
            required = {"http_status"},
        },
        delay = {
            type = "object",
            properties = {
                duration = {type = "number", minimum = 0},
                percentage = percentage_def,
                vars = vars_def,
            },
            required = {"duration"},
        },
    },
    minProperties = 1,
}

local M = {
    version = 0.1,
    priority = 11000,
    name = "fault-injection",
    schema = schema,
}

function M.check_schema(conf)
    local ok, err = core.schema.check(schema, conf)
    if not ok then
        return false, err
    end
    for _, part in ipairs({conf.abort or {}, conf.delay or {}}) do
        for _, list in ipairs(part.vars or {}) do
            ok, err = vars.check(list)
            if not ok then
                return false, err
            end
        end
    end
    return true
end

local function applies(part, ctx)
    if not part then
        return false
    end
    if part.percentage and random(1, 100) > part.percentage then
        return false
    end
    return not part.vars or vars.match_any(part.vars, ctx)
end

function M.rewrite(conf, ctx)
    -- Both are judged before the delay, by the request as it came.
    local delayed, aborted = applies(conf.delay, ctx), applies(conf.abort, ctx)
    if delayed then
        core.sleep(conf.delay.duration)
    end
    if not aborted then
        return
    end
    for name, value in pairs(conf.abort.headers or {}) do
        if type(value) == "string" then
            value = core.utils.resolve_var(value, ctx.var)
        end
        core.response.set_header(name, value)
    end
    local body = conf.abort.body
    return conf.abort.http_status, body and (core.utils.resolve_var(body, ctx.var))
end

return M
