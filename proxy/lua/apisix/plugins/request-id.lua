-- request-id: gives each request an identifier, unless it brings one.
local core = require("apisix.core")
local random = require("dpproxy.base.random")

local alnum = "abcdefghijklmnopqrstuvwxyzABCDEFGHIGKLMNOPQRSTUVWXYZ0123456789"

local schema = {
    type = "object",
    properties = {
        header_name = {type = "string", default = "X-Request-Id"},
        include_in_response = {type = "boolean", default = true},
        algorithm = {type = "string", enum = {"uuid", "nanoid", "range_id", "ksuid", "uuidv7"}, default = "uuid"},
        range_id = {
            type = "object",
            properties = {
                length = {type = "integer", minimum = 6, default = 16},
                char_set = {type = "string", minLength = 6, default = alnum},
            },
            default = {length = 16, char_set = alnum},
        },
    },
}

local M = {
    version = 0.1,
    priority = 12015,
    name = "request-id",
    schema = schema,
}

function M.check_schema(conf)
    return core.schema.check(schema, conf)
end

function M.init()
    if ngx.get_phase() ~= "init" then
        random.use_pool()
    end
end

local nanoid_alphabet = "-_0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"

local makers = {
    uuid = random.uuid4,
    uuidv7 = core.utils.generate_uuid_v7,
    nanoid = function() return random.text(21, nanoid_alphabet) end,
    ksuid = function() return random.ksuid(ngx.now()) end,
    range_id = function(conf) return random.text(conf.range_id.length, conf.range_id.char_set) end,
}

function M.rewrite(conf, ctx)
    local id = core.request.header(ctx, conf.header_name)
    if not id or id == "" then
        id = makers[conf.algorithm](conf)
        core.request.set_header(ctx, conf.header_name, id)
    end
    if conf.include_in_response then
        -- Two of them (a global rule's, the route's) may name different headers.
        local ids = ctx.request_ids
        if not ids then
            ids = {}
            ctx.request_ids = ids
        end
        ids[conf.header_name] = id
    end
end

function M.header_filter(conf, ctx)
    if not conf.include_in_response or not ctx.request_ids then
        return
    end
    local present = ngx.header[conf.header_name]
    if not present or present == "" then
        core.response.set_header(conf.header_name, ctx.request_ids[conf.header_name])
    end
end

return M
