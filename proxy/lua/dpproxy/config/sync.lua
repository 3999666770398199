-- The owner's work: bring what etcd holds under the prefix into shared memory and keep it there. Load in pages, watch from
-- the next
-- revision on, load again and compare when history is gone or is another one. What was published before stays until
-- etcd says otherwise; an empty answer of an etcd that may not be ours is not believed.
-- No ngx in here: etcd client, clocks, sleep and shared memory are given.
local base64 = require("dpproxy.etcd.base64")
local garbage = require("dpproxy.config.garbage")
local kinds = require("dpproxy.config.kinds")
local model = require("dpproxy.config.model")

local tonumber, ipairs, sub, type = tonumber, ipairs, string.sub, type
local min, max = math.min, math.max

local M = {}

local sync_mt = {}
sync_mt.__index = sync_mt

local most_events = 1000    -- of several waiting messages taken into one transaction
local most_complaints = 20  -- about invalid objects, for one transaction
local shortest_pause, longest_pause = 0.1, 3

-- opts: client, shared, status, check, prefix, alive = fn -> bool (still the owner), renew = fn (I am busy, not dead), clock =
-- fn (monotonic), now = fn (wall), sleep = fn, random = fn, log = fn(level, message), page_size, watch_timeout, verify_interval,
-- allow_empty
function M.new(opts)
    return setmetatable({
        client = opts.client, shared = opts.shared, status = opts.status, check = opts.check, prefix = opts.prefix,
        alive = opts.alive,
        clock = opts.clock, now = opts.now, sleep = opts.sleep, renew = opts.renew, random = opts.random, log = opts.log,
        page_size = opts.page_size or 1000, watch_timeout = opts.watch_timeout or 50,
        verify_interval = opts.verify_interval or 600, slice = opts.slice or 1, allow_empty = opts.allow_empty,
        first_key = opts.prefix .. "/", last_key = opts.prefix .. "0", failures = 0,
    }, sync_mt)
end

-- A worker becomes the owner: it finishes what the last one left and takes over what is known.
local function take_over(self)
    self.writer, self.model = nil, nil
    local writer, err = self.shared:writer(self.shared:next_epoch())
    if not writer then
        return nil, err
    end
    local records
    records, err = self.shared:read_all()
    if not records then
        return nil, err
    end
    self.writer, self.model, self.at = writer, model.new(records, self.check), records.at
    self.had_configuration = records.seq > 0
    self.need_load = self.need_load or not (self.at and self.at.source == "etcd")
    self.published_at = self.at and self.at.revision
    self.status:count("objects", self.model.objects)
    self.status:count("rejected", self.model:rejected_count())
    return true
end

local function heard(self)
    self.last_message = self.clock()
    self.status:synced(self.now())
end

local function log_rejected(self, ops)
    local count = 0
    for _, rec in ipairs(ops) do
        if rec.op == "R" then
            count = count + 1
            if count <= most_complaints then
                self.log("error", "config: " .. self.prefix .. "/" .. rec.path ..
                    " is invalid, its last valid version stays: " .. rec.reason)
            end
        end
    end
    if count > most_complaints then
        self.log("error", "config: and " .. count - most_complaints .. " more invalid objects")
    end
end

-- ops may be empty: then only the revision moves on.
local function publish(self, ops, at)
    if #ops == 0 and self.had_configuration and self.at and self.at.source == at.source and self.at.cluster == at.cluster then
        self.at = at
        -- Not each one: it only spares the next owner some history.
        if at.revision ~= self.published_at and self.clock() - (self.at_time or -1) >= 1 then
            if not self.writer:owns() then
                return nil, "another worker owns the configuration now"
            end
            self.shared:set_at(at)
            self.published_at, self.at_time = at.revision, self.clock()
        end
        self.status:revision(at.revision, at.source)
        return true
    end
    local ok, err = self.writer:publish(ops, at)
    if not ok then
        if self.writer:owns() then
            self.status:publish_failed()
        end
        self.writer, self.model = nil, nil -- the model is ahead of what is published
        return nil, "cannot publish: " .. tostring(err)
    end
    self.had_configuration, self.at, self.published_at, self.at_time = true, at, at.revision, self.clock()
    self.status:revision(at.revision, at.source)
    self.status:count("objects", self.model.objects)
    self.status:count("rejected", self.model:rejected_count())
    log_rejected(self, ops)
    return true
end

local function header_of(answer)
    local header = type(answer.header) == "table" and answer.header or {}
    return tonumber(header.revision) or 0, tostring(header.cluster_id or "")
end

-- -> {path =, text =, create =, mod =} | nil when the answer is not etcd's
local function read_kv(self, kv)
    local key = type(kv.key) == "string" and base64.decode(kv.key)
    local text = kv.value == nil and "" or type(kv.value) == "string" and base64.decode(kv.value)
    if not key or not text then
        return nil
    end
    if sub(key, 1, #self.first_key) ~= self.first_key then
        return nil
    end
    -- With room for what makes it a record.
    return {
        path = sub(key, #self.first_key + 1), text = text, create = tonumber(kv.create_revision) or 0,
        mod = tonumber(kv.mod_revision) or 0, op = "", slot = 0, order = 0, seq = 0,
    }
end

-- All keys at one revision -> kvs, revision, cluster | nil, err, kind
local function read_pages(self)
    local kvs, revision, cluster = {}, nil, nil
    local from, limit = self.first_key, self.page_size
    while true do
        if not self.alive() then
            return nil, "not the owner any more"
        end
        local answer, err, kind = self.client:call("/v3/kv/range", {
            key = base64.encode(from), range_end = base64.encode(self.last_key), limit = limit,
                revision = revision and ("%d"):format(revision),
        })
        if not answer and kind == "too large" and limit > 1 then
            limit = max(1, math.floor(limit / 8))
        elseif not answer then
            return nil, err, kind
        else
            local its_revision, its_cluster = header_of(answer)
            if its_revision == 0 then
                return nil, "not an etcd: no revision in the answer", "protocol"
            end
            if cluster and its_cluster ~= cluster then
                return nil, "the endpoints are of different clusters", "protocol"
            end
            revision, cluster = revision or its_revision, its_cluster
            local page = type(answer.kvs) == "table" and answer.kvs or {}
            for _, raw in ipairs(page) do
                local kv = read_kv(self, raw)
                if not kv then
                    return nil, "not an etcd: a key outside of the range, or no base64", "protocol"
                end
                kvs[#kvs + 1] = kv
            end
            heard(self)
            if not answer.more or #page == 0 then
                return kvs, revision, cluster
            end
            from = self.first_key .. kvs[#kvs].path .. "\0"
        end
    end
end

local function count_objects(kvs)
    local count = 0
    for _, kv in ipairs(kvs) do
        if kinds.split(kv.path) and not kinds.is_absent(kv.text) then
            count = count + 1
        end
    end
    return count
end

-- etcd has no object of ours any more. May that be because it lost them, and not because somebody deleted them? It may be another
-- cluster, one that was set back, or one that began anew under its old name and has overtaken us: then it does not know what was
-- there at the revision that we had. (When that is compacted nothing can be proven, and etcd is believed.)
local function is_suspicious(self, same_history)
    if self.allow_empty or self.model.objects + self.model:rejected_count() == 0 then
        return false
    elseif not same_history then
        return true
    end
    local answer, err, kind = self.client:call("/v3/kv/range", {
        key = base64.encode(self.first_key), range_end = base64.encode(self.last_key), count_only = true,
        revision = ("%d"):format(self.at.revision),
    })
    if not answer then
        return kind ~= "compacted", err
    end
    return (tonumber(answer.count) or 0) == 0
end

-- Reads everything and publishes the difference.
local function load(self)
    local kvs, revision, cluster
    for _ = 1, 5 do
        local err_kind
        kvs, revision, err_kind = read_pages(self)
        if kvs then
            cluster = err_kind
            break
        elseif err_kind ~= "compacted" then
            return nil, revision, err_kind
        end
    end
    if not kvs then
        return nil, "history is compacted faster than it can be read", "away"
    end
    local at = self.at
    local same_history = at ~= nil and at.cluster == cluster and revision >= at.revision
    if count_objects(kvs) == 0 and is_suspicious(self, same_history) then
        return nil, "etcd is empty and not the one that the configuration came from " ..
            "(another cluster, an older revision, or another history): the last configuration stays", "suspicious"
    end
    if at and not same_history then
        self.log("warn", "config: etcd's history is another one than before (another cluster or an older revision): " ..
            "taking its state over")
    end
    local ops = self.model:replace(kvs, self.now(), same_history, self.renew)
    kvs = nil -- luacheck: ignore 311 (they are garbage now)
    if #ops > 2000 then
        collectgarbage()
    end
    local ok, err = publish(self, ops, {revision = revision, cluster = cluster, source = "etcd"})
    if not ok then
        return nil, err, "publish"
    end
    self.need_load = false
    self.verify_time, self.calm = self.clock() + self.verify_interval * (0.5 + self.random()), true
    self.status:loaded()
    return true
end

-- What a message means for the owner: "go on" after taking its events into `batch`, or why not.
local function take_message(self, message, batch)
    local revision, cluster = header_of(message)
    if cluster ~= "" and self.at.cluster ~= "" and cluster ~= self.at.cluster then
        return "load", "the watch speaks of another cluster"
    end
    if message.canceled then
        local compacted = tonumber(message.compact_revision) or 0
        local reason = tostring(message.cancel_reason or "")
        if compacted > 0 or reason:find("compacted", 1, true) then
            return "load", "history up to the next revision is compacted"
        end
        return "fail", "etcd ended the watch: " .. reason
    end
    if message.created then
        return "created", revision
    end
    local events = type(message.events) == "table" and message.events or {}
    local last = batch.revision or self.at.revision
    if #events == 0 then
        -- A synchronised watcher's progress: all up to this revision has been sent.
        if revision > last then
            batch.revision = revision
        elseif revision > 0 and revision < last then
            return "load", "etcd's revision went back"
        end
        return "go on"
    end
    for _, event in ipairs(events) do
        local kv = type(event.kv) == "table" and read_kv(self, event.kv)
        if not kv or kv.mod == 0 then
            return "fail", "a watch event without a key or revision"
        end
        -- The header's revision may be ahead of the events of a watch that catches up: only theirs count.
        if kv.mod < self.at.revision then
            return "load", "etcd's revision went back"
        end
        last = max(last, kv.mod)
        if event.type ~= "DELETE" and event.type ~= 1 then
            self.model:put(batch.ops, kv, self.now(), true)
        elseif kv.mod > self.at.revision or self.model:knows(kv.path) then
            self.model:delete(batch.ops, kv.path)
        end
    end
    batch.revision, batch.events = last, batch.events + #events
    return "go on"
end

-- etcd's present revision and cluster, proven by a quorum -> revision, cluster | nil, err, kind
local function ask_revision(self)
    local answer, err, kind = self.client:call("/v3/kv/range", {key = base64.encode(self.first_key), count_only = true})
    if not answer then
        return nil, err, kind
    end
    return header_of(answer)
end

-- A look from beside the watch, by a thread of its own every few seconds: is etcd there, is it the same one, and does the
-- watch say
-- what it should.
function sync_mt:probe()
    local at, started = self.at, self.clock()
    local revision, cluster, kind = ask_revision(self)
    if not revision then
        if kind == "away" then
            self.status:reachable(false)
        end
        return
    end
    self.status:reachable(true)
    if not at or not self.watching or self.at.revision < at.revision then
        return
    end
    if cluster ~= at.cluster or revision < at.revision then
        self.suspicion = {"load", "etcd's history is another one than before"}
        return
    end
    if revision == at.revision then
        self.status:synced(self.now())
    elseif (self.last_message or 0) < started and started - (self.lag_check or -1000) >= 30 then
        -- Others may write other keys all the time. Are there keys of ours that the watch has not told?
        self.lag_check = started
        local answer = self.client:call("/v3/kv/range", {
            key = base64.encode(self.first_key), range_end = base64.encode(self.last_key), limit = 1, keys_only = true,
            min_mod_revision = ("%d"):format(at.revision + 1), revision = ("%d"):format(revision),
        })
        if answer and answer.kvs and answer.kvs[1] and self.at and self.at.revision == at.revision and
            self.last_message < started then
            self.suspicion = {"again", "the watch is silent about changes"}
        end
    end
end

-- Follows the watch until there is a reason not to -> true (again, at once) | nil, err, kind
local function follow(self, stream)
    local created = false
    self.last_message = self.clock()
    while self.alive() do
        local message, err, kind = stream:next(self.slice)
        local batch = {ops = {}, events = 0}
        while message do
            heard(self)
            local outcome, detail = take_message(self, message, batch)
            if outcome == "created" then
                created = true
                self.status:well()
                if detail < self.at.revision then
                    -- A member that lags behind, or a cluster that was set back? A quorum knows.
                    local revision, cluster, ask_kind = ask_revision(self)
                    if not revision then
                        return nil, cluster, ask_kind
                    end
                    if revision < self.at.revision or cluster ~= self.at.cluster then
                        self.need_load = true
                        return true
                    end
                end
            elseif outcome ~= "go on" then
                -- The model may have taken events of this batch that are not published.
                if #batch.ops > 0 then
                    self.writer, self.model = nil, nil
                end
                self.need_load = self.need_load or outcome == "load"
                if outcome == "load" then
                    self.log("warn", "config: " .. detail .. ", comparing everything")
                    self.status:resync()
                    return true
                end
                return nil, detail, "away"
            end
            if batch.events >= most_events or not stream:ready() then
                message = nil
            else
                message, err, kind = stream:next(self.slice)
            end
        end
        if batch.revision then
            local ok, problem = publish(self, batch.ops, {revision = batch.revision, cluster = self.at.cluster, source = "etcd"})
            if not ok then
                return nil, problem, "publish"
            end
            if stream:ready() then
                self.sleep(0) -- the next events are here already: this worker's requests would wait for the last of them
            end
        end
        if err and err ~= "timeout" then
            if kind == "too large" or kind == "compacted" then
                self.need_load = true
                self.status:resync()
                return true
            end
            return nil, "watch: " .. err, created and kind == "away" and "ended" or kind
        end
        local now = self.clock()
        if self.suspicion then
            local what, detail = self.suspicion[1], self.suspicion[2]
            self.suspicion = nil
            self.log("warn", "config: " .. detail)
            self.need_load = what == "load"
            self.status:resync()
            return true
        elseif self.shared:number("dirty") ~= 0 or self.shared:number("recheck") ~= 0 then
            return true
        elseif now >= self.verify_time then
            self.need_load = true
            return true
        elseif now - self.last_message >= (created and self.watch_timeout or 10) then
            if not created then
                return nil, "watch: no answer", "away"
            end
            self.calm = true
            return true
        end
    end
    return true
end

-- What others may ask of the owner, by counting a number in shared memory up.
local chores = {
    {"dirty", function(self)
        self.need_load = true
        return not self.at or publish(self, self.model:rewrite(self.shared:number("top")), self.at)
    end},
    {"recheck", function(self)
        local ops = self.model:recheck(self.now())
        return #ops == 0 or publish(self, ops, self.at)
    end},
}

-- One round: take over, load, watch -> true | nil, err, kind
function sync_mt:session()
    local ok, err, kind
    if not self.writer or not self.writer:owns() then
        ok, err = take_over(self)
        if not ok then
            return nil, err, "publish"
        end
    end
    for _, chore in ipairs(chores) do
        local asked = self.shared:number(chore[1])
        if asked ~= 0 then
            ok, err = chore[2](self)
            if not ok then
                return nil, err, "publish"
            end
            self.shared.dict:incr(chore[1], -asked)
        end
    end
    if self.need_load then
        if self.model.objects == 0 then
            ok, err, kind = garbage.keep_low(load, self)
        else -- a comparison; no request is to wait for the collector
            ok, err, kind = load(self)
        end
        if not ok then
            return nil, err, kind
        end
    end
    -- Since the last stream etcd may have been set back and have overtaken us with another history, which nothing on the wire
    -- tells: look, but not with all other gateways at once. Only where nothing but silence ended the last stream it can wait.
    if not self.calm and self.verify_interval < math.huge then
        self.verify_time = min(self.verify_time or math.huge, self.clock() + 5 + self.random() * 55)
    end
    self.verify_time, self.calm = self.verify_time or math.huge, false
    -- From the last revision that is known, not from the next one: a watch from exactly the compacted revision is accepted, and
    -- older releases do not tell of what was deleted in it (etcd-io/etcd#18089). What comes twice has no effect.
    local stream
    stream, err, kind = self.client:watch({
        key = base64.encode(self.first_key), range_end = base64.encode(self.last_key),
        start_revision = ("%d"):format(max(1, self.at.revision)),
        progress_notify = true,
    })
    if not stream then
        return nil, err, kind
    end
    self.watching, self.suspicion = true, nil
    local opened = self.clock()
    ok, err, kind = follow(self, stream)
    self.watching = false
    stream:close()
    if self.clock() - opened >= 5 then
        self.failures = 0 -- one that is ended at once, again and again, is opened less and less often
    end
    if not ok and (kind == "away" or kind == "ended") then
        stream:failed()
    end
    return ok, err, kind
end

function sync_mt:run()
    while self.alive() do
        local ok, err, kind = self:session()
        if not ok and self.alive() then
            self.status:reachable(kind ~= "away" and kind ~= "protocol")
            if err ~= self.last_error or self.clock() - self.last_error_time >= 60 then
                self.log((kind == "away" or kind == "ended") and "warn" or "error", "config: " .. tostring(err))
                self.last_error, self.last_error_time = err, self.clock()
            end
            self.status:failed(err)
            local pause = min(longest_pause, shortest_pause * 2 ^ min(self.failures, 10)) * (0.5 + self.random() / 2)
            self.failures = self.failures + 1
            local until_ = self.clock() + max(pause, self.client:wait())
            while self.alive() and self.clock() < until_ do
                self.sleep(min(0.25, max(0.001, until_ - self.clock())))
            end
        end
    end
end

return M
