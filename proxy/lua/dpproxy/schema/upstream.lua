-- What an upstream may be: its schema, and what a schema cannot say.
local defs = require("dpproxy.schema.defs")
local health_checks = require("dpproxy.schema.checks")
local ip = require("dpproxy.base.ip")
local json = require("dpproxy.base.json")
local validator = require("dpproxy.schema.validator")

local ipairs, pairs, type, tonumber = ipairs, pairs, type, tonumber
local byte, match = string.byte, string.match

local M = {}

local weight = {type = "integer", minimum = 0}

local nodes = {
    anyOf = {
        {type = "object", patternProperties = {[".*"] = weight}},
        {
            type = "array",
            items = {
                type = "object",
                properties = {
                    host = defs.host, port = defs.port, weight = weight,
                    priority = {type = "integer", default = 0},
                    metadata = {type = "object"},
                },
                required = {"host", "weight"},
            },
        },
    },
}

M.schema = defs.described({
    properties = {
        nodes = nodes,
        retries = {type = "integer", minimum = 0},
        retry_timeout = {type = "number", minimum = 0},
        timeout = defs.timeout,
        tls = {
            type = "object",
            properties = {
                client_cert_id = defs.id,
                client_cert = defs.certificate,
                client_key = defs.private_key,
                verify = {type = "boolean", default = false},
            },
            dependencies = {
                client_cert = {required = {"client_key"}},
                client_key = {required = {"client_cert"}},
                client_cert_id = {["not"] = {required = {"client_cert", "client_key"}}},
            },
        },
        keepalive_pool = {
            type = "object",
            properties = {
                size = {type = "integer", minimum = 1, default = 320},
                idle_timeout = {type = "number", minimum = 0, default = 60},
                requests = {type = "integer", minimum = 1, default = 1000},
            },
        },
        type = {type = "string", default = "roundrobin"},
        checks = health_checks,
        hash_on = {type = "string", enum = {"vars", "header", "cookie", "consumer", "vars_combinations"}, default = "vars"},
        key = {type = "string"},
        scheme = {enum = {"grpc", "grpcs", "http", "https", "tcp", "tls", "udp", "kafka"}, default = "http"},
        discovery_type = {type = "string"},
        discovery_args = {type = "object", properties = {namespace_id = {type = "string"}, group_name = {type = "string"}}},
        pass_host = {type = "string", enum = {"pass", "node", "rewrite"}, default = "pass"},
        upstream_host = defs.host,
        service_name = {type = "string", minLength = 1, maxLength = 256},
    },
    -- Nodes beside a service's name are what a dpagent has found.
    oneOf = {
        {required = {"nodes"}},
        {required = {"service_name", "discovery_type"}, ["not"] = {required = {"nodes"}}},
    },
})

-- What a consistent hash may be over, by hash_on. (`A-z` is what APISIX has.)
local header_name = {type = "string", pattern = "^[a-zA-Z0-9-_]+$"}
local hash_keys = {
    vars = {
        type = "string",
        pattern = "^((uri|server_name|server_addr|request_uri|remote_port|remote_addr|query_string|host|hostname" ..
            "|mqtt_client_id)|arg_[0-9a-zA-z_-]+)$",
    },
    header = header_name,
    cookie = header_name,
    vars_combinations = {type = "string"},
}
M.hash_keys = hash_keys

-- "host:port" -> the port, a number | nil. An IPv6 address has brackets, or no port.
local function port_of(address)
    local port = match(address, "^%[.*%]:(%d+)$") or match(address, "^[^:]*:(%d+)$")
    return tonumber(port)
end

local function check_nodes(list)
    if type(list) ~= "table" then
        return true
    elseif not json.is_array(list) then
        for address in pairs(list) do
            local port = type(address) == "string" and port_of(address)
            if port and (port < 1 or port > 65535) then
                return false, "invalid port " .. port
            end
        end
        return true
    end
    for _, node in ipairs(list) do
        if byte(node.host) ~= 91 and ip.parse_v6(node.host) then
            node.host = "[" .. node.host .. "]"
        end
    end
    return true
end

-- For an upstream that its schema has passed. opts.check_certificate(cert, key) -> ok, err
function M.check(upstream, opts)
    local ok, err = check_nodes(upstream.nodes)
    if not ok then
        return false, err
    end
    if upstream.pass_host == "rewrite" and (upstream.upstream_host == nil or upstream.upstream_host == "") then
        return false, "`upstream_host` can't be empty when `pass_host` is `rewrite`"
    end
    local tls = upstream.tls
    if tls and tls.client_cert and opts and opts.check_certificate then
        ok, err = opts.check_certificate(tls.client_cert, tls.client_key)
        if not ok then
            return false, err
        end
    end
    if upstream.type ~= "chash" or upstream.hash_on == "consumer" then
        return true
    elseif not upstream.key then
        return false, "missing key"
    end
    local schema = hash_keys[upstream.hash_on]
    if not schema then
        return false, "type is chash, err: invalid hash_on type"
    end
    return validator.check(schema, upstream.key)
end

return M
