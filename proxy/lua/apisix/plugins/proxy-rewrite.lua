-- proxy-rewrite: changes what the upstream gets: URI, method, Host and headers.
local core = require("apisix.core")
local header_rules = require("dpproxy.plugin.header_rules")
local is_reference = require("apisix.core.secret_ref").is_secret_ref

local ipairs, pairs, type = ipairs, pairs, type
local find, sub, gsub = string.find, string.sub, string.gsub

local methods = {"GET", "POST", "PUT", "HEAD", "DELETE", "OPTIONS", "MKCOL", "COPY", "MOVE", "PROPFIND", "LOCK", "UNLOCK",
    "PATCH", "TRACE"}

local value_def = {
    oneOf = {
        {type = "string"},
        {type = "number"},
        {type = "array", minItems = 1, items = {oneOf = {{type = "string"}, {type = "number"}}}},
    },
}

local headers_def = {type = "object", minProperties = 1, patternProperties = {["^[^:]+$"] = value_def}}

local schema = {
    type = "object",
    properties = {
        uri = {type = "string", minLength = 1, maxLength = 4096, pattern = [[^\/.*]]},
        method = {type = "string", enum = methods},
        regex_uri = {type = "array", minItems = 2, items = {type = "string"}},
        host = {type = "string", pattern = [[^[0-9a-zA-Z-.]+(:\d{1,5})?$]]},
        headers = {
            oneOf = {
                {
                    type = "object",
                    minProperties = 1,
                    additionalProperties = false,
                    properties = {
                        add = headers_def,
                        set = headers_def,
                        remove = {type = "array", minItems = 1, items = {type = "string", pattern = "^[^:]+$"}},
                    },
                },
                {
                    type = "object",
                    minProperties = 1,
                    patternProperties = {["^[^:]+$"] = {oneOf = {{type = "string"}, {type = "number"}}}},
                },
            },
        },
        use_real_request_uri_unsafe = {type = "boolean", default = false},
    },
    minProperties = 1,
}

local M = {
    version = 0.1,
    priority = 1008,
    name = "proxy-rewrite",
    schema = schema,
}

core.ctx.register_var("proxy_rewrite_regex_uri_captures", function(ctx)
    return ctx.proxy_rewrite_regex_uri_captures
end)

local function check_characters(name, value)
    if not core.utils.validate_header_field(name) then
        return false, "invalid field character in header"
    end
    if not core.utils.validate_header_value(value) then
        return false, "invalid value character in header"
    end
    return true
end

local function check_regex_uri(list)
    if #list % 2 ~= 0 then
        return false, "The length of regex_uri should be an even number"
    end
    for i = 1, #list, 2 do
        local pattern, replacement = list[i], list[i + 1]
        if not is_reference(pattern) then
            local _, _, err = ngx.re.sub("/fake_uri", pattern, is_reference(replacement) and "" or replacement, "jo")
            if err then
                return false, "invalid regex_uri(" .. pattern .. ", " .. replacement .. "): " .. err
            end
        end
    end
    return true
end

function M.check_schema(conf)
    local ok, err = core.schema.check(schema, conf)
    if not ok then
        return false, err
    end
    if conf.regex_uri then
        ok, err = check_regex_uri(conf.regex_uri)
        if not ok then
            return false, err
        end
    end
    if conf.headers and not header_rules.is_grouped(conf.headers) then
        return header_rules.check_flat(conf.headers, check_characters)
    end
    return true
end

-- The changes of headers as arrays, in a fixed order: name, value, name, value.
local function sorted_pairs(map)
    local names, out = {}, {}
    for name in pairs(map or {}) do
        names[#names + 1] = name
    end
    table.sort(names)
    for _, name in ipairs(names) do
        out[#out + 1] = name
        out[#out + 1] = map[name]
    end
    return out
end

local operations = setmetatable({}, {__mode = "k"})

local function header_operations(headers)
    local op = operations[headers]
    if not op then
        if header_rules.is_grouped(headers) then
            op = {add = sorted_pairs(headers.add), set = sorted_pairs(headers.set), remove = headers.remove or {}}
        else
            op = {add = {}, set = sorted_pairs(headers), remove = {}}
        end
        operations[headers] = op
    end
    return op
end

-- "$1", "${1}": captures of regex_uri; then variables. A number in the configuration stays as it is.
local function resolve_value(value, ctx)
    if type(value) ~= "string" or not find(value, "$", 1, true) then
        return value
    end
    value = core.utils.resolve_var_with_captures(value, ctx.proxy_rewrite_regex_uri_captures)
    return (core.utils.resolve_var(value, ctx.var))
end

local function escape_question_mark(text)
    return (gsub(text, "%?", "%%3F"))
end

-- The part of the URI that `conf` asks for, and whether a "?" in it begins a query (and is not part of a decoded path).
local function new_uri(conf, ctx)
    local uri = ctx.var.uri
    local query = ""
    if conf.use_real_request_uri_unsafe then
        uri = ctx.var.real_request_uri or ctx.var.request_uri
        local at = find(uri, "?", 1, true)
        query = at and sub(uri, at) or ""
    end
    if conf.uri then
        uri = core.utils.resolve_var(conf.uri, ctx.var, escape_question_mark)
        if query ~= "" then
            uri = find(uri, "?", 1, true) and uri .. "&" .. sub(query, 2) or uri .. query
        end
        return uri, true
    end
    if not conf.regex_uri then
        return uri, false
    end
    local splits = not find(uri, "?", 1, true)
    for i = 1, #conf.regex_uri, 2 do
        local pattern, replacement = conf.regex_uri[i], conf.regex_uri[i + 1]
        local captures, err = ngx.re.match(uri, pattern, "jo")
        if err then
            return nil, "failed to match the uri " .. ctx.var.uri .. " (" .. pattern .. ")  : " .. err
        end
        if captures then
            ctx.proxy_rewrite_regex_uri_captures = captures
            local replaced, _, bad = ngx.re.sub(uri, pattern, replacement, "jo")
            if not replaced then
                return nil, "failed to substitute the uri " .. ctx.var.uri .. " (" .. pattern .. ") with " .. replacement ..
                    " : " .. bad
            end
            return replaced, splits
        end
    end
    return uri, splits
end

local function set_uri(conf, ctx, uri, splits)
    if conf.use_real_request_uri_unsafe then
        ctx.var.upstream_uri = uri
        return
    end
    local at = splits and find(uri, "?", 1, true)
    local path, query
    if at then
        path, query = core.utils.uri_safe_encode(sub(uri, 1, at - 1)), core.utils.escape_uri_control_chars(sub(uri, at))
    else
        path, query = core.utils.uri_safe_encode(uri), ""
    end
    ngx.req.set_uri(path)
    if ctx.var.is_args == "?" then
        ctx.var.upstream_uri = path .. query .. (at and "&" or "?") .. (ctx.var.args or "")
    else
        ctx.var.upstream_uri = path .. query
    end
end

local function add_header(ctx, name, value)
    if type(value) == "table" then
        for _, one in ipairs(value) do
            core.request.add_header(ctx, name, resolve_value(one, ctx))
        end
    else
        core.request.add_header(ctx, name, resolve_value(value, ctx))
    end
end

local function set_header(ctx, name, value)
    if type(value) == "table" then
        local values = {}
        for i, one in ipairs(value) do
            values[i] = resolve_value(one, ctx)
        end
        core.request.set_header(ctx, name, values)
    else
        core.request.set_header(ctx, name, resolve_value(value, ctx))
    end
end

local function change_headers(conf, ctx)
    local op = header_operations(conf.headers)
    local add, set, remove = op.add, op.set, op.remove
    for i = 1, #add, 2 do
        add_header(ctx, add[i], add[i + 1])
    end
    for i = 1, #set, 2 do
        set_header(ctx, set[i], set[i + 1])
    end
    for i = 1, #remove do
        core.request.set_header(ctx, remove[i], nil)
    end
end

function M.rewrite(conf, ctx)
    if conf.host then
        ctx.var.upstream_host = conf.host
    end
    local uri, splits = new_uri(conf, ctx)
    if not uri then
        core.log.error(splits)
        return 500, {error_msg = splits}
    end
    set_uri(conf, ctx, uri, splits)
    if conf.headers then
        change_headers(conf, ctx)
    end
    if conf.method then
        ngx.req.set_method(ngx["HTTP_" .. conf.method])
    end
end

return M
