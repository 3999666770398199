-- In the way of small header plugins: templates with variables, a cache per object, changed arguments, a variable of its own.
local core = require("apisix.core")
local ipairs = ipairs

local schema = {
    type = "object",
    properties = {
        headers = {
            type = "array",
            minItems = 1,
            items = {
                type = "object",
                properties = {name = {type = "string"}, value = {type = "string"}},
                required = {"name", "value"},
            },
        },
        drop_arg = {type = "string"},
        allowed = {type = "array", items = {anyOf = core.schema.ip_def}},
    },
    required = {"headers"},
}

local lrucache = core.lrucache.new({ttl = 300, count = 512, type = "plugin"})

core.ctx.register_var("t_zone", function(ctx)
    local route = ctx.matched_route and ctx.matched_route.value
    return route and route.labels and route.labels.zone
end)

local _M = {version = 0.1, priority = 1500, name = "t-template", schema = schema}

function _M.check_schema(conf)
    return core.schema.check(schema, conf)
end

local built = 0

local function create(conf)
    built = built + 1
    local names = {}
    for _, header in ipairs(conf.headers) do
        core.table.insert(names, header.name)
    end
    return {list = core.table.concat(names, ","), built = built}
end

function _M.access(conf, ctx)
    if conf.allowed then
        local matcher, err = core.lrucache.plugin_ctx(lrucache, ctx, "ips", core.ip.create_ip_matcher, conf.allowed)
        if not matcher then
            return 500, {message = err}
        end
        if not matcher:match(core.request.get_remote_client_ip(ctx)) then
            return 403, {message = "not here"}
        end
    end
    for _, header in ipairs(conf.headers) do
        local value, err = core.utils.resolve_var(header.value, ctx.var)
        if not value then
            core.log.error("failed to resolve: ", err)
        else
            core.request.set_header(ctx, header.name, value)
        end
    end
    if conf.drop_arg then
        local args = core.request.get_uri_args(ctx)
        args[conf.drop_arg] = nil
        core.request.set_uri_args(ctx, args)
        ctx.var.upstream_uri = ctx.var.uri .. ctx.var.is_args .. (ctx.var.args or "")
    end
    local cached = core.lrucache.plugin_ctx(lrucache, ctx, nil, create, conf)
    core.response.set_header("X-Names", cached.list)
    core.response.add_header("X-Built", cached.built)
end

return _M
