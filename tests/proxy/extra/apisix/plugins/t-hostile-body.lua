-- Throws where a body passes, in a plugin of its own: one with a body filter has its requests sent another way.
local M = {
    version = 0.1,
    priority = 401,
    name = "t-hostile-body",
    schema = {type = "object", properties = {phase = {type = "string"}}, required = {"phase"}},
}

for _, phase in ipairs({"header_filter", "body_filter", "delayed_body_filter"}) do
    M[phase] = function(conf)
        if conf.phase == phase then
            error("on purpose")
        end
    end
end

return M
