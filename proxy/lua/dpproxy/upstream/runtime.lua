-- Gives dpproxy.upstream and dpproxy.health what they need of nginx: sockets, timers, clock, shared memory, the configuration's
-- settings. Called once in each worker.
local dns = require("dpproxy.upstream.dns")
local dns_files = require("dpproxy.upstream.dns_files")
local health = require("dpproxy.health")
local prober = require("dpproxy.health.prober")
local random_bytes = require("dpproxy.base.random").bytes
local upstream = require("dpproxy.upstream")

local ngx = ngx
local byte, match = string.byte, string.match
local assert, ipairs, pcall, setmetatable = assert, ipairs, pcall, setmetatable
local tonumber, tostring, type = tonumber, tostring, type

local M = {}

local TICK_SECONDS = 0.25
local DICT = "dpproxy_health"
local LEVELS = {error = ngx.ERR, warn = ngx.WARN, info = ngx.INFO}

local function log(level, message)
    ngx.log(LEVELS[level] or ngx.ERR, message)
end

local function random16()
    local high, low = byte(random_bytes(2), 1, 2)
    return high * 256 + low
end

local function read_file(path)
    local file = io.open(path, "r")
    if not file then
        return nil
    end
    local text = file:read(65536)
    file:close()
    return text
end

local function in_timer(premature, fn, ...)
    if not premature then
        fn(...)
    end
end

local function spawn(fn, ...)
    return (ngx.timer.at(0, in_timer, fn, ...))
end

-- One that is no address is left out; without any the system's are taken.
local function usable_servers(servers)
    local usable = {}
    for _, server in ipairs(type(servers) == "table" and servers or {servers}) do
        if dns_files.server(tostring(server)) then
            usable[#usable + 1] = tostring(server)
        else
            log("error", "DNS: not an address of a server, it is not used: " .. tostring(server))
        end
    end
    return usable
end

local function dns_client(apisix, servers, dict)
    return assert(dns.new({
        servers = usable_servers(servers), valid = tonumber(apisix.dns_resolver_valid),
        timeout = tonumber(apisix.resolver_timeout) or 5,
        search = apisix.enable_resolv_search_opt ~= false, ipv6 = apisix.enable_ipv6 ~= false,
        clock = ngx.now, random = math.random, random16 = random16, udp = ngx.socket.udp, tcp = ngx.socket.tcp, sleep = ngx.sleep,
        spawn = spawn, read_file = read_file, dict = dict, log = log,
    }))
end

-- service_name + discovery_type "dns"; the only discovery there is here.
local function discovery(conf, apisix)
    local settings = type(conf.discovery) == "table" and conf.discovery.dns
    if type(settings) ~= "table" then
        return nil
    end
    local client = dns_client(apisix, settings.servers or apisix.dns_resolver)
    return function(value)
        if value.discovery_type ~= "dns" then
            return nil, "discovery " .. tostring(value.discovery_type) .. " is uninitialized"
        end
        local nodes, err = client:service(value.service_name)
        if not nodes or #nodes == 0 then
            return nil, err or "no nodes"
        end
        return nodes
    end
end

-- The configuration's item for a checker's name, "/apisix/upstreams/1" or "/apisix/routes/1#a plugin's". -> item | nil, kind,
-- suffix
local function item_of(store, name)
    local key, suffix = match(name, "^([^#]*)(#?.*)$")
    local kind, id = match(key, "([^/]+)/([^/]+)$")
    if not kind then
        return nil
    end
    return store.get(kind, id), kind, suffix
end

-- What has become of a checked upstream (prober.new's look). It is followed without traffic, so that probes go to the nodes that
-- the configuration and DNS have now.
local function look_with(store)
    local seen = {}
    local resolved = setmetatable({}, {__mode = "v"})
    return function(name, record)
        local item, kind, suffix = item_of(store, name)
        if not item then
            return "leave"
        end
        if suffix ~= "" then
            -- A plugin's: whether it is still wanted only requests can tell. After a change it has to be asked for again.
            local changed = seen[name] and seen[name] ~= item.modifiedIndex
            seen[name] = item.modifiedIndex
            return (changed or record.delete_at) and "leave" or "stay"
        end
        local value = kind == "upstreams" and item.value or item.value.upstream
        if type(value) ~= "table" or not value.checks then
            return "leave"
        end
        local ctx = {upstream_key = name, upstream_version = item.modifiedIndex, var = {}}
        local up = upstream.resolve(ctx, value)
        if not up or resolved[name] == up and not record.delete_at and record.version == item.modifiedIndex then
            return "stay"
        end
        resolved[name] = up
        return up, item.modifiedIndex
    end
end

-- How many probes at once is bounded by prober.new; nginx bounds timers (lua_max_running_timers, 256).
local function start_prober(registry, dict, store)
    local worker
    worker = prober.new({
        registry = registry, dict = dict, id = ngx.worker.pid(), clock = ngx.now, random = math.random, spawn = spawn,
        tcp = ngx.socket.tcp, log = log, look = look_with(store),
    })
    local function tick(premature)
        if premature or ngx.worker.exiting() then
            worker:stop()
            return
        end
        local ok, err = pcall(worker.tick, worker)
        if not ok then
            log("error", "health check: " .. tostring(err))
        end
    end
    local ok, err = ngx.timer.every(TICK_SECONDS, tick)
    if not ok then
        log("error", "health check: no timer: " .. tostring(err))
    end
end

-- conf: config.yaml as a table. opts.store: instead of dpproxy.config.store
function M.init_worker(conf, opts)
    local apisix = type(conf.apisix) == "table" and conf.apisix or {}
    local dict = ngx.shared[DICT]
    local client = dns_client(apisix, apisix.dns_resolver, dict)
    dns.default = client
    local checker
    if dict and not apisix.disable_upstream_healthcheck then
        local registry = health.setup({dict = dict, clock = ngx.now, log = log})
        start_prober(registry, dict, opts and opts.store or require("dpproxy.config.store"))
        checker = health.checker
    end
    upstream.setup({
        random = math.random, clock = ngx.now, dict = dict, log = log, checker = checker, discover = discovery(conf, apisix),
        address = function(domain)
            return client:address(domain)
        end,
    })
end

return M
