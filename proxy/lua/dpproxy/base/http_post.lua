-- Sends a POST over a cosocket and reads the answer. For loggers: no redirects, answers are read up to a limit and thrown away.
local M = {}

local max_answer = 65536

-- "https://host:8443/path?query" -> {scheme, host, port, target, authority} | nil, err
function M.parse_url(url)
    local scheme, authority, rest = tostring(url):match("^(%a+)://([^/?#]*)(.*)$")
    if not scheme then
        return nil, "not a URL"
    end
    scheme = scheme:lower()
    if scheme ~= "http" and scheme ~= "https" then
        return nil, "unsupported scheme " .. scheme
    end
    authority = authority:gsub("^.*@", "")
    local host, port = authority:match("^(%[[%x:.]+%]):?(%d*)$")
    if not host then
        host, port = authority:match("^([^:]+):?(%d*)$")
    end
    if not host then
        return nil, "bad host"
    end
    local target = rest:gsub("#.*$", "")
    if target:sub(1, 1) ~= "/" then
        target = "/" .. target
    end
    return {scheme = scheme, host = host, port = tonumber(port) or (scheme == "https" and 443 or 80), target = target,
        authority = authority}
end

local function read_headers(sock)
    local headers = {}
    for _ = 1, 100 do
        local line, err = sock:receive("*l")
        if not line then
            return nil, err
        end
        if line == "" then
            return headers
        end
        local name, value = line:match("^([^:%s]+):%s*(.-)%s*$")
        if name then
            headers[name:lower()] = value
        end
    end
    return nil, "too many headers"
end

local function read_chunks(sock)
    local parts, size = {}, 0
    while true do
        local line, err = sock:receive("*l")
        local n = line and tonumber(line:match("^%x+") or "", 16)
        if not n then
            return nil, err or "bad chunk"
        end
        if n == 0 then
            -- trailers, up to the empty line
            repeat
                line, err = sock:receive("*l")
            until not line or line == ""
            return line and table.concat(parts), err
        end
        size = size + n
        if size > max_answer then
            return nil, "answer too large"
        end
        local data
        data, err = sock:receive(n)
        if not data or not sock:receive(2) then
            return nil, err or "closed"
        end
        parts[#parts + 1] = data
    end
end

-- -> body, may be kept | nil, err
local function read_body(sock, status, headers)
    if status == 204 or status == 304 then
        return "", true
    end
    local keep = (headers.connection or ""):lower() ~= "close"
    if (headers["transfer-encoding"] or ""):lower():find("chunked", 1, true) then
        local body, err = read_chunks(sock)
        if not body then
            return nil, err
        end
        return body, keep
    end
    local length = tonumber(headers["content-length"] or "")
    if length then
        if length > max_answer then
            return "", false
        end
        local body, err = "", nil
        if length > 0 then
            body, err = sock:receive(length)
        end
        if not body then
            return nil, err
        end
        return body, keep
    end
    local body, _, partial = sock:receive(max_answer)
    return body or partial or "", false
end

local function exchange(sock, url, request)
    local lines = {
        "POST " .. url.target .. " HTTP/1.1",
        "Host: " .. url.authority,
        "Content-Type: " .. request.content_type,
        "Content-Length: " .. #request.body,
        "User-Agent: dpproxy",
    }
    for name, value in pairs(request.headers or {}) do
        -- What comes from the configuration must not end a line.
        lines[#lines + 1] = name .. ": " .. tostring(value):gsub("[\r\n]", " ")
    end
    lines[#lines + 1] = "\r\n"
    local ok, err = sock:send({table.concat(lines, "\r\n"), request.body})
    if not ok then
        return nil, err
    end
    local line
    line, err = sock:receive("*l")
    if not line then
        return nil, err
    end
    local status = tonumber(line:match("^HTTP/1%.%d (%d%d%d)"))
    if not status then
        return nil, "not an HTTP answer"
    end
    local headers
    headers, err = read_headers(sock)
    if not headers then
        return nil, err
    end
    local body, keep = read_body(sock, status, headers)
    if not body then
        return nil, keep
    end
    return status, body, keep
end

-- request: {url = parsed, body, content_type, headers, timeout_ms, ssl_verify, address = IP | nil} -> status, body | nil, err
function M.post(request)
    local url = request.url
    local sock = ngx.socket.tcp()
    sock:settimeout(request.timeout_ms)
    -- A pooled connection was handshaken for one name and one kind of verification.
    local pool = url.scheme .. "#" .. url.host .. "#" .. url.port .. "#" .. tostring(request.ssl_verify)
    local ok, err = sock:connect(request.address or url.host, url.port, {pool = pool})
    if not ok then
        return nil, "failed to connect to host[" .. url.host .. "] port[" .. url.port .. "] " .. err
    end
    if url.scheme == "https" and sock:getreusedtimes() == 0 then
        ok, err = sock:sslhandshake(nil, url.host, request.ssl_verify and true or false)
        if not ok then
            sock:close()
            return nil, "failed to perform SSL with host[" .. url.host .. "] port[" .. url.port .. "] " .. err
        end
    end
    local status, body, keep = exchange(sock, url, request)
    if not status then
        sock:close()
        return nil, "error while sending data to [" .. url.host .. "] port[" .. url.port .. "] " .. tostring(body)
    end
    if keep then
        sock:setkeepalive(60000, 5)
    else
        sock:close()
    end
    return status, body
end

return M
