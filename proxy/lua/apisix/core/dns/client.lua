-- core.dns_client: resolve(domain) -> {address =, name =} as APISIX' client answers, or all of them.
local M = {
    RETURN_RANDOM = 1,
    RETURN_ALL = 2,
}

local mt = {__index = M}

function M.new()
    return setmetatable({}, mt)
end

function M.resolve(_, domain, selector)
    local resolver = require("apisix.core.resolver")
    local addresses, err = resolver.parse_domain_all(domain)
    if not addresses then
        return nil, err
    end
    local answers = {}
    for i, address in ipairs(addresses) do
        answers[i] = {address = address, name = domain}
    end
    if selector == M.RETURN_ALL then
        return answers
    end
    return answers[math.random(#answers)]
end

return M
