-- The schema of an upstream's health checks.
local defs = require("dpproxy.schema.defs")

local function statuses(default)
    return {
        type = "array", minItems = 1, uniqueItems = true, default = default,
        items = {type = "integer", minimum = 200, maximum = 599},
    }
end

local function counter(minimum, default)
    return {type = "integer", minimum = minimum, maximum = 254, default = default}
end

local probe = {type = "string", enum = {"http", "https", "tcp"}, default = "http"}
local interval = {type = "integer", minimum = 1, default = 1}

local active = {
    type = "object",
    properties = {
        type = probe,
        timeout = {type = "number", default = 1},
        concurrency = {type = "integer", default = 10},
        host = defs.host,
        port = defs.port,
        http_method = {type = "string", enum = defs.methods, default = "GET"},
        http_path = {type = "string", default = "/"},
        http_req_body = {type = "string", default = ""},
        https_verify_certificate = {type = "boolean", default = true},
        healthy = {
            type = "object",
            properties = {interval = interval, http_statuses = statuses({200, 302}), successes = counter(1, 2)},
        },
        unhealthy = {
            type = "object",
            properties = {
                interval = interval,
                http_statuses = statuses({429, 404, 500, 501, 502, 503, 504, 505}),
                http_failures = counter(1, 5),
                tcp_failures = counter(1, 2),
                timeouts = counter(1, 3),
            },
        },
        req_headers = {type = "array", minItems = 1, items = {type = "string"}},
    },
}

local passive = {
    type = "object",
    properties = {
        type = probe,
        healthy = {
            type = "object",
            properties = {
                http_statuses = statuses({
                    200, 201, 202, 203, 204, 205, 206, 207, 208, 226, 300, 301, 302, 303, 304, 305, 306, 307, 308,
                }),
                successes = counter(0, 5),
            },
        },
        unhealthy = {
            type = "object",
            properties = {
                http_statuses = statuses({429, 500, 503}),
                tcp_failures = counter(0, 2),
                timeouts = counter(0, 7),
                http_failures = counter(0, 5),
            },
        },
    },
}

return {
    type = "object",
    properties = {active = active, passive = passive},
    -- passive checks only take nodes out; somebody has to bring them back
    anyOf = {{required = {"active"}}, {required = {"active", "passive"}}},
}
