-- Which upstream block a request with TLS goes through. This nginx keeps connections by address alone: one that was opened for
-- a name, or with a client certificate, could serve another. Each block dpproxy_tls_N therefore belongs to one (name,
-- certificate) at a time; it is given away only after nothing of its connections can be left.
local keys = require("dpproxy.tls.keys")
local node = require("dpproxy.base.node")
local store = require("dpproxy.config.store")

local ngx = ngx
local ngx_now = ngx.now

local M = {}

local slots, by_key, used = {}, {}, 0
local NO_KEEPALIVE = "dpproxy_no_keepalive"

local function seconds(text)
    local number, unit = tostring(text):match("^(%d+)(m?s?)$")
    if unit == "m" then
        return number * 60
    end
    return unit == "ms" and number / 1000 or tonumber(number) or 60
end

local quiet_time

-- A block whose last request ended so long ago that nginx has closed what it kept.
local function take_over(now)
    quiet_time = quiet_time or seconds(node.get().nginx_config.http.upstream.keepalive_timeout) + 5
    for i = 1, used do
        local slot = slots[i]
        if slot.running == 0 and now - slot.ended > quiet_time then
            by_key[slot.key] = nil
            return slot
        end
    end
    return nil
end

local function slot_of(key)
    local slot = by_key[key]
    if slot then
        return slot
    end
    local now = ngx_now()
    if used < node.get().dpproxy.upstream_tls_slots then
        used = used + 1
        slot = {name = "dpproxy_tls_" .. used, running = 0, ended = now}
        slots[used] = slot
    else
        slot = take_over(now)
        if not slot then
            return nil
        end
    end
    slot.key = key
    by_key[key] = slot
    return slot
end

-- The client certificate of an upstream -> "data:…", "data:…", what identifies it
local function client_certificate(value)
    local tls = value.tls
    if not tls then
        return nil, nil, ""
    end
    local cert, key, id = tls.client_cert, tls.client_key, nil
    if tls.client_cert_id then
        local item = store.get("ssls", tostring(tls.client_cert_id))
        if not item then
            return nil, nil, "", "ssl " .. tostring(tls.client_cert_id) .. " is not there"
        end
        cert, key, id = item.value.cert, item.value.key, item.key .. item.modifiedIndex
    end
    if not cert then
        return nil, nil, ""
    end
    local plain, err = keys.private_pem(key)
    if not plain then
        return nil, nil, "", err
    end
    return "data:" .. cert, "data:" .. plain, id or ngx.crc32_long(cert) .. ":" .. #cert
end

-- Nodes with names of their own at addresses that could be the same: nothing is kept.
local function several_names(value)
    return value.pass_host == "node" and #value.nodes > 1
end

-- -> name of the block, certificate, key
function M.block(ctx, value)
    local cert, key, id, err = client_certificate(value)
    if err then
        ngx.log(ngx.ERR, "no client certificate for upstream ", ctx.upstream_key, ": ", err)
    end
    if several_names(value) then
        return NO_KEEPALIVE, cert, key
    end
    local host = ctx.var.upstream_host or ctx.var.http_host or ""
    local slot = slot_of(host:lower() .. "\0" .. id)
    if not slot then
        return NO_KEEPALIVE, cert, key
    end
    slot.running = slot.running + 1
    ctx.dpproxy_tls_slot = slot
    return slot.name, cert, key
end

-- Log phase.
function M.done(ctx)
    local slot = ctx.dpproxy_tls_slot
    if slot then
        slot.running = slot.running - 1
        slot.ended = ngx_now()
        ctx.dpproxy_tls_slot = nil
    end
end

return M
