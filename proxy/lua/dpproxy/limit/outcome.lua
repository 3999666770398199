-- What the three limiters say alike: which policies there are, and how a request ends that is over the limit.
local M = {}

-- -> true | false, err
function M.check_policy(conf)
    if conf.policy ~= "local" then
        return false, "policy \"" .. conf.policy .. "\" is not supported by dpproxy: counters are local to the node"
    end
    return true
end

-- -> code, body
function M.rejected(conf)
    if conf.rejected_msg then
        return conf.rejected_code, {error_msg = conf.rejected_msg}
    end
    return conf.rejected_code
end

-- The limiter itself failed -> code, body; nothing when the request goes on all the same
function M.failed(conf, body)
    if conf.allow_degradation then
        return
    end
    return 500, body
end

return M
