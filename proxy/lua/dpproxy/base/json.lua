-- JSON. cjson is fast and cannot tell an empty array from an empty object; dkjson can. Texts with an empty one go through dkjson,
-- so that configuration comes out as it went in. Array-ness is kept in metatables: `__jsontype` "array" or "object" (dkjson's).
-- No ngx in here.
local cjson = require("cjson.safe").new()
local dkjson = require("dkjson")

local find, type, getmetatable, setmetatable = string.find, type, getmetatable, setmetatable

cjson.encode_sparse_array(true)
cjson.decode_max_depth(100)
cjson.encode_max_depth(100)

local M = {null = cjson.null}

local array_mt = {__jsontype = "array"}
local object_mt = {__jsontype = "object"}

M.array_mt = array_mt

-- text -> value | nil, err. JSON's null is M.null (a light userdata). Numbers are doubles.
function M.decode(text)
    if type(text) ~= "string" then
        return nil, "not a string"
    end
    if not find(text, "[%[{]%s*[%]}]") then
        return cjson.decode(text)
    end
    -- cjson judges; dkjson is lenient (comments, control characters in strings).
    local ok, err = cjson.decode(text)
    if ok == nil then
        return nil, err
    end
    local value, _, message = dkjson.decode(text, 1, cjson.null, object_mt, array_mt)
    if message then
        return nil, message
    end
    return value
end

-- Is this table to be written as an array? An empty table without a metatable is an object, as with cjson.
function M.is_array(value)
    if type(value) ~= "table" then
        return false
    end
    local mt = getmetatable(value)
    if mt and mt.__jsontype then
        return mt.__jsontype == "array"
    end
    local n = #value
    if n == 0 then
        return false
    end
    local count = 0
    for _ in pairs(value) do
        count = count + 1
    end
    return count == n
end

function M.as_array(value)
    return setmetatable(value, array_mt)
end

local function has_empty_array(value, depth)
    if depth > 100 then
        return false
    end
    local empty = true
    for _, v in pairs(value) do
        empty = false
        if type(v) == "table" and has_empty_array(v, depth + 1) then
            return true
        end
    end
    if not empty then
        return false
    end
    local mt = getmetatable(value)
    return mt ~= nil and mt.__jsontype == "array"
end

-- value -> text | nil, err
function M.encode(value)
    if type(value) == "table" and has_empty_array(value, 1) then
        local ok, text = pcall(dkjson.encode, value)
        if not ok then
            return nil, text
        end
        return text
    end
    return cjson.encode(value)
end

return M
