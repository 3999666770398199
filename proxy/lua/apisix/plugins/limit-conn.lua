-- limit-conn: so many requests at a time; what exceeds `conn` waits, what exceeds `conn + burst` is rejected. Those in flight are
-- counted in a shared dictionary of this node, or in Redis.
local core = require("apisix.core")
local limit = require("dpproxy.limit.conn")
local limit_key = require("dpproxy.limit.key")
local outcome = require("dpproxy.limit.outcome")
local redis = require("dpproxy.limit.redis")
local redis_schema = require("dpproxy.limit.redis_schema")
local rules = require("dpproxy.limit.rules")

local tonumber = tonumber

local dict_name = "plugin-limit-conn"

local conn_def = {oneOf = {{type = "integer", exclusiveMinimum = 0}, {type = "string"}}}
local burst_def = {oneOf = {{type = "integer", minimum = 0}, {type = "string"}}}

local schema = redis_schema.extend({
    type = "object",
    properties = {
        conn = conn_def,
        burst = burst_def,
        default_conn_delay = {type = "number", exclusiveMinimum = 0},
        only_use_default_delay = {type = "boolean", default = false},
        key = {type = "string"},
        key_type = {type = "string", enum = {"var", "var_combination"}, default = "var"},
        policy = {type = "string", enum = {"redis", "redis-cluster", "local"}, default = "local"},
        rejected_code = {type = "integer", minimum = 200, maximum = 599, default = 503},
        rejected_msg = {type = "string", minLength = 1},
        allow_degradation = {type = "boolean", default = false},
        rules = {
            type = "array",
            items = {
                type = "object",
                properties = {conn = conn_def, burst = burst_def, key = {type = "string"}},
                required = {"conn", "burst", "key"},
            },
        },
    },
    oneOf = {
        {required = {"conn", "burst", "default_conn_delay", "key"}},
        {required = {"default_conn_delay", "rules"}},
    },
    encrypt_fields = {"redis_password"},
}, {key_ttl = {type = "integer", minimum = 1, default = 3600}})

local M = {
    version = 0.1,
    priority = 1003,
    name = "limit-conn",
    schema = schema,
}

-- How long a request takes, learned as it goes: conf -> seconds. Each worker learns for itself.
local learned = setmetatable({}, {__mode = "k"})

function M.check_schema(conf)
    return core.schema.check(schema, conf)
end

local function alive(pid)
    -- Signal 0 only asks. EPERM would mean that it lives.
    local ffi = require("ffi")
    pcall(ffi.cdef, "int kill(int pid, int sig);")
    return ffi.C.kill(pid, 0) == 0 or ffi.errno() == 1
end

-- A worker that was killed took its requests with it, not their count.
function M.init()
    local dict = ngx.shared[dict_name]
    if not dict or ngx.get_phase() == "init" then
        return
    end
    local n = limit.recover(dict, alive)
    if n > 0 then
        core.log.warn("limit-conn: took back ", n, " requests of workers that died")
    end
end

-- -> place, what leave() needs | nil, err
local function take_place(conf, key, conn, burst)
    if conf.policy ~= "local" then
        return redis.enter(conf, key, conn, burst)
    end
    local place, err = limit.enter(ngx.shared[dict_name], key, conn, burst, ngx.worker.pid())
    return place, err or false
end

local function leave(conf, key, id)
    if id then
        redis.leave(conf, key, id)
    else
        limit.leave(ngx.shared[dict_name], key, ngx.worker.pid())
    end
end

local function failed(conf, err)
    core.log.error("failed to limit conn: ", err)
    return outcome.failed(conf)
end

local function enter(conf, ctx, value, conn, burst)
    local key = limit_key.prefix(conf, ctx) .. value
    local place, id = take_place(conf, key, conn, burst)
    if not place then
        if id == "rejected" then
            return outcome.rejected(conf)
        end
        return failed(conf, id)
    end
    local delay = limit.delay(place, conn, learned[conf] or conf.default_conn_delay)
    local entered = ctx.limit_conn
    if not entered then
        entered = {}
        ctx.limit_conn = entered
    end
    local n = #entered
    entered[n + 1], entered[n + 2], entered[n + 3], entered[n + 4] = key, delay, conf, id
    if delay >= 0.001 then
        core.sleep(delay)
    end
end

local fields = {"conn", 1, "burst", 0}

function M.access(conf, ctx)
    if conf.rules then
        return rules.walk(conf, ctx, fields, enter, failed)
    end
    local conn, burst, err = rules.numbers(conf, ctx, fields)
    if not conn then
        return failed(conf, err)
    end
    return enter(conf, ctx, limit_key.value(conf.key, conf.key_type, ctx), conn, burst)
end

local function latency_of(ctx, delay)
    -- Of several tries ("0.001, 0.002") the last one says how long the upstream takes.
    local upstream = ctx.var.upstream_response_time
    local seconds = upstream and tonumber((tostring(upstream):match("([%d%.]+)%s*$")))
    return seconds or (tonumber(ctx.var.request_time) or 0) - delay
end

function M.log(_, ctx)
    local entered = ctx.limit_conn
    if not entered then
        return
    end
    ctx.limit_conn = nil
    for i = 1, #entered, 4 do
        local key, delay, conf, id = entered[i], entered[i + 1], entered[i + 2], entered[i + 3]
        leave(conf, key, id)
        if not conf.only_use_default_delay then
            local latency = latency_of(ctx, delay)
            if latency > 0 then
                learned[conf] = ((learned[conf] or conf.default_conn_delay) + latency) / 2
            end
        end
    end
end

return M
