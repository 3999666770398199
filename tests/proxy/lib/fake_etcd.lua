-- An etcd in memory for tests of what a real one cannot be made to do on demand: history that is compacted, set back, or
-- exchanged for another cluster's while a client looks; streams that end, split anywhere, or fall silent; errors in the shapes
-- of both gateways. Sockets are those of a transport for dpproxy.etcd.client. Waiting is `wait(seconds)`, given by the test.
local cjson = require("cjson.safe")
local base64 = require("dpproxy.etcd.base64")

local M = {}

local etcd_mt = {}
etcd_mt.__index = etcd_mt

-- opts: {random = fn(n) -> 1..n, clock = fn, wait = fn(seconds)}
function M.new(opts)
    return setmetatable({
        random = opts.random, clock = opts.clock, wait = opts.wait, revision = 1, compacted = 0,
        cluster = 14841639068965178418 % 1e15,
        keys = {}, history = {}, states = {}, up = true, silent = false, requests = {}, streams = {}, gateway = 1,
    }, etcd_mt)
end

-- changes: array of {key, text | nil}: one transaction
function etcd_mt:txn(changes)
    self.revision = self.revision + 1
    local events = {}
    for _, change in ipairs(changes) do
        local key, text = change[1], change[2]
        local old = self.keys[key]
        if text then
            self.keys[key] = {
                key = key, text = text, create = old and old.create or self.revision, mod = self.revision,
                version = old and old.version + 1 or 1,
            }
            events[#events + 1] = {kv = self.keys[key]}
        elseif old then
            self.keys[key] = nil
            events[#events + 1] = {type = "DELETE", kv = {key = key, mod = self.revision}}
        end
    end
    if #events == 0 then
        self.revision = self.revision - 1
        return
    end
    self.history[self.revision] = events
    self:remember()
end

-- The state at each revision, for those who read the past.
function etcd_mt:remember()
    local copy = {}
    for key, kv in pairs(self.keys) do
        copy[key] = kv
    end
    self.states[self.revision] = copy
end

function etcd_mt:put(key, text)
    self:txn({{key, text}})
end

function etcd_mt:delete(key)
    self:txn({{key}})
end

-- As releases with etcd-io/etcd#18089 do it: a watch may begin at the compacted revision, and is not told what was deleted in it.
-- Streams that are in step were sent everything before.
function etcd_mt:compact(revision)
    for stream in pairs(self.streams) do
        self.pump(stream)
    end
    self.compacted = math.max(self.compacted, math.min(revision, self.revision))
    for at, events in pairs(self.history) do
        if at < self.compacted then
            self.history[at] = nil
        elseif at == self.compacted then
            self.history[at] = {}
            for _, event in ipairs(events) do
                if event.type ~= "DELETE" then
                    table.insert(self.history[at], event)
                end
            end
        end
    end
end

-- A copy of the state, to come back to.
function etcd_mt:save()
    local saved = {revision = self.revision, compacted = self.compacted, keys = {}, history = {}, states = {}}
    for at, state in pairs(self.states or {}) do
        saved.states[at] = state
    end
    for key, kv in pairs(self.keys) do
        saved.keys[key] = kv
    end
    for at, events in pairs(self.history) do
        saved.history[at] = events
    end
    return saved
end

function etcd_mt:restore(saved, cluster)
    local copy = etcd_mt.save(saved)
    self.revision, self.compacted, self.keys, self.history = copy.revision, copy.compacted, copy.keys, copy.history
    self.cluster = cluster or self.cluster
    self.states = copy.states
    self:remember()
    self:cut()
end

-- All streams end.
function etcd_mt:cut()
    for stream in pairs(self.streams) do
        stream.dead = true
    end
    self.streams = {}
end

local function number(self, value)
    return self.random(2) == 1 and ("%d"):format(value) or value
end

local function header(self, revision)
    return {cluster_id = ("%d"):format(self.cluster), member_id = "1", revision = number(self, revision or self.revision),
        raft_term = "2"}
end

local function encode_kv(self, kv)
    return {
        key = base64.encode(kv.key), value = kv.text and kv.text ~= "" and base64.encode(kv.text) or nil,
        create_revision = kv.create and number(self, kv.create), mod_revision = number(self, kv.mod), version = kv.version,
    }
end

local function error_body(self, code, message)
    if self.gateway == 1 then
        return {error = message, message = message, code = code}
    end
    return {code = code, message = message, details = cjson.decode("[]")}
end

local function range(self, body)
    local first, last = base64.decode(body.key), body.range_end and base64.decode(body.range_end)
    local revision = tonumber(body.revision) or 0
    if revision > 0 and revision < self.compacted then
        return 400, error_body(self, 11, "etcdserver: mvcc: required revision has been compacted")
    elseif revision > self.revision then
        return 400, error_body(self, 11, "etcdserver: mvcc: required revision is a future revision")
    end
    local found = {}
    for key, kv in pairs(self.keys) do
        if (last and key >= first and key < last) or key == first then
            found[#found + 1] = kv
        end
    end
    if revision > 0 and revision < self.revision then
        found = {}
        local state = self.states[revision] or {}
        for key, kv in pairs(state) do
            if (last and key >= first and key < last) or key == first then
                found[#found + 1] = kv
            end
        end
    end
    table.sort(found, function(a, b) return a.key < b.key end)
    local answer = {header = header(self)}
    if body.count_only then
        answer.count = #found > 0 and number(self, #found) or nil
        return 200, answer
    end
    local limit = tonumber(body.limit) or 0
    local least = tonumber(body.min_mod_revision) or 0
    for _, kv in ipairs(found) do
        if kv.mod >= least then
            if limit > 0 and answer.kvs and #answer.kvs == limit then
                answer.more = true
                break
            end
            answer.kvs = answer.kvs or {}
            table.insert(answer.kvs, encode_kv(self, kv))
        end
    end
    if self.most_bytes and #cjson.encode(answer) > self.most_bytes then
        return 429, error_body(self, 8, "grpc: received message larger than max (9 vs. 4)")
    end
    return 200, answer
end

local function chunked(self, text)
    local parts = {}
    local at = 1
    while at <= #text do
        local size = self.random(2) == 1 and #text or self.random(40)
        local piece = text:sub(at, at + size - 1)
        parts[#parts + 1] = ("%x\r\n"):format(#piece) .. piece .. "\r\n"
        at = at + size
    end
    return table.concat(parts)
end

local sock_mt = {}
sock_mt.__index = sock_mt

function sock_mt:settimeouts(_, _, read)
    self.timeout = read / 1000
end

function sock_mt:close()
    self.dead = true
    self.etcd.streams[self] = nil
end

function sock_mt:setkeepalive()
    self.kept = true
    return true
end

local function respond(self, status, body)
    local text = cjson.encode(body)
    if self.etcd.random(2) == 1 then
        self.out = self.out ..
            ("HTTP/1.1 %d X\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"):format(status, #text) .. text
    else
        self.out = self.out .. ("HTTP/1.1 %d X\r\ntransfer-encoding: Chunked\r\n\r\n"):format(status) ..
            chunked(self.etcd, text) .. "0\r\n\r\n"
    end
end

local function watch_line(self, message)
    self.out = self.out .. chunked(self.etcd, cjson.encode({result = message}) .. "\n")
end

local function start_watch(self, request)
    local etcd = self.etcd
    self.out = self.out .. "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    self.next = tonumber(request.start_revision) or etcd.revision + 1
    self.first, self.last = base64.decode(request.key), base64.decode(request.range_end)
    self.notify = request.progress_notify
    if self.next < etcd.compacted then
        watch_line(self, {header = header(etcd), created = true})
        watch_line(self, {header = header(etcd), canceled = true, compact_revision = number(etcd, etcd.compacted)})
        return
    end
    watch_line(self, {header = header(etcd), created = true})
    etcd.streams[self] = true
end

-- What the stream has to tell.
local function pump(self)
    local etcd = self.etcd
    if not etcd.streams[self] then
        return
    end
    while self.next <= etcd.revision do
        local told = {}
        local until_ = math.min(etcd.revision, self.next + etcd.random(3) - 1)
        for revision = self.next, until_ do
            for _, event in ipairs(etcd.history[revision] or {}) do
                if event.kv.key >= self.first and event.kv.key < self.last then
                    told[#told + 1] = {type = event.type, kv = encode_kv(etcd, event.kv)}
                end
            end
        end
        self.next = until_ + 1
        if #told > 0 then
            -- A watch that catches up carries the present revision in its header, ahead of its events.
            watch_line(self, {header = header(etcd), events = told})
        end
    end
    if self.notify and etcd.random(4) == 1 then
        watch_line(self, etcd.random(2) == 1 and {header = header(etcd)} or
            {header = header(etcd), events = cjson.decode("[]")})
    end
end

etcd_mt.pump = pump

function sock_mt:send(text)
    if self.dead then
        return nil, "closed"
    end
    local etcd = self.etcd
    self.input = (self.input or "") .. text
    local head, rest = self.input:match("^(.-)\r\n\r\n(.*)$")
    local length = head and tonumber(head:lower():match("content%-length: (%d+)") or 0)
    if not head or #rest < length then
        return #text
    end
    self.input = nil
    local method, path = head:match("^(%u+) (%S+) HTTP/1.1")
    local token = head:match("\r\nAuthorization: ([^\r\n]+)")
    local body = length > 0 and cjson.decode(rest) or {}
    etcd.requests[#etcd.requests + 1] = {method = method, path = path, body = body, token = token, endpoint = self.endpoint.url}
    local status, answer
    if etcd.answer then
        status, answer = etcd.answer(path, body, token, self.endpoint)
    end
    if status then
        respond(self, status, answer)
    elseif path == "/v3/auth/authenticate" then
        if body.name == etcd.user and body.password == etcd.password then
            etcd.tokens = (etcd.tokens or 0) + 1
            etcd.token = "token." .. etcd.tokens
            respond(self, 200, {header = header(etcd), token = etcd.token})
        else
            respond(self, 400, error_body(etcd, 3, "etcdserver: authentication failed, invalid user ID or password"))
        end
    elseif etcd.user and token ~= etcd.token then
        respond(self, 401, error_body(etcd, 16, "etcdserver: invalid auth token"))
    elseif path == "/v3/kv/range" then
        respond(self, range(etcd, body))
    elseif path == "/v3/watch" then
        start_watch(self, body.create_request)
    else
        respond(self, 404, "not found")
    end
    return #text
end

function sock_mt:receiveany(most)
    local etcd = self.etcd
    if self.dead or not etcd.up then
        return nil, "closed"
    end
    if self.out == "" then
        pump(self)
    end
    local silent = etcd.streams[self] ~= nil -- only streams fall silent
    if self.out == "" or (silent and etcd.silent) then
        local deadline = etcd.clock() + self.timeout
        repeat
            etcd.wait(math.min(0.05, self.timeout))
            if self.dead or not etcd.up then
                return nil, "closed"
            end
            pump(self)
        until (self.out ~= "" and not (silent and etcd.silent)) or etcd.clock() >= deadline
        if self.out == "" or (silent and etcd.silent) then
            return nil, "timeout"
        end
    end
    if silent and etcd.random(6) == 1 then -- on its way; a stream that is cut now loses it
        etcd.wait(etcd.random(10) * 0.05)
        if self.dead or not etcd.up then
            return nil, "closed"
        end
    end
    local size = math.min(most, etcd.random(2) == 1 and #self.out or etcd.random(64))
    local piece = self.out:sub(1, size)
    self.out = self.out:sub(size + 1)
    return piece
end

-- The `connect` of dpproxy.etcd.client.
function etcd_mt:connect()
    return function(endpoint)
        if not self.up or (self.down and self.down[endpoint.url]) then
            return nil, "connection refused"
        end
        return setmetatable({etcd = self, endpoint = endpoint, out = "", timeout = 1}, sock_mt)
    end
end

return M
