-- core.utils: templates with variables, addresses, header checks, and odds and ends.
local ffi = require("ffi")
local core_os = require("apisix.core.os") -- declares strerror
local core_string = require("apisix.core.string")
local crypto = require("dpproxy.base.crypto")
local log = require("apisix.core.log")

local ngx = ngx
local rfind_char = core_string.rfind_char
local type, tonumber, tostring, ipairs = type, tonumber, tostring, ipairs
local str_byte, str_find, str_sub, str_match, str_gsub = string.byte, string.find, string.sub, string.match, string.gsub
local str_format = string.format
local concat = table.concat
local floor = math.floor

ffi.cdef("int gethostname(char *name, size_t len);")

local M = {version = 0.2, setenv = core_os.setenv}

-- Templates. `$name` (letters, digits, _ and .), `${name}`, `${name ?? default}`; a backslash before the dollar keeps the text
-- as it is, backslash included. A template is cut into pieces once: {literal, piece, literal, piece, …}.

local function variable_at(tpl, pos)
    local inside, after = str_match(tpl, "^%${%s*([^}]-)%s*}()", pos)
    if inside and inside ~= "" then
        local name, default = str_match(inside, "^(.-)%s*%?%?%s*(.*)$")
        return name or inside, default, after
    end
    local name
    name, after = str_match(tpl, "^%$([%w_.]+)()", pos)
    return name, nil, after
end

local function cut(tpl)
    local pieces = {n = 0}
    local literal_from, pos = 1, 1
    while true do
        local dollar = str_find(tpl, "$", pos, true)
        if not dollar then
            break
        end
        local name, default, after
        if str_byte(tpl, dollar - 1) ~= 92 or dollar == 1 then
            name, default, after = variable_at(tpl, dollar)
        end
        if name then
            local n = pieces.n
            pieces[n * 3 + 1] = str_sub(tpl, literal_from, dollar - 1)
            pieces[n * 3 + 2] = name
            pieces[n * 3 + 3] = default or false
            pieces.n = n + 1
            literal_from, pos = after, after
        else
            pos = dollar + 1
        end
    end
    pieces.tail = str_sub(tpl, literal_from)
    return pieces
end

local templates, templates_count = {}, 0

local function pieces_of(tpl)
    local pieces = templates[tpl]
    if not pieces then
        if templates_count >= 4096 then
            templates, templates_count = {}, 0
        end
        pieces = cut(tpl)
        templates[tpl] = pieces
        templates_count = templates_count + 1
    end
    return pieces
end

local output = {} -- filled and joined without a yield in between, except in getters: see below

-- resolve_var(tpl, ctx.var, escaper) -> text, nil, number of variables that were found | nil, err
-- A variable that is missing is an empty text.
function M.resolve_var(tpl, vars, escaper)
    if not tpl or type(tpl) ~= "string" or not str_find(tpl, "$", 1, true) then
        return tpl, nil, 0
    end
    local pieces = pieces_of(tpl)
    local count = pieces.n
    if count == 0 then
        return tpl, nil, 0
    end
    -- A getter may yield (a body is read) and another request come in here: take the buffer away meanwhile.
    local out = output
    output = nil
    out = out or {}
    local resolved, n = 0, 0
    for i = 0, count - 1 do
        local value = vars[pieces[i * 3 + 2]]
        if value == nil then
            value = pieces[i * 3 + 3]
            if value then
                resolved = resolved + 1
            else
                value = ""
            end
        else
            resolved = resolved + 1
        end
        if type(value) ~= "string" then
            value = tostring(value)
        end
        if escaper and value ~= "" then
            value = escaper(value)
        end
        out[n + 1] = pieces[i * 3 + 1]
        out[n + 2] = value
        n = n + 2
    end
    out[n + 1] = pieces.tail
    local text = concat(out, "", 1, n + 1)
    output = out
    return text, nil, resolved
end

-- `$1`, `${1}` from the captures of a match; what did not match is an empty text.
function M.resolve_var_with_captures(tpl, captures)
    if not tpl or not str_find(tpl, "$", 1, true) then
        return tpl, nil
    end
    captures = captures or {}
    local out, n, literal_from, pos = {}, 0, 1, 1
    while true do
        local dollar = str_find(tpl, "$", pos, true)
        if not dollar then
            break
        end
        local digits, after
        if dollar == 1 or str_byte(tpl, dollar - 1) ~= 92 then
            digits, after = str_match(tpl, "^%${?(%d+)}?()", dollar)
        end
        if digits then
            out[n + 1] = str_sub(tpl, literal_from, dollar - 1)
            out[n + 2] = captures[tonumber(digits)] or ""
            n = n + 2
            literal_from, pos = after, after
        else
            pos = dollar + 1
        end
    end
    out[n + 1] = str_sub(tpl, literal_from)
    return concat(out, "", 1, n + 1), nil
end

function M.split_uri(uri)
    local segments, n = {}, 0
    for segment in (uri .. "/"):gmatch("([^/]*)/") do
        n = n + 1
        segments[n] = segment
    end
    return segments
end

-- "host:port" -> host, port | host. IPv6 in brackets keeps them; a bare one has no port.
function M.parse_addr(addr)
    if str_byte(addr) == 91 then -- [
        local host, port = str_match(addr, "^(%[.*%]):([^%]]*)$")
        if host then
            return host, tonumber(port)
        end
        return addr, nil
    end
    if str_match(addr, "^[^.:]*:[^.:]*:") then
        return addr, nil -- IPv6, perhaps with an IPv4 tail
    end
    local pos = rfind_char(addr, ":", #addr - 1)
    if not pos then
        return addr, nil
    end
    return str_sub(addr, 1, pos - 1), tonumber(str_sub(addr, pos + 1))
end

local function percent(c)
    return str_format("%%%02X", str_byte(c))
end

-- As nginx escapes a path: everything but what a URI path may hold literally.
function M.uri_safe_encode(uri)
    return (str_gsub(uri, '[%z\1-\32"#%%<>?\\^`{|}\127-\255]', percent))
end

function M.escape_uri_control_chars(uri)
    return (str_gsub(uri, "[%z\1-\31\127]", percent))
end

function M.validate_header_field(field)
    return not str_find(field, "[^\33-\57\59-\126]") -- printable, but no colon
end

function M.validate_header_value(value)
    if type(value) ~= "string" then
        return true
    end
    return not str_find(value, "[^\32-\126]")
end

local hostname

function M.gethostname()
    if not hostname then
        local buf = ffi.new("char[256]")
        if ffi.C.gethostname(buf, 255) == 0 then
            hostname = ffi.string(buf)
        else
            hostname = "unknown"
            log.error("failed to call gethostname(): ", ffi.string(ffi.C.strerror(ffi.errno())))
        end
    end
    return hostname
end

-- In short pieces, so that a worker that is asked to leave need not wait for it.
function M.sleep(seconds)
    while seconds > 1 do
        ngx.sleep(1)
        if ngx.worker.exiting() then
            return
        end
        seconds = seconds - 1
    end
    ngx.sleep(seconds)
end

function M.get_seed_from_urandom()
    local bytes = crypto.random_bytes(8)
    local seed = 0
    for i = 1, 8 do
        seed = 256 * seed + str_byte(bytes, i)
    end
    return seed
end

local resolvers

function M.set_resolver(list)
    resolvers = list
end

function M.get_resolver()
    return resolvers
end

-- domain -> {address =, name =} | nil, err
function M.dns_parse(domain, selector)
    return require("apisix.core.dns.client"):resolve(domain, selector)
end

function M.parse_ipv4(text)
    local a, b, c, d = str_match(text, "^(%d%d?%d?)%.(%d%d?%d?)%.(%d%d?%d?)%.(%d%d?%d?)$")
    a, b, c, d = tonumber(a), tonumber(b), tonumber(c), tonumber(d)
    if not a or a > 255 or b > 255 or c > 255 or d > 255 then
        return false
    end
    return ((a * 256 + b) * 256 + c) * 256 + d
end

function M.parse_ipv6(text)
    if type(text) ~= "string" or not str_find(text, ":", 1, true) or str_find(text, "/", 1, true) then
        return false
    end
    return require("dpproxy.router.ipmatch").new({(str_gsub(text, "[%[%]]", ""))}) ~= nil
end

local function field_of(conf, path)
    local value = conf
    for name in path:gmatch("[^.]+") do
        if type(value) ~= "table" then
            return nil
        end
        value = value[name]
    end
    return value
end

local function warn_plain(field, plugin_name, value)
    if str_sub(value, 1, 5) ~= "https" then
        log.warn("Using ", plugin_name, " ", field, " with no TLS is a security risk")
    end
end

-- Warns about URLs without TLS; fields may be dotted paths.
function M.check_https(fields, conf, plugin_name)
    for _, field in ipairs(fields) do
        local value = field_of(conf, field)
        if type(value) == "table" then
            for _, v in ipairs(value) do
                warn_plain(field, plugin_name, v)
            end
        elseif type(value) == "string" then
            warn_plain(field, plugin_name, value)
        end
    end
end

function M.check_tls_bool(fields, conf, plugin_name)
    for _, field in ipairs(fields) do
        local value = field_of(conf, field)
        if value ~= true and value ~= nil then
            log.warn("Keeping ", field, " disabled in ", plugin_name, " configuration is a security risk")
        end
    end
end

function M.set_var_rate_limiting_info(ctx, key, limit, remaining, reset)
    if not ctx then
        return
    end
    ctx.var.rate_limiting_info = str_format(
        '{"rate_limiting_key":"%s","rate_limiting_limit":%d,"rate_limiting_remaining":%d,"rate_limiting_reset":%d}',
        key or "", limit or 0, tonumber(remaining) or 0, reset or 0)
end

-- UUIDs of version 7: 48 bits of milliseconds, then a counter within the millisecond, then random bits.
local v7_ms, v7_counter = 0, 0

function M.generate_uuid_v7()
    local ms = floor(ngx.now() * 1000)
    local counter
    if ms > v7_ms then
        counter = 0
    else
        ms = v7_ms -- also when the clock went back
        counter = v7_counter + 1
        if counter > 0x3ffff then
            ms, counter = ms + 1, 0
        end
    end
    v7_ms, v7_counter = ms, counter
    local hi, lo = floor(ms / 0x100000000), ms % 0x100000000
    local a, b, c, d, e, f, g = str_byte(crypto.random_bytes(7), 1, 7)
    return str_format("%04x%04x-%04x-%04x-%02x%02x-%02x%02x%02x%02x%02x%02x",
        hi, floor(lo / 65536), lo % 65536, 0x7000 + floor(counter / 64), 0x80 + counter % 64, a, b, c, d, e, f, g)
end


return M
