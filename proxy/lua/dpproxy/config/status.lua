-- Numbers about the configuration, in a shared dictionary, so that each worker can show them. Numbers are replaced in place.
local M = {}

local status_mt = {}
status_mt.__index = status_mt

local sources = {[0] = "none", "disk", "etcd"}
local source_numbers = {none = 0, disk = 1, etcd = 2}

function M.new(dict)
    return setmetatable({dict = dict}, status_mt)
end

local function set(self, name, number)
    self.dict:set("config:" .. name, number)
end

local function get(self, name)
    return self.dict:get("config:" .. name) or 0
end

local function count(self, name)
    self.dict:incr("config:" .. name, 1, 0)
end

function status_mt:revision(revision, source)
    set(self, "revision", revision)
    set(self, "source", source_numbers[source])
end

function status_mt:count(name, number)
    set(self, name, number)
end

function status_mt:synced(time)
    if time - get(self, "synced_at") >= 0.1 or time < get(self, "synced_at") then
        set(self, "synced_at", time)
    end
end

function status_mt:reachable(is)
    set(self, "etcd_reachable", is and 1 or 0)
end

function status_mt:loaded()
    count(self, "loads")
    self:well()
end

function status_mt:well()
    set(self, "etcd_reachable", 1)
    self.dict:delete("config:last_error")
end

function status_mt:resync()
    count(self, "resyncs")
end

function status_mt:publish_failed()
    count(self, "publish_errors")
end

function status_mt:failed(message)
    self.dict:safe_set("config:last_error", tostring(message):sub(1, 500))
end

function status_mt:snapshot_written(time, size)
    set(self, "snapshot_time", time)
    set(self, "snapshot_bytes", size)
end

function status_mt:snapshot_failed()
    count(self, "snapshot_errors")
end

function status_mt:snapshot_corrupt()
    count(self, "snapshot_corrupt")
end

function status_mt:read()
    return {
        revision = get(self, "revision"), source = sources[get(self, "source")] or "none", synced_at = get(self, "synced_at"),
        etcd_reachable = get(self, "etcd_reachable") == 1, objects = get(self, "objects"), rejected = get(self, "rejected"),
        loads = get(self, "loads"), resyncs = get(self, "resyncs"), publish_errors = get(self, "publish_errors"),
        snapshot_time = get(self, "snapshot_time"), snapshot_bytes = get(self, "snapshot_bytes"),
        snapshot_errors = get(self, "snapshot_errors"), snapshot_corrupt = get(self, "snapshot_corrupt"),
        last_error = self.dict:get("config:last_error"),
    }
end

return M
