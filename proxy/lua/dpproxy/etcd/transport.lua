-- Sockets for the etcd client inside nginx: TCP, unix sockets, TLS with or without a client's certificate.
-- Certificates of servers are verified against `lua_ssl_trusted_certificate` of nginx.conf.
local files = require("dpproxy.base.files")
local handshake = require("dpproxy.base.handshake")

local M = {}

local function hosts_file(name)
    local file = io.open("/etc/hosts")
    if not file then
        return nil
    end
    for line in file:lines() do
        local address, names = line:match("^%s*([%x.:]+)%s+([^#]*)")
        if address then
            for one in names:gmatch("%S+") do
                if one:lower() == name then
                    file:close()
                    return address:find(":", 1, true) and "[" .. address .. "]" or address
                end
            end
        end
    end
    file:close()
end

-- nginx resolves names by DNS only; what /etc/hosts says goes first.
local function resolve(host)
    if host:find("^[%d.]+$") then
        return host
    elseif host:find(":", 1, true) then
        return "[" .. host .. "]"
    end
    return hosts_file(host:lower()) or host:lower() == "localhost" and "127.0.0.1" or host
end

-- tls: {cert = file, key = file, verify = bool (default true), sni = name | nil} -> prepared | nil, err
-- The files are read here, by the master or early in a worker, and again for each connection when they can be (rotation).
function M.prepare_tls(tls)
    local prepared = {verify = true}
    if tls then
        prepared.sni, prepared.verify = tls.sni, tls.verify ~= false
        prepared.cert_file, prepared.key_file = tls.cert, tls.key
        if tls.cert then
            local err
            prepared.cert, err = files.read(tls.cert)
            if not prepared.cert then
                return nil, "cannot read the etcd client certificate: " .. err
            end
            prepared.key, err = files.read(tls.key)
            if not prepared.key then
                return nil, "cannot read the etcd client key: " .. err
            end
        end
    end
    return prepared
end

local function set_client_certificate(sock, tls)
    local ssl = require("ngx.ssl")
    local cert_text, key_text = files.read(tls.cert_file), files.read(tls.key_file)
    if not cert_text or not key_text then
        cert_text, key_text = tls.cert, tls.key
    end
    local cert, err = ssl.parse_pem_cert(cert_text)
    if not cert then
        return nil, "etcd client certificate: " .. err
    end
    local key
    key, err = ssl.parse_pem_priv_key(key_text)
    if not key then
        return nil, "etcd client key: " .. err
    end
    return sock:setclientcert(cert, key)
end

-- The `connect` of dpproxy.etcd.client. timeout in seconds.
function M.connect(endpoint, timeout, tls)
    local sock = ngx.socket.tcp()
    local ms = timeout * 1000
    sock:settimeouts(math.min(ms, 5000), ms, math.min(ms, 10000))
    local sni = tls and tls.sni or endpoint.host
    local pool = {pool = "etcd " .. endpoint.url .. " " .. sni}
    local ok, err
    if endpoint.unix then
        ok, err = sock:connect("unix:" .. endpoint.unix, pool)
    else
        ok, err = sock:connect(resolve(endpoint.host), endpoint.port, pool)
    end
    if not ok then
        return nil, err
    end
    if endpoint.scheme == "https" and (sock:getreusedtimes() or 0) == 0 then
        if tls and tls.cert then
            ok, err = set_client_certificate(sock, tls)
            if not ok then
                sock:close()
                return nil, err
            end
        end
        -- An address is no SNI; its certificate is compared with the address then.
        ok, err = handshake.client(sock, sni, not tls or tls.verify)
        if not ok then
            sock:close()
            return nil, "TLS: " .. err
        end
    end
    return sock
end

return M
