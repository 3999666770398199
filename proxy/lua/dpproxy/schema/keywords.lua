-- JSON Schema's keywords but `type` and `$ref`, in the order in which they are checked. Each is a function(schema, compile) that
-- gives a check(value) -> true | false, err, or nothing when the schema does not use it. compile(subschema) -> check.
local formats = require("dpproxy.schema.formats")
local json = require("dpproxy.base.json")
local re = require("dpproxy.base.re")
local tables = require("dpproxy.schema.tables")
local objects = require("dpproxy.schema.keywords_object")

local type, ipairs, unpack, error = type, ipairs, unpack, error
local format, concat, floor, abs, max = string.format, table.concat, math.floor, math.abs, math.max
local is_array, deep_equal = tables.is_array, tables.deep_equal

local function compile_list(list, compile)
    local checks = {}
    for i, schema in ipairs(list) do
        checks[i] = compile(schema)
    end
    return checks
end

local function item_count(schema)
    local min, max_items = schema.minItems or 0, schema.maxItems
    if min == 0 and not max_items then
        return
    end
    return function(value)
        if not is_array(value) then
            return true
        end
        local n = #value
        if n < min then
            return false, "expect array to have at least " .. min .. " items"
        elseif max_items and n > max_items then
            return false, "expect array to have at most " .. max_items .. " items"
        end
        return true
    end
end

local function tuple_items(schema, compile)
    local checks = compile_list(schema.items, compile)
    local rest = schema.additionalItems
    local check_rest = type(rest) == "table" and compile(rest)
    return function(value)
        if not is_array(value) then
            return true
        end
        for i = 1, #value do
            local check = checks[i]
            if check then
                local ok, err = check(value[i])
                if not ok then
                    return false, "failed to validate item " .. i .. ": " .. err
                end
            elseif rest == false then
                return false, "found unexpected extra items in array"
            elseif check_rest then
                local ok, err = check_rest(value[i])
                if not ok then
                    return false, "failed to validate additional item " .. i .. ": " .. err
                end
            end
        end
        return true
    end
end

local function items(schema, compile)
    local each = schema.items
    if each == nil or each == true then
        return
    end
    if type(each) == "table" and #each > 0 then
        return tuple_items(schema, compile)
    end
    local check = compile(each)
    return function(value)
        if not is_array(value) then
            return true
        end
        for i = 1, #value do
            local ok, err = check(value[i])
            if not ok then
                return false, "failed to validate item " .. i .. ": " .. err
            end
        end
        return true
    end
end

local function unique_items(schema)
    if schema.uniqueItems ~= true then
        return
    end
    return function(value)
        if not is_array(value) then
            return true
        end
        local seen, compound = {}, {}
        for i = 1, #value do
            local v = value[i]
            if type(v) == "table" then
                for _, j in ipairs(compound) do
                    if deep_equal(v, value[j]) then
                        return false, format("expected unique items but items %d and %d are equal", j, i)
                    end
                end
                compound[#compound + 1] = i
            elseif seen[v] then
                return false, format("expected unique items but items %d and %d are equal", seen[v], i)
            else
                seen[v] = i
            end
        end
        return true
    end
end

local function string_length(schema)
    local min, max_length = schema.minLength or 0, schema.maxLength
    if min == 0 and not max_length then
        return
    end
    return function(value)
        -- a character has one to four bytes: count only when that leaves a doubt
        if type(value) ~= "string" or #value >= min * 4 and (not max_length or #value <= max_length) then
            return true
        end
        local n = formats.length(value)
        if n < min then
            return false, format("string too short, expected at least %d, got %d", min, n)
        elseif max_length and n > max_length then
            return false, format("string too long, expected at most %d, got %d", max_length, n)
        end
        return true
    end
end

-- "$" is the end, as in ECMAScript; to PCRE it would also stand before a last newline, which ends a line of a header.
local function only_at_end(text)
    local out, i, in_class = {}, 1, false
    while i <= #text do
        local c = text:sub(i, i)
        local step = 1
        if c == "\\" then
            c, step = text:sub(i, i + 1), 2
        elseif in_class then
            in_class = c ~= "]"
        elseif c == "[" then
            in_class = true
        elseif c == "$" then
            c = "\\z"
        end
        out[#out + 1] = c
        i = i + step
    end
    return concat(out)
end

local function pattern(schema)
    local text = schema.pattern
    if text == nil then
        return
    elseif type(text) ~= "string" then
        error("pattern is not a string", 0)
    end
    local strict = only_at_end(text)
    return function(value)
        if type(value) ~= "string" or re.find(value, strict) then
            return true
        end
        return false, format("failed to match pattern %q with %q", text, value)
    end
end

local function number_range(schema)
    local min, max_number = schema.minimum, schema.maximum
    local above, below = schema.exclusiveMinimum, schema.exclusiveMaximum
    if not (min or max_number or above or below) then
        return
    end
    return function(value)
        if type(value) ~= "number" then
            return true
        elseif min and value < min then
            return false, "expected " .. value .. " to be at least " .. min
        elseif above and value <= above then
            return false, "expected " .. value .. " to be greater than " .. above
        elseif max_number and value > max_number then
            return false, "expected " .. value .. " to be at most " .. max_number
        elseif below and value >= below then
            return false, "expected " .. value .. " to be smaller than " .. below
        end
        return true
    end
end

local function multiple_of(schema)
    local unit = schema.multipleOf
    if not unit then
        return
    end
    return function(value)
        if type(value) == "number" then
            local quotient = value / unit
            local nearest = floor(quotient + 0.5)
            -- a quotient of fractions is rarely exact
            local tolerance = unit % 1 == 0 and 0 or 1e-12 * max(1, abs(nearest))
            if abs(quotient - nearest) > tolerance then
                return false, "expected " .. value .. " to be a multiple of " .. unit
            end
        end
        return true
    end
end

local function enum(schema)
    local values = schema.enum
    if values == nil then
        return
    end
    local simple, compound = {}, {}
    for _, v in ipairs(values) do
        if type(v) == "table" then
            compound[#compound + 1] = v
        else
            simple[v] = true
        end
    end
    return function(value)
        if simple[value] then
            return true
        end
        for _, v in ipairs(compound) do
            if deep_equal(value, v) then
                return true
            end
        end
        return false, "matches none of the enum values"
    end
end

local function all_of(schema, compile)
    if schema.allOf == nil then
        return
    end
    local checks = compile_list(schema.allOf, compile)
    return function(value)
        for i = 1, #checks do
            local ok, err = checks[i](value)
            if not ok then
                return false, "allOf " .. i .. " failed: " .. err
            end
        end
        return true
    end
end

local function any_of(schema, compile)
    if schema.anyOf == nil then
        return
    end
    local checks = compile_list(schema.anyOf, compile)
    local required = {}
    for _, sub in ipairs(schema.anyOf) do
        if type(sub) == "table" and sub.required then
            required[#required + 1] = json.encode(json.as_array({unpack(sub.required)}))
        end
    end
    local err = "object matches none of the required"
    if #required > 0 then
        err = err .. ": " .. concat(required, " or ")
    end
    return function(value)
        for i = 1, #checks do
            if checks[i](value) then
                return true
            end
        end
        return false, err
    end
end

local function one_of(schema, compile)
    if schema.oneOf == nil then
        return
    end
    local checks = compile_list(schema.oneOf, compile)
    return function(value)
        local matched
        for i = 1, #checks do
            if checks[i](value) then
                if matched then
                    return false, format("value should match only one schema, but matches both schemas %d and %d", matched, i)
                end
                matched = i
            end
        end
        if not matched then
            return false, "value should match only one schema, but matches none"
        end
        return true
    end
end

local function if_then_else(schema, compile)
    if schema["if"] == nil then
        return
    end
    local condition = compile(schema["if"])
    local yes = schema["then"] ~= nil and compile(schema["then"]) or tables.accept
    local no = schema["else"] ~= nil and compile(schema["else"]) or tables.accept
    return function(value)
        if condition(value) then
            if not yes(value) then
                return false, "then clause did not match"
            end
        elseif not no(value) then
            return false, "else clause did not match"
        end
        return true
    end
end

local function not_schema(schema, compile)
    if schema["not"] == nil then
        return
    end
    local check = compile(schema["not"])
    return function(value)
        if check(value) then
            return false, "value wasn't supposed to match schema"
        end
        return true
    end
end

local function string_format(schema)
    local test = formats.by_name[schema.format]
    if not test then
        return
    end
    return function(value)
        if type(value) ~= "string" or test(value) then
            return true
        end
        return false, "expect valid " .. schema.format .. " format but got: " .. value
    end
end

local function const(schema)
    local wanted = schema.const
    if wanted == nil then
        return
    end
    return function(value)
        if deep_equal(value, wanted) then
            return true
        end
        return false, "failed to check const value"
    end
end

local function contains(schema, compile)
    if schema.contains == nil then
        return
    end
    local check = compile(schema.contains)
    return function(value)
        if not is_array(value) then
            return true
        elseif #value == 0 then
            return false, "check contains: empty array is invalid"
        end
        for i = 1, #value do
            if check(value[i]) then
                return true
            end
        end
        return false, "failed to check contains"
    end
end

return {
    objects, item_count, items, unique_items, string_length, pattern, number_range, multiple_of, enum, all_of, any_of, one_of,
    if_then_else, not_schema, string_format, const, contains,
}
