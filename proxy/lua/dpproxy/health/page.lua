-- What is known of checked upstreams as a page for a browser (/v1/healthcheck with Accept: text/html). No ngx in here.
local concat, gsub, ipairs, tostring = table.concat, string.gsub, ipairs, tostring

local M = {}

local entities = {["&"] = "&amp;", ["<"] = "&lt;", [">"] = "&gt;", ['"'] = "&quot;", ["'"] = "&#39;"}

local function text(value)
    return (gsub(tostring(value), "[&<>\"']", entities))
end

local columns = {"Upstream", "Check", "Node", "Domain", "Status", "Successes", "HTTP failures", "TCP failures", "Timeouts"}

local function row(tag, values)
    local cells = {}
    for i, value in ipairs(values) do
        cells[i] = "<" .. tag .. ">" .. text(value) .. "</" .. tag .. ">"
    end
    return "<tr>" .. concat(cells) .. "</tr>"
end

-- list: as dpproxy.health.control() gives it
function M.of(list)
    local lines = {
        "<!DOCTYPE html>", "<html><head><meta charset=\"utf-8\"><title>Health checks</title></head><body>",
        "<h1>Health checks</h1>", "<table border=\"1\">", row("th", columns),
    }
    for _, upstream in ipairs(list) do
        for _, node in ipairs(upstream.nodes) do
            local counter = node.counter
            lines[#lines + 1] = row("td", {
                upstream.name, upstream.type, node.ip .. ":" .. node.port, node.hostname or "", node.status, counter.success,
                counter.http_failure, counter.tcp_failure, counter.timeout_failure,
            })
        end
    end
    lines[#lines + 1] = "</table></body></html>\n"
    return concat(lines, "\n")
end

return M
