-- What the auth plugins share: refusing, falling back to an anonymous consumer, and attaching the one that was found.
local auth_utils = require("apisix.utils.auth")
local consumers = require("apisix.consumer")
local core = require("apisix.core")
local schema_def = require("apisix.schema_def")

local M = {}

-- Properties of every auth plugin's route schema.
function M.properties(realm, more)
    more.realm = schema_def.get_realm_schema(realm)
    more.anonymous_consumer = schema_def.anonymous_consumer_schema
    more.hide_credentials = {type = "boolean", default = false}
    return more
end

-- A check_schema function for a plugin whose configuration in a consumer is the credential.
function M.checker(schema, consumer_schema)
    return function(conf, schema_type)
        return core.schema.check(schema_type == core.schema.TYPE_CONSUMER and consumer_schema or schema, conf)
    end
end

-- Why a client is refused. The true reason is for the log (and for multi-auth), the other text for the client.
-- -> nil, nil, message
function M.deny(ctx, reason, message)
    if auth_utils.is_running_under_multi_auth(ctx) then
        return nil, nil, reason
    end
    core.log.warn(reason)
    return nil, nil, message
end

-- scheme: of WWW-Authenticate. -> 401, body
function M.challenge(conf, scheme, message)
    core.response.set_header("WWW-Authenticate", scheme .. ' realm="' .. conf.realm .. '"')
    return 401, {message = message}
end

-- After find(): consumer, consumer_conf | nil, nil, message. -> nothing when somebody is attached | code, body
function M.finish(plugin_name, scheme, conf, ctx, consumer, consumer_conf, message)
    if not consumer then
        if not conf.anonymous_consumer then
            return M.challenge(conf, scheme, message)
        end
        local err
        consumer, consumer_conf, err = consumers.get_anonymous_consumer(conf.anonymous_consumer)
        if not consumer then
            core.log.error(plugin_name, " failed to authenticate the request, code: 401. error: ", err)
            return M.challenge(conf, scheme, "Invalid user authorization")
        end
    end
    consumers.attach_consumer(ctx, consumer, consumer_conf)
end

return M
