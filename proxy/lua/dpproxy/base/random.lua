-- Random bytes, a block of them at a time, and identifiers made of them.
local bit = require("bit")
local crypto = require("dpproxy.base.crypto")

local byte, char, format, sub = string.byte, string.char, string.format, string.sub
local floor = math.floor

local M = {}

-- OpenSSL is asked for a block: a call for 16 bytes costs nearly as much as one for 512. Not before use_pool(): what the master
-- had left of a block when it forked, every worker would give out.
local pool_size = 512
local pool = ""
local used = pool_size
local pools = false

function M.bytes(n)
    if n > 64 or not pools then
        return crypto.random_bytes(n)
    end
    if used + n > pool_size then
        pool, used = crypto.random_bytes(pool_size), 0
    end
    used = used + n
    return sub(pool, used - n + 1, used)
end

-- For a worker, after the fork.
function M.use_pool()
    pools = true
end

local uuid_format = "%02x%02x%02x%02x-%02x%02x-%02x%02x-%02x%02x-%02x%02x%02x%02x%02x%02x"

function M.uuid4()
    local a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p = byte(M.bytes(16), 1, 16)
    return format(uuid_format, a, b, c, d, e, f, bit.bor(bit.band(g, 0x0f), 0x40), h, bit.bor(bit.band(i, 0x3f), 0x80), j,
        k, l, m, n, o, p)
end

-- n characters of the alphabet, each as likely as the others.
function M.text(n, alphabet)
    local size = #alphabet
    local limit = 256 - 256 % size
    local out, count = {}, 0
    while count < n do
        local bytes = M.bytes(n < 64 and n or 64)
        for i = 1, #bytes do
            local value = byte(bytes, i)
            if value < limit or size > 256 then
                local at = value % size + 1
                count = count + 1
                out[count] = sub(alphabet, at, at)
                if count == n then
                    break
                end
            end
        end
    end
    return table.concat(out)
end

local base62 = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"

-- 4 bytes of seconds since 2014-05-13, 16 random bytes, in base 62: 27 characters that sort by time.
function M.ksuid(seconds)
    local stamp = floor(seconds) - 1400000000
    local raw = char(floor(stamp / 2 ^ 24) % 256, floor(stamp / 2 ^ 16) % 256, floor(stamp / 2 ^ 8) % 256, stamp % 256) ..
        M.bytes(16)
    local digits = {byte(raw, 1, 20)}
    local out = {}
    for place = 27, 1, -1 do
        local rest = 0
        for i = 1, 20 do
            local value = rest * 256 + digits[i]
            digits[i] = floor(value / 62)
            rest = value % 62
        end
        out[place] = sub(base62, rest + 1, rest + 1)
    end
    return table.concat(out)
end

return M
