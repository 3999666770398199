-- response-rewrite: changes what the client gets: status, headers and body.
local core = require("apisix.core")
local decoders = require("apisix.utils.content-decode")
local header_rules = require("dpproxy.plugin.header_rules")
local is_reference = require("apisix.core.secret_ref").is_secret_ref
local vars = require("dpproxy.plugin.vars")

local ipairs, pairs, type = ipairs, pairs, type

local scalar_headers_def = {
    type = "object",
    minProperties = 1,
    patternProperties = {["^[^:]+$"] = {oneOf = {{type = "string"}, {type = "number"}}}},
}

local schema = {
    type = "object",
    properties = {
        max_resp_body_size = {type = "integer", minimum = 1, default = 67108864},
        headers = {
            anyOf = {
                scalar_headers_def,
                {
                    properties = {
                        add = {type = "array", minItems = 1, items = {type = "string", pattern = "^[^:]+:[^:]*[^/]$"}},
                        set = scalar_headers_def,
                        remove = {type = "array", minItems = 1, items = {type = "string", pattern = "^[^:]+$"}},
                    },
                },
            },
        },
        body = {type = "string"},
        body_base64 = {type = "boolean", default = false},
        status_code = {type = "integer", minimum = 200, maximum = 598},
        vars = {type = "array"},
        filters = {
            type = "array",
            minItems = 1,
            items = {
                type = "object",
                required = {"regex", "replace"},
                properties = {
                    regex = {type = "string", minLength = 1},
                    scope = {type = "string", enum = {"once", "global"}, default = "once"},
                    replace = {type = "string"},
                    options = {type = "string", default = "jo"},
                },
            },
        },
    },
    dependencies = {
        body = {["not"] = {required = {"filters"}}},
        filters = {["not"] = {required = {"body"}}},
    },
}

local M = {
    version = 0.1,
    priority = 899,
    name = "response-rewrite",
    schema = schema,
}

local function check_body(conf)
    if conf.body_base64 and not is_reference(conf.body) then
        if not conf.body or #conf.body == 0 or not ngx.decode_base64(conf.body) then
            return false, "invalid base64 content"
        end
    end
    return true
end

function M.check_schema(conf)
    local ok, err = core.schema.check(schema, conf)
    if not ok then
        return false, err
    end
    if conf.headers and not header_rules.is_grouped(conf.headers) then
        ok, err = header_rules.check_flat(conf.headers)
        if not ok then
            return false, err
        end
    end
    ok, err = check_body(conf)
    if not ok then
        return false, err
    end
    if conf.vars then
        ok, err = vars.check(conf.vars)
        if not ok then
            return false, "failed to validate the 'vars' expression: " .. err
        end
    end
    for _, filter in ipairs(conf.filters or {}) do
        local done, _, _, bad = pcall(ngx.re.find, "", filter.regex, filter.options)
        if not done or bad then
            return false, "regex \"" .. filter.regex .. "\" validation failed: " .. tostring(bad or "unknown flags")
        end
    end
    return true
end

-- Each header as name, value; made once.
local operations = setmetatable({}, {__mode = "k"})

local function pairs_of(map)
    local out = {}
    for name, value in pairs(map or {}) do
        out[#out + 1] = name
        out[#out + 1] = value
    end
    return out
end

local function header_operations(headers)
    local op = operations[headers]
    if op then
        return op
    end
    if header_rules.is_grouped(headers) then
        op = {add = {}, set = pairs_of(headers.set), remove = headers.remove or {}}
        for _, line in ipairs(headers.add or {}) do
            local name, value = line:match("^([^:%s]+)%s*:%s*([^:]+)$")
            if name then
                op.add[#op.add + 1] = name
                op.add[#op.add + 1] = value
            end
        end
    else
        op = {add = {}, set = pairs_of(headers), remove = {}}
    end
    operations[headers] = op
    return op
end

local function resolve(value, ctx)
    if type(value) == "string" then
        return (core.utils.resolve_var(value, ctx.var))
    end
    return value
end

local function change_headers(conf, ctx)
    local op = header_operations(conf.headers)
    for i = 1, #op.add, 2 do
        core.response.add_header(op.add[i], resolve(op.add[i + 1], ctx))
    end
    for i = 1, #op.set, 2 do
        core.response.set_header(op.set[i], resolve(op.set[i + 1], ctx))
    end
    for i = 1, #op.remove do
        core.response.set_header(op.remove[i], nil)
    end
end

function M.header_filter(conf, ctx)
    ctx.response_rewrite_matched = not conf.vars or vars.match(conf.vars, ctx)
    if not ctx.response_rewrite_matched then
        return
    end
    if conf.status_code then
        ngx.status = conf.status_code
    end
    local encoding = ngx.header["Content-Encoding"]
    if conf.filters and encoding and encoding ~= "" and not decoders.dispatch_decoder(encoding) then
        -- The body goes through as it is.
        core.log.error("filters may not work as expected due to unsupported compression encoding type: ", encoding)
        ctx.response_rewrite_matched = false
    elseif conf.filters or conf.body then
        ctx.response_encoding = encoding
        core.response.clear_header_as_body_modified()
    end
    if conf.headers then
        change_headers(conf, ctx)
    end
end

-- The body, unpacked when the upstream packed it.
local function unpacked(body, encoding)
    if not encoding or encoding == "" then
        return body
    end
    local text, err = decoders.dispatch_decoder(encoding)(body)
    if not text then
        core.log.error("filters may not work as expected: ", err)
        return body
    end
    return text
end

local function filter_body(conf, ctx)
    local body = core.response.hold_body_chunk(ctx, false, conf.max_resp_body_size)
    if not body then
        return
    end
    body = unpacked(body, ctx.response_encoding)
    for _, filter in ipairs(conf.filters) do
        local change = filter.scope == "once" and ngx.re.sub or ngx.re.gsub
        local changed, _, err = change(body, filter.regex, filter.replace, filter.options)
        if changed then
            body = changed
        else
            core.log.error("regex \"", filter.regex, "\" substitutes failed: ", err)
        end
    end
    ngx.arg[1] = body
end

function M.body_filter(conf, ctx)
    if not ctx.response_rewrite_matched then
        return
    end
    if conf.filters then
        return filter_body(conf, ctx)
    end
    if conf.body then
        ngx.arg[1] = conf.body_base64 and ngx.decode_base64(conf.body) or conf.body
        ngx.arg[2] = true
    end
end

return M
