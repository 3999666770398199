-- The stream part of nginx' configuration: from a plan (stream/plan.lua) and the node's listeners. Runs in the launcher. A worker
-- wrote the plan, and workers are not to be trusted with what the master reads: every value is held to a pattern here again.
--
-- plan = {
--     routes = {{id =, target = index of an upstream | 0 (close), port =, remote =, server =, sni =}, …},   in order
--     upstreams = {{method = "roundrobin" | "least_conn" | "hash", key =,
--                   servers = {{address =, port =, weight =, down =, backup =}, …},
--                   tries =, tries_ms =, connect_ms =, idle_ms =, tls =, name =, name_of_client =}, …},
--     certificates = {{names = {…}, file = "…"}, …},
-- }
local fields = require("dpproxy.stream.fields")
local match = require("dpproxy.stream.match")
local nginx = require("dpproxy.cli.nginx")

local ipairs, type = ipairs, type

local M = {}

local NO_CERTIFICATE = "no-certificate-for-this-name"
local UDP_IDLE = "60s"
local HASH_KEYS = {remote_addr = true, remote_port = true, server_addr = true}

-- throws what is wrong with the plan
local function must(good, what)
    if not good then
        error({plan = what}, 0)
    end
    return good
end

local function list_in(plan, name)
    local list = must(type(plan) == "table" and plan[name], name .. " are missing")
    must(type(list) == "table", name .. " are no list")
    return list
end

local function optional_ms(value)
    must(value == nil or fields.is_whole(value, 1, 2000000000), "a time")
    return value
end

local function read_upstreams(plan)
    local list = {}
    for i, up in ipairs(list_in(plan, "upstreams")) do
        local servers = {}
        for k, server in ipairs(list_in(up, "servers")) do
            servers[k] = {
                address = must(fields.address(server.address), "an address") .. ":" .. must(fields.port(server.port), "a port"),
                weight = must(fields.is_whole(server.weight, 1, 1000000) and server.weight, "a weight"),
                down = server.down == true, backup = server.backup == true,
            }
        end
        must(#servers > 0, "an upstream without servers")
        must(up.method == "roundrobin" or up.method == "least_conn" or up.method == "hash" and HASH_KEYS[up.key], "a method")
        must(up.tries == nil or fields.is_whole(up.tries, 1, 1000000), "tries")
        must(up.name == nil or fields.host(up.name), "a name")
        list[i] = {
            block = "dpproxy_u" .. i, method = up.method, key = up.key, servers = servers, tries = up.tries,
            tries_ms = optional_ms(up.tries_ms), connect_ms = optional_ms(up.connect_ms), idle_ms = optional_ms(up.idle_ms),
            tls = up.tls == true, name = up.name, name_of_client = up.name_of_client == true,
        }
    end
    return list
end

local function read_routes(plan, upstreams)
    local list = {}
    for i, route in ipairs(list_in(plan, "routes")) do
        must(type(route) == "table" and type(route.id) == "string", "a route")
        must(route.target == 0 or upstreams[route.target], "a target")
        list[i] = {
            id = route.id, up = upstreams[route.target],
            port = route.port and must(fields.port(route.port), "a port"),
            sni = route.sni and must(fields.sni(route.sni), "a server name"),
            remote = route.remote and must(fields.network(route.remote), "a network"),
            server = route.server and must(fields.network(route.server), "a network"),
        }
    end
    return list
end

local function read_certificates(plan)
    local list = {}
    for i, each in ipairs(list_in(plan, "certificates")) do
        local names = {}
        for k, name in ipairs(list_in(each, "names")) do
            names[k] = must(fields.sni(name), "a server name")
        end
        must(type(each.file) == "string" and each.file:find("^%x+$") and #each.file == 40, "a file")
        list[i] = {names = names, file = each.file}
    end
    return list
end

local function write_upstream(w, up)
    w:open("upstream", up.block)
    if up.method == "least_conn" then
        w:set("least_conn")
    elseif up.method == "hash" then
        w:set("hash", "$" .. up.key, "consistent")
    end
    for _, server in ipairs(up.servers) do
        w:set("server", server.address, "weight=" .. server.weight, server.down and "down" or nil,
            server.backup and "backup" or nil)
    end
    w:close()
end

-- The name that a client asks for, lower-case or not: maps do not mind.
local function write_sni(w, fallback)
    w:open("map", "$ssl_server_name", "$dpproxy_sni")
    w:set_quoted("default", "$ssl_server_name")
    if fallback then
        w:set_quoted("", fallback)
    end
    w:close()
end

-- Exact names, wildcards of one label, then "*". Of several objects for a name the first counts.
local function write_certificates(w, certificates, folder)
    w:open("map", "$dpproxy_sni", "$dpproxy_certificate")
    local seen = {}
    local default = folder .. NO_CERTIFICATE
    for _, each in ipairs(certificates) do
        for _, name in ipairs(each.names) do
            local file = folder .. each.file
            if seen[name] then -- luacheck: ignore 542
            elseif name == "*" then
                default = file
            elseif name:sub(1, 1) == "*" then
                w:set_quoted("~*^[^.]+" .. name:sub(2):gsub("%.", "\\.") .. "$", file)
            else
                w:set_quoted("\\" .. name, file)
            end
            seen[name] = true
        end
    end
    w:set_quoted("default", default)
    w:close()
end

local function for_listener(routes, listener)
    local named, others, preread = {}, {}, false
    for _, route in ipairs(routes) do
        if not route.port or route.port == listener.port then
            local list = route.sni and named or others
            list[#list + 1] = route
            preread = preread or route.sni ~= nil and route.port ~= nil
        end
    end
    if listener.udp or not listener.tls and not preread then
        -- Without TLS here, names are only looked for on ports that a route names: it means to wait for the client's first bytes.
        named = {}
    end
    return named, others
end

local function largest(ups, field)
    local value
    for _, up in ipairs(ups) do
        if up[field] and (not value or up[field] > value) then
            value = up[field]
        end
    end
    return value
end

-- All of a listener's upstreams that a route there may choose; they share the settings of its server block.
local function settle(lists, problems)
    local ups, seen, tls = {}, {}, nil
    for _, routes in ipairs(lists) do
        for _, route in ipairs(routes) do
            local up = route.up
            route.target = up and up.block or ""
            if up and tls == nil then
                tls = up.tls
            end
            if up and up.tls ~= tls then
                route.target = ""
                problems[#problems + 1] = {
                    id = route.id, reason = "upstreams with and without TLS cannot share a port: its connections are closed",
                }
            elseif up and not seen[up] then
                seen[up] = true
                ups[#ups + 1] = up
            end
        end
    end
    return ups, tls
end

local function write_settings(w, ups, listener)
    local connect, idle = largest(ups, "connect_ms"), largest(ups, "idle_ms")
    if connect then
        w:set("proxy_connect_timeout", connect .. "ms")
    end
    if idle then
        w:set("proxy_timeout", idle .. "ms")
    elseif listener.udp then
        w:set("proxy_timeout", UDP_IDLE)
    end
    local tries, unlimited = largest(ups, "tries"), false
    for _, up in ipairs(ups) do
        unlimited = unlimited or up.tries == nil
    end
    if tries and not unlimited then
        w:set("proxy_next_upstream_tries", tries)
    end
    local tries_ms = largest(ups, "tries_ms")
    if tries_ms then
        w:set("proxy_next_upstream_timeout", tries_ms .. "ms")
    end
end

-- The name that servers with TLS are asked for: theirs, or the client's.
local function name_for(up, sni)
    return up.name_of_client and sni ~= "" and sni or up.name or ""
end

local function write_names(w, self, ups, target, sni)
    local result = "$dpproxy_n" .. self.names
    self.names = self.names + 1
    w:open("map", target, result)
    w:set_quoted("default", "")
    for _, up in ipairs(ups) do
        w:set_quoted(up.block, name_for(up, sni))
    end
    w:close()
    return result
end

local function write_listener(w, self, listener)
    local named, others = for_listener(self.routes, listener)
    local ups, tls = settle({named, others}, self.problems)
    local sni = listener.tls and "$dpproxy_sni" or #named > 0 and "$ssl_preread_server_name" or ""
    local target = self.match:by_sni(sni, named, self.match:first(others, ""))
    local name
    if tls then
        name = target:sub(1, 1) == "$" and write_names(w, self, ups, target, sni) or ups[1] and name_for(ups[1], sni)
    end
    w:open("server")
    w:set("listen", listener.where, listener.tls and "ssl" or nil, listener.udp and "udp" or nil,
        listener.reuseport and "reuseport" or nil)
    if listener.tls then
        w:set("ssl_certificate", "$dpproxy_certificate")
        w:set("ssl_certificate_key", "$dpproxy_certificate")
    elseif #named > 0 then
        w:set("ssl_preread", "on")
    end
    if target == "" then
        w:set_empty("return")
        w:close()
        return
    end
    write_settings(w, ups, listener)
    if tls then
        w:set("proxy_ssl", "on")
        w:set("proxy_ssl_protocols", "TLSv1", "TLSv1.1", "TLSv1.2", "TLSv1.3")
        w:set("proxy_ssl_session_reuse", "off")
        if name and name ~= "" then
            w:set("proxy_ssl_server_name", "on")
            w:set("proxy_ssl_name", name)
        end
    end
    w:set("proxy_pass", target)
    w:close()
end

-- node: {listeners = {{where =, port =, tls =, udp =, reuseport =}}, folder = of certificates, with "/", fallback_sni =}
-- -> text, problems ({id =, reason =}) | nil, err
function M.text(plan, node)
    local ok, text, problems = pcall(function()
        local w = nginx.new()
        local upstreams = read_upstreams(plan)
        local self = {routes = read_routes(plan, upstreams), match = match.new(w), problems = {}, names = 1}
        local certificates = read_certificates(plan)
        w:comment("Written by dpproxy when stream routes change: changes here are lost.")
        w:set("map_hash_bucket_size", 512)
        w:set("map_hash_max_size", 65536)
        w:set("variables_hash_max_size", 65536)
        write_sni(w, fields.sni(node.fallback_sni))
        write_certificates(w, certificates, node.folder)
        for _, up in ipairs(upstreams) do
            write_upstream(w, up)
        end
        for _, listener in ipairs(node.listeners) do
            write_listener(w, self, listener)
        end
        return w:text(), self.problems
    end)
    if ok then
        return text, problems
    elseif type(text) == "table" and text.plan then
        return nil, "the plan has not what is expected: " .. text.plan
    end
    return nil, tostring(text)
end

-- What nginx starts with when there is no plan yet.
function M.empty_plan()
    return {routes = {}, upstreams = {}, certificates = {}}
end

return M
