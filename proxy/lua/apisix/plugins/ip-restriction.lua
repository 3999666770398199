-- ip-restriction: an allow list or a deny list of client addresses.
local core = require("apisix.core")

local ipairs = ipairs

local list_def = {type = "array", items = {anyOf = core.schema.ip_def}, minItems = 1}

local schema = {
    type = "object",
    properties = {
        message = {type = "string", minLength = 1, maxLength = 1024, default = "Your IP address is not allowed"},
        response_code = {type = "integer", minimum = 403, maximum = 404, default = 403},
        whitelist = list_def,
        blacklist = list_def,
    },
    oneOf = {
        {required = {"whitelist"}},
        {required = {"blacklist"}},
    },
}

local M = {
    version = 0.1,
    priority = 3000,
    name = "ip-restriction",
    schema = schema,
}

local matchers = setmetatable({}, {__mode = "k"})

function M.check_schema(conf)
    local ok, err = core.schema.check(schema, conf)
    if not ok then
        return false, err
    end
    -- The patterns of the schema let some impossible IPv6 addresses through.
    for _, address in ipairs(conf.whitelist or conf.blacklist) do
        if not core.ip.validate_cidr_or_ip(address) then
            return false, "invalid ip address: " .. address
        end
    end
    return true
end

local function listed(list, address)
    local matcher = matchers[list]
    if not matcher then
        local err
        matcher, err = core.ip.create_ip_matcher(list)
        if not matcher then
            core.log.error("failed to create ip matcher: ", err)
            return nil
        end
        matchers[list] = matcher
    end
    return matcher:match(address) and true or false
end

local function restrict(conf, ctx)
    local address = ctx.var.remote_addr
    local blocked = false
    if conf.blacklist then
        blocked = listed(conf.blacklist, address)
    end
    if conf.whitelist then
        blocked = listed(conf.whitelist, address) == false
    end
    if blocked then
        return conf.response_code, {message = conf.message}
    end
end

M.restrict = restrict
M.access = restrict

return M
