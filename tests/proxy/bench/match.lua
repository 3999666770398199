-- What a match costs, in nanoseconds, for one route and for many: luajit tests/proxy/bench/match.lua [routes]
local top = arg[0]:match("^(.*)/tests/proxy/bench/[^/]*$") or "."
package.path = top .. "/proxy/lua/?.lua;" .. package.path

local router = require("dpproxy.router")

local many = tonumber(arg[1]) or 10000
local rounds = 1000000

local function build(mode, count, route)
    local r = assert(router.new(mode))
    local started = os.clock()
    for i = 1, count do
        local value = route(i)
        value.id = tostring(i)
        assert(r:upsert({short_key = value.id, value = value, order = i, kind = "routes"}))
    end
    return r, (os.clock() - started) / count * 1e6
end

local function measure(r, requests)
    local matched, best = {}, math.huge
    for _ = 1, 5 do
        local n, found = #requests, 0
        local started = os.clock()
        for i = 1, rounds do
            if r:match(requests[i % n + 1], matched) then
                found = found + 1
            end
        end
        best = math.min(best, (os.clock() - started) / rounds * 1e9)
        assert(found == rounds, "a request found no route")
    end
    return best
end

local function request(uri, host)
    return {uri = uri, method = "GET", host = host or "api.example.com", remote_addr = "127.0.0.1", vars = {arg_v = "2"}}
end

local shapes = {
    {"exact path", "radixtree_host_uri", function(i)
        return {uri = "/api/v1/resource/" .. i}
    end, function(i)
        return request("/api/v1/resource/" .. i)
    end},
    {"prefix", "radixtree_host_uri", function(i)
        return {uri = "/api/v1/resource" .. i .. "/*"}
    end, function(i)
        return request("/api/v1/resource" .. i .. "/some/thing")
    end},
    {"host and prefix", "radixtree_host_uri", function(i)
        return {uri = "/*", host = "h" .. i .. ".example.com"}
    end, function(i)
        return request("/api/v1/some/thing", "h" .. i .. ".example.com")
    end},
    {"wildcard host", "radixtree_host_uri", function(i)
        return {uri = "/*", host = "*.h" .. i .. ".example.com", methods = {"GET"}}
    end, function(i)
        return request("/api/v1/some/thing", "www.h" .. i .. ".example.com")
    end},
    {"host as a predicate", "radixtree_uri", function(i)
        return {uri = "/api/v1/resource/" .. i, hosts = {"a.example.com", "*.example.com"}, remote_addr = "127.0.0.0/8"}
    end, function(i)
        return request("/api/v1/resource/" .. i)
    end},
    {"vars", "radixtree_uri", function(i)
        return {uri = "/api/v1/resource/" .. i, vars = {{"arg_v", "==", "2"}}}
    end, function(i)
        return request("/api/v1/resource/" .. i)
    end},
    {"parameters", "radixtree_uri_with_parameter", function(i)
        return {uri = "/api/v1/resource" .. i .. "/:id/detail"}
    end, function(i)
        return request("/api/v1/resource" .. i .. "/4711/detail")
    end},
}

print(("%-22s %10s %10s %10s   %s"):format("", "1 route", many, "us/upsert", "KiB for them"))
for _, shape in ipairs(shapes) do
    local name, mode, route, make_request = shape[1], shape[2], shape[3], shape[4]
    local one = measure(build(mode, 1, route), {make_request(1)})
    collectgarbage()
    local before = collectgarbage("count")
    local r, upsert = build(mode, many, route)
    collectgarbage()
    local memory = collectgarbage("count") - before
    local requests = {}
    for i = 1, 64 do
        requests[i] = make_request(math.floor(many * i / 64))
    end
    print(("%-22s %7.0f ns %7.0f ns %10.1f   %.0f"):format(name, one, measure(r, requests), upsert, memory))
end
