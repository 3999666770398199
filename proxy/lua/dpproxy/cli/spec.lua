-- What a configuration file may hold: APISIX' config.yaml, key by key, with type and default. The rows are read by options.lua
-- (defaults, types, warnings). A key that is known but without effect here says so.
local M = {}

-- A row is leaf(type, default), list(type), map(type), one_of(values); values.lua has the types. Anything else is a
-- level of keys.
local function leaf(kind, default, note)
    return {kind = kind, default = default, note = note}
end
local function list(kind, default)
    return {kind = "list", of = kind, default = default}
end
local function map(kind, default)
    return {kind = "map", of = kind, default = default}
end
local function one_of(values, default)
    return {kind = "one_of", values = values, default = default}
end
local any = leaf("any")
local function without_effect(why)
    return {kind = "any", note = why}
end

local not_here = "dpproxy has no such part"

M.plugins = require("dpproxy.plugin.defaults").names()

M.keys = {
    apisix = {
        node_listen = leaf("listen", {9080}),
        -- HTTP/2 without TLS needs a port of its own with this nginx.
        h2c_listen = leaf("listen"),
        enable_admin = without_effect("dpproxy is a data plane"),
        enable_dev_mode = leaf("bool", false),
        enable_reuseport = leaf("bool", true),
        show_upstream_status_in_response_header = leaf("bool", false),
        enable_ipv6 = leaf("bool", true),
        enable_http2 = leaf("bool", true),
        enable_server_tokens = leaf("bool", true),
        proxy_protocol = {
            listen_http_port = leaf("int"),
            listen_https_port = leaf("int"),
            enable_tcp_pp = without_effect(not_here),
            enable_tcp_pp_to_upstream = without_effect(not_here),
        },
        extra_lua_path = leaf("string", ""),
        extra_lua_cpath = leaf("string", ""),
        lua_module_hook = without_effect(not_here),
        proxy_cache = {
            cache_ttl = leaf("time", "10s"),
            zones = leaf("cache_zones", {{
                name = "disk_cache_one", memory_size = "50m", disk_size = "1G", disk_path = "cache/disk_cache_one",
                cache_levels = "1:2",
            }, {name = "memory_cache", memory_size = "50m"}}),
        },
        delete_uri_tail_slash = leaf("bool", false),
        normalize_uri_like_servlet = leaf("bool", false),
        match_uri_encoded_slash = leaf("bool", false),
        router = {
            http = one_of({"radixtree_host_uri", "radixtree_uri", "radixtree_uri_with_parameter"}, "radixtree_host_uri"),
            ssl = one_of({"radixtree_sni"}, "radixtree_sni"),
        },
        proxy_mode = one_of({"http", "stream", "http&stream"}, "http"),
        stream_proxy = {tcp = leaf("stream_tcp", {}), udp = leaf("stream_udp", {})},
        dns_resolver = list("string"),
        dns_resolver_valid = leaf("int"),
        resolver_timeout = leaf("number", 5),
        enable_resolv_search_opt = leaf("bool", true),
        ssl = {
            enable = leaf("bool", true),
            listen = leaf("tls_listen", {{port = 9443}}),
            ssl_protocols = leaf("protocols", "TLSv1.2 TLSv1.3"),
            ssl_ciphers = leaf("ciphers", "ECDHE-ECDSA-AES128-GCM-SHA256:ECDHE-RSA-AES128-GCM-SHA256:"
                .. "ECDHE-ECDSA-AES256-GCM-SHA384:ECDHE-RSA-AES256-GCM-SHA384:ECDHE-ECDSA-CHACHA20-POLY1305:"
                .. "ECDHE-RSA-CHACHA20-POLY1305:DHE-RSA-AES128-GCM-SHA256:DHE-RSA-AES256-GCM-SHA384"),
            ssl_session_tickets = leaf("bool", false),
            ssl_trusted_certificate = leaf("string", "system"),
            fallback_sni = leaf("string"),
        },
        enable_control = leaf("bool", true),
        control = {ip = leaf("ip", "127.0.0.1"), port = leaf("port", 9090), router = any},
        status = {ip = leaf("ip"), port = leaf("port")},
        disable_upstream_healthcheck = leaf("bool", false),
        disable_sync_configuration_during_start = without_effect("the configuration is always synchronised"),
        worker_startup_time_threshold = without_effect("workers always start with the newest configuration"),
        data_encryption = {
            enable_encrypt_fields = leaf("bool", true),
            keyring = list("string", {"qeddd145sfvddff3", "edd1c9f0985e76a2"}),
        },
        trusted_addresses = list("string"),
        lru = any,
        tracing = leaf("bool", false),
        events = any,
        id = leaf("string"),
    },
    nginx_config = {
        user = leaf("name"),
        error_log = leaf("path", "stderr"),
        error_log_level = one_of({"debug", "info", "notice", "warn", "error", "crit", "alert", "emerg"}, "warn"),
        worker_processes = leaf("workers", "auto"),
        enable_cpu_affinity = leaf("bool", false),
        worker_rlimit_nofile = leaf("int", 20480),
        worker_shutdown_timeout = leaf("time", "240s"),
        max_pending_timers = leaf("int", 16384),
        max_running_timers = leaf("int", 4096),
        event = {worker_connections = leaf("int", 10620)},
        envs = list("env"),
        main_configuration_snippet = leaf("string", ""),
        http_configuration_snippet = leaf("string", ""),
        http_server_configuration_snippet = leaf("string", ""),
        http_server_location_configuration_snippet = leaf("string", ""),
        http_admin_configuration_snippet = without_effect("dpproxy is a data plane"),
        http_end_configuration_snippet = leaf("string", ""),
        stream_configuration_snippet = leaf("string", ""),
        meta = {lua_shared_dict = map("size")},
        stream = {
            enable_access_log = leaf("bool", false),
            access_log = leaf("path", "logs/access_stream.log"),
            access_log_format = leaf("string", "$remote_addr [$time_local] $protocol $status $bytes_sent $bytes_received "
                .. "$session_time"),
            access_log_format_escape = one_of({"default", "json", "none"}, "default"),
            lua_shared_dict = without_effect(not_here),
        },
        http = {
            enable_access_log = leaf("bool", true),
            access_log = leaf("path", "logs/access.log"),
            access_log_buffer = leaf("int", 16384),
            access_log_format = leaf("string", '$remote_addr - $remote_user [$time_local] $http_host "$request" $status '
                .. '$body_bytes_sent $request_time "$http_referer" "$http_user_agent" $upstream_addr $upstream_status '
                .. '$upstream_response_time '
                .. '"$upstream_scheme://$upstream_host$upstream_uri"'),
            access_log_format_escape = one_of({"default", "json", "none"}, "default"),
            keepalive_timeout = leaf("time", "60s"),
            client_header_timeout = leaf("time", "60s"),
            client_body_timeout = leaf("time", "60s"),
            client_max_body_size = leaf("size", "0"),
            client_header_buffer_size = leaf("size"),
            large_client_header_buffers = leaf("string"),
            send_timeout = leaf("time", "10s"),
            underscores_in_headers = one_of({"on", "off"}, "on"),
            real_ip_header = leaf("name", "X-Real-IP"),
            real_ip_recursive = one_of({"on", "off"}, "off"),
            real_ip_from = list("cidr", {"127.0.0.1", "unix:"}),
            proxy_ssl_server_name = leaf("bool", true),
            charset = leaf("name", "utf-8"),
            variables_hash_max_size = leaf("int", 2048),
            upstream = {
                keepalive = leaf("int", 320),
                keepalive_requests = leaf("int", 1000),
                keepalive_timeout = leaf("time", "60s"),
            },
            lua_shared_dict = map("size"),
            custom_lua_shared_dict = map("size"),
        },
    },
    discovery = any,
    graphql = {max_size = leaf("int", 1048576)},
    plugins = list("string", M.plugins),
    stream_plugins = list("string"),
    plugin_attr = map("any", {}),
    wasm = without_effect(not_here),
    xrpc = without_effect(not_here),
    ["ext-plugin"] = without_effect(not_here),
    deployment = {
        role = one_of({"traditional", "control_plane", "data_plane"}, "data_plane"),
        role_traditional = {config_provider = one_of({"etcd"}, "etcd")},
        role_control_plane = any,
        role_data_plane = {config_provider = one_of({"etcd"}, "etcd")},
        admin = without_effect("dpproxy is a data plane"),
        etcd = {
            host = list("url", {"http://127.0.0.1:2379"}),
            prefix = leaf("string", "/apisix"),
            timeout = leaf("number", 30),
            watch_timeout = leaf("number", 50),
            resync_delay = leaf("number", 5),
            health_check_timeout = leaf("number", 10),
            startup_retry = leaf("int", 2),
            user = leaf("string"),
            password = leaf("string"),
            extra_headers = map("string"),
            tls = {
                cert = leaf("string"), key = leaf("string"), ca = leaf("string"), sni = leaf("string"),
                verify = leaf("bool", true),
            },
        },
    },
    dpproxy = {
        runtime_dir = leaf("string"),
        modules_dir = leaf("string"),
        upstream_tls_slots = leaf("int", 32),
    },
}

return M
