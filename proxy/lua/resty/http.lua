-- An HTTP/1.1 client over cosockets with the interface of lua-resty-http, for plugins that were written against it, and for our
-- own loggers. No proxies, no pipelining.
local tls = require("dpproxy.base.handshake")

local concat = table.concat
local byte, find, format, gsub, lower, match, sub = string.byte, string.find, string.format, string.gsub, string.lower,
    string.match, string.sub
local ipairs, pairs, rawget, setmetatable = ipairs, pairs, rawget, setmetatable
local tonumber, tostring, type = tonumber, tostring, type

local M = {_VERSION = "0.17.1"}
local mt = {__index = M}

local max_header_lines, read_size = 200, 65536
local default_max_body = 256 * 1024 * 1024

function M.new()
    local sock, err = ngx.socket.tcp()
    if not sock then
        return nil, err
    end
    return setmetatable({sock = sock, may_keep = true}, mt)
end

function M:set_timeout(ms)
    self.sock:settimeout(ms)
    return true
end

function M:set_timeouts(connect_ms, send_ms, read_ms)
    self.sock:settimeouts(connect_ms, send_ms, read_ms)
    return true
end

-- ---- URLs ----

-- -> {scheme, host, port, path, query} | nil, err; with query_in_path the query stays in the path
function M.parse_uri(_, uri, query_in_path)
    local scheme, authority, rest = match(tostring(uri), "^(%a+)://([^/?#]*)(.*)$")
    scheme = scheme and lower(scheme)
    if scheme ~= "http" and scheme ~= "https" then
        return nil, "bad uri: " .. tostring(uri)
    end
    authority = gsub(authority, "^.*@", "")
    local host, port = match(authority, "^(%[[%x:.]+%]):?(%d*)$")
    if not host then
        host, port = match(authority, "^([^:]+):?(%d*)$")
    end
    if not host then
        return nil, "bad uri: " .. tostring(uri)
    end
    rest = gsub(rest, "#.*$", "")
    if byte(rest) ~= 47 then -- /
        rest = "/" .. rest
    end
    local path, query = match(rest, "^([^?]*)%??(.*)$")
    if query_in_path ~= false and query ~= "" then
        path, query = path .. "?" .. query, ""
    end
    -- Named and by place, as in lua-resty-http.
    port = tonumber(port) or (scheme == "https" and 443 or 80)
    return {scheme, host, port, path, query, scheme = scheme, host = host, port = port, path = path, query = query}
end

-- ---- Connecting ----

local function address_of(host)
    if find(host, "^[%d.]+$") or find(host, "^%[") or find(host, "^unix:") then
        return host
    end
    return require("apisix.core.resolver").parse_domain(host)
end

local function handshake(self, options)
    local name, verify = options.ssl_server_name or options.host, options.ssl_verify ~= false
    local ok, err
    if options.ssl_reused_session then
        ok, err = self.sock:sslhandshake(options.ssl_reused_session, name, verify)
    else
        ok, err = tls.client(self.sock, name, verify)
    end
    if not ok then
        self:close()
        return nil, err
    end
    return true
end

local function connect(self, options)
    local host = options.host
    local address, err = address_of(host)
    if not address then
        return nil, err or "cannot resolve " .. host
    end
    self.host, self.port, self.scheme = host, options.port, options.scheme
    local ok
    -- A pooled connection was shaken hands over for one name, and one idea of what a certificate must prove.
    local pool = options.pool or concat({options.scheme or "", host, options.port or "", tostring(options.ssl_verify ~= false),
        options.ssl_server_name or ""}, "#")
    local socket_options = {pool = pool, pool_size = options.pool_size, backlog = options.backlog}
    if options.port then
        ok, err = self.sock:connect(address, options.port, socket_options)
    else
        ok, err = self.sock:connect(address, socket_options)
    end
    if not ok then
        return nil, err
    end
    if options.scheme == "https" and self.sock:getreusedtimes() == 0 then
        return handshake(self, options)
    end
    return true
end

-- connect({scheme =, host =, port =, ssl_verify =, ssl_server_name =, pool =}) | connect(host, port [, options of the socket])
function M:connect(first, port, socket_options)
    if type(first) == "table" then
        return connect(self, first)
    end
    local options = {host = first, port = port}
    for name, value in pairs(socket_options or {}) do
        options[name] = value
    end
    options.scheme = nil    -- in this form the caller shakes hands itself
    return connect(self, options)
end

function M:ssl_handshake(session, host, verify)
    self.scheme = "https"
    return self.sock:sslhandshake(session, host, verify)
end

function M:get_reused_times()
    return self.sock:getreusedtimes()
end

function M:close()
    self.may_keep = false
    return self.sock:close()
end

-- Back into the pool, if the last response was read to its end and the server keeps the connection.
function M:set_keepalive(...)
    if self.may_keep and not self.unread then
        return self.sock:setkeepalive(...)
    end
    self.sock:close()
    return 2, "connection must be closed"
end

-- ---- Sending ----

-- What comes from outside must not end a line.
local function one_line(value)
    return (gsub(tostring(value), "[\r\n]", " "))
end

local function put_headers(lines, headers)
    local given = {}
    for name, value in pairs(headers or {}) do
        given[lower(name)] = true
        for _, one in ipairs(type(value) == "table" and value or {value}) do
            lines[#lines + 1] = one_line(name) .. ": " .. one_line(one)
        end
    end
    return given
end

local function host_header(self)
    local standard = self.scheme == "https" and 443 or 80
    local host = self.host or ""
    if find(host, "^unix:") then
        return "localhost"
    end
    return self.port and self.port ~= standard and host .. ":" .. self.port or host
end

local function target_of(params)
    local target = params.path and params.path ~= "" and params.path or "/"
    local query = params.query
    if type(query) == "table" then
        query = ngx.encode_args(query)
    end
    if query and query ~= "" then
        target = target .. (sub(query, 1, 1) == "?" and "" or "?") .. query
    end
    return (gsub(target, "[%s]", function(c) return format("%%%02X", byte(c)) end))
end

local function body_of(params)
    local body = params.body
    if type(body) == "function" then
        local parts = {}
        for part in body do
            parts[#parts + 1] = part
        end
        return concat(parts)
    elseif type(body) == "table" then
        return concat(body)
    end
    return body and tostring(body)
end

-- ---- Receiving ----

-- Headers as they came, found in any case; several of a name are an array.
local function read_headers(sock)
    local shown, by_lower = {}, {}
    for _ = 1, max_header_lines do
        local line, err = sock:receive("*l")
        if not line then
            return nil, err
        end
        if line == "" then
            return setmetatable(shown, {__index = function(_, name)
                local real = type(name) == "string" and by_lower[lower(name)]
                return real and rawget(shown, real) or nil
            end})
        end
        local name, value = match(line, "^([^:%s]+):%s*(.-)%s*$")
        if name then
            local real = by_lower[lower(name)] or name
            by_lower[lower(name)] = real
            local old = rawget(shown, real)
            if old == nil then
                shown[real] = value
            elseif type(old) == "table" then
                old[#old + 1] = value
            else
                shown[real] = {old, value}
            end
        end
    end
    return nil, "too many headers"
end

local function first(value)
    return type(value) == "table" and value[1] or value
end

-- Each reader gives the next piece, or nil at the end, or nil, err.
local function length_reader(self, length)
    local left = length
    return function(size)
        if left == 0 then
            self.unread = false
            return nil
        end
        local n = left < (size or read_size) and left or size or read_size
        local data, err = self.sock:receive(n)
        if not data then
            self:close()
            return nil, err
        end
        left = left - n
        if left == 0 then
            self.unread = false
        end
        return data
    end
end

local function close_reader(self)
    local done = false
    return function(size)
        if done then
            return nil
        end
        local data, err, partial = self.sock:receive(size or read_size)
        if data then
            return data
        end
        done = true
        self.may_keep = false
        if err ~= "closed" then
            return nil, err
        end
        return partial ~= "" and partial or nil
    end
end

local function chunk_reader(self)
    local left, done = 0, false
    local function fail(err)
        done = true
        self:close()
        return nil, err
    end
    return function(size)
        if done then
            return nil
        end
        if left == 0 then
            local line, err = self.sock:receive("*l")
            left = line and tonumber(match(line, "^%x+") or "", 16)
            if not left then
                return fail(err or "bad chunk")
            end
            if left == 0 then
                done = true
                repeat
                    line, err = self.sock:receive("*l")
                until not line or line == ""
                if not line then
                    return fail(err)
                end
                self.unread = false
                return nil
            end
        end
        local n = left < (size or read_size) and left or size or read_size
        local data, err = self.sock:receive(n)
        if not data then
            return fail(err)
        end
        left = left - n
        if left == 0 and not self.sock:receive(2) then
            return fail("closed")
        end
        return data
    end
end

local function no_reader()
    return nil
end

local function body_reader(self, method, status, headers)
    if method == "HEAD" or status == 204 or status == 304 then
        self.unread = false
        return no_reader, false
    end
    local coding = first(headers["Transfer-Encoding"])
    if coding and find(lower(coding), "chunked", 1, true) then
        return chunk_reader(self), true
    end
    local length = tonumber(first(headers["Content-Length"]) or "")
    if length then
        self.unread = length > 0
        return length_reader(self, length), length > 0
    end
    self.may_keep = false
    return close_reader(self), true
end

local function read_body(response)
    local parts, size = {}, 0
    while true do
        local part, err = response.body_reader(read_size)
        if err then
            return nil, err
        end
        if not part then
            return concat(parts)
        end
        size = size + #part
        if size > response.max_body then
            response.client:close()
            return nil, "body is larger than " .. response.max_body .. " bytes"
        end
        parts[#parts + 1] = part
    end
end

local function read_status(self)
    while true do
        local line, err = self.sock:receive("*l")
        if not line then
            return nil, err
        end
        local minor, status, reason = match(line, "^HTTP/1%.(%d) (%d%d%d)%s*(.*)$")
        if not status then
            return nil, "not an HTTP answer"
        end
        local headers
        headers, err = read_headers(self.sock)
        if not headers then
            return nil, err
        end
        status = tonumber(status)
        -- 100 and its like come before the answer.
        if status >= 200 or status == 101 then
            return status, reason, headers, tonumber(minor)
        end
    end
end

-- params: {method, path, query, headers, body, max_body} -> response: {status, reason, headers, has_body, body_reader, read_body}
function M:request(params)
    local method = params.method or "GET"
    local lines = {method .. " " .. target_of(params) .. " HTTP/1.1"}
    local given = put_headers(lines, params.headers)
    local body = body_of(params)
    if not given.host then
        lines[#lines + 1] = "Host: " .. host_header(self)
    end
    if not given["user-agent"] then
        lines[#lines + 1] = "User-Agent: dpproxy"
    end
    if body and not given["content-length"] and not given["transfer-encoding"] then
        lines[#lines + 1] = "Content-Length: " .. #body
    end
    lines[#lines + 1] = "\r\n"
    self.unread = true
    local ok, err = self.sock:send({concat(lines, "\r\n"), body or ""})
    if not ok then
        self:close()
        return nil, err
    end
    local status, reason, headers, minor = read_status(self)
    if not status then
        self:close()
        return nil, reason
    end
    local connection = lower(first(headers["Connection"]) or "")
    if connection == "close" or (minor == 0 and connection ~= "keep-alive") then
        self.may_keep = false
    end
    local reader, has_body = body_reader(self, method, status, headers)
    return {status = status, reason = reason, headers = headers, has_body = has_body, body_reader = reader, read_body = read_body,
        client = self, max_body = params.max_body or default_max_body}
end

-- Connects, asks, reads the body, and gives the connection back. -> {status, reason, headers, body} | nil, err
function M:request_uri(uri, params)
    params = params or {}
    local parsed, err = self:parse_uri(uri, false)
    if not parsed then
        return nil, err
    end
    local ok
    ok, err = connect(self, {scheme = parsed.scheme, host = parsed.host, port = parsed.port, ssl_verify = params.ssl_verify,
        ssl_server_name = params.ssl_server_name, pool = params.pool, pool_size = params.keepalive_pool})
    if not ok then
        return nil, err
    end
    local response
    response, err = self:request({
        method = params.method, path = params.path or parsed.path, query = params.query or parsed.query, headers = params.headers,
        body = params.body, max_body = params.max_body,
    })
    if not response then
        return nil, err
    end
    local body
    body, err = response:read_body()
    if not body then
        return nil, err
    end
    response.body = body
    if params.keepalive == false then
        self:close()
    else
        self:set_keepalive(params.keepalive_timeout or 60000, params.keepalive_pool or 10)
    end
    return response
end

return M
