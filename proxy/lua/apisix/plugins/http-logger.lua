-- http-logger: sends records of requests to an HTTP server, in batches.
local core = require("apisix.core")
local http = require("resty.http")
local log_util = require("apisix.utils.log-util")
local manager = require("apisix.utils.batch-processor-manager").new("http logger", "http-logger")

local ipairs, tostring = ipairs, tostring

local plugin_name = "http-logger"
local body_expr_def = {type = "array", minItems = 1, items = {type = "array"}}

local schema = {
    type = "object",
    properties = {
        uri = core.schema.uri_def or {type = "string", pattern = [[^[^\/]+:\/\/([\da-zA-Z.-]+|\[[\da-fA-F:]+\])(:\d+)?]]},
        auth_header = {type = "string"},
        timeout = {type = "integer", minimum = 1, default = 3},
        log_format = {type = "object"},
        log_format_extra = {type = "object"},
        include_req_body = {type = "boolean", default = false},
        include_req_body_expr = body_expr_def,
        include_resp_body = {type = "boolean", default = false},
        include_resp_body_expr = body_expr_def,
        max_req_body_bytes = {type = "integer", minimum = 1, default = 524288},
        max_resp_body_bytes = {type = "integer", minimum = 1, default = 524288},
        concat_method = {type = "string", default = "json", enum = {"json", "new_line"}},
        ssl_verify = {type = "boolean", default = false},
    },
    encrypt_fields = {"auth_header"},
    required = {"uri"},
}

local metadata_schema = {
    type = "object",
    properties = {
        log_format = {type = "object"},
        log_format_extra = {type = "object"},
    },
}

local M = {
    version = 0.1,
    priority = 410,
    name = plugin_name,
    schema = manager:wrap_schema(schema),
    metadata_schema = manager:wrap_metadata_schema(metadata_schema),
}

function M.check_schema(conf, schema_type)
    if schema_type == core.schema.TYPE_METADATA then
        return core.schema.check(metadata_schema, conf)
    end
    local ok, err = core.schema.check(schema, conf)
    if not ok then
        return nil, err
    end
    return log_util.check_log_schema(conf)
end

M.access = log_util.check_and_read_req_body

function M.body_filter(conf, ctx)
    log_util.collect_body(conf, ctx)
end

local function encode(conf, entries, batch_max_size)
    if batch_max_size == 1 then
        return core.json.encode(entries[1])
    end
    if conf.concat_method == "json" then
        return core.json.encode(entries)
    end
    local lines = {}
    for i, entry in ipairs(entries) do
        local text, err = core.json.encode(entry)
        if not text then
            return nil, err
        end
        lines[i] = text
    end
    return table.concat(lines, "\n")
end

local max_answer = 65536

local function send(conf, body)
    local client, err = http.new()
    if not client then
        return false, err
    end
    client:set_timeout(conf.timeout * 1000)
    local answer
    answer, err = client:request_uri(conf.uri, {
        method = "POST",
        body = body,
        headers = {
            ["Content-Type"] = conf.concat_method == "json" and "application/json" or "text/plain",
            Authorization = conf.auth_header,
        },
        ssl_verify = conf.ssl_verify,
        max_body = max_answer,
    })
    if not answer then
        return false, "error while sending data to [" .. conf.uri .. "] " .. tostring(err)
    end
    if answer.status >= 400 then
        return false, "server returned status code[" .. answer.status .. "] uri[" .. conf.uri .. "] body[" ..
            answer.body:sub(1, 1000) .. "]"
    end
    return true
end

function M.log(conf, ctx)
    local entry = log_util.get_log_entry(plugin_name, conf, ctx)
    if not entry.route_id then
        entry.route_id = "no-matched"
    end
    if manager:add_entry(conf, entry) then
        return
    end
    manager:add_entry_to_new_processor(conf, entry, ctx, function(entries, batch_max_size)
        local body, err = encode(conf, entries, batch_max_size)
        if not body then
            return false, "error occurred while encoding the data: " .. err
        end
        return send(conf, body)
    end)
end

return M
