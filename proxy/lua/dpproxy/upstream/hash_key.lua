-- What a consistent hash is made of: `hash_on` and `key` of an upstream, compiled once. A key that the request does not have
-- becomes its remote_addr. Sums are taken over the parts, so that no string is put together. No ngx in here.
local crc32 = require("dpproxy.upstream.crc32")

local find, gsub, lower, sub, match = string.find, string.gsub, string.lower, string.sub, string.match
local type, tostring = type, tostring
local start, update, finish = crc32.start, crc32.update, crc32.finish

local M = {}

local function text_of(value)
    if type(value) == "string" then
        return value
    end
    return tostring(value)
end

-- "$a-${b}${c ?? x}" -> parts: a text, or {name =, default =}. "\$a" stays as it is.
local function parse_template(template)
    local parts, at, count = {}, 1, 0
    while at <= #template do
        local dollar = find(template, "$", at, true)
        if not dollar then
            break
        end
        local rest = sub(template, dollar + 1)
        local braced = match(rest, "^%b{}")
        local name, default
        if braced then
            name = match(braced, "^{%s*(.-)%s*}$")
            local left, right = match(name, "^(.-)%s*%?%?%s*(.*)$")
            if left then
                name, default = left, right
            end
        else
            name = match(rest, "^[%w_.]+")
        end
        local escaped = dollar > 1 and sub(template, dollar - 1, dollar - 1) == "\\"
        if name and name ~= "" and not escaped then
            if dollar > at then
                count = count + 1
                parts[count] = sub(template, at, dollar - 1)
            end
            count = count + 1
            parts[count] = {name = name, default = default}
            at = dollar + 1 + #(braced or name)
        else
            count = count + 1
            parts[count] = sub(template, at, dollar)
            at = dollar + 1
        end
    end
    if at <= #template then
        parts[count + 1] = sub(template, at)
    end
    return parts
end
M.parse_template = parse_template

local function sum_of_parts(parts, var)
    local state, resolved = start, 0
    for i = 1, #parts do
        local part = parts[i]
        if type(part) == "string" then
            state = update(state, part)
        else
            local value = var[part.name]
            if value == nil then
                value = part.default
            end
            if value ~= nil then
                resolved = resolved + 1
                state = update(state, text_of(value))
            end
        end
    end
    return resolved > 0 and finish(state) or nil
end

-- upstream_value -> compiled
function M.compile(value)
    local on, key = value.hash_on or "vars", value.key or ""
    if on == "header" then
        return {var = "http_" .. gsub(lower(key), "-", "_")}
    elseif on == "cookie" then
        return {var = "cookie_" .. key}
    elseif on == "consumer" then
        return {consumer = true}
    elseif on == "vars_combinations" then
        return {parts = parse_template(key)}
    end
    return {var = key}
end

-- compiled, ctx -> 0 .. 2^32-1
function M.sum(compiled, ctx)
    local value
    if compiled.parts then
        local sum = sum_of_parts(compiled.parts, ctx.var)
        if sum then
            return sum
        end
    elseif compiled.consumer then
        value = ctx.consumer_name
    else
        value = ctx.var[compiled.var]
    end
    if value == nil then
        value = ctx.var.remote_addr or ""
    end
    return finish(update(start, text_of(value)))
end

return M
