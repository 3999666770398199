-- What the validator needs to know about strings: their length in characters, and JSON Schema's `format`s.
local ip = require("dpproxy.base.ip")
local re = require("dpproxy.base.re")

local byte = string.byte

local M = {}

local function continuation(c)
    return c ~= nil and c >= 0x80 and c <= 0xBF
end

-- How many bytes has the character at i? A byte that starts no valid UTF-8 sequence counts as one character.
local function char_size(s, i)
    local a, b = byte(s, i, i + 1)
    if a < 0xC2 or a > 0xF4 or not continuation(b) then
        return 1
    elseif a <= 0xDF then
        return 2
    end
    -- overlong forms, surrogates, and what lies above U+10FFFF
    if a == 0xE0 and b < 0xA0 or a == 0xED and b > 0x9F or a == 0xF0 and b < 0x90 or a == 0xF4 and b > 0x8F then
        return 1
    end
    if not continuation(byte(s, i + 2)) then
        return 1
    elseif a <= 0xEF then
        return 3
    end
    return continuation(byte(s, i + 3)) and 4 or 1
end

function M.length(s)
    local i, n, count = 1, #s, 0
    while i <= n do
        i = i + (byte(s, i) < 0x80 and 1 or char_size(s, i))
        count = count + 1
    end
    return count
end

local function pattern(text)
    return function(s)
        return re.find(s, text) ~= nil
    end
end

-- format -> function(string) -> bool; an unknown format accepts everything
M.by_name = {
    ipv4 = function(s)
        return ip.parse_v4(s) ~= nil
    end,
    ipv6 = function(s)
        return byte(s, 1) ~= 91 and ip.parse_v6(s) ~= nil
    end,
    email = pattern([=[\A[\w.\-]+@[\w.\-]+\.[A-Za-z]{2,4}\z]=]),
    hostname = pattern([=[\A[A-Za-z0-9.\-]+\z]=]),
    uuid = pattern([=[\A[[:xdigit:]]{8}(-[[:xdigit:]]{4}){3}-[[:xdigit:]]{12}\z]=]),
    date = pattern([=[\A\d{4}-(0[1-9]|1[0-2])-(0[1-9]|[12]\d|3[01])\z]=]),
    ["date-time"] = pattern([=[(?i)\A\d{4}-(0[1-9]|1[0-2])-(0[1-9]|[12]\d|3[01])T([01]\d|2[0-3])(:[0-5]\d){2}(\.\d+)?]=] ..
        [=[(Z|[+\-]([01]\d|2[0-3]):[0-5]\d)\z]=]),
    uri = pattern([=[\A[A-Za-z][A-Za-z0-9+.\-]*:\S*\z]=]),
}

return M
