-- gzip: packs responses for clients that take it. The other plugins see the body as it is: the decision is made after all header
-- filters, and packing after all body filters.
local core = require("apisix.core")
local deflate = require("dpproxy.base.deflate")

local ipairs, tonumber, type = ipairs, tonumber, type

local schema = {
    type = "object",
    properties = {
        types = {
            anyOf = {
                {type = "array", minItems = 1, items = {type = "string", minLength = 1}},
                {enum = {"*"}},
            },
            default = {"text/html"},
        },
        min_length = {type = "integer", minimum = 1, default = 20},
        comp_level = {type = "integer", minimum = 1, maximum = 9, default = 1},
        http_version = {enum = {1.1, 1.0}, default = 1.1},
        buffers = {
            type = "object",
            properties = {
                number = {type = "integer", minimum = 1, default = 32},
                size = {type = "integer", minimum = 1, default = 4096},
            },
            default = {number = 32, size = 4096},
        },
        vary = {type = "boolean"},
    },
}

local M = {
    version = 0.1,
    priority = 995,
    name = "gzip",
    schema = schema,
}

function M.check_schema(conf)
    return core.schema.check(schema, conf)
end

local function type_matches(types, content_type)
    if type(types) ~= "table" then
        return true
    end
    content_type = content_type:match("^[^;]*"):gsub("%s+$", "")
    for _, one in ipairs(types) do
        if one == content_type then
            return true
        end
    end
    return false
end

-- "br, gzip;q=0.5": does the client take gzip?
local function accepts_gzip(header)
    local any = false
    for part in (header or ""):lower():gmatch("[^,]+") do
        local name, parameters = part:match("^%s*([^;%s]+)%s*(.*)$")
        local refused = parameters and parameters:match(";%s*q%s*=%s*0%.?0*%s*$") ~= nil
        if name == "gzip" or name == "x-gzip" then
            return not refused
        elseif name == "*" then
            any = not refused
        end
    end
    return any
end

M.accepts_gzip = accepts_gzip

local packed_status = {[200] = true, [403] = true, [404] = true}

-- After all header filters.
local function finish(ctx)
    local header = ngx.header
    if header["Content-Encoding"] or not packed_status[ngx.status] or ctx.var.request_method == "HEAD" then
        return
    end
    local stream, err = deflate.new(ctx.gzip_conf.comp_level)
    if not stream then
        core.log.error("gzip: ", err)
        return
    end
    ctx.gzip_stream = stream
    ctx.gzip_flush = (header["Content-Type"] or ""):find("^text/event%-stream") ~= nil
    header["Content-Encoding"] = "gzip"
    header["Content-Length"] = nil
    header["Accept-Ranges"] = nil
    local etag = header["ETag"]
    if type(etag) == "string" and etag:sub(1, 1) == '"' then
        header["ETag"] = "W/" .. etag     -- other bytes, same meaning
    end
end

function M.header_filter(conf, ctx)
    local content_type = ngx.header["Content-Type"]
    if type(content_type) ~= "string" or not type_matches(conf.types, content_type) then
        return
    end
    local length = tonumber(ngx.header["Content-Length"])
    if length and length < conf.min_length then
        return
    end
    if ngx.req.http_version() < conf.http_version then
        return
    end
    if conf.vary then
        core.response.add_header("Vary", "Accept-Encoding")
    end
    if accepts_gzip(ctx.var.http_accept_encoding) then
        ctx.gzip_matched, ctx.gzip_conf = true, conf
        ctx.last_header_filter = finish
    end
end

function M.delayed_body_filter(conf, ctx)
    local stream = ctx.gzip_stream
    -- Once, when a global rule and the route both have the plugin.
    if not stream or conf ~= ctx.gzip_conf then
        return
    end
    local text, last = ngx.arg[1] or "", ngx.arg[2]
    if text == "" and not last then
        return
    end
    local packed, err = stream:add(text, last, ctx.gzip_flush)
    if not packed then
        core.log.error("gzip: ", err)
        packed = ""
    end
    ngx.arg[1] = packed
    if last then
        ctx.gzip_stream = nil
    end
end

return M
