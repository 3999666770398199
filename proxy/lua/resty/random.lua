-- The API of lua-resty-string's resty.random. Always of cryptographic quality.
local crypto = require("dpproxy.base.crypto")

local M = {}

function M.bytes(n)
    return crypto.random_bytes(n)
end

return M
