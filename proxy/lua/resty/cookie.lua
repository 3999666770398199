-- The API of lua-resty-cookie: the request's cookies, and cookies for the response.
local ngx = ngx
local pairs, type, tostring, setmetatable = pairs, type, tostring, setmetatable
local str_gmatch, str_match = string.gmatch, string.match

local M = {}
local mt = {__index = M}

function M.new()
    return setmetatable({}, mt)
end

function M:get_all()
    if self.values then
        return self.values
    end
    local text = ngx.var.http_cookie
    if not text then
        return nil, "no cookie found in the current request"
    end
    local values = {}
    for pair in str_gmatch(text, "[^;]+") do
        local name, value = str_match(pair, "^%s*([^=]-)%s*=%s*(.-)%s*$")
        if name and name ~= "" then
            values[name] = value
        end
    end
    self.values = values
    return values
end

function M:get(name)
    local values, err = self:get_all()
    if not values then
        return nil, err
    end
    return values[name]
end

local function bake(cookie)
    local text = cookie.key .. "=" .. cookie.value
    local function add(value, name)
        if value then
            text = text .. "; " .. name .. (value == true and "" or "=" .. tostring(value))
        end
    end
    add(cookie.expires, "Expires")
    add(cookie.max_age, "Max-Age")
    add(cookie.domain, "Domain")
    add(cookie.path, "Path")
    add(cookie.secure and true, "Secure")
    add(cookie.httponly and true, "HttpOnly")
    add(cookie.samesite, "SameSite")
    return text
end

-- {key =, value =, path =, domain =, expires =, max_age =, secure =, httponly =, samesite =} -> true | nil, err
function M.set(_, cookie)
    if not cookie.key or not cookie.value then
        return nil, 'missing cookie field "key" or "value"'
    end
    for _, value in pairs(cookie) do
        if type(value) == "string" and str_match(value, "[%c;]") then
            return nil, "a cookie field has control characters or semicolons"
        end
    end
    local old = ngx.header["Set-Cookie"]
    local all = type(old) == "table" and old or old and {old} or {}
    all[#all + 1] = bake(cookie)
    ngx.header["Set-Cookie"] = all
    return true
end

return M
