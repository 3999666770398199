-- Private keys as they are stored: PEM, or AES-CBC under one of the keys of apisix.data_encryption.keyring (spec 2.3).
local crypto = require("dpproxy.base.crypto")
local node = require("dpproxy.base.node")

local ngx = ngx
local sub, ipairs = string.sub, ipairs

local M = {}

local known = setmetatable({}, {__mode = "k"}) -- not by text: keys must not stay longer than their object

local function decrypt(text)
    local raw = ngx.decode_base64(text)
    if not raw then
        return nil, "the key is neither PEM nor base64"
    end
    for _, key in ipairs(node.get().apisix.data_encryption.keyring or {}) do
        local plain = crypto.aes_cbc_decrypt(key, key, raw)
        if plain and sub(plain, 1, 3) == "---" then
            return plain
        end
    end
    return nil, "the key is encrypted with none of the keyring's keys"
end

-- -> PEM | nil, err
function M.private_pem(text)
    if type(text) ~= "string" then
        return nil, "no key"
    end
    if sub(text, 1, 3) == "---" then
        return text
    end
    return decrypt(text)
end

-- The pairs of an SSL object, parsed: array of {cert = cdata, key = cdata}, made once for each object. -> pairs | nil, err
function M.pairs_of(item)
    local made = known[item]
    if made then
        return made
    end
    local ssl = require("ngx.ssl")
    local value = item.value
    local certs, keys = {value.cert}, {value.key}
    for i, cert in ipairs(value.certs or {}) do
        certs[#certs + 1], keys[#keys + 1] = cert, value.keys[i]
    end
    made = {}
    for i, cert in ipairs(certs) do
        local pem, parsed_cert, parsed_key, err
        pem, err = M.private_pem(M.resolve(keys[i]))
        if not pem then
            return nil, err
        end
        parsed_cert, err = ssl.parse_pem_cert(M.resolve(cert))
        if not parsed_cert then
            return nil, "the certificate cannot be read: " .. err
        end
        parsed_key, err = ssl.parse_pem_priv_key(pem)
        if not parsed_key then
            return nil, "the key cannot be read: " .. err
        end
        made[i] = {cert = parsed_cert, key = parsed_key}
    end
    known[item] = made
    return made
end

-- For the check of objects: can the pair be read, and does it belong together? key is nil for a CA. -> true | nil, err
function M.check_pair(cert, key)
    local ssl = require("ngx.ssl")
    local parsed, err = ssl.parse_pem_cert(cert)
    if not parsed then
        return nil, "failed to parse cert: " .. err
    end
    if not key then
        return true
    end
    local pem
    pem, err = M.private_pem(key)
    if not pem then
        return nil, "failed to decrypt key: " .. err
    end
    parsed, err = ssl.parse_pem_priv_key(pem)
    if not parsed then
        return nil, "failed to parse key: " .. err
    end
    return true
end

-- "$env://NAME", "$secret://…" -> what they stand for; other texts as they are
function M.resolve(text)
    if sub(text, 1, 1) ~= "$" then
        return text
    end
    local ok, secret = pcall(require, "apisix.secret")
    if ok and secret.fetch_by_uri then
        local value = secret.fetch_by_uri(text)
        return value or text
    end
    return text
end

-- CA certificates for clients, parsed once. -> cdata | nil, err
local client_cas = setmetatable({}, {__mode = "k"})
function M.client_ca(item)
    local made = client_cas[item]
    if not made then
        local err
        made, err = require("ngx.ssl").parse_pem_cert(item.value.client.ca)
        if not made then
            return nil, "the CA for clients cannot be read: " .. err
        end
        client_cas[item] = made
    end
    return made
end

return M
