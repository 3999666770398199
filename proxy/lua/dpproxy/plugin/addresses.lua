-- Lists of addresses and networks in plugins' configurations.
local core = require("apisix.core")

local ipairs = ipairs

local M = {}

-- The patterns of the schema let some impossible IPv6 addresses through. -> true | false, err
function M.check(list)
    for _, address in ipairs(list) do
        if not core.ip.validate_cidr_or_ip(address) then
            return false, "invalid ip address: " .. address
        end
    end
    return true
end

local matchers = setmetatable({}, {__mode = "k"})

-- Each list's matcher is made once. -> bool | nil, err
function M.match(list, address)
    local matcher = matchers[list]
    if not matcher then
        local err
        matcher, err = core.ip.create_ip_matcher(list)
        if not matcher then
            return nil, err
        end
        matchers[list] = matcher
    end
    return matcher:match(address) and true or false
end

return M
