-- What loggers write about a request: everything, or the fields of a log_format.
local core = require("apisix.core")
local plugin = require("apisix.plugin")
local decoders = require("apisix.utils.content-decode")
local vars = require("dpproxy.plugin.vars")

local ipairs, next, pairs, tonumber, type = ipairs, next, pairs, tonumber, type
local sub = string.sub

local default_max_body = 524288
local max_format_depth = 5

local M = {}

local function request_body(max_bytes)
    local body = ngx.req.get_body_data()
    if body then
        return sub(body, 1, max_bytes)
    end
    local name = ngx.req.get_body_file()
    if not name then
        return nil
    end
    local file, err = io.open(name, "rb")
    if not file then
        core.log.error("fail to get request body: ", err)
        return nil
    end
    body = file:read(max_bytes)
    file:close()
    return body
end

local function from_format(ctx, format, max_body, depth)
    local entry = {}
    for name, field in pairs(format) do
        if type(field) == "table" then
            entry[name] = depth < max_format_depth and from_format(ctx, field, max_body, depth + 1) or {}
        elseif type(field) == "string" and sub(field, 1, 1) == "$" then
            local var = sub(field, 2)
            if var == "request_body" then
                entry[name] = request_body(max_body or default_max_body)
            else
                entry[name] = ctx.var[var]
            end
        else
            entry[name] = field
        end
    end
    return entry
end

function M.get_custom_format_log(ctx, format, max_body)
    local entry = from_format(ctx, format, max_body, 1)
    local route = ctx.matched_route and ctx.matched_route.value
    if route then
        entry.service_id, entry.route_id = route.service_id, route.id
    end
    return entry
end

-- -> whole, the upstream's share or nil, ours; in milliseconds
function M.latency_details_in_ms(ctx)
    local whole = (ngx.now() - ngx.req.start_time()) * 1000
    local seconds = require("dpproxy.metrics.http").seconds_of(ctx.var.upstream_response_time)
    if not seconds then
        return whole, nil, whole
    end
    local own = whole - seconds * 1000
    return whole, seconds * 1000, own > 0 and own or 0
end

local function wants_body(conf, ctx, field)
    local expression = conf[field]
    return not expression or vars.match(expression, ctx)
end

function M.get_full_log(_, conf)
    local ctx = ngx.ctx.api_ctx
    local var = ctx.var
    local route = ctx.matched_route and ctx.matched_route.value
    local latency, upstream_latency, own_latency = M.latency_details_in_ms(ctx)
    local entry = {
        request = {
            url = (var.scheme or "") .. "://" .. (var.host or "") .. ":" .. (var.server_port or "") .. (var.request_uri or ""),
            uri = var.request_uri,
            method = ngx.req.get_method(),
            headers = ngx.req.get_headers(),
            querystring = ngx.req.get_uri_args(),
            size = tonumber(var.request_length),
        },
        response = {status = ngx.status, headers = ngx.resp.get_headers(), size = tonumber(var.bytes_sent)},
        server = {hostname = core.utils.gethostname(), version = core.version.VERSION},
        upstream = var.upstream_addr,
        service_id = route and (route.service_id or "") or var.host,
        route_id = route and route.id,
        consumer = ctx.consumer and {username = ctx.consumer.username} or nil,
        client_ip = core.request.get_remote_client_ip(ctx),
        start_time = ngx.req.start_time() * 1000,
        latency = latency,
        upstream_latency = upstream_latency,
        apisix_latency = own_latency,
    }
    if conf.include_resp_body then
        entry.response.body = ctx.resp_body
    end
    if conf.include_req_body and wants_body(conf, ctx, "include_req_body_expr") then
        entry.request.body = request_body(conf.max_req_body_bytes or default_max_body)
    end
    return entry
end

local function has_fields(format)
    return type(format) == "table" and next(format) ~= nil
end

-- -> entry, whether a log_format made it
function M.get_log_entry(plugin_name, conf, ctx)
    local metadata = plugin.plugin_metadata(plugin_name)
    metadata = metadata and metadata.value or {}
    local format = conf.log_format or (has_fields(metadata.log_format) and metadata.log_format)
    if format then
        return M.get_custom_format_log(ctx, format, conf.max_req_body_bytes), true
    end
    local entry = M.get_full_log(ngx, conf)
    local extra = conf.log_format_extra or metadata.log_format_extra
    if has_fields(extra) then
        for name, value in pairs(from_format(ctx, extra, conf.max_req_body_bytes, 1)) do
            -- What is there already stays.
            if entry[name] == nil then
                entry[name] = value
            end
        end
    end
    return entry, false
end

function M.check_log_schema(conf)
    for _, field in ipairs({"include_req_body_expr", "include_resp_body_expr"}) do
        if conf[field] then
            local ok, err = vars.check(conf[field])
            if not ok then
                return nil, "failed to validate the '" .. field .. "' expression: " .. err
            end
        end
    end
    return true
end

-- Access phase: a body that will be logged must be read before it is proxied.
function M.check_and_read_req_body(conf, ctx)
    if conf.include_req_body and wants_body(conf, ctx, "include_req_body_expr") then
        ngx.req.read_body()
    end
end

-- Body filter: keeps the response's body, unpacked, for the log phase.
function M.collect_body(conf, ctx)
    if not conf.include_resp_body then
        return
    end
    if ctx.log_resp_body == nil then
        ctx.log_resp_body = wants_body(conf, ctx, "include_resp_body_expr") and true or false
    end
    if not ctx.log_resp_body then
        return
    end
    local body = core.response.hold_body_chunk(ctx, true, conf.max_resp_body_bytes or default_max_body, conf)
    if not body then
        return
    end
    ctx.resp_body = body
    local encoding = ngx.header["Content-Encoding"]
    local decode = encoding and decoders.dispatch_decoder(encoding)
    if decode then
        local text, err = decode(body)
        if text then
            ctx.resp_body = text
        else
            core.log.warn("try decode compressed data err: ", err)
        end
    end
end

return M
