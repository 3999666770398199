-- core.config_util
local type, ipairs = type, ipairs
local tonumber = tonumber
local str_gmatch, str_match = string.gmatch, string.match

local M = {}

local function next_table(values, i)
    while values do
        i = i + 1
        local value = values[i]
        if value == nil then
            return nil
        end
        if type(value) == "table" then
            return i, value
        end
    end
end

-- for _, item in config_util.iterate_values(values): deleted slots (false) are passed over.
function M.iterate_values(values)
    return next_table, values, 0
end

function M.add_clean_handler(item, func)
    item.clean_handlers = item.clean_handlers or {}
    local handler = {id = #item.clean_handlers + 1, f = func}
    item.clean_handlers[handler.id] = handler
    return handler.id
end

function M.cancel_clean_handler(item, id, fire)
    for i, handler in ipairs(item.clean_handlers or {}) do
        if handler.id == id then
            table.remove(item.clean_handlers, i)
            if fire then
                handler.f(item)
            end
            return
        end
    end
end

function M.fire_all_clean_handlers(item)
    for _, handler in ipairs(item.clean_handlers or {}) do
        handler.f(item)
    end
    item.clean_handlers = nil
end

local units = {y = 31536000, M = 2592000, w = 604800, d = 86400, h = 3600, m = 60, s = 1, ms = 0.001}

-- "1h 30m" -> seconds; a bare number is seconds.
function M.parse_time_unit(text)
    if tonumber(text) then
        return tonumber(text)
    end
    local sum = 0
    for part in str_gmatch(text, "%S+") do
        for number, unit in str_gmatch(part, "(%d+)(%a*)") do
            local factor = units[unit]
            if not factor then
                return nil, "invalid data: " .. text
            end
            sum = sum + tonumber(number) * factor
        end
        if not str_match(part, "^[%d%a]+$") then
            return nil, "invalid data: " .. text
        end
    end
    return sum
end

-- "/apisix/routes/1" -> "/apisix/routes", "1"
function M.parse_path(path)
    local parent, id = str_match(path, "^(.*)/([^/]*)$")
    return parent, id
end

return M
