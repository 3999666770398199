-- Regular expressions: PCRE, as in nginx. Inside nginx through ngx.re with its cache; in plain LuaJIT (unit tests, the launcher)
-- through FFI to the library that Debian's ngx_lua links.
local ffi = require("ffi")

local type, tostring, sub = type, tostring, string.sub

local M = {}

local lib -- libpcre, loaded when first needed
local compiled = {} -- flags .. pattern -> {code, vector, groups} | {err = text}
local compiled_count = 0
local cache_size = 1024
local CASELESS, CAPTURECOUNT = 1, 2

local function load_library()
    ffi.cdef([[
        void *pcre_compile(const char *, int, const char **, int *, const unsigned char *);
        int pcre_exec(const void *, const void *, const char *, int, int, int, int *, int);
        int pcre_fullinfo(const void *, const void *, int, void *);
        void (*pcre_free)(void *);
    ]])
    lib = ffi.load("libpcre.so.3")
end

local function compile(pattern, caseless)
    local key = (caseless and "i" or "-") .. pattern
    local re = compiled[key]
    if re then
        return re
    end
    if not lib then
        load_library()
    end
    local err, offset = ffi.new("const char *[1]"), ffi.new("int[1]")
    local code = lib.pcre_compile(pattern, caseless and CASELESS or 0, err, offset, nil)
    if code == nil then
        re = {err = "pcre_compile() failed: " .. ffi.string(err[0])}
    else
        code = ffi.gc(code, lib.pcre_free)
        local groups = ffi.new("int[1]")
        lib.pcre_fullinfo(code, nil, CAPTURECOUNT, groups)
        re = {code = code, groups = groups[0], size = (groups[0] + 1) * 3, vector = ffi.new("int[?]", (groups[0] + 1) * 3)}
    end
    if compiled_count >= cache_size then
        compiled, compiled_count = {}, 0
    end
    compiled[key], compiled_count = re, compiled_count + 1
    return re
end

-- -> compiled pattern with its vector filled | nil, err
local function execute(subject, pattern, caseless)
    local re = compile(pattern, caseless)
    if re.err then
        return nil, re.err
    end
    local rc = lib.pcre_exec(re.code, nil, subject, #subject, 0, 0, re.vector, re.size)
    if rc == -1 then
        return nil
    elseif rc < 0 then
        return nil, "pcre_exec() failed: " .. rc
    end
    return re
end

-- Does the pattern occur? -> first index | nil, err (without err: it does not)
function M.find(subject, pattern, caseless)
    if type(subject) ~= "string" then
        subject = tostring(subject)
    end
    local ngx_re = ngx and ngx.re
    if ngx_re then
        local from, _, err = ngx_re.find(subject, pattern, caseless and "joi" or "jo")
        return from, err
    end
    local re, err = execute(subject, pattern, caseless)
    if not re then
        return nil, err
    end
    return re.vector[0] + 1
end

-- -> captures, [0] is the whole match, a group that took no part is false | nil, err
function M.match(subject, pattern, caseless)
    local ngx_re = ngx and ngx.re
    if ngx_re then
        return ngx_re.match(subject, pattern, caseless and "joi" or "jo")
    end
    local re, err = execute(subject, pattern, caseless)
    if not re then
        return nil, err
    end
    local v, captures = re.vector, {}
    for i = 0, re.groups do
        captures[i] = v[2 * i] >= 0 and sub(subject, v[2 * i] + 1, v[2 * i + 1])
    end
    return captures
end

return M
