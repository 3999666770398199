-- A Redis cluster: which node has a key, and what to do when it has moved.
local bit = require("bit")
local connection = require("dpproxy.limit.redis_connection")
local core = require("apisix.core")
local resp = require("dpproxy.limit.redis_resp")

local band, bxor, lshift = bit.band, bit.bxor, bit.lshift
local byte, find, match, sub = string.byte, string.find, string.match, string.sub
local concat, ipairs, tonumber, type = table.concat, ipairs, tonumber, type

local M = {}

local SLOTS = 16384
local TRIES = 5

-- CRC16 as Redis has it (XMODEM).
local function crc16(text)
    local crc = 0
    for i = 1, #text do
        crc = bxor(crc, lshift(byte(text, i), 8))
        for _ = 1, 8 do
            crc = band(crc, 0x8000) ~= 0 and bxor(lshift(crc, 1), 0x1021) or lshift(crc, 1)
        end
        crc = band(crc, 0xffff)
    end
    return crc
end

-- Of a key with braces only what is in the first of them counts.
function M.slot(key)
    local from = find(key, "{", 1, true)
    local to = from and find(key, "}", from + 1, true)
    if to and to > from + 1 then
        key = sub(key, from + 1, to - 1)
    end
    return crc16(key) % SLOTS
end

-- "10.0.0.1:6379", "[::1]:6379" -> node | nil
local function node_of(text)
    local host, port = match(text, "^(.*):(%d+)$")
    if not host then
        return {host = text, port = 6379}
    end
    return {host = match(host, "^%[(.*)%]$") or host, port = tonumber(port)}
end

-- Clusters by their name and nodes: {slots = {[slot] = node}, stale = bool}
local clusters, cluster_count = {}, 0

local function cluster_of(conf)
    local name = conf.redis_cluster_name .. "\0" .. concat(conf.redis_cluster_nodes, "\0")
    local cluster = clusters[name]
    if not cluster then
        if cluster_count >= 1000 then
            clusters, cluster_count = {}, 0
        end
        cluster = {slots = {}, stale = true}
        clusters[name], cluster_count = cluster, cluster_count + 1
    end
    return cluster
end

-- The reply of CLUSTER SLOTS: {first, last, {address, port, …}, replicas …}, … -> slot -> node | nil
function M.read_slots(reply, asked)
    local slots = {}
    for _, range in ipairs(reply) do
        local first, last, master = range[1], range[2], range[3]
        if type(first) ~= "number" or type(last) ~= "number" or first < 0 or last >= SLOTS or type(master) ~= "table"
                or type(master[2]) ~= "number" then
            return nil
        end
        local host = master[1]
        -- No address: the one that we reached the server at.
        local node = {host = type(host) == "string" and host ~= "" and host or asked.host, port = master[2]}
        for slot = first, last do
            slots[slot] = node
        end
    end
    return slots
end

local function refresh(cluster, conf, opts)
    local err
    for _, text in ipairs(conf.redis_cluster_nodes) do
        local node = node_of(text)
        local reply, why = connection.with(node, opts, function(sock)
            return resp.call(sock, "CLUSTER", "SLOTS")
        end)
        local slots = type(reply) == "table" and reply ~= resp.null and M.read_slots(reply, node)
        if slots then
            cluster.slots, cluster.stale = slots, false
            return true
        end
        err = why or "no slots"
    end
    return nil, err
end

-- "MOVED 3999 10.0.0.1:6381", "ASK 3999 10.0.0.1:6381" -> kind, node
function M.redirection(text, asked)
    local kind, target = match(text, "^(%u+) %d+ (.*)$")
    if kind ~= "MOVED" and kind ~= "ASK" then
        return nil
    end
    local node = node_of(target)
    if node.host == "" then
        node.host = asked.host
    end
    return kind, node
end

-- -> reply | nil, err
function M.eval(conf, opts, script, key, args)
    local cluster = cluster_of(conf)
    local slot = M.slot(key)
    local asking, target, err
    for _ = 1, TRIES do
        if cluster.stale then
            local ok, why = refresh(cluster, conf, opts)
            if not ok then
                return nil, why
            end
        end
        local node = target or cluster.slots[slot]
        if not node then
            cluster.stale = true
            return nil, "no node has slot " .. slot
        end
        local reply, why, refused = connection.with(node, opts, function(sock)
            if asking then
                local ok, bad, no = resp.call(sock, "ASKING")
                if not ok then
                    return nil, bad, no
                end
            end
            return connection.run_script(sock, script, key, args)
        end)
        if reply ~= nil then
            return reply
        end
        err, asking, target = why, false, nil
        local kind, moved_to = M.redirection(refused and why or "", node)
        if kind == "ASK" then
            asking, target = true, moved_to
        elseif kind == "MOVED" then
            cluster.slots[slot] = moved_to
        elseif refused and not find(why, "^CLUSTERDOWN") and not find(why, "^TRYAGAIN") then
            return nil, why
        elseif cluster.stale then
            return nil, why
        else
            -- The node is away, perhaps for good: who has its slots now?
            cluster.stale = true
            core.log.warn("redis cluster ", conf.redis_cluster_name, ": ", why)
        end
    end
    return nil, err
end

return M
