-- ip-restriction: an allow list or a deny list of client addresses.
local addresses = require("dpproxy.plugin.addresses")
local core = require("apisix.core")

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

function M.check_schema(conf)
    local ok, err = core.schema.check(schema, conf)
    if not ok then
        return false, err
    end
    return addresses.check(conf.whitelist or conf.blacklist)
end

local function listed(list, address)
    local found, err = addresses.match(list, address)
    if found == nil then
        core.log.error("failed to create ip matcher: ", err)
    end
    return found
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
