-- proxy-cache on disk: nginx does it; variables tell it what and whether (docs/internals/proxy.md, "What plugins need from
-- nginx.conf").
local core = require("apisix.core")
local rules = require("dpproxy.cache.rules")

local ipairs = ipairs

local M = {}

local function zone_of(name)
    local node = core.config.local_conf()
    for _, zone in ipairs(node.apisix.proxy_cache and node.apisix.proxy_cache.zones or {}) do
        if zone.name == name then
            return zone
        end
    end
end

-- Where nginx keeps a key: the MD5 of it, in folders named by the digest's last characters ("1:2").
function M.file_name(path, levels, key)
    local digest = ngx.md5(key)
    local folders, last = {}, #digest
    for length in levels:gmatch("%d+") do
        length = tonumber(length)
        folders[#folders + 1] = digest:sub(last - length + 1, last)
        last = last - length
    end
    folders[#folders + 1] = digest
    return path:gsub("/+$", "") .. "/" .. table.concat(folders, "/")
end

local function purge(conf, key)
    local zone = zone_of(conf.cache_zone)
    if not zone or not zone.disk_path then
        return 404
    end
    if os.remove(M.file_name(zone.disk_path, zone.cache_levels or "1:2", key)) then
        return 200
    end
    return 404
end

function M.access(conf, ctx, key)
    if ctx.var.request_method == "PURGE" then
        return purge(conf, key)
    end
    ctx.var.upstream_cache_key = key
    ctx.var.upstream_cache_zone = conf.cache_zone
    if conf.cache_bypass then
        ctx.var.upstream_cache_bypass = rules.joined(conf.cache_bypass, ctx)
    end
    if not rules.method_matches(conf, ctx) then
        ctx.var.upstream_cache_bypass = "1"
    end
end

function M.header_filter(conf, ctx)
    if conf.hide_cache_headers then
        core.response.set_header("Cache-Control", nil)
        core.response.set_header("Expires", nil)
    end
    local status = ngx.var.upstream_cache_status
    if status then
        core.response.set_header("Apisix-Cache-Status", status)
    end
    -- nginx asks after this phase whether to keep the response.
    local keep = rules.method_matches(conf, ctx) and rules.status_matches(conf, ngx.status)
        and not rules.is_set(conf.no_cache, ctx)
    ctx.var.upstream_no_cache = keep and "0" or "1"
end

return M
