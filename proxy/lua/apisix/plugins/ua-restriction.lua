-- ua-restriction: which programs (User-Agent) may ask.
local core = require("apisix.core")

local ipairs, type = ipairs, type

local list_def = {type = "array", minItems = 1, items = {type = "string", minLength = 1}}

local schema = {
    type = "object",
    properties = {
        bypass_missing = {type = "boolean", default = false},
        allowlist = list_def,
        denylist = list_def,
        message = {type = "string", minLength = 1, maxLength = 1024, default = "Not allowed"},
    },
    oneOf = {
        {required = {"allowlist"}},
        {required = {"denylist"}},
    },
}

local M = {
    version = 0.1,
    priority = 2999,
    name = "ua-restriction",
    schema = schema,
}

function M.check_schema(conf)
    local ok, err = core.schema.check(schema, conf)
    if not ok then
        return false, err
    end
    for _, pattern in ipairs(conf.allowlist or conf.denylist) do
        local _, _, bad = ngx.re.find("", pattern, "jo")
        if bad then
            return false, bad
        end
    end
    return true
end

local function matches(list, agent)
    for _, pattern in ipairs(list) do
        if ngx.re.find(agent, pattern, "jo") then
            return true
        end
    end
    return false
end

local function is_allowed(conf, agent)
    if conf.allowlist then
        return matches(conf.allowlist, agent)
    end
    return not matches(conf.denylist, agent)
end

function M.access(conf, ctx)
    local agents = core.request.headers(ctx)["User-Agent"]
    local allowed
    if not agents then
        allowed = conf.bypass_missing
    elseif type(agents) == "table" then
        -- Each of several must be allowed.
        allowed = true
        for _, agent in ipairs(agents) do
            allowed = allowed and is_allowed(conf, agent)
        end
    else
        allowed = is_allowed(conf, agents)
    end
    if not allowed then
        return 403, {message = conf.message}
    end
end

return M
