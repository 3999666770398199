-- api-breaker: answers by itself for a while when an upstream has failed several times: 2, 4, 8, … seconds, per host and URI.
local core = require("apisix.core")

local ipairs = ipairs
local ceil, min = math.ceil, math.min

local schema = {
    type = "object",
    properties = {
        break_response_code = {type = "integer", minimum = 200, maximum = 599},
        break_response_body = {type = "string"},
        break_response_headers = {
            type = "array",
            items = {
                type = "object",
                properties = {
                    key = {type = "string", minLength = 1},
                    value = {type = "string", minLength = 1},
                },
                required = {"key", "value"},
            },
        },
        max_breaker_sec = {type = "integer", minimum = 3, default = 300},
        unhealthy = {
            type = "object",
            properties = {
                http_statuses = {
                    type = "array",
                    minItems = 1,
                    items = {type = "integer", minimum = 500, maximum = 599},
                    uniqueItems = true,
                    default = {500},
                },
                failures = {type = "integer", minimum = 1, default = 3},
            },
            default = {http_statuses = {500}, failures = 3},
        },
        healthy = {
            type = "object",
            properties = {
                http_statuses = {
                    type = "array",
                    minItems = 1,
                    items = {type = "integer", minimum = 200, maximum = 499},
                    uniqueItems = true,
                    default = {200},
                },
                successes = {type = "integer", minimum = 1, default = 3},
            },
            default = {http_statuses = {200}, successes = 3},
        },
    },
    required = {"break_response_code"},
}

local M = {
    version = 0.1,
    priority = 1005,
    name = "api-breaker",
    schema = schema,
}

function M.check_schema(conf)
    return core.schema.check(schema, conf)
end

local function dictionary()
    return ngx.shared["plugin-api-breaker"]
end

local function name_of(ctx)
    return core.request.get_host(ctx) .. ctx.var.uri
end

function M.access(conf, ctx)
    local dict, name = dictionary(), name_of(ctx)
    local failures, since = dict:get("unhealthy-" .. name), dict:get("unhealthy-lasttime" .. name)
    if not failures or not since then
        return
    end
    local rounds = ceil(failures / conf.unhealthy.failures)
    if ngx.time() > since + min(2 ^ rounds, conf.max_breaker_sec) then
        return
    end
    if conf.break_response_body then
        for _, header in ipairs(conf.break_response_headers or {}) do
            core.response.set_header(header.key, (core.utils.resolve_var(header.value, ctx.var)))
        end
        return conf.break_response_code, conf.break_response_body
    end
    return conf.break_response_code
end

function M.log(conf, ctx)
    local status = core.response.get_upstream_status(ctx)
    if not status then
        return
    end
    local dict, name = dictionary(), name_of(ctx)
    if core.table.array_find(conf.unhealthy.http_statuses, status) then
        local failures, err = dict:incr("unhealthy-" .. name, 1, 0)
        if not failures then
            core.log.warn("failed to count a failure: ", err)
            return
        end
        dict:delete("healthy-" .. name)
        if failures % conf.unhealthy.failures == 0 then
            dict:set("unhealthy-lasttime" .. name, ngx.time(), conf.max_breaker_sec)
        end
    elseif core.table.array_find(conf.healthy.http_statuses, status) and dict:get("unhealthy-" .. name) then
        local successes, err = dict:incr("healthy-" .. name, 1, 0)
        if not successes then
            core.log.warn("failed to count a success: ", err)
        elseif successes >= conf.healthy.successes then
            dict:delete("unhealthy-lasttime" .. name)
            dict:delete("unhealthy-" .. name)
            dict:delete("healthy-" .. name)
        end
    end
end

return M
