-- TLS of clients: which certificate for which name, which versions, and who must show a certificate of their own (spec 2.3).
local ffi = require("ffi")
local ngx_ssl = require("ngx.ssl")
local client_hello = require("ngx.ssl.clienthello")
local keys = require("dpproxy.tls.keys")
local sni_index = require("dpproxy.tls.sni")
local store = require("dpproxy.config.store")
local base = require("resty.core.base")

local ngx = ngx
local ngx_var = ngx.var
local ngx_log, ERR, ngx_exit, ERROR = ngx.log, ngx.ERR, ngx.exit, ngx.ERROR
local ipairs = ipairs

ffi.cdef([[
void *ngx_http_lua_ffi_get_req_ssl_pointer(void *r, const char **err);
int SSL_set_session_id_context(void *ssl, const unsigned char *sid_ctx, unsigned int sid_ctx_len);
]])

local M = {mutual = false} -- mutual: is there any object that asks clients for a certificate?

local index = sni_index.new()
local mutual_count, fallback_sni = 0, nil

local function is_mutual(item)
    return item ~= nil and item.value.client ~= nil and item.value.status ~= 0
end

local function changed(new, old, short_key)
    mutual_count = mutual_count + (is_mutual(new) and 1 or 0) - (is_mutual(old) and 1 or 0)
    M.mutual = mutual_count > 0
    if new then
        index:upsert(new)
    else
        index:remove(short_key)
    end
end

function M.init_worker(conf)
    fallback_sni = conf.apisix.ssl.fallback_sni
    store.subscribe("ssls", changed)
end

local function item_of(name)
    name = name or fallback_sni
    return name and index:find(name)
end

-- A session that was made under one object must not open another: the name of the object goes into what OpenSSL compares.
local err_ptr = ffi.new("const char *[1]")
local function bind_session(item)
    local ssl = ffi.C.ngx_http_lua_ffi_get_req_ssl_pointer(base.get_request(), err_ptr)
    if ssl == nil then
        return nil, ffi.string(err_ptr[0])
    end
    local text = ngx.sha1_bin(item.key .. "\0" .. item.modifiedIndex)
    if ffi.C.SSL_set_session_id_context(ssl, text, #text) ~= 1 then
        return nil, "the session context is not set"
    end
    return true
end

-- ssl_client_hello_by_lua: must not wait. Versions of TLS can only be chosen here.
function M.client_hello()
    store.refresh()
    local name = client_hello.get_client_hello_server_name()
    local item = item_of(name)
    if not item then
        ngx_log(ERR, "no certificate for the server name ", name or "(none)")
        return ngx_exit(ERROR)
    end
    local ok, err
    local protocols = item.value.ssl_protocols
    if protocols and #protocols > 0 then
        ok, err = client_hello.set_protocols(protocols)
        if not ok then
            ngx_log(ERR, "TLS versions of ", item.key, " are not set: ", err)
            return ngx_exit(ERROR)
        end
    end
    ok, err = bind_session(item)
    if not ok then
        ngx_log(ERR, err)
        return ngx_exit(ERROR)
    end
end

local function set_pairs(item)
    local list, err = keys.pairs_of(item)
    if not list then
        return nil, err
    end
    local ok
    ok, err = ngx_ssl.clear_certs()
    if not ok then
        return nil, err
    end
    for _, pair in ipairs(list) do
        ok, err = ngx_ssl.set_cert(pair.cert)
        if ok then
            ok, err = ngx_ssl.set_priv_key(pair.key)
        end
        if not ok then
            return nil, err
        end
    end
    return true
end

-- ssl_certificate_by_lua
function M.certificate()
    local item = item_of((ngx_ssl.server_name()))
    if not item then
        return ngx_exit(ERROR)
    end
    local ok, err = set_pairs(item)
    if ok and item.value.client then
        local ca
        ca, err = keys.client_ca(item)
        ok = ca
        if ca then
            ok, err = ngx_ssl.verify_client(ca, item.value.client.depth or 1)
        end
    end
    if not ok then
        ngx_log(ERR, "the certificate of ", item.key, " cannot be used: ", err)
        return ngx_exit(ERROR)
    end
end

local function is_skipped(client)
    for _, regex in ipairs(client.skip_mtls_uri_regex or {}) do
        if ngx.re.find(ngx_var.uri, regex, "jo") then
            return true
        end
    end
    return false
end

-- Access phase: nginx only asks for the client's certificate, whether it was good is checked here. A name that needs one cannot
-- be reached over a connection that was made for another name.
function M.client_is_known()
    if ngx_var.scheme ~= "https" then
        return true
    end
    local by_name, by_host = item_of(ngx_var.ssl_server_name), item_of(ngx_var.host)
    if by_host and by_host.value.client and by_host ~= by_name then
        ngx_log(ERR, "the host ", ngx_var.host, " asks for a client's certificate, the connection is for ",
            ngx_var.ssl_server_name or "-")
        return false
    end
    local client = by_name and by_name.value.client
    if not client or is_skipped(client) then
        return true
    end
    if ngx_var.ssl_client_verify ~= "SUCCESS" then
        ngx_log(ERR, "client certificate verification is not passed: ", ngx_var.ssl_client_verify)
        return false
    end
    return true
end

return M
