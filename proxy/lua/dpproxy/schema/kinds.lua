-- The schemas of all kinds of objects, by kind; `credentials` and `decorations` live under their consumer or service, and
-- a secret's schema is its manager's.
local defs = require("dpproxy.schema.defs")
local upstream = require("dpproxy.schema.upstream").schema

local M = {upstreams = upstream}

-- at most one of two properties
local function at_most_one(a, b)
    return {
        oneOf = {
            {["not"] = {anyOf = {{required = {a}}, {required = {b}}}}},
            {required = {a}},
            {required = {b}},
        },
    }
end

-- What a route must have beside its path. The order is that of APISIX' error message.
local route_needs = {}
for _, names in ipairs({{"plugins", "upstream", "upstream_id", "service_id"}, {"script"}}) do
    for _, path in ipairs({"uri", "uris"}) do
        for _, name in ipairs(names) do
            route_needs[#route_needs + 1] = {required = {name, path}}
        end
    end
end

M.routes = defs.described({
    properties = {
        uri = {type = "string", minLength = 1, maxLength = 4096},
        uris = {type = "array", items = {type = "string"}, minItems = 1, uniqueItems = true},
        priority = {type = "integer", default = 0},
        methods = {type = "array", items = defs.method, uniqueItems = true},
        host = defs.host,
        hosts = defs.hosts,
        remote_addr = defs.address,
        remote_addrs = {type = "array", items = defs.address, minItems = 1, uniqueItems = true},
        timeout = defs.timeout,
        vars = {type = "array"},
        filter_func = {type = "string", minLength = 10, pattern = "^function"},
        script = defs.script,
        script_id = defs.id,
        plugins = defs.plugins,
        plugin_config_id = defs.id,
        upstream = upstream,
        service_id = defs.id,
        upstream_id = defs.id,
        enable_websocket = {type = "boolean"},
        status = defs.switch,
    },
    allOf = {
        {oneOf = {{required = {"uri"}}, {required = {"uris"}}}},
        at_most_one("host", "hosts"),
        at_most_one("remote_addr", "remote_addrs"),
    },
    anyOf = route_needs,
    ["not"] = {anyOf = {{required = {"script", "plugins"}}, {required = {"script", "plugin_config_id"}}}},
})

M.services = defs.described({
    properties = {
        plugins = defs.plugins,
        upstream = upstream,
        upstream_id = defs.id,
        script = defs.script,
        enable_websocket = {type = "boolean"},
        hosts = defs.hosts,
    },
})

local words = {type = "array", items = {type = "string", minLength = 1}}
M.decorations = defs.described({
    properties = {
        service_id = defs.id,
        field_path = {type = "string", pattern = "^[A-Za-z_][A-Za-z0-9_]*(\\.[A-Za-z_][A-Za-z0-9_]*)*$"},
        add_value = {type = "number", minimum = 0, default = 1},
        add_arguments = words,
        mul_value = {type = "number", minimum = 0, default = 1},
        mul_arguments = words,
    },
    required = {"field_path"},
})

M.consumers = defs.object({
    properties = {
        username = {type = "string", minLength = 1, maxLength = 256, pattern = "^[a-zA-Z0-9_\\-]+$"},
        desc = defs.desc,
        labels = defs.labels,
        group_id = defs.id,
        plugins = defs.plugins,
    },
    required = {"username"},
})

M.credentials = defs.described({
    properties = {
        id = {
            oneOf = {
                defs.id,
                {type = "string", minLength = 15, maxLength = 128, pattern = "^[a-zA-Z0-9-_]+/credentials/[a-zA-Z0-9-_.]+$"},
            },
        },
        plugins = {type = "object", maxProperties = 1},
    },
})

M.consumer_groups = defs.described({properties = {plugins = defs.plugins}, required = {"id", "plugins"}})

M.plugin_configs = defs.described({
    properties = {name = {type = "string"}, plugins = defs.plugins},
    required = {"id", "plugins"},
})

M.global_rules = defs.object({properties = {plugins = defs.plugins}, required = {"id", "plugins"}})

M.plugin_metadata = {type = "object"}

M.plugins = {
    type = "array",
    items = {
        type = "object",
        properties = {name = {type = "string", minLength = 1}, stream = {type = "boolean"}},
        required = {"name"},
    },
}

local sni = {type = "string", pattern = defs.host_pattern}
M.ssls = defs.object({
    properties = {
        desc = defs.desc,
        labels = defs.labels,
        type = {type = "string", enum = {"server", "client"}, default = "server"},
        cert = defs.certificate,
        key = defs.private_key,
        certs = {type = "array", items = defs.certificate},
        keys = {type = "array", items = defs.private_key},
        sni = sni,
        snis = {type = "array", items = sni, minItems = 1},
        client = {
            type = "object",
            properties = {
                ca = defs.certificate,
                depth = {type = "integer", minimum = 0, default = 1},
                skip_mtls_uri_regex = {type = "array", minItems = 1, uniqueItems = true, items = {type = "string"}},
            },
            required = {"ca"},
        },
        status = defs.switch,
        ssl_protocols = {type = "array", maxItems = 3, uniqueItems = true, items = {enum = {"TLSv1.1", "TLSv1.2", "TLSv1.3"}}},
    },
    ["if"] = {properties = {type = {enum = {"server"}}}},
    ["then"] = {oneOf = {{required = {"sni", "key", "cert"}}, {required = {"snis", "key", "cert"}}}},
    ["else"] = {required = {"key", "cert"}},
})

M.protos = defs.described({
    properties = {content = {type = "string", minLength = 1, maxLength = 1024 * 1024}},
    required = {"content"},
})

M.stream_routes = defs.described({
    properties = {
        remote_addr = defs.address,
        server_addr = defs.address,
        server_port = defs.port,
        sni = sni,
        upstream = upstream,
        upstream_id = defs.id,
        service_id = defs.id,
        plugins = defs.plugins,
        protocol = {
            type = "object",
            properties = {
                name = {type = "string"},
                superior_id = defs.id,
                conf = {type = "object"},
                logger = {
                    type = "array",
                    items = {
                        properties = {name = {type = "string"}, filter = {type = "array"}, conf = {type = "object"}},
                        dependencies = {name = {"conf"}},
                        additionalProperties = false,
                    },
                },
            },
            required = {"name"},
        },
    },
})

-- By manager. A secret's object has the fields that describe any object besides.
local text = {type = "string"}
M.secrets = {
    vault = {
        type = "object",
        properties = {uri = defs.uri, prefix = text, token = text, namespace = text},
        required = {"uri", "prefix", "token"},
    },
    aws = {
        type = "object",
        properties = {
            access_key_id = text, secret_access_key = text, session_token = text,
            region = {type = "string", default = "us-east-1"},
            endpoint_url = defs.uri,
        },
        required = {"access_key_id", "secret_access_key"},
    },
    gcp = {
        type = "object",
        properties = {
            auth_config = {
                type = "object",
                properties = {
                    client_email = text, private_key = text, project_id = text,
                    token_uri = {type = "string", default = "https://oauth2.googleapis.com/token"},
                    scope = {type = "array", items = text, default = {"https://www.googleapis.com/auth/cloud-platform"}},
                    entries_uri = {type = "string", default = "https://secretmanager.googleapis.com/v1"},
                },
                required = {"client_email", "private_key", "project_id"},
            },
            ssl_verify = {type = "boolean", default = true},
            auth_file = text,
        },
        oneOf = {{required = {"auth_config"}}, {required = {"auth_file"}}},
    },
}

return M
