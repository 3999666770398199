-- One route, compiled: its predicates, `methods` as bits (0: any). What it is placed under (paths, hosts) is the routers' matter.
--
--   compile(value) -> {methods, addresses, vars, filter, …} | nil, err
--   set_hosts(route, hosts)             for routers in which a host is a predicate
--   accepts(route, req, matched, guard) -> bool            all but the methods, which are cheap enough for the caller
--   method_bits: name -> bit
--   check(value) -> true | nil, err
local bit = require("bit")
local expr = require("dpproxy.router.expr")
local ffi = require("ffi")
local ipmatch = require("dpproxy.router.ipmatch")
local clear = require("table.clear")

local bor, lshift = bit.bor, bit.lshift
local type, ipairs, pcall, tostring, setmetatable = type, ipairs, pcall, tostring, setmetatable
local loadstring, setfenv = loadstring, setfenv
local find, lower, sub, byte = string.find, string.lower, string.sub, string.byte
local C, cast = ffi.C, ffi.cast

ffi.cdef([[
    int memcmp(const void *, const void *, size_t);
]])

local method_bits = {}
local M = {method_bits = method_bits}

for i, name in ipairs({"GET", "POST", "PUT", "DELETE", "PATCH", "HEAD", "OPTIONS", "CONNECT", "TRACE", "PURGE"}) do
    method_bits[name] = lshift(1, i - 1)
end

local function compile_methods(list)
    if type(list) == "string" then
        list = {list}
    end
    local bits = 0
    for _, name in ipairs(list or {}) do
        if not method_bits[name] then
            return nil, "invalid method: " .. tostring(name)
        end
        bits = bor(bits, method_bits[name])
    end
    return bits
end

-- A filter sees all that a plugin sees; what it assigns to globals stays its own.
local function compile_filter(text, id)
    local load, err = loadstring("return " .. text, "filter_func of route " .. tostring(id))
    if not load then
        return nil, "failed to load 'filter_func' string: " .. err
    end
    setfenv(load, setmetatable({}, {__index = _G}))
    local ok, filter = pcall(load)
    if not ok or type(filter) ~= "function" then
        return nil, "'filter_func' should be a function"
    end
    return filter
end

function M.compile(value)
    local methods, err = compile_methods(value.methods)
    if not methods then
        return nil, err
    end
    local route = {methods = methods}
    local addresses = value.remote_addrs or value.remote_addr
    if addresses then
        route.addresses, err = ipmatch.new(type(addresses) == "string" and {addresses} or addresses)
        if not route.addresses then
            return nil, err
        end
    end
    if value.vars and #value.vars > 0 then
        route.vars, err = expr.compile(value.vars)
        if not route.vars then
            return nil, "failed to validate the 'vars' expression: " .. err
        end
    end
    if value.filter_func then
        route.filter, err = compile_filter(value.filter_func, value.id)
        if not route.filter then
            return nil, err
        end
    end
    return route
end

function M.check(value)
    local route, err = M.compile(value)
    if not route then
        return nil, err
    end
    return true
end

function M.set_hosts(route, hosts)
    if not hosts or #hosts == 0 then
        return
    end
    route.hosts = {}
    for i, host in ipairs(hosts) do
        host = lower(host)
        local wildcard = byte(host, 1) == 42
        route.hosts[i] = {
            name = host,
            suffix = wildcard and sub(host, 2),
            with_port = find(host, ":", 1, true) ~= nil, -- compared with the Host header, which has the port
        }
    end
end

local function ends_with(text, suffix)
    local rest = #text - #suffix
    return rest >= 0 and C.memcmp(cast("const char *", text) + rest, suffix, #suffix) == 0
end

local function host_accepts(hosts, req, matched)
    if not req.host then
        return false
    end
    for i = 1, #hosts do
        local host = hosts[i]
        local text = host.with_port and req.http_host or req.host
        if host.suffix then
            if ends_with(text, host.suffix) then
                matched._host = host.name
                return true
            end
        elseif host.name == text then
            matched._host = req.host
            return true
        end
    end
    return false
end

-- May this request take the route? What its owner wrote may fail: then the answer is no.
-- caller's `req` or the router's `matched`: both are as before afterwards.
local function run_predicates(route, req, matched, guard)
    local uri, method, host, http_host = req.uri, req.method, req.host, req.http_host
    local remote_addr, vars, matched_host = req.remote_addr, req.vars, matched._host
    guard.busy = guard.busy + 1
    local ok, answer = true, true
    if route.vars then
        ok, answer = pcall(route.vars, vars)
    end
    if ok and answer and route.filter then
        ok, answer = pcall(route.filter, vars, req)
    end
    guard.busy = guard.busy - 1
    req.uri, req.method, req.host, req.http_host = uri, method, host, http_host
    req.remote_addr, req.vars = remote_addr, vars
    clear(matched)
    matched._host = matched_host
    return ok, answer
end

-- May this request take the route? What its owner wrote may fail (then: no), and may yield (it reads the body).
function M.accepts(route, req, matched, guard)
    if route.addresses and not route.addresses:match(req.remote_addr) then
        return false
    end
    if route.hosts and not host_accepts(route.hosts, req, matched) then
        return false
    end
    if not route.vars and not route.filter then
        return true
    end
    local ok, answer = run_predicates(route, req, matched, guard)
    if not ok then
        if guard.on_error then
            guard.on_error(route.item, answer)
        end
        return false
    end
    return answer and true or false
end

return M
