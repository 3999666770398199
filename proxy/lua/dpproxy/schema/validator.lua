-- JSON Schema (the part of draft 7 that APISIX' schemas use), compiled once to closures. Defaults are filled in while checking.
-- Error texts are those that users of APISIX know. An empty table passes as an object and as an array, as there.
--
--   compile(schema, opts) -> check | nil, err       check(value) -> true | false, err
--   opts.skip(value, schema) -> bool                a value that is taken as it is (a reference to a secret)
local formats = require("dpproxy.schema.formats")
local keywords = require("dpproxy.schema.keywords")
local tables = require("dpproxy.schema.tables")

local type, ipairs, tonumber, tostring, pcall, error, setmetatable = type, ipairs, tonumber, tostring, pcall, error, setmetatable
local concat, gsub, gmatch, char = table.concat, string.gsub, string.gmatch, string.char
local kind_of, is_object, is_array = tables.kind, tables.is_object, tables.is_array

local M = {}

local max_schema_depth = 100 -- of nested schemas
local max_value_depth = 200 -- of references followed in one value

-- One compilation: root schema, opts, and what was compiled already (schema table -> check), which also ends recursion.
local Compiler = {}
Compiler.__index = Compiler

local types = {
    object = is_object,
    array = is_array,
    table = function(value)
        return type(value) == "table"
    end,
    integer = function(value)
        return type(value) == "number" and value % 1 == 0
    end,
    number = function(value)
        return type(value) == "number"
    end,
    string = function(value)
        return type(value) == "string"
    end,
    boolean = function(value)
        return type(value) == "boolean"
    end,
    null = function(value)
        return value == tables.null
    end,
}

local function type_test(name)
    return types[name] or error("unknown type: " .. tostring(name), 0)
end

local function check_type(schema)
    local wanted = schema.type
    if type(wanted) == "string" then
        local test = type_test(wanted)
        return function(value)
            if test(value) then
                return true
            end
            return false, "wrong type: expected " .. wanted .. ", got " .. type(value)
        end
    end
    local tests = {}
    for i, name in ipairs(wanted) do
        tests[i] = type_test(name)
    end
    local names = concat(wanted, ", ")
    return function(value)
        for i = 1, #tests do
            if tests[i](value) then
                return true
            end
        end
        return false, "wrong type: expected one of " .. names .. ", got " .. type(value)
    end
end

-- "#/definitions/x" -> the schema it names
function Compiler:resolve(ref)
    if type(ref) ~= "string" or ref:sub(1, 1) ~= "#" then
        error("cannot resolve $ref: " .. tostring(ref), 0)
    end
    local node = self.root
    for part in gmatch(ref:sub(2), "/([^/]*)") do
        part = gsub(part, "%%(%x%x)", function(hex)
            return char(tonumber(hex, 16))
        end)
        part = gsub(gsub(part, "~1", "/"), "~0", "~")
        if type(node) == "table" then
            local index = tonumber(part)
            node = node[part] == nil and index and node[index + 1] or node[part]
        else
            node = nil
        end
        if node == nil then
            error("cannot resolve $ref: " .. ref, 0)
        end
    end
    return node
end

-- A reference is compiled when it is first used: it may lead to the schema that is being compiled.
function Compiler:reference(schema, depth)
    local target = self:resolve(schema["$ref"])
    local check
    local state = self.state
    self:later(function()
        check = self:compile(target, depth)
    end)
    return function(value)
        if state.depth >= max_value_depth then
            return false, "value is nested too deeply"
        end
        state.depth = state.depth + 1
        local ok, err = check(value)
        state.depth = state.depth - 1
        return ok, err
    end
end

function Compiler:later(fn)
    local queue = self.queue
    queue[#queue + 1] = fn
end

local function all_of(checks)
    local n = #checks
    if n == 1 then
        return checks[1]
    end
    return function(value)
        for i = 1, n do
            local ok, err = checks[i](value)
            if not ok then
                return false, err
            end
        end
        return true
    end
end

function Compiler:compile(schema, depth)
    if depth > max_schema_depth then
        error("schema is nested too deeply", 0)
    end
    if schema == true then
        return tables.accept
    elseif schema == false then
        return function()
            return false, "expect false always"
        end
    elseif type(schema) ~= "table" then
        error("a schema is an object or a boolean, not a " .. type(schema), 0)
    end
    local done = self.done[schema]
    if done then
        return done
    end

    local check
    if schema["$ref"] ~= nil then
        check = self:reference(schema, depth + 1)
    else
        local checks = {}
        if schema.type ~= nil then
            checks[1] = check_type(schema)
        end
        for _, keyword in ipairs(keywords) do
            checks[#checks + 1] = keyword(schema, function(sub)
                return self:compile(sub, depth + 1)
            end)
        end
        check = #checks == 0 and tables.accept or all_of(checks)
    end
    local skip = self.skip
    if skip then
        local inner = check
        check = function(value)
            if skip(value, schema) then
                return true
            end
            return inner(value)
        end
    end
    self.done[schema] = check
    return check
end

local function compile(schema, opts)
    local state = {depth = 0}
    local compiler = setmetatable({
        root = schema, skip = opts and opts.skip, done = {}, queue = {}, state = state,
    }, Compiler)
    local check = compiler:compile(schema, 1)
    local i = 1
    while compiler.queue[i] do
        compiler.queue[i]()
        i = i + 1
    end
    return function(value)
        state.depth = 0
        return check(value)
    end
end

function M.compile(schema, opts)
    local ok, check = pcall(compile, schema, opts)
    if not ok then
        return nil, check
    end
    return check
end

local cache = setmetatable({}, {__mode = "k"})

-- Checks with a schema that is a lasting table; compiled at its first use. -> true | false, err
function M.check(schema, value, opts)
    local by_skip = cache[schema]
    if not by_skip then
        by_skip = {}
        cache[schema] = by_skip
    end
    local skip = opts and opts.skip or false
    local check = by_skip[skip]
    if not check then
        local err
        check, err = M.compile(schema, opts)
        if not check then
            return false, err
        end
        by_skip[skip] = check
    end
    return check(value)
end

M.utf8_length = formats.length
M.deep_copy = tables.deep_copy
M.deep_equal = tables.deep_equal
M.kind_of = kind_of

return M
