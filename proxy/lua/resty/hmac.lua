-- The API of lua-resty-hmac.
local crypto = require("dpproxy.base.crypto")

local concat = table.concat
local setmetatable = setmetatable

local M = {ALGOS = {MD5 = "md5", SHA1 = "sha1", SHA256 = "sha256", SHA384 = "sha384", SHA512 = "sha512"}}
local mt = {__index = M}

-- algorithm: one of ALGOS, MD5 by default
function M.new(_, key, algorithm)
    return setmetatable({key = key, algorithm = algorithm or M.ALGOS.MD5, n = 0}, mt)
end

function M:update(data)
    self.n = self.n + 1
    self[self.n] = data
    return true
end

-- -> bytes, or hexadecimal digits; the object can be used again
function M:final(data, hex)
    if data then
        self:update(data)
    end
    local bytes, err = crypto.hmac(self.algorithm, self.key, concat(self, "", 1, self.n))
    self.n = 0
    if not bytes then
        return nil, err
    end
    return hex and crypto.hex(bytes) or bytes
end

function M:reset()
    self.n = 0
    return true
end

return M
