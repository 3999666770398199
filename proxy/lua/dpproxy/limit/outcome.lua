-- What the three limiters say alike: how a request ends that is over the limit, or that could not be counted.
local M = {}

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
