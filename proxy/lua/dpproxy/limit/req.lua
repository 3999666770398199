-- A leaky bucket: requests per second, with room for a burst. One number per key is kept in the shared dictionary: the moment at
-- which the bucket will be empty, by a clock that never goes back.
--
-- Reading and writing are two steps, so workers that look in the same instant may let a request too many through; no lock is
-- worth preventing that.
local ceil = math.ceil

local M = {}

-- now: seconds. -> delay in seconds | nil, "rejected" | nil, error text
function M.incoming(dict, key, rate, burst, now)
    local level = 0
    local empty_at = dict:get(key)
    if empty_at then
        level = (empty_at - now) * rate + 1
        -- More than a bucket can hold was written by another clock.
        if level < 0 or level > burst + 2 then
            level = 0
        end
        if level > burst then
            return nil, "rejected"
        end
    end
    local ok, err = dict:set(key, now + level / rate, ceil((burst + 1) / rate) + 1)
    if not ok then
        return nil, err
    end
    return level / rate
end

return M
