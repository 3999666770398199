-- Digest objects as lua-resty-string has them, for plugins of others: new() -> object with update(data), final() -> bytes,
-- reset().
local crypto = require("dpproxy.base.crypto")

local concat = table.concat
local setmetatable, tostring = setmetatable, tostring

local M = {}

-- name: of dpproxy.base.crypto.digest
function M.class(name)
    local class = {}
    local mt = {__index = class}

    function class.new()
        return setmetatable({n = 0}, mt)
    end

    function class:update(data)
        self.n = self.n + 1
        self[self.n] = tostring(data)
        return true
    end

    function class:final()
        return crypto.digest(name, concat(self, "", 1, self.n))
    end

    function class:reset()
        self.n = 0
        return true
    end

    return class
end

return M
