-- "$env://NAME" and "$secret://manager/id/key" in configurations become what they stand for. Values are remembered for 300 s,
-- failures for 60 s, and forgotten when a secret's object in etcd changes. What cannot be resolved stays as it is, and is logged;
-- consumers with such credentials are left out (dpproxy.plugin.consumer).
-- A manager is a module `apisix.secret.<manager>` with get(conf, key); `vault` is built in.
local core = require("apisix.core")
local secret_ref = require("apisix.core.secret_ref")

local log = core.log
local ngx = ngx
local pairs, type, pcall, setmetatable, tostring = pairs, type, pcall, setmetatable, tostring
local str_match = string.match
local is_secret_ref = secret_ref.is_secret_ref

local M = {is_secret_ref = is_secret_ref}

M.ttl = 300

local store

-- opts.store: dpproxy.config.store, or what stands in for it
function M.use(opts)
    store = opts.store
end

local function get_store()
    store = store or require("dpproxy.config.store")
    return store
end

function M.version()
    return get_store().version("secrets") or 0
end

local function fetch_secret(uri)
    local manager, id, key = str_match(uri, "^%$secret://([^/]+)/([^/]+)/(.+)$")
    if not manager then
        return nil, "error format: it should be $secret://manager/id/key"
    end
    local item = get_store().get("secrets", manager .. "/" .. id)
    if not item then
        return nil, "no such secret"
    end
    local ok, module = pcall(require, "apisix.secret." .. manager)
    if not ok then
        return nil, "no secret manager: " .. manager
    end
    return module.get(item.value, key)
end

-- -> value | nil, err; not cached
function M.fetch_by_uri(uri)
    local ok, value, err
    if secret_ref.is_env(uri) then
        ok, value, err = pcall(core.env.fetch_by_uri, uri)
    elseif secret_ref.is_secret(uri) then
        ok, value, err = pcall(fetch_secret, uri)
    else
        return nil, "no reference"
    end
    if not ok then
        return nil, tostring(value)
    end
    return value, err
end

local cache = core.lrucache.new({ttl = M.ttl, count = 512, neg_ttl = 60, neg_count = 512, invalid_stale = true})

local function fetch(uri, use_cache)
    if use_cache then
        return cache(uri, M.version(), M.fetch_by_uri, uri)
    end
    return M.fetch_by_uri(uri)
end

local function has_ref(value, seen)
    if type(value) ~= "table" then
        return is_secret_ref(value)
    end
    if seen[value] then
        return false
    end
    seen[value] = true
    for _, v in pairs(value) do
        if has_ref(v, seen) then
            return true
        end
    end
    return false
end

function M.has_secret_ref(conf)
    return type(conf) == "table" and has_ref(conf, {})
end

local function replace(conf, use_cache)
    for k, v in pairs(conf) do
        if type(v) == "table" then
            replace(v, use_cache)
        elseif is_secret_ref(v) then
            local value, err = fetch(v, use_cache)
            if value == nil then
                log.error("failed to resolve secret reference: ", v, ", field: ", k, ", err: ", err or "no value")
            else
                conf[k] = value
            end
        end
    end
    return conf
end

-- A copy of conf with values in place of references.
function M.fetch_secrets(conf, use_cache)
    if type(conf) ~= "table" then
        return nil
    end
    return replace(core.table.deepcopy(conf), use_cache)
end

local function collect(conf, use_cache, values, seen)
    if seen[conf] then
        return values
    end
    seen[conf] = true
    for _, v in pairs(conf) do
        if type(v) == "table" then
            collect(v, use_cache, values, seen)
        elseif is_secret_ref(v) then
            values[v] = fetch(v, use_cache)
        end
    end
    return values
end

-- reference -> value, for all that conf has
function M.collect_secret_values(conf, use_cache)
    return type(conf) == "table" and collect(conf, use_cache, {}, {}) or {}
end

local resolved = setmetatable({}, {__mode = "k"}) -- conf -> {conf =, values =, version =, until =} | false without references

-- conf itself without references, else its copy with values: the same table for as long as the values are the same.
function M.resolve(conf)
    local entry = resolved[conf]
    if entry == false then
        return conf
    elseif entry == nil and not M.has_secret_ref(conf) then
        resolved[conf] = false
        return conf
    end
    local version, now = M.version(), ngx.now()
    if entry and entry.version == version and now < entry.fresh_until then
        return entry.conf
    end
    local values = M.collect_secret_values(conf, true)
    if not entry or not core.table.deep_eq(entry.values, values) then
        entry = {conf = M.fetch_secrets(conf, true), values = values}
        resolved[conf] = entry
    end
    entry.version = version
    entry.fresh_until = now + 10 -- the values' own cache knows better; this only saves looking
    return entry.conf
end

-- May resolve() answer anything but conf itself?
function M.is_dynamic(conf)
    M.resolve(conf)
    return resolved[conf] ~= false
end

return M
