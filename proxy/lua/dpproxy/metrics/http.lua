-- The metrics of requests: apisix_http_status, apisix_http_latency, apisix_bandwidth.
--
-- On the way of every request. The series of a request are found by walking tables with its label values, one after the other;
-- their names are made when a combination comes for the first time.
local child = require("dpproxy.base.tables").child
local registry = require("dpproxy.metrics.registry")

local add, observe = registry.add, registry.observe
local ipairs, tonumber, type = ipairs, tonumber, type
local max = math.max
local gmatch, sub = string.gmatch, string.sub

local M = {}

local default_buckets = {1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000, 30000, 60000}

local status_labels = {"code", "route", "matched_uri", "matched_host", "service", "consumer", "node", "request_type",
    "request_llm_model", "llm_model", "response_source"}
local typed_labels = {"type", "route", "service", "consumer", "node", "request_type", "request_llm_model", "llm_model"}

M.metric_label_map = {http_status = status_labels, http_latency = typed_labels, bandwidth = typed_labels}

-- More combinations than this in one worker, and the tables start anew: what was counted is in the dictionary.
local max_combinations = 20000

local request_type = "traditional_http"

local function extra_labels(attr, name)
    local metric = attr.metrics and attr.metrics[name]
    local names, vars = {}, {}
    for i, pair in ipairs(metric and metric.extra_labels or {}) do
        local label, var = next(pair)
        names[i], vars[i] = label, sub(var, 2)
    end
    return names, vars, metric and metric.expire
end

local function joined(a, b)
    local all = {}
    for _, list in ipairs({a, b}) do
        for _, value in ipairs(list) do
            all[#all + 1] = value
        end
    end
    return all
end

-- reg: a registry. attr: plugin_attr.prometheus. service_of(id) -> service item | nil, for prefer_name.
function M.new(reg, attr, service_of)
    local self = {reg = reg, service_of = service_of, groups = {}, disabled = {}, combinations = 0}
    local names, expire
    names, self.status_vars, expire = extra_labels(attr, "http_status")
    self.status = reg:counter("http_status", "HTTP status codes per service in APISIX", joined(status_labels, names), expire)
    names, self.latency_vars, expire = extra_labels(attr, "http_latency")
    self.latency = reg:histogram("http_latency", "HTTP request latency in milliseconds per service in APISIX",
        joined(typed_labels, names), attr.default_buckets or default_buckets, expire)
    names, self.bandwidth_vars, expire = extra_labels(attr, "bandwidth")
    self.bandwidth = reg:counter("bandwidth", "Total bandwidth in bytes consumed per service in APISIX",
        joined(typed_labels, names), expire)
    self.has_extra = #self.status_vars + #self.latency_vars + #self.bandwidth_vars > 0
    return setmetatable(self, {__index = M})
end

-- Metadata of the plugin: labels that are left empty. {http_status = {"consumer"}, …}
function M:set_disabled(lists)
    if self.disabled_lists == lists then
        return
    end
    self.disabled_lists = lists
    local disabled = {}
    for metric, labels in pairs(lists or {}) do
        disabled[metric] = {}
        for _, label in ipairs(labels) do
            disabled[metric][label] = true
        end
    end
    self.disabled = disabled
    self.groups, self.combinations = {}, 0
end

local function values_of(self, metric_name, labels, named, vars, ctx)
    local disabled = self.disabled[metric_name]
    local values = {}
    for i, label in ipairs(labels) do
        values[i] = disabled and disabled[label] and "" or named[label] or ""
    end
    for _, var in ipairs(vars) do
        local value = ctx.var[var]
        values[#values + 1] = value == nil and "" or value
    end
    return values
end

-- The cells that do not depend on the status.
local function new_group(self, named, ctx)
    local function cell(metric, metric_name, kind, vars)
        named.type = kind
        return metric:new_cell(values_of(self, metric_name, typed_labels, named, vars, ctx))
    end
    self.combinations = self.combinations + 1
    return {
        status = {},
        request = cell(self.latency, "http_latency", "request", self.latency_vars),
        upstream = cell(self.latency, "http_latency", "upstream", self.latency_vars),
        apisix = cell(self.latency, "http_latency", "apisix", self.latency_vars),
        ingress = cell(self.bandwidth, "bandwidth", "ingress", self.bandwidth_vars),
        egress = cell(self.bandwidth, "bandwidth", "egress", self.bandwidth_vars),
    }
end

-- Values of the extra labels as one key.
local function extra_key(self, ctx)
    local parts = {}
    for _, vars in ipairs({self.status_vars, self.latency_vars, self.bandwidth_vars}) do
        for _, var in ipairs(vars) do
            local value = ctx.var[var]
            parts[#parts + 1] = value == nil and "" or tostring(value)
        end
    end
    return table.concat(parts, "\0")
end

local function seconds_of(text)
    if not text then
        return nil
    end
    local seconds = tonumber(text)
    if seconds or type(text) ~= "string" then
        return seconds
    end
    -- Several tries: "0.001, 0.002"; "-" for those that had no answer.
    for one in gmatch(text, "[%d%.]+") do
        seconds = (seconds or 0) + (tonumber(one) or 0)
    end
    return seconds
end

M.seconds_of = seconds_of

local function names_of(self, ctx, prefer_name)
    local route = ctx.matched_route and ctx.matched_route.value
    if not route then
        return "", ""
    end
    local route_id, service_id = route.id or "", route.service_id or ""
    if prefer_name then
        route_id = route.name or route_id
        if service_id ~= "" then
            local service = self.service_of(service_id)
            service_id = service and service.value.name or service_id
        end
    end
    return route_id, service_id
end

-- ctx: the request's. upstream_time: as nginx has it, a text in seconds, of one or several tries.
function M:record(ctx, prefer_name, status, source, latency_ms, upstream_time, received, sent)
    local route, service = names_of(self, ctx, prefer_name)
    local consumer, node = ctx.consumer_name or "", ctx.balancer_ip or ""
    local matched = ctx.curr_req_matched
    local uri, host = matched and matched._path or "", matched and matched._host or ""

    local group = child(child(child(child(self.groups, route), service), consumer), node)
    if self.has_extra then
        group = child(group, extra_key(self, ctx))
    end
    if not group.request then
        local named = {route = route, service = service, consumer = consumer, node = node, request_type = request_type}
        for name, value in pairs(new_group(self, named, ctx)) do
            group[name] = value
        end
    end
    local by_code = child(child(child(group.status, uri), host), status)
    local cell = by_code[source]
    if not cell then
        local named = {code = status, route = route, matched_uri = uri, matched_host = host, service = service,
            consumer = consumer, node = node, request_type = request_type, response_source = source}
        cell = self.status:new_cell(values_of(self, "http_status", status_labels, named, self.status_vars, ctx))
        by_code[source] = cell
        self.combinations = self.combinations + 1
    end

    add(cell, 1)
    observe(group.request, latency_ms)
    local upstream_seconds = seconds_of(upstream_time)
    local own_ms = latency_ms
    if upstream_seconds then
        observe(group.upstream, upstream_seconds * 1000)
        own_ms = max(latency_ms - upstream_seconds * 1000, 0) -- nginx measures the two by different clocks
    end
    observe(group.apisix, own_ms)
    add(group.ingress, received)
    add(group.egress, sent)
    if self.combinations > max_combinations then
        self.reg:flush()
        self.groups, self.combinations = {}, 0
    end
end

return M
