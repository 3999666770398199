-- core.resolver over dpproxy.upstream.dns.
local log = require("apisix.core.log")

local M = {}

function M.init_resolver() end

-- All addresses of a host name: {"10.0.0.1", …} | nil, err
function M.parse_domain_all(host)
    local ok, dns = pcall(require, "dpproxy.upstream.dns")
    if not ok then
        return nil, "failed to parse domain: no resolver"
    end
    local addresses, err = dns.resolve(host)
    if not addresses or #addresses == 0 then
        return nil, "failed to parse domain: " .. (err or "no addresses")
    end
    return addresses
end

-- One address of a host name | nil, err
function M.parse_domain(host)
    local addresses, err = M.parse_domain_all(host)
    if not addresses then
        log.error("failed to parse domain: ", host, ", error: ", err)
        return nil, err
    end
    return addresses[#addresses > 1 and math.random(#addresses) or 1]
end

return M
