-- Keeps a worker's tables at what is published in shared memory: by transactions, or from the base when the worker is new or too
-- far behind. No ngx in here.
local garbage = require("dpproxy.config.garbage")

local collectgarbage = collectgarbage

local M = {}

local large = 500 -- changes

local reader_mt = {}
reader_mt.__index = reader_mt

-- opts: {store = dpproxy.config.shared, tables = dpproxy.config.tables, log = fn(level, message)}
function M.new(opts)
    return setmetatable({store = opts.store, tables = opts.tables, log = opts.log, seq = 0, head = -1, new = true}, reader_mt)
end

local function read_all(self, head)
    local records, err = self.store:read_all()
    if not records then
        self.log("error", "config: " .. err)
        return false
    end
    self.head, self.seq = head, records.seq
    self.tables:replace(records)
    return true
end

local function apply(self, list)
    for _, txn in ipairs(list) do
        self.seq = txn.seq
        self.tables:apply(txn.ops)
    end
end

-- Reads or applies much: fn(self, …). Nobody waits for a new worker yet, so what its first load leaves is collected now, and not
-- by its first requests.
local function in_bulk(fn, self, ...)
    local result = garbage.keep_low(fn, self, ...)
    if self.new then
        self.new = false
        collectgarbage()
    end
    return result
end

-- What could not be decoded gets another try.
function reader_mt:reread()
    self.head, self.seq = -1, 0
    return self:refresh()
end

-- Takes in what was published since -> did anything change. One read when nothing did.
function reader_mt:refresh()
    local head = self.store:number("head")
    if head == self.head then
        return false
    end
    if head == 0 then
        self.head = head
        return false
    end
    if self.seq == 0 then
        return in_bulk(read_all, self, head)
    end
    local list = self.store:since(self.seq)
    if not list then
        return in_bulk(read_all, self, head)
    end
    self.head = head
    local before = self.seq
    local count = 0
    for _, txn in ipairs(list) do
        count = count + #txn.ops
    end
    if count > large then
        in_bulk(apply, self, list)
    else
        apply(self, list)
    end
    return self.seq ~= before
end

return M
