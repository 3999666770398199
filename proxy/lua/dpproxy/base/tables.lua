-- Small things that are done to tables.
local type = type

local M = {}

-- The table at node[key], made when there is none.
function M.child(node, key)
    local next_node = node[key]
    if not next_node then
        next_node = {}
        node[key] = next_node
    end
    return next_node
end

-- A list of what there was, one value or a list that is then taken over, and what is added, likewise.
function M.joined(old, value)
    local all = type(old) == "table" and old or {old}
    if type(value) == "table" then
        for i = 1, #value do
            all[#all + 1] = value[i]
        end
    else
        all[#all + 1] = value
    end
    return all
end

return M
