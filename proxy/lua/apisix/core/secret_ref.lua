-- What is a secret reference: "$secret://manager/id/key" or "$env://NAME", the latter in any case.
local str_byte, str_sub, str_upper = string.byte, string.sub, string.upper
local type = type

local M = {SECRET_PREFIX = "$secret://", ENV_PREFIX = "$ENV://"}

local dollar = str_byte("$")

function M.is_env(value)
    return str_upper(str_sub(value, 1, 7)) == M.ENV_PREFIX
end

function M.is_secret(value)
    return str_sub(value, 1, 10) == M.SECRET_PREFIX
end

-- schema, when given: only where it takes strings.
function M.is_secret_ref(value, schema)
    if type(value) ~= "string" or str_byte(value) ~= dollar then
        return false
    end
    if schema and schema.type and schema.type ~= "string" then
        return false
    end
    return M.is_secret(value) or M.is_env(value)
end

return M
