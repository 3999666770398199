-- core.id: what this gateway calls itself. Made in the master, before the fork, so that all workers have the same; dpproxy.http
-- may set one that outlives restarts.
local crypto = require("dpproxy.base.crypto")

local M = {}

local id

function M.gen_uuid_v4()
    local bytes = {crypto.random_bytes(16):byte(1, 16)}
    bytes[7] = bytes[7] % 16 + 64
    bytes[9] = bytes[9] % 64 + 128
    return string.format("%02x%02x%02x%02x-%02x%02x-%02x%02x-%02x%02x-%02x%02x%02x%02x%02x%02x", unpack(bytes, 1, 16))
end

function M.set(new_id)
    id = new_id
end

function M.init()
    if not id then
        id = M.gen_uuid_v4()
    end
end

function M.get()
    if not id then
        M.init()
    end
    return id
end

return M
