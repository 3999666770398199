-- nginx.conf from the configuration. Reads top-down: main, http, its servers.
local nginx = require("dpproxy.cli.nginx")

local M = {}

-- Names that APISIX' plugins know. A size from the file wins.
local dicts = {
    {"dpproxy_config", "64m"}, {"dpproxy_state", "1m"}, {"internal-status", "10m"}, {"prometheus-metrics", "15m"},
    {"upstream-healthcheck", "10m"}, {"dpproxy_health", "10m"}, {"plugin-limit-req", "10m"}, {"plugin-limit-count", "10m"},
    {"plugin-limit-count-reset-header", "10m"}, {"plugin-limit-conn", "10m"}, {"plugin-api-breaker", "10m"},
    {"balancer-ewma", "10m"}, {"balancer-ewma-locks", "10m"}, {"balancer-ewma-last-touched-at", "10m"}, {"worker-events", "10m"},
    {"lrucache-lock", "10m"}, {"etcd-cluster-health-check", "10m"}, {"introspection", "10m"}, {"jwks", "1m"},
    {"access-tokens", "1m"}, {"ocsp-stapling", "10m"}, {"tracing_buffer", "10m"}, {"ext-plugin", "1m"}, {"cas_sessions", "10m"},
}

local function write_dicts(w, conf)
    local http, meta = conf.nginx_config.http, conf.nginx_config.meta
    local more, known = {}, {}
    -- APISIX has prometheus-metrics under meta.
    for _, list in ipairs({http.lua_shared_dict or {}, http.custom_lua_shared_dict or {}, meta.lua_shared_dict or {}}) do
        for name, size in pairs(list) do
            more[name] = size
        end
    end
    more.dpproxy_health = more.dpproxy_health or more["upstream-healthcheck"] -- APISIX keeps health there
    for _, dict in ipairs(dicts) do
        known[dict[1]] = true
        w:set("lua_shared_dict", dict[1], more[dict[1]] or dict[2])
    end
    for _, zone in ipairs(conf.apisix.proxy_cache.zones) do
        if not zone.disk_path then
            more[zone.name] = zone.memory_size
        end
    end
    local names = {}
    for name in pairs(more) do
        if not known[name] then
            names[#names + 1] = name
        end
    end
    table.sort(names)
    for _, name in ipairs(names) do
        w:set("lua_shared_dict", name, more[name])
    end
end

local function write_main(w, conf, env)
    local n = conf.nginx_config
    w:comment("Written by dpproxy at each start and reload: changes here are lost.")
    for _, module in ipairs(env.modules) do
        w:set("load_module", module)
    end
    w:set("daemon", "off")
    w:set("master_process", "on")
    if env.user then
        w:set("user", env.user, env.group)
    end
    w:set("worker_processes", n.worker_processes)
    if n.enable_cpu_affinity then
        w:set("worker_cpu_affinity", "auto")
    end
    w:set("error_log", n.error_log, n.error_log_level)
    w:set("pid", "nginx.pid")
    w:set("worker_rlimit_nofile", math.min(n.worker_rlimit_nofile, env.file_limit))
    w:set("worker_shutdown_timeout", n.worker_shutdown_timeout)
    w:set("pcre_jit", "on")
    -- $env:// references and plugins read the environment: nginx hides it otherwise.
    for _, name in ipairs(env.env_names) do
        w:set("env", name)
    end
    for _, name in ipairs(n.envs or {}) do
        w:set("env", name)
    end
    w:raw(n.main_configuration_snippet)
    w:open("events")
    w:set("accept_mutex", "off")
    w:set("worker_connections", math.min(n.event.worker_connections, env.file_limit))
    w:close()
end

local function write_logs(w, conf)
    local h = conf.nginx_config.http
    if not h.enable_access_log then
        w:set("access_log", "off")
        return
    end
    w:set("log_format", "main", "escape=" .. h.access_log_format_escape, h.access_log_format)
    if h.access_log_buffer > 0 then
        w:set("access_log", h.access_log, "main", "buffer=" .. h.access_log_buffer, "flush=3s")
    else
        w:set("access_log", h.access_log, "main")
    end
end

local function write_lua_paths(w, conf, env)
    local function set(name, extra, path)
        w:set(name, (extra ~= "" and extra:gsub(";*$", ";") or "") .. path)
    end
    set("lua_package_path", conf.apisix.extra_lua_path, env.lua_path)
    set("lua_package_cpath", conf.apisix.extra_lua_cpath, env.lua_cpath)
    w:set("lua_socket_log_errors", "off")
    w:set("lua_max_pending_timers", conf.nginx_config.max_pending_timers)
    w:set("lua_max_running_timers", conf.nginx_config.max_running_timers)
    w:set("lua_regex_match_limit", 100000)
    w:set("lua_regex_cache_max_entries", 8192)
    if env.ca_file then
        w:set("lua_ssl_trusted_certificate", env.ca_file)
        w:set("lua_ssl_verify_depth", 5)
    end
end

local function write_http_settings(w, conf, env)
    local h = conf.nginx_config.http
    if env.mime_types then
        w:set("include", env.mime_types)
    end
    w:set("default_type", "text/plain")
    w:set("charset", h.charset)
    w:set("server_tokens", "off")
    for _, kind in ipairs({"client_body", "proxy", "fastcgi", "uwsgi", "scgi"}) do
        w:set(kind .. "_temp_path", "tmp/" .. kind)
    end
    w:set("keepalive_timeout", h.keepalive_timeout)
    w:set("client_header_timeout", h.client_header_timeout)
    w:set("client_body_timeout", h.client_body_timeout)
    w:set("send_timeout", h.send_timeout)
    w:set("client_max_body_size", h.client_max_body_size)
    w:set("variables_hash_max_size", h.variables_hash_max_size)
    w:set("underscores_in_headers", h.underscores_in_headers)
    w:set("tcp_nopush", "on")
    w:set("tcp_nodelay", "on")
    w:set("real_ip_header", h.real_ip_header)
    w:set("real_ip_recursive", h.real_ip_recursive)
    for _, from in ipairs(h.real_ip_from) do
        w:set("set_real_ip_from", from)
    end
    if #env.resolvers > 0 then
        w:set("resolver", unpack(env.resolvers))
        w:set("resolver_timeout", conf.apisix.resolver_timeout .. "s")
    end
    if h.client_header_buffer_size then
        w:set("client_header_buffer_size", h.client_header_buffer_size)
    end
    if h.large_client_header_buffers then
        local number, size = h.large_client_header_buffers:match("^(%d+) +(%d+[kKmM]?)$")
        w:set("large_client_header_buffers", number, size)
    end
end

-- Connections to servers with TLS are kept by address alone in this nginx, whatever their name and client certificate: each block
-- dpproxy_tls_* is used for one (name, certificate) at a time (http/upstream_tls.lua), the last one keeps none.
local function write_upstreams(w, conf)
    local up = conf.nginx_config.http.upstream
    local function block(name, keep)
        w:open("upstream", name)
        w:set("server", "0.0.0.1")
        w:lua("balancer_by_lua_block", "dpproxy.balancer()")
        if keep then
            w:set("keepalive", up.keepalive)
            w:set("keepalive_requests", up.keepalive_requests)
            w:set("keepalive_timeout", up.keepalive_timeout)
        end
        w:close()
    end
    block("apisix_backend", up.keepalive > 0)
    for i = 1, conf.dpproxy.upstream_tls_slots do
        block("dpproxy_tls_" .. i, up.keepalive > 0)
    end
    block("dpproxy_no_keepalive", false)
end

local function write_cache_zones(w, conf)
    local paths, zones = {}, {}
    for _, zone in ipairs(conf.apisix.proxy_cache.zones) do
        if zone.disk_path then
            w:set("proxy_cache_path", zone.disk_path, "levels=" .. (zone.cache_levels or "1:2"),
                "keys_zone=" .. zone.name .. ":" .. zone.memory_size, "inactive=1d", "max_size=" .. zone.disk_size,
                "use_temp_path=off")
            zones[#zones + 1], paths[#paths + 1] = zone.name, zone
        end
    end
    -- The file of a cached response is found (and purged) by these.
    w:open("map", "$upstream_cache_zone", "$upstream_cache_zone_info")
    for _, zone in ipairs(paths) do
        w:set(zone.name, zone.disk_path .. "," .. (zone.cache_levels or "1:2"))
    end
    w:close()
    return zones
end

local empty_variables = {
    "upstream_uri", "upstream_upgrade", "upstream_connection", "upstream_mirror_host", "upstream_mirror_uri",
    "upstream_mirror_grpc_path", "upstream_cache_zone", "upstream_cache_key", "upstream_cache_bypass", "upstream_no_cache",
    "upstream_hdr_expires", "upstream_hdr_cache_control", "upstream_certificate", "upstream_certificate_key",
    "upstream_unresolved_host", "rate_limiting_info", "apisix_request_id", "original_x_forwarded_for", "dpproxy_ctx",
    "dpproxy_forwarded",
}

-- Variables that Lua may write. A map's value is worked out only when it is asked for: they cost nothing where nobody does.
local function write_variables(w)
    local function variable(name, default)
        w:raw('map "" $' .. name .. " {")
        w:set("    default", default)
        w:raw("}")
    end
    w:comment("written by Lua (ctx.var)")
    variable("upstream_scheme", "http")
    variable("upstream_host", "$http_host")
    variable("dpproxy_block", "apisix_backend")
    variable("var_x_forwarded_proto", "$scheme")
    variable("var_x_forwarded_host", "$host")
    variable("var_x_forwarded_port", "$server_port")
    variable("dpproxy_forwarded_for", "$proxy_add_x_forwarded_for")
    variable("dpproxy_real_ip", "$remote_addr")
    for _, name in ipairs(empty_variables) do
        w:raw('map "" $' .. name .. ' { default ""; }')
    end
end

local function listen(w, each, ...)
    local where = each.ip and (each.ip:find(":", 1, true) and "[" .. each.ip .. "]" or each.ip) .. ":" .. each.port or each.port
    w:set("listen", where, ...)
end

local function both(w, conf, each, ...)
    listen(w, each, ...)
    if not each.ip and conf.apisix.enable_ipv6 then
        listen(w, {ip = "::", port = each.port}, ...)
    end
end

local function write_listeners(w, conf)
    local a = conf.apisix
    local reuse = a.enable_reuseport and "reuseport" or nil
    for _, each in ipairs(a.node_listen) do
        both(w, conf, each, "default_server", reuse)
    end
    for _, each in ipairs(a.h2c_listen or {}) do
        both(w, conf, each, "default_server", "http2", reuse)
    end
    if a.proxy_protocol.listen_http_port then
        both(w, conf, {port = a.proxy_protocol.listen_http_port}, "default_server", "proxy_protocol", reuse)
    end
    if a.ssl.enable then
        for _, each in ipairs(a.ssl.listen) do
            local h2 = each.enable_http2 ~= false and a.enable_http2 and "http2" or nil
            if reuse then
                both(w, conf, each, "default_server", "ssl", h2, reuse)
            else
                both(w, conf, each, "default_server", "ssl", h2)
            end
        end
        if a.proxy_protocol.listen_https_port then
            both(w, conf, {port = a.proxy_protocol.listen_https_port}, "default_server", "ssl", "proxy_protocol")
        end
    end
end

local function words_of(text)
    local list = {}
    for word in text:gmatch("%S+") do
        list[#list + 1] = word
    end
    return list
end

local function write_tls(w, conf)
    local ssl = conf.apisix.ssl
    w:comment("never served: a handshake without a certificate from the configuration ends")
    w:set("ssl_certificate", "placeholder.pem")
    w:set("ssl_certificate_key", "placeholder.key")
    w:set("ssl_session_cache", "shared:SSL:20m")
    w:set("ssl_session_timeout", "10m")
    w:set("ssl_protocols", unpack(words_of(ssl.ssl_protocols)))
    w:set("ssl_ciphers", ssl.ssl_ciphers)
    w:set("ssl_prefer_server_ciphers", "on")
    w:set("ssl_session_tickets", ssl.ssl_session_tickets and "on" or "off")
    w:lua("ssl_client_hello_by_lua_block", "dpproxy.client_hello()")
    w:lua("ssl_certificate_by_lua_block", "dpproxy.certificate()")
end

local function write_proxy_headers(w)
    w:set("proxy_http_version", "1.1")
    w:set("proxy_set_header", "Host", "$upstream_host")
    w:set("proxy_set_header", "Upgrade", "$upstream_upgrade")
    w:set("proxy_set_header", "Connection", "$upstream_connection")
    w:set("proxy_set_header", "X-Real-IP", "$dpproxy_real_ip")
    w:set("proxy_set_header", "X-Forwarded-For", "$dpproxy_forwarded_for")
    w:set("proxy_set_header", "X-Forwarded-Proto", "$var_x_forwarded_proto")
    w:set("proxy_set_header", "X-Forwarded-Host", "$var_x_forwarded_host")
    w:set("proxy_set_header", "X-Forwarded-Port", "$var_x_forwarded_port")
    w:set("proxy_set_header", "Forwarded", "$dpproxy_forwarded")
    w:set("proxy_pass_header", "Date")
    w:set("proxy_pass_header", "Server")
end

local function write_upstream_tls(w, conf, kind)
    w:set(kind .. "_ssl_server_name", conf.nginx_config.http.proxy_ssl_server_name and "on" or "off")
    w:set(kind .. "_ssl_name", "$upstream_host")
    w:set(kind .. "_ssl_certificate", "$upstream_certificate")
    w:set(kind .. "_ssl_certificate_key", "$upstream_certificate_key")
    w:set(kind .. "_ssl_session_reuse", "off")
    w:set(kind .. "_ssl_protocols", "TLSv1", "TLSv1.1", "TLSv1.2", "TLSv1.3")
end

-- The log phase is not for all locations: whoever has no ctx has nothing to do there.
local function write_filters(w)
    w:lua("header_filter_by_lua_block", "dpproxy.header_filter()")
    w:lua("log_by_lua_block", "dpproxy.log()")
end

-- Lua of a snippet may expect the order of phases as it was, and ngx.ctx for itself.
local function snippets_have_lua(conf)
    local n = conf.nginx_config
    return (n.http_configuration_snippet .. n.http_server_configuration_snippet .. n.http_server_location_configuration_snippet ..
        n.http_end_configuration_snippet):find("_by_lua", 1, true) ~= nil
end

-- Costs every piece of a body: not in the location that most requests use (http/body_filters.lua).
local function write_body_filter(w)
    w:lua("body_filter_by_lua_block", "dpproxy.body_filter()")
end

-- Where requests go that need nothing special: plain HTTP to the upstream, the client's own path, no plugin that looks at bodies,
-- no cache, no mirror. Each of these costs something for every request of its location.
local function write_main_location(w, conf)
    local function whole_way()
        w:lua("access_by_lua_block", "dpproxy.access()")
        write_filters(w)
        w:set("proxy_pass", "http://apisix_backend")
    end
    w:open("location", "/")
    w:raw(conf.nginx_config.http_server_location_configuration_snippet)
    if snippets_have_lua(conf) then
        whole_way()
    else
        w:raw("set_by_lua_block $dpproxy_way { return dpproxy.way() }")
        w:open("if", "($dpproxy_way)")
        whole_way()
        w:close()
        w:lua("header_filter_by_lua_block", "dpproxy.plain_header_filter()")
        w:set("proxy_pass", "http://apisix_backend")
    end
    w:close()
end

local function write_special_locations(w, conf, zones)
    local function location(name, access, mirrored)
        w:open("location", name)
        -- Lua can write a variable only where something in the configuration reads it.
        w:set("set", "$dpproxy_ctx", "$dpproxy_ctx")
        w:lua("access_by_lua_block", access)
        write_filters(w)
        if name ~= "@proxied" then
            write_body_filter(w)
        end
        w:raw(conf.nginx_config.http_server_location_configuration_snippet)
        if #zones > 0 and name ~= "@filtered" and name ~= "@proxied" then
            w:set("proxy_cache", "$upstream_cache_zone")
            w:set("proxy_cache_key", "$upstream_cache_key")
            w:set("proxy_no_cache", "$upstream_no_cache")
            w:set("proxy_cache_bypass", "$upstream_cache_bypass")
            w:set("proxy_cache_valid", "any", conf.apisix.proxy_cache.cache_ttl)
            w:set("proxy_cache_min_uses", 1)
            w:set("proxy_cache_methods", "GET", "HEAD", "POST")
            w:set("proxy_cache_lock_timeout", "5s")
            w:set("proxy_cache_use_stale", "off")
        end
        if mirrored then
            w:set("mirror", "/proxy_mirror")
        end
        w:set("proxy_pass", "$upstream_scheme://$dpproxy_block$upstream_uri")
        w:close()
    end
    location("@proxied", "dpproxy.resume()", false)
    location("@filtered", "dpproxy.filtered()", false)
    location("@cached", "dpproxy.resume()", false)
    location("@mirrored", "dpproxy.resume()", true)
end

local function write_grpc_location(w, conf)
    w:open("location", "@grpc_pass")
    w:lua("access_by_lua_block", "dpproxy.resume()")
    write_filters(w)
    write_body_filter(w)
    w:set("grpc_set_header", "Host", "$upstream_host")
    w:set("grpc_set_header", "X-Real-IP", "$dpproxy_real_ip")
    w:set("grpc_set_header", "X-Forwarded-For", "$dpproxy_forwarded_for")
    w:set("grpc_set_header", "X-Forwarded-Proto", "$var_x_forwarded_proto")
    w:set("grpc_set_header", "X-Forwarded-Host", "$var_x_forwarded_host")
    w:set("grpc_set_header", "X-Forwarded-Port", "$var_x_forwarded_port")
    w:set("grpc_set_header", "Forwarded", "$dpproxy_forwarded")
    w:set("grpc_set_header", "Content-Type", "application/grpc")
    w:set("grpc_socket_keepalive", "on")
    w:set("grpc_pass", "$upstream_scheme://$dpproxy_block")
    write_upstream_tls(w, conf, "grpc")
    w:close()
end

-- nginx reads the CA certificates once for each location, 30 ms each: those where Lua opens no connection get a short file.
local function no_ca(w, env)
    if env.ca_file then
        w:set("lua_ssl_trusted_certificate", "placeholder.pem")
    end
end

local function write_mirror_location(w, env)
    w:open("location", "=", "/proxy_mirror")
    no_ca(w, env)
    w:set("internal")
    w:set("access_log", "off")
    w:raw('if ($upstream_mirror_uri = "") { return 200; }')
    w:set("proxy_http_version", "1.1")
    w:set_empty("proxy_set_header", "Connection")
    w:set("proxy_set_header", "Host", "$upstream_mirror_host")
    w:set("proxy_pass", "$upstream_mirror_uri")
    w:close()
end

local function write_proxy_server(w, conf, env, zones)
    w:open("server")
    write_listeners(w, conf)
    w:set("server_name", "_")
    if conf.apisix.ssl.enable then
        write_tls(w, conf)
    end
    write_proxy_headers(w)
    write_upstream_tls(w, conf, "proxy")
    -- For what nginx says itself, to requests that it does not understand.
    w:lua("header_filter_by_lua_block", "dpproxy.header_filter()")
    w:raw(conf.nginx_config.http_server_configuration_snippet)
    w:open("location", "=", "/apisix/nginx_status")
    no_ca(w, env)
    w:set("allow", "127.0.0.0/24")
    w:set("deny", "all")
    w:set("access_log", "off")
    w:set("stub_status")
    w:close()
    write_main_location(w, conf)
    write_special_locations(w, conf, zones)
    write_grpc_location(w, conf)
    write_mirror_location(w, env)
    w:close()
end

local function write_small_servers(w, conf, env)
    local function server(where, locations)
        w:open("server")
        no_ca(w, env)
        listen(w, where)
        w:set("access_log", "off")
        for _, location in ipairs(locations) do
            w:open("location", unpack(location.at))
            w:set("default_type", location.type)
            w:lua("content_by_lua_block", location.call)
            w:close()
        end
        w:close()
    end
    if conf.apisix.enable_control then
        server(conf.apisix.control, {{at = {"/"}, type = "application/json", call = "dpproxy.control()"}})
    end
    if conf.apisix.status.port then
        server({ip = conf.apisix.status.ip or "127.0.0.1", port = conf.apisix.status.port}, {
            {at = {"=", "/status"}, type = "application/json", call = "dpproxy.status()"},
            {at = {"=", "/status/ready"}, type = "application/json", call = "dpproxy.ready()"},
        })
    end
    local prometheus = conf.plugin_attr.prometheus or {}
    if prometheus.enable_export_server ~= false then
        local addr = prometheus.export_addr or {}
        local ip = type(addr.ip) == "string" and addr.ip ~= "" and addr.ip or "127.0.0.1"
        server({ip = ip, port = tonumber(addr.port) or 9091}, {
            {at = {"=", prometheus.export_uri or "/apisix/prometheus/metrics"}, type = "text/plain", call = "dpproxy.metrics()"},
        })
    end
end

-- Servers are in a file of their own, which changes with the configuration in etcd (stream/render.lua).
local function write_stream(w, conf, file)
    local s, ssl = conf.nginx_config.stream, conf.apisix.ssl
    w:open("stream")
    if s.enable_access_log then
        w:set("log_format", "main", "escape=" .. s.access_log_format_escape, s.access_log_format)
        w:set("access_log", s.access_log, "main")
    end
    w:set("tcp_nodelay", "on")
    w:set("ssl_protocols", unpack(words_of(ssl.ssl_protocols)))
    w:set("ssl_ciphers", ssl.ssl_ciphers)
    w:set("ssl_prefer_server_ciphers", "on")
    w:set("ssl_session_tickets", "off")
    w:raw(conf.nginx_config.stream_configuration_snippet)
    w:set("include", file)
    w:close()
end

-- conf: the configuration; env: {lua_path, lua_cpath, file_limit, modules, user, group, resolvers, mime_types, ca_file,
-- env_names}; stream_file: another one than stream.conf, for a test -> text
function M.nginx_conf(conf, env, stream_file)
    local w = nginx.new()
    write_main(w, conf, env)
    w:open("http")
    write_lua_paths(w, conf, env)
    write_dicts(w, conf)
    write_logs(w, conf)
    write_http_settings(w, conf, env)
    w:raw(conf.nginx_config.http_configuration_snippet)
    local zones = write_cache_zones(w, conf)
    write_variables(w)
    write_upstreams(w, conf)
    w:lua("init_by_lua_block", 'dpproxy = require("dpproxy.http.phases") dpproxy.init(ngx.config.prefix() .. "node.json")')
    w:lua("init_worker_by_lua_block", "dpproxy.init_worker()")
    w:lua("exit_worker_by_lua_block", "dpproxy.exit_worker()")
    write_small_servers(w, conf, env)
    if conf.apisix.proxy_mode ~= "stream" then
        write_proxy_server(w, conf, env, zones)
    end
    w:raw(conf.nginx_config.http_end_configuration_snippet)
    w:close()
    if conf.apisix.proxy_mode ~= "http" then
        write_stream(w, conf, stream_file or "stream.conf")
    end
    return w:text()
end

-- The stream part alone, for a test that does not take the time that all of it takes.
function M.stream_test_conf(conf, env, stream_file)
    local w = nginx.new()
    for _, module in ipairs(env.modules) do
        if module:find("stream", 1, true) then
            w:set("load_module", module)
        end
    end
    w:set("error_log", "stderr", "warn")
    w:set("pid", "stream-test.pid")
    w:open("events")
    w:close()
    write_stream(w, conf, stream_file)
    return w:text()
end

return M
