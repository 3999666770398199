-- `vars` expressions of plugins' configurations: compiled once per list.
local expr = require("dpproxy.router.expr")

local M = {}

local compiled = setmetatable({}, {__mode = "k"})

local function compile(list)
    local fn, err = expr.compile(list)
    if not fn then
        return nil, err
    end
    compiled[list] = fn
    return fn
end

function M.check(list)
    local fn, err = expr.compile(list)
    if not fn then
        return nil, err
    end
    return true
end

-- Does the request fulfil the list? What does not compile (it was checked before) does not.
function M.match(list, ctx)
    local fn = compiled[list]
    if not fn then
        local err
        fn, err = compile(list)
        if not fn then
            return false, err
        end
    end
    return fn(ctx.var) and true or false
end

-- One of several lists.
function M.match_any(lists, ctx)
    for i = 1, #lists do
        if M.match(lists[i], ctx) then
            return true
        end
    end
    return false
end

return M
