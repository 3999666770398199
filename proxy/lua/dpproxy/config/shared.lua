-- The configuration in shared memory: one writer, any number of readers, and a writer that may be killed between any two
-- operations.
--
--   s:<slot>   one record (dpproxy.config.record) per object: together the base
--   l:<seq>    one transaction: what one or more revisions of etcd changed. Adding this key commits it: the key exists or
-- it does not
--   p:<epoch>:<seq>:<i>   a large transaction's text, written before its l:<seq>
--   head       seq of the newest transaction; a hint, and the one read that refresh() costs
--   applied    the base contains at least the transactions up to here
--   tail       the oldest transaction that is still there
--   top        the highest slot ever used
--   at         "<revision> <cluster id> <source>": how far etcd's history is contained
--
-- A transaction is committed first and goes into the base afterwards, so the base may hold parts of transactions above `applied`.
-- Who reads the base replays from there; changes are absolute, so nothing depends on how far a dead writer came. Numbers
-- are replaced
-- in place and need no memory; texts are stored with safe_* calls, which fail rather than evict. No ngx in here.
local record = require("dpproxy.config.record")

local match, format = string.match, string.format
local tonumber, math_max, concat = tonumber, math.max, table.concat

local M = {}

local shared_mt = {}
shared_mt.__index = shared_mt

local part_size = 131072

local space_mt = {}
space_mt.__index = space_mt

for _, name in ipairs({"get", "set", "safe_set", "safe_add", "incr", "delete"}) do
    space_mt[name] = function(self, key, ...)
        return self.dict[name](self.dict, self.name .. key, ...)
    end
end

-- opts: {dict =, space = text before all keys, log_bytes =, log_count =}
function M.new(opts)
    local self = setmetatable({
        dict = opts.space and setmetatable({dict = opts.dict, name = opts.space}, space_mt) or opts.dict,
        log_bytes = opts.log_bytes or 4194304, log_count = opts.log_count or 1024,
    }, shared_mt)
    for _, name in ipairs({"head", "applied", "top", "epoch", "dirty", "recheck"}) do
        self.dict:safe_add(name, 0)
    end
    self.dict:safe_add("tail", 1)
    return self
end

function shared_mt:number(name)
    return self.dict:get(name) or 0
end

local function header_text(txn, parts, epoch)
    return format("T 1 %d %d %s %s %d %d %d\n", txn.seq, txn.revision, txn.cluster ~= "" and txn.cluster or "-", txn.source,
        parts, epoch, #txn.ops)
end

-- The transaction with that number -> {seq =, revision =, cluster =, source =, ops = array} | nil when it is not there
function shared_mt:transaction(seq)
    local text = self.dict:get("l:" .. seq)
    if not text then
        return nil
    end
    local revision, cluster, source, parts, epoch, count, at = match(text, "^T 1 %d+ (%d+) (%S+) (%S+) (%d+) (%d+) (%d+)\n()")
    if not revision then
        return nil
    end
    parts = tonumber(parts)
    local ops, bytes = {}, #text
    if parts == 0 then
        ops = record.decode_all(text, at)
    end
    for i = 1, parts do
        local part = self.dict:get("p:" .. epoch .. ":" .. seq .. ":" .. i)
        bytes = bytes + (part and #part or 0)
        if not part or not record.decode_all(part, 1, ops) then
            return nil -- trimmed meanwhile
        end
    end
    if not ops or #ops ~= tonumber(count) then
        return nil
    end
    return {
        seq = seq, revision = tonumber(revision), cluster = cluster ~= "-" and cluster or "", source = source, ops = ops,
        size = bytes,
    }
end

-- Transactions after `seq` -> array | nil when some of them are gone and the base must be read
function shared_mt:since(seq)
    local list = {}
    local head = self:number("head")
    while true do
        local txn = self:transaction(seq + #list + 1)
        if not txn then
            break
        end
        list[#list + 1] = txn
    end
    if seq + #list < head then
        return nil
    end
    return list
end

-- How far etcd's history is contained -> {revision =, cluster =, source =} | nil
function shared_mt:at()
    local revision, cluster, source = match(self.dict:get("at") or "", "^(%d+) (%S+) (%S+)$")
    if not revision then
        return nil
    end
    return {revision = tonumber(revision), cluster = cluster ~= "-" and cluster or "", source = source}
end

function shared_mt:set_at(at)
    return self.dict:safe_set("at", format("%d %s %s", at.revision, at.cluster ~= "" and at.cluster or "-", at.source))
end

local function replay(records, txn)
    for _, rec in ipairs(txn.ops) do
        local op = rec.op
        if op == "V" then
            records.valid[rec.path] = rec
        elseif op == "R" then
            records.rejected[rec.path] = rec
        elseif op == "v" then
            records.valid[rec.path] = nil
        elseif op == "r" then
            records.rejected[rec.path] = nil
        end
    end
end

-- Reads the base and what of the log is above it: slot(number, text) for each record, then transaction(txn) for each transaction
-- that may not be in them. start() before, and again when it has to begin anew. -> seq, at | nil, err
local function walk(self, start, slot, transaction)
    local dict = self.dict
    for _ = 1, 50 do
        local seq = self:number("applied")
        start()
        for number = 1, self:number("top") do
            local text = dict:get("s:" .. number)
            if text then
                slot(number, text)
            end
        end
        local last
        while true do
            local txn = self:transaction(seq + 1)
            if not txn then
                break
            end
            transaction(txn)
            seq, last = seq + 1, txn
        end
        -- A gap shows here: what was trimmed had been applied.
        local applied = self:number("applied")
        if applied <= seq then
            return seq, applied < seq and last or self:at() or last
        end
    end
    return nil, "the configuration in shared memory changes faster than it can be read"
end

-- Everything -> {seq =, valid = {path -> rec}, rejected = {path -> rec}, at = {revision =, cluster =, source =} | nil} | nil, err
function shared_mt:read_all()
    local records
    local seq, at = walk(self, function()
        records = {valid = {}, rejected = {}}
    end, function(_, text)
        local rec = record.decode(text, 1)
        if rec then
            -- An object that was deleted and put again meanwhile may be met twice; the replay has its last word.
            local map = rec.op == "V" and records.valid or records.rejected
            if not map[rec.path] or map[rec.path].seq <= rec.seq then
                map[rec.path] = rec
            end
        end
    end, function(txn)
        replay(records, txn)
    end)
    if not seq then
        return nil, at
    end
    records.seq, records.at = seq, at
    return records
end

-- The same as texts of records, for the disk: without a table for each object -> {texts = array, seq =, at =} | nil, err
function shared_mt:dump()
    local slots, top
    local seq, at = walk(self, function()
        slots, top = {}, 0
    end, function(number, text)
        slots[number], top = text, number
    end, function(txn)
        for _, rec in ipairs(txn.ops) do
            if rec.op == "V" or rec.op == "R" then
                slots[rec.slot], top = record.encode(rec), math_max(top, rec.slot)
            elseif rec.op ~= "U" then
                slots[rec.slot] = nil
            end
        end
    end)
    if not seq then
        return nil, at
    end
    local texts = {}
    for number = 1, top do
        texts[#texts + 1] = slots[number]
    end
    return {texts = texts, seq = seq, at = at}
end

local writer_mt = {}
writer_mt.__index = writer_mt

-- To become the writer: the number that fences older ones.
function shared_mt:next_epoch()
    return self.dict:incr("epoch", 1, 0)
end

-- epoch: from next_epoch. Finishes what a dead writer left -> writer | nil, err
function shared_mt:writer(epoch)
    local self_ = setmetatable({shared = self, dict = self.dict, epoch = epoch, sizes = {}, bytes = 0}, writer_mt)
    local head = self:number("head")
    while self.dict:get("l:" .. head + 1) do
        head = head + 1
    end
    self.dict:set("head", head)
    self_.head = head
    for seq = self:number("tail"), head do
        local txn = self:transaction(seq)
        self_.sizes[seq] = txn and txn.size or 0
        self_.bytes = self_.bytes + self_.sizes[seq]
    end
    local ok, err = self_:redo()
    if not ok then
        return nil, err
    end
    return self_
end

function writer_mt:owns()
    return self.dict:get("epoch") == self.epoch
end

local lost_place = "another worker owns the configuration now"

-- texts: the records' texts, if they are at hand; used up
function writer_mt:apply(txn, texts)
    local dict = self.dict
    local top = self.shared:number("top")
    for i, rec in ipairs(txn.ops) do
        local op = rec.op
        if op == "V" or op == "R" then
            local ok, err = dict:safe_set("s:" .. rec.slot, texts and texts[i] or record.encode(rec))
            if texts then
                texts[i] = nil
            end
            if not ok then
                return nil, err
            end
            top = math_max(top, rec.slot)
        elseif op ~= "U" then
            dict:delete("s:" .. rec.slot)
        end
    end
    dict:set("top", top)
    local ok, err = self.shared:set_at(txn)
    if not ok then
        return nil, err
    end
    dict:set("applied", txn.seq)
    return true
end

-- Takes into the base what was committed and is not in it.
function writer_mt:redo()
    for seq = self.shared:number("applied") + 1, self.head do
        local txn = self.shared:transaction(seq)
        if not txn then
            return nil, "transaction " .. seq .. " is gone from shared memory"
        end
        local ok, err = self:apply(txn)
        if not ok then
            return nil, err
        end
    end
    return true
end

function writer_mt:trim(limit_bytes, limit_count)
    local dict = self.dict
    local tail, applied = self.shared:number("tail"), self.shared:number("applied")
    while tail <= applied and (self.bytes > limit_bytes or self.head - tail + 1 > limit_count) do
        local parts, epoch = match(dict:get("l:" .. tail) or "", "^T 1 %d+ %d+ %S+ %S+ (%d+) (%d+)")
        dict:set("tail", tail + 1)
        dict:delete("l:" .. tail)
        for i = 1, tonumber(parts or 0) do
            dict:delete("p:" .. epoch .. ":" .. tail .. ":" .. i)
        end
        self.bytes = self.bytes - (self.sizes[tail] or 0)
        self.sizes[tail] = nil
        tail = tail + 1
    end
end

-- The texts of a large transaction as parts of whole records -> array; none when they fit into the transaction's own key.
local function split(texts)
    local parts = {}
    local first, size = 1, 0
    for i, text in ipairs(texts) do
        size = size + #text
        if size >= part_size then
            parts[#parts + 1] = {first, i}
            first, size = i + 1, 0
        end
    end
    if #parts > 0 and first <= #texts then
        parts[#parts + 1] = {first, #texts}
    end
    return parts
end

local function store(self, txn, texts)
    local dict = self.dict
    local parts = split(texts)
    local ok, err = true, nil
    local written, bytes = 0, 0
    for i, part in ipairs(parts) do
        local text = concat(texts, "", part[1], part[2])
        ok, err = dict:safe_set("p:" .. self.epoch .. ":" .. txn.seq .. ":" .. i, text)
        if not ok then
            break
        end
        written, bytes = i, bytes + #text
    end
    if ok then
        local text = header_text(txn, #parts, self.epoch) .. (#parts == 0 and concat(texts) or "")
        bytes = bytes + #text
        ok, err = dict:safe_add("l:" .. txn.seq, text)
    end
    if not ok then
        for i = 1, written do
            dict:delete("p:" .. self.epoch .. ":" .. txn.seq .. ":" .. i)
        end
        return nil, err
    end
    self.sizes[txn.seq] = bytes
    self.bytes = self.bytes + bytes
    return true
end

-- ops: array of records; meta: {revision =, cluster =, source =} -> true | nil, err. All of it or nothing.
function writer_mt:publish(ops, meta)
    if not self:owns() then
        return nil, lost_place
    end
    local ok, err = self:redo()
    if not ok then
        return nil, err
    end
    local txn = {seq = self.head + 1, revision = meta.revision, cluster = meta.cluster, source = meta.source, ops = ops}
    local texts = {}
    for i, rec in ipairs(ops) do
        rec.seq = txn.seq * 1048576 + i -- each record another one, and newer ones greater ones
        texts[i] = record.encode(rec)
    end
    ok, err = store(self, txn, texts)
    if not ok and err == "no memory" then
        self:trim(0, 0)
        ok, err = store(self, txn, texts)
    end
    if not ok then
        return nil, err == "exists" and lost_place or err
    end
    self.head = txn.seq
    self.dict:set("head", txn.seq)
    -- From here on it is published. When the base has no room, readers replay the log, and the next publication tries again.
    if self:apply(txn, texts) then
        self:trim(self.shared.log_bytes, self.shared.log_count)
    end
    if not self:owns() then
        -- It lost its place while it wrote and may have put old records into the base: the present writer must write it anew.
        self.dict:incr("dirty", 1)
        return nil, lost_place
    end
    return true
end

return M
