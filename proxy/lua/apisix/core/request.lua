-- core.request: the client's request, to read and to change before it goes on.
-- ctx is the request's api_ctx; where it may be nil, the current one is taken.
local io = require("apisix.core.io")
local json = require("apisix.core.json")
local log = require("apisix.core.log")
local joined = require("dpproxy.base.tables").joined

local ngx = ngx
local req = ngx.req
local get_headers, req_set_header, clear_header = req.get_headers, req.set_header, req.clear_header
local read_body, get_body_data, get_body_file = req.read_body, req.get_body_data, req.get_body_file
local get_uri_args, set_uri_args, get_post_args = req.get_uri_args, req.set_uri_args, req.get_post_args
local type, tonumber, error, rawget = type, tonumber, error, rawget
local str_lower, str_gsub, str_find, str_match = string.lower, string.gsub, string.find, string.match

local M = {}

local function current(ctx)
    return ctx or ngx.ctx.api_ctx
end

-- "X-Foo" -> "http_x_foo", remembered: header names come from configuration and code.
local var_names, direct = {}, {}
local var_names_count = 0

local function var_name(header)
    local name = var_names[header]
    if not name then
        if var_names_count >= 4096 then
            var_names, direct, var_names_count = {}, {}, 0
        end
        name = "http_" .. str_gsub(str_lower(header), "-", "_")
        -- When there are several lines, nginx joins those of these two; the first line is found in the headers' table.
        direct[header] = name ~= "http_x_forwarded_for" and name ~= "http_cookie" and not str_find(name, "[^%w_]")
        var_names[header] = name
        var_names_count = var_names_count + 1
    end
    return name
end

-- All headers, names in lower case (any case may be asked for). 0: no limit, which a client could use to hide headers.
function M.headers()
    return get_headers(0)
end

-- One header's value; the first, when it was sent several times.
function M.header(_, name)
    local var = var_name(name)
    if direct[name] then
        return ngx.var[var]
    end
    local value = get_headers(0)[name]
    if type(value) == "table" then
        return value[1]
    end
    return value
end

local function forget_header(ctx, name)
    local vars = ctx and rawget(ctx, "var")
    if vars then
        vars[var_name(name)] = nil
    end
end

-- core.request.set_header(ctx, name, value); nil removes it. The old form without ctx is accepted.
function M.set_header(ctx, name, value)
    if type(ctx) == "string" then
        ctx, name, value = nil, ctx, name
    end
    if type(name) ~= "string" then
        error("invalid header name: got " .. type(name) .. ", expected string", 2)
    end
    if value == nil then
        clear_header(name)
    else
        req_set_header(name, value)
    end
    forget_header(current(ctx), name)
end

function M.add_header(ctx, name, value)
    if type(ctx) == "string" then
        ctx, name, value = nil, ctx, name
    end
    if type(name) ~= "string" then
        error("invalid header name: got " .. type(name) .. ", expected string", 2)
    end
    local old = get_headers(0)[name]
    if old == nil then
        req_set_header(name, value)
    else
        req_set_header(name, joined(old, value))
    end
    forget_header(current(ctx), name)
end

-- The peer of the connection, before realip.
function M.get_ip(ctx)
    local var = current(ctx).var
    return var.realip_remote_addr or var.remote_addr or ""
end

function M.get_remote_client_ip(ctx)
    return current(ctx).var.remote_addr or ""
end

function M.get_remote_client_port(ctx)
    return tonumber(current(ctx).var.remote_port)
end

function M.get_uri_args(ctx)
    ctx = current(ctx)
    local args = ctx.req_uri_args
    if not args then
        args = get_uri_args(0)
        ctx.req_uri_args = args
    end
    return args
end

function M.set_uri_args(ctx, args)
    ctx = current(ctx)
    ctx.req_uri_args = nil
    return set_uri_args(args)
end

function M.get_post_args(ctx)
    ctx = current(ctx)
    local args = ctx.req_post_args
    if not args then
        read_body()
        local err
        args, err = get_post_args(0)
        if not args then
            log.error("the post form is too large: ", err)
            args = {}
        end
        ctx.req_post_args = args
    end
    return args
end

local function check_size(size, max_size)
    if max_size and size > max_size then
        return nil, "request size " .. size .. " is greater than the maximum size " .. max_size .. " allowed"
    end
    return true
end

-- The whole body, nil when there is none, or nil, err. Large ones are read from nginx' temporary file.
function M.get_body(max_size, ctx)
    if max_size then
        local var = ctx and ctx.var or ngx.var
        local length = tonumber(var.http_content_length)
        local ok, err = check_size(length or 0, max_size)
        if not ok then
            -- No 100 Continue for a body that nobody reads.
            if var.http_expect and str_lower(var.http_expect) == "100-continue" then
                clear_header("expect")
            end
            return nil, err
        end
    end

    read_body()
    local body = get_body_data()
    if body then
        local ok, err = check_size(#body, max_size)
        if not ok then
            return nil, err
        end
        return body
    end

    local file = get_body_file()
    if not file then
        return nil
    end
    if max_size then
        local size, err = io.get_size(file)
        if not size then
            return nil, err
        end
        local ok
        ok, err = check_size(size, max_size)
        if not ok then
            return nil, err
        end
    end
    return io.get_file(file)
end

local function parse_multipart(body, content_type)
    local boundary = str_match(content_type, 'boundary="([^"]+)"') or str_match(content_type, "boundary=([^;%s]+)")
    if not boundary then
        return nil
    end
    local fields = {}
    local mark = "--" .. boundary
    local from = select(2, str_find(body, mark, 1, true))
    while from do
        local stop = str_find(body, mark, from + 1, true)
        if not stop then
            break
        end
        local part = body:sub(from + 1, stop - 1)
        local head, content = str_match(part, "^\r?\n(.-)\r?\n\r?\n(.*)\r?\n$")
        local name = head and (str_match(head, '[; ]name="([^"]*)"') or str_match(head, "[; ]name=([^;%s]+)"))
        if name then
            fields[name] = str_gsub(content, "\r$", "")
        end
        from = stop + #mark - 1
    end
    return fields
end

local function parse_body(ctx, content_type, max_size)
    if str_find(content_type, "application/x-www-form-urlencoded", 1, true) then
        return M.get_post_args(ctx)
    end
    local is_json = str_find(content_type, "application/json", 1, true)
    if not is_json and not str_find(content_type, "multipart/form-data", 1, true) then
        return nil, "unsupported content-type: " .. content_type .. ", supported types are: application/json, "
            .. "application/x-www-form-urlencoded, multipart/form-data"
    end
    local body, err = M.get_body(max_size, ctx)
    if not body then
        return nil, "could not get body: " .. (err or "request body is empty")
    end
    if is_json then
        local value
        value, err = json.decode(body)
        if value == nil then
            return nil, "could not parse JSON request body: " .. (err or "invalid JSON")
        end
        return value
    end
    local fields = parse_multipart(body, content_type)
    if not fields then
        return nil, "failed to parse multipart form data"
    end
    return fields
end

-- The body by its content type (or the one given), parsed once per request.
function M.get_request_body_table(ctx, content_type, max_size)
    ctx = current(ctx)
    if ctx._request_body_table ~= nil then
        if content_type and ctx._request_body_type ~= content_type then
            return nil, "request body type mismatch: cached type is " .. (ctx._request_body_type or "unknown")
                .. ", expected " .. content_type
        end
        return ctx._request_body_table
    end
    local wanted = content_type or M.header(ctx, "Content-Type") or ""
    local value, err = parse_body(ctx, wanted, max_size)
    if value == nil then
        return nil, err
    end
    ctx._request_body_table = value
    ctx._request_body_type = str_match(wanted, "^%s*([^;%s]+)")
    return value
end

function M.get_json_request_body_table(max_size)
    local value, err = M.get_request_body_table(nil, "application/json", max_size)
    if value == nil then
        return nil, {message = err}
    end
    return value
end

function M.get_scheme(ctx)
    return current(ctx).var.scheme or ""
end

function M.get_host(ctx)
    return current(ctx).var.host or ""
end

function M.get_port(ctx)
    return tonumber(current(ctx).var.server_port)
end

M.get_http_version = req.http_version
M.get_method = req.get_method

return M
