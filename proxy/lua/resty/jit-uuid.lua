-- The API of lua-resty-jit-uuid, as far as plugins use it: version 4 from a cryptographic source.
local id = require("apisix.core.id")

local type = type
local str_find, rep = string.find, string.rep

local hex4 = rep("%x", 4)
local pattern = "^" .. rep("%x", 8) .. "%-" .. hex4 .. "%-" .. hex4 .. "%-" .. hex4 .. "%-" .. rep("%x", 12) .. "$"

local M = {generate_v4 = id.gen_uuid_v4}

function M.seed()
    return 0
end

function M.is_valid(text)
    return type(text) == "string" and str_find(text, pattern) ~= nil
end

return setmetatable(M, {__call = M.generate_v4})
