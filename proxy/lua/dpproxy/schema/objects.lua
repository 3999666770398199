-- What an object from etcd may be. Defaults are filled in and the id is set while checking.
--
--   check(kind, value, short_key, opts) -> true | false, err         opts: what configure() was given, if left out
--   configure(opts)                     for this process, by whoever loads the plugins
--   opts.plugin_schema(name, conf, kind) -> true | false, err | "unknown"
--                                       the plugin's own check; kind may be "credentials". Without it, any object will do.
--   opts.warn(message)                  told of what is accepted and has no effect (unknown plugins, errors of disabled ones)
--   opts.check_certificate(cert, key) -> ok, err        key is nil for a CA; not called for references to secrets
local ip = require("dpproxy.base.ip")
local json = require("dpproxy.base.json")
local kinds = require("dpproxy.schema.kinds")
local plugin_meta = require("dpproxy.schema.plugin_meta")
local route_check = require("dpproxy.router.route").check
local upstream_check = require("dpproxy.schema.upstream").check
local validator = require("dpproxy.schema.validator")

local type, ipairs, pairs, tostring = type, ipairs, pairs, tostring
local lower, sub, match, find, sort = string.lower, string.sub, string.match, string.find, table.sort

local M = {}

-- A string that will be replaced by a secret; what it will be cannot be checked now.
local function is_reference(value, schema)
    if type(value) ~= "string" or sub(value, 1, 1) ~= "$" then
        return false
    end
    if schema and schema.type and schema.type ~= "string" then
        return false
    end
    return sub(value, 1, 10) == "$secret://" or lower(sub(value, 1, 7)) == "$env://"
end
M.is_reference = is_reference

local with_references = {skip = is_reference}

local function warn(opts, message)
    if opts.warn then
        opts.warn(message)
    end
end

local function check_plugin(name, conf, kind, opts)
    if type(conf) ~= "table" then
        return false, "invalid plugin conf " .. tostring(json.encode(conf)) .. " for plugin [" .. tostring(name) .. "]"
    end
    if opts.plugin_schema then
        local ok, err = opts.plugin_schema(name, conf, kind)
        if ok == "unknown" or not ok and err == "unknown" then
            if kind ~= "plugin_metadata" then
                warn(opts, "unknown plugin [" .. name .. "] is skipped")
            end
            return true
        end
        if not ok then
            err = "failed to check the configuration of plugin " .. name .. " err: " .. tostring(err)
            if not plugin_meta.disabled(conf) then
                return false, err
            end
            warn(opts, err .. " (it is disabled, so it is accepted)")
        end
    end
    return plugin_meta.check(name, conf)
end

local function check_plugins(plugins, kind, opts)
    local names = {}
    for name in pairs(plugins or {}) do
        names[#names + 1] = tostring(name)
    end
    sort(names)
    for _, name in ipairs(names) do
        local ok, err = check_plugin(name, plugins[name], kind, opts)
        if not ok then
            return false, err
        end
    end
    return true
end

-- For kinds that have plugins and an upstream inside.
local function check_parts(value, kind, opts)
    local ok, err = true, nil
    if type(value.upstream) == "table" then
        ok, err = upstream_check(value.upstream, opts)
    end
    if ok and type(value.plugins) == "table" then
        ok, err = check_plugins(value.plugins, kind, opts)
    end
    return ok, err
end

local function lower_hosts(value)
    if value.host then
        value.host = lower(value.host)
    end
    for i, host in ipairs(value.hosts or {}) do
        value.hosts[i] = lower(host)
    end
end

local more = {} -- kind -> function(value, opts, short_key) -> ok, err: what comes after the schema

function more.routes(value, opts)
    lower_hosts(value)
    local ok, err = route_check(value)
    if not ok then
        return false, err
    end
    return check_parts(value, "routes", opts)
end

function more.services(value, opts)
    lower_hosts(value)
    return check_parts(value, "services", opts)
end

function more.upstreams(value, opts)
    return upstream_check(value, opts)
end

function more.stream_routes(value, opts)
    for _, name in ipairs({"remote_addr", "server_addr"}) do
        if value[name] and not ip.valid(value[name]) then
            return false, "invalid " .. name .. ": " .. value[name]
        end
    end
    return check_parts(value, "stream_routes", opts)
end

for _, kind in ipairs({"consumers", "credentials", "consumer_groups", "plugin_configs", "global_rules"}) do
    more[kind] = function(value, opts)
        return check_plugins(value.plugins, kind, opts)
    end
end

local function check_pair(cert, key, opts)
    if not opts.check_certificate or is_reference(cert) or is_reference(key) then
        return true
    end
    return opts.check_certificate(cert, key)
end

function more.ssls(value, opts)
    local ok, err = check_pair(value.cert, value.key, opts)
    if not ok then
        return false, err
    elseif value.type == "client" then
        return true
    end
    local certs, keys = value.certs or {}, value.keys or {}
    if #certs ~= #keys then
        return false, "mismatched number of certs and keys"
    end
    for i, cert in ipairs(certs) do
        ok, err = check_pair(cert, keys[i], opts)
        if not ok then
            return false, "failed to handle cert-key pair[" .. i .. "]: " .. err
        end
    end
    if value.client then
        ok, err = check_pair(value.client.ca, nil, opts)
        if not ok then
            return false, "failed to validate client_cert: " .. err
        end
    end
    return true
end

-- The kind that an object is by its place: consumers and services have others below them.
local function kind_by_key(kind, short_key)
    if kind == "consumers" and find(short_key, "/credentials/", 1, true) then
        return "credentials"
    elseif kind == "services" and find(short_key, "/graphql_cost_decorations/", 1, true) then
        return "decorations"
    end
    return kind
end

local function check_secret(value, short_key)
    local manager = match(short_key, "^([^/]+)/[^/]+$") or short_key
    local schema = kinds.secrets[manager]
    if not schema then
        return false, "invalid secret manager: " .. manager
    end
    return validator.check(schema, value, with_references)
end

-- A plugin's metadata is the plugin's matter; the id that we put in is not part of it.
local function check_metadata(value, name, opts)
    value.id = nil
    return check_plugin(name, value, "plugin_metadata", opts)
end

local function check_value(kind, value, short_key, opts)
    if kind == "secrets" then
        return check_secret(value, short_key)
    elseif kind == "plugin_metadata" then
        return check_metadata(value, short_key, opts)
    end
    kind = kind_by_key(kind, short_key)
    local schema = kinds[kind]
    if not schema then
        return false, "unknown kind of object: " .. tostring(kind)
    end
    -- who writes with an etcd client may leave the id to the key
    if kind ~= "plugins" and value.id == nil and short_key ~= "" then
        value.id = short_key
        if kind == "credentials" or kind == "decorations" then
            value.id = match(short_key, "[^/]*$")
        end
    end
    local ok, err = validator.check(schema, value, with_references)
    if ok and more[kind] then
        ok, err = more[kind](value, opts, short_key)
    end
    return ok, err
end

local configured = {}

function M.configure(opts)
    for name, fn in pairs(opts) do
        configured[name] = fn
    end
end

function M.check(kind, value, short_key, opts)
    if type(value) ~= "table" then
        return false, "an object is expected, got " .. type(value)
    end
    short_key = tostring(short_key or "")
    local ok, err = check_value(kind, value, short_key, opts or configured)
    if not ok then
        return false, err
    end
    if kind ~= "plugins" then
        value.id = short_key ~= "" and short_key or value.id
    end
    return true
end

return M
