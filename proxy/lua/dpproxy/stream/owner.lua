-- The worker's side of streams: one worker makes a plan of what the configuration says, and leaves it as a file for the launcher,
-- which alone may change nginx' configuration (apply.lua). Certificates are files of the workers' own: nginx reads one for each
-- handshake, so a new certificate needs no reload.
local dns = require("dpproxy.upstream.dns")
local files = require("dpproxy.base.files")
local json = require("dpproxy.base.json")
local keys = require("dpproxy.tls.keys")
local lease = require("dpproxy.config.lease")
local plan = require("dpproxy.stream.plan")
local posix = require("dpproxy.config.posix")
local store = require("dpproxy.config.store")
local upstream = require("dpproxy.upstream")

local ngx = ngx
local ipairs, pairs, tostring, type = ipairs, pairs, tostring, type

local M = {}

local TICK_SECONDS = 0.25
local RESOLVE_SECONDS = 10 -- how often names are looked at again; each new answer is a reload
local FORGET_SECONDS = 5 -- workers that end may still take a connection
local STALE_SECONDS = 3600
local MAX_REJECTED = 1000

-- files: name -> sum of its content; versions: what the last plan was made of; text: the last plan
local self = {files = {}}

local function hex(text)
    return (text:gsub(".", function(c) return ("%02x"):format(c:byte()) end))
end

local function write(path, text)
    local ok, err = posix.write_new(path .. ".new", text)
    if ok then
        ok, err = posix.rename(path .. ".new", path)
    end
    return ok, err
end

-- An ssl object's first pair, as one file -> its name | nil, err
local function file_of(item)
    local value = item.value
    local cert, key = keys.resolve(value.cert), keys.resolve(value.key)
    local ok, err = keys.check_pair(cert, key)
    if not ok then
        return nil, err
    end
    local pem
    pem, err = keys.private_pem(key)
    if not pem then
        return nil, err
    end
    local name = hex(ngx.sha1_bin(item.key))
    local text = cert .. "\n" .. pem .. "\n"
    local sum = ngx.sha1_bin(text)
    if self.files[name] ~= sum then
        ok, err = write(self.folder .. name, text)
        if not ok then
            return nil, err
        end
        self.files[name] = sum
    end
    return name
end

-- What a name had last counts while nobody can be asked, for a new worker after a reload, too.
local function resolve(name)
    local list, err = dns.resolve(name)
    local key = "stream:addresses:" .. name
    if list and #list > 0 then
        self.state:set(key, table.concat(list, " "), STALE_SECONDS)
        return list
    end
    local kept = self.state:get(key)
    if not kept then
        return nil, err or "no address"
    end
    list = {}
    for address in kept:gmatch("%S+") do
        list[#list + 1] = address
    end
    return list
end

local function discover(value)
    local ctx = {upstream_key = "stream#" .. tostring(value), upstream_version = 0, var = {}}
    local up, _, err = upstream.resolve(ctx, value)
    return up and up.nodes, err or "no nodes"
end

local function make()
    local opts = {
        routes = store.list("stream_routes"), ssls = self.tls and store.list("ssls") or {}, get = store.get,
        resolve = resolve, discover = discover, file_of = file_of,
    }
    local made, rejected = plan.make(opts)
    return made, rejected, opts.domains
end

-- Keeps since when each of them is so; tells the log of new ones.
local function publish_rejected(list)
    local before, now = {}, {}
    for _, entry in ipairs(json.decode(self.state:get("stream:rejected") or "[]") or {}) do
        before[entry.key .. "\n" .. entry.reason] = entry
    end
    for i, entry in ipairs(list) do
        if i > MAX_REJECTED then
            break
        end
        entry.reason = entry.reason:sub(1, 300)
        local known = before[entry.key .. "\n" .. entry.reason]
        entry.since = known and known.since or ngx.time()
        if not known then
            ngx.log(ngx.ERR, "stream: ", entry.key, ": ", entry.reason)
        end
        now[i] = entry
    end
    self.state:set("stream:rejected", json.encode(json.as_array(now)))
end

local function certificate_files(text)
    local names = {}
    local old = text and json.decode(text)
    for _, each in ipairs(type(old) == "table" and type(old.certificates) == "table" and old.certificates or {}) do
        if type(each.file) == "string" and each.file:find("^%x+$") then
            names[each.file] = true
        end
    end
    return names
end

local function forget_later(old_text, new_text)
    local old, new = certificate_files(old_text), certificate_files(new_text)
    ngx.timer.at(FORGET_SECONDS, function()
        local newest = certificate_files(self.text)
        for name in pairs(old) do
            if not new[name] and not newest[name] then
                posix.unlink(self.folder .. name)
                self.files[name] = nil
            end
        end
    end)
end

local function versions()
    local list = {store.version("stream_routes"), store.version("services"), store.version("upstreams")}
    if self.tls then
        list[4] = store.version("ssls")
    end
    return table.concat(list, " ")
end

local function update()
    local now, seen = posix.monotonic(), versions()
    if seen == self.versions and not (self.domains and now >= self.resolve_at) then
        return
    end
    local made, rejected, domains = make()
    self.versions, self.domains, self.resolve_at = seen, domains, now + RESOLVE_SECONDS
    publish_rejected(rejected)
    local path = self.folder .. "plan.json"
    local text, before = json.encode(made), self.text or files.read(path)
    if text == before then
        self.text = text
        return
    end
    local ok, err = write(path, text)
    if not ok then
        self.versions = nil
        ngx.log(ngx.ERR, "stream: cannot write ", path, ": ", err)
        return
    end
    self.text = text
    forget_later(before, text)
end

local function tick(premature)
    if premature or ngx.worker.exiting() then
        self.lease:release()
        return
    end
    if not self.lease:tick() then
        self.versions, self.text, self.files = nil, nil, {}
        return
    end
    store.refresh()
    -- An empty table that is only not loaded yet would close everything.
    if self.busy or not store.status().loaded then
        return
    end
    self.busy = true
    local ok, err = xpcall(update, debug.traceback)
    self.busy = false
    if not ok then
        ngx.log(ngx.ERR, "stream: ", err)
    end
end

function M.init_worker(conf)
    local streams = conf.dpproxy.streams
    if not streams then
        return
    end
    self.folder, self.result, self.tls = streams.folder, streams.result, streams.tls
    self.prefix = conf.deployment.etcd.prefix
    self.state = ngx.shared.dpproxy_state
    self.lease = lease.new({dict = self.state, id = ngx.worker.pid(), name = "stream-owner", is_dead = posix.is_dead})
    assert(ngx.timer.every(TICK_SECONDS, tick))
end

function M.exit_worker()
    if self.lease then
        self.lease:release()
    end
end

-- What cannot be used, for the control API: objects, and what the launcher said of the last plan.
function M.rejected()
    if not self.lease then
        return {}
    end
    local list = json.decode(self.state:get("stream:rejected") or "[]") or {}
    local result = json.decode(files.read(self.result) or "") or {}
    if result.error then
        list[#list + 1] = {key = "stream.conf", kind = "stream_routes", reason = result.error, since = result.since}
    end
    for _, problem in ipairs(result.problems or {}) do
        list[#list + 1] = {
            key = self.prefix .. "/stream_routes/" .. problem.id, kind = "stream_routes", reason = problem.reason,
            since = result.since,
        }
    end
    return list
end

return M
