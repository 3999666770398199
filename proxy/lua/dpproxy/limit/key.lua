-- What the limiters of one configuration count under: the object it belongs to, a digest of the configuration (so that an edit
-- of it starts anew, and an edit of the rest of the object does not), and the value of the request.
local core = require("apisix.core")
local plugin = require("apisix.plugin")

local math, tonumber, tostring, type = math, tonumber, tostring, type

local M = {}

local prefixes = setmetatable({}, {__mode = "k"})

-- The same text for every request of a configuration; made once.
function M.prefix(conf, ctx)
    local prefix = prefixes[conf]
    if prefix then
        return prefix
    end
    if conf.group then
        prefix = conf.group .. ":"
    else
        local parent = conf._meta and conf._meta.parent
        local resource = parent and parent.resource_key
        if not resource then
            -- Not remembered: the next request may come by way of another object.
            return (ctx.conf_type or "") .. "#" .. (ctx.conf_id or "") .. ":" .. plugin.conf_version(conf) .. ":"
        end
        prefix = resource .. ":" .. plugin.conf_version(conf) .. ":"
    end
    prefixes[conf] = prefix
    return prefix
end

-- The request's value for `key`. What is empty counts by the client's address.
function M.value(key, key_type, ctx)
    local value
    if key_type == "var_combination" then
        local text, err, resolved = core.utils.resolve_var(key, ctx.var)
        if err then
            core.log.error("could not resolve the variables of ", key, ": ", err)
        elseif resolved ~= 0 then
            value = text
        end
    elseif key_type == "constant" then
        value = key
    else
        value = ctx.var[key]
    end
    if value == nil then
        value = ctx.var.remote_addr
    elseif type(value) ~= "string" then
        value = tostring(value)     -- an argument without a value is true
    end
    return value
end

-- A count that may be a template with variables. -> number | nil, err
function M.number(value, ctx, least)
    if type(value) ~= "string" then
        return value
    end
    local text, err = core.utils.resolve_var(value, ctx.var)
    if err then
        return nil, "could not resolve var for value: " .. value .. ", err: " .. err
    end
    local number = tonumber(text)
    if not number then
        return nil, "resolved value is not a number: " .. tostring(text)
    end
    if number < least or number ~= math.floor(number) or number > 9007199254740991 then
        return nil, "resolved value must be an integer of at least " .. least .. ", got: " .. text
    end
    return number
end

return M
