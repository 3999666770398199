-- core.json over dpproxy.base.json.
local base = require("dpproxy.base.json")
local dkjson = require("dkjson")

local type, pairs, tostring, setmetatable, getmetatable = type, pairs, tostring, setmetatable, getmetatable

local M = {
    version = 0.1,
    array_mt = base.array_mt,
    null = base.null,
}

local function strip_nulls(t)
    for k, v in pairs(t) do
        if v == base.null then
            t[k] = nil
        elseif type(v) == "table" then
            strip_nulls(v)
        end
    end
    return t
end
M.strip_nulls = strip_nulls

-- opts.null_as_nil: nulls vanish.
function M.decode(text, opts)
    local value, err = base.decode(text)
    if opts and opts.null_as_nil then
        if value == base.null then
            return nil, err
        end
        if type(value) == "table" then
            strip_nulls(value)
        end
    end
    return value, err
end

-- A copy that JSON can hold: functions, userdata and tables that were met before as their names.
local function printable(value, seen)
    local kind = type(value)
    if kind == "function" or kind == "userdata" or kind == "cdata" or kind == "thread" then
        return tostring(value)
    end
    if kind ~= "table" then
        return value
    end
    if seen[value] then
        return tostring(value)
    end
    seen[value] = true
    local copy = {}
    for k, v in pairs(value) do
        if type(k) == "table" or type(k) == "userdata" then
            k = tostring(k)
        end
        copy[k] = printable(v, seen)
    end
    local mt = getmetatable(value)
    if mt and mt.__jsontype then
        setmetatable(copy, mt)
    end
    return copy
end

local function encode(data, force)
    if force then
        data = printable(data, {})
    end
    return base.encode(data)
end
M.encode = encode

-- Object keys in one order, so that equal values give equal texts.
local function sorted_keys(value, keys)
    if type(value) ~= "table" then
        return
    end
    for k, v in pairs(value) do
        if type(k) == "string" then
            keys[k] = true
        end
        sorted_keys(v, keys)
    end
end

function M.stably_encode(data)
    local set, keys = {}, {}
    sorted_keys(data, set)
    for k in pairs(set) do
        keys[#keys + 1] = k
    end
    table.sort(keys)
    return dkjson.encode(data, {keyorder = keys})
end
M.canonical_encode = M.stably_encode

-- log.info("conf: ", json.delay_encode(conf)) encodes only when the line is written. A ring: one call may name several.
local delayed_mt = {
    __tostring = function(self)
        local text, err = encode(self.data, self.force)
        if not text then
            return "failed to encode: " .. tostring(err)
        end
        return text
    end,
}
local ring = {}
for i = 1, 16 do
    ring[i] = setmetatable({data = "", force = false}, delayed_mt)
end
local next_slot = 0

function M.delay_encode(data, force)
    next_slot = next_slot % #ring + 1
    local slot = ring[next_slot]
    slot.data, slot.force = data, force
    return slot
end

return M
