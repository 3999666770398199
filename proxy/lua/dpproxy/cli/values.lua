-- What single values of the configuration may look like. Each checker: (value) -> value as it is used | nil, what it must be.
-- A value that nginx.conf gets is held to a pattern here; quoting (nginx.lua) is the second fence.
local M = {}

local function is_int(value)
    return type(value) == "number" and value % 1 == 0
end

-- Environment variables and flags are texts: "8" is an integer, "true" a boolean.
function M.bool(value)
    if value == "true" or value == "false" then
        return value == "true"
    end
    if type(value) ~= "boolean" then
        return nil, "must be true or false"
    end
    return value
end

function M.number(value)
    local n = type(value) == "string" and tonumber(value) or value
    if type(n) ~= "number" or n < 0 or n ~= n or n == math.huge then
        return nil, "must be a number"
    end
    return n
end

function M.int(value)
    local n = type(value) == "string" and tonumber(value) or value
    if not is_int(n) or n < 0 or n > 2 ^ 52 then
        return nil, "must be a whole number"
    end
    return n
end

function M.port(value)
    local n = M.int(value)
    if not n or n < 1 or n > 65535 then
        return nil, "must be a port, 1 to 65535"
    end
    return n
end

function M.string(value)
    if type(value) == "number" then
        value = tostring(value)
    end
    if type(value) ~= "string" then
        return nil, "must be a text"
    end
    if value:find("%z") then
        return nil, "must not contain a NUL byte"
    end
    return value
end

local function matching(pattern, what, as_text)
    return function(value)
        if type(value) == "number" and as_text then
            value = tostring(value)
        end
        if type(value) ~= "string" or not value:find(pattern) then
            return nil, "must be " .. what
        end
        return value
    end
end

M.name = matching("^[%w_.-]+$", "a name of letters, digits, '_', '.', '-'")
M.env = matching("^[%a_][%w_]*=?[^%c]*$", "NAME or NAME=value")
M.ciphers = matching("^[%w_:!+@=-]+$", "a list of ciphers as OpenSSL writes it")
local network = matching("^[%x:.]+/?%d*$", "an address or a network")
function M.cidr(value)
    if value == "unix:" then
        return value
    end
    return network(value)
end
M.url = matching("^https?://[%w_.:%[%]-]+$", "http://HOST:PORT or https://HOST:PORT")

local time_units = matching("^%d+m?s?$", "a time, like 60s or 500ms", true)
function M.time(value)
    return time_units(value)
end

local size_units = matching("^%d+[kKmMgG]?$", "a size, like 16k or 10m", true)
function M.size(value)
    return size_units(value)
end

local plain_path = matching("^[^%c$]+$", "a path without '$' and control characters")
function M.path(value)
    return plain_path(value)
end

local tls_versions = {SSLv2 = 1, SSLv3 = 1, TLSv1 = 1, ["TLSv1.1"] = 1, ["TLSv1.2"] = 1, ["TLSv1.3"] = 1}
function M.protocols(value)
    if type(value) ~= "string" then
        return nil, "must be a text like 'TLSv1.2 TLSv1.3'"
    end
    local any
    for word in value:gmatch("%S+") do
        if not tls_versions[word] then
            return nil, "has an unknown version: " .. word
        end
        any = true
    end
    if not any then
        return nil, "is empty"
    end
    return value
end

function M.ip(value)
    local v = M.string(value)
    v = v and (v:match("^%[([%x:.]+)%]$") or v)
    if not v or not (v:find("^%d+%.%d+%.%d+%.%d+$") or v:find("^[%x:]*:[%x:.]*$")) then
        return nil, "must be an address"
    end
    return v
end

function M.workers(value)
    if value == "auto" then
        return value
    end
    local n = M.int(value)
    if not n or n < 1 or n > 1024 then
        return nil, "must be 'auto' or 1 to 1024"
    end
    return n
end

-- "IP:PORT" | "[IP]:PORT" | "PORT" | PORT | {ip =, port =, enable_http2 =, …} -> {ip =, port =}
local function listener(value)
    if type(value) == "table" then
        local port, err = M.port(value.port)
        if not port then
            return nil, "port " .. err
        end
        local ip
        if value.ip ~= nil then
            ip, err = M.ip(value.ip)
            if not ip then
                return nil, "ip " .. err
            end
        end
        return {ip = ip, port = port, enable_http2 = value.enable_http2}
    end
    local ip, port
    if type(value) == "string" then
        ip, port = value:match("^(.*):(%d+)$")
    end
    port = M.port(port or value)
    if not port then
        return nil, "must be a port or IP:PORT"
    end
    if ip then
        local err
        ip, err = M.ip(ip)
        if not ip then
            return nil, err
        end
    end
    return {ip = ip, port = port}
end

local function split(text)
    local list = {}
    for word in text:gmatch("[^,%s]+") do
        list[#list + 1] = word
    end
    return list
end

function M.listen(value)
    if type(value) == "string" then
        value = split(value)
    end
    if type(value) ~= "table" or value.port then
        value = {value}
    end
    local list = {}
    for i, each in ipairs(value) do
        local one, err = listener(each)
        if not one then
            return nil, "entry " .. i .. ": " .. err
        end
        list[i] = one
    end
    return list
end
M.tls_listen = M.listen

-- PORT | "IP:PORT" | {addr = either, tls = bool}, as apisix.stream_proxy has them -> {ip =, port =, tls =}
local function stream_listener(value, may_have_tls)
    local tls = false
    if type(value) == "table" then
        tls, value = value.tls, value.addr
        if tls ~= nil and type(tls) ~= "boolean" then
            return nil, "tls must be true or false"
        elseif tls and not may_have_tls then
            return nil, "tls is not there for UDP"
        end
    end
    if type(value) == "table" then
        return nil, "addr must be a port or IP:PORT"
    end
    local one, err = listener(value)
    if not one then
        return nil, err
    end
    return {ip = one.ip, port = one.port, tls = tls or nil}
end

local function stream_listen(value, may_have_tls)
    if type(value) ~= "table" then
        return nil, "must be a list"
    end
    local list, seen = {}, {}
    for i, each in ipairs(value) do
        local one, err = stream_listener(each, may_have_tls)
        local name = one and (one.ip or "") .. ":" .. one.port
        if not one or seen[name] then
            return nil, "entry " .. i .. ": " .. (err or "is there twice")
        end
        seen[name] = true
        list[i] = one
    end
    return list
end

function M.stream_tcp(value)
    return stream_listen(value, true)
end

function M.stream_udp(value)
    return stream_listen(value, false)
end

function M.cache_zones(value)
    if type(value) ~= "table" then
        return nil, "must be a list"
    end
    for i, zone in ipairs(value) do
        local where = "entry " .. i .. ": "
        if type(zone) ~= "table" or not M.name(zone.name) then
            return nil, where .. "name must be a name"
        end
        if not M.size(zone.memory_size) then
            return nil, where .. "memory_size must be a size"
        end
        if zone.disk_path ~= nil and (not M.path(zone.disk_path) or not M.size(zone.disk_size)
                or not matching("^[12]:?[12]?:?[12]?$", "")(zone.cache_levels or "1:2")) then
            return nil, where .. "disk_path, disk_size or cache_levels is not as it must be"
        end
    end
    return value
end

function M.any(value)
    return value
end

local check

local function list_of(row, value)
    if type(value) == "string" then
        value = split(value)
    end
    if type(value) ~= "table" or (next(value) ~= nil and value[1] == nil) then
        return nil, "must be a list"
    end
    local out = {}
    for i, each in ipairs(value) do
        local v, err = check({kind = row.of}, each)
        if v == nil then
            return nil, "entry " .. i .. ": " .. err
        end
        out[i] = v
    end
    return out
end

local function map_of(row, value)
    if type(value) ~= "table" then
        return nil, "must be a map"
    end
    local out = {}
    for k, each in pairs(value) do
        if type(k) ~= "string" or not k:find("^[%w_./-]+$") then
            return nil, "has a key that is no name"
        end
        local v, err = check({kind = row.of}, each)
        if v == nil then
            return nil, k .. " " .. err
        end
        out[k] = v
    end
    return out
end

local function one_of(row, value)
    for _, v in ipairs(row.values) do
        if v == value then
            return value
        end
    end
    if type(value) == "boolean" then -- YAML reads on and off as booleans
        return one_of(row, value and "on" or "off")
    end
    return nil, "must be one of " .. table.concat(row.values, ", ")
end

function check(row, value)
    if row.kind == "list" then
        return list_of(row, value)
    elseif row.kind == "map" then
        return map_of(row, value)
    elseif row.kind == "one_of" then
        return one_of(row, value)
    end
    return M[row.kind](value)
end

M.check = check
return M
