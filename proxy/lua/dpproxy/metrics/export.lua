-- The registry of this worker, its timer, and the text that Prometheus gets.
local http_metrics = require("dpproxy.metrics.http")
local node_metrics = require("dpproxy.metrics.node")
local registry = require("dpproxy.metrics.registry")

local ngx = ngx
local ngx_now, ngx_var, start_time = ngx.now, ngx.var, ngx.req.start_time
local pcall, require, tonumber = pcall, require, tonumber

local dict_name = "prometheus-metrics"
local flush_seconds = 1

local M = {}

local reg, http, prefix
local timer_runs, draining = false, false

-- Tests give a dictionary and attributes of their own.
function M.setup(dict, attr, service_of)
    prefix = attr.metric_prefix or "apisix_"
    reg = registry.new(dict, prefix)
    http = http_metrics.new(reg, attr, service_of)
    reg:counter("nginx_metric_errors_total", "Number of series that were left out because prometheus-metrics is full")
    reg:gauge("batch_process_entries", "batch process remaining entries", {"name", "route_id", "server_addr"})
    reg.metrics.nginx_metric_errors_total:inc(0)
    return reg, http
end

local function attributes()
    local plugin = require("apisix.plugin")
    return plugin.plugin_attr("prometheus") or {}
end

local function service_of(id)
    return require("dpproxy.config.store").get("services", id)
end

local function ready()
    if not reg then
        M.setup(ngx.shared[dict_name], attributes(), service_of)
    end
    return reg
end

local function flush()
    local before = reg.dropped
    reg:flush()
    if reg.dropped > before then
        if before == 0 then
            ngx.log(ngx.WARN, "prometheus: the shared dictionary prometheus-metrics is full; new series are left out")
        end
        reg.metrics.nginx_metric_errors_total:inc(reg.dropped - before)
    end
end

local function on_timer(premature)
    if premature then
        -- Requests that end after this write at once.
        draining = true
    end
    flush()
end

-- In a worker: starts writing. More than once does no harm (plugins are reloaded).
function M.start()
    ready()
    if not timer_runs then
        local ok, err = ngx.timer.every(flush_seconds, on_timer)
        if not ok then
            ngx.log(ngx.ERR, "prometheus: cannot start the timer: ", err)
            return
        end
        timer_runs = true
    end
end

function M.registry()
    return ready()
end

local core -- when it is first needed: it needs plugins' modules itself

-- The log phase of a request.
function M.log(conf, ctx, disabled_labels)
    ready()
    http:set_disabled(disabled_labels)
    core = core or require("apisix.core")
    -- Not through ctx.var, which would remember them for nobody.
    http:record(ctx, conf.prefer_name, ngx.status, core.response.get_response_source(ctx), (ngx_now() - start_time()) * 1000,
        ngx_var.upstream_response_time, tonumber(ngx_var.request_length) or 0, tonumber(ngx_var.bytes_sent) or 0)
    if draining then
        flush()
    end
end

local function checkers()
    local ok, health = pcall(require, "dpproxy.health")
    if not ok or type(health) ~= "table" or not health.control then
        return nil
    end
    local list
    ok, list = pcall(health.control)
    return ok and list or nil
end

local function pause()
    ngx.sleep(0)
end

function M.text()
    ready()
    flush()
    core = core or require("apisix.core")
    local store_ok, store = pcall(require, "dpproxy.config.store")
    if store_ok then
        store.refresh()
    end
    local out = {}
    node_metrics.lines(out, prefix, {
        counters = node_metrics.nginx_counters(),
        store = store_ok and store or nil,
        now = ngx.now(),
        checkers = checkers(),
        dicts = ngx.shared,
        hostname = core.utils.gethostname() or "",
        version = core.version.VERSION or "",
    })
    return table.concat(out, "\n") .. "\n" .. reg:text(pause)
end

-- Content of the metrics location.
function M.http()
    if ngx.req.get_method() ~= "GET" and ngx.req.get_method() ~= "HEAD" then
        return ngx.exit(404)
    end
    ngx.header["Content-Type"] = "text/plain; version=0.0.4; charset=utf-8"
    ngx.print(M.text())
end

return M
