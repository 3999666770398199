-- core.response: answers made here, and changes to the upstream's.
local json = require("dpproxy.base.json")
local joined = require("dpproxy.base.tables").joined
local clear = require("table.clear")

local ngx = ngx
local ngx_print, ngx_exit = ngx.print, ngx.exit
local select, type, error, tonumber, pairs = select, type, error, tonumber, pairs
local concat, str_sub, str_byte, str_gmatch = table.concat, string.sub, string.byte, string.gmatch

local M = {version = 0.1}

-- fn(code, body, headers, conf) -> code, body, headers: runs before an answer of our own is sent.
function M.exit_insert_callback(fn, conf)
    local ctx = ngx.ctx
    local callbacks = ctx.apisix_exit_callback_funcs
    if not callbacks then
        callbacks = {}
        ctx.apisix_exit_callback_funcs = callbacks
    end
    callbacks[#callbacks + 1] = fn
    callbacks[#callbacks + 1] = conf or false
end

local function text_of(value)
    if type(value) ~= "table" then
        return value
    end
    local text, err = json.encode(value)
    if not text then
        error("failed to encode data: " .. err, 0)
    end
    return text .. "\n"
end

local function finish(code)
    local ctx = ngx.ctx.api_ctx
    if ctx and not ctx._resp_source then
        ctx._resp_source = "apisix"
    end
    return ngx_exit(code)
end

local function exit_through(callbacks, code, body)
    local headers = {}
    for i = 1, #callbacks, 2 do
        code, body, headers = callbacks[i](code, body, headers, callbacks[i + 1] or nil)
    end
    if code then
        ngx.status = code
    end
    for k, v in pairs(headers or {}) do
        ngx.header[k] = v
    end
    if body ~= nil then
        ngx_print(text_of(body))
    end
    if code then
        return finish(code)
    end
end

local parts = {} -- no yield between filling and printing

-- exit(code, body, …): bodies are strings, or tables that become JSON and a newline. Without a code it only prints.
function M.exit(code, ...)
    local n = 0
    clear(parts)
    if code and type(code) ~= "number" then
        n = 1
        parts[1] = code
        code = nil
    end

    local callbacks = ngx.ctx.apisix_exit_callback_funcs
    if callbacks then
        local body = parts[1]
        if body == nil then
            for i = 1, select("#", ...) do
                body = (select(i, ...))
                if body ~= nil then
                    break
                end
            end
        end
        return exit_through(callbacks, code, body)
    end

    if code then
        ngx.status = code
    end
    if n == 1 then
        parts[1] = text_of(parts[1])
    end
    for i = 1, select("#", ...) do
        local value = (select(i, ...))
        if value ~= nil then
            n = n + 1
            parts[n] = text_of(value)
        end
    end
    if n > 0 then
        ngx_print(parts)
    end
    if code then
        return finish(code)
    end
end

function M.say(...)
    M.exit(nil, ...)
end

local function check_unsent()
    if ngx.headers_sent then
        error("headers have already been sent", 3)
    end
end

-- set_header(name, value, name, value, …), or one table of them. A nil value removes.
function M.set_header(name, value, ...)
    check_unsent()
    local header = ngx.header
    if type(name) == "table" then
        for k, v in pairs(name) do
            header[k] = v
        end
        return
    end
    header[name] = value
    for i = 1, select("#", ...), 2 do
        header[(select(i, ...))] = (select(i + 1, ...))
    end
end

local function add(name, value)
    local header = ngx.header
    local old = header[name]
    if old == nil then
        header[name] = value
    else
        header[name] = joined(old, value)
    end
end

function M.add_header(name, value, ...)
    check_unsent()
    if type(name) == "table" then
        for k, v in pairs(name) do
            add(k, v)
        end
        return
    end
    add(name, value)
    for i = 1, select("#", ...), 2 do
        add((select(i, ...)), (select(i + 1, ...)))
    end
end

-- $upstream_status names all tries; the last one counts.
function M.get_upstream_status(ctx)
    return tonumber(str_sub(ctx.var.upstream_status or "", -3))
end

function M.set_response_source(ctx, source)
    if ctx then
        ctx._resp_source = source
    end
end

function M.get_last_upstream_token(text)
    local last
    for token in str_gmatch(text or "", "[^%s,]+") do
        last = token
    end
    return last
end

-- "apisix": answered here; "upstream": the upstream's answer; "nginx": an error of proxying, such as a refused connection.
function M.get_response_source(ctx)
    if not ctx then
        return "apisix"
    end
    local source = ctx._resp_source
    if source then
        return source
    end
    if not ctx._apisix_proxied then
        return "apisix"
    end
    if ctx.dpproxy_answered then -- seen by http/response.lua
        return "upstream"
    end
    -- "-" stands for a try that got no header. The last byte instead of the last token: this may run for every request.
    local last = str_byte(ngx.var.upstream_header_time or "", -1)
    source = last and last >= 48 and last <= 57 and "upstream" or "nginx"
    ctx._resp_source = source
    return source
end

function M.clear_header_as_body_modified()
    local header = ngx.header
    header.content_length = nil
    header.content_encoding = nil
    header.last_modified = nil
    header.etag = nil
end

-- In body_filter: nil until the whole body is there, then the body. The chunks are held back unless hold_the_copy.
function M.hold_body_chunk(ctx, hold_the_copy, max_resp_body_bytes, body_buffer_key)
    local arg = ngx.arg
    local chunk, eof = arg[1], arg[2]
    local key = body_buffer_key or ctx._plugin_name
    local buffers = ctx._body_buffer
    if not buffers then
        buffers = {}
        ctx._body_buffer = buffers
    end
    local buffer = buffers[key]

    if type(chunk) == "string" and chunk ~= "" then
        if buffer and buffer.done then
            return nil
        end
        if not buffer then
            buffer = {n = 0, bytes = 0}
            buffers[key] = buffer
        end
        local n = buffer.n + 1
        buffer.n = n
        buffer[n] = chunk
        buffer.bytes = buffer.bytes + #chunk
        if max_resp_body_bytes and buffer.bytes >= max_resp_body_bytes then
            buffer.done = true
            local body = str_sub(concat(buffer, "", 1, n), 1, max_resp_body_bytes)
            for i = 1, n do
                buffer[i] = nil
            end
            return body
        end
    end

    if eof then
        if not buffer then
            return chunk
        end
        if buffer.done then
            return nil
        end
        buffers[key] = nil
        return concat(buffer, "", 1, buffer.n)
    end
    if not hold_the_copy then
        arg[1] = nil
    end
    return nil
end

return M
