-- A small world for the configuration's tests, in simulated time: an etcd, shared memory, workers that may die between any two
-- operations on it. Everything that waits is a coroutine; whose time comes first runs next.
local client = require("dpproxy.etcd.client")
local fake_etcd = require("fake_etcd")
local faulty_dict = require("faulty_dict")
local lease = require("dpproxy.config.lease")
local reader = require("dpproxy.config.reader")
local shared = require("dpproxy.config.shared")
local status = require("dpproxy.config.status")
local sync = require("dpproxy.config.sync")
local tables = require("dpproxy.config.tables")

local M = {}

local world_mt = {}
world_mt.__index = world_mt

local function generator(seed)
    local state = seed % 2147483646 + 1
    return function(n)
        state = state * 48271 % 2147483647
        return n and state % n + 1 or state / 2147483648
    end
end

-- opts: {seed =, workers =, log_count =, sync = {options for dpproxy.config.sync}}
function M.new(opts)
    local self = setmetatable({
        now = 0, tasks = {}, workers = {}, logs = {}, opts = opts, random = generator(opts.seed or 1), next_pid = 100,
            dead = {}, deaths = 0,
    }, world_mt)
    local function clock()
        return self.now
    end
    self.clock = clock
    function self.wait(seconds)
        coroutine.yield(self.now + seconds)
    end
    self.etcd = fake_etcd.new({random = self.random, clock = clock, wait = self.wait})
    self.dict = faulty_dict.new({clock = clock})
    self.state = faulty_dict.new({clock = clock})
    self.store = shared.new({dict = self.dict, log_count = opts.log_count or 8})
    self.status = status.new(self.state)
    self.dict.before = function()
        local worker = self.running and self.running.worker
        if worker and worker.dies_after then
            worker.dies_after = worker.dies_after - 1
            if worker.dies_after <= 0 then
                self:kill(worker)
                coroutine.yield("dead")
            end
        end
    end
    for _ = 1, opts.workers or 1 do
        self:start_worker()
    end
    return self
end

function world_mt:spawn(worker, fn, at)
    self.tasks[#self.tasks + 1] = {worker = worker, at = at or self.now, thread = coroutine.create(fn)}
end

function world_mt:kill(worker)
    worker.dead, self.dead[worker.pid] = true, true
    self.deaths = self.deaths + 1
    self:start_worker(worker)
end

local function check(kind, value, short_key)
    if value.bad then
        return false, "it is bad"
    end
    value.checked = true
    return true
end

local function own(self, worker)
    while worker.lease:holds() do
        local etcd = assert(client.new({
            endpoints = {"http://a:1", "http://b:1"}, connect = self.etcd:connect(), clock = self.clock, random = self.random,
            user = self.opts.user, password = self.opts.password, timeout = 5,
        }))
        local options = {
            client = etcd, shared = self.store, status = self.status, check = check, prefix = "/apisix",
            alive = function() return worker.lease:holds() end,
            clock = self.clock, now = self.clock, sleep = self.wait, random = self.random,
            log = function(level, message) self.logs[#self.logs + 1] = level .. " " .. message end,
        }
        for name, value in pairs(self.opts.sync or {}) do
            options[name] = value
        end
        worker.owner = sync.new(options)
        worker.owner:run()
    end
    worker.owner, worker.owning = nil, false
end

function world_mt:start_worker(instead_of)
    self.next_pid = self.next_pid + 1
    local worker = {pid = self.next_pid, heard = 0}
    for i, one in ipairs(self.workers) do
        if one == instead_of then
            self.workers[i] = worker
        end
    end
    if not instead_of then
        self.workers[#self.workers + 1] = worker
    end
    local function log(level, message)
        self.logs[#self.logs + 1] = level .. " " .. message
    end
    worker.tables = tables.new({check = check, prefix = "/apisix", log = log})
    worker.reader = reader.new({store = self.store, tables = worker.tables, log = log})
    worker.lease = lease.new({
        dict = self.state, id = worker.pid, is_dead = function(pid) return self.dead[pid] or false end,
    })
    self:spawn(worker, function()
        local probe_at = self.now + 10
        worker.reader:refresh()
        if self.on_start then
            self.on_start(worker)
        end
        while true do
            worker.reader:refresh()
            if self.on_refresh then
                self.on_refresh(worker)
            end
            if worker.lease:tick() and not worker.owning then
                worker.owning = true
                self:spawn(worker, function() own(self, worker) end)
            end
            if worker.owner and self.now >= probe_at then
                probe_at = self.now + 10
                local owner = worker.owner
                self:spawn(worker, function() owner:probe() end)
            end
            self.wait(0.25)
        end
    end)
    return worker
end

-- Until that time, or until condition() holds -> did it
function world_mt:run(until_, condition)
    while true do
        if condition and condition() then
            return true
        end
        local first, index
        for i, task in ipairs(self.tasks) do
            if not first or task.at < first.at then
                first, index = task, i
            end
        end
        if not first or first.at > until_ then
            self.now = until_
            return condition == nil
        end
        if first.worker and first.worker.dead then
            table.remove(self.tasks, index)
        else
            self.now = math.max(self.now, first.at)
            self.running = first
            local ok, at = coroutine.resume(first.thread)
            self.running = nil
            if not ok then
                error(debug.traceback(first.thread, tostring(at)), 0)
            end
            if coroutine.status(first.thread) == "dead" or at == "dead" then
                for i, task in ipairs(self.tasks) do
                    if task == first then
                        table.remove(self.tasks, i)
                        break
                    end
                end
            else
                first.at = at
            end
        end
    end
end

function world_mt:run_for(seconds, condition)
    return self:run(self.now + seconds, condition)
end

function world_mt:logged(text)
    local count = 0
    for _, line in ipairs(self.logs) do
        if line:find(text, 1, true) then
            count = count + 1
        end
    end
    return count
end

return M
