-- /etc/resolv.conf and /etc/hosts, from their texts. No ngx in here.
local nodes_of = require("dpproxy.upstream.nodes")

local gmatch, match, lower, gsub = string.gmatch, string.match, string.lower, string.gsub

local M = {}

local MAX_SERVERS = 8
local MAX_SEARCH = 8

-- "10.0.0.53", "10.0.0.53:1053", "::1", "[::1]:53" -> {host =, port =} | nil. Servers have addresses, not names.
function M.server(text)
    local host, port = nodes_of.parse_addr(text)
    if not nodes_of.is_ip(host) then
        return nil
    end
    return {host = host, port = port or 53}
end

-- text -> {servers = {…}, search = {…}, ndots =, timeout =, attempts =}
function M.resolv_conf(text)
    local conf = {servers = {}, search = {}, ndots = 1}
    for line in gmatch(text or "", "[^\r\n]+") do
        line = gsub(line, "[#;].*$", "")
        local word, rest = match(line, "^%s*(%a+)%s+(.-)%s*$")
        if word == "nameserver" then
            local server = M.server((gsub(rest, "%%.*$", "")))
            if server and #conf.servers < MAX_SERVERS then
                conf.servers[#conf.servers + 1] = server
            end
        elseif word == "search" or word == "domain" then
            conf.search = {}
            for domain in gmatch(rest, "%S+") do
                if #conf.search < MAX_SEARCH and domain ~= "." then
                    conf.search[#conf.search + 1] = lower((gsub(domain, "%.$", "")))
                end
            end
        elseif word == "options" then
            for name, value in gmatch(rest, "(%a+):(%d+)") do
                if name == "ndots" or name == "timeout" or name == "attempts" then
                    conf[name] = tonumber(value)
                end
            end
        end
    end
    return conf
end

-- text -> {name = address}; of a name's addresses the first IPv4 one counts, else the first
function M.hosts(text)
    local hosts = {}
    for line in gmatch(text or "", "[^\r\n]+") do
        line = gsub(line, "#.*$", "")
        local address, names = match(line, "^%s*(%S+)%s+(.+)$")
        if address and nodes_of.is_ip(address) then
            for name in gmatch(names, "%S+") do
                name = lower(name)
                local known = hosts[name]
                if not known or nodes_of.is_ipv6(known) and not nodes_of.is_ipv6(address) then
                    hosts[name] = address
                end
            end
        end
    end
    return hosts
end

return M
