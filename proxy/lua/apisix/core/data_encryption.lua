-- core.data_encryption: fields that the Admin API encrypted with the keyring of the configuration file. AES-CBC; the IV is the
-- key (32 bytes: its first 16). The first key encrypts, all are tried for decryption. Never throws, never logs a value.
local config_local = require("apisix.core.config_local")
local crypto = require("dpproxy.base.crypto")
local log = require("apisix.core.log")

local M = {}

local default_keyring = {"qeddd145sfvddff3", "edd1c9f0985e76a2"}

local function keyring()
    local conf = config_local.local_conf()
    local section = conf and conf.apisix and conf.apisix.data_encryption
    local ring = section and section.keyring
    if ring == nil then
        return default_keyring
    end
    if type(ring) == "string" then
        return {ring}
    end
    return ring
end

-- Are `encrypt_fields` of plugins encrypted at rest?
function M.enabled()
    local conf = config_local.local_conf()
    local section = conf and conf.apisix and conf.apisix.data_encryption
    local enabled = section and section.enable_encrypt_fields
    if enabled == nil then
        return true
    end
    return enabled
end

function M.encrypt(value)
    local key = keyring()[1]
    if not key then
        return value
    end
    local encrypted, err = crypto.aes_cbc_encrypt(key, key, value)
    if not encrypted then
        log.error("failed to encrypt the data: ", err)
        return value
    end
    return crypto.encode_base64(encrypted)
end

-- -> text | nil, err. Without a keyring the value as it is.
function M.decrypt(value, subject)
    local ring = keyring()
    if #ring == 0 then
        return value
    end
    local what = subject and subject .. " " or ""
    local bytes = crypto.decode_base64(value)
    if not bytes then
        return nil, "base64 decode " .. what .. "failed"
    end
    for i = 1, #ring do
        local text = crypto.aes_cbc_decrypt(ring[i], ring[i], bytes)
        if text then
            return text
        end
    end
    return nil, "decrypt " .. what .. "failed"
end

return M
