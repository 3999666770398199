-- Command line and environment. Order, later wins: defaults, configuration file, APISIX' own variables, DPPROXY_*, flags.
local file = require("dpproxy.cli.file")
local spec = require("dpproxy.cli.spec")
local values = require("dpproxy.cli.values")

local M = {}

-- name of the flag; what it sets (a path in the configuration) or is (an option of the program); its argument; text for --help
local flags = {
    {"etcd", "deployment.etcd.host", "URL[,URL]", "etcd, by its HTTP endpoints (default http://127.0.0.1:2379)"},
    {"prefix", "deployment.etcd.prefix", "KEY", "where the configuration is in etcd (default /apisix)"},
    {"etcd-user", "deployment.etcd.user", "NAME", "etcd's user; the password comes from DPPROXY_ETCD_PASSWORD or the file"},
    {"listen", "apisix.node_listen", "[IP:]PORT[,…]", "HTTP (default 9080)"},
    {"h2c-listen", "apisix.h2c_listen", "[IP:]PORT[,…]", "HTTP/2 without TLS (default none)"},
    {"tls-listen", "apisix.ssl.listen", "[IP:]PORT[,…]", "HTTPS with HTTP/2 (default 9443)"},
    {"control", "apisix.control", "[IP:]PORT", "control API (default 127.0.0.1:9090)"},
    {"metrics", "plugin_attr.prometheus.export_addr", "[IP:]PORT", "metrics (default 127.0.0.1:9091)"},
    {"status", "apisix.status", "[IP:]PORT", "/status and /status/ready (default 127.0.0.1:7085)"},
    {"workers", "nginx_config.worker_processes", "N|auto", "worker processes (default auto: one for each processor)"},
    {"user", "nginx_config.user", "NAME", "the workers' user when started as root (default dpproxy, else nobody)"},
    {"log-level", "nginx_config.error_log_level", "LEVEL", "debug, info, notice, warn, error (default warn)"},
    {"config", "config", "FILE", "configuration file, YAML or JSON, with the keys of APISIX' config.yaml"},
    {"runtime-dir", "dpproxy.runtime_dir", "FOLDER", "nginx.conf, logs, temporary files, last configuration from etcd"},
    {"test", "test", nil, "write the configuration of nginx, let nginx check it, and end"},
    {"print-config", "print_config", nil, "print the configuration of nginx, and end"},
    {"version", "version", nil, "print the version, and end"},
    {"help", "help", nil, "print this, and end"},
}

local by_name = {}
for _, flag in ipairs(flags) do
    by_name[flag[1]] = flag
end

function M.help()
    local lines = {"Usage: dpproxy [flags]", "", "An API gateway with Apache APISIX' semantics, configured through etcd.", ""}
    for _, flag in ipairs(flags) do
        local left = "  --" .. flag[1] .. (flag[3] and " " .. flag[3] or "")
        lines[#lines + 1] = left .. (" "):rep(math.max(2, 32 - #left:gsub("…", "."))) .. flag[4]
    end
    lines[#lines + 1] = ""
    lines[#lines + 1] = "Each flag with an argument is also an environment variable: DPPROXY_ETCD, DPPROXY_RUNTIME_DIR, …"
    return table.concat(lines, "\n") .. "\n"
end

local function addr(value, path)
    local list, err = values.listen(value)
    if not list or #list ~= 1 then
        return nil, path .. ": " .. (err or "must be one [IP:]PORT")
    end
    return {ip = list[1].ip or "127.0.0.1", port = list[1].port}
end

-- conf, "a.b.c", text -> true | nil, err
local function set(conf, path, value)
    local into, known, last = conf, spec.keys, nil
    if path == "apisix.control" or path == "apisix.status" then
        local a, err = addr(value, path)
        if not a then
            return nil, err
        end
        conf.apisix[path:match("%a+$")] = a
        return true
    elseif path == "plugin_attr.prometheus.export_addr" then
        local a, err = addr(value, path)
        if not a then
            return nil, err
        end
        conf.plugin_attr.prometheus = conf.plugin_attr.prometheus or {}
        conf.plugin_attr.prometheus.export_addr = a
        return true
    end
    for key in path:gmatch("[^.]+") do
        if last then
            into = into[last]
        end
        known, last = known[key], key
    end
    local good, err = values.check(known, value)
    if good == nil then
        return nil, err
    end
    into[last] = good
    return true
end

-- arguments -> {flag name = text | true} | nil, err
local function parse_arguments(args)
    local given, i = {}, 1
    while i <= #args do
        local name, value = args[i]:match("^%-%-([%a-]+)=(.*)$")
        name = name or args[i]:match("^%-%-([%a][%w-]*)$")
        local flag = name and by_name[name]
        if args[i] == "-h" then
            flag, name = by_name.help, "help"
        elseif args[i] == "-c" then
            flag, name = by_name.config, "config"
        end
        if not flag then
            return nil, "unknown argument: " .. args[i]
        end
        if flag[3] and value == nil then
            i = i + 1
            value = args[i]
            if value == nil then
                return nil, "--" .. name .. " needs " .. flag[3]
            end
        elseif not flag[3] and value ~= nil then
            return nil, "--" .. name .. " takes no value"
        end
        given[name] = value or true
        i = i + 1
    end
    return given
end

local function env_name(name)
    return "DPPROXY_" .. name:upper():gsub("-", "_")
end

local function from_apisix_env(conf, getenv)
    local hosts = getenv("APISIX_DEPLOYMENT_ETCD_HOST")
    if hosts then
        local list = require("cjson.safe").decode(hosts)
        if type(list) ~= "table" then
            return nil, "APISIX_DEPLOYMENT_ETCD_HOST must be a JSON array of URLs"
        end
        local good, err = set(conf, "deployment.etcd.host", list)
        if not good then
            return nil, "APISIX_DEPLOYMENT_ETCD_HOST: " .. err
        end
    end
    local workers = getenv("APISIX_WORKER_PROCESSES")
    if workers then
        local good, err = set(conf, "nginx_config.worker_processes", workers)
        if not good then
            return nil, "APISIX_WORKER_PROCESSES: " .. err
        end
    end
    return true
end

local function from_file(path, conf, getenv, warn)
    local handle, err = io.open(path, "r")
    if not handle then
        return nil, err
    end
    local text = handle:read("*a")
    handle:close()
    if not text then
        return nil, path .. ": cannot be read"
    end
    text, err = file.substitute(text, getenv)
    if not text then
        return nil, path .. ": " .. err
    end
    local given
    given, err = file.parse(text, path)
    if not given then
        return nil, path .. ": " .. err
    end
    local refused = {}
    file.apply(given, conf, {
        warn = function(message) warn(path .. ": " .. message) end,
        refuse = function(message) refused[#refused + 1] = path .. ": " .. message end,
    })
    if #refused > 0 then
        table.sort(refused)
        return nil, table.concat(refused, "\n")
    end
    return true
end

-- args, getenv, warn(text) -> {conf =, options = {test =, …}} | nil, err
function M.load(args, getenv, warn)
    local options, err = parse_arguments(args)
    if not options then
        return nil, err
    end
    if options.help or options.version then
        return {options = options}
    end
    local conf = file.defaults()
    local ok
    conf.apisix.status = {ip = "127.0.0.1", port = 7085}
    local path = options.config or getenv("DPPROXY_CONFIG")
    if path then
        ok, err = from_file(path, conf, getenv, warn)
        if not ok then
            return nil, err
        end
    end
    ok, err = from_apisix_env(conf, getenv)
    if not ok then
        return nil, err
    end
    for _, flag in ipairs(flags) do
        local value, from = options[flag[1]], "--" .. flag[1]
        if value == nil and flag[3] then
            value, from = getenv(env_name(flag[1])), env_name(flag[1])
        end
        if value ~= nil and flag[3] and flag[1] ~= "config" then
            ok, err = set(conf, flag[2], value)
            if not ok then
                return nil, from .. ": " .. err
            end
        end
    end
    conf.deployment.etcd.password = getenv("DPPROXY_ETCD_PASSWORD") or conf.deployment.etcd.password
    return {conf = conf, options = options}
end

return M
