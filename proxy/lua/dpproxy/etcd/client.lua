-- etcd v3 through its JSON gateway: unary calls with failover and tokens, and watch streams. Written for any etcd from 3.4
-- on: errors in
-- the shape of grpc-gateway v1 and v2, numbers as strings or numbers, zero fields left out. No ngx in here: the transport, the
-- clock and the random source are given.
local cjson = require("cjson.safe").new()
local http = require("dpproxy.etcd.http")
local endpoints = require("dpproxy.etcd.endpoints")

local type, tonumber, find = type, tonumber, string.find

local M = {}

local client_mt = {}
client_mt.__index = client_mt

-- Kinds of errors, the third value that a call returns:
M.AWAY = "away"             -- no endpoint answers; try again later
M.AUTH = "auth"             -- user, password or permission
M.TOO_LARGE = "too large"   -- ask for less
M.COMPACTED = "compacted"   -- the revision is gone
M.REFUSED = "refused"       -- anything else that etcd says
M.PROTOCOL = "protocol"     -- not etcd, or garbage

-- opts: endpoints (URLs), user, password, timeout (seconds), tls (for the transport), max_response (bytes), headers (array),
-- connect = fn(endpoint, timeout, tls) -> socket | nil, err, clock = fn, random = fn
function M.new(opts)
    local list, err = endpoints.new(opts.endpoints, opts)
    if not list then
        return nil, err
    end
    return setmetatable({
        endpoints = list, connect = opts.connect, clock = opts.clock, random = opts.random, tls = opts.tls,
        user = opts.user, password = opts.password, timeout = opts.timeout or 30, headers = opts.headers or {},
        max_response = opts.max_response or 67108864,
    }, client_mt)
end

local function is_auth_error(code, message)
    return code == 16 or find(message, "invalid auth token", 1, true) ~= nil or
        find(message, "revision of auth store is old", 1, true) ~= nil or find(message, "user name is empty", 1, true) ~= nil
end

-- What an error body (v1, v2, or none) says -> message, kind, is the token to blame
local function read_error(body, status)
    local decoded = type(body) == "table" and body or cjson.decode(body)
    local message, code
    if type(decoded) == "table" then
        message = decoded.error or decoded.message
        code = tonumber(decoded.code or decoded.grpc_code)
        if type(message) == "table" then
            return read_error(message, status)
        end
    end
    if type(message) ~= "string" then
        message = "response status " .. tostring(status)
    end
    if is_auth_error(code, message) or (not code and status == 401) then
        return message, M.AUTH, true
    elseif code == 7 or find(message, "permission denied", 1, true) or find(message, "authentication failed", 1, true) then
        return message, M.AUTH, false
    elseif find(message, "has been compacted", 1, true) then
        return message, M.COMPACTED
    elseif code == 8 or find(message, "larger than max", 1, true) then
        return message, M.TOO_LARGE
    elseif code == 14 or code == 4 or (status or 0) >= 500 then
        return message, M.AWAY
    end
    return message, M.REFUSED
end

M.read_error = read_error

local function request_headers(self, endpoint, token)
    local headers = {"Host: " .. endpoint.authority, "User-Agent: dpproxy", "Content-Type: application/json",
        "Accept: application/json"}
    if token then
        headers[#headers + 1] = "Authorization: " .. token
    end
    for _, header in ipairs(self.headers) do
        headers[#headers + 1] = header
    end
    return headers
end

local function open(self, endpoint)
    local sock, err = self.connect(endpoint, self.timeout, self.tls)
    if not sock then
        return nil, err
    end
    local conn = http.wrap(sock)
    local ms = math.min(self.timeout, 10) * 1000 -- a member that is silent for longer must not keep the others from being asked
    conn:settimeouts(ms, ms, ms)
    return conn
end

-- One exchange with one endpoint -> decoded | nil, message, kind, token_error
local function exchange_once(self, endpoint, path, body, token)
    local conn, err = open(self, endpoint)
    if not conn then
        return nil, err, M.AWAY
    end
    local reused = conn.sock.getreusedtimes and (conn.sock:getreusedtimes() or 0) > 0
    local ok
    ok, err = conn:request(body and "POST" or "GET", path, request_headers(self, endpoint, token), body)
    local status
    if ok then
        status, err = conn:response()
    end
    if not status then
        conn:close()
        return nil, err, M.AWAY, false, reused and err ~= "timeout"
    end
    local text
    text, err = conn:read_all(self.max_response)
    if not text then
        conn:close()
        return nil, err, err == "response too large" and M.TOO_LARGE or M.AWAY
    end
    conn:release(30000, 4)
    if status ~= 200 then
        return nil, read_error(text, status)
    end
    local decoded
    decoded, err = cjson.decode(text)
    if type(decoded) ~= "table" then
        return nil, "not an etcd: " .. (err or "no JSON object"), M.PROTOCOL
    end
    if decoded.error then
        return nil, read_error(decoded, status)
    end
    return decoded
end

local function exchange(self, endpoint, path, body, token)
    local decoded, err, kind, token_error, stale = exchange_once(self, endpoint, path, body, token)
    if stale then -- a pooled connection that the server had closed meanwhile: all our calls may be repeated
        decoded, err, kind, token_error = exchange_once(self, endpoint, path, body, token)
    end
    return decoded, err, kind, token_error
end

-- A token, fresh enough -> token | false when there is no user | nil, err, kind
local function get_token(self, endpoint)
    if not self.user then
        return false
    end
    local now = self.clock()
    if self.token and now < self.token_until and now > self.token_until - 600 then
        return self.token
    end
    local answer, err, kind = exchange(self, endpoint, "/v3/auth/authenticate",
        cjson.encode({name = self.user, password = self.password or ""}))
    if not answer then
        if find(err, "authentication is not enabled", 1, true) then
            self.token, self.token_until = false, now + 60
            return false
        end
        return nil, "cannot authenticate: " .. err, kind
    end
    if type(answer.token) ~= "string" or find(answer.token, "[%c]") then
        return nil, "cannot authenticate: no token in the answer", M.PROTOCOL
    end
    -- etcd's simple tokens live five minutes from their last use, JWTs as configured.
    self.token, self.token_until = answer.token, now + 180 + self.random() * 60
    return self.token
end

-- Runs fn(endpoint, token) -> result | nil, err, kind, token_error against the endpoints until one has an answer.
local function with_endpoint(self, fn)
    local last, last_kind
    local tried = {}
    for _ = 1, #self.endpoints.list do
        local endpoint = self.endpoints:pick()
        if not endpoint or tried[endpoint] then
            break
        end
        tried[endpoint] = true
        local result, token_error
        for attempt = 1, 2 do
            local token, err, kind = get_token(self, endpoint)
            if token == nil then
                last, last_kind = err, kind
                break
            end
            result, last, last_kind, token_error = fn(endpoint, token or nil)
            if result or not token_error or attempt == 2 or not self.user then
                break
            end
            self.token = nil -- the server forgot it (a restart) or it expired: a new one at once
        end
        if result then
            self.endpoints:good(endpoint)
            return result, endpoint
        end
        if last_kind ~= M.AWAY and last_kind ~= M.PROTOCOL then
            self.endpoints:good(endpoint)
            return nil, last, last_kind
        end
        self.endpoints:bad(endpoint)
        last = endpoint.url .. ": " .. last
    end
    return nil, last or "all etcd endpoints failed a moment ago", last_kind or M.AWAY
end

-- A unary call. path as in "/v3/kv/range" -> decoded answer | nil, err, kind
function client_mt:call(path, body)
    local text = body and assert(cjson.encode(body))
    return with_endpoint(self, function(endpoint, token)
        return exchange(self, endpoint, path, text, token)
    end)
end

-- How long until an endpoint may be asked again; 0 when one may now.
function client_mt:wait()
    local soonest
    local now = self.clock()
    for _, endpoint in ipairs(self.endpoints.list) do
        local left = math.max(0, endpoint.retry_at - now)
        soonest = math.min(soonest or left, left)
    end
    return math.min(soonest, 5)
end

local stream_mt = {}
stream_mt.__index = stream_mt

-- Opens a watch. request: the WatchCreateRequest -> stream | nil, err, kind
function client_mt:watch(request)
    local text = assert(cjson.encode({create_request = request}))
    return with_endpoint(self, function(endpoint, token)
        local conn, err = open(self, endpoint)
        if not conn then
            return nil, err, M.AWAY
        end
        local headers = request_headers(self, endpoint, token)
        -- A member without a quorum ends the watch instead of being silent for ever.
        headers[#headers + 1] = "Grpc-Metadata-hasleader: true"
        local ok, status
        ok, err = conn:request("POST", "/v3/watch", headers, text)
        if ok then
            status, err = conn:response()
        end
        if not status then
            conn:close()
            return nil, err, M.AWAY
        end
        if status ~= 200 then
            local body = conn:read_all(65536)
            conn:close()
            return nil, read_error(body or "", status)
        end
        return setmetatable({
            conn = conn, lines = http.lines(conn, self.max_response), client = self, endpoint = endpoint,
        }, stream_mt)
    end)
end

-- Waits at most `timeout` seconds -> message (a WatchResponse) | nil, "timeout" | nil, err, kind
function stream_mt:next(timeout)
    local ms = math.max(1, math.floor(timeout * 1000))
    if self.read_ms ~= ms then
        self.read_ms = ms
        self.conn:settimeouts(ms, ms, ms)
    end
    local text, err = self.lines:next()
    if not text then
        if err == "timeout" then
            return nil, err
        elseif err == "line too long" then
            return nil, err, M.TOO_LARGE
        end
        return nil, err or "closed", M.AWAY
    end
    local decoded
    decoded, err = cjson.decode(text)
    if type(decoded) ~= "table" then
        return nil, "not a watch response: " .. (err or "no JSON object"), M.PROTOCOL
    end
    if decoded.error then
        local message, kind, token_error = read_error(decoded.error, tonumber(decoded.error.http_code))
        if token_error then
            self.client.token = nil
        end
        return nil, message, kind
    end
    local result = decoded.result
    if type(result) ~= "table" then
        return nil, "not a watch response", M.PROTOCOL
    end
    if result.canceled and find(result.cancel_reason or "", "auth token", 1, true) then
        self.client.token = nil
    end
    return result
end

-- Would next() return without waiting?
function stream_mt:ready()
    return self.lines:ready()
end

function stream_mt:failed()
    self.client.endpoints:bad(self.endpoint)
end

function stream_mt:close()
    self.conn:close()
end

return M
