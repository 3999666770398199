-- Is a text of the configuration a reference to a secret or to the environment, so that it cannot be judged yet?
local M = {}

function M.is_reference(text)
    if type(text) ~= "string" or text:sub(1, 1) ~= "$" then
        return false
    end
    local start = text:sub(1, 10):lower()
    return start:sub(1, 7) == "$env://" or start == "$secret://"
end

return M
