-- core.os: the os library, and setenv.
local ffi = require("ffi")

ffi.cdef([[
int setenv(const char *name, const char *value, int overwrite);
int unsetenv(const char *name);
char *strerror(int errnum);
]])

local M = {}

-- A nil value removes the variable.
function M.setenv(name, value)
    if name == nil or name == "" then
        return false, "invalid name"
    end
    local rc
    if value == nil then
        rc = ffi.C.unsetenv(tostring(name))
    else
        rc = ffi.C.setenv(tostring(name), tostring(value), 1)
    end
    if rc ~= 0 then
        return false, ffi.string(ffi.C.strerror(ffi.errno()))
    end
    require("apisix.core.env").forget(name)
    return true
end

return setmetatable(M, {__index = os})
