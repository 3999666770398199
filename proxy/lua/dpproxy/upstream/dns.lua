-- Domains -> addresses: /etc/hosts, then DNS servers over UDP (TCP when an answer is too long for it), with search domains,
-- several servers, a cache in the worker and one shared by all workers. So workers agree on a domain's one address, and one query
-- serves all. Ids and source ports are random, answers are checked (dns_wire). When no server answers, the last known address is
-- kept for up to an hour; "no such domain" is believed at once. Sockets, clock, randomness and files are given
-- (dpproxy.upstream.runtime).
local files = require("dpproxy.upstream.dns_files")
local generations = require("dpproxy.upstream.generations")
local nodes_of = require("dpproxy.upstream.nodes")
local wire = require("dpproxy.upstream.dns_wire")

local gsub, lower, sub, byte, char = string.gsub, string.lower, string.sub, string.byte, string.char
local floor, min, max, sort = math.floor, math.min, math.max, table.sort

local M = {}
local mt = {__index = M}

local FILES_AGE = 10 -- seconds after which resolv.conf and hosts are read again
local CACHE_NAMES = 4096
local MAX_TTL = 86400
local NEGATIVE_TTL = 5
local FAILURE_TTL = 1
local STALE = 3600
local MAX_STRAYS = 32 -- packets that are not our answer, before a server is given up
local MAX_HOPS = 8
local NO_DOMAIN = "no such domain"

-- opts: servers (texts; none: resolv.conf's), valid (seconds, instead of TTLs), timeout (seconds for a name), search, ipv6
-- (booleans, default true), clock(), random(n) -> 1..n, random16() -> 0..65535, udp(), tcp() -> cosockets, sleep(s), spawn(fn,
-- …), read_file(path) -> text | nil, dict (shared dictionary or nil), log(level, message)
function M.new(opts)
    local self = setmetatable({opts = opts, clock = opts.clock, busy = {}}, mt)
    self.cache, self.lists = generations.new(CACHE_NAMES), generations.new(CACHE_NAMES)
    if opts.servers and opts.servers[1] then
        self.servers = {}
        for _, text in ipairs(opts.servers) do
            local server = files.server(text)
            if not server then
                return nil, "not an address of a DNS server: " .. text
            end
            self.servers[#self.servers + 1] = server
        end
    end
    return self
end

local function files_of(self, now)
    if not self.read_at or now - self.read_at >= FILES_AGE or now < self.read_at then
        self.read_at = now
        self.resolv = files.resolv_conf(self.opts.read_file("/etc/resolv.conf"))
        self.hosts = files.hosts(self.opts.read_file("/etc/hosts"))
    end
    return self.resolv, self.hosts
end

local function over_udp(self, server, packet, id, name, kind, deadline)
    local sock = self.opts.udp()
    local ok, err = sock:setpeername(server.host, server.port)
    if ok then
        ok, err = sock:send(packet)
    end
    if not ok then
        sock:close()
        return nil, err
    end
    -- A packet that is not the answer may be a forger's: the true one may still come.
    for _ = 1, MAX_STRAYS do
        local left = deadline - self.clock()
        if left <= 0 then
            err = "timeout"
            break
        end
        sock:settimeout(max(1, floor(left * 1000)))
        local data
        data, err = sock:receive(4096)
        if not data then
            break
        end
        local response
        response, err = wire.response(data, id, name, kind)
        if response then
            sock:close()
            return response
        end
    end
    sock:close()
    return nil, err
end

local function over_tcp(self, server, packet, id, name, kind, deadline)
    local sock = self.opts.tcp()
    sock:settimeout(max(1, floor((deadline - self.clock()) * 1000)))
    local ok, err = sock:connect(server.host, server.port)
    local data
    if ok then
        ok, err = sock:send(char(floor(#packet / 256), #packet % 256) .. packet)
    end
    if ok then
        data, err = sock:receive(2)
    end
    if data then
        local high, low = byte(data, 1, 2)
        data, err = sock:receive(high * 256 + low)
    end
    sock:close()
    if not data then
        return nil, err
    end
    return wire.response(data, id, name, kind)
end

-- One question to the servers in turn, beginning with the one that answered last. -> response | nil, err
local function ask(self, name, kind, deadline)
    local resolv = files_of(self, self.clock())
    local servers = self.servers or resolv.servers
    if #servers == 0 then
        return nil, "no DNS servers"
    end
    local each = max(0.1, min(resolv.timeout or 2, self.opts.timeout / 2))
    local first = self.good and self.good <= #servers and self.good or 1
    local reason = "timeout"
    for _ = 1, min(max(resolv.attempts or 2, 1), 5) do
        for i = 0, #servers - 1 do
            local at = (first - 1 + i) % #servers + 1
            local now = self.clock()
            if now >= deadline then
                return nil, reason
            end
            local id = self.opts.random16()
            local packet, bad = wire.query(id, name, kind)
            if not packet then
                return {rcode = 3, answers = {}}, bad
            end
            local until_ = min(deadline, now + each)
            local response, err = over_udp(self, servers[at], packet, id, name, kind, until_)
            if response and response.truncated then
                response, err = over_tcp(self, servers[at], packet, id, name, kind, until_)
            end
            -- 0: yes, 3: no such domain. All else is the server's trouble.
            if response and (response.rcode == 0 or response.rcode == 3) then
                self.good = at
                return response
            end
            reason = response and "the server answers with code " .. response.rcode or err
        end
    end
    return nil, reason
end

-- Follows aliases from name within the answers. -> records of the kind, the last name, smallest TTL
local function gather(answers, name, kind)
    local ttl, records = MAX_TTL, {}
    for _ = 1, MAX_HOPS do
        local alias
        for i = 1, #answers do
            local record = answers[i]
            if record.name == name then
                if record.kind == kind then
                    records[#records + 1] = record
                    ttl = min(ttl, record.ttl)
                elseif record.kind == wire.CNAME then
                    alias = record
                end
            end
        end
        if #records > 0 or not alias then
            break
        end
        name, ttl = alias.target, min(ttl, alias.ttl)
    end
    return records, name, ttl
end

-- -> records, ttl | nil, err, final: final is nil for a server's trouble, else the seconds for which there is nothing
local function records_of(self, name, kind, deadline)
    local least = MAX_TTL
    name = lower(name)
    for _ = 1, MAX_HOPS do
        local response, err = ask(self, name, kind, deadline)
        if not response then
            return nil, err
        end
        local records, last, ttl = gather(response.answers, name, kind)
        least = min(least, ttl)
        if #records > 0 then
            return records, least
        end
        local negative = min(response.negative_ttl or NEGATIVE_TTL, NEGATIVE_TTL)
        if response.rcode == 3 then
            return nil, NO_DOMAIN, negative
        elseif last == name then
            return nil, "no address", negative
        end
        name = last -- an alias whose target the server left to us
    end
    return nil, "too many aliases", NEGATIVE_TTL
end

-- The names to ask for, in order: resolv.conf's search domains come first for short names.
local function candidates(self, name)
    if sub(name, -1) == "." then
        return {sub(name, 1, -2)}
    end
    local resolv = files_of(self, self.clock())
    local list = {}
    local _, dots = gsub(name, "%.", "")
    if dots >= resolv.ndots or self.opts.search == false then
        list[1] = name
    end
    if self.opts.search ~= false then
        for _, domain in ipairs(resolv.search) do
            list[#list + 1] = name .. "." .. domain
        end
    end
    if dots < resolv.ndots and self.opts.search ~= false then
        list[#list + 1] = name
    end
    return list
end

local function lookup(self, name, kinds)
    local deadline = self.clock() + self.opts.timeout
    local reason, final = NO_DOMAIN, NEGATIVE_TTL
    for _, candidate in ipairs(candidates(self, name)) do
        for i, kind in ipairs(kinds) do
            local records, ttl_or_err, nothing = records_of(self, candidate, kind, deadline)
            if records then
                return records, ttl_or_err
            elseif not nothing then
                return nil, ttl_or_err
            end
            if i == 1 then
                reason, final = ttl_or_err, nothing
            end
            if ttl_or_err == NO_DOMAIN then
                break -- no name, so no other kind of record either
            end
        end
    end
    return nil, reason, final
end

local function address_kinds(self)
    return self.opts.ipv6 == false and {wire.A} or {wire.A, wire.AAAA}
end

local function lifetime(self, ttl)
    return self.opts.valid or max(1, min(ttl, MAX_TTL))
end

-- The cache that workers share: text is an address, or "!" and a reason; flags are the second it ends.
local function shared_get(self, name, now)
    local dict = self.opts.dict
    local text, ends = nil, nil
    if dict then
        text, ends = dict:get("dns:" .. name)
    end
    if not text or not ends or ends <= now then
        return nil
    end
    if byte(text, 1) == 33 then
        return {reason = sub(text, 2), expires = ends}
    end
    return {address = text, expires = ends}
end

local function shared_set(self, name, entry)
    if self.opts.dict then
        local ends = floor(entry.expires)
        self.opts.dict:set("dns:" .. name, entry.address or "!" .. entry.reason, max(1, ends - floor(self.clock())), ends)
    end
end

-- Asks, and makes the cache's next entry of the answer. `old` is the entry before, whose address survives servers' trouble.
local function refresh(self, name, old)
    local now = self.clock()
    local entry = shared_get(self, name, now)
    if not entry then
        local records, ttl_or_err, final = lookup(self, name, address_kinds(self))
        now = self.clock()
        if records then
            local address = records[self.opts.random(#records)].address
            entry = {address = address, expires = now + lifetime(self, ttl_or_err)}
            shared_set(self, name, entry)
        elseif final then
            entry = {reason = ttl_or_err, expires = now + max(1, final)}
            shared_set(self, name, entry)
        elseif old and old.address and now - old.known_at < STALE then
            entry = {address = old.address, expires = now + FAILURE_TTL, known_at = old.known_at, failing = true}
            if not old.failing then
                self.opts.log("warn", "DNS: " .. name .. ": " .. ttl_or_err .. ", its last address is kept")
            end
        else
            entry = {reason = ttl_or_err, expires = now + FAILURE_TTL}
        end
    end
    entry.known_at = entry.known_at or now
    self.cache:set(name, entry)
    return entry
end

local function guarded_refresh(self, name, old)
    self.busy[name] = true
    local ok, entry = pcall(refresh, self, name, old)
    self.busy[name] = nil
    if not ok then
        return nil, entry
    end
    return entry
end

-- A domain's address -> text | nil, err. From the cache at once; else it yields, and one request asks for all that wait.
function M:address(name)
    local now = self.clock()
    local entry = self.cache:get(name)
    if entry and now < entry.expires then
        return entry.address, entry.reason
    end
    if nodes_of.is_ip(name) then
        return name
    end
    local short = lower((gsub(name, "%.$", "")))
    local _, hosts = files_of(self, now)
    local known = hosts[short] or short == "localhost" and "127.0.0.1"
    if known then
        self.cache:set(name, {address = known, expires = now + FILES_AGE, known_at = now})
        return known
    end
    if self.busy[name] then
        if entry and entry.address then
            return entry.address
        end
        local deadline = now + self.opts.timeout
        repeat
            self.opts.sleep(0.005)
        until not self.busy[name] or self.clock() >= deadline
        entry = self.cache:get(name)
        if not entry then
            return nil, "timeout"
        end
        return entry.address, entry.reason
    end
    if entry and entry.failing then
        -- The servers were away a moment ago: nobody has to wait for them again.
        if self.opts.spawn(guarded_refresh, self, name, entry) then
            return entry.address
        end
    end
    local fresh, err = guarded_refresh(self, name, entry)
    if not fresh then
        return nil, err
    end
    return fresh.address, fresh.reason
end

local function by_place(a, b)
    if a.priority ~= b.priority then
        return a.priority > b.priority
    end
    return a.host < b.host or a.host == b.host and a.port < b.port
end

local function same_nodes(a, b)
    if not a or #a ~= #b then
        return false
    end
    for i = 1, #a do
        local x, y = a[i], b[i]
        if x.host ~= y.host or x.port ~= y.port or x.weight ~= y.weight or x.priority ~= y.priority then
            return false
        end
    end
    return true
end

-- SRV records -> nodes. In SRV the lowest priority comes first, with us the highest; the root as target means "not here".
local function nodes_of_srv(records, port)
    local nodes = {}
    for _, record in ipairs(records) do
        if record.target ~= "" then
            local weight, priority = max(record.weight, 1), -record.priority
            nodes[#nodes + 1] = {host = record.target, port = port or record.port, weight = weight, priority = priority}
        end
    end
    return nodes
end

local function nodes_of_addresses(records, port)
    local nodes = {}
    for i, record in ipairs(records) do
        nodes[i] = {host = record.address, port = port, weight = 1, priority = 0}
    end
    return nodes
end

local function ask_for_nodes(self, name, port, with_srv)
    local nodes, ttl, final, records
    if with_srv then
        records, ttl, final = lookup(self, name, {wire.SRV})
        nodes = records and nodes_of_srv(records, port)
    end
    if not with_srv or not records and final then
        records, ttl, final = lookup(self, name, address_kinds(self))
        nodes = records and nodes_of_addresses(records, port)
    end
    return nodes, ttl, final
end

-- Several nodes of a name; the table stays the same while they do.
local function nodes_for(self, key, name, port, with_srv)
    local entry = self.lists:get(key)
    if entry and self.clock() < entry.expires then
        return entry.nodes, entry.reason
    end
    local nodes, ttl_or_err, final = ask_for_nodes(self, name, port, with_srv)
    local now = self.clock()
    if nodes then
        sort(nodes, by_place)
        if entry and same_nodes(entry.nodes, nodes) then
            nodes = entry.nodes
        end
        entry = {nodes = nodes, expires = now + lifetime(self, ttl_or_err), known_at = now}
    elseif not final and entry and entry.nodes and now - entry.known_at < STALE then
        entry = {nodes = entry.nodes, expires = now + FAILURE_TTL, known_at = entry.known_at}
    else
        entry = {reason = ttl_or_err, expires = now + max(FAILURE_TTL, final or 0)}
    end
    self.lists:set(key, entry)
    return entry.nodes, entry.reason
end

-- A service of DNS discovery, "name" or "name:port" -> nodes: SRV records, or all addresses.
function M:service(service_name)
    local name, port = nodes_of.parse_addr(service_name)
    return nodes_for(self, service_name, name, port, true)
end

-- All of a domain's addresses, for plugins. -> array | nil, err
function M:all(name)
    if nodes_of.is_ip(name) then
        return {name}
    end
    local _, hosts = files_of(self, self.clock())
    local known = hosts[lower(name)]
    if known then
        return {known}
    end
    local nodes, err = nodes_for(self, "all " .. name, name, nil, false)
    if not nodes then
        return nil, err
    end
    local list = {}
    for i, node in ipairs(nodes) do
        list[i] = node.host
    end
    return list
end

-- The same by the gateway's own client (M.default, set by dpproxy.upstream.runtime).
function M.resolve(name)
    if not M.default then
        return nil, "no resolver"
    end
    return M.default:all(name)
end

return M
