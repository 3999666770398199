-- cors: answers preflight requests, and names the origins that may read a response.
local core = require("apisix.core")
local plugin = require("apisix.plugin")

local ipairs = ipairs

local plugin_name = "cors"
local origins_pattern = [[^(\*|\*\*|null|\w+://[^,]+(,\w+://[^,]+)*)$]]

local list_def = {type = "array", items = {type = "string", minLength = 1, maxLength = 4096}, minItems = 1, uniqueItems = true}

local schema = {
    type = "object",
    properties = {
        allow_origins = {type = "string", pattern = origins_pattern, default = "*"},
        allow_methods = {type = "string", default = "*"},
        allow_headers = {type = "string", default = "*"},
        expose_headers = {type = "string"},
        max_age = {type = "integer", default = 5},
        allow_credential = {type = "boolean", default = false},
        allow_origins_by_regex = list_def,
        allow_origins_by_metadata = list_def,
        timing_allow_origins = {type = "string", pattern = origins_pattern},
        timing_allow_origins_by_regex = list_def,
    },
}

local metadata_schema = {
    type = "object",
    properties = {
        allow_origins = {
            type = "object",
            additionalProperties = {type = "string", pattern = origins_pattern},
        },
    },
}

local M = {
    version = 0.1,
    priority = 4000,
    name = plugin_name,
    schema = schema,
    metadata_schema = metadata_schema,
}

local function check_patterns(list)
    for _, pattern in ipairs(list or {}) do
        local _, _, err = ngx.re.find("", pattern, "j")
        if err then
            return false, err
        end
    end
    return true
end

function M.check_schema(conf, schema_type)
    if schema_type == core.schema.TYPE_METADATA then
        return core.schema.check(metadata_schema, conf)
    end
    local ok, err = core.schema.check(schema, conf)
    if not ok then
        return false, err
    end
    if conf.allow_credential and (conf.allow_origins == "*" or conf.allow_methods == "*" or conf.allow_headers == "*"
                                  or conf.expose_headers == "*" or conf.timing_allow_origins == "*") then
        return false, "you can not set '*' for other option when 'allow_credential' is true"
    end
    ok, err = check_patterns(conf.allow_origins_by_regex)
    if not ok then
        return false, err
    end
    return check_patterns(conf.timing_allow_origins_by_regex)
end

-- Lists of origins, split once: text -> set. They come from configurations only.
local origin_sets = {}
local origin_set_count = 0

local function origin_set(text)
    local set = origin_sets[text]
    if not set then
        if origin_set_count >= 1000 then
            origin_sets, origin_set_count = {}, 0
        end
        set = {}
        for origin in text:gmatch("[^,]+") do
            set[origin] = true
        end
        origin_sets[text] = set
        origin_set_count = origin_set_count + 1
    end
    return set
end

-- The value for the header, or nil when the origin is not among `origins`.
local function by_list(origins, origin)
    if origins == "*" then
        return "*"
    end
    if origins == "**" then
        return origin or "*"
    end
    if origin and origin_set(origins)[origin] then
        return origin
    end
end

-- list -> one pattern of all its patterns
local patterns = setmetatable({}, {__mode = "k"})

local function by_regex(list, origin)
    if not origin then
        return nil
    end
    local pattern = patterns[list]
    if not pattern then
        pattern = table.concat(list, "|")
        patterns[list] = pattern
    end
    if ngx.re.find(origin, pattern, "jo") then
        return origin
    end
end

local function by_metadata(names, origin)
    local metadata = plugin.plugin_metadata(plugin_name)
    local lists = metadata and metadata.value and metadata.value.allow_origins
    if not lists then
        return nil
    end
    for _, name in ipairs(names) do
        if lists[name] and by_list(lists[name], origin) then
            return origin
        end
    end
end

local function allowed_origin(conf, origin)
    if conf.allow_origins_by_metadata then
        local allowed = by_metadata(conf.allow_origins_by_metadata, origin)
        -- The default "*" must not undo what the metadata restrict.
        if allowed or conf.allow_origins == "*" then
            return allowed
        end
    end
    if conf.allow_origins_by_regex then
        return by_regex(conf.allow_origins_by_regex, origin)
    end
    return by_list(conf.allow_origins, origin)
end

function M.rewrite(conf, ctx)
    -- As the client sent it: other plugins may change the header on its way to the upstream.
    ctx.original_request_origin = core.request.header(ctx, "Origin")
    if ctx.var.request_method == "OPTIONS" then
        return 200
    end
end

local all_methods = "GET,POST,PUT,DELETE,PATCH,HEAD,OPTIONS,CONNECT,TRACE"

local function set_headers(conf, ctx, allowed)
    core.response.set_header("Access-Control-Allow-Origin", allowed)
    core.response.set_header("Access-Control-Allow-Methods", conf.allow_methods == "**" and all_methods or conf.allow_methods)
    core.response.set_header("Access-Control-Max-Age", conf.max_age)
    if conf.expose_headers and conf.expose_headers ~= "" then
        core.response.set_header("Access-Control-Expose-Headers", conf.expose_headers)
    end
    if conf.allow_headers == "**" then
        core.response.set_header("Access-Control-Allow-Headers", (core.request.header(ctx, "Access-Control-Request-Headers")))
    else
        core.response.set_header("Access-Control-Allow-Headers", conf.allow_headers)
    end
    if conf.allow_credential then
        core.response.set_header("Access-Control-Allow-Credentials", "true")
    end
end

function M.header_filter(conf, ctx)
    local origin = ctx.original_request_origin
    if conf.allow_origins ~= "*" then
        core.response.add_header("Vary", "Origin")
    end
    local allowed = allowed_origin(conf, origin)
    if allowed then
        set_headers(conf, ctx, allowed)
    end
    local timing
    if conf.timing_allow_origins_by_regex then
        timing = by_regex(conf.timing_allow_origins_by_regex, origin)
    elseif conf.timing_allow_origins then
        timing = by_list(conf.timing_allow_origins, origin)
    end
    if timing then
        core.response.set_header("Timing-Allow-Origin", timing)
    end
end

return M
