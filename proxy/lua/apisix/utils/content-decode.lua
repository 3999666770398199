-- Decoders of response bodies by Content-Encoding.
local inflate = require("dpproxy.base.inflate").inflate

local M = {}

local function decode(data)
    return inflate(data)
end

local decoders = {gzip = decode, deflate = decode, ["x-gzip"] = decode}

-- -> function(text) -> text | nil, err; or nil for an unknown encoding
function M.dispatch_decoder(encoding)
    return decoders[encoding]
end

return M
