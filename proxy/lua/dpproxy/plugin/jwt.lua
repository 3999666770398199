-- JSON web tokens in their compact form (RFC 7515, 7519): parsing, signatures, times. No ngx in here.
local crypto = require("dpproxy.base.crypto")
local json = require("dpproxy.base.json")

local type, setmetatable = type, setmetatable
local str_match = string.match

local M = {}

local max_size = 65536 -- bytes of a token; nginx' header buffers allow less by default

local function decode_part(text)
    local bytes = crypto.decode_base64url(text)
    local value = bytes and json.decode(bytes)
    return type(value) == "table" and value or nil
end

-- -> {header =, payload =, signature = bytes, signed = text} | nil, err
function M.parse(token)
    if type(token) ~= "string" or #token > max_size then
        return nil, "invalid jwt string"
    end
    local head, body, tail = str_match(token, "^([%w_-]+)%.([%w_-]+)%.([%w_-]*)$")
    if not head then
        return nil, "invalid jwt string"
    end
    local header = decode_part(head)
    if not header then
        return nil, "invalid header: " .. head
    end
    if header.crit ~= nil then
        return nil, "the header asks for what is not understood" -- RFC 7515, 4.1.11
    end
    local payload = decode_part(body)
    if not payload then
        return nil, "invalid payload"
    end
    local signature = crypto.decode_base64url(tail)
    if not signature then
        return nil, "invalid signature encoding"
    end
    return {header = header, payload = payload, signature = signature, signed = head .. "." .. body}
end

-- PEM text -> key; parsing a key costs more than checking a signature with it.
local keys = setmetatable({}, {__mode = "v"})

local function public_key(pem)
    if type(pem) ~= "string" then
        return nil, "no public key"
    end
    local entry = keys[pem]
    if not entry then
        local key, err = crypto.public_key(pem)
        if not key then
            return nil, err
        end
        entry = {key = key}
        keys[pem] = entry
    end
    return entry.key, nil, entry
end

-- secret_or_pem: for HS* the secret, for the others a PEM text. -> true | nil, err. The third value keeps the parsed key alive
-- for as long as the caller holds it.
function M.verify(token, algorithm, secret_or_pem)
    local known = crypto.jws_algorithms[algorithm]
    if not known then
        return nil, "unsupported algorithm"
    end
    if known.hmac then
        return crypto.jws_verify(algorithm, secret_or_pem, token.signature, token.signed)
    end
    local key, key_err, hold = public_key(secret_or_pem)
    if not key then
        return nil, key_err
    end
    local ok, err = crypto.jws_verify(algorithm, key, token.signature, token.signed)
    return ok, err, hold
end

local function check_number(payload, claim)
    local value = payload[claim]
    if value ~= nil and type(value) ~= "number" then
        return nil, "claim " .. claim .. " is not a number"
    end
    return true
end

-- exp and nbf are checked when they are there; those that are listed in `required` have to be. -> true | nil, err
function M.check_times(payload, required, now, grace)
    for i = 1, required and #required or 0 do
        if payload[required[i]] == nil then
            return nil, "claim " .. required[i] .. " is missing"
        end
    end
    local ok, err = check_number(payload, "exp")
    if ok then
        ok, err = check_number(payload, "nbf")
    end
    if not ok then
        return nil, err
    end
    if payload.exp and payload.exp <= now - grace then
        return nil, "'exp' claim expired"
    end
    if payload.nbf and payload.nbf >= now + grace then
        return nil, "'nbf' claim not valid yet"
    end
    return true
end

return M
