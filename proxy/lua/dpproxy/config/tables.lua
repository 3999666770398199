-- A worker's own tables: decoded objects by kind, in order, with versions and subscribers. Takes transactions
-- (dpproxy.config.shared) whole:
-- first all tables are changed, then subscribers hear of it, so that nobody ever sees half of a revision. No ngx in here.
local kinds = require("dpproxy.config.kinds")
local model = require("dpproxy.config.model")

local floor, xpcall, insert, remove = math.floor, xpcall, table.insert, table.remove

local M = {}

local tables_mt = {}
tables_mt.__index = tables_mt

-- opts: {check = fn, prefix = "/apisix", log = fn(level, message)}
function M.new(opts)
    local self = setmetatable({check = opts.check, prefix = opts.prefix, log = opts.log, kinds = {}, rejected = {},
        subscribers = {}, changes = 0}, tables_mt)
    for _, kind in ipairs(kinds.list) do
        self.kinds[kind] = {items = {}, list = {}, version = 0}
        self.subscribers[kind] = {}
    end
    return self
end

-- Where an item with that order is, or would be, in the list.
local function place(list, order)
    local low, high = 1, #list + 1
    while low < high do
        local middle = floor((low + high) / 2)
        if list[middle].order < order then
            low = middle + 1
        else
            high = middle
        end
    end
    return low
end

local function set_item(of_kind, short_key, item)
    local old = of_kind.items[short_key]
    local list = of_kind.list
    if old then
        local at = place(list, old.order)
        if item and item.order == old.order then
            list[at] = item
        else
            remove(list, at)
            if item then
                insert(list, place(list, item.order), item)
            end
        end
    elseif item then
        if #list == 0 or list[#list].order < item.order then
            list[#list + 1] = item
        else
            insert(list, place(list, item.order), item)
        end
    end
    of_kind.items[short_key] = item
    return old
end

local function make_item(self, kind, short_key, rec)
    local value, reason = model.decode(self.check, kind, short_key, rec.text)
    if not value then
        return nil, reason
    end
    return {
        key = self.prefix .. "/" .. rec.path, value = value, createdIndex = rec.create, modifiedIndex = rec.mod, kind = kind,
        short_key = short_key, order = rec.order, version = rec.seq,
    }
end

local function same(a, b)
    if type(a) ~= "table" or type(b) ~= "table" then
        return a == b
    end
    for key, value in pairs(a) do
        if not same(value, b[key]) then
            return false
        end
    end
    for key in pairs(b) do
        if a[key] == nil then
            return false
        end
    end
    return true
end

local function change(self, events, rec)
    local op, path = rec.op, rec.path
    local kind, short_key = kinds.split(path)
    if not kind then
        return
    end
    local of_kind = self.kinds[kind]
    self.changes = self.changes + 1
    if op == "V" then
        local item, reason = make_item(self, kind, short_key, rec)
        if not item then
            -- The owner found it valid: this worker has other plugins, or the check is not a function of the text alone.
            self.log("error", "config: " .. self.prefix .. "/" .. path .. " is not valid in this worker: " .. reason)
            return
        end
        local old = of_kind.items[short_key]
        if old and old.modifiedIndex == rec.mod and old.createdIndex == rec.create and old.order == rec.order and
            same(old.value, item.value) then
            return -- there and back again, while this worker was not looking (etcd was set back), or written anew: no change
        end
        set_item(of_kind, short_key, item)
        of_kind.version = of_kind.version + 1
        events[#events + 1] = {kind, item, old, short_key}
    elseif op == "v" then
        local old = of_kind.items[short_key]
        of_kind.version = of_kind.version + 1
        if old then
            set_item(of_kind, short_key, nil)
            events[#events + 1] = {kind, nil, old, short_key}
        end
    elseif op == "U" then
        of_kind.version = of_kind.version + 1
    elseif op == "R" then
        self.rejected[path] = {
            key = self.prefix .. "/" .. path, kind = kind, reason = rec.reason, mod_revision = rec.mod,
            since = rec.since, seq = rec.seq,
        }
    elseif op == "r" then
        self.rejected[path] = nil
    end
end

local function tell(self, events)
    for _, event in ipairs(events) do
        for _, fn in ipairs(self.subscribers[event[1]]) do
            local ok, err = xpcall(fn, debug.traceback, event[2], event[3], event[4])
            if not ok then
                self.log("error", "config: a subscriber of " .. event[1] .. " failed: " .. tostring(err))
            end
        end
    end
end

-- Takes what it has read off the list, so that the texts of a large one need not all stay until its end.
local function take(self, events, list)
    for i = 1, #list do
        change(self, events, list[i])
        list[i] = false
    end
end

-- ops of a whole transaction; the array is used up
function tables_mt:apply(ops)
    local events = {}
    take(self, events, ops)
    tell(self, events)
end

local function by_order(a, b)
    return a.order < b.order
end

-- Everything anew: what is the same record as before stays the same item and gets no event. The records are used up.
function tables_mt:replace(records)
    local events = {}
    for kind, of_kind in pairs(self.kinds) do
        local gone = {}
        for short_key, item in pairs(of_kind.items) do
            local path = kind == "plugins" and kind or kind .. "/" .. short_key
            if not records.valid[path] then
                gone[#gone + 1] = {op = "v", path = path, order = item.order}
            end
        end
        table.sort(gone, by_order)
        for _, rec in ipairs(gone) do
            change(self, events, rec)
        end
    end
    local changed = {}
    for path, rec in pairs(records.valid) do
        local kind, short_key = kinds.split(path)
        local item = kind and self.kinds[kind].items[short_key]
        if kind and not (item and item.version == rec.seq) then
            changed[#changed + 1] = rec
        end
    end
    records.valid = {}
    table.sort(changed, by_order)
    take(self, events, changed)
    self.rejected = {}
    for _, rec in pairs(records.rejected) do
        change(self, events, rec)
    end
    tell(self, events)
end

function tables_mt:subscribe(kind, fn)
    insert(self.subscribers[kind], fn)
end

function tables_mt:get(kind, short_key)
    return self.kinds[kind].items[short_key]
end

function tables_mt:list(kind)
    local of_kind = self.kinds[kind]
    return of_kind.list, of_kind.version
end

function tables_mt:version(kind)
    return self.kinds[kind].version
end

function tables_mt:rejected_list()
    local list = {}
    for _, entry in pairs(self.rejected) do
        list[#list + 1] = {key = entry.key, kind = entry.kind, reason = entry.reason,
            mod_revision = entry.mod_revision, since = entry.since}
    end
    table.sort(list, function(a, b) return a.key < b.key end)
    return list
end

return M
