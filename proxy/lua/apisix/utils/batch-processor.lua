-- Collects entries (log records) and hands them in batches to a function that sends them, with retries.
--
-- All processors of a worker share one timer, which runs while something waits; batches are sent by a bounded number of threads,
-- so that a slow server can take neither the timers of nginx nor its connections. What a processor holds is bounded by its
-- manager (batch-processor-manager).
local core = require("apisix.core")

local pcall, setmetatable, type = pcall, setmetatable, type

local schema = {
    type = "object",
    properties = {
        name = {type = "string", default = "log buffer"},
        max_retry_count = {type = "integer", minimum = 0, default = 0},
        retry_delay = {type = "integer", minimum = 0, default = 1},
        buffer_duration = {type = "integer", minimum = 1, default = 60},
        inactive_timeout = {type = "integer", minimum = 1, default = 5},
        batch_max_size = {type = "integer", minimum = 1, default = 1000},
    },
}

local M = {schema = schema}
local mt = {__index = M}

local tick_seconds = 0.5
local max_senders = 16

-- Processors with entries in their buffer; batches to send now; batches to try again later.
local active, active_count = {}, 0
local queue, queue_first, queue_last = {}, 1, 0
local later = {}
local senders = 0
local timer_runs = false
local exiting = false

local start_timer

local function set_gauge(self, count)
    local registry = self.metrics
    if registry and self.name and self.route_id and self.server_addr then
        registry.metrics.batch_process_entries:set(count, {self.name, self.route_id, self.server_addr})
    end
end

local function enqueue(batch)
    queue_last = queue_last + 1
    queue[queue_last] = batch
end

local function drop(self, entries, reason)
    self.processed_entries = self.processed_entries + entries
    core.log.error("Batch Processor[", self.name, "] ", reason)
end

local function send(batch)
    local self = batch.processor
    local done, ok, err, first_fail = pcall(self.func, batch.entries, self.batch_max_size)
    if not done then
        ok, err, first_fail = false, ok, nil
    end
    if ok then
        self.processed_entries = self.processed_entries + #batch.entries
        return
    end
    if first_fail then
        -- Those before it have arrived.
        local rest = {}
        for i = first_fail, #batch.entries do
            rest[#rest + 1] = batch.entries[i]
        end
        self.processed_entries = self.processed_entries + first_fail - 1
        batch.entries = rest
    end
    core.log.error("Batch Processor[", self.name, "] failed to process entries: ", err)
    batch.retries = batch.retries + 1
    if batch.retries <= self.max_retry_count and #batch.entries > 0 and not exiting then
        batch.at = ngx.now() + self.retry_delay
        later[#later + 1] = batch
        start_timer()
    else
        drop(self, #batch.entries, "exceeded the max_retry_count[" .. batch.retries .. "] dropping the entries")
    end
end

local function sender()
    while queue_first <= queue_last do
        local batch = queue[queue_first]
        queue[queue_first] = nil
        queue_first = queue_first + 1
        send(batch)
    end
    senders = senders - 1
end

local function start_senders()
    while senders < max_senders and senders < queue_last - queue_first + 1 do
        local ok, err = ngx.timer.at(0, sender)
        if not ok then
            core.log.error("failed to create process timer: ", err)
            return
        end
        senders = senders + 1
    end
end

local function retry_due(now)
    local n = 0
    for i = 1, #later do
        local batch = later[i]
        later[i] = nil
        -- A clock that went back must not keep a batch waiting for long.
        if exiting or batch.at <= now or batch.at - now > batch.processor.retry_delay then
            enqueue(batch)
        else
            n = n + 1
            later[n] = batch
        end
    end
end

local function flush_due(now)
    local n = 0
    for i = 1, active_count do
        local self = active[i]
        active[i] = nil
        local idle, age = now - self.last_entry_t, now - self.first_entry_t
        if #self.entries > 0 and (exiting or idle >= self.inactive_timeout or age >= self.buffer_duration or idle < 0) then
            self:process_buffer()
        end
        if #self.entries > 0 then
            n = n + 1
            active[n] = self
        else
            self.is_active = false
        end
    end
    active_count = n
end

local function tick(premature)
    timer_runs = false
    if premature then
        exiting = true
    end
    local now = ngx.now()
    retry_due(now)
    flush_due(now)
    start_senders()
    if active_count > 0 or #later > 0 or queue_first <= queue_last then
        start_timer()
    end
end

function start_timer()
    if timer_runs then
        return
    end
    local ok, err = ngx.timer.at(tick_seconds, tick)
    if ok then
        timer_runs = true
    elseif err == "process exiting" then
        -- Only timers without a delay are still made: send at once what there is.
        exiting = true
        timer_runs = ngx.timer.at(0, tick) and true or false
    else
        core.log.error("failed to create buffer timer: ", err)
    end
end

-- func(entries, batch_max_size) -> true | false, err, index of the first entry that did not arrive
function M:new(func, config)
    local ok, err = core.schema.check(schema, config)
    if not ok then
        return nil, err
    end
    if type(func) ~= "function" then
        return nil, "Invalid argument, arg #1 must be a function"
    end
    return setmetatable({
        func = func,
        name = config.name,
        buffer_duration = config.buffer_duration,
        inactive_timeout = config.inactive_timeout,
        max_retry_count = config.max_retry_count,
        batch_max_size = config.batch_max_size,
        retry_delay = config.retry_delay,
        route_id = config.route_id,
        server_addr = config.server_addr,
        metrics = config.metrics,
        entries = {},
        first_entry_t = 0,
        last_entry_t = 0,
        processed_entries = 0,
        is_active = false,
    }, mt)
end

function M:push(entry)
    local now = ngx.now()
    local entries = self.entries
    entries[#entries + 1] = entry
    if #entries == 1 then
        self.first_entry_t = now
    end
    self.last_entry_t = now
    if #entries >= self.batch_max_size then
        self:process_buffer()
        start_senders()
        return
    end
    set_gauge(self, #entries)
    if not self.is_active then
        self.is_active = true
        active_count = active_count + 1
        active[active_count] = self
    end
    start_timer()
end

-- The buffer becomes a batch that is sent next.
function M:process_buffer()
    if #self.entries == 0 then
        return
    end
    enqueue({entries = self.entries, retries = 0, processor = self})
    self.entries = {}
    set_gauge(self, 0)
end

-- Entries that wait here, in batches on their way too.
function M.pending()
    local n = 0
    for i = 1, active_count do
        n = n + #active[i].entries
    end
    for i = queue_first, queue_last do
        n = n + #queue[i].entries
    end
    for i = 1, #later do
        n = n + #later[i].entries
    end
    return n
end

return M
