-- core.schema.check(schema, value) -> true | false, err. Fills in defaults. Secret references stand for any string.
local secret_ref = require("apisix.core.secret_ref")

local setmetatable = setmetatable

local M = {
    version = 0.3,
    TYPE_CONSUMER = 1,
    TYPE_METADATA = 2,
}

-- What every plugin's schema gets beside its own properties. The comment marks schemas that have it.
M.plugin_injected_schema = {
    ["$comment"] = "this is a mark for our injected plugin schema",
    _meta = require("dpproxy.schema.plugin_meta").schema,
}

-- Compiled validators by schema; weak keys, since a hot reload brings new schema tables.
local validators = setmetatable({}, {__mode = "k"})

local function validator_of(schema)
    local validator = validators[schema]
    if validator == nil then
        local err
        validator, err = require("dpproxy.schema.validator").compile(schema, {skip = secret_ref.is_secret_ref})
        if not validator then
            return nil, err
        end
        validators[schema] = validator
    end
    return validator
end
M.valid = validator_of

function M.check(schema, value)
    local validator, err = validator_of(schema)
    if not validator then
        return false, err
    end
    return validator(value)
end

return setmetatable(M, {__index = require("apisix.schema_def")})
