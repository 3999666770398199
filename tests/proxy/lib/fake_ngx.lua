-- Just enough of ngx for unit tests of plugins and of apisix.core under plain LuaJIT. install() makes a new one the global `ngx`,
-- for one request; call it before what is tested is loaded. What the code under test did is read from the fields of `fake`.
local ffi = require("ffi")

ffi.cdef([[
void *pcre_compile(const char *, int, const char **, int *, const unsigned char *);
int pcre_exec(const void *, const void *, const char *, int, int, int, int *, int);
]])
local pcre = ffi.load("libpcre.so.3")

local M = {}

-- Regular expressions

local option_bits = {i = 1, m = 2, s = 4, x = 8}
local compiled = {}

local function compile(pattern, flags)
    local options = 0
    for letter, bits in pairs(option_bits) do
        if flags and flags:find(letter, 1, true) then
            options = options + bits
        end
    end
    local key = options .. pattern
    if not compiled[key] then
        local err, offset = ffi.new("const char *[1]"), ffi.new("int[1]")
        local code = pcre.pcre_compile(pattern, options, err, offset, nil)
        if code == nil then
            return nil, "pcre_compile() failed: " .. ffi.string(err[0])
        end
        compiled[key] = code
    end
    return compiled[key]
end

local vector = ffi.new("int[90]")

-- -> captures with [0], first and last index | nil
local function exec(subject, code, from)
    local n = pcre.pcre_exec(code, nil, subject, #subject, from - 1, 0, vector, 90)
    if n <= 0 then
        return nil
    end
    local captures = {}
    for i = 0, n - 1 do
        captures[i] = vector[2 * i] >= 0 and subject:sub(vector[2 * i] + 1, vector[2 * i + 1])
    end
    return captures, vector[0] + 1, vector[1]
end

local re = {}

function re.match(subject, pattern, flags)
    local code, err = compile(pattern, flags)
    if not code then
        return nil, err
    end
    return (exec(subject, code, 1))
end

function re.find(subject, pattern, flags)
    local code, err = compile(pattern, flags)
    if not code then
        return nil, nil, err
    end
    local _, first, last = exec(subject, code, 1)
    return first, last
end

function re.gmatch(subject, pattern, flags)
    local code, err = compile(pattern, flags)
    if not code then
        return nil, err
    end
    local from = 1
    return function()
        if from > #subject + 1 then
            return nil
        end
        local captures, first, last = exec(subject, code, from)
        if captures then
            from = last < first and last + 2 or last + 1
        end
        return captures
    end
end

local function replacement(with, captures)
    if type(with) == "function" then
        return with(captures)
    end
    return (with:gsub("%$(%d+)", function(i)
        return captures[tonumber(i)] or ""
    end))
end

local function substitute(subject, pattern, with, flags, once)
    local code, err = compile(pattern, flags)
    if not code then
        return nil, nil, err
    end
    local out, from, count = {}, 1, 0
    while from <= #subject + 1 do
        local captures, first, last = exec(subject, code, from)
        if not captures then
            break
        end
        count = count + 1
        out[#out + 1] = subject:sub(from, first - 1)
        out[#out + 1] = replacement(with, captures)
        from = last + 1
        if last < first then
            out[#out + 1] = subject:sub(first, first)
            from = first + 1
        end
        if once then
            break
        end
    end
    out[#out + 1] = subject:sub(from)
    return table.concat(out), count
end

function re.sub(subject, pattern, with, flags)
    return substitute(subject, pattern, with, flags, true)
end

function re.gsub(subject, pattern, with, flags)
    return substitute(subject, pattern, with, flags, false)
end

-- URI arguments

local function unescape(text)
    return (text:gsub("+", " "):gsub("%%(%x%x)", function(hex)
        return string.char(tonumber(hex, 16))
    end))
end

local function escape(text)
    return (tostring(text):gsub("[^%w%-._~]", function(c)
        return ("%%%02X"):format(c:byte())
    end))
end

local function decode_args(text)
    local args = {}
    for pair in (text or ""):gmatch("[^&]+") do
        local name, value = pair:match("^([^=]*)=(.*)$")
        name = unescape(name or pair)
        value = value and unescape(value) or true
        if args[name] == nil then
            args[name] = value
        elseif type(args[name]) == "table" then
            table.insert(args[name], value)
        else
            args[name] = {args[name], value}
        end
    end
    return args
end

local function encode_args(args)
    local out = {}
    for name, value in pairs(args) do
        for _, v in ipairs(type(value) == "table" and value or {value}) do
            out[#out + 1] = v == true and escape(name) or escape(name) .. "=" .. escape(v)
        end
    end
    table.sort(out)
    return table.concat(out, "&")
end

-- A view of headers: any case, and "_" for "-".
local function header_table(values)
    local function key_of(name)
        return (name:lower():gsub("_", "-"))
    end
    return setmetatable({}, {
        __index = function(_, name)
            return values[key_of(name)]
        end,
        __newindex = function(_, name, value)
            values[key_of(name)] = value
        end,
    })
end

local function request_headers_copy(values)
    local copy = {}
    for k, v in pairs(values) do
        copy[k] = v
    end
    return setmetatable(copy, {__index = function(t, name)
        return rawget(t, (name:lower():gsub("_", "-")))
    end})
end

local function first(value)
    if type(value) == "table" then
        return value[1]
    end
    return value
end

local function crc32(text)
    local crc = 0xffffffff
    for i = 1, #text do
        crc = bit.bxor(crc, text:byte(i))
        for _ = 1, 8 do
            crc = bit.bxor(bit.rshift(crc, 1), bit.band(0xedb88320, -bit.band(crc, 1)))
        end
    end
    return bit.bnot(crc) % 2 ^ 32
end

local exit_mark = setmetatable({}, {__tostring = function() return "ngx.exit" end})
M.exit_mark = exit_mark

-- request: {method =, uri =, args = "a=1", headers = {name = value}, body =, body_file =, vars = {name = value}}
-- -> fake: {logs =, printed = text, exited = code, request_headers =, response_headers =, sleeps =, timers =, now =, phase =}
function M.install(request)
    request = request or {}
    request.vars = request.vars or {}
    local fake = {
        logs = {}, printed = "", response_headers = {}, request_headers = {}, sleeps = {}, timers = {},
        now = 1700000000, request = request, phase = "access",
    }
    for name, value in pairs(request.headers or {}) do
        fake.request_headers[name:lower()] = value
    end

    local builtin = {
        uri = function() return request.uri or "/" end,
        args = function() return request.args end,
        is_args = function() return request.args and request.args ~= "" and "?" or "" end,
        request_uri = function() return (request.uri or "/") .. (request.args and "?" .. request.args or "") end,
        request_method = function() return request.method or "GET" end,
        remote_addr = function() return "127.0.0.1" end,
        scheme = function() return "http" end,
        host = function() return first(fake.request_headers.host) or "localhost" end,
    }

    local function get_var(_, name)
        if request.vars[name] ~= nil then
            return request.vars[name]
        elseif name:sub(1, 5) == "http_" then
            for header, value in pairs(fake.request_headers) do
                if header:gsub("-", "_") == name:sub(6) then
                    return first(value)
                end
            end
        elseif builtin[name] then
            return builtin[name]()
        end
    end

    local function log(level, ...)
        local parts = {...}
        for i = 1, select("#", ...) do
            parts[i] = tostring(parts[i])
        end
        table.insert(fake.logs, {level = level, text = table.concat(parts)})
    end

    local function print_body(...)
        for i = 1, select("#", ...) do
            local part = select(i, ...)
            fake.printed = fake.printed .. (type(part) == "table" and table.concat(part) or tostring(part))
        end
        return true
    end

    local crypto = require("dpproxy.base.crypto")
    _G.ngx = {
        STDERR = 0, EMERG = 1, ALERT = 2, CRIT = 3, ERR = 4, WARN = 5, NOTICE = 6, INFO = 7, DEBUG = 8,
        OK = 0, ERROR = -1, HTTP_OK = 200, HTTP_FORBIDDEN = 403,
        null = require("cjson").null,
        config = {subsystem = "http", prefix = function() return "/" end, ngx_lua_version = 10023},
        ctx = {},
        re = re,
        arg = {},
        shared = {},
        header = header_table(fake.response_headers),
        headers_sent = false,
        log = log,
        print = print_body,
        flush = function() return true end,
        say = function(...)
            print_body(...)
            return print_body("\n")
        end,
        exit = function(code)
            fake.exited = code
            if fake.phase ~= "header_filter" then -- there, nginx goes by it when the phase is over
                coroutine.yield(exit_mark)
            end
        end,
        get_phase = function() return fake.phase end,
        now = function() return fake.now end,
        time = function() return math.floor(fake.now) end,
        update_time = function() end,
        sleep = function(seconds)
            table.insert(fake.sleeps, seconds)
            fake.now = fake.now + seconds
        end,
        worker = {exiting = function() return false end, id = function() return 0 end, pid = function() return 1 end},
        timer = {
            at = function(delay, fn, ...)
                table.insert(fake.timers, {delay = delay, fn = fn, args = {...}})
                return true
            end,
            every = function(interval, fn, ...)
                table.insert(fake.timers, {every = interval, fn = fn, args = {...}})
                return true
            end,
        },
        encode_args = encode_args,
        decode_args = decode_args,
        escape_uri = escape,
        unescape_uri = unescape,
        encode_base64 = crypto.encode_base64,
        decode_base64 = function(text) return (crypto.decode_base64(text)) end,
        md5 = function(text) return crypto.hex(crypto.md5(text)) end,
        crc32_short = crc32,
        crc32_long = crc32,
        var = setmetatable({}, {
            __index = get_var,
            __newindex = function(_, name, value) request.vars[name] = value end,
        }),
        req = {
            get_headers = function() return request_headers_copy(fake.request_headers) end,
            set_header = function(name, value) fake.request_headers[name:lower()] = value end,
            clear_header = function(name) fake.request_headers[name:lower()] = nil end,
            get_method = function() return request.method or "GET" end,
            set_method = function(method) request.method = method end,
            get_uri_args = function() return decode_args(request.args) end,
            set_uri_args = function(args) request.args = type(args) == "table" and encode_args(args) or args end,
            set_uri = function(uri) request.uri = uri end,
            get_post_args = function() return decode_args(request.body) end,
            read_body = function() end,
            get_body_data = function() return request.body end,
            get_body_file = function() return request.body_file end,
            set_body_data = function(body) request.body = body end,
            http_version = function() return 1.1 end,
            start_time = function() return fake.now end,
        },
    }
    fake.ngx = _G.ngx

    -- Another request over the same ngx, which modules that are loaded already hold.
    function fake.next(next_request)
        for k in pairs(request) do
            request[k] = nil
        end
        for k, v in pairs(next_request or {}) do
            request[k] = v
        end
        request.vars = request.vars or {}
        for k in pairs(fake.request_headers) do
            fake.request_headers[k] = nil
        end
        for name, value in pairs(request.headers or {}) do
            fake.request_headers[name:lower()] = value
        end
        for k in pairs(fake.response_headers) do
            fake.response_headers[k] = nil
        end
        fake.printed, fake.exited, fake.ngx.status, fake.ngx.ctx = "", nil, nil, {}
    end
    return fake
end

-- Forgets what has been loaded over the last ngx: modules keep its functions in locals.
function M.unload()
    for name in pairs(package.loaded) do
        if name:find("^apisix") or name:find("^dpproxy%.plugin") or name:find("^resty%.") then
            package.loaded[name] = nil
        end
    end
end

-- Runs fn as a phase of nginx: ngx.exit ends it, as nginx does it, by not coming back. -> true, results | false when it
-- was ended so
function M.run(fn, ...)
    local results = {coroutine.resume(coroutine.create(fn), ...)}
    if not results[1] then
        error(results[2], 0)
    end
    if results[2] == exit_mark then
        return false
    end
    return unpack(results)
end

return M
