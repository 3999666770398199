-- What both strategies of proxy-cache judge by.
local byte, concat, sub = string.byte, table.concat, string.sub
local dollar = byte("$")

local M = {}

-- {"$host", "text"} -> one text
function M.joined(list, ctx)
    local parts = {}
    for i = 1, #list do
        local part = list[i]
        if byte(part) == dollar then
            local value = ctx.var[sub(part, 2)]
            parts[i] = value == nil and "" or tostring(value)
        else
            parts[i] = part
        end
    end
    return concat(parts)
end

-- As nginx judges proxy_no_cache: anything but nothing and "0".
function M.is_set(list, ctx)
    if not list then
        return false
    end
    local text = M.joined(list, ctx)
    return text ~= "" and text ~= "0"
end

local function contains(list, value)
    for i = 1, #list do
        if list[i] == value then
            return true
        end
    end
    return false
end

function M.method_matches(conf, ctx)
    return contains(conf.cache_method, ctx.var.request_method)
end

function M.status_matches(conf, status)
    return contains(conf.cache_http_status, status)
end

return M
