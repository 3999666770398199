-- The interface of lua-resty-expr, for plugins that were written against it, over dpproxy.router.expr.
local expr = require("dpproxy.router.expr")

local M = {}
local mt = {__index = M}

-- rule: a list of conditions. -> an object with eval(vars) | nil, err
function M.new(rule)
    local fn, err = expr.compile(rule)
    if not fn then
        return nil, err
    end
    return setmetatable({rule = rule, match = fn}, mt)
end

function M.eval(self, vars, ...)
    return self.match(vars or ngx.var, ...) and true or false
end

return M
