-- The one worker that probes: a lease in the shared dictionary says which. It reads the registry, asks targets when they are due,
-- and sees what has become of the upstreams. At most `limit` probes at a time, of one upstream at most its `concurrency`, of a
-- target one. Intervals vary a little, so that upstreams do not fall into step. No ngx in here.
local probe = require("dpproxy.health.probe")
local state = require("dpproxy.health.state")

local ipairs, pairs, pcall, tostring, remove = ipairs, pairs, pcall, tostring, table.remove

local M = {}
local mt = {__index = M}

local LEASE_SECONDS = 2
local RECONCILE_SECONDS = 1
local MANY = 500 -- upstreams; so many are not looked through more than once a second
local LOAD_SECONDS = 1
local JITTER = 0.1
local LIMIT = 64

-- opts: {registry, dict, id (of this worker), clock, random() -> [0, 1), spawn(fn) -> ok, tcp, log, limit,
-- look(name, record) -> "stay" | "leave" | resolved upstream, version}
function M.new(opts)
    return setmetatable({
        opts = opts, registry = opts.registry, dict = opts.dict, clock = opts.clock, limit = opts.limit or LIMIT,
        checkers = {}, queue = {}, running = 0,
    }, mt)
end

-- Is it this worker that probes?
function M:holds_lease()
    local holder = self.dict:get("hc:prober")
    if holder == nil then
        return (self.dict:add("hc:prober", self.opts.id, LEASE_SECONDS))
    end
    if holder ~= self.opts.id then
        return false
    end
    self.dict:set("hc:prober", self.opts.id, LEASE_SECONDS)
    return true
end

local function release_lease(self)
    if self.dict:get("hc:prober") == self.opts.id then
        self.dict:delete("hc:prober")
    end
end

-- The registry's checkers; one that stays the same keeps its rhythm.
local function load(self, now)
    local generation = self.registry:generation()
    if generation == self.generation or self.load_at and now < self.load_at then
        return
    end
    local checkers, count = {}, 0
    for _, name in ipairs(self.registry:names()) do
        count = count + 1
        local old, text = self.checkers[name], self.registry:text(name)
        if old and old.text == text then
            checkers[name] = old
        elseif text then
            local record = self.registry:record(name, text)
            local first = now + self.opts.random() * JITTER
            checkers[name] = {
                text = text, record = record, checker = self.registry:checker(record),
                running = old and old.running or {count = 0},
                next_healthy = old and old.next_healthy or first, next_unhealthy = old and old.next_unhealthy or first,
            }
        end
    end
    self.checkers, self.generation = checkers, generation
    self.load_at = count > MANY and now + LOAD_SECONDS or nil
end

-- What has become of each upstream since. May yield, for DNS.
local function reconcile(self)
    for name, entry in pairs(self.checkers) do
        if not self.lease then
            break
        end
        local ok, verdict, version = pcall(self.opts.look, name, entry.record)
        if not ok then
            self.opts.log("error", "health check: " .. name .. ": " .. tostring(verdict))
        elseif verdict == "leave" then
            if not entry.record.delete_at then
                self.registry:leave(name)
            elseif self.clock() >= entry.record.delete_at then
                self.registry:remove(name)
            end
        else
            if entry.record.delete_at then
                self.registry:stay(name)
            end
            if verdict ~= "stay" then
                self.registry:ensure(name, version, verdict)
            end
        end
    end
    self.reconciling = false
end

local function run_one(self, job)
    local entry, target = job.entry, job.target
    local running = entry.running
    local ok, kind, status = pcall(probe.run, entry.checker.active, target, self.opts.tcp)
    running[target.id] = nil
    running.count = running.count - 1
    if not ok then
        self.opts.log("error", "health check: " .. entry.checker.name .. ": " .. tostring(kind))
        return
    end
    -- The upstream may have left meanwhile; then there is nothing to write down.
    local current = self.checkers[entry.checker.name]
    if current and current.checker.by_id[target.id] then
        current.checker:report_to(target, current.checker.active, kind, status)
    end
end

-- The first job whose upstream has room.
local function next_job(self)
    for i, job in ipairs(self.queue) do
        if job.entry.running.count < job.entry.checker.active.concurrency then
            remove(self.queue, i)
            job.entry.running.count = job.entry.running.count + 1
            return job
        end
    end
    return nil
end

local function work(self)
    while true do
        local job = next_job(self)
        if not job then
            break
        end
        run_one(self, job)
    end
    self.running = self.running - 1
end

local function start_workers(self)
    for _ = 1, #self.queue do
        if self.running >= self.limit then
            return
        end
        self.running = self.running + 1
        if not self.opts.spawn(work, self) then
            self.running = self.running - 1
            return
        end
    end
end

local function due(self, entry, now)
    local active = entry.checker.active
    local healthy, unhealthy = now >= entry.next_healthy, now >= entry.next_unhealthy
    if not healthy and not unhealthy then
        return
    end
    if healthy then
        entry.next_healthy = now + active.healthy.interval * (1 + JITTER * (self.opts.random() - 0.5))
    end
    if unhealthy then
        entry.next_unhealthy = now + active.unhealthy.interval * (1 + JITTER * (self.opts.random() - 0.5))
    end
    for _, target in ipairs(entry.checker.targets) do
        local wanted = healthy
        if healthy ~= unhealthy then
            wanted = state.usable(self.dict, target) == healthy
        end
        -- A target that still waits, or is slow to answer, is not asked twice.
        if wanted and not entry.running[target.id] then
            entry.running[target.id] = true
            self.queue[#self.queue + 1] = {entry = entry, target = target}
        end
    end
end

-- Called a few times a second; does not yield.
function M:tick()
    self.lease = self:holds_lease()
    if not self.lease then
        self.checkers, self.generation, self.load_at, self.queue = {}, nil, nil, {}
        return
    end
    local now = self.clock()
    load(self, now)
    local at = self.reconcile_at
    if not self.reconciling and (not at or now >= at or now < at - RECONCILE_SECONDS) then
        self.reconcile_at = now + RECONCILE_SECONDS
        self.reconciling = true
        if not self.opts.spawn(reconcile, self) then
            self.reconciling = false
        end
    end
    for _, entry in pairs(self.checkers) do
        if not entry.record.delete_at then
            due(self, entry, now)
        end
    end
    start_workers(self)
end

-- The worker ends: another one need not wait for the lease's end.
function M:stop()
    release_lease(self)
end

return M
