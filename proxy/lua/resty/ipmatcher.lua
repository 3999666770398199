-- The interface of lua-resty-ipmatcher, for plugins that were written against it, over dpproxy.router.ipmatch.
local ipmatch = require("dpproxy.router.ipmatch")

local M = {}
local mt = {__index = M}

-- -> an object with match(address) | nil, err
function M.new(addresses)
    local matcher, err = ipmatch.new(addresses)
    if not matcher then
        return nil, err
    end
    return setmetatable({matcher = matcher}, mt)
end

function M:match(address)
    if not M.parse_ipv4(address) and not M.parse_ipv6(address) then
        return false, "invalid ip address, not ipv4 and ipv6"
    end
    return self.matcher:match(address) and true or false
end

function M.parse_ipv4(text)
    return require("apisix.core.utils").parse_ipv4(text)
end

function M.parse_ipv6(text)
    return require("apisix.core.utils").parse_ipv6(text)
end

return M
