-- Requests in flight. The total of a key is one number in the shared dictionary, changed with atomic increments; beside it
-- stands what each process contributed, so that the share of a worker that died can be taken back.
local find, floor = string.find, math.floor
local tonumber = tonumber

local M = {}

local function own_key(pid, key)
    return "p" .. pid .. ":" .. key
end

-- -> place of the request (1 = alone) | nil, "rejected" | nil, error text
function M.enter(dict, key, limit, burst, pid)
    local count, err = dict:incr(key, 1, 0)
    if not count then
        return nil, err
    end
    if count > limit + burst then
        dict:incr(key, -1)
        return nil, "rejected"
    end
    dict:incr(own_key(pid, key), 1, 0)
    return count
end

-- The delay of the request at this place, when one request takes `unit` seconds.
function M.delay(place, limit, unit)
    if place <= limit then
        return 0
    end
    return unit * floor((place - 1) / limit)
end

local function take_back(dict, key, n)
    local count = dict:incr(key, -n)
    if count and count <= 0 then
        -- Keys come from clients (addresses): none may stay behind. A request that comes between these two lines is lost
        -- from the count, hence the second look.
        if count < 0 or dict:get(key) == 0 then
            dict:delete(key)
        end
    end
    return count
end

function M.leave(dict, key, pid)
    take_back(dict, own_key(pid, key), 1)
    return take_back(dict, key, 1)
end

-- Takes back what processes that no longer live left behind. Called when a worker starts.
function M.recover(dict, alive)
    local recovered = 0
    for _, name in ipairs(dict:get_keys(0)) do
        local from, to, pid = find(name, "^p(%d+):")
        if from and not alive(tonumber(pid)) then
            local n = dict:get(name)
            dict:delete(name)
            if n and n > 0 then
                take_back(dict, name:sub(to + 1), n)
                recovered = recovered + n
            end
        end
    end
    return recovered
end

return M
