-- public-api: lets a route answer with what other plugins offer by api(), for example the metrics.
local apis = require("dpproxy.plugin.api")
local core = require("apisix.core")

local schema = {
    type = "object",
    properties = {
        uri = {type = "string"},
    },
}

local M = {
    version = 0.1,
    priority = 501,
    name = "public-api",
    schema = schema,
}

function M.check_schema(conf)
    return core.schema.check(schema, conf)
end

-- uri: of the api, when the route has another one.
function M.access(conf, ctx)
    local handler = apis.find("api", core.request.get_method(), conf.uri or ctx.var.uri)
    if not handler then
        return 404
    end
    local code, body = handler(ctx)
    if type(body) == "table" and not ngx.header["Content-Type"] then
        core.response.set_header("Content-Type", "application/json")
    end
    -- What has written its answer itself has said 200.
    return code or 200, body
end

return M
