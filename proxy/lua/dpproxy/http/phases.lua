-- What nginx.conf calls, one function per phase. Everything is loaded in the master, before the first fork.
require("resty.core")

-- A request's access phase is one trace, longer than LuaJIT's defaults allow, and with more tail calls than `loopunroll`, which
-- counts them too: each ngx.ctx and ngx.status is one.
require("jit.opt").start("maxtrace=8000", "maxrecord=16000", "maxirconst=2000", "maxsnap=2000", "sizemcode=64", "maxmcode=40960",
    "loopunroll=100")

local node = require("dpproxy.base.node")
local local_conf = require("apisix.core.config_local")
local store = require("dpproxy.config.store")
local keys = require("dpproxy.tls.keys")
local loader = require("dpproxy.plugin.loader")
local objects = require("dpproxy.schema.objects")
local consumer = require("dpproxy.plugin.consumer")
local routes = require("dpproxy.http.routes")
local body_filters = require("dpproxy.http.body_filters")
local request = require("dpproxy.http.request")
local balancer = require("dpproxy.http.balancer")
local response = require("dpproxy.http.response")
local upstream_runtime = require("dpproxy.upstream.runtime")
local control = require("dpproxy.http.control")
local status = require("dpproxy.http.status")
local streams = require("dpproxy.stream.owner")
local tls = require("dpproxy.tls")

local ngx = ngx

local M = {}

-- Who has something to do at start, in this order: init in the master, init_worker and exit_worker in each worker.
local starters = {store, consumer, loader, tls, routes, body_filters, upstream_runtime, request, response, status, streams}

local function call_all(name, ...)
    for _, module in ipairs(starters) do
        if module[name] then
            module[name](...)
        end
    end
end

function M.init(path)
    local conf = node.load(path)
    local_conf.set(conf, node.reload)
    objects.configure({check_certificate = keys.check_pair})
    call_all("init", conf)
end

function M.init_worker()
    -- Several workers must not make the same choices.
    math.randomseed(ngx.worker.pid() + ngx.now() * 1000)
    call_all("init_worker", node.get())
end

function M.exit_worker()
    call_all("exit_worker", node.get())
end

M.way = request.way
M.access = request.access
M.resume = request.resume
M.filtered = request.filtered
M.balancer = balancer.run
M.header_filter = response.header_filter
M.plain_header_filter = response.plain_header_filter
M.body_filter = response.body_filter
M.log = response.log
M.client_hello = tls.client_hello
M.certificate = tls.certificate
M.control = control.run
M.status = status.alive
M.ready = status.ready
M.metrics = status.metrics

return M
