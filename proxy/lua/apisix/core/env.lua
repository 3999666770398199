-- core.env: the environment that dpproxy was started with. nginx takes variables away from its workers, so the master's
-- are read when this module is first loaded, which is before the fork.
local ffi = require("ffi")
local json = require("dpproxy.base.json")

local str_find, str_sub, str_upper = string.find, string.sub, string.upper

ffi.cdef("extern char **environ;")

local M = {PREFIX = "$ENV://"}

local values = {}

function M.init()
    local environ = ffi.C.environ
    if environ == nil then
        return
    end
    local i = 0
    while environ[i] ~= nil do
        local text = ffi.string(environ[i])
        local eq = str_find(text, "=", 1, true)
        if eq then
            values[str_sub(text, 1, eq - 1)] = str_sub(text, eq + 1)
        end
        i = i + 1
    end
end

function M.get(name)
    local value = values[name]
    if value ~= nil then
        return value
    end
    return os.getenv(name)
end

-- After core.os.setenv.
function M.forget(name)
    values[name] = nil
end

-- "$env://NAME", or "$env://NAME/field" of a variable that holds a JSON object.
function M.fetch_by_uri(uri)
    if type(uri) ~= "string" then
        return nil, "error env_uri type: " .. type(uri)
    end
    if str_upper(str_sub(uri, 1, #M.PREFIX)) ~= M.PREFIX then
        return nil, "error env_uri prefix: " .. uri
    end
    local path = str_sub(uri, #M.PREFIX + 1)
    local slash = str_find(path, "/", 1, true)
    if not slash then
        return M.get(path)
    end
    local value = M.get(str_sub(path, 1, slash - 1))
    local field = str_sub(path, slash + 1)
    if not value or field == "" then
        return value
    end
    local object, err = json.decode(value)
    if type(object) ~= "table" then
        return nil, "decode failed, err: " .. (err or "not an object") -- the value itself is a secret
    end
    return object[field]
end

M.init()

return M
