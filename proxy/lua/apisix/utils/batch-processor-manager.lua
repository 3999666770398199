-- The batch processors of a logger plugin, one for each configuration, and the bound on what they hold together.
local core = require("apisix.core")
local plugin = require("apisix.plugin")
local batch_processor = require("apisix.utils.batch-processor")

local pairs, setmetatable = pairs, setmetatable

local default_max_pending = 8192
local stale_seconds = 1800

local M = {}
local mt = {__index = M}

-- name: in logs and metrics. plugin_name: whose metadata has max_pending_entries.
function M.new(name, plugin_name)
    return setmetatable({name = name, plugin_name = plugin_name or name, buffers = {}, pushed = 0, forgotten = 0, discarded = 0,
        discard_logged = 0, stale_checked = 0}, mt)
end

-- Adds the fields of batches to a plugin's schema, which may have its own for some.
function M:wrap_schema(schema)
    for name, def in pairs(core.table.deepcopy(batch_processor.schema.properties)) do
        if not schema.properties[name] then
            schema.properties[name] = def
        end
    end
    schema.properties.name.default = self.name
    return schema
end

function M:wrap_metadata_schema(schema)
    schema.properties.max_pending_entries = {type = "integer", minimum = 1, default = default_max_pending}
    return schema
end

local function processed(self)
    local n = self.forgotten
    for _, processor in pairs(self.buffers) do
        n = n + processor.processed_entries
    end
    return n
end

-- The processors of configurations that are gone hold nothing after a while.
local function forget_stale(self, now)
    if now - self.stale_checked < stale_seconds and now >= self.stale_checked then
        return
    end
    self.stale_checked = now
    for key, processor in pairs(self.buffers) do
        if #processor.entries == 0 and now - processor.last_entry_t > stale_seconds then
            self.forgotten = self.forgotten + processor.processed_entries
            self.buffers[key] = nil
        end
    end
end

local function full(self)
    local metadata = plugin.plugin_metadata(self.plugin_name)
    local limit = metadata and metadata.value and metadata.value.max_pending_entries or default_max_pending
    -- What was processed only grows: the last known number tells at once that there is room.
    if self.pushed - (self.processed_known or 0) < limit then
        return false
    end
    self.processed_known = processed(self)
    return self.pushed - self.processed_known >= limit
end

local function discard(self)
    self.discarded = self.discarded + 1
    local now = ngx.now()
    if now - self.discard_logged >= 1 or now < self.discard_logged then
        core.log.error("max pending entries limit exceeded. discarding entry. discarded_entries: ", self.discarded)
        self.discard_logged, self.discarded = now, 0
    end
end

-- -> true when the entry was taken or thrown away; false when there is no processor for this configuration yet.
function M:add_entry(conf, entry)
    if full(self) then
        discard(self)
        return true
    end
    forget_stale(self, ngx.now())
    local processor = self.buffers[plugin.conf_version(conf)]
    if not processor then
        return false
    end
    processor:push(entry)
    self.pushed = self.pushed + 1
    return true
end

local function registry()
    local ok, exporter = pcall(require, "dpproxy.metrics.export")
    return ok and exporter.registry() or nil
end

-- func: as for batch-processor's new.
function M:add_entry_to_new_processor(conf, entry, ctx, func)
    if full(self) then
        discard(self)
        return
    end
    local processor, err = batch_processor:new(func, {
        name = conf.name,
        batch_max_size = conf.batch_max_size,
        max_retry_count = conf.max_retry_count,
        retry_delay = conf.retry_delay,
        buffer_duration = conf.buffer_duration,
        inactive_timeout = conf.inactive_timeout,
        route_id = ctx.var.route_id,
        server_addr = ctx.var.server_addr,
        metrics = registry(),
    })
    if not processor then
        core.log.error("error when creating the batch processor: ", err)
        return false
    end
    self.buffers[plugin.conf_version(conf)] = processor
    processor:push(entry)
    self.pushed = self.pushed + 1
    return true
end

return M
