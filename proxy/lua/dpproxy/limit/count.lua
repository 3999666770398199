-- Counting requests in a window, in a shared dictionary: `fixed` (begins with the first request) and `sliding` (the previous
-- window counts in proportion to what is left of it).
--
-- Clocks: the dictionary expires entries by the wall clock. When that goes back, an entry would outlive its window; its time to
-- live then exceeds the window, which is how `fixed` notices and begins anew. `sliding` is given a clock that never goes back.
local floor, ceil = math.floor, math.ceil

local M = {}

-- dict: a shared dictionary (incr, ttl, set). -> allowed, remaining, reset in seconds | nil, err
-- A cost of 0 only looks.
function M.fixed(dict, key, limit, window, cost)
    local count, err = dict:incr(key, cost, 0, window)
    if not count then
        return nil, err
    end
    local reset
    if count == cost then
        reset = window
    else
        reset, err = dict:ttl(key)
        if not reset then
            if err ~= "not found" then
                return nil, err
            end
            reset = 0       -- expired in this very moment
        end
    end
    if reset > window then
        local ok
        ok, err = dict:set(key, cost, window)
        if not ok then
            return nil, err
        end
        count, reset = cost, window
    end
    if count > limit then
        return false, 0, reset
    end
    return true, limit - count, reset
end

local function two_decimals_up(seconds)
    return ceil(seconds * 100) / 100
end

-- now: seconds of a clock that never goes back and that all workers share.
function M.sliding(dict, key, limit, window, cost, now)
    local id = floor(now / window)
    local left = window - now % window
    local current_key = key .. "." .. id
    local last = dict:get(key .. "." .. (id - 1)) or 0
    if last > limit then
        last = limit
    end
    local current = dict:get(current_key) or 0
    local rate = last / window
    if current >= limit or current + rate * left >= limit then
        if current >= limit or rate == 0 then
            return false, 0, two_decimals_up(left)
        end
        -- When will enough of the previous window have slid out?
        local wait = left - (limit - current) / rate
        return false, 0, two_decimals_up(wait > 0 and wait or 0)
    end
    local count, err = dict:incr(current_key, cost, 0, window * 2)
    if not count then
        return nil, err
    end
    local remaining = floor(limit - count - rate * left)
    return true, remaining > 0 and remaining or 0, two_decimals_up(left)
end

return M
