-- core.lrucache.new(opts) -> cache(key, version, create, …) -> value | nil, err
-- A value is made anew when its version has changed; when only its time is over and the version is the same, it lives on, unless
-- invalid_stale. neg_ttl/neg_count: failures are remembered, too. Per worker.
local lru = require("resty.lrucache")
local log = require("apisix.core.log")

local ngx = ngx
local pairs, pcall, tostring = pairs, pcall, tostring
local unpack = unpack

local M = {version = 0.1}

-- opts.refresh_stale: a stale value is given out once more, and made anew by a timer: pending[key] = what to call.
local refreshing = {}

local function refresh(pending, cache, ttl)
    for key, job in pairs(pending) do
        pending[key] = nil
        local ok, value, err = pcall(job.create, unpack(job, 1, job.n))
        if not ok then
            log.error("failed to refresh a cached value: ", value)
        elseif value ~= nil then
            cache:set(key, {value = value, version = job.version}, ttl)
        elseif err then
            log.warn("failed to refresh a cached value: ", err)
        end
    end
end

local function refresh_all(premature)
    if premature then
        return
    end
    for i = 1, #refreshing do
        local r = refreshing[i]
        refresh(r.pending, r.cache, r.ttl)
    end
end

function M.init_worker()
    ngx.timer.every(1, refresh_all)
end

-- Several requests that miss at once and yield while they make the value would all make it: serial_creating lets one do it.
local function wait_for(making, key)
    local waited = 0
    while making[key] and waited < 5 do
        ngx.sleep(0.005)
        waited = waited + 0.005
    end
end

local can_yield = {rewrite = true, access = true, content = true, timer = true}

function M.new(opts)
    opts = opts or {}
    local plugin = opts.type == "plugin"
    local ttl = opts.ttl or (plugin and 300 or 3600)
    local cache = lru.new(opts.count or (plugin and 8 or 1024))
    local failures = opts.neg_ttl and opts.neg_count and lru.new(opts.neg_count)
    local invalid_stale, serial = opts.invalid_stale, opts.serial_creating
    local making = serial and {}
    local pending
    if opts.refresh_stale then
        pending = {}
        refreshing[#refreshing + 1] = {pending = pending, cache = cache, ttl = ttl}
    end

    local function find(key, version, create, ...)
        local entry, stale = cache:get(key)
        if entry and entry.version == version then
            return entry
        end
        if stale and stale.version == version then
            if not invalid_stale then
                cache:set(key, stale, ttl)
                return stale
            end
            if pending then
                pending[key] = {create = create, version = version, n = select("#", ...), ...}
                return stale
            end
        end
        return nil
    end

    local function make(key, version, create, ...)
        local value, err = create(...)
        if value ~= nil then
            cache:set(key, {value = value, version = version}, ttl)
        elseif failures then
            failures:set(key, {err = err, version = version}, opts.neg_ttl)
        end
        return value, err
    end

    return function(key, version, create, ...)
        if failures then
            local failure = failures:get(key)
            if failure and failure.version == version then
                return nil, failure.err
            end
        end
        local entry = find(key, version, create, ...)
        if entry then
            return entry.value
        end
        if not serial or not can_yield[ngx.get_phase()] then
            return make(key, version, create, ...)
        end
        if making[key] then
            wait_for(making, key)
            entry = find(key, version, create, ...)
            if entry then
                return entry.value
            end
        end
        making[key] = true
        local ok, value, err = pcall(make, key, version, create, ...)
        making[key] = nil
        if not ok then
            return nil, tostring(value)
        end
        return value, err
    end
end

local global = M.new()
M.global = global

-- The key and version of what a plugin keeps per object (route, service, …) that it is configured on.
local function key_of(ctx, extra_key)
    local key = ctx.conf_type .. "#" .. ctx.conf_id
    if extra_key then
        key = key .. "#" .. extra_key
    end
    return key, ctx.conf_version
end

function M.plugin_ctx(cache, ctx, extra_key, create, ...)
    local key, version = key_of(ctx, extra_key)
    return cache(key, version, create, ...)
end

function M.plugin_ctx_id(ctx, extra_key)
    local key, version = key_of(ctx, extra_key)
    return key .. "#" .. version
end

return M
