-- Requests that plugins answer themselves: control_api() for the control port, api() for routes with public-api. Each gives an
-- array of {methods = {…}, uri = "/a" | "/a/*" (or uris), handler = fn(ctx) -> code, body}.
local loader = require("dpproxy.plugin.loader")

local ipairs, sub = ipairs, string.sub

local M = {}

local function fits(path, uri)
    if path == uri then
        return true
    end
    local length = #path
    return sub(path, length) == "*" and sub(uri, 1, length - 1) == sub(path, 1, length - 1)
end

local function allows(methods, method)
    if not methods then
        return true
    end
    for _, allowed in ipairs(methods) do
        if allowed == method then
            return true
        end
    end
    return false
end

-- field: "api" or "control_api". -> handler | nil
function M.find(field, method, uri)
    for _, plugin in ipairs(loader.sorted) do
        for _, each in ipairs(plugin[field] and plugin[field]() or {}) do
            if allows(each.methods, method) then
                for _, path in ipairs(each.uris or {each.uri}) do
                    if fits(path, uri) then
                        return each.handler
                    end
                end
            end
        end
    end
    return nil
end

return M
