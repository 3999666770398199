-- The metrics of the node, made when they are asked for: connections, configuration, health, memory.
local registry = require("dpproxy.metrics.registry")

local ipairs, pairs, pcall, tonumber = ipairs, pairs, pcall, tonumber

local M = {}

local function head(out, name, kind, help)
    out[#out + 1] = "# HELP " .. name .. " " .. help
    out[#out + 1] = "# TYPE " .. name .. " " .. kind
end

local function line(out, name, labels, values, n)
    local text = registry.label_text(labels, values)
    out[#out + 1] = name .. (text ~= "" and "{" .. text .. "} " or " ") .. registry.number_text(n)
end

-- nginx' own counters (what stub_status shows); nil in a build without them.
local function nginx_counters()
    local ffi = require("ffi")
    pcall(ffi.cdef, [[
        extern volatile uintptr_t *ngx_stat_accepted;
        extern volatile uintptr_t *ngx_stat_handled;
        extern volatile uintptr_t *ngx_stat_requests;
        extern volatile uintptr_t *ngx_stat_active;
        extern volatile uintptr_t *ngx_stat_reading;
        extern volatile uintptr_t *ngx_stat_writing;
        extern volatile uintptr_t *ngx_stat_waiting;
    ]])
    local counters = {}
    for _, name in ipairs({"accepted", "handled", "requests", "active", "reading", "writing", "waiting"}) do
        local ok, value = pcall(function() return tonumber(ffi.C["ngx_stat_" .. name][0]) end)
        if not ok then
            return nil
        end
        counters[name] = value
    end
    return counters
end

M.nginx_counters = nginx_counters

local function connections(out, prefix, counters)
    if not counters then
        return
    end
    local name = prefix .. "http_requests_total"
    head(out, name, "gauge", "The total number of client requests since APISIX started")
    line(out, name, {}, {}, counters.requests)
    name = prefix .. "nginx_http_current_connections"
    head(out, name, "gauge", "Number of HTTP connections")
    for _, state in ipairs({"accepted", "active", "handled", "reading", "waiting", "writing"}) do
        line(out, name, {"state"}, {state}, counters[state])
    end
end

local index_kinds = {"consumers", "global_rules", "protos", "routes", "services", "ssls", "stream_routes", "upstreams"}

local function highest(store, kind)
    local most = 0
    for _, item in ipairs((store.list(kind))) do
        if item.modifiedIndex and item.modifiedIndex > most then
            most = item.modifiedIndex
        end
    end
    return most
end

local function configuration(out, prefix, store, now)
    local status = store.status()
    local name = prefix .. "etcd_reachable"
    head(out, name, "gauge", "Config server etcd reachable from APISIX, 0 is unreachable")
    line(out, name, {}, {}, status.etcd_reachable and 1 or 0)

    name = prefix .. "etcd_modify_indexes"
    head(out, name, "gauge", "Etcd modify index for APISIX keys")
    local most = 0
    for _, kind in ipairs(index_kinds) do
        local index = highest(store, kind)
        line(out, name, {"key"}, {kind}, index)
        if index > most then
            most = index
        end
    end
    line(out, name, {"key"}, {"max_modify_index"}, most)
    line(out, name, {"key"}, {"prev_index"}, highest(store, "global_rules"))
    line(out, name, {"key"}, {"x_etcd_index"}, status.revision or 0)

    name = prefix .. "config_revision"
    head(out, name, "gauge", "The revision of etcd that this node's configuration has reached")
    line(out, name, {}, {}, status.revision or 0)
    name = prefix .. "config_age_seconds"
    head(out, name, "gauge", "Seconds since this node's configuration was last known to be what etcd has")
    if status.synced_at and status.synced_at > 0 then
        local age = now - status.synced_at
        line(out, name, {}, {}, age > 0 and age or 0)
    else
        line(out, name, {}, {}, math.huge)
    end
    name = prefix .. "config_source"
    head(out, name, "gauge", "Where this node's configuration comes from")
    for _, source in ipairs({"disk", "etcd", "none"}) do
        line(out, name, {"source"}, {source}, status.source == source and 1 or 0)
    end
    for _, problem in ipairs({{"errors", "Snapshots of the configuration that could not be written"},
        {"corrupt", "Snapshots of the configuration that were found damaged"}}) do
        name = prefix .. "config_snapshot_" .. problem[1] .. "_total"
        head(out, name, "counter", problem[2])
        line(out, name, {}, {}, status["snapshot_" .. problem[1]] or 0)
    end
    if store.rejected then
        name = prefix .. "config_rejected_objects"
        head(out, name, "gauge", "Objects in etcd that are not valid; their last valid version is in use")
        line(out, name, {}, {}, #store.rejected())
    end
end

local function upstreams(out, prefix, checkers)
    if not checkers or #checkers == 0 then
        return
    end
    local name = prefix .. "upstream_status"
    head(out, name, "gauge", "Upstream status from health check")
    for _, checker in ipairs(checkers) do
        for _, node in ipairs(checker.nodes or {}) do
            local healthy = node.status == "healthy" or node.status == "mostly_healthy"
            line(out, name, {"name", "ip", "port"}, {checker.name, node.ip, node.port}, healthy and 1 or 0)
        end
    end
end

local function dictionaries(out, prefix, dicts)
    local names = {}
    for name in pairs(dicts) do
        names[#names + 1] = name
    end
    table.sort(names)
    local name = prefix .. "shared_dict_capacity_bytes"
    head(out, name, "gauge", "The capacity of each nginx shared DICT since APISIX start")
    for _, dict in ipairs(names) do
        line(out, name, {"name"}, {dict}, dicts[dict]:capacity())
    end
    name = prefix .. "shared_dict_free_space_bytes"
    head(out, name, "gauge", "The free space of each nginx shared DICT since APISIX start")
    for _, dict in ipairs(names) do
        line(out, name, {"name"}, {dict}, dicts[dict]:free_space())
    end
end

-- from: {counters, store, now, checkers, dicts, hostname, version}
function M.lines(out, prefix, from)
    connections(out, prefix, from.counters)
    if from.store then
        configuration(out, prefix, from.store, from.now)
    end
    local name = prefix .. "node_info"
    head(out, name, "gauge", "Info of APISIX node")
    line(out, name, {"hostname", "version"}, {from.hostname, from.version}, 1)
    upstreams(out, prefix, from.checkers)
    dictionaries(out, prefix, from.dicts)
    return out
end

return M
