-- proxy-cache in memory: serves from, and fills, dpproxy.cache.store.
local core = require("apisix.core")
local rules = require("dpproxy.cache.rules")
local store = require("dpproxy.cache.store")

local floor, max = math.floor, math.max
local lower, match, gmatch = string.lower, string.match, string.gmatch
local pairs, tonumber, tostring, type = pairs, tonumber, tostring, type

local M = {}

local status_header = "Apisix-Cache-Status"

-- Not the response's, but the connection's; or made anew.
local not_kept = {
    connection = true, ["keep-alive"] = true, ["proxy-authenticate"] = true, ["proxy-authorization"] = true, te = true,
    trailers = true, ["transfer-encoding"] = true, upgrade = true, ["content-length"] = true, ["apisix-cache-status"] = true,
}

-- "private, max-age=60" -> {private = true, ["max-age"] = 60}
local function directives(value)
    if type(value) == "table" then
        value = table.concat(value, ",")
    end
    local found = {}
    for part in gmatch(value or "", "[^,]+") do
        local name, argument = match(part, "^%s*([^=%s]+)%s*=?%s*\"?([^\"]-)\"?%s*$")
        if name then
            found[lower(name)] = tonumber(argument) or (argument ~= "" and argument) or true
        end
    end
    return found
end

M.directives = directives

local function request_header(name)
    local value = ngx.req.get_headers()[name]
    if type(value) == "table" then
        return table.concat(value, ", ")
    end
    return value and tostring(value)
end

local function dict_of(conf)
    return ngx.shared[conf.cache_zone]
end

local function set_status(text)
    core.response.set_header(status_header, text)
end

local function is_fresh(conf, cc, response)
    local age = ngx.now() - response.at
    if not conf.cache_control then
        return age <= response.ttl
    end
    if type(cc["max-age"]) == "number" and age > cc["max-age"] then
        return false
    end
    if type(cc["max-stale"]) == "number" and age - response.ttl > cc["max-stale"] then
        return false
    end
    if type(cc["min-fresh"]) == "number" and response.ttl - age < cc["min-fresh"] then
        return false
    end
    return true
end

local function serve(conf, ctx, response)
    ctx.cache = {hit = true}
    for name, value in pairs(response.headers) do
        local plain = lower(name)
        local hidden = conf.hide_cache_headers and (plain == "expires" or plain == "cache-control")
        -- How much of a limit is left differs from request to request.
        if not not_kept[plain] and not hidden and not plain:find("ratelimit-remaining", 1, true) then
            core.response.set_header(name, value)
        end
    end
    core.response.set_header("Age", floor(max(ngx.now() - response.at, 0)))
    set_status("HIT")
    return response.status, response.body
end

function M.access(conf, ctx, key)
    local dict = dict_of(conf)
    if not dict then
        core.log.error("cache_zone ", conf.cache_zone, " is not a shared dictionary of this node")
        return
    end
    if ctx.var.request_method == "PURGE" then
        return store.purge(dict, key) and 200 or 404
    end
    local cc = directives(ctx.var.http_cache_control)
    if not rules.method_matches(conf, ctx) then
        return set_status("MISS")
    end
    if rules.is_set(conf.cache_bypass, ctx) or conf.cache_control and (cc["no-store"] or cc["no-cache"]) then
        return set_status("BYPASS")
    end
    -- Filled in when the response has come.
    ctx.cache = {key = key}
    local response, err = store.get(dict, key, request_header, ngx.md5)
    if not response then
        if err == "not found" and conf.cache_control and cc["only-if-cached"] then
            ctx.cache = nil
            set_status("MISS")
            return 504
        end
        return set_status(err == "expired" and "EXPIRED" or "MISS")
    end
    if not is_fresh(conf, cc, response) then
        return set_status("STALE")
    end
    return serve(conf, ctx, response)
end

-- Seconds that the upstream allows.
local function upstream_ttl(cc, ctx)
    local seconds = tonumber(cc["s-maxage"]) or tonumber(cc["max-age"])
    if not seconds then
        local expires = ctx.var.upstream_http_expires
        local at = expires and ngx.parse_http_time(tostring(expires))
        seconds = at and at - ngx.now()
    end
    return seconds and max(seconds, 0) or 0
end

local function has_cookie(headers)
    for name, value in pairs(headers) do
        if lower(name) == "set-cookie" and value ~= "" then
            return true
        end
    end
    return false
end

local function may_keep(conf, ctx, cc, headers)
    if ctx.var.request_method == "HEAD" then
        return false        -- it has no body; a HEAD is answered from what a GET brought
    end
    if not rules.status_matches(conf, ngx.status) or rules.is_set(conf.no_cache, ctx) then
        return false
    end
    -- What the upstream marks as personal is never kept, whatever cache_control says.
    if cc["private"] or cc["no-store"] or cc["no-cache"] then
        return false
    end
    if not conf.cache_set_cookie and has_cookie(headers) then
        return false
    end
    return true
end

function M.header_filter(conf, ctx)
    local cache = ctx.cache
    if not cache or cache.hit then
        return
    end
    local headers = ngx.resp.get_headers(0, true)
    local cc = directives(ctx.var.upstream_http_cache_control)
    local names = store.vary_list(ctx.var.upstream_http_vary)
    local ttl = conf.cache_control and upstream_ttl(cc, ctx) or conf.cache_ttl
    if names and ttl > 0 and may_keep(conf, ctx, cc, headers) then
        cache.names, cache.ttl = names, ttl
        cache.headers = {}
        for name, value in pairs(headers) do
            cache.headers[name] = value
        end
        cache.length = tonumber(ctx.var.upstream_http_content_length)
    else
        ctx.cache = nil
    end
    if conf.hide_cache_headers then
        core.response.set_header("Cache-Control", nil)
        core.response.set_header("Expires", nil)
    end
end

function M.body_filter(conf, ctx)
    local cache = ctx.cache
    if not cache or cache.hit or cache.done then
        return
    end
    local body = core.response.hold_body_chunk(ctx, true, conf.max_resp_body_size)
    if not body then
        return
    end
    cache.done = true
    -- Too large, or cut off: goes through, is not kept.
    if #body >= conf.max_resp_body_size or (cache.length and #body < cache.length) then
        return
    end
    local ok, err = store.put(dict_of(conf), cache.key, cache.names, request_header, ngx.md5, {status = ngx.status,
        headers = cache.headers, body = body, ttl = cache.ttl, at = ngx.now()})
    if not ok then
        core.log.error("failed to set cache: ", err)
    end
end

return M
