-- The little of HTTP/1.1 that an etcd client needs, over a socket with the methods of a cosocket: a request with a
-- complete body, a
-- response whose body is chunked, counted, or ends with the connection. Reading can be taken up again after a "timeout": nothing
-- that arrived is lost. No ngx in here.
local find, match, sub, lower, byte = string.find, string.match, string.sub, string.lower, string.byte
local concat = table.concat

local M = {}

local max_header_line = 16384
local max_header_lines = 100
local read_size = 65536

local conn_mt = {}
conn_mt.__index = conn_mt

-- sock: send, receiveany, close, settimeouts, setkeepalive. The connection owns it from here on.
function M.wrap(sock)
    return setmetatable({sock = sock, buffer = "", pos = 1, state = "idle", closed = false}, conn_mt)
end

function conn_mt:settimeouts(connect_ms, send_ms, read_ms)
    self.sock:settimeouts(connect_ms, send_ms, read_ms)
end

function conn_mt:close()
    if not self.closed then
        self.closed = true
        self.sock:close()
    end
end

-- Gives the connection back to the pool, if the last response was read to its end and the server keeps it.
function conn_mt:release(idle_ms, pool_size)
    if self.closed then
        return
    end
    if self.state ~= "idle" or self.last or self.pos <= #self.buffer or not self.sock.setkeepalive then
        return self:close()
    end
    self.closed = true
    if not self.sock:setkeepalive(idle_ms, pool_size) then
        self.sock:close()
    end
end

local function fill(self)
    local data, err = self.sock:receiveany(read_size)
    if not data then
        return nil, err or "closed"
    end
    if self.pos > #self.buffer then
        self.buffer, self.pos = data, 1
    else
        self.buffer, self.pos = sub(self.buffer, self.pos) .. data, 1
    end
    return true
end

-- A line without its end.
local function line(self)
    while true do
        local at = find(self.buffer, "\n", self.pos, true)
        if at then
            local last = at - 1
            if last >= self.pos and byte(self.buffer, last) == 13 then
                last = last - 1
            end
            local text = sub(self.buffer, self.pos, last)
            self.pos = at + 1
            return text
        end
        if #self.buffer - self.pos > max_header_line then
            return nil, "header line too long"
        end
        local ok, err = fill(self)
        if not ok then
            return nil, err
        end
    end
end

-- headers: array of "Name: value"
function conn_mt:request(method, path, headers, body)
    local parts = {method, " ", path, " HTTP/1.1\r\n"}
    for _, header in ipairs(headers) do
        parts[#parts + 1] = header
        parts[#parts + 1] = "\r\n"
    end
    if body then
        parts[#parts + 1] = "Content-Length: " .. #body .. "\r\n"
    end
    parts[#parts + 1] = "\r\n"
    parts[#parts + 1] = body or ""
    local ok, err = self.sock:send(concat(parts))
    if not ok then
        return nil, err or "closed"
    end
    self.state = "status"
    return true
end

local function start_body(self)
    local headers = self.headers
    self.last = self.version == "1.0" and lower(headers.connection or "") ~= "keep-alive" or
        find(lower(headers.connection or ""), "close", 1, true) ~= nil
    if self.status == 204 or self.status == 304 then
        self.state = "idle"
        return true
    end
    if headers["transfer-encoding"] then
        if lower(headers["transfer-encoding"]) ~= "chunked" then
            return nil, "unknown transfer encoding"
        end
        self.state = "chunk size"
    elseif headers["content-length"] then
        local length = match(headers["content-length"], "^%d+$")
        if not length or #length > 15 then
            return nil, "bad content length"
        end
        self.left = tonumber(length)
        self.state = self.left > 0 and "counted" or "idle"
    else
        self.state, self.last = "until close", true
    end
    return true
end

-- Reads status and headers. After "timeout" call again.
-- -> status, headers (lower-case names; of several with one name the last) | nil, err
function conn_mt:response()
    while self.state == "status" or self.state == "headers" do
        local text, err = line(self)
        if not text then
            return nil, err
        end
        if self.state == "status" then
            local version, status = match(text, "^HTTP/(1%.[01]) (%d%d%d)")
            if not version then
                return nil, "not an HTTP response"
            end
            self.version, self.status, self.headers, self.header_count = version, tonumber(status), {}, 0
            self.state = "headers"
        elseif text == "" then
            if self.status >= 100 and self.status < 200 and self.status ~= 101 then
                self.state = "status" -- an interim response; the real one follows
            else
                local ok
                ok, err = start_body(self)
                if not ok then
                    return nil, err
                end
            end
        else
            self.header_count = self.header_count + 1
            if self.header_count > max_header_lines then
                return nil, "too many headers"
            end
            local name, value = match(text, "^([^:%s]+):%s*(.-)%s*$")
            if not name then
                return nil, "bad header"
            end
            self.headers[lower(name)] = value
        end
    end
    return self.status, self.headers
end

local function take(self, most)
    if self.pos > #self.buffer then
        local ok, err = fill(self)
        if not ok then
            return nil, err
        end
    end
    local last = math.min(#self.buffer, self.pos + most - 1)
    local piece = sub(self.buffer, self.pos, last)
    self.pos = last + 1
    return piece
end

-- How a body is read on from each state: -> piece | false, the next state goes on | nil at the end | nil, err
local states = {}

-- What self.left counts; then comes `after`.
local function counted(self, after)
    local piece, err = take(self, self.left)
    if not piece then
        return nil, err
    end
    self.left = self.left - #piece
    if self.left == 0 then
        self.state = after
    end
    return piece
end

function states.idle()
    return nil
end

function states.counted(self)
    return counted(self, "idle")
end

function states.chunk(self)
    return counted(self, "chunk end")
end

states["until close"] = function(self)
    local piece, err = take(self, read_size)
    if not piece and err == "closed" then
        self.state = "idle"
        return nil
    end
    return piece, err
end

states["chunk size"] = function(self)
    local text, err = line(self)
    if not text then
        return nil, err
    end
    local size = match(text, "^(%x+)%s*$") or match(text, "^(%x+)%s*;")
    if not size or #size > 12 then
        return nil, "bad chunk size"
    end
    self.left = tonumber(size, 16)
    self.state = self.left > 0 and "chunk" or "trailer"
    return false
end

states["chunk end"] = function(self)
    local text, err = line(self)
    if not text then
        return nil, err
    elseif text ~= "" then
        return nil, "bad chunk end"
    end
    self.state = "chunk size"
    return false
end

function states.trailer(self)
    local text, err = line(self)
    if not text then
        return nil, err
    elseif text == "" then
        self.state = "idle"
    end
    return false
end

-- The next piece of the body, of any size. nil at its end; nil, err on errors; after "timeout" call again.
function conn_mt:read()
    while true do
        local step = states[self.state]
        if not step then
            return nil, "no response is being read"
        end
        local piece, err = step(self)
        if piece ~= false then
            return piece, err
        end
    end
end

-- The whole body, at most `limit` bytes.
function conn_mt:read_all(limit)
    local pieces, size = {}, 0
    while true do
        local piece, err = self:read()
        if err then
            return nil, err
        end
        if not piece then
            return concat(pieces)
        end
        size = size + #piece
        if size > limit then
            return nil, "response too large"
        end
        pieces[#pieces + 1] = piece
    end
end

local lines_mt = {}
lines_mt.__index = lines_mt

-- Lines of a body that comes in pieces. An empty line is skipped.
function M.lines(conn, limit)
    return setmetatable({conn = conn, limit = limit, pieces = {}, size = 0, piece = "", pos = 1}, lines_mt)
end

-- Is there a whole line without reading?
function lines_mt:ready()
    return find(self.piece, "\n", self.pos, true) ~= nil
end

-- -> line | nil at the end | nil, err; after "timeout" call again
function lines_mt:next()
    while true do
        local at = find(self.piece, "\n", self.pos, true)
        local pieces = self.pieces
        if at then
            pieces[#pieces + 1] = sub(self.piece, self.pos, at - 1)
            self.pos = at + 1
            local text = #pieces == 1 and pieces[1] or concat(pieces)
            self.pieces, self.size = {}, 0
            if find(text, "%S") then
                return text
            end
        else
            if self.pos <= #self.piece then
                pieces[#pieces + 1] = sub(self.piece, self.pos)
                self.size = self.size + #pieces[#pieces]
                if self.size > self.limit then
                    return nil, "line too long"
                end
            end
            self.piece, self.pos = "", 1
            local piece, err = self.conn:read()
            if not piece then
                if err then
                    return nil, err
                end
                local text = concat(pieces)
                self.pieces, self.size = {}, 0
                if find(text, "%S") then
                    return text
                end
                return nil
            end
            self.piece = piece
        end
    end
end

return M
