-- core.ip over dpproxy.router.ipmatch.
local json = require("apisix.core.json")
local log = require("apisix.core.log")

local M = {}

-- A list of addresses and networks -> an object with match(text) -> bool, or nil.
function M.create_ip_matcher(list)
    local matcher, err = require("dpproxy.router.ipmatch").new(list)
    if not matcher then
        log.error("failed to create ip matcher: ", err, " ip list: ", json.delay_encode(list))
        return nil
    end
    return matcher
end

function M.validate_cidr_or_ip(text)
    if type(text) ~= "string" then
        return false
    end
    local matcher = require("dpproxy.router.ipmatch").new({text})
    return matcher ~= nil
end

return M
