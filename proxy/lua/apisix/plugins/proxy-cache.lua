-- proxy-cache: keeps upstreams' responses, on disk (nginx' proxy_cache) or in memory (a shared dictionary).
local core = require("apisix.core")
local disk = require("dpproxy.cache.disk")
local memory = require("dpproxy.cache.memory")
local rules = require("dpproxy.cache.rules")

local ipairs = ipairs

local value_def = {type = "string", pattern = [[(^[^\$].+$|^\$[0-9a-zA-Z_]+$)]]}

local schema = {
    type = "object",
    properties = {
        max_resp_body_size = {type = "integer", minimum = 1, default = 67108864},
        cache_zone = {type = "string", minLength = 1, maxLength = 100, default = "disk_cache_one"},
        cache_strategy = {type = "string", enum = {"disk", "memory"}, default = "disk"},
        cache_key = {type = "array", minItems = 1, items = value_def, default = {"$host", "$request_uri"}},
        cache_http_status = {
            type = "array",
            minItems = 1,
            items = {type = "integer", minimum = 200, maximum = 599},
            uniqueItems = true,
            default = {200, 301, 404},
        },
        cache_method = {
            type = "array",
            minItems = 1,
            items = {type = "string", enum = {"GET", "POST", "HEAD"}},
            uniqueItems = true,
            default = {"GET", "HEAD"},
        },
        hide_cache_headers = {type = "boolean", default = false},
        cache_control = {type = "boolean", default = false},
        cache_bypass = {type = "array", minItems = 1, items = value_def},
        no_cache = {type = "array", minItems = 1, items = value_def},
        cache_ttl = {type = "integer", minimum = 1, default = 300},
        consumer_isolation = {type = "boolean", default = true},
        cache_set_cookie = {type = "boolean", default = false},
    },
}

local M = {
    version = 0.2,
    priority = 1085,
    name = "proxy-cache",
    schema = schema,
}

local function check_zone(conf)
    local node = core.config.local_conf()
    local proxy_cache = node and node.apisix and node.apisix.proxy_cache
    if not proxy_cache then
        return true
    end
    for _, zone in ipairs(proxy_cache.zones or {}) do
        if zone.name == conf.cache_zone then
            local on_disk = zone.disk_path ~= nil
            if on_disk ~= (conf.cache_strategy == "disk") then
                return false, "invalid or empty cache_zone for cache_strategy: " .. conf.cache_strategy
            end
            return true
        end
    end
    return false, "cache_zone " .. conf.cache_zone .. " not found"
end

function M.check_schema(conf)
    local ok, err = core.schema.check(schema, conf)
    if not ok then
        return false, err
    end
    for _, key in ipairs(conf.cache_key) do
        if key == "$request_method" then
            return false, "cache_key variable " .. key .. " unsupported"
        end
    end
    return check_zone(conf)
end

-- With one of these in the key, the operator tells clients apart.
local identities = {["$consumer_name"] = true, ["$consumer_group_id"] = true, ["$remote_user"] = true,
    ["$http_authorization"] = true}

local function names_identity(list)
    for i = 1, #list do
        if identities[list[i]] then
            return true
        end
    end
    return false
end

-- What is kept for one consumer is not given to another. \1 cannot be part of a consumer's name.
local function key_of(conf, ctx)
    local key = rules.joined(conf.cache_key, ctx)
    if conf.consumer_isolation and not names_identity(conf.cache_key) then
        local identity = ctx.consumer_name
        if not identity or identity == "" then
            identity = ctx.var.remote_user
        end
        if identity and identity ~= "" then
            key = identity .. "\1" .. key
        end
    end
    return key
end

local function strategy(conf)
    return conf.cache_strategy == "memory" and memory or disk
end

function M.access(conf, ctx)
    return strategy(conf).access(conf, ctx, key_of(conf, ctx))
end

function M.header_filter(conf, ctx)
    strategy(conf).header_filter(conf, ctx)
end

function M.body_filter(conf, ctx)
    if conf.cache_strategy == "memory" then
        memory.body_filter(conf, ctx)
    end
end

return M
