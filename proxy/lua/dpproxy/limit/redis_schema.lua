-- The fields that the limiters have with a policy other than "local".
local ipairs, pairs = ipairs, pairs

local M = {}

local function with(more, required)
    local properties = {
        redis_timeout = {type = "integer", minimum = 1, default = 1000},
        redis_keepalive_timeout = {type = "integer", minimum = 1000, default = 10000},
        redis_keepalive_pool = {type = "integer", minimum = 1, default = 100},
    }
    for name, def in pairs(more) do
        properties[name] = def
    end
    return {properties = properties, required = required}
end

M.fields = {
    redis = with({
        redis_host = {type = "string", minLength = 2},
        redis_port = {type = "integer", minimum = 1, default = 6379},
        redis_username = {type = "string", minLength = 1},
        redis_password = {type = "string", minLength = 0},
        redis_database = {type = "integer", minimum = 0, default = 0},
        redis_ssl = {type = "boolean", default = false},
        redis_ssl_verify = {type = "boolean", default = false},
    }, {"redis_host"}),
    ["redis-cluster"] = with({
        redis_cluster_nodes = {type = "array", minItems = 1, items = {type = "string", minLength = 2, maxLength = 100}},
        redis_cluster_name = {type = "string"},
        redis_password = {type = "string", minLength = 0},
        redis_cluster_ssl = {type = "boolean", default = false},
        redis_cluster_ssl_verify = {type = "boolean", default = false},
    }, {"redis_cluster_nodes", "redis_cluster_name"}),
    ["redis-sentinel"] = with({
        redis_sentinels = {
            type = "array",
            minItems = 1,
            items = {
                type = "object",
                properties = {
                    host = {type = "string", minLength = 1},
                    port = {type = "integer", minimum = 1, maximum = 65535, default = 26379},
                },
                required = {"host"},
            },
        },
        redis_master_name = {type = "string", minLength = 1},
        redis_role = {type = "string", enum = {"master"}, default = "master"},
        redis_username = {type = "string", minLength = 1},
        redis_password = {type = "string", minLength = 0},
        sentinel_username = {type = "string", minLength = 1},
        sentinel_password = {type = "string", minLength = 0},
        redis_database = {type = "integer", minimum = 0, default = 0},
        redis_connect_timeout = {type = "integer", minimum = 1, default = 1000},
        redis_read_timeout = {type = "integer", minimum = 1, default = 1000},
    }, {"redis_sentinels", "redis_master_name"}),
}

-- The policy's fields become part of the schema when it is chosen. more: properties that all of them have.
function M.extend(schema, more)
    local branch = schema
    for _, policy in ipairs({"redis", "redis-cluster", "redis-sentinel"}) do
        local fields = M.fields[policy]
        local properties = {}
        for name, def in pairs(fields.properties) do
            properties[name] = def
        end
        for name, def in pairs(more or {}) do
            properties[name] = def
        end
        branch["if"] = {properties = {policy = {enum = {policy}}}, required = {"policy"}}
        branch["then"] = {properties = properties, required = fields.required}
        branch["else"] = policy ~= "redis-sentinel" and {} or nil
        branch = branch["else"]
    end
    return schema
end

return M
