-- Fails where it is told to.
local _M = {
    version = 0.1,
    priority = 5,
    name = "t-bad",
    schema = {type = "object", properties = {phase = {type = "string"}}},
}

for _, phase in ipairs({"rewrite", "access", "before_proxy", "header_filter", "body_filter", "log"}) do
    _M[phase] = function(conf)
        if conf.phase == phase then
            return conf.no.such.field
        end
    end
end

return _M
