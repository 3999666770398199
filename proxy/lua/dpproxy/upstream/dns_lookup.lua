-- Asks DNS servers: over UDP, and TCP when an answer is too long for it; several servers in turn; aliases; search domains. Ids
-- and source ports are random, answers are checked (dns_wire). No cache: that is dns.lua. No ngx in here.
local files = require("dpproxy.upstream.dns_files")
local wire = require("dpproxy.upstream.dns_wire")

local gsub, lower, sub, byte, char = string.gsub, string.lower, string.sub, string.byte, string.char
local floor, min, max = math.floor, math.min, math.max

local M = {}
local mt = {__index = M}

local FILES_AGE = 10 -- seconds after which resolv.conf and hosts are read again
local MAX_TTL = 86400
local NEGATIVE_TTL = 5
local MAX_STRAYS = 32 -- packets that are not our answer, before a server is given up
local MAX_HOPS = 8
local NO_DOMAIN = "no such domain"

M.FILES_AGE = FILES_AGE

-- opts: see dns.new
function M.new(opts)
    local self = setmetatable({opts = opts, clock = opts.clock}, mt)
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

-- resolv.conf and hosts, as they are now or were a moment ago.
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

-- The first kind of record that the name has. -> records, ttl | nil, err, final (as records_of)
function M:find(name, kinds)
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

-- What /etc/hosts says of a name -> address | nil
function M:host(name)
    local _, hosts = files_of(self, self.clock())
    return hosts[name]
end

return M
