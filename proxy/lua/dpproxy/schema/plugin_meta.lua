-- `_meta`, which any plugin's configuration may have: its schema, how it gets into a plugin's own, and what a schema cannot say.
local expr = require("dpproxy.router.expr")

local type, loadstring, rawequal = type, loadstring, rawequal

local M = {}

M.schema = {
    type = "object",
    properties = {
        disable = {type = "boolean"},
        error_response = {oneOf = {{type = "string"}, {type = "object"}}},
        priority = {type = "integer"},
        filter = {type = "array"},
        pre_function = {type = "string"},
    },
    additionalProperties = false,
}

-- Makes a plugin's schema accept `_meta` (once; in place). -> true | nil, err
function M.inject(schema)
    if type(schema) ~= "table" then
        return nil, "the plugin has no schema"
    end
    schema.properties = schema.properties or {}
    local own = schema.properties._meta
    if own ~= nil and not rawequal(own, M.schema) then
        return nil, "found forbidden '_meta' field in the schema"
    end
    schema.properties._meta = M.schema
    return true
end

function M.disabled(conf)
    return type(conf) == "table" and type(conf._meta) == "table" and conf._meta.disable == true
end

-- -> true | false, err
function M.check(name, conf)
    local meta = conf._meta
    if type(meta) ~= "table" then
        return true
    end
    if meta.filter ~= nil then
        local ok, err = expr.compile(meta.filter)
        if not ok then
            return false, "failed to validate the 'vars' expression: " .. err
        end
    end
    if type(meta.pre_function) == "string" then
        local ok, err = loadstring(meta.pre_function, "meta pre_function")
        if not ok then
            return false, "failed to load _meta.pre_function in plugin " .. name .. ": " .. err
        end
    end
    return true
end

return M
