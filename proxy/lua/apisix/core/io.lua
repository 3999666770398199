-- core.io
local M = {}

function M.get_file(name)
    local file, err = io.open(name, "rb")
    if not file then
        return nil, "failed to open file: " .. name .. ", error info:" .. err
    end
    local content
    content, err = file:read("*a")
    file:close()
    if not content then
        return nil, "failed to read file: " .. name .. ", error info:" .. (err or "nothing read")
    end
    return content
end

function M.get_size(name)
    local file, err = io.open(name, "rb")
    if not file then
        return nil, err
    end
    local size
    size, err = file:seek("end")
    file:close()
    return size, err
end

return M
