-- Which upstreams are checked, for all workers: the worker that sees an upstream's first request writes it here, the one that
-- probes reads it, whichever that is. In the shared dictionary: "hc:c:<name>" (JSON record), "hc:gen" (grows with every change),
-- and the names in numbered places: "hc:i:<place>" (name), "hc:x:<name>" (its place), "hc:places" (how many), "hc:free" (list of
-- places that are free again). So to take one in or out costs the same however many there are.
--
-- An upstream is changed under a lock of its own; who does not get it is too late with the same news, or comes again with the
-- next request. A dictionary that is full takes no other upstream in (they are not checked, the log says so): what is known of
-- those that it has must not make room for them. No ngx in here.
local checker = require("dpproxy.health.checker")
local json = require("dpproxy.base.json")
local settings = require("dpproxy.health.settings")
local state = require("dpproxy.health.state")

local concat, ipairs, match, tonumber, tostring = table.concat, ipairs, string.match, tonumber, tostring

local M = {}
local mt = {__index = M}

local LOCK_SECONDS = 1
M.DELETE_DELAY = 10

-- env: {dict, clock, log}
function M.new(env)
    return setmetatable({dict = env.dict, clock = env.clock, env = env}, mt)
end

function M:names()
    local names = {}
    for place = 1, self.dict:get("hc:places") or 0 do
        names[#names + 1] = self.dict:get("hc:i:" .. place)
    end
    return names
end

function M:generation()
    return self.dict:get("hc:gen") or 0
end

-- A record as it is written: equal texts need not be decoded again.
function M:text(name)
    return self.dict:get("hc:c:" .. name)
end

-- -> {name, version, ids, checks, targets, delete_at} | nil
function M:record(name, text)
    text = text or self:text(name)
    return text and json.decode(text)
end

function M:checker(record)
    return checker.new(record, self.env)
end

local function locked(self, name, fn, ...)
    local lock = "hc:lock:" .. name
    local locks, why = self.dict:safe_add(lock, 1, LOCK_SECONDS)
    if not locks then
        return nil, why == "exists" and "busy" or why
    end
    local ok, result, err = pcall(fn, self, ...)
    self.dict:delete(lock)
    if not ok then
        return nil, result
    end
    return result, err
end

local function write(self, record)
    local text, err = json.encode(record)
    if not text then
        return nil, err
    end
    local ok
    ok, err = self.dict:safe_set("hc:c:" .. record.name, text)
    if not ok then
        return nil, err
    end
    self.dict:incr("hc:gen", 1, 0)
    return true
end

local function add_name(self, name)
    local dict = self.dict
    if dict:get("hc:x:" .. name) then
        return true
    end
    local place = dict:lpop("hc:free")
    if not place then
        local full
        place, full = dict:incr("hc:places", 1, 0)
        if not place then
            return nil, full
        end
    end
    local ok, err = dict:safe_set("hc:i:" .. place, name)
    if ok then
        ok, err = dict:safe_set("hc:x:" .. name, place)
        if ok then
            return true
        end
        dict:delete("hc:i:" .. place)
    end
    dict:lpush("hc:free", place)
    return nil, err
end

local function remove_name(self, name)
    local place = self.dict:get("hc:x:" .. name)
    if place then
        self.dict:delete("hc:i:" .. place)
        self.dict:delete("hc:x:" .. name)
        self.dict:lpush("hc:free", place)
    end
end

-- Texts like "12#3" count by the number that they begin with; the newer configuration wins.
local function number_of(version)
    return tonumber(match(tostring(version), "^%d+")) or 0
end

local function store(self, record, old)
    -- What a target has been through stays while it is a target, whatever else changes.
    if old then
        local wanted = {}
        for _, target in ipairs(record.targets) do
            wanted[target.id] = true
        end
        local before = self:checker(old)
        for _, target in ipairs(before.targets) do
            if not wanted[target.id] then
                state.forget(self.dict, target)
            end
        end
        before:touch()
    end
    local ok, err = add_name(self, record.name)
    if ok then
        ok, err = write(self, record)
        if not ok and not old then
            remove_name(self, record.name)
        end
    end
    return ok, err
end

-- Once a minute at most: with each request it would fill the log.
local function complain(self, name, err)
    local now = self.clock()
    if err ~= "busy" and not (self.complained and now - self.complained < 60) then
        self.complained = now
        self.env.log("error", "health check: " .. name .. " is not checked: " .. err)
    end
end

-- Sees to it that the upstream is checked as it is now. -> checker | nil, err
function M:ensure(name, version, up)
    local targets = settings.targets(up)
    local ids = {}
    for i, target in ipairs(targets) do
        ids[i] = target.id
    end
    local record = {name = name, version = version, ids = concat(ids, "\n"), checks = up.checks, targets = targets}
    local old = self:record(name)
    local same = old and not old.delete_at and old.version == version and old.ids == record.ids
    local newer = old and number_of(old.version) > number_of(version)
    if not same and not newer then
        local ok, err = locked(self, name, store, record, old)
        if not ok then
            complain(self, name, err)
            return nil, err
        end
    end
    return self:checker(record)
end

local function set_delete_at(self, name, when)
    local record = self:record(name)
    if record and record.delete_at ~= when then
        record.delete_at = when
        -- Who still has requests for it takes it in again.
        self:checker(record):touch()
        return write(self, record)
    end
    return true
end

-- The upstream is gone, or not checked any more: its state goes a while later, in case it comes back.
function M:leave(name)
    return locked(self, name, set_delete_at, name, self.clock() + M.DELETE_DELAY)
end

function M:stay(name)
    return locked(self, name, set_delete_at, name, nil)
end

local function remove(self, name)
    local record = self:record(name)
    remove_name(self, name)
    if record then
        local old = self:checker(record)
        for _, target in ipairs(old.targets) do
            state.forget(self.dict, target)
        end
        old:touch()
        self.dict:expire(old.version_key, 3600)
    end
    self.dict:delete("hc:c:" .. name)
    self.dict:incr("hc:gen", 1, 0)
    return true
end

function M:remove(name)
    return locked(self, name, remove, name)
end

return M
