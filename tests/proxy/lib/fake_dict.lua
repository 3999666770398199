-- A shared dictionary of nginx for unit tests: the same calls and answers, with a clock that the test moves.
local M = {}
M.__index = M

-- clock: function -> seconds (the wall clock, as in nginx)
function M.new(clock)
    return setmetatable({entries = {}, clock = clock, writes = 0}, M)
end

local function live(self, key)
    local entry = self.entries[key]
    if entry and (not entry.expires or entry.expires > self.clock()) then
        return entry
    end
end

function M:get(key)
    local entry = live(self, key)
    if entry then
        return entry.value, entry.flags
    end
end

function M:get_stale(key)
    local entry = self.entries[key]
    if entry then
        return entry.value, entry.flags, live(self, key) == nil
    end
end

function M:set(key, value, ttl, flags)
    self.writes = self.writes + 1
    if self.full then
        return false, "no memory", false
    end
    if value == nil then
        self.entries[key] = nil
    else
        self.entries[key] = {value = value, expires = ttl and ttl > 0 and self.clock() + ttl or nil, flags = flags}
    end
    return true, nil, false
end

function M:safe_set(...)
    return self:set(...)
end

function M:safe_add(...)
    return self:add(...)
end

function M:add(key, value, ttl, flags)
    if live(self, key) then
        return false, "exists", false
    end
    return self:set(key, value, ttl, flags)
end

function M:replace(key, value, ttl, flags)
    if not live(self, key) then
        return false, "not found", false
    end
    return self:set(key, value, ttl, flags)
end

function M:delete(key)
    self.entries[key] = nil
end

function M:incr(key, delta, init, init_ttl)
    self.writes = self.writes + 1
    local entry = live(self, key)
    if self.full and not entry then
        return nil, "no memory", false
    end
    if not entry then
        if init == nil then
            return nil, "not found"
        end
        entry = {value = init, expires = init_ttl and init_ttl > 0 and self.clock() + init_ttl or nil}
        self.entries[key] = entry
    end
    if type(entry.value) ~= "number" then
        return nil, "not a number"
    end
    entry.value = entry.value + delta
    return entry.value, nil, false
end

function M:ttl(key)
    local entry = live(self, key)
    if not entry then
        return nil, "not found"
    end
    return entry.expires and entry.expires - self.clock() or 0
end

function M:expire(key, ttl)
    local entry = live(self, key)
    if not entry then
        return nil, "not found"
    end
    entry.expires = ttl > 0 and self.clock() + ttl or nil
    return true
end

function M:get_keys(max)
    local keys = {}
    for key in pairs(self.entries) do
        if live(self, key) then
            keys[#keys + 1] = key
            if max and max > 0 and #keys == max then
                break
            end
        end
    end
    return keys
end

function M:flush_all()
    self.entries = {}
end

function M:flush_expired()
    local n = 0
    for key in pairs(self.entries) do
        if not live(self, key) then
            self.entries[key] = nil
            n = n + 1
        end
    end
    return n
end

function M:lpush(key, value)
    local entry = live(self, key)
    if self.full then
        return nil, "no memory"
    elseif not entry then
        entry = {value = {}}
        self.entries[key] = entry
    end
    table.insert(entry.value, 1, value)
    return #entry.value
end

function M:lpop(key)
    local entry = live(self, key)
    return entry and table.remove(entry.value, 1)
end

function M:capacity()
    return 1048576
end

function M:free_space()
    return 524288
end

return M
