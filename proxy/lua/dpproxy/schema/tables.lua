-- Lua tables as JSON sees them.
local json = require("dpproxy.base.json")
local nkeys = require("table.nkeys")

local type, next, pairs, getmetatable, setmetatable = type, next, pairs, getmetatable, setmetatable

local M = {null = json.null}

-- "empty", "array", or "object" (also for a mixture)
local function kind(value)
    local n = #value
    if n == 0 then
        return next(value) == nil and "empty" or "object"
    end
    return nkeys(value) == n and "array" or "object"
end
M.kind = kind

-- An empty table is both, with or without a metatable that says what it was in JSON: some writers of configuration
-- send [] for an empty object.
function M.is_object(value)
    return type(value) == "table" and kind(value) ~= "array"
end

function M.is_array(value)
    return type(value) == "table" and kind(value) ~= "object"
end

function M.accept()
    return true
end

local function deep_copy(value)
    if type(value) ~= "table" then
        return value
    end
    local copy = {}
    for k, v in pairs(value) do
        copy[k] = deep_copy(v)
    end
    return setmetatable(copy, getmetatable(value))
end
M.deep_copy = deep_copy

local function deep_equal(a, b, depth)
    if a == b then
        return true
    end
    if type(a) ~= "table" or type(b) ~= "table" or depth > 100 then
        return false
    end
    for k, v in pairs(a) do
        if not deep_equal(v, b[k], depth + 1) then
            return false
        end
    end
    for k in pairs(b) do
        if a[k] == nil then
            return false
        end
    end
    return true
end

function M.deep_equal(a, b)
    return deep_equal(a, b, 1)
end

return M
