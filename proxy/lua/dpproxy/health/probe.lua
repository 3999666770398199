-- One active probe: connect, and for http and https one request, of whose answer only the status line is read. No ngx in here.
local find, match, gsub, lower = string.find, string.match, string.gsub, string.lower
local concat, ipairs, max, tonumber = table.concat, ipairs, math.max, tonumber

local M = {}

-- "HTTP/1.1 200": nothing behind it is of interest, and a hostile server cannot make us read more.
local STATUS_BYTES = 12

-- active: settings; target: {header} -> the request's text
function M.request(active, target)
    local lines = {active.http_method .. " " .. gsub(active.http_path, "[%c ]", "") .. " HTTP/1.1", "Connection: close"}
    local has_host = false
    for _, line in ipairs(active.req_headers or {}) do
        -- A line break in a header would be another header, or another request.
        if not find(line, "[%c]") and find(line, "^[^%s:]+:") then
            lines[#lines + 1] = line
            has_host = has_host or lower(match(line, "^[^:]+")) == "host"
        end
    end
    if not has_host then
        lines[#lines + 1] = "Host: " .. gsub(target.header, "[%c ]", "")
    end
    local body = active.http_req_body
    if body ~= "" then
        lines[#lines + 1] = "Content-Length: " .. #body
    end
    return concat(lines, "\r\n") .. "\r\n\r\n" .. body
end

local function failed(sock, err)
    sock:close()
    return err == "timeout" and "timeout" or "tcp", err
end

-- tcp() -> a cosocket. -> "success" | "http", status | "tcp" | "timeout"
function M.run(active, target, tcp)
    local sock = tcp()
    sock:settimeout(max(1, active.timeout * 1000))
    local ok, err = sock:connect(target.ip, target.port)
    if not ok then
        return failed(sock, err)
    end
    if active.type == "tcp" then
        sock:close()
        return "success"
    end
    if active.type == "https" then
        ok, err = sock:sslhandshake(false, active.https_sni or gsub(target.header, ":%d+$", ""), active.https_verify_certificate)
        if not ok then
            return failed(sock, err)
        end
    end
    ok, err = sock:send(M.request(active, target))
    if not ok then
        return failed(sock, err)
    end
    local start
    start, err = sock:receive(STATUS_BYTES)
    if not start then
        return failed(sock, err)
    end
    sock:close()
    -- What is no status line counts as a failure of HTTP.
    return "http", tonumber(match(start, "^HTTP/%d%.%d (%d%d%d)$")) or 0
end

return M
