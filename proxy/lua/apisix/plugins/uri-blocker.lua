-- uri-blocker: rejects requests whose URI (with its arguments) matches one of several patterns.
local core = require("apisix.core")

local ipairs = ipairs

local schema = {
    type = "object",
    properties = {
        block_rules = {
            type = "array",
            items = {type = "string", minLength = 1, maxLength = 4096},
            uniqueItems = true,
        },
        rejected_code = {type = "integer", minimum = 200, default = 403},
        rejected_msg = {type = "string", minLength = 1},
        case_insensitive = {type = "boolean", default = false},
    },
    required = {"block_rules"},
}

local M = {
    version = 0.1,
    priority = 2900,
    name = "uri-blocker",
    schema = schema,
}

local patterns = setmetatable({}, {__mode = "k"})

function M.check_schema(conf)
    local ok, err = core.schema.check(schema, conf)
    if not ok then
        return false, err
    end
    for _, rule in ipairs(conf.block_rules) do
        local _, _, bad = ngx.re.find("", rule, "j")
        if bad then
            return false, bad
        end
    end
    return true
end

function M.rewrite(conf, ctx)
    local pattern = patterns[conf]
    if not pattern then
        pattern = table.concat(conf.block_rules, "|")
        patterns[conf] = pattern
    end
    if pattern ~= "" and ngx.re.find(ctx.var.request_uri, pattern, conf.case_insensitive and "joi" or "jo") then
        if conf.rejected_msg then
            return conf.rejected_code, {error_msg = conf.rejected_msg}
        end
        return conf.rejected_code
    end
end

return M
