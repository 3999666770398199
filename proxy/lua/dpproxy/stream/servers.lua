-- An upstream of the configuration as an upstream block of nginx' stream module (see render.lua for its shape). No ngx in here.
local fields = require("dpproxy.stream.fields")
local nodes_of = require("dpproxy.upstream.nodes")

local ipairs, type, tonumber = ipairs, type, tonumber
local max, floor = math.max, math.floor
local match = string.match

local M = {}

local MAX_WEIGHT = 1000000
-- nginx' ring has 160 points for each.
local MAX_HASH_WEIGHT = 6000
local METHODS = {roundrobin = "roundrobin", chash = "hash", least_conn = "least_conn", ewma = "least_conn"}
local HASH_KEYS = {remote_addr = true, remote_port = true, server_addr = true}
local SCHEMES = {tcp = true, udp = true, tls = true, http = true}

local function gcd(a, b)
    while b ~= 0 do
        a, b = b, a % b
    end
    return a
end

-- Smaller weights with the same proportions, as near as whole numbers can be.
local function scale(servers, limit_each, limit_sum)
    local divisor, sum, most = 0, 0, 0
    for _, server in ipairs(servers) do
        divisor = gcd(server.weight, divisor)
        sum = sum + server.weight
        most = max(most, server.weight)
    end
    divisor = max(divisor, most / limit_each, sum / limit_sum)
    for _, server in ipairs(servers) do
        if server.weight > 0 then
            server.weight = max(1, floor(server.weight / divisor + 0.5))
        end
    end
end

-- Weight 0 gets nothing, unless all have it.
local function settle_weights(servers, method)
    scale(servers, MAX_WEIGHT, method == "hash" and MAX_HASH_WEIGHT or math.huge)
    local any = false
    for _, server in ipairs(servers) do
        any = any or server.weight > 0
    end
    for _, server in ipairs(servers) do
        if server.weight == 0 then
            server.weight = 1
            server.down = any or nil
        end
    end
end

-- nginx has two priorities, the upper one and the others; its hash has one.
local function settle_priorities(servers, method)
    local top
    for _, server in ipairs(servers) do
        top = top and max(top, server.priority) or server.priority
    end
    local list = {}
    for _, server in ipairs(servers) do
        if server.priority == top or method ~= "hash" then
            server.backup = server.priority ~= top or nil
            list[#list + 1] = server
        end
        server.priority = nil
    end
    return list
end

-- opts.resolve(domain) -> array of addresses | nil, err. Sorted: an answer in another order is no change.
local function addresses_of(node, opts)
    if not node.needs_domain then
        return {node.host}
    end
    opts.domains = true
    if not fields.host(node.host) then
        return nil, "no host name: " .. node.host
    end
    local list, err = opts.resolve(node.host)
    if not list then
        return nil, node.host .. ": " .. tostring(err)
    end
    local sorted = {}
    for i, address in ipairs(list) do
        sorted[i] = address
    end
    table.sort(sorted)
    return sorted
end

local function servers_of(nodes, opts)
    local servers, problem = {}, nil
    for _, node in ipairs(nodes) do
        local list, err = addresses_of(node, opts)
        if not list then
            problem = err
        elseif not fields.port(node.port) then
            problem = "a node without a port: " .. node.host
        end
        for _, address in ipairs(fields.port(node.port) and list or {}) do
            local good = fields.address(address)
            if good then
                servers[#servers + 1] = {
                    address = good, port = node.port, weight = floor(node.weight), priority = node.priority,
                }
            else
                problem = "no address: " .. address
            end
        end
    end
    return servers, problem
end

-- What a connection is hashed by; what a stream does not have is its client's address.
local function hash_key(up)
    local key = up.hash_on == "vars_combinations" and match(up.key or "", "^%$([%w_]+)$") or up.hash_on == "vars" and up.key
    return HASH_KEYS[key] and key or "remote_addr"
end

local function times_of(up)
    local timeout = up.timeout
    if type(timeout) ~= "table" then
        return nil, nil
    end
    local idle = max(tonumber(timeout.send) or 0, tonumber(timeout.read) or 0)
    return tonumber(timeout.connect) and fields.milliseconds(timeout.connect), idle > 0 and fields.milliseconds(idle) or nil
end

local function nodes_and_err(up, opts)
    if up.nodes then
        return nodes_of.normalize(up.nodes)
    end
    opts.domains = true
    local found, err = opts.discover(up)
    if not found then
        return nil, err
    end
    return nodes_of.normalize(found)
end

local function domain_of(nodes)
    for _, node in ipairs(nodes) do
        if node.needs_domain then
            return node.host
        end
    end
    return nil
end

-- up: a valid upstream -> block | nil, err; problem: what else is wrong, when a part of it can be used
function M.block(up, opts)
    local method = METHODS[up.type or "roundrobin"]
    if not method then
        return nil, "balancer " .. tostring(up.type) .. " is not there for streams"
    elseif not SCHEMES[up.scheme or "tcp"] then
        return nil, "scheme " .. up.scheme .. " is not there for streams"
    elseif up.tls and (up.tls.client_cert or up.tls.client_cert_id) then
        return nil, "a client certificate for the upstream is not there for streams"
    elseif up.tls and up.tls.verify then
        return nil, "tls.verify is not there for streams"
    end
    local nodes, err = nodes_and_err(up, opts)
    if not nodes then
        return nil, err
    end
    local servers, problem = servers_of(nodes, opts)
    servers = settle_priorities(servers, method)
    if #servers == 0 then
        return nil, problem or "no nodes"
    end
    settle_weights(servers, method)
    local connect_ms, idle_ms = times_of(up)
    local tls = up.scheme == "tls" or nil
    return {
        method = method, key = method == "hash" and hash_key(up) or nil, servers = servers,
        tries = up.retries and floor(math.min(up.retries, MAX_WEIGHT - 1)) + 1 or nil,
        tries_ms = up.retry_timeout and up.retry_timeout > 0 and fields.milliseconds(up.retry_timeout) or nil,
        connect_ms = connect_ms, idle_ms = idle_ms, tls = tls,
        name = tls and fields.host(up.pass_host == "rewrite" and up.upstream_host or domain_of(nodes)) or nil,
        name_of_client = tls and (up.pass_host or "pass") == "pass" or nil,
    }, problem
end

return M
