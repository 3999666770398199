-- The API of lua-resty-string's resty.string.
local crypto = require("dpproxy.base.crypto")

local tonumber = tonumber
local str_match = string.match

local M = {}

M.to_hex = crypto.hex

-- The leading digits as a number; 0 without any.
function M.atoi(text)
    return tonumber(str_match(text, "^%s*([-+]?%d+)")) or 0
end

return M
