-- What happens after the upstream has answered: header and body filters, the log phase.
local context = require("dpproxy.http.context")
local runtime = require("dpproxy.plugin.runtime")
local upstream = require("dpproxy.http.upstream")

local ngx = ngx
local ngx_header = ngx.header
local str_sub, str_byte = string.sub, string.byte
local FIVE = str_byte("5")

local M = {}

local server_header, always_show_status

function M.init(conf)
    server_header = conf.apisix.enable_server_tokens and "APISIX/" .. conf.dpproxy.apisix_version or "APISIX"
    always_show_status = conf.apisix.show_upstream_status_in_response_header
end

local function show_upstream_status()
    local text = ngx.var.upstream_status
    if not text then
        return
    end
    if always_show_status or str_byte(str_sub(text, -3)) == FIVE then
        ngx_header["X-APISIX-Upstream-Status"] = text
    end
end

-- Of a request that was proxied -> must it end?
local function look_at_status(status)
    -- nginx takes bytes that are no HTTP for an answer of HTTP/0.9 (status 9), and would send them as they are.
    if status == 9 then
        ngx.log(ngx.ERR, "the upstream's answer is no HTTP")
        return true
    elseif always_show_status or status >= 500 then
        show_upstream_status()
    end
    return false
end

-- Where requests have no ctx (plain.lua).
function M.plain_header_filter()
    ngx_header["Server"] = server_header
    if look_at_status(ngx.status) then
        return ngx.exit(ngx.ERROR)
    end
end

function M.header_filter()
    ngx_header["Server"] = server_header
    local ctx = ngx.ctx.api_ctx
    if not ctx then
        return
    end
    if ctx._apisix_proxied then
        local status = ngx.status
        if look_at_status(status) then
            return ngx.exit(ngx.ERROR)
        end
        -- nginx' own answers to a request that it has proxied are errors.
        ctx.dpproxy_answered = status < 400
    end
    runtime.phase("header_filter", ctx)
    -- For a plugin that must see the headers as the others leave them (gzip).
    local last = ctx.last_header_filter
    if last then
        last(ctx)
    end
end

function M.body_filter()
    local ctx = ngx.ctx.api_ctx
    if ctx then
        runtime.phase("body_filter", ctx)
    end
end

function M.log()
    local ngx_ctx = ngx.ctx
    local ctx = ngx_ctx.api_ctx
    if not ctx then
        return
    end
    runtime.phase("log", ctx)
    upstream.done(ctx)
    ngx_ctx.api_ctx = nil
    context.give_back(ctx)
end

return M
