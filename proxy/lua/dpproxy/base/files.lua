-- Whole files. No ngx in here.
local M = {}

-- -> text | nil, err. A folder can be opened, not read.
function M.read(path)
    local file, err = io.open(path, "rb")
    if not file then
        return nil, err
    end
    local text
    text, err = file:read("*a")
    file:close()
    return text, err
end

return M
