-- A shared dictionary as ngx.shared has it, for tests of what happens when memory is full or a worker dies: a size, and a hook
-- before each operation, where a test kills who calls. Refuses calls that may evict others.
local M = {}

local dict_mt = {}
dict_mt.__index = dict_mt

-- opts: {clock = fn, capacity = bytes | nil, before = fn(operation, key) | nil}
function M.new(opts)
    opts = opts or {}
    return setmetatable({
        data = {}, clock = opts.clock or function() return 0 end, limit = opts.capacity, before = opts.before, used = 0,
        calls = 0,
    }, dict_mt)
end

local function size_of(key, value)
    return type(value) == "number" and 0 or #key + #value
end

local function live(self, key)
    local entry = self.data[key]
    if entry and entry.expires and entry.expires <= self.clock() then
        self.used = self.used - size_of(key, entry.value)
        self.data[key] = nil
        return nil
    end
    return entry
end

local function step(self, operation, key)
    self.calls = self.calls + 1
    if self.before then
        self.before(operation, key)
    end
end

-- As nginx does it: the old value goes before the new one finds no room.
local function store(self, key, value, ttl)
    local old = live(self, key)
    if old then
        self.used = self.used - size_of(key, old.value)
        self.data[key] = nil
    end
    if value == nil then
        return true
    end
    local size = size_of(key, value)
    if size > 0 and ((self.limit and self.used + size > self.limit) or self.full) then
        return nil, "no memory"
    end
    self.used = self.used + size
    self.data[key] = {value = value, expires = ttl and ttl > 0 and self.clock() + ttl or nil}
    return true
end

function dict_mt:get(key)
    step(self, "get", key)
    local entry = live(self, key)
    return entry and entry.value
end

function dict_mt:set(key, value, ttl)
    step(self, "set", key)
    assert(type(value) ~= "string", "set() may evict others")
    return store(self, key, value, ttl)
end

function dict_mt:safe_set(key, value, ttl)
    step(self, "safe_set", key)
    return store(self, key, value, ttl)
end

function dict_mt:add(key, value, ttl)
    step(self, "add", key)
    assert(type(value) == "number", "add() may evict others")
    if live(self, key) then
        return false, "exists"
    end
    return store(self, key, value, ttl)
end

function dict_mt:safe_add(key, value, ttl)
    step(self, "safe_add", key)
    if live(self, key) then
        return false, "exists"
    end
    return store(self, key, value, ttl)
end

function dict_mt:incr(key, by, init)
    step(self, "incr", key)
    local entry = live(self, key)
    if not entry and init == nil then
        return nil, "not found"
    end
    local value = (entry and entry.value or init) + by
    store(self, key, value)
    return value
end

function dict_mt:delete(key)
    step(self, "delete", key)
    return store(self, key, nil)
end

return M
