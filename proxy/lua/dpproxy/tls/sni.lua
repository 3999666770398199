-- Server name -> SSL object (spec 2.3): the exact name, then a wildcard of one label, then "*". Several for one name: the oldest.
-- No ngx in here.
local find, lower, sub, ipairs = string.find, string.lower, string.sub, ipairs
local insert, remove = table.insert, table.remove

local M = {}
local mt = {__index = M}

function M.new()
    return setmetatable({names = {}, of = {}}, mt)
end

local function clean(name)
    name = lower(name)
    if sub(name, -1) == "." then
        name = sub(name, 1, -2)
    end
    return name
end

-- The names of an SSL object, as they are asked for.
function M.names_of(value)
    local list = {}
    if value.sni then
        list[1] = clean(value.sni)
    end
    for _, name in ipairs(value.snis or {}) do
        list[#list + 1] = clean(name)
    end
    return list
end

local function before(a, b)
    return (a.order or 0) < (b.order or 0)
end

function M:remove(short_key)
    for _, name in ipairs(self.of[short_key] or {}) do
        local list = self.names[name]
        for i = #list, 1, -1 do
            if list[i].short_key == short_key then
                remove(list, i)
            end
        end
        if #list == 0 then
            self.names[name] = nil
        end
    end
    self.of[short_key] = nil
end

-- Objects that are off, or that are clients' certificates, have no name.
function M:upsert(item)
    self:remove(item.short_key)
    local value = item.value
    if value.status == 0 or (value.type or "server") ~= "server" then
        return
    end
    local names = M.names_of(value)
    for _, name in ipairs(names) do
        local list = self.names[name]
        if not list then
            list = {}
            self.names[name] = list
        end
        local at = #list + 1
        while at > 1 and before(item, list[at - 1]) do
            at = at - 1
        end
        insert(list, at, item)
    end
    self.of[item.short_key] = names
end

-- -> item | nil
function M:find(name)
    name = clean(name)
    local list = self.names[name]
    if not list then
        local dot = find(name, ".", 1, true)
        list = dot and self.names["*" .. sub(name, dot)] or self.names["*"]
    end
    return list and list[1]
end

return M
