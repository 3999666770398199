-- referer-restriction: from which hosts' pages (Referer) one may ask.
local core = require("apisix.core")
local http = require("resty.http")

local ipairs, lower, sub = ipairs, string.lower, string.sub

local list_def = {
    type = "array",
    minItems = 1,
    items = {type = "string", pattern = [[^\*$|^\*?[0-9a-zA-Z-._\[\]:]+$]]},
}

local schema = {
    type = "object",
    properties = {
        bypass_missing = {type = "boolean", default = false},
        whitelist = list_def,
        blacklist = list_def,
        message = {type = "string", minLength = 1, maxLength = 1024, default = "Your referer host is not allowed"},
    },
    oneOf = {
        {required = {"whitelist"}},
        {required = {"blacklist"}},
    },
}

local M = {
    version = 0.1,
    priority = 2990,
    name = "referer-restriction",
    schema = schema,
}

function M.check_schema(conf)
    return core.schema.check(schema, conf)
end

-- "*.foo.com" is everything that ends so.
local function is_listed(list, host)
    for _, pattern in ipairs(list) do
        pattern = lower(pattern)
        if pattern == host then
            return true
        elseif sub(pattern, 1, 1) == "*" then
            local rest = sub(pattern, 2)
            if #host > #rest and (rest == "" or sub(host, -#rest) == rest) then
                return true
            end
        end
    end
    return false
end

function M.access(conf, ctx)
    local referer = ctx.var.http_referer
    local uri = referer and http.parse_uri(nil, referer)
    local blocked
    if not uri or uri.host == "" then
        blocked = not conf.bypass_missing
    elseif conf.whitelist then
        blocked = not is_listed(conf.whitelist, lower(uri.host))
    else
        blocked = is_listed(conf.blacklist, lower(uri.host))
    end
    if blocked then
        return 403, {message = conf.message}
    end
end

return M
