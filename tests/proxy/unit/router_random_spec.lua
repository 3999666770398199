-- The routers against a plain reading of the rules: all paths of all routes are candidates, sorted by the rules' order; the first
-- that accepts is the answer. Routes come, change and go between the questions.
local ipmatch = require("dpproxy.router.ipmatch")
local re = require("dpproxy.base.re")
local router = require("dpproxy.router")

local modes = {"radixtree_host_uri", "radixtree_uri", "radixtree_uri_with_parameter"}

local function starts_with(text, prefix)
    return text:sub(1, #prefix) == prefix
end

local function ends_with(text, suffix)
    return suffix == "" or #text >= #suffix and text:sub(-#suffix) == suffix
end

-- rank of a path for a URI: math.huge if it is exact, the length of its literal prefix, or nil
local function path_rank(path, uri, parameters)
    local cut = parameters and path:find(":", 1, true) or path:find("*", 1, true)
    if not cut then
        return path == uri and math.huge or nil
    end
    local literal = path:sub(1, cut - 1)
    return starts_with(uri, literal) and #literal or nil
end

-- Does the whole path match, and what does it capture? A star inside a segment that is not in the prefix is a regular one.
local function path_captures(path, uri, parameters)
    local parts, names = {}, {}
    local prefix = path:match(parameters and path:find(":", 1, true) and "^([^:]*/)" or "^([^*]*/)")
    local offset = 0
    for segment in (path .. "/"):gmatch("([^/]*)/") do
        offset = offset + #segment + 1
        local first = segment:sub(1, 1)
        if first == ":" then
            parts[#parts + 1], names[#names + 1] = "([^/]+)", segment:sub(2)
        elseif first == "*" then
            parts[#parts + 1], names[#names + 1] = "([\\s\\S]*)", segment == "*" and ":ext" or segment:sub(2)
        elseif offset <= #prefix then
            parts[#parts + 1] = "\\Q" .. segment .. "\\E"
        else
            parts[#parts + 1] = segment:gsub("%.", "\\.")
        end
    end
    local captures = {}
    if #names > 0 then
        local found = re.match(uri, "^" .. table.concat(parts, "/") .. "$")
        if not found or found[0] ~= uri then
            return nil
        end
        for i, name in ipairs(names) do
            captures[name] = found[i]
        end
    end
    return captures
end

local function hosts_of(value, services)
    local service = value.service_id and services[value.service_id]
    return value.hosts or value.host and {value.host} or service and service.value.hosts
end

-- rank of a host for a request: math.huge if it is exact, the length of what follows the star, or nil
local function host_rank(host, req)
    if host:sub(1, 1) ~= "*" then
        return host == req.host and math.huge or nil
    end
    return ends_with(req.host, host:sub(2)) and #host - 1 or nil
end

local function accepts(value, req)
    local found = not value.methods
    for _, method in ipairs(value.methods or {}) do
        found = found or method == req.method
    end
    if not found or value.remote_addr and not ipmatch.new({value.remote_addr}):match(req.remote_addr) then
        return false
    end
    return not value.vars or req.vars[value.vars[1][1]] == value.vars[1][3]
end

-- All that could answer: {item, value, host (as written), host_rank, path, path_rank, index}
local function candidates(items, services, mode, req)
    local list = {}
    for _, item in pairs(items) do
        local value = item.value
        local hosts = hosts_of(value, services)
        for index, path in ipairs(value.status == 0 and {} or value.uris or {value.uri}) do
            local rank = path_rank(path, req.uri, mode == modes[3])
            if rank then
                if not hosts then
                    list[#list + 1] = {item = item, host_rank = -1, path = path, path_rank = rank, index = index}
                end
                for _, host in ipairs(hosts or {}) do
                    local by_host = host_rank(host, req)
                    if by_host then
                        list[#list + 1] = {
                            item = item, host = host, host_rank = mode == modes[1] and by_host or -1,
                            path = path, path_rank = rank, index = index,
                        }
                        if mode ~= modes[1] then
                            break -- the first of its hosts that fits
                        end
                    end
                end
            end
        end
    end
    return list
end

local function before(a, b)
    for _, pair in ipairs({
        {b.host_rank, a.host_rank}, {b.path_rank, a.path_rank}, {b.item.value.priority or 0, a.item.value.priority or 0},
        {#b.path, #a.path}, {a.item.order, b.item.order}, {a.index, b.index},
    }) do
        if pair[1] ~= pair[2] then
            return pair[1] < pair[2]
        end
    end
    return false
end

local function plain_match(items, services, mode, req)
    local list = candidates(items, services, mode, req)
    table.sort(list, before)
    for _, candidate in ipairs(list) do
        if accepts(candidate.item.value, req) then
            -- an exact path is text
            local captures = candidate.path_rank == math.huge and {} or path_captures(candidate.path, req.uri, mode == modes[3])
            if captures then
                captures._path, captures._method = candidate.path, req.method
                captures._host = candidate.host and (candidate.host:sub(1, 1) == "*" and candidate.host or req.host)
                return candidate.item, captures
            end
        end
    end
    return nil, {}
end

local function pick(list)
    return list[math.random(#list)]
end

local segments = {"a", "b", "ab", "a.b", ""}
local hosts = {"x.com", "a.x.com", "*.x.com", "*x.com", "*.a.x.com", "*"}
local requested_hosts = {"x.com", "a.x.com", "b.a.x.com", "ax.com", "y.com"}

local function random_path()
    local parts = {}
    for i = 1, math.random(3) do
        parts[i] = pick(segments)
        if math.random(6) == 1 then
            parts[i] = pick({":p", ":q", "*", "*r", "a*", "*"})
        end
    end
    local ending = math.random(4)
    return "/" .. table.concat(parts, "/") .. (ending == 1 and "/*" or ending == 2 and "*" or "")
end

local function random_uri()
    local parts = {}
    for i = 1, math.random(4) do
        parts[i] = pick({"a", "b", "ab", "a.b", "", ":p", "axb"})
    end
    return "/" .. table.concat(parts, "/")
end

local function random_hosts()
    local list = {}
    for i = 1, math.random(2) do
        list[i] = pick(hosts)
    end
    return list
end

local function random_route()
    local value = {priority = pick({0, 0, 0, 1, 5}), status = math.random(8) == 1 and 0 or 1}
    if math.random(3) == 1 then
        value.uris = {random_path(), random_path()}
    else
        value.uri = random_path()
    end
    local kind = math.random(6)
    if kind == 1 then
        value.host = pick(hosts)
    elseif kind == 2 then
        value.hosts = random_hosts()
    elseif kind == 3 then
        value.service_id = pick({"s1", "s2"})
    end
    value.methods = math.random(4) == 1 and {pick({"GET", "POST"})} or nil
    value.remote_addr = math.random(8) == 1 and "10.0.0.0/8" or nil
    value.vars = math.random(5) == 1 and {{"v", "==", pick({"1", "2"})}} or nil
    return value
end

local function random_request()
    return {
        uri = random_uri(), method = pick({"GET", "POST", "FOO"}), host = pick(requested_hosts),
        remote_addr = pick({"10.1.1.1", "::1"}), vars = {v = pick({"1", "2", "3"})},
    }
end

local function describe_request(req)
    return req.method .. " " .. req.host .. req.uri .. " from " .. req.remote_addr .. " v=" .. req.vars.v
end

describe("router, at random,", function()
    for _, mode in ipairs(modes) do
        it(mode, function()
            local seed = tonumber(os.getenv("SEED")) or 1
            math.randomseed(seed)
            local services = {s1 = {value = {hosts = {"x.com"}}}}
            local r = assert(router.new(mode, {
                service_of = function(id)
                    return services[id]
                end,
            }))
            local items, order, found_some = {}, 0, 0
            for round = 1, 1500 do
                local action, id = math.random(10), tostring(math.random(25))
                if action == 1 then
                    items[id] = nil
                    r:remove(id)
                elseif action == 2 then
                    local service = pick({"s1", "s2"})
                    services[service] = nil
                    if math.random(3) > 1 then
                        services[service] = {value = {hosts = math.random(4) > 1 and random_hosts() or nil}}
                    end
                    r:service_changed(service)
                else
                    if not items[id] then
                        order = order + 1
                    end
                    items[id] = {short_key = id, value = random_route(), order = items[id] and items[id].order or order}
                    assert(r:upsert(items[id]))
                end
                for _ = 1, 4 do
                    local req = random_request()
                    local expected, captures = plain_match(items, services, mode, req)
                    local found, matched = r:match(req, {})
                    found_some = found_some + (expected and 1 or 0)
                    local message = "SEED=" .. seed .. ", round " .. round .. ": " .. describe_request(req)
                    assert.equal(expected and expected.short_key, found and found.short_key, message)
                    if found then
                        assert.equal(expected, found, message)
                        assert.same(captures, matched, message)
                    end
                end
            end
            assert.is_true(found_some > 1000, "seed " .. seed .. " tests nothing")
            for id in pairs(items) do
                r:remove(id)
            end
            assert.same({{}, 0, 0, {}}, {r.hosts, r.any_host.count, r.wildcards.count, r.by_service}, "SEED=" .. seed)
        end)
    end
end)
