-- An upstream's nodes in one shape: an array of {host, port, weight, priority, metadata, domain, id, upstream_host}, from the map
-- form ("host:port" -> weight) or the array form. IPv6 addresses are bracketed, missing ports are the scheme's. No ngx in here.
local find, match, sub, byte = string.find, string.match, string.sub, string.byte
local tonumber, type, pairs, ipairs, sort = tonumber, type, pairs, ipairs, table.sort

local M = {}

local SCHEME_PORT = {http = 80, https = 443, grpc = 80, grpcs = 443}
M.scheme_port = SCHEME_PORT

function M.is_ipv4(text)
    local a, b, c, d = match(text, "^(%d%d?%d?)%.(%d%d?%d?)%.(%d%d?%d?)%.(%d%d?%d?)$")
    return a ~= nil and tonumber(a) < 256 and tonumber(b) < 256 and tonumber(c) < 256 and tonumber(d) < 256
end

-- With or without brackets. A colon cannot be in a domain's name, so this need not be a full check: nginx says no to nonsense.
function M.is_ipv6(text)
    return find(text, "^%[?[%x:.]*:[%x:.]*:[%x:.]*%]?$") ~= nil
end

function M.is_ip(text)
    return M.is_ipv4(text) or M.is_ipv6(text)
end

-- "a:80" -> "a", 80 | "a" -> "a" | "[::1]:80" -> "[::1]", 80 | "::1" -> "[::1]" (never split: it is one address)
function M.parse_addr(addr)
    if byte(addr, 1) == 91 then -- [
        local host, port = match(addr, "^(%[.-%]):(%d+)$")
        if host then
            return host, tonumber(port)
        end
        return addr
    end
    local first = find(addr, ":", 1, true)
    if not first then
        return addr
    end
    if find(addr, ":", first + 1, true) then
        return "[" .. addr .. "]"
    end
    local port = tonumber(sub(addr, first + 1))
    if not port then
        return addr
    end
    return sub(addr, 1, first - 1), port
end

local function bracket(host)
    if byte(host, 1) ~= 91 and M.is_ipv6(host) then
        return "[" .. host .. "]"
    end
    return host
end

-- The Host a node is asked for with pass_host "node": the port is left out where it is the scheme's own.
function M.host_with_port(node, scheme)
    local host = node.domain or node.host
    if node.port and SCHEME_PORT[scheme] ~= node.port then
        return host .. ":" .. node.port
    end
    return host
end

-- A node as pickers want it. `address` is what its domain resolved to.
function M.make(source, host, port, scheme, address)
    local node = {
        host = address and bracket(address) or host,
        port = port or SCHEME_PORT[scheme],
        weight = tonumber(source.weight) or 1,
        priority = tonumber(source.priority) or 0,
        metadata = source.metadata,
        domain = address and host or source.domain,
    }
    node.id = node.port and node.host .. ":" .. node.port or node.host
    node.upstream_host = M.host_with_port(node, scheme)
    return node
end

local function by_id(a, b)
    return a.id < b.id
end

-- nodes (map or array), scheme -> array of nodes, in the configuration's order; a map is sorted, so that all workers agree. Of
-- two equal nodes the last counts, as in a map. `needs_domain` is true when one of them is not an address.
function M.normalize(nodes, scheme)
    local list, seen, needs_domain = {}, {}, false
    local function add(source, host, port)
        host = bracket(host)
        local node = M.make(source, host, port, scheme)
        if not M.is_ip(host) then
            needs_domain = true
            node.needs_domain = true
        end
        local at = seen[node.id] or #list + 1
        seen[node.id] = at
        list[at] = node
    end
    if type(nodes) ~= "table" then
        return list, false
    end
    if nodes[1] then
        for _, source in ipairs(nodes) do
            add(source, source.host, tonumber(source.port))
        end
    else
        for addr, weight in pairs(nodes) do
            if type(addr) == "string" then
                local host, port = M.parse_addr(addr)
                add({weight = weight}, host, port)
            end
        end
        sort(list, by_id)
    end
    return list, needs_domain
end

return M
