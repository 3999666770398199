-- `vars` expressions of routes and plugins (lua-resty-expr's language), compiled to closures.
--
--   compile(rule) -> function(vars) -> bool | nil, err       vars: a table, or something with __index
--
-- A rule is an array of conditions, all of which must hold: {name, op, value}, {name, "!", op, value}, {name, value} (equal), or
-- {"OR" | "AND" | "!OR" | "!AND", condition, condition, …}. What a function returns for values that it cannot compare is "no".
local ipmatch = require("dpproxy.router.ipmatch")
local json = require("dpproxy.base.json")
local re = require("dpproxy.base.re")

local type, ipairs, tonumber, tostring, error, pcall = type, ipairs, tonumber, tostring, error, pcall
local lower, upper = string.lower, string.upper

local M = {}

local max_depth = 50

-- operator -> function(right) -> test(left) -> bool
local operators = {}

operators["=="] = function(right)
    if type(right) == "number" then
        return function(left)
            return tonumber(left) == right
        end
    end
    return function(left)
        return left == right
    end
end

operators["~="] = function(right)
    if type(right) == "number" then
        return function(left)
            return tonumber(left) ~= right
        end
    end
    return function(left)
        return left ~= right
    end
end

-- Both sides as numbers; what is none compares to nothing.
local function numeric(test)
    return function(right)
        local limit = tonumber(right)
        return function(left)
            local number = tonumber(left)
            return number ~= nil and limit ~= nil and test(number, limit)
        end
    end
end

operators[">"] = numeric(function(a, b)
    return a > b
end)
operators[">="] = numeric(function(a, b)
    return a >= b
end)
operators["<"] = numeric(function(a, b)
    return a < b
end)
operators["<="] = numeric(function(a, b)
    return a <= b
end)

local function regex(caseless)
    return function(right)
        if type(right) == "number" then
            right = tostring(right)
        end
        return function(left)
            local kind = type(left)
            if kind ~= "string" and kind ~= "number" or type(right) ~= "string" then
                return false
            end
            return re.find(left, right, caseless) ~= nil
        end
    end
end

operators["~~"] = regex(false)
operators["~*"] = regex(true)

operators["in"] = function(right)
    local set = {}
    for _, value in ipairs(type(right) == "table" and right or {}) do
        set[value] = true
    end
    return function(left)
        return set[left] == true
    end
end

operators["has"] = function(right)
    return function(left)
        if type(left) == "table" then
            for i = 1, #left do
                if left[i] == right then
                    return true
                end
            end
        end
        return false
    end
end

operators["ipmatch"] = function(right)
    if right == nil or right == "" or type(right) == "table" and #right == 0 then
        error("invalid ip address", 0)
    end
    local matcher, err = ipmatch.new(type(right) == "table" and right or {right})
    if not matcher then
        error(err, 0)
    end
    return function(left)
        return matcher:match(left)
    end
end

local function condition(rule)
    local name, op, right, negate = rule[1], rule[2], rule[3], false
    if #rule == 4 then
        if op ~= "!" then
            error("bad 'not' expression", 0)
        end
        negate, op, right = true, rule[3], rule[4]
    end
    if op ~= nil then
        if type(op) ~= "string" and type(op) ~= "number" then
            error("invalid operator '" .. tostring(op) .. "'", 0)
        end
        op = lower(op)
    end
    if right == nil and not operators[op] then
        -- the short form of "equal"; its value is lower case by now, as in the original
        right, op = op, "=="
        if right == nil then
            error("invalid expression", 0)
        end
    end
    local operator = operators[op]
    if not operator then
        error("invalid operator '" .. op .. "'", 0)
    end
    if right == json.null then
        right = nil
    end
    local test = operator(right)
    if negate then
        return function(vars)
            return not test(vars[name])
        end
    end
    return function(vars)
        return test(vars[name])
    end
end

-- all hold -> yes; with `any`: one holds -> yes. `negate` turns the answer around.
local function combine(tests, any, negate)
    local n, found = #tests, any ~= negate
    if n == 1 and not negate then
        return tests[1]
    end
    return function(vars)
        for i = 1, n do
            if tests[i](vars) == any then
                return found
            end
        end
        return not found
    end
end

local logic = {
    AND = {any = false, negate = false},
    OR = {any = true, negate = false},
    ["!AND"] = {any = false, negate = true},
    ["!OR"] = {any = true, negate = true},
}

local compile

local function compile_from(rules, first, depth)
    local tests = {}
    for i = first, #rules do
        tests[#tests + 1] = compile(rules[i], depth + 1)
    end
    return tests
end

function compile(rules, depth)
    if type(rules) ~= "table" then
        error("invalid expression", 0)
    elseif #rules == 0 then
        error("rule too short", 0)
    elseif depth > max_depth then
        error("expression is nested too deeply", 0)
    end
    local head = rules[1]
    if type(head) == "table" then
        return combine(compile_from(rules, 1, depth), false, false)
    elseif type(head) ~= "string" and type(head) ~= "number" then
        error("invalid expression", 0)
    end
    local op = logic[upper(head)]
    if not op then
        return condition(rules)
    elseif #rules <= 2 then
        error("rule too short", 0)
    end
    return combine(compile_from(rules, 2, depth), op.any, op.negate)
end

local function always()
    return true
end

function M.compile(rule)
    if type(rule) ~= "table" then
        return nil, "missing argument rule"
    elseif #rule == 0 then
        return always
    end
    local head = rule[1]
    if type(head) ~= "table" and (type(head) ~= "string" or not logic[upper(head)]) then
        return nil, "rule should be wrapped inside brackets"
    end
    local ok, test = pcall(compile, rule, 1)
    if not ok then
        return nil, test
    end
    return test
end

return M
