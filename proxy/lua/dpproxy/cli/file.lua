-- The configuration file: YAML or JSON, with APISIX' ${{VAR}} and ${{VAR:=default}}, checked against spec.lua.
local spec = require("dpproxy.cli.spec")
local values = require("dpproxy.cli.values")

local M = {}

-- text, getenv -> text | nil, err. Comments are left alone.
function M.substitute(text, getenv)
    local missing
    local function value_of(name, default)
        local value = getenv(name)
        if value == nil and default ~= "" then
            value = default
        end
        missing = missing or (value == nil and name)
        return value
    end
    local out = text:gsub("[^\n]+", function(line)
        if line:find("^%s*#") then
            return nil
        end
        return (line:gsub("%${{%s*([%w_]+)%s*:?=?([^}]-)}}", value_of))
    end)
    if missing then
        return nil, "environment variable " .. missing .. " is not set"
    end
    return out
end

-- text, name -> table | nil, err
function M.parse(text, name)
    if name:find("%.json$") then
        local value, err = require("cjson.safe").decode(text)
        if value == nil then
            return nil, err
        end
        return type(value) == "table" and value or nil, "not an object"
    end
    local lyaml = require("lyaml")
    local ok, value = pcall(lyaml.load, text)
    if not ok then
        return nil, tostring(value):gsub("\n.*", "")
    end
    if value == nil or value == lyaml.null then
        return {}
    end
    if type(value) ~= "table" then
        return nil, "not a map"
    end
    return value
end

local function is_null(value, lyaml_null)
    return value == nil or value == lyaml_null or type(value) == "userdata"
end

local function is_row(known)
    return type(known.kind) == "string"
end

local function apply(known, given, into, path, report)
    for key, value in pairs(given) do
        local where = path == "" and tostring(key) or path .. "." .. tostring(key)
        local row = known[key]
        local empty = is_null(value, M.null) -- as if the key were not there
        if row == nil and not empty then
            report.warn(where .. ": unknown key, ignored")
        elseif not empty and not is_row(row) then
            if type(value) ~= "table" then
                report.refuse(where .. ": must be a map")
            else
                apply(row, value, into[key], where, report)
            end
        elseif not empty then
            if row.note then
                report.warn(where .. ": no effect, " .. row.note)
            end
            local good, err = values.check(row, value)
            if good == nil then
                report.refuse(where .. ": " .. err)
            else
                into[key] = good
            end
        end
    end
end

-- Lays a parsed file over conf. report: {warn = fn(text), refuse = fn(text)}
function M.apply(given, conf, report)
    local ok, lyaml = pcall(require, "lyaml")
    M.null = ok and lyaml.null or nil
    apply(spec.keys, given, conf, "", report)
end

local function copy(value)
    if type(value) ~= "table" then
        return value
    end
    local out = {}
    for k, v in pairs(value) do
        out[k] = copy(v)
    end
    return out
end

local function defaults(known)
    local out = {}
    for key, row in pairs(known) do
        if not is_row(row) then
            out[key] = defaults(row)
        elseif row.default ~= nil then
            local value = values.check(row, copy(row.default))
            assert(value ~= nil, "the default of " .. key)
            out[key] = value
        end
    end
    return out
end

function M.defaults()
    return defaults(spec.keys)
end

return M
