-- limit-conn: so many requests at a time; what exceeds `conn` waits, what exceeds `conn + burst` is rejected. Redis policies are
-- refused.
local core = require("apisix.core")
local limit = require("dpproxy.limit.conn")
local limit_key = require("dpproxy.limit.key")
local outcome = require("dpproxy.limit.outcome")

local ipairs, tonumber = ipairs, tonumber

local dict_name = "plugin-limit-conn"

local conn_def = {oneOf = {{type = "integer", exclusiveMinimum = 0}, {type = "string"}}}
local burst_def = {oneOf = {{type = "integer", minimum = 0}, {type = "string"}}}

local schema = {
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
}

local M = {
    version = 0.1,
    priority = 1003,
    name = "limit-conn",
    schema = schema,
}

-- How long a request takes, learned as it goes: conf -> seconds. Each worker learns for itself.
local learned = setmetatable({}, {__mode = "k"})

function M.check_schema(conf)
    local ok, err = core.schema.check(schema, conf)
    if not ok then
        return false, err
    end
    return outcome.check_policy(conf)
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

local function enter(conf, ctx, value, conn, burst)
    local key = limit_key.prefix(conf, ctx) .. value
    local place, err = limit.enter(ngx.shared[dict_name], key, conn, burst, ngx.worker.pid())
    if not place then
        if err == "rejected" then
            return outcome.rejected(conf)
        end
        core.log.error("failed to limit conn: ", err)
        return outcome.failed(conf)
    end
    local delay = limit.delay(place, conn, learned[conf] or conf.default_conn_delay)
    local entered = ctx.limit_conn
    if not entered then
        entered = {}
        ctx.limit_conn = entered
    end
    local n = #entered
    entered[n + 1], entered[n + 2], entered[n + 3] = key, delay, conf
    if delay >= 0.001 then
        core.sleep(delay)
    end
end

local function enter_rules(conf, ctx)
    local applied = 0
    for _, rule in ipairs(conf.rules) do
        local conn = limit_key.number(rule.conn, ctx, 1)
        local burst = limit_key.number(rule.burst, ctx, 0)
        local value, _, resolved = core.utils.resolve_var(rule.key, ctx.var)
        if conn and burst and value and resolved ~= 0 then
            applied = applied + 1
            local code, body = enter(conf, ctx, value, conn, burst)
            if code then
                return code, body
            end
        end
    end
    if applied == 0 and not conf.allow_degradation then
        core.log.error("failed to get limit conn rules")
        return 500
    end
end

function M.access(conf, ctx)
    if conf.rules then
        return enter_rules(conf, ctx)
    end
    local conn, err = limit_key.number(conf.conn, ctx, 1)
    local burst
    if conn then
        burst, err = limit_key.number(conf.burst, ctx, 0)
    end
    if not burst then
        core.log.error("failed to get limit conn rules: ", err)
        return outcome.failed(conf)
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
    local dict, pid = ngx.shared[dict_name], ngx.worker.pid()
    for i = 1, #entered, 3 do
        local key, delay, conf = entered[i], entered[i + 1], entered[i + 2]
        limit.leave(dict, key, pid)
        if not conf.only_use_default_delay then
            local latency = latency_of(ctx, delay)
            if latency > 0 then
                learned[conf] = ((learned[conf] or conf.default_conn_delay) + latency) / 2
            end
        end
    end
end

return M
