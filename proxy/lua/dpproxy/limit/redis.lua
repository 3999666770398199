-- The limiters' counting in Redis, so that all gateways count together: the same calls as dpproxy.limit.count, .req and .conn,
-- with the plugin's configuration in place of the shared dictionary.
local cluster = require("dpproxy.limit.redis_cluster")
local connection = require("dpproxy.limit.redis_connection")
local core = require("apisix.core")
local crypto = require("dpproxy.base.crypto")
local random = require("dpproxy.base.random")
local resp = require("dpproxy.limit.redis_resp")
local scripts = require("dpproxy.limit.redis_scripts")
local sentinel = require("dpproxy.limit.redis_sentinel")

local ngx = ngx
local max, remove = math.max, table.remove
local pcall, tonumber = pcall, tonumber

local M = {}

scripts.prepare(function(text)
    return (crypto.digest("sha1", text):gsub(".", function(c) return ("%02x"):format(c:byte()) end))
end)

local prepared = setmetatable({}, {__mode = "k"})   -- configuration -> options of its connections

local function options_of(conf)
    local opts = prepared[conf]
    if not opts then
        opts = {
            username = conf.redis_username, password = conf.redis_password, database = conf.redis_database,
            connect_timeout = conf.redis_connect_timeout, timeout = conf.redis_read_timeout or conf.redis_timeout,
            keepalive_timeout = conf.redis_keepalive_timeout, keepalive_pool = conf.redis_keepalive_pool,
            ssl = conf.redis_ssl or conf.redis_cluster_ssl, ssl_verify = conf.redis_ssl_verify or conf.redis_cluster_ssl_verify,
        }
        prepared[conf] = opts
    end
    return opts
end

local evals = {
    redis = function(conf, opts, script, key, args)
        local reply, err = connection.with({host = conf.redis_host, port = conf.redis_port}, opts, function(sock)
            return connection.run_script(sock, script, key, args)
        end)
        return reply, err
    end,
    ["redis-cluster"] = cluster.eval,
    ["redis-sentinel"] = sentinel.eval,
}

-- -> reply | nil, err
local function eval(conf, script, key, ...)
    local reply, err = evals[conf.policy](conf, options_of(conf), script, key, {...})
    if reply == nil then
        return nil, "redis: " .. err
    elseif reply == resp.null then
        return nil, "redis: no answer"
    end
    return reply
end

-- -> allowed, remaining, reset in seconds | nil, err
function M.fixed(conf, key, limit, window, cost)
    local reply, err = eval(conf, scripts.fixed, "limit-count:" .. key, cost, window)
    if not reply then
        return nil, err
    end
    local count, left = reply[1], reply[2] / 1000
    if count > limit then
        return false, 0, left
    end
    return true, limit - count, left
end

function M.sliding(conf, key, limit, window, cost)
    local reply, err = eval(conf, scripts.sliding, "limit-count:s:" .. key, limit, cost, window)
    if not reply then
        return nil, err
    end
    return reply[1] == 1, reply[2], tonumber(reply[3])
end

-- -> delay in seconds | nil, "rejected" | nil, err
function M.incoming(conf, key, rate, burst)
    local reply, err = eval(conf, scripts.incoming, "limit-req:" .. key, rate, burst)
    if not reply then
        return nil, err
    elseif reply == "-1" then
        return nil, "rejected"
    end
    return max(0, tonumber(reply))
end

local own_id, entered = nil, 0

-- -> place, id | nil, "rejected" | nil, err
function M.enter(conf, key, limit, burst)
    own_id = own_id or random.uuid4()
    entered = entered + 1
    local id = own_id .. ":" .. entered
    local place, err = eval(conf, scripts.enter, "limit-conn:" .. key, limit + burst, conf.key_ttl, id)
    if not place then
        return nil, err
    elseif place < 0 then
        return nil, "rejected"
    end
    return place, id
end

-- Sockets cannot be used where requests end: those who leave wait here for a timer. When Redis is away they are tried again for a
-- while; after that Redis forgets them by itself (key_ttl).
local leaving = {}
local senders = 0
local MAX_LEAVING, MAX_SENDERS, TRIES, PAUSE = 100000, 8, 5, 1

local function drain()
    while #leaving > 0 do
        local entry = remove(leaving)
        local gone, err = eval(entry.conf, scripts.leave, "limit-conn:" .. entry.key, entry.id)
        if not gone then
            entry.tries = (entry.tries or 0) + 1
            if entry.tries >= TRIES then
                core.log.error("limit-conn: a request's place is not given back: ", err)
            else
                leaving[#leaving + 1] = entry
                ngx.sleep(PAUSE)
            end
        end
    end
end

local function send_leaving()
    local ok, err = pcall(drain)
    senders = senders - 1
    if not ok then
        core.log.error("limit-conn: ", err)
    end
end

function M.leave(conf, key, id)
    if #leaving >= MAX_LEAVING then
        core.log.error("limit-conn: a request's place is not given back: too many wait for Redis")
        return
    end
    leaving[#leaving + 1] = {conf = conf, key = key, id = id}
    if senders < MAX_SENDERS then
        senders = senders + 1
        local ok, err = ngx.timer.at(0, send_leaving)
        if not ok then
            senders = senders - 1
            core.log.error("limit-conn: a request's place is not given back now: no timer: ", err)
        end
    end
end

return M
