-- The etcd endpoints: parsed URLs, whose turn it is, and who is left alone for a while after failures.
local match, lower = string.match, string.lower

local M = {}

local endpoints_mt = {}
endpoints_mt.__index = endpoints_mt

local first_pause, longest_pause = 0.2, 5

-- "http://host:2379", "https://[::1]:2379", "unix:/run/etcd.sock", "host:2379" -> endpoint | nil, err
function M.parse(url)
    local path = match(url, "^unix:/*(/.+)$") or match(url, "^http%+unix:/*(/.+)$")
    if path then
        return {url = url, scheme = "http", unix = path, host = "localhost", authority = "localhost", fails = 0, retry_at = 0}
    end
    local scheme, rest = match(url, "^(%a+)://(.*)$")
    scheme, rest = lower(scheme or "http"), rest or url
    if scheme ~= "http" and scheme ~= "https" then
        return nil, "unknown scheme of an etcd endpoint"
    end
    rest = match(rest, "^(.-)/*$")
    local host, port = match(rest, "^%[([%x:.]+)%]:?(%d*)$")
    if not host then
        host, port = match(rest, "^([%w_.-]+):?(%d*)$")
    end
    if not host then
        return nil, "an etcd endpoint is not a URL with host and port"
    end
    port = port == "" and 2379 or tonumber(port)
    if port < 1 or port > 65535 then
        return nil, "port of an etcd endpoint is out of range"
    end
    local name = match(host, ":") and "[" .. host .. "]" or host
    return {url = url, scheme = scheme, host = host, port = port, authority = name .. ":" .. port, fails = 0, retry_at = 0}
end

-- opts: {clock = fn, random = fn -> [0, 1)}
function M.new(urls, opts)
    local list = {}
    for i, url in ipairs(urls) do
        local endpoint, err = M.parse(url)
        if not endpoint then
            return nil, err
        end
        list[i] = endpoint
    end
    if #list == 0 then
        return nil, "no etcd endpoint"
    end
    return setmetatable({list = list, clock = opts.clock, random = opts.random,
        at = math.floor(opts.random() * #list)}, endpoints_mt)
end

-- The next endpoint that may be asked. When all are left alone: nil and how long until the first may be asked again.
function endpoints_mt:pick()
    local list, now = self.list, self.clock()
    local wait = longest_pause
    for _ = 1, #list do
        self.at = self.at % #list + 1
        local endpoint = list[self.at]
        -- A clock that jumped back must not lock an endpoint out.
        if endpoint.retry_at <= now or endpoint.retry_at > now + longest_pause then
            return endpoint
        end
        wait = math.min(wait, endpoint.retry_at - now)
    end
    return nil, wait
end

function endpoints_mt:good(endpoint)
    endpoint.fails, endpoint.retry_at = 0, 0
end

function endpoints_mt:bad(endpoint)
    endpoint.fails = endpoint.fails + 1
    local pause = math.min(longest_pause, first_pause * 2 ^ math.min(endpoint.fails - 1, 10))
    endpoint.retry_at = self.clock() + pause * (0.5 + self.random() / 2)
end

return M
