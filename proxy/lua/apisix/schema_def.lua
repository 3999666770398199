-- Schemas that plugins share: dpproxy.schema.defs under APISIX' name, and a few that only plugins need.
local ok, defs = pcall(require, "dpproxy.schema.defs")

local M = {}

M.anonymous_consumer_schema = {type = "string", minLength = 1}

-- Printable ASCII without quotes and backslashes: it goes into a header between quotes.
function M.get_realm_schema(default)
    return {
        type = "string",
        pattern = [[^[\x20-\x21\x23-\x5B\x5D-\x7E]+$]],
        default = default,
        minLength = 1,
        maxLength = 128,
    }
end

M.id_schema = {
    anyOf = {
        {type = "string", minLength = 1, maxLength = 64, pattern = [[^[a-zA-Z0-9-_.]+$]]},
        {type = "integer", minimum = 1},
    },
}

M.method_schema = {
    type = "string",
    enum = {"GET", "POST", "PUT", "DELETE", "PATCH", "HEAD", "OPTIONS", "CONNECT", "TRACE", "PURGE"},
}

M.uri_def = {type = "string", pattern = [=[^[^\/]+:\/\/([\da-zA-Z.-]+|\[[\da-fA-F:]+\])(:\d+)?]=]}

M.host_def_pat = [[^\*?[0-9a-zA-Z-._\[\]:]+$]]
M.host_def = {type = "string", pattern = M.host_def_pat}

return setmetatable(M, {__index = ok and type(defs) == "table" and defs or nil})
