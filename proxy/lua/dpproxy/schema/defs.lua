-- Pieces of schemas that several kinds of objects share.
local M = {}

M.id = {
    anyOf = {
        {type = "string", minLength = 1, maxLength = 64, pattern = "^[a-zA-Z0-9-_.]+$"},
        {type = "integer", minimum = 1},
    },
}

M.name = {type = "string", minLength = 1, maxLength = 256}
M.desc = {type = "string", maxLength = 256}
M.label_value = {type = "string", minLength = 1, maxLength = 256, pattern = "^\\S+$"}
M.labels = {type = "object", patternProperties = {[".*"] = M.label_value}}
M.timestamp = {type = "integer"}
M.plugins = {type = "object"}
M.script = {type = "string", minLength = 10, maxLength = 102400}

M.host_pattern = "^\\*$|^\\*?[0-9a-zA-Z-._\\[\\]:]+$"
M.host = {type = "string", pattern = M.host_pattern}
M.hosts = {type = "array", items = M.host, minItems = 1, uniqueItems = true}

local octet = "(25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])"
M.ip = {
    {title = "IPv4", type = "string", format = "ipv4"},
    {title = "IPv4/CIDR", type = "string", pattern = "^(" .. octet .. "\\.){3}" .. octet .. "/([12]?[0-9]|3[0-2])$"},
    {title = "IPv6", type = "string", format = "ipv6"},
    {
        title = "IPv6/CIDR", type = "string",
        pattern = "^([a-fA-F0-9]{0,4}:){1,8}(:[a-fA-F0-9]{0,4}){0,8}([a-fA-F0-9]{0,4})?/[0-9]{1,3}$",
    },
}
M.address = {type = "string", anyOf = M.ip}

M.uri = {type = "string", pattern = [=[^[^\/]+:\/\/([\da-zA-Z.-]+|\[[\da-fA-F:]+\])(:\d+)?]=]}

M.methods = {"GET", "POST", "PUT", "DELETE", "PATCH", "HEAD", "OPTIONS", "CONNECT", "TRACE", "PURGE"}
M.method = {type = "string", enum = M.methods}
M.port = {type = "integer", minimum = 1, maximum = 65535}
M.switch = {type = "integer", enum = {1, 0}, default = 1}

local seconds = {type = "number", exclusiveMinimum = 0}
M.timeout = {
    type = "object",
    properties = {connect = seconds, send = seconds, read = seconds},
    required = {"connect", "send", "read"},
}

M.certificate = {type = "string", minLength = 128, maxLength = 64 * 1024}
M.private_key = {type = "string", minLength = 64, maxLength = 64 * 1024}

-- An object that may have no other properties than the given ones and those that describe any object.
function M.object(schema)
    schema.type = "object"
    schema.additionalProperties = false
    local properties = schema.properties
    properties.id = properties.id or M.id
    properties.create_time = M.timestamp
    properties.update_time = M.timestamp
    return schema
end

-- The same, with what most kinds have for people to read.
function M.described(schema)
    local properties = schema.properties
    properties.name = properties.name or M.name
    properties.desc = M.desc
    properties.labels = M.labels
    return M.object(schema)
end

return M
