-- APISIX' name for dpproxy.plugin.secrets.
local secrets = require("dpproxy.plugin.secrets")
local secret_ref = require("apisix.core.secret_ref")

local M = {
    fetch_by_uri = secrets.fetch_by_uri,
    fetch_secrets = secrets.fetch_secrets,
    has_secret_ref = secrets.has_secret_ref,
    collect_secret_values = secrets.collect_secret_values,
    is_secret_ref = secret_ref.is_secret_ref,
}

function M.check_secret_uri(uri)
    if type(uri) ~= "string" then
        return false, "error secret_uri type: " .. type(uri)
    end
    if not secret_ref.is_secret_ref(uri) then
        return false, "error secret_uri prefix: " .. uri
    end
    return true
end

function M.secrets()
    local store = require("dpproxy.config.store")
    return store.list("secrets"), store.version("secrets")
end

function M.init_worker() end

return M
