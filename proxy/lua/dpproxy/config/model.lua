-- What the owner of the watch knows: for each object its last valid text and, when the newest one is invalid, that one
-- with the reason.
-- Turns what etcd says into the smallest set of changes. No ngx in here.
local json = require("dpproxy.base.json")
local kinds = require("dpproxy.config.kinds")

local pcall, type, pairs = pcall, type, pairs

local M = {}

local model_mt = {}
model_mt.__index = model_mt

-- text -> valid value with defaults | nil, reason. Workers decode what was published by the same function.
function M.decode(check, kind, short_key, text)
    local value, err = json.decode(text)
    if value == nil then
        return nil, "invalid JSON: " .. tostring(err)
    end
    if type(value) ~= "table" then
        return nil, "not an object"
    end
    local ran, ok, reason = pcall(check, kind, value, short_key)
    if not ran then
        return nil, "check failed: " .. tostring(ok):sub(1, 1000)
    end
    if not ok then
        return nil, tostring(reason):sub(1, 1000)
    end
    if kind ~= "plugins" then
        value.id = short_key
    end
    return value
end

-- records: from shared:read_all() ; check: fn(kind, value, short_key) -> ok, err
function M.new(records, check)
    local self = setmetatable({valid = {}, rejected = {}, free = {}, top = 0, orders = {}, check = check, objects = 0}, model_mt)
    local used = {}
    for path, rec in pairs(records.valid) do
        self.valid[path] = rec
        self.objects = self.objects + 1
        used[rec.slot] = true
        self.top = math.max(self.top, rec.slot)
        local kind = kinds.split(path)
        if kind then
            self.orders[kind] = math.max(self.orders[kind] or 0, rec.order)
        end
    end
    for path, rec in pairs(records.rejected) do
        self.rejected[path] = rec
        used[rec.slot] = true
        self.top = math.max(self.top, rec.slot)
    end
    for slot = self.top, 1, -1 do
        if not used[slot] then
            self.free[#self.free + 1] = slot
        end
    end
    return self
end

local function new_slot(self)
    local slot = table.remove(self.free)
    if not slot then
        self.top = self.top + 1
        slot = self.top
    end
    return slot
end

local function drop(self, ops, op, map, path)
    local rec = map[path]
    if rec then
        map[path] = nil
        self.free[#self.free + 1] = rec.slot
        ops[#ops + 1] = {op = op, slot = rec.slot, path = path}
    end
end

function model_mt:knows(path)
    return self.valid[path] ~= nil or self.rejected[path] ~= nil
end

function model_mt:delete(ops, path)
    local kind = kinds.split(path)
    if not kind then
        return
    end
    if not self:knows(path) then
        ops[#ops + 1] = {op = "U", path = path}
        return
    end
    if self.valid[path] then
        self.objects = self.objects - 1
    end
    drop(self, ops, "v", self.valid, path)
    drop(self, ops, "r", self.rejected, path)
end

-- The object is this now, and valid (value) or not (reason). kv becomes its record.
local function judge(self, ops, kv, now, value, reason)
    local path, text = kv.path, kv.text
    local kind = kinds.split(path)
    local valid, rejected = self.valid[path], self.rejected[path]
    if value and valid and valid.mod == kv.mod and valid.create == kv.create and valid.text == text then
        drop(self, ops, "r", self.rejected, path) -- back at the version that stayed
    elseif value then
        local order = valid and valid.order
        if not valid then
            order = (self.orders[kind] or 0) + 1
            self.orders[kind] = order
            self.objects = self.objects + 1
        end
        kv.op, kv.slot, kv.order = "V", valid and valid.slot or new_slot(self), order
        self.valid[path] = kv
        ops[#ops + 1] = kv
        drop(self, ops, "r", self.rejected, path)
    else
        kv.op, kv.slot, kv.reason = "R", rejected and rejected.slot or new_slot(self), reason
        kv.since = rejected and rejected.since or now
        self.rejected[path] = kv
        ops[#ops + 1] = kv
    end
end

-- kv: {path =, text =, create =, mod =}, which the model keeps. same_history: its revisions can be compared with those that are
-- known.
function model_mt:put(ops, kv, now, same_history)
    local path, text = kv.path, kv.text
    local kind, short_key = kinds.split(path)
    if not kind then
        return
    end
    local valid, rejected = self.valid[path], self.rejected[path]
    if kinds.is_absent(text) then
        if valid or rejected then
            self:delete(ops, path)
        end
        return
    end
    local newest = rejected or valid
    if newest and newest.mod == kv.mod and newest.create == kv.create and newest.text == text then
        return
    end
    local value, reason = M.decode(self.check, kind, short_key, text)
    if valid and not value and same_history and valid.create ~= kv.create then
        -- The valid one was deleted, unseen, before this one was created: it is not an older version of it.
        self.objects = self.objects - 1
        drop(self, ops, "v", self.valid, path)
    end
    judge(self, ops, kv, now, value, reason)
end

-- kvs: all of what etcd holds, ascending keys -> ops that lead there
-- progress: called every few hundred objects
function model_mt:replace(kvs, now, same_history, progress)
    local ops, seen = {}, {}
    for _, kv in ipairs(kvs) do
        if kinds.split(kv.path) and not kinds.is_absent(kv.text) then
            seen[kv.path] = true
        end
    end
    local gone = {}
    for path in pairs(self.valid) do
        if not seen[path] then
            gone[#gone + 1] = path
        end
    end
    for path in pairs(self.rejected) do
        if not seen[path] and not self.valid[path] then
            gone[#gone + 1] = path
        end
    end
    table.sort(gone)
    for _, path in ipairs(gone) do
        self:delete(ops, path)
    end
    for i, kv in ipairs(kvs) do
        if seen[kv.path] then
            self:put(ops, kv, now, same_history)
        end
        if progress and i % 256 == 0 then
            progress()
        end
    end
    return ops
end

-- The checks may be others than before (a plugin was loaded anew, the program is a newer one): everything is judged again.
function model_mt:recheck(now)
    local ops = {}
    local list = {}
    for path, rec in pairs(self.valid) do
        list[#list + 1] = self.rejected[path] or rec
    end
    for path, rec in pairs(self.rejected) do
        if not self.valid[path] then
            list[#list + 1] = rec
        end
    end
    table.sort(list, function(a, b) return a.slot < b.slot end)
    for _, rec in ipairs(list) do
        local kind, short_key = kinds.split(rec.path)
        local value, reason = M.decode(self.check, kind, short_key, rec.text)
        if (value ~= nil) ~= (rec.op == "V") or reason and reason ~= rec.reason then
            judge(self, ops, {path = rec.path, text = rec.text, create = rec.create, mod = rec.mod}, now, value, reason)
        end
    end
    return ops
end

-- Every record again, and every free slot up to `top` emptied: after a writer that had lost its place wrote into the base.
function model_mt:rewrite(top)
    local ops = {}
    local used = {}
    for _, map in ipairs({self.valid, self.rejected}) do
        for _, rec in pairs(map) do
            used[rec.slot] = true
            ops[#ops + 1] = rec
        end
    end
    table.sort(ops, function(a, b) return a.slot < b.slot end)
    for slot = 1, math.max(top, self.top) do
        if not used[slot] then
            ops[#ops + 1] = {op = "x", slot = slot, path = ""}
        end
    end
    return ops
end

function model_mt:rejected_count()
    local count = 0
    for _ in pairs(self.rejected) do
        count = count + 1
    end
    return count
end

return M
