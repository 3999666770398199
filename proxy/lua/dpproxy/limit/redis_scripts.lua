-- What runs inside Redis, each in one step for all gateways. Clocks: Redis' own, so that those of the gateways need not agree.
-- Redis cuts numbers in replies down to integers: fractions are sent as text.
local M = {}

-- Older servers would not write after TIME otherwise.
local with_clock = [[
if redis.replicate_commands then redis.replicate_commands() end
local time = redis.call('TIME')
local now = tonumber(time[1]) + tonumber(time[2]) / 1000000
]]

local function script(text)
    return {text = text, sha = nil}
end

-- cost, window (s) -> {count, rest of the window (ms)}
M.fixed = script([[
local cost, window = tonumber(ARGV[1]), math.ceil(tonumber(ARGV[2]) * 1000)
local left = redis.call('PTTL', KEYS[1])
if left < 0 then
    redis.call('SET', KEYS[1], cost, 'PX', window)
    return {cost, window}
end
return {redis.call('INCRBY', KEYS[1], cost), left}
]])

-- limit, cost, window (s) -> {1 | 0, remaining, reset (s, text)}: as dpproxy.limit.count's sliding
M.sliding = script(with_clock .. [[
local limit, cost, window = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local id = math.floor(now / window)
local left = window - now % window
local known = redis.call('HMGET', KEYS[1], 'id', 'current', 'last')
local current, last = 0, 0
if tonumber(known[1]) == id then
    current, last = tonumber(known[2]), tonumber(known[3])
elseif tonumber(known[1]) == id - 1 then
    last = tonumber(known[2])
end
local rate = math.min(last, limit) / window
if current >= limit or current + rate * left >= limit then
    local wait = left
    if current < limit and rate > 0 then
        wait = math.max(0, left - (limit - current) / rate)
    end
    return {0, 0, string.format('%.3f', wait)}
end
current = current + cost
redis.call('HMSET', KEYS[1], 'id', id, 'current', current, 'last', last)
redis.call('PEXPIRE', KEYS[1], math.ceil(window * 2000))
return {1, math.max(0, math.floor(limit - current - rate * left)), string.format('%.3f', left)}
]])

-- rate, burst -> delay (s, text) | '-1' over the burst: as dpproxy.limit.req
M.incoming = script(with_clock .. [[
local rate, burst = tonumber(ARGV[1]), tonumber(ARGV[2])
local level = 0
local empty_at = tonumber(redis.call('GET', KEYS[1]) or nil)
if empty_at then
    level = (empty_at - now) * rate + 1
    if level < 0 or level > burst + 2 then
        level = 0
    end
    if level > burst then
        return '-1'
    end
end
redis.call('SET', KEYS[1], string.format('%.6f', now + level / rate), 'PX', math.ceil((burst + 1) / rate * 1000) + 1000)
return string.format('%.6f', level / rate)
]])

-- limit, time to live (s), id -> place of the request | -1 there is none. A request that nobody takes out goes by itself.
M.enter = script(with_clock .. [[
local limit, ttl = tonumber(ARGV[1]), tonumber(ARGV[2])
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', string.format('%.6f', now))
local count = redis.call('ZCARD', KEYS[1])
if count >= limit then
    return -1
end
redis.call('ZADD', KEYS[1], string.format('%.6f', now + ttl), ARGV[3])
redis.call('EXPIRE', KEYS[1], ttl + 1)
return count + 1
]])

-- id
M.leave = script([[
return redis.call('ZREM', KEYS[1], ARGV[1])
]])

-- Digests, by which Redis knows scripts. digest(text) -> hexadecimal SHA-1
function M.prepare(digest)
    for _, one in pairs(M) do
        if type(one) == "table" then
            one.sha = digest(one.text)
        end
    end
end

return M
