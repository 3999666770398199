-- limit-req: a rate of requests per second by a leaky bucket; what exceeds it waits (or not: `nodelay`), what exceeds `burst` is
-- rejected. The bucket is in a shared dictionary of this node, or in Redis.
local core = require("apisix.core")
local clock = require("dpproxy.limit.clock")
local limit = require("dpproxy.limit.req")
local limit_key = require("dpproxy.limit.key")
local outcome = require("dpproxy.limit.outcome")
local redis = require("dpproxy.limit.redis")
local redis_schema = require("dpproxy.limit.redis_schema")

local schema = redis_schema.extend({
    type = "object",
    properties = {
        rate = {type = "number", exclusiveMinimum = 0},
        burst = {type = "number", minimum = 0},
        key = {type = "string"},
        key_type = {type = "string", enum = {"var", "var_combination"}, default = "var"},
        policy = {type = "string", enum = {"redis", "redis-cluster", "local"}, default = "local"},
        rejected_code = {type = "integer", minimum = 200, maximum = 599, default = 503},
        rejected_msg = {type = "string", minLength = 1},
        nodelay = {type = "boolean", default = false},
        allow_degradation = {type = "boolean", default = false},
    },
    required = {"rate", "burst", "key"},
    encrypt_fields = {"redis_password"},
})

local M = {
    version = 0.1,
    priority = 1001,
    name = "limit-req",
    schema = schema,
}

function M.check_schema(conf)
    return core.schema.check(schema, conf)
end

function M.access(conf, ctx)
    local key = limit_key.prefix(conf, ctx) .. limit_key.value(conf.key, conf.key_type, ctx)
    local delay, err
    if conf.policy == "local" then
        delay, err = limit.incoming(ngx.shared["plugin-limit-req"], key, conf.rate, conf.burst, clock.now())
    else
        delay, err = redis.incoming(conf, key, conf.rate, conf.burst)
    end
    if not delay then
        if err == "rejected" then
            return outcome.rejected(conf)
        end
        core.log.error("failed to limit req: ", err)
        return outcome.failed(conf)
    end
    if delay >= 0.001 and not conf.nodelay then
        core.sleep(delay)
    end
end

function M.workflow_handler()
    require("apisix.plugins.workflow").register("limit-req", M.access, M.check_schema)
end

return M
