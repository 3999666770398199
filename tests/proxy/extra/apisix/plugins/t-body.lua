-- In the way of response transformers: holds the body, changes it, drops what no longer fits.
local ngx = ngx
local core = require("apisix.core")

local schema = {type = "object", properties = {field = {type = "string"}, text = {type = "string"}}, required = {"field", "text"}}

local _M = {version = 0.1, priority = 890, name = "t-body", schema = schema}

function _M.check_schema(conf)
    return core.schema.check(schema, conf)
end

function _M.header_filter(conf, ctx)
    core.response.clear_header_as_body_modified()
    ngx.header["X-Changed"] = "yes"
end

function _M.body_filter(conf, ctx)
    local body = core.response.hold_body_chunk(ctx)
    if not body then
        return
    end
    local data, err = core.json.decode(body)
    if not data then
        core.log.error("no JSON: ", err)
        ngx.arg[1] = body
        return
    end
    data[conf.field] = conf.text
    ngx.arg[1] = core.json.encode(data)
end

return _M
