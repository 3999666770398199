-- The `headers` of proxy-rewrite and response-rewrite: {add, set, remove}, or just names and values to set.
local pairs, type = pairs, type

local M = {}

function M.is_grouped(headers)
    return type(headers.add) == "table" or type(headers.set) == "table" or type(headers.remove) == "table"
end

-- check_more(name, value) -> true | false, err, for what only one of them asks. -> true | false, err
function M.check_flat(headers, check_more)
    for name, value in pairs(headers) do
        if type(name) ~= "string" then
            return false, "invalid type as header field"
        end
        if type(value) ~= "string" and type(value) ~= "number" then
            return false, "invalid type as header value"
        end
        if #name == 0 then
            return false, "invalid field length in header"
        end
        if check_more then
            local ok, err = check_more(name, value)
            if not ok then
                return false, err
            end
        end
    end
    return true
end

return M
