-- The health of one upstream as a worker sees it: which targets there are, whether they can be used, what reports do to them. The
-- state itself is in the shared dictionary (state.lua). No ngx in here.
local settings = require("dpproxy.health.settings")
local state = require("dpproxy.health.state")

local ipairs, tonumber = ipairs, tonumber

local M = {}
local mt = {__index = M}

-- from: {name, version, checks, targets}; env: {dict, log}
function M.new(from, env)
    local self = setmetatable({
        name = from.name, version = from.version, dict = env.dict, log = env.log, targets = from.targets, by_id = {},
        by_host = {}, version_key = "hc:v:" .. from.name,
    }, mt)
    local checks = settings.of(from.checks)
    self.active, self.passive, self.has_passive = checks.active, checks.passive, checks.has_passive
    for _, target in ipairs(from.targets) do
        target.state_key = "hc:s:" .. from.name .. "|" .. target.id
        target.count_key = "hc:n:" .. from.name .. "|" .. target.id
        self.by_id[target.id] = target
        local ports = self.by_host[target.ip] or {}
        self.by_host[target.ip] = ports
        ports[target.port] = target
    end
    return self
end

-- A node's target; all nodes of a host share one where `port` is the check's own.
local function target_of(self, host, port)
    local ports = self.by_host[host]
    return ports and ports[tonumber(self.active.port) or port]
end

-- Grows whenever a target turns; pickers are built anew then. One look into the dictionary.
function M:health_version()
    return self.dict:get(self.version_key) or 0
end

-- A target that is not known can be used.
function M:usable(host, port)
    local target = target_of(self, host, port)
    return not target or state.usable(self.dict, target)
end

function M:touch()
    self.dict:incr(self.version_key, 1, 0)
end

function M:count(target, kind, limit)
    local turned, count = state.count(self.dict, target, kind, limit)
    if turned then
        self:touch()
        local what = "health check: " .. self.name .. ": " .. target.ip .. ":" .. target.port
        if kind == "success" then
            self.log("warn", what .. " is healthy again")
        else
            self.log("warn", what .. " is unhealthy, " .. kind .. " failures: " .. count)
        end
    end
end

-- kind: "http" with a status, "tcp", "timeout", or "success"
function M:report_to(target, side, kind, status)
    if kind == "http" then
        if side.healthy.http_statuses[status] then
            return self:count(target, "success", side.healthy.successes)
        elseif side.unhealthy.http_statuses[status] or status == 0 then
            return self:count(target, "http", side.unhealthy.http_failures)
        end
    elseif kind == "tcp" then
        return self:count(target, "tcp", side.unhealthy.tcp_failures)
    elseif kind == "timeout" then
        return self:count(target, "timeout", side.unhealthy.timeouts)
    elseif kind == "success" then
        return self:count(target, "success", side.healthy.successes)
    end
end

-- Passive: from requests.
function M:report(host, port, kind, status)
    local target = target_of(self, host, port)
    if target then
        return self:report_to(target, self.passive, kind, status)
    end
end

-- For the control API.
function M:describe()
    local nodes = {}
    for i, target in ipairs(self.targets) do
        local name, counter = state.describe(self.dict, target)
        nodes[i] = {ip = target.ip, port = target.port, hostname = target.hostname, hostheader = target.header, status = name,
            counter = counter}
    end
    return {name = self.name, type = self.active.type, nodes = nodes}
end

return M
