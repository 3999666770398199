-- A bounded cache without book-keeping: two generations of a table. What is used moves to the young one; when that is full, it
-- becomes the old one and the old one goes. A hit allocates nothing. No ngx in here.
local M = {}
local mt = {__index = M}

-- limit: entries in the young generation; so the cache holds at most twice as many
function M.new(limit)
    return setmetatable({limit = limit, count = 0, young = {}, old = {}}, mt)
end

function M:set(key, value)
    if self.young[key] == nil then
        if self.count >= self.limit then
            self.old, self.young, self.count = self.young, {}, 0
        end
        self.count = self.count + 1
    end
    self.young[key] = value
end

function M:get(key)
    local value = self.young[key]
    if value ~= nil then
        return value
    end
    value = self.old[key]
    if value ~= nil then
        self:set(key, value)
    end
    return value
end

function M:delete(key)
    self.old[key] = nil
    if self.young[key] ~= nil then
        self.young[key] = nil
        self.count = self.count - 1
    end
end

return M
