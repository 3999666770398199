-- dpproxy.config.store for unit tests: the same calls over tables that the test fills.
local M = {}
M.__index = M

-- prefix of keys: /apisix
function M.new()
    local self = {kinds = {}, revision = 0, orders = 0, listeners = {}}
    -- called as functions, like the module
    for _, name in ipairs({"get", "list", "version", "subscribe"}) do
        self[name] = function(...)
            return M[name](self, ...)
        end
    end
    return setmetatable(self, {__index = {put = M.put, delete = M.delete}})
end

local function kind_of(self, kind)
    self.kinds[kind] = self.kinds[kind] or {items = {}, version = 0}
    return self.kinds[kind]
end

local function tell(self, kind, new, old, short_key)
    for _, fn in ipairs(self.listeners[kind] or {}) do
        fn(new, old, short_key)
    end
end

function M:put(kind, short_key, value)
    local k = kind_of(self, kind)
    local old = k.items[short_key]
    self.revision = self.revision + 1
    if not old then
        self.orders = self.orders + 1
    end
    value.id = short_key:match("[^/]+$")
    local item = {
        key = "/apisix/" .. kind .. "/" .. short_key, value = value, kind = kind, short_key = short_key,
        createdIndex = old and old.createdIndex or self.revision, modifiedIndex = self.revision,
        order = old and old.order or self.orders,
    }
    k.items[short_key] = item
    k.version = k.version + 1
    tell(self, kind, item, old, short_key)
    return item
end

function M:delete(kind, short_key)
    local k = kind_of(self, kind)
    local old = k.items[short_key]
    k.items[short_key] = nil
    k.version = k.version + 1
    tell(self, kind, nil, old, short_key)
end

function M:get(kind, short_key)
    return kind_of(self, kind).items[short_key]
end

function M:list(kind)
    local k, list = kind_of(self, kind), {}
    for _, item in pairs(k.items) do
        list[#list + 1] = item
    end
    table.sort(list, function(a, b) return a.order < b.order end)
    return list, k.version
end

function M:version(kind)
    return kind_of(self, kind).version
end

function M:subscribe(kind, fn)
    self.listeners[kind] = self.listeners[kind] or {}
    table.insert(self.listeners[kind], fn)
end

return M
