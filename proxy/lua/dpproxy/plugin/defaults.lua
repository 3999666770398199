-- The plugins that are loaded when the configuration file has no `plugins`, by priority, as APISIX orders them. A plugin's own
-- module says its priority; the table here is what documentation and tests compare that with.
local M = {}

M.http = {
    {"real-ip", 23000},
    {"request-id", 12015},
    {"fault-injection", 11000},
    {"serverless-pre-function", 10000},
    {"cors", 4000},
    {"ip-restriction", 3000},
    {"ua-restriction", 2999},
    {"referer-restriction", 2990},
    {"uri-blocker", 2900},
    {"hmac-auth", 2530},
    {"basic-auth", 2520},
    {"jwt-auth", 2510},
    {"key-auth", 2500},
    {"consumer-restriction", 2400},
    {"forward-auth", 2002},
    {"proxy-cache", 1085},
    {"proxy-mirror", 1010},
    {"proxy-rewrite", 1008},
    {"workflow", 1006},
    {"api-breaker", 1005},
    {"limit-conn", 1003},
    {"limit-count", 1002},
    {"limit-req", 1001},
    {"gzip", 995},
    {"traffic-split", 966},
    {"redirect", 900},
    {"response-rewrite", 899},
    {"public-api", 501},
    {"prometheus", 500},
    {"http-logger", 410},
    {"serverless-post-function", -2000},
}

-- -> array of names, highest priority first
function M.names()
    local names = {}
    for i, entry in ipairs(M.http) do
        names[i] = entry[1]
    end
    return names
end

return M
