-- An upstream's `checks` with defaults filled in (spec 4.4), and the targets that they look at. No ngx in here.
local ipairs, max, pairs, tonumber, type = ipairs, math.max, pairs, tonumber, type

local M = {}

local ACTIVE = {
    type = "http", timeout = 1, concurrency = 10, http_method = "GET", http_path = "/", http_req_body = "",
    https_verify_certificate = true,
    healthy = {interval = 1, successes = 2, http_statuses = {200, 302}},
    unhealthy = {
        interval = 1, http_failures = 5, tcp_failures = 2, timeouts = 3,
        http_statuses = {429, 404, 500, 501, 502, 503, 504, 505},
    },
}
local PASSIVE = {
    type = "http",
    healthy = {
        successes = 5,
        http_statuses = {200, 201, 202, 203, 204, 205, 206, 207, 208, 226, 300, 301, 302, 303, 304, 305, 306, 307, 308},
    },
    unhealthy = {http_failures = 5, tcp_failures = 2, timeouts = 7, http_statuses = {429, 500, 503}},
}

local function filled(given, defaults)
    local result = {}
    given = type(given) == "table" and given or {}
    for name, value in pairs(given) do
        result[name] = value
    end
    for name, default in pairs(defaults) do
        if name == "http_statuses" then
            local set = {}
            for _, status in ipairs(type(given[name]) == "table" and given[name] or default) do
                set[status] = true
            end
            result[name] = set
        elseif type(default) == "table" then
            result[name] = filled(given[name], default)
        elseif type(given[name]) ~= type(default) then
            result[name] = default
        end
    end
    return result
end

-- checks -> {active, passive, has_passive} | nil when there is no active part, without which nobody would come back
function M.of(checks)
    if type(checks) ~= "table" or type(checks.active) ~= "table" then
        return nil
    end
    local active = filled(checks.active, ACTIVE)
    active.concurrency = max(1, active.concurrency)
    active.healthy.interval, active.unhealthy.interval = max(0.1, active.healthy.interval), max(0.1, active.unhealthy.interval)
    return {
        active = active,
        -- Without a passive part retries still report, against the defaults (as in APISIX); the log phase does not.
        passive = filled(checks.passive, PASSIVE),
        has_passive = type(checks.passive) == "table",
    }
end

-- A resolved upstream -> array of {ip, port, hostname, header, host, node_port, id}. ip:port is what is probed, host:node_port
-- the node, header the probe's Host and SNI.
function M.targets(up)
    local active = up.checks.active
    local targets, seen = {}, {}
    for _, node in ipairs(up.nodes) do
        local port = tonumber(active.port) or node.port
        local hostname = active.host or node.host
        local header = up.pass_host == "rewrite" and up.upstream_host or node.domain or hostname
        local id = node.host .. "|" .. port .. "|" .. hostname .. "|" .. header
        local target = {ip = node.host, port = port, hostname = hostname, header = header, id = id}
        if not seen[id] then
            seen[id] = true
            targets[#targets + 1] = target
        end
    end
    return targets
end

return M
