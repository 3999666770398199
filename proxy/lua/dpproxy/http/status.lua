-- /status: the process runs. /status/ready: every worker has a configuration. And the metrics.
local json = require("dpproxy.base.json")
local store = require("dpproxy.config.store")

local ngx = ngx

local M = {}

local dict = ngx.shared["internal-status"]

local function say(status, value)
    ngx.status = status
    ngx.say(json.encode(value))
end

-- A worker that has what there is to have says so, under its number. A reload leaves that: the configuration is in shared memory,
-- and whoever asks while workers change must not be told that there is none.
local function report(premature)
    if premature then
        return
    end
    store.refresh()
    if store.status().loaded then
        dict:set("ready:" .. ngx.worker.id(), ngx.worker.pid())
        return
    end
    ngx.timer.at(0.1, report)
end

function M.init_worker()
    ngx.timer.at(0, report)
end

function M.alive()
    say(200, {status = "ok"})
end

function M.ready()
    for id = 0, ngx.worker.count() - 1 do
        if not dict:get("ready:" .. id) then
            return say(503, {status = "error", error = "worker id: " .. id .. " has not received configuration"})
        end
    end
    say(200, {status = "ok"})
end

function M.metrics()
    require("dpproxy.metrics.export").http()
end

return M
