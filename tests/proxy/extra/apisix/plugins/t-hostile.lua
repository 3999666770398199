-- Misbehaves where it is told to: for the tests of what a bad plugin may harm.
local core = require("apisix.core")

local M = {
    version = 0.1,
    priority = 400,
    name = "t-hostile",
    schema = {type = "object", properties = {phase = {type = "string"}, how = {type = "string"}}, required = {"phase", "how"}},
}

local ways = {
    text = function() error("on purpose") end,
    table = function() error({"on purpose"}) end,
    none = function() error() end,
    index = function() return nil .. "x" end,
    deep = function()
        local function again() return 1 + again() end
        return again()
    end,
    code_text = function() return "not a number" end,
    code_true = function() return true end,
    code_low = function() return 7 end,
    code_high = function() return 123456 end,
    code_fraction = function() return 404.5 end,
    code_table = function() return {}, {} end,
    code_function = function() return 500, print end,
    body_cycle = function()
        local t = {}
        t.t = t
        return 500, t
    end,
}

function M.check_schema(conf)
    return core.schema.check(M.schema, conf)
end

for _, phase in ipairs({"rewrite", "access", "before_proxy", "header_filter", "log"}) do
    M[phase] = function(conf)
        if conf.phase == phase then
            return ways[conf.how]()
        end
    end
end

return M
