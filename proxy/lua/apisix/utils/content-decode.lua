-- Decoders of response bodies by Content-Encoding.
local unpackers = require("dpproxy.base.inflate")

local M = {}

local function gzip(data)
    return unpackers.inflate(data)
end

local function deflate(data)
    return unpackers.inflate_deflate(data)
end

local decoders = {gzip = gzip, ["x-gzip"] = gzip, deflate = deflate}

-- -> function(text) -> text | nil, err; or nil for an unknown encoding
function M.dispatch_decoder(encoding)
    return decoders[encoding]
end

return M
