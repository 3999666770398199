-- Counters, histograms and gauges of all workers, in one shared dictionary.
--
-- Each worker adds up in tables of its own (a cell per series) and writes the differences into the dictionary now and then:
-- a request costs a few table look-ups, no text and no lock. In the dictionary a series has a number:
--
--     b<number> = text       name{label="value",…}, as it will be printed
--     d<MD5 of the text> = number
--     <number>:v             a counter or gauge
--     <number>:1 … :n        a histogram: how many fell into each bucket, the last is +Inf;   <number>:s   their sum
--     n                      the highest number given out
--
-- When the dictionary is full, new series are left out and counted; those that exist go on. No ngx in here.
local ceil, floor, huge, max, min = math.ceil, math.floor, math.huge, math.max, math.min
local format, gsub, concat = string.format, string.gsub, table.concat
local ipairs, tostring = ipairs, tostring

local ffi = require("ffi")
local md5 = require("dpproxy.base.crypto").md5
local valid_utf8 = require("dpproxy.base.utf8").valid
local buffer = require("string.buffer")

local M = {}

local registry = {}
registry.__index = registry

local metric_methods = {}
metric_methods.__index = metric_methods

-- Without room no new series are tried for so many flushes: each try takes a number, and a scrape looks at all numbers.
local flushes_closed = 60

-- dict: a shared dictionary. prefix: of all names.
function M.new(dict, prefix)
    return setmetatable({dict = dict, prefix = prefix or "", metrics = {}, order = {}, dirty = {}, dropped = 0, closed = 0},
        registry)
end

-- ---- Metrics and cells ----

-- Where a value falls, buckets[i - 1] < n <= buckets[i].
local function position(buckets, n)
    for i = 1, #buckets do
        if n <= buckets[i] then
            return i
        end
    end
    return #buckets + 1
end

-- All that a bucket may be looked up for, instead: LuaJIT does not compile a loop as a part of what is around it, and of the
-- branches of a plugin's phase, one for each bucket, it leaves all but one to the interpreter.
local quick_max = 100000

-- Whole bounds only: the position of each ceil(value) up to the one behind the highest bound -> bytes, the last index | nil
local function quick_positions(buckets)
    local highest = 0
    for _, bound in ipairs(buckets) do
        if bound ~= floor(bound) or bound > quick_max then
            return nil
        end
        highest = max(highest, bound)
    end
    if #buckets > 254 then
        return nil
    end
    local quick = ffi.new("uint8_t[?]", highest + 2)
    for n = 0, highest + 1 do
        quick[n] = position(buckets, n)
    end
    return quick, highest + 1
end

local function define(self, kind, name, help, labels, buckets, expire)
    local known = self.metrics[name]
    if known then
        return known
    end
    local metric = setmetatable({registry = self, kind = kind, name = self.prefix .. name, help = help, labels = labels or {},
        buckets = buckets, expire = expire, trie = {}}, metric_methods)
    if buckets then
        metric.le = {}
        for i, bound in ipairs(buckets) do
            metric.le[i] = format("%.14g", bound)
        end
        metric.le[#buckets + 1] = "+Inf"
        metric.quick, metric.quick_last = quick_positions(buckets)
    end
    self.metrics[name] = metric
    self.order[#self.order + 1] = metric
    return metric
end

function registry:counter(name, help, labels, expire)
    return define(self, "counter", name, help, labels, nil, expire)
end

function registry:gauge(name, help, labels, expire)
    return define(self, "gauge", name, help, labels, nil, expire)
end

function registry:histogram(name, help, labels, buckets, expire)
    return define(self, "histogram", name, help, labels, buckets, expire)
end

local escapes = {["\\"] = "\\\\", ['"'] = '\\"', ["\n"] = "\\n"}

local function label_text(labels, values)
    local parts = {}
    for i = 1, #labels do
        local value = values[i] == nil and "" or tostring(values[i])
        -- A client's header, by extra_labels, may be anything.
        parts[i] = labels[i] .. '="' .. gsub(valid_utf8(value), '[\\"\n]', escapes) .. '"'
    end
    return concat(parts, ",")
end

M.label_text = label_text

-- A cell for these label values. Callers on a hot path keep it; `values` is not kept.
function metric_methods:new_cell(values)
    local text = label_text(self.labels, values)
    if text ~= "" then
        text = "{" .. text .. "}"
    end
    local cell = {metric = self, text = self.name .. text, value = 0, dirty = false}
    if self.buckets then
        cell.counts = {}
        for i = 1, #self.buckets + 1 do
            cell.counts[i] = 0
        end
    end
    return cell
end

-- The cell of an array of label values; the same cell for the same values.
function metric_methods:cell(values)
    local node = self.trie
    for i = 1, #self.labels do
        local value = values and values[i]
        if value == nil then
            value = ""
        end
        local child = node[value]
        if not child then
            child = {}
            node[value] = child
        end
        node = child
    end
    local cell = node[M]
    if not cell then
        cell = self:new_cell(values or {})
        node[M] = cell
    end
    return cell
end

local function touch(cell)
    if not cell.dirty then
        cell.dirty = true
        local dirty = cell.metric.registry.dirty
        dirty[#dirty + 1] = cell
    end
end

function M.add(cell, n)
    cell.value = cell.value + n
    if not cell.dirty then
        touch(cell)
    end
end

function M.observe(cell, n)
    local metric = cell.metric
    local quick, at = metric.quick
    if quick and n == n then -- a NaN would be an index anywhere
        at = quick[min(ceil(max(n, 0)), metric.quick_last)]
    else
        at = position(metric.buckets, n)
    end
    local counts = cell.counts
    counts[at] = counts[at] + 1
    cell.value = cell.value + n
    if not cell.dirty then
        touch(cell)
    end
end

-- As plugins of others call them.
function metric_methods:inc(n, values)
    M.add(self:cell(values), n or 1)
end

function metric_methods:observe(n, values)
    M.observe(self:cell(values), n)
end

function metric_methods:set(n, values)
    local cell = self:cell(values)
    cell.value, cell.set = n, true
    touch(cell)
end

-- ---- Into the dictionary ----

local function slot(self, key, delta, expire)
    local ok, err = self.dict:incr(key, delta)
    if not ok and err == "not found" then
        self.dict:safe_add(key, 0, expire)
        ok, err = self.dict:incr(key, delta)
    end
    if ok and expire then
        self.dict:expire(key, expire)
    end
    return ok, err
end

-- The number of a series; made when it is new.
local function number_of(self, cell)
    local key = "d" .. md5(cell.text)
    local expire = cell.metric.expire
    local number = self.dict:get(key)
    if not number then
        if self.closed > 0 then
            return nil
        end
        number = self.dict:incr("n", 1, 0)
        local ok, err = number, "no memory"
        if number then
            ok, err = self.dict:safe_add("b" .. number, cell.text, expire)
        end
        if ok then
            ok, err = self.dict:safe_add(key, number, expire)
        end
        if not ok then
            if number then
                self.dict:delete("b" .. number)
            end
            if err == "exists" then
                return self.dict:get(key)
            end
            self.closed = flushes_closed
            return nil
        end
    elseif expire then
        self.dict:expire(key, expire)
        self.dict:expire("b" .. number, expire)
    end
    return number
end

local function flush_cell(self, cell)
    local expire = cell.metric.expire
    -- With an expiry the number may be gone.
    local number = not expire and cell.number or number_of(self, cell)
    if not number then
        return false
    end
    cell.number = number
    if cell.set then
        cell.set = nil
        return self.dict:safe_set(number .. ":v", cell.value, expire) -- set() would make room at the cost of others
    end
    local ok = true
    if cell.counts then
        for i = 1, #cell.counts do
            if cell.counts[i] ~= 0 then
                ok = slot(self, number .. ":" .. i, cell.counts[i], expire) and ok
                cell.counts[i] = 0
            end
        end
        ok = slot(self, number .. ":s", cell.value, expire) and ok
    else
        ok = slot(self, number .. ":v", cell.value, expire)
    end
    cell.value = 0
    return ok
end

-- Writes what was added since the last time.
function registry:flush()
    local dirty = self.dirty
    if self.closed > 0 then
        self.closed = self.closed - 1
    end
    if #dirty == 0 then
        return
    end
    self.dirty = {}
    for i = 1, #dirty do
        local cell = dirty[i]
        cell.dirty = false
        if not flush_cell(self, cell) then
            self.dropped = self.dropped + 1
            cell.value = 0
            for b = 1, cell.counts and #cell.counts or 0 do
                cell.counts[b] = 0
            end
        end
    end
end

-- Lets go of the cells that `cell()` remembers, for those whose labels keep changing. Totals are in the dictionary.
function registry:forget()
    self:flush()
    for _, metric in ipairs(self.order) do
        metric.trie = {}
    end
end

-- ---- Out of the dictionary ----

local function number_text(n)
    if n == floor(n) and n < 1e15 and n > -1e15 then
        return format("%d", n)
    elseif n == huge then
        return "+Inf"
    end
    return format("%.14g", n)
end

M.number_text = number_text

-- Lines go into a buffer: as Lua strings, each of them would be made, hashed and collected.
local function put_histogram(self, metric, number, text, into)
    local name, labels = text:match("^([^{]*){?(.-)}?$")
    local open = labels == "" and "_bucket{" or "_bucket{" .. labels .. ","
    local close = labels == "" and " " or "{" .. labels .. "} "
    local total = 0
    for i, le in ipairs(metric.le) do
        total = total + (self.dict:get(number .. ":" .. i) or 0)
        into:put(name, open, 'le="', le, '"} ', number_text(total), "\n")
    end
    into:put(name, "_count", close, number_text(total), "\n")
    into:put(name, "_sum", close, number_text(self.dict:get(number .. ":s") or 0), "\n")
end

local function by_text(a, b)
    return a[1] < b[1]
end

-- name -> array of {text, number}
local function series_by_name(self, pause)
    local by_name, numbers = {}, {}
    for number = 1, self.dict:get("n") or 0 do
        local text = self.dict:get("b" .. number)
        -- A worker that was killed between two writes can leave a text twice: the number that is in use counts.
        if text and numbers[text] then
            numbers[text][2] = self.dict:get("d" .. md5(text)) or number
        elseif text then
            local name = text:match("^[^{]*")
            local list = by_name[name]
            if not list then
                list = {}
                by_name[name] = list
            end
            numbers[text] = {text, number}
            list[#list + 1] = numbers[text]
        end
        if pause and number % 1000 == 0 then
            pause()
        end
    end
    return by_name
end

local function put_series(self, metric, list, into, pause)
    into:put("# HELP ", metric.name, " ", metric.help, "\n# TYPE ", metric.name, " ", metric.kind, "\n")
    table.sort(list, by_text)
    for i, series in ipairs(list) do
        if metric.kind == "histogram" then
            put_histogram(self, metric, series[2], series[1], into)
        else
            into:put(series[1], " ", number_text(self.dict:get(series[2] .. ":v") or 0), "\n")
        end
        if pause and i % 200 == 0 then
            pause()
        end
    end
end

-- Text exposition of everything in the dictionary. pause(): called now and then, may let others run.
function registry:text(pause)
    local by_name = series_by_name(self, pause)
    local into = buffer.new()
    for _, metric in ipairs(self.order) do
        local list = by_name[metric.name]
        if list then
            put_series(self, metric, list, into, pause)
        end
    end
    return into:tostring()
end

return M
