-- APISIX' name for dpproxy.plugin.consumer.
local consumer = require("dpproxy.plugin.consumer")

local str_find, str_match = string.find, string.match
local type, ipairs = type, ipairs

local M = {version = 0.3}

M.attach_consumer = consumer.attach
M.get_anonymous_consumer = consumer.anonymous

-- -> {nodes =, len =, conf_version =} | nil when no consumer has this plugin
function M.plugin(plugin_name)
    local conf = consumer.conf(plugin_name)
    if conf.len == 0 then
        return nil
    end
    return conf
end
M.consumers_conf = M.plugin

-- -> value of key_attr -> consumer
function M.consumers_kv(plugin_name, _, key_attr)
    return consumer.of(plugin_name, key_attr)
end

-- -> consumer, consumer_conf, err
function M.find_consumer(plugin_name, key_attr, key_value)
    return consumer.find(plugin_name, key_attr, key_value)
end

local function is_credential(item)
    return type(item) == "table" and type(item.key) == "string" and str_find(item.key, "/credentials/", 1, true) ~= nil
end

function M.filter_consumers_list(list)
    local consumers = {}
    for _, item in ipairs(list) do
        if not is_credential(item) then
            consumers[#consumers + 1] = item
        end
    end
    return consumers
end

function M.get_consumer_key_from_credential_key(key)
    return "/consumers/" .. (str_match(key, "/consumers/([^/]+)") or "")
end

-- All consumers, without credentials, and their version.
function M.consumers()
    local store = require("dpproxy.config.store")
    return M.filter_consumers_list(store.list("consumers")), store.version("consumers")
end

return M
