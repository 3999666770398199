-- A Redis server behind sentinels: these know which one is the master.
local connection = require("dpproxy.limit.redis_connection")
local resp = require("dpproxy.limit.redis_resp")

local find = string.find
local ipairs, tonumber, type = ipairs, tonumber, type

local M = {}

local masters, master_count = {}, 0     -- sentinels and name -> node

local function name_of(conf)
    local name = conf.redis_master_name
    for _, sentinel in ipairs(conf.redis_sentinels) do
        name = name .. "\0" .. sentinel.host .. ":" .. sentinel.port
    end
    return name
end

local function ask(conf, opts)
    local sentinel_opts = {
        username = conf.sentinel_username, password = conf.sentinel_password, connect_timeout = opts.connect_timeout,
        timeout = opts.timeout, keepalive_timeout = opts.keepalive_timeout, keepalive_pool = opts.keepalive_pool,
    }
    local err = "no sentinel knows the master " .. conf.redis_master_name
    for _, sentinel in ipairs(conf.redis_sentinels) do
        local reply, why = connection.with(sentinel, sentinel_opts, function(sock)
            return resp.call(sock, "SENTINEL", "get-master-addr-by-name", conf.redis_master_name)
        end)
        if type(reply) == "table" and type(reply[1]) == "string" and tonumber(reply[2]) then
            return {host = reply[1], port = tonumber(reply[2])}
        end
        err = why or err
    end
    return nil, err
end

local function master_of(name, conf, opts)
    local master = masters[name]
    if master then
        return master, true
    end
    local err
    master, err = ask(conf, opts)
    if not master then
        return nil, err
    end
    if master_count >= 1000 then
        masters, master_count = {}, 0
    end
    masters[name], master_count = master, master_count + 1
    return master, false
end

-- -> reply | nil, err
function M.eval(conf, opts, script, key, args)
    local name = name_of(conf)
    while true do
        local master, known = master_of(name, conf, opts)
        if not master then
            return nil, known
        end
        local reply, err, refused = connection.with(master, opts, function(sock)
            return connection.run_script(sock, script, key, args)
        end)
        if reply ~= nil then
            return reply
        elseif refused and not find(err, "READONLY", 1, true) and not find(err, "^MASTERDOWN") and not find(err, "^LOADING") then
            return nil, err
        end
        -- It is away, or no master any more: what do the sentinels say now?
        masters[name], master_count = nil, master_count - (masters[name] and 1 or 0)
        if not known then
            return nil, err
        end
    end
end

return M
