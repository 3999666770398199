-- APISIX' name for what plugins do with upstreams: to choose one for a request, and to check one.
local schema_check = require("dpproxy.schema.upstream").check

local error = error

local M = {}

M.scheme_to_port = {http = 80, https = 443, grpc = 80, grpcs = 443}

-- This request goes to this upstream, whatever its route says. key and version name it for pickers and health checks: equal ones
-- must mean an equal upstream.
function M.set(ctx, key, version, conf)
    if not ctx then
        error("missing argument ctx", 2)
    elseif not key then
        error("missing argument key", 2)
    elseif not version then
        error("missing argument ver", 2)
    elseif not conf then
        error("missing argument conf", 2)
    end
    ctx.upstream_conf, ctx.upstream_version, ctx.upstream_key = conf, version, key
end

-- A plugin may have set the scheme already.
function M.set_scheme(ctx, upstream)
    ctx.upstream_scheme = ctx.upstream_scheme or upstream.scheme or "http"
    ctx.var.upstream_scheme = ctx.upstream_scheme
end

-- -> true | false, err; fills in defaults
function M.check_schema(conf)
    return require("apisix.core.schema").check(require("dpproxy.schema.upstream").schema, conf)
end

-- The same, with what a schema cannot say.
function M.check_upstream_conf(conf)
    local ok, err = M.check_schema(conf)
    if not ok then
        return false, "invalid configuration: " .. err
    end
    return schema_check(conf, {})
end

-- -> the upstream's value | nil
function M.get_by_id(id)
    local item = require("dpproxy.config.store").get("upstreams", tostring(id))
    if not item then
        require("apisix.core.log").error("failed to find upstream by id: ", id)
        return nil
    end
    return item.value
end

function M.upstreams()
    local store = require("dpproxy.config.store")
    return store.list("upstreams"), store.version("upstreams")
end

return M
