-- JSON Schema's keywords for objects: properties with their defaults, required, dependencies, patternProperties,
-- additionalProperties, propertyNames, and the number of properties. One check for all of them.
local re = require("dpproxy.base.re")
local tables = require("dpproxy.schema.tables")

local type, pairs, ipairs, tostring, next = type, pairs, ipairs, tostring, next
local format, sort = string.format, table.sort
local is_object, deep_copy, nkeys = tables.is_object, tables.deep_copy, require("table.nkeys")

local function sorted_keys(t)
    local keys = {}
    for k in pairs(t) do
        keys[#keys + 1] = k
    end
    sort(keys, function(a, b)
        return tostring(a) < tostring(b)
    end)
    return keys
end

-- A list of names that must be there too, or a schema for the whole object.
local function compile_dependency(name, dependency, compile)
    if type(dependency) ~= "table" or #dependency == 0 then
        local check = compile(dependency)
        return function(value)
            local ok, err = check(value)
            if not ok then
                return false, format("failed to validate dependent schema for %q: ", name) .. err
            end
            return true
        end
    end
    return function(value)
        for _, other in ipairs(dependency) do
            if value[other] == nil then
                return false, format("property %q is required when %q is set", other, name)
            end
        end
        return true
    end
end

-- -> array of {name, check, required = bool, default =, dependency = check}, in the order of their names (so that errors do not
-- depend on the order in which a hash is walked); those that are only required, or only depended on, come last
local function compile_properties(schema, compile)
    local list, by_name = {}, {}
    local function entry(name)
        if not by_name[name] then
            by_name[name] = {name = name}
            list[#list + 1] = by_name[name]
        end
        return by_name[name]
    end
    local properties = schema.properties or {}
    for _, name in ipairs(sorted_keys(properties)) do
        local sub = properties[name]
        local property = entry(name)
        property.check = compile(sub)
        property.prefix = format("property %q validation failed: ", name)
        if type(sub) == "table" and sub.default ~= tables.null then
            property.default = sub.default
        end
    end
    for _, name in ipairs(schema.required or {}) do
        entry(name).required = format("property %q is required", name)
    end
    for _, name in ipairs(sorted_keys(schema.dependencies or {})) do
        entry(name).dependency = compile_dependency(name, schema.dependencies[name], compile)
    end
    return list
end

local function check_properties(list, value)
    for i = 1, #list do
        local property = list[i]
        local v = value[property.name]
        if v ~= nil then
            local check = property.check
            if check then
                local ok, err = check(v)
                if not ok then
                    return false, property.prefix .. err
                end
            end
            if property.dependency then
                local ok, err = property.dependency(value)
                if not ok then
                    return false, err
                end
            end
        elseif property.required then
            return false, property.required
        elseif property.default ~= nil then
            value[property.name] = deep_copy(property.default)
        end
    end
    return true
end

local function compile_patterns(schema, compile)
    local list = {}
    local patterns = schema.patternProperties or {}
    for _, text in ipairs(sorted_keys(patterns)) do
        -- ".*" is what APISIX writes for "each"
        list[#list + 1] = {text = text, check = compile(patterns[text]), all = text == ".*" or text == ""}
    end
    return list
end

-- Walks all properties: patternProperties, then additionalProperties for what neither they nor `properties` name.
local function check_others(patterns, known, additional, value)
    for name, v in pairs(value) do
        local key = type(name) == "string" and name or tostring(name)
        local matched = known[name]
        for i = 1, #patterns do
            local pattern = patterns[i]
            if pattern.all or re.find(key, pattern.text) then
                matched = true
                local ok, err = pattern.check(v)
                if not ok then
                    return false, format("failed to validate %s (matching %q): ", key, pattern.text) .. err
                end
            end
        end
        if not matched and additional ~= nil then
            if not additional then
                return false, "additional properties forbidden, found " .. key
            end
            local ok, err = additional(v)
            if not ok then
                return false, "failed to validate additional property " .. key .. ": " .. err
            end
        end
    end
    return true
end

local function check_names(check, value)
    for name in pairs(value) do
        local ok, err = check(name)
        if not ok then
            return false, "invalid property name " .. tostring(name) .. ": " .. err
        end
    end
    return true
end

return function(schema, compile)
    local additional = schema.additionalProperties
    if not (schema.properties or additional ~= nil or schema.patternProperties or schema.minProperties or schema.maxProperties
        or schema.dependencies or schema.required or schema.propertyNames ~= nil) then
        return
    end
    local properties = compile_properties(schema, compile)
    local patterns = compile_patterns(schema, compile)
    local known = {}
    for name in pairs(schema.properties or {}) do
        known[name] = true
    end
    if additional == true then
        additional = nil
    elseif type(additional) == "table" then
        additional = compile(additional)
    end
    local walk = #patterns > 0 or additional ~= nil
    local min, max = schema.minProperties, schema.maxProperties
    local names = schema.propertyNames ~= nil and compile(schema.propertyNames)
    local must_be_empty = type(schema.required) == "table" and #schema.required == 0

    return function(value)
        if not is_object(value) then
            return true
        end
        local ok, err = check_properties(properties, value)
        if ok and walk then
            ok, err = check_others(patterns, known, additional, value)
        end
        if ok and names then
            ok, err = check_names(names, value)
        end
        if not ok then
            return false, err
        end
        if min and nkeys(value) < min then
            return false, "expect object to have at least " .. min .. " properties"
        elseif max and nkeys(value) > max then
            return false, "expect object to have at most " .. max .. " properties"
        elseif must_be_empty and next(value) ~= nil then
            return false, "the input data should be an empty table"
        end
        return true
    end
end
