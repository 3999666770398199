-- core.string: the string library, and what it lacks.
local str_find, str_sub, str_byte, str_gsub = string.find, string.sub, string.byte, string.gsub
local type, error = type, error

local M = {version = 0.1}

function M.find(haystack, needle, from)
    return str_find(haystack, needle, from or 1, true)
end

local function check_strings(s, other)
    if type(s) ~= "string" or type(other) ~= "string" then
        error("unexpected type: s:" .. type(s) .. ", prefix:" .. type(other), 3)
    end
end

function M.has_prefix(s, prefix)
    check_strings(s, prefix)
    return str_sub(s, 1, #prefix) == prefix
end

function M.has_suffix(s, suffix)
    check_strings(s, suffix)
    return #s >= #suffix and str_sub(s, #s - #suffix + 1) == suffix
end

-- The last position of one character, looking backwards from idx.
function M.rfind_char(s, ch, idx)
    local wanted = str_byte(ch)
    for i = idx or #s, 1, -1 do
        if str_byte(s, i) == wanted then
            return i
        end
    end
    return nil
end

function M.compress_script(s)
    s = str_gsub("\n" .. s, "\n%s+", "\n"):sub(2)
    return (str_gsub(s, ",%s+", ","))
end

-- 0: without a limit on the number of arguments, which would cut silently.
function M.decode_args(args)
    return ngx.decode_args(args, 0)
end

function M.encode_args(args)
    return ngx.encode_args(args)
end

return setmetatable(M, {__index = string})
