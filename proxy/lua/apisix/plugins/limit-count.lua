-- limit-count: so many requests in a time window. Counters live in a shared dictionary of this node, or in Redis.
local core = require("apisix.core")
local plugin = require("apisix.plugin")
local clock = require("dpproxy.limit.clock")
local limit = require("dpproxy.limit.count")
local limit_key = require("dpproxy.limit.key")
local outcome = require("dpproxy.limit.outcome")
local redis = require("dpproxy.limit.redis")
local redis_schema = require("dpproxy.limit.redis_schema")
local rules = require("dpproxy.limit.rules")

local ngx = ngx
local set_header = core.response.set_header
local ipairs, pairs, tostring = ipairs, pairs, tostring
local floor = math.floor

local plugin_name = "limit-count"

local number_or_template = {
    oneOf = {
        {type = "integer", exclusiveMinimum = 0},
        {type = "string"},
    },
}

local schema = redis_schema.extend({
    type = "object",
    properties = {
        count = number_or_template,
        time_window = number_or_template,
        window_type = {type = "string", enum = {"fixed", "sliding"}, default = "fixed"},
        rules = {
            type = "array",
            items = {
                type = "object",
                properties = {
                    count = number_or_template,
                    time_window = number_or_template,
                    key = {type = "string"},
                    header_prefix = {type = "string"},
                },
                required = {"count", "time_window", "key"},
            },
        },
        group = {type = "string"},
        key = {type = "string", default = "remote_addr"},
        key_type = {type = "string", enum = {"var", "var_combination", "constant"}, default = "var"},
        rejected_code = {type = "integer", minimum = 200, maximum = 599, default = 503},
        rejected_msg = {type = "string", minLength = 1},
        policy = {type = "string", enum = {"local", "redis", "redis-cluster", "redis-sentinel"}, default = "local"},
        allow_degradation = {type = "boolean", default = false},
        show_limit_quota_header = {type = "boolean", default = true},
        sync_interval = {type = "number", default = -1},
    },
    oneOf = {
        {required = {"count", "time_window"}},
        {required = {"rules"}},
    },
    encrypt_fields = {"redis_password", "sentinel_password"},
})

local metadata_schema = {
    type = "object",
    properties = {
        limit_header = {type = "string", default = "X-RateLimit-Limit"},
        remaining_header = {type = "string", default = "X-RateLimit-Remaining"},
        reset_header = {type = "string", default = "X-RateLimit-Reset"},
    },
}

local M = {
    version = 0.5,
    priority = 1002,
    name = plugin_name,
    schema = schema,
    metadata_schema = metadata_schema,
}

local default_metadata = {
    limit_header = "X-RateLimit-Limit",
    remaining_header = "X-RateLimit-Remaining",
    reset_header = "X-RateLimit-Reset",
}

-- group -> what the first configuration of it said
local groups = {}
local group_fields = {"count", "time_window", "window_type", "key", "key_type", "rejected_code", "rejected_msg", "policy",
    "allow_degradation", "show_limit_quota_header", "sync_interval", "redis_host", "redis_port", "redis_database",
    "redis_cluster_name", "redis_master_name"}

-- All that use a group count together, so they must agree. The first of them is believed until none of its kind was seen for a
-- while, as in APISIX (300 s): a group whose configuration is to change gets another name.
local function check_group(conf)
    local now = clock.now()
    local known = groups[conf.group]
    if not known or now - known.seen > 300 then
        known = {conf = core.table.deepcopy(conf)}
        groups[conf.group] = known
    end
    for _, field in ipairs(group_fields) do
        if known.conf[field] ~= conf[field] then
            return false, "group conf mismatched"
        end
    end
    known.seen = now
    return true
end

function M.check_schema(conf, schema_type)
    if schema_type == core.schema.TYPE_METADATA then
        return core.schema.check(metadata_schema, conf)
    end
    if conf.rules and (conf.count or conf.time_window) then
        return false, "count/time_window and rules cannot be specified at the same time"
    end
    local ok, err = core.schema.check(schema, conf)
    if not ok then
        return false, err
    end
    if conf.policy ~= "local" and conf.sync_interval ~= -1 and conf.sync_interval < 0.1 then
        return false, "sync_interval should be -1, or at least 0.1"
    end
    if conf.group then
        if conf.rules then
            return false, "group and rules cannot be specified at the same time"
        end
        ok, err = check_group(conf)
        if not ok then
            return false, err
        end
    end
    local seen = {}
    for _, rule in ipairs(conf.rules or {}) do
        if seen[rule.key] then
            return false, "duplicate key '" .. rule.key .. "' in rules"
        end
        seen[rule.key] = true
    end
    return true
end

local function fail(conf, err)
    core.log.error("failed to limit count: ", err)
    return outcome.failed(conf, {error_msg = "failed to limit count"})
end

-- Names of the headers of a rule: "X-RateLimit-Limit" becomes "X-<prefix>-RateLimit-Limit".
local function prefixed(name, prefix)
    return (name:gsub("RateLimit%-", (prefix:gsub("%%", "%%%%")) .. "-RateLimit-", 1))
end

local texts, texts_count = {}, 0

-- Limits are few: their numbers are not written out for each request.
local function text_of(count)
    local text = texts[count]
    if not text then
        if texts_count >= 1000 then
            texts, texts_count = {}, 0
        end
        text = tostring(count)
        texts[count], texts_count = text, texts_count + 1
    end
    return text
end

local function set_headers(metadata, prefix, count, remaining, reset)
    local limit_header, remaining_header, reset_header = metadata.limit_header or default_metadata.limit_header,
        metadata.remaining_header or default_metadata.remaining_header, metadata.reset_header or default_metadata.reset_header
    if prefix then
        limit_header, remaining_header, reset_header = prefixed(limit_header, prefix), prefixed(remaining_header, prefix),
            prefixed(reset_header, prefix)
    end
    set_header(limit_header, text_of(count))
    local header = ngx.header
    header[remaining_header], header[reset_header] = remaining, reset
end

local function count_one(conf, key, count, window)
    local sliding = conf.window_type == "sliding"
    if conf.policy == "local" then
        local dict = ngx.shared["plugin-limit-count"]
        if sliding then
            return limit.sliding(dict, key, count, window, 1, clock.now())
        end
        return limit.fixed(dict, key, count, window, 1)
    elseif sliding then
        return redis.sliding(conf, key, count, window, 1)
    end
    return redis.fixed(conf, key, count, window, 1)
end

local function run(conf, ctx, value, count, window, rule, i)
    local allowed, remaining, reset = count_one(conf, limit_key.prefix(conf, ctx) .. value, count, window)
    if allowed == nil then
        return fail(conf, remaining)
    end
    reset = floor(reset * 100) / 100
    if conf.show_limit_quota_header then
        local metadata = plugin.plugin_metadata(plugin_name)
        local prefix = rule and (rule.header_prefix or tostring(i))
        set_headers(metadata and metadata.value or default_metadata, prefix, count, remaining, reset)
    end
    if not allowed then
        return outcome.rejected(conf)
    end
end

local fields = {"count", 1, "time_window", 1}

function M.access(conf, ctx)
    if conf.rules then
        return rules.walk(conf, ctx, fields, run, fail)
    end
    local count, window, err = rules.numbers(conf, ctx, fields)
    if not count then
        return fail(conf, err)
    end
    return run(conf, ctx, limit_key.value(conf.key, conf.key_type, ctx), count, window)
end

function M.workflow_handler()
    require("apisix.plugins.workflow").register(plugin_name, M.access, M.check_schema)
end

-- For tests.
function M._forget_groups()
    for name in pairs(groups) do
        groups[name] = nil
    end
end

return M
