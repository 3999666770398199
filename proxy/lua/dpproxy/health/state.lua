-- What is known of a target, for all workers, in a shared dictionary: a state and four counters. A success wipes failures and the
-- other way round; a counter that reaches its limit turns the target. Nothing known is healthy. No ngx in here.
--
-- states:    healthy <-> mostly_healthy -> unhealthy <-> mostly_unhealthy -> healthy    ("mostly": counting towards the other
-- side) counters:  one number, added to in one step; twelve bits each, so that no counter runs into the next (limits are at most
-- 254)
local floor = math.floor

local M = {HEALTHY = 1, UNHEALTHY = 2, MOSTLY_HEALTHY = 3, MOSTLY_UNHEALTHY = 4}
local HEALTHY, UNHEALTHY, MOSTLY_HEALTHY, MOSTLY_UNHEALTHY = 1, 2, 3, 4
M.names = {"healthy", "unhealthy", "mostly_healthy", "mostly_unhealthy"}

local FIELD = 4096
local UNIT = {success = 1, http = FIELD, tcp = FIELD ^ 2, timeout = FIELD ^ 3}

local function count_of(counters, kind)
    return floor(counters / UNIT[kind]) % FIELD
end

-- target: {state_key, count_key}
function M.usable(dict, target)
    local state = dict:get(target.state_key)
    return state == nil or state == HEALTHY or state == MOSTLY_HEALTHY
end

-- kind: "success", "http", "tcp", "timeout"; limit 0 turns that counter off. -> true, count when the target has turned
function M.count(dict, target, kind, limit)
    if limit == 0 then
        return false
    end
    local report = kind == "success" and HEALTHY or UNHEALTHY
    local state = dict:get(target.state_key) or HEALTHY
    if state == report then
        return false
    end
    local counters = dict:incr(target.count_key, UNIT[kind], 0)
    if not counters then
        return false -- no memory: the dictionary is too small
    end
    local successes = counters % FIELD
    if report == HEALTHY and counters > successes then
        dict:set(target.count_key, successes)
    elseif report == UNHEALTHY and successes > 0 then
        dict:set(target.count_key, counters - successes)
    end
    local count = count_of(counters, kind)
    local new = state
    if count >= limit then
        new = report
    elseif state == HEALTHY then
        new = MOSTLY_HEALTHY
    elseif state == UNHEALTHY then
        new = MOSTLY_UNHEALTHY
    end
    if new ~= state then
        dict:set(target.state_key, new)
    end
    local was = state == HEALTHY or state == MOSTLY_HEALTHY
    local is = new == HEALTHY or new == MOSTLY_HEALTHY
    return was ~= is, count
end

-- -> state's name, {success, http_failure, tcp_failure, timeout_failure}
function M.describe(dict, target)
    local counters = dict:get(target.count_key) or 0
    return M.names[dict:get(target.state_key) or HEALTHY], {
        success = count_of(counters, "success"), http_failure = count_of(counters, "http"),
        tcp_failure = count_of(counters, "tcp"), timeout_failure = count_of(counters, "timeout"),
    }
end

function M.forget(dict, target)
    dict:delete(target.state_key)
    dict:delete(target.count_key)
end

return M
