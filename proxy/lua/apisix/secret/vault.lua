-- Secrets of a HashiCorp Vault: $secret://vault/<id>/<path>/<field>, with the key-value engine at <prefix>, version 1, or
-- version 2 when the prefix has its data/ part.
local env = require("apisix.core.env")
local http = require("resty.http")
local json = require("dpproxy.base.json")
local secret_ref = require("apisix.core.secret_ref")

local str_match, str_gsub = string.match, string.gsub
local type = type

local M = {}

local timeout_ms = 5000

local function token_of(conf)
    if secret_ref.is_secret_ref(conf.token) then
        return env.fetch_by_uri(conf.token)
    end
    return conf.token
end

-- -> the secret at that path: a table | nil, err
local function read(conf, path)
    local token, err = token_of(conf)
    if not token then
        return nil, "no token: " .. (err or "the variable is not set")
    end
    local client
    client, err = http.new()
    if not client then
        return nil, err
    end
    client:set_timeout(timeout_ms)
    local uri = str_gsub(conf.uri, "/+$", "") .. str_gsub("/v1/" .. conf.prefix .. "/" .. path, "//+", "/")
    local answer
    answer, err = client:request_uri(uri, {headers = {["X-Vault-Token"] = token, ["X-Vault-Namespace"] = conf.namespace}})
    if not answer then
        return nil, err
    elseif answer.status ~= 200 then
        return nil, "the vault answers " .. answer.status -- its body may tell too much
    end
    local value = json.decode(answer.body)
    if type(value) ~= "table" or type(value.data) ~= "table" then
        return nil, "the vault's answer has no data"
    end
    return value.data
end

-- key: path and field -> value | nil, err
function M.get(conf, key)
    local path, field = str_match(key, "^(.+)/([^/]+)$")
    if not path then
        return nil, "error key format: it should be path/field"
    end
    local data, err = read(conf, path)
    if not data then
        return nil, "failed to read from the vault: " .. err
    end
    local value = data[field]
    if value == nil and type(data.data) == "table" then
        value = data.data[field]
    end
    if type(value) ~= "string" and type(value) ~= "number" then
        return nil, "the vault has no such field"
    end
    return value
end

return M
