-- Domains -> addresses: /etc/hosts, then DNS (dns_lookup), with a cache in the worker and one shared by all workers. So workers
-- agree on a domain's one address, and one query serves all. When no server answers, the last known address is kept for up to an
-- hour; "no such domain" is believed at once. Sockets, clock, randomness and files are given (dpproxy.upstream.runtime).
local generations = require("dpproxy.upstream.generations")
local lookup = require("dpproxy.upstream.dns_lookup")
local nodes_of = require("dpproxy.upstream.nodes")
local wire = require("dpproxy.upstream.dns_wire")

local gsub, lower, sub, byte = string.gsub, string.lower, string.sub, string.byte
local floor, min, max, sort = math.floor, math.min, math.max, table.sort

local M = {}
local mt = {__index = M}

local CACHE_NAMES = 4096
local MAX_TTL = 86400
local FAILURE_TTL = 1
local STALE = 3600

-- opts: servers (texts; none: resolv.conf's), valid (seconds, instead of TTLs), timeout (seconds for a name), search, ipv6
-- (booleans, default true), clock(), random(n) -> 1..n, random16() -> 0..65535, udp(), tcp() -> cosockets, sleep(s), spawn(fn,
-- …), read_file(path) -> text | nil, dict (shared dictionary or nil), log(level, message)
function M.new(opts)
    local asker, err = lookup.new(opts)
    if not asker then
        return nil, err
    end
    return setmetatable({
        opts = opts, clock = opts.clock, lookup = asker, busy = {}, cache = generations.new(CACHE_NAMES),
        lists = generations.new(CACHE_NAMES),
    }, mt)
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
        local records, ttl_or_err, final = self.lookup:find(name, address_kinds(self))
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
    local known = self.lookup:host(short) or short == "localhost" and "127.0.0.1"
    if known then
        self.cache:set(name, {address = known, expires = now + lookup.FILES_AGE, known_at = now})
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
        records, ttl, final = self.lookup:find(name, {wire.SRV})
        nodes = records and nodes_of_srv(records, port)
    end
    if not with_srv or not records and final then
        records, ttl, final = self.lookup:find(name, address_kinds(self))
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
    local busy = "nodes " .. key
    if self.busy[busy] and entry and entry.nodes then
        return entry.nodes
    end
    self.busy[busy] = true
    local ok, nodes, ttl_or_err, final = pcall(ask_for_nodes, self, name, port, with_srv)
    self.busy[busy] = nil
    if not ok then
        nodes, ttl_or_err = nil, nodes
    end
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
    local known = self.lookup:host(lower(name))
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
