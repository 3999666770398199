-- What nginx.conf needs to know about this machine: modules, the workers' user, certificates, name servers.
local files = require("dpproxy.base.files")
local ffi = require("ffi")

local M = {}

ffi.cdef("extern char **environ;")

local function first(sys, kind, ...)
    for i = 1, select("#", ...) do
        local path = select(i, ...)
        if path and sys.kind(path) == kind then
            return path
        end
    end
    return nil
end

function M.nginx(sys, getenv)
    local named = getenv("DPPROXY_NGINX")
    return first(sys, "file", named, "/usr/sbin/nginx", "/usr/local/sbin/nginx", "/usr/bin/nginx")
end

-- ngx_lua and what it needs, unless nginx has them built in.
local function modules(sys, folder, streams)
    local list = {}
    for _, name in ipairs({"ndk_http_module.so", "ngx_http_lua_module.so", streams and "ngx_stream_module.so" or nil}) do
        local path = first(sys, "file", folder and folder .. "/" .. name, "/usr/lib/nginx/modules/" .. name,
            "/usr/lib64/nginx/modules/" .. name)
        list[#list + 1] = path
    end
    return list
end

-- Who the workers are when started as root: nobody else's user, so that keys in the snapshot stay ours.
local function user(sys, conf)
    if sys.getuid() ~= 0 then
        return nil
    end
    local name = conf.nginx_config.user or (sys.group_of("dpproxy") and "dpproxy") or "nobody"
    local group = sys.group_of(name)
    if not group then
        return nil, nil, "no user " .. name
    end
    return name, group
end

local function resolvers(conf)
    local list = {}
    for _, server in ipairs(conf.apisix.dns_resolver or {}) do
        list[#list + 1] = server
    end
    if #list == 0 then
        for server in ("\n" .. (files.read("/etc/resolv.conf") or "")):gmatch("\n%s*nameserver%s+(%S+)") do
            list[#list + 1] = server
        end
    end
    local out = {}
    for _, server in ipairs(list) do
        local plain = server:match("^[%x:.]+$")
        if plain and not plain:find("%%") then
            out[#out + 1] = plain:find(":.*:") and "[" .. plain .. "]" or plain
        elseif server:find("^%[[%x:.]+%]:?%d*$") or server:find("^[%d.]+:%d+$") then
            out[#out + 1] = server
        end
    end
    if #out > 0 then
        if conf.apisix.dns_resolver_valid then
            out[#out + 1] = "valid=" .. conf.apisix.dns_resolver_valid .. "s"
        end
        out[#out + 1] = "ipv6=" .. (conf.apisix.enable_ipv6 and "on" or "off")
    end
    return out
end

local function ca_file(sys, conf)
    local path = conf.apisix.ssl.ssl_trusted_certificate
    if conf.deployment.etcd.tls.ca then
        return conf.deployment.etcd.tls.ca
    elseif path ~= "system" then
        return path
    end
    return first(sys, "file", "/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/ca-bundle.pem",
        "/etc/ssl/cert.pem")
end

-- How many files we may open at most: nginx complains of each worker that cannot have what it was told.
local function file_limit()
    local hard = (files.read("/proc/self/limits") or ""):match("Max open files%s+%S+%s+(%d+)")
    return tonumber(hard) or math.huge
end

-- Names that the workers may see. nginx would keep only TZ.
local function env_names()
    local names, i = {}, 0
    while ffi.C.environ[i] ~= nil do
        local name = ffi.string(ffi.C.environ[i]):match("^([%a_][%w_]*)=")
        if name and name ~= "DPPROXY_ETCD_PASSWORD" and name ~= "NGINX" then
            names[#names + 1] = name
        end
        i = i + 1
    end
    table.sort(names)
    return names
end

-- Where we look for modules ourselves, but never in the current folder.
local function without_here(path)
    local list = {}
    for each in path:gmatch("[^;]+") do
        if each:sub(1, 1) == "/" then
            list[#list + 1] = each
        end
    end
    return table.concat(list, ";")
end

-- -> env for render.nginx_conf | nil, err
function M.look(sys, conf)
    local name, group, err = user(sys, conf)
    if err then
        return nil, err
    end
    local loaded = modules(sys, conf.dpproxy.modules_dir, conf.apisix.proxy_mode ~= "http")
    return {
        lua_path = without_here(package.path), lua_cpath = without_here(package.cpath),
        modules = loaded, user = name, group = group, resolvers = resolvers(conf),
        ca_file = ca_file(sys, conf), file_limit = file_limit(),
        mime_types = first(sys, "file", "/etc/nginx/mime.types", "/usr/share/nginx/mime.types"), env_names = env_names(),
    }
end

function M.default_runtime_dir(sys, getenv)
    if sys.getuid() == 0 then
        return "/var/lib/dpproxy"
    end
    local home = getenv("XDG_STATE_HOME") or (getenv("HOME") or "/tmp") .. "/.local/state"
    return home .. "/dpproxy"
end

return M
