-- Connections to a Redis server: from nginx' pool, or new with TLS, password and database; and a script run over one of them.
local core = require("apisix.core")
local handshake = require("dpproxy.base.handshake")
local resp = require("dpproxy.limit.redis_resp")

local ngx = ngx
local find = string.find

local M = {}

-- opts: {username =, password =, database =, connect_timeout =, timeout = (ms), ssl =, ssl_verify =, keepalive_timeout =,
-- keepalive_pool =}

local function address_of(host)
    if find(host, "^[%d.]+$") or find(host, "^%[") then
        return host
    elseif find(host, ":", 1, true) then
        return "[" .. host .. "]"
    end
    return core.resolver.parse_domain(host)
end

-- What was said in a connection's beginning holds for whoever gets it from the pool: it must be the same for them.
local function pool_of(node, opts)
    return "redis " .. node.host .. " " .. node.port .. " " .. (opts.database or 0) .. " "
        .. (opts.ssl and (opts.ssl_verify and "verified" or "tls") or "plain") .. " "
        .. ngx.encode_base64(ngx.sha1_bin((opts.username or "") .. "\0" .. (opts.password or "")))
end

local function begin(sock, node, opts)
    if opts.ssl then
        local ok, err = handshake.client(sock, node.host, opts.ssl_verify)
        if not ok then
            return nil, "TLS: " .. err
        end
    end
    if opts.password and opts.password ~= "" then
        local ok, err
        if opts.username and opts.username ~= "" then
            ok, err = resp.call(sock, "AUTH", opts.username, opts.password)
        else
            ok, err = resp.call(sock, "AUTH", opts.password)
        end
        if not ok then
            return nil, "AUTH: " .. err
        end
    end
    if opts.database and opts.database ~= 0 then
        local ok, err = resp.call(sock, "SELECT", opts.database)
        if not ok then
            return nil, "SELECT: " .. err
        end
    end
    return true
end

-- node: {host =, port =} -> socket, is it an old one | nil, err
function M.open(node, opts)
    local address, err = address_of(node.host)
    if not address then
        return nil, err or "cannot resolve " .. node.host
    end
    local sock = ngx.socket.tcp()
    sock:settimeouts(opts.connect_timeout or opts.timeout, opts.timeout, opts.timeout)
    local ok
    ok, err = sock:connect(address, node.port, {pool = pool_of(node, opts), pool_size = opts.keepalive_pool})
    if ok and sock:getreusedtimes() > 0 then
        return sock, true
    end
    if ok then
        ok, err = begin(sock, node, opts)
        if not ok then
            sock:close()
        end
    end
    if not ok then
        return nil, node.host .. ":" .. node.port .. ": " .. err
    end
    return sock, false
end

function M.keep(sock, opts)
    sock:setkeepalive(opts.keepalive_timeout, opts.keepalive_pool)
end

-- Everything that is asked over one connection. fn(sock) -> as resp.read. A pooled connection that the server had closed before
-- it heard us is no failure: a new one is tried.
function M.with(node, opts, fn)
    for _ = 1, 2 do
        local sock, old = M.open(node, opts)
        if not sock then
            return nil, old
        end
        local reply, err, refused = fn(sock)
        if reply ~= nil or refused then
            M.keep(sock, opts)
            return reply, err, refused
        end
        sock:close()
        if not old or err ~= "closed" and err ~= "broken pipe" and err ~= "connection reset by peer" then
            return nil, node.host .. ":" .. node.port .. ": " .. err
        end
    end
    return nil, node.host .. ":" .. node.port .. ": closed"
end

-- A script (of redis_scripts) over a connection: by its digest, and with its text when the server does not know it yet.
function M.run_script(sock, script, key, args)
    local command = {"EVALSHA", script.sha, 1, key, unpack(args)}
    local reply, err, refused = resp.call(sock, command)
    if refused and find(err, "^NOSCRIPT") then
        command[1], command[2] = "EVAL", script.text
        return resp.call(sock, command)
    end
    return reply, err, refused
end

return M
