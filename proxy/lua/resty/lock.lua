-- The API of lua-resty-lock: a lock by name in a shared dictionary, for requests that may wait.
local ngx = ngx
local min = math.min
local setmetatable, tostring, type = setmetatable, tostring, type

local M = {}
local mt = {__index = M}

-- opts: exptime (30 s), timeout (5 s), step (0.001 s), ratio (2), max_step (0.5 s). A lock is given up after exptime.
function M.new(_, dict_name, opts)
    local dict = ngx.shared[dict_name]
    if not dict then
        return nil, "dictionary not found"
    end
    opts = opts or {}
    local exptime, timeout = opts.exptime or 30, opts.timeout or 5
    return setmetatable({
        dict = dict, exptime = exptime, timeout = min(timeout, exptime), step = opts.step or 0.001, ratio = opts.ratio or 2,
        max_step = opts.max_step or 0.5,
    }, mt)
end

-- -> seconds waited | nil, err
function M:lock(key)
    if not key then
        return nil, "nil key"
    elseif self.key then
        return nil, "locked"
    end
    local name = tostring(key)
    local step, waited = self.step, 0
    while true do
        local ok, err = self.dict:add(name, true, self.exptime)
        if ok then
            self.key = name
            return waited
        elseif err ~= "exists" then
            return nil, err
        elseif waited >= self.timeout then
            return nil, "timeout"
        end
        step = min(step, self.timeout - waited)
        ngx.sleep(step)
        waited = waited + step
        step = min(step * self.ratio, self.max_step)
    end
end

function M:unlock()
    local key = self.key
    if not key then
        return nil, "unlocked"
    end
    self.key = nil
    local ok, err = self.dict:delete(key)
    if ok == false then
        return nil, err
    end
    return 1
end

function M:expire(seconds)
    if not self.key then
        return nil, "unlocked"
    elseif seconds ~= nil and type(seconds) ~= "number" then
        return nil, "bad time"
    end
    return self.dict:replace(self.key, true, seconds or self.exptime)
end

return M
