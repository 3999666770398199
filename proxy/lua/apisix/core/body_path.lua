-- post_arg.<path>: a value in a request's body, by a path such as a.b, a[0].c, a[*].c, a..c, a['x y']. A path with a wildcard
-- gives an array of all hits; indices count from 0.
local config_local = require("apisix.core.config_local")

local type, pairs, ipairs, tonumber = type, pairs, ipairs, tonumber
local str_match, str_sub, str_find = string.match, string.sub, string.find

local M = {}

local default_max = 64 -- MiB
local max_steps = 32
local max_hits = 10000

-- Bytes of a body that is worth parsing; nil: any.
function M.max_size()
    local conf = config_local.local_conf()
    local size = conf and conf.apisix and conf.apisix.max_post_args_readable_size or default_max
    if size == 0 then
        return nil
    end
    return size * 1048576
end

-- -> array of {kind, value}: "name" | "index" | "any" | "deep"
local function parse(path)
    local steps = {}
    local rest = "." .. path
    while rest ~= "" do
        if #steps >= max_steps then
            return nil
        end
        local deep, name = str_match(rest, "^%.(%.?)([^.%[]+)")
        if name then
            rest = str_sub(rest, 2 + #deep + #name)
            if deep == "." then
                steps[#steps + 1] = {kind = "deep"}
            end
            steps[#steps + 1] = name == "*" and {kind = "any"} or {kind = "name", value = name}
        else
            local inside, after = str_match(rest, "^%.?%[([^%]]*)%]()")
            if not inside then
                return nil
            end
            rest = str_sub(rest, after)
            local quoted = str_match(inside, "^'(.*)'$") or str_match(inside, '^"(.*)"$')
            if quoted then
                steps[#steps + 1] = {kind = "name", value = quoted}
            elseif inside == "*" then
                steps[#steps + 1] = {kind = "any"}
            elseif tonumber(inside) then
                steps[#steps + 1] = {kind = "index", value = tonumber(inside)}
            else
                return nil
            end
        end
    end
    return steps
end

local function add(hits, value)
    if value ~= nil and #hits < max_hits then
        hits[#hits + 1] = value
    end
end

local function descend(value, hits, depth)
    add(hits, value)
    if depth > 64 or type(value) ~= "table" then
        return
    end
    for _, child in pairs(value) do
        if type(child) == "table" then
            descend(child, hits, depth + 1)
        end
    end
end

local function walk(from, step)
    local hits = {}
    for _, value in ipairs(from) do
        if type(value) == "table" then
            if step.kind == "name" then
                add(hits, value[step.value])
            elseif step.kind == "index" then
                add(hits, value[step.value < 0 and #value + 1 + step.value or step.value + 1])
            elseif step.kind == "any" then
                for _, child in pairs(value) do
                    add(hits, child)
                end
            else
                descend(value, hits, 1)
            end
        end
    end
    return hits
end

-- Compiled paths; they come from configuration.
local compiled, count = {}, 0

local function compile(path)
    local steps = compiled[path]
    if steps == nil then
        if count > 4096 then
            compiled, count = {}, 0
        end
        steps = parse(path) or false
        compiled[path] = steps
        count = count + 1
    end
    return steps
end

function M.get(body, path)
    local steps = compile(path)
    if not steps then
        return nil
    end
    local hits = {body}
    for i = 1, #steps do
        hits = walk(hits, steps[i])
    end
    if str_find(path, "[%[*]") or str_find(path, "..", 1, true) then
        return hits[1] ~= nil and hits or nil
    end
    return hits[1]
end

return M
