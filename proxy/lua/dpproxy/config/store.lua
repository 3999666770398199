-- The configuration as a worker sees it, and what keeps it up to date: the master loads the disk snapshot before the fork,
-- one worker owns
-- the watch of etcd, every worker takes in what was published. The only file here that knows nginx.
local aside = require("dpproxy.config.aside")
local random_bytes = require("dpproxy.base.random").bytes
local client = require("dpproxy.etcd.client")
local endpoints = require("dpproxy.etcd.endpoints")
local transport = require("dpproxy.etcd.transport")
local garbage = require("dpproxy.config.garbage")
local kinds = require("dpproxy.config.kinds")
local lease = require("dpproxy.config.lease")
local posix = require("dpproxy.config.posix")
local reader = require("dpproxy.config.reader")
local shared = require("dpproxy.config.shared")
local snapshot = require("dpproxy.config.snapshot")
local status = require("dpproxy.config.status")
local sync = require("dpproxy.config.sync")
local tables = require("dpproxy.config.tables")

local format, match = string.format, string.match

local M = {}

local tick_interval = 0.25
local probe_interval = 10
local snapshot_interval = 2
local leave_seconds = 10 -- for a snapshot that is being written

-- One per process: settings (etcd, prefix, folder), store (shared memory), numbers (status), mine (tables), seq and head
-- (how far the
-- tables are), owner (the sync while this worker owns the watch).
local self = {seq = 0, head = -1}

-- In [0, 1). Not math.random: workers are forks of one master and would all draw the same.
local function random()
    local a, b, c = random_bytes(3):byte(1, 3)
    return (a * 65536 + b * 256 + c) / 16777216
end

local function log(level, message)
    ngx.log(level == "error" and ngx.ERR or level == "warn" and ngx.WARN or ngx.INFO, message)
end

local function check(kind, value, short_key)
    if not self.check then
        self.check = require("dpproxy.schema.objects").check
    end
    return self.check(kind, value, short_key)
end

-- Another judge of objects than dpproxy.schema.objects: before init_worker.
function M.set_check(fn)
    self.check = fn
end

local function settings_of(node)
    if type(node.get) == "function" then
        node = node.get()
    end
    local etcd = node.deployment and node.deployment.etcd or {}
    local own = node.dpproxy or {}
    local hosts = etcd.host or {"http://127.0.0.1:2379"}
    return {
        hosts = type(hosts) == "table" and hosts or {hosts}, prefix = kinds.prefix(etcd.prefix), user = etcd.user,
            password = etcd.password,
        tls = etcd.tls, timeout = etcd.timeout or 30, watch_timeout = etcd.watch_timeout or 50, allow_empty = etcd.allow_empty,
        folder = own.snapshot_dir,
    }
end

local function open_dictionaries()
    local dict, state = ngx.shared.dpproxy_config, ngx.shared.dpproxy_state or ngx.shared.dpproxy_config
    if not dict then
        error("nginx.conf has no lua_shared_dict dpproxy_config")
    end
    -- Another prefix is another configuration: what a reload left of the old one is not taken for it.
    self.space = self.settings.prefix .. "\n"
    self.store = shared.new({dict = dict, space = self.space})
    self.numbers = status.new(state)
    self.state = state
end

-- The disk snapshot into shared memory, unless a reload of nginx found it filled.
local function load_snapshot()
    local folder = self.settings.folder
    if not folder or self.store:number("head") > 0 then
        return
    end
    local saved = snapshot.load(folder, self.settings.prefix, function(message)
        log("error", message)
        self.numbers:snapshot_corrupt()
    end)
    if not saved then
        return
    end
    local writer, err = self.store:writer(self.store:next_epoch())
    local ok
    if writer then
        ok, err = writer:publish(saved.ops, saved.at)
    end
    if not ok then
        log("error", "config: the snapshot does not fit into shared memory: " .. tostring(err))
        return
    end
    self.numbers:revision(saved.at.revision, "disk")
    self.numbers:synced(saved.time)
    local valid = 0
    for _ in pairs(saved.valid) do
        valid = valid + 1
    end
    self.numbers:count("objects", valid)
    self.numbers:count("rejected", #saved.ops - valid)
    self.state:set("config:snapshot_seq", writer.head)
    log("info", "config: " .. valid .. " objects from the snapshot of revision " .. saved.at.revision)
end

function M.init(node)
    self.settings = settings_of(node)
    for _, url in ipairs(self.settings.hosts) do
        assert(endpoints.parse(url))
    end
    self.tls = assert(transport.prepare_tls(self.settings.tls))
    open_dictionaries()
    load_snapshot()
    -- Empty until a worker is born: objects are decoded when plugins are loaded. Who subscribes in the master is told then.
    self.mine = tables.new({check = check, prefix = self.settings.prefix, log = log})
    self.reader = reader.new({store = self.store, tables = self.mine, log = log})
    -- What a reload finds, or the disk had, was judged by other checks perhaps.
    self.store.dict:incr("recheck", 1)
end

-- The checks have changed in this worker: what was refused may be valid now, and the other way round.
function M.recheck()
    self.store.dict:incr("recheck", 1)
    self.reader:reread()
end

-- Takes in what was published since -> did anything change
function M.refresh()
    return self.reader:refresh()
end

function M.get(kind, short_key)
    return self.mine:get(kind, short_key)
end

function M.list(kind)
    return self.mine:list(kind)
end

function M.version(kind)
    return self.mine:version(kind)
end

-- A number that grows with every change of any kind.
function M.changes()
    return self.mine.changes
end

-- What is there already is told at once, as new.
function M.subscribe(kind, fn)
    self.mine:subscribe(kind, fn)
    for _, item in ipairs((self.mine:list(kind))) do
        fn(item, nil, item.short_key)
    end
end

function M.rejected()
    return self.mine:rejected_list()
end

-- Is there a configuration at all?
function M.loaded()
    return self.reader.seq > 0
end

function M.status()
    local now = self.numbers:read()
    now.loaded = self.reader.seq > 0
    now.seq = self.reader.seq
    now.shared_bytes = ngx.shared.dpproxy_config:capacity()
    now.shared_free_bytes = ngx.shared.dpproxy_config:free_space()
    return now
end

-- Is there something for the disk that it has not?
local function snapshot_is_due()
    local owner = self.owner
    return self.settings.folder ~= nil and owner ~= nil and owner.writer ~= nil and owner.at ~= nil and
        owner.at.source == "etcd" and self.state:get("config:snapshot_seq") ~= owner.writer.head
end

local function snapshot_done(seq, size)
    if seq then
        self.state:set("config:snapshot_seq", seq)
        self.numbers:snapshot_written(ngx.time(), size)
        self.snapshot_error = nil
        return
    end
    self.numbers:snapshot_failed()
    if self.snapshot_error ~= size then
        log("error", "config: cannot write the snapshot into " .. self.settings.folder .. ": " .. tostring(size))
        self.snapshot_error = size
    end
end

local function write_snapshot()
    return snapshot.save(self.store, self.settings.folder, self.settings.prefix, ngx.time())
end

-- In the child -> "seq size" | "failed" and why
local function write_and_say()
    local seq, size = write_snapshot()
    return seq and format("%d %d", seq, size) or "failed " .. size
end

local function write_snapshot_aside()
    local job, err = aside.start(write_and_say)
    if not job then
        return snapshot_done(nil, err)
    end
    self.writing = job
end

-- Has the child that writes the snapshot ended, within so many seconds?
local function look_for_snapshot(seconds)
    local text, err = self.writing:answer(seconds)
    if not text and not err then
        return
    end
    self.writing = nil
    local seq, size = match(text or "", "^(%d+) (%d+)$")
    if seq then
        return snapshot_done(tonumber(seq), tonumber(size))
    end
    snapshot_done(nil, err or match(text, "^failed (.*)$") or text)
end

local function own(premature)
    local settings = self.settings
    if premature then
        return
    end
    local etcd, err = client.new({
        endpoints = settings.hosts, user = settings.user, password = settings.password, timeout = settings.timeout,
        tls = self.tls,
        connect = transport.connect, clock = posix.monotonic, random = random,
    })
    if not etcd then
        log("error", "config: " .. err)
        return
    end
    local function alive()
        return not ngx.worker.exiting() and self.lease:holds()
    end
    while alive() do
        local owner = sync.new({
            client = etcd, shared = self.store, status = self.numbers, check = check, prefix = settings.prefix, alive = alive,
            renew = function() return self.lease:renew() end, clock = posix.monotonic, now = ngx.now, sleep = ngx.sleep,
                random = random, log = log,
            watch_timeout = settings.watch_timeout, allow_empty = settings.allow_empty,
        })
        self.owner = owner
        local ok, problem = xpcall(owner.run, debug.traceback, owner)
        if not ok then
            log("error", "config: the watch failed: " .. tostring(problem))
            self.numbers:failed(problem)
            ngx.sleep(1)
        end
    end
    self.owning, self.owner = false, nil
end

local function probe(premature)
    if not premature and self.owner then
        local ok, err = xpcall(self.owner.probe, debug.traceback, self.owner)
        if not ok then
            log("error", "config: the probe failed: " .. tostring(err))
        end
    end
    self.probing = false
end

local function leave()
    if self.writing then
        look_for_snapshot(leave_seconds)
    end
    if self.lease.owner then
        if snapshot_is_due() then
            snapshot_done(write_snapshot())
        end
        self.lease:release()
    end
end

-- A clean end: what is not on disk goes there, and another worker need not wait.
function M.exit_worker()
    if self.lease then
        leave()
    end
end

local function tick(premature)
    if premature or ngx.worker.exiting() then
        return leave()
    end
    M.refresh()
    local now = posix.monotonic()
    if self.lease:tick() and not self.owning then
        self.owning = ngx.timer.at(0, own) and true or false
    end
    if self.writing then
        look_for_snapshot(0)
    end
    if not self.owner then
        return
    end
    if not self.writing and now - (self.snapshot_time or -snapshot_interval) >= snapshot_interval and snapshot_is_due() then
        self.snapshot_time = now
        write_snapshot_aside()
    end
    if not self.probing and now >= (self.probe_time or now + probe_interval) then
        self.probe_time, self.probing = nil, ngx.timer.at(0, probe) and true or false
    end
    self.probe_time = self.probe_time or now + probe_interval * (0.8 + 0.4 * random())
end

function M.init_worker(node)
    if not self.settings then -- nginx runs without a master
        M.init(node)
    end
    garbage.init_worker()
    self.lease = lease.new({dict = self.state, id = ngx.worker.pid(), is_dead = posix.is_dead})
    M.refresh()
    assert(ngx.timer.every(tick_interval, function(premature)
        local ok, err = xpcall(tick, debug.traceback, premature)
        if not ok then
            log("error", "config: " .. tostring(err))
        end
    end))
    assert(ngx.timer.at(0, tick))
end

return M
