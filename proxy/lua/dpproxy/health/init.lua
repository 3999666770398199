-- Health checks: what other parts call. The parts: settings (configuration), state (a target's), checker (an upstream's),
-- registry (all, shared), prober and probe (active checks). No ngx in here; dpproxy.upstream.runtime sets it up.
local json = require("dpproxy.base.json")
local registry = require("dpproxy.health.registry")
local settings = require("dpproxy.health.settings")

local ipairs, match, sort, type = ipairs, string.match, table.sort, type

local M = {}

local records -- the registry, once there is one

-- env: {dict, clock, log}
function M.setup(env)
    records = registry.new(env)
    return records
end

-- For an upstream that passed resolve(): its checker, made with the first request. nil: not yet; false: it is not checked.
function M.checker(name, version, up)
    if not records or type(name) ~= "string" or not settings.of(up.checks) then
        return false
    end
    return (records:ensure(name, version, up))
end

-- A passive report. kind: "http" (with status), "tcp", "timeout"
function M.report(ctx, host, port, kind, status)
    local checker = ctx.balancer_checker
    if checker then
        checker:report(host, port, kind, status)
    end
end

local function described(name)
    local record = records:record(name)
    return record and not record.delete_at and records:checker(record):describe() or nil
end

local function by_name(a, b)
    return a.name < b.name
end

-- Everything that is checked: array of {name =, type =, nodes = {{ip, port, hostname, hostheader, status, counter}}}
function M.control()
    local list = json.as_array({})
    if records then
        for _, name in ipairs(records:names()) do
            list[#list + 1] = described(name)
        end
        sort(list, by_name)
    end
    return list
end

-- The same of one: kind "upstreams", "routes", … -> info | nil
function M.status(kind, id)
    if records then
        for _, name in ipairs(records:names()) do
            local k, i = match(name, "([^/#]+)/([^/#]+)$")
            if k == kind and i == id then
                return described(name)
            end
        end
    end
    return nil
end

return M
