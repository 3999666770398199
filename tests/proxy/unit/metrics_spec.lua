local http = require("dpproxy.metrics.http")
local node = require("dpproxy.metrics.node")
local registry = require("dpproxy.metrics.registry")
local exposition = require("exposition")
local fake_dict = require("fake_dict")

local now, dict

before_each(function()
    now = 1000
    dict = fake_dict.new(function() return now end)
end)

local function text_of(reg)
    return reg:text()
end

describe("metrics.registry", function()
    it("adds up what several workers count", function()
        local a, b = registry.new(dict, "p_"), registry.new(dict, "p_")
        for _, reg in ipairs({a, b}) do
            local c = reg:counter("hits", "Hits", {"x"})
            c:inc(2, {"one"})
            c:inc(1, {"two"})
            reg:flush()
            reg:flush()
        end
        assert.equal('# HELP p_hits Hits\n# TYPE p_hits counter\np_hits{x="one"} 4\np_hits{x="two"} 2\n', text_of(a))
        assert.equal(text_of(a), text_of(b))
    end)
    it("prints cumulative buckets that agree with the count", function()
        local reg = registry.new(dict, "")
        local h = reg:histogram("lat", "Latency", {"t"}, {1, 2.5, 10})
        for _, v in ipairs({0.5, 1, 2, 9, 1000}) do
            h:observe(v, {"r"})
        end
        reg:flush()
        assert.equal([[
# HELP lat Latency
# TYPE lat histogram
lat_bucket{t="r",le="1"} 2
lat_bucket{t="r",le="2.5"} 3
lat_bucket{t="r",le="10"} 4
lat_bucket{t="r",le="+Inf"} 5
lat_count{t="r"} 5
lat_sum{t="r"} 1012.5
]], text_of(reg))
    end)
    it("puts each value into the bucket that a walk along the bounds finds", function()
        for _, bounds in ipairs({{1, 2, 5, 300, 1000}, {0.5, 1, 20}, {1, 2.5, 10}, {10}, {5, 1}, {}, {1, 60000}, {1, 1e6}}) do
            local h = registry.new(dict, ""):histogram("lat", "Latency", {}, bounds)
            for _, n in ipairs({-1, 0, 0.1, 0.5, 0.6, 1, 1.0000001, 2, 2.4, 2.5, 2.6, 10, 10.5, 255.5, 256, 257, 300, 301,
                    59999.5, 60000, 60001, 1e9, math.huge, -math.huge, 0 / 0}) do
                local expected = #bounds + 1
                for i = #bounds, 1, -1 do
                    expected = n <= bounds[i] and i or expected
                end
                local cell = h:new_cell({})
                registry.observe(cell, n)
                assert.equal(1, cell.counts[expected], n .. " among " .. table.concat(bounds, " "))
            end
        end
    end)
    it("escapes label values", function()
        local reg = registry.new(dict, "")
        reg:gauge("g", "G", {"x"}):set(1.5, {'a"b\\c\nd'})
        reg:flush()
        assert.is_truthy(text_of(reg):find('g{x="a\\"b\\\\c\\nd"} 1.5', 1, true))
        assert.same({}, exposition.check(text_of(reg)))
    end)
    it("lets no invalid UTF-8 into labels", function()
        local reg = registry.new(dict, "")
        local valid = "gr\195\188n \226\130\172 \240\159\152\128"
        for _, pair in ipairs({{valid, valid}, {"a\255b", "a?b"}, {"\192\128", "??"}, {"\237\160\128x", "???x"},
                {"\244\144\128\128", "????"}, {"cut \226\130", "cut ??"}}) do
            reg:counter("c", "C", {"x"}):inc(1, {pair[1]})
            reg:flush()
            assert.is_truthy(text_of(reg):find('c{x="' .. pair[2] .. '"} 1', 1, true), pair[2])
        end
    end)
    it("writes nothing when nothing happened", function()
        local reg = registry.new(dict, "")
        reg:counter("c", "C"):inc(1)
        reg:flush()
        local writes = dict.writes
        reg:flush()
        assert.equal(writes, dict.writes)
    end)
    it("leaves new series out when the dictionary is full, and counts that", function()
        local reg = registry.new(dict, "")
        local c = reg:counter("c", "C", {"x"})
        c:inc(1, {"old"})
        reg:flush()
        dict.full = true
        c:inc(1, {"new"})
        reg:flush()
        assert.equal(1, reg.dropped)
        local numbers = dict:get("n")
        for i = 1, 50 do
            c:inc(1, {"new" .. i})
            reg:flush()
        end
        assert.equal(51, reg.dropped)
        assert.equal(numbers, dict:get("n"))
        dict.full = false
        c:inc(1, {"old"})
        reg:flush()
        assert.is_truthy(text_of(reg):find('c{x="old"} 2', 1, true))
        assert.is_nil(text_of(reg):find("new", 1, true))
        for _ = 1, 60 do
            c:inc(1, {"new"})
            reg:flush()
        end
        assert.is_truthy(text_of(reg):find('c{x="new"} ', 1, true))
    end)
    it("lets series expire that are not touched", function()
        local reg = registry.new(dict, "")
        local c = reg:counter("c", "C", {"x"}, 60)
        c:inc(1, {"a"})
        c:inc(1, {"b"})
        reg:flush()
        now = now + 50
        c:inc(1, {"a"})
        reg:flush()
        now = now + 50
        local text = text_of(reg)
        assert.is_truthy(text:find('c{x="a"} 2', 1, true))
        assert.is_nil(text:find('x="b"', 1, true))
        c:inc(1, {"b"})
        reg:flush()
        assert.is_truthy(text_of(reg):find('c{x="b"} 1', 1, true))
    end)
    it("prints a series once, whatever a killed worker left", function()
        local reg = registry.new(dict, "")
        reg:counter("c", "C", {"x"}):inc(1, {"a"})
        dict:set("n", 1)
        dict:set("b1", 'c{x="a"}')
        reg:flush()
        assert.equal('# HELP c C\n# TYPE c counter\nc{x="a"} 1\n', text_of(reg))
    end)
    it("keeps totals when a worker forgets its cells", function()
        local reg = registry.new(dict, "")
        local c = reg:counter("c", "C", {"x"})
        c:inc(1, {"a"})
        reg:forget()
        c:inc(1, {"a"})
        reg:flush()
        assert.is_truthy(text_of(reg):find('c{x="a"} 2', 1, true))
    end)
end)

local function request(route)
    return {matched_route = route and {value = route}, balancer_ip = "10.0.0.1", curr_req_matched = {_path = "/a", _host = "h"},
        var = {http_x = "v"}}
end

describe("metrics.http", function()
    it("has APISIX' names, labels and buckets", function()
        local reg = registry.new(dict, "apisix_")
        local m = http.new(reg, {}, function() return {value = {name = "svc"}} end)
        m:record(request({id = "1", service_id = "s1"}), false, 200, "upstream", 12, "0.010", 100, 300)
        m:record(request({id = "1", service_id = "s1"}), false, 200, "upstream", 12, "0.001, 0.009", 100, 300)
        m:record(request(nil), false, 404, "apisix", 0.4, nil, 50, 60)
        reg:flush()
        local text = text_of(reg)
        assert.same({}, exposition.check(text))
        local rest = 'route="1",service="s1",consumer="",node="10.0.0.1",' ..
            'request_type="traditional_http",request_llm_model="",llm_model=""'
        for _, line in ipairs({
            'apisix_http_status{code="200",route="1",matched_uri="/a",matched_host="h",service="s1",consumer="",' ..
                'node="10.0.0.1",request_type="traditional_http",request_llm_model="",llm_model="",response_source="upstream"} 2',
            'apisix_http_latency_bucket{type="request",' .. rest .. ',le="10"} 0',
            'apisix_http_latency_bucket{type="request",' .. rest .. ',le="20"} 2',
            'apisix_http_latency_bucket{type="upstream",' .. rest .. ',le="10"} 2',
            'apisix_http_latency_bucket{type="apisix",' .. rest .. ',le="5"} 2',
            'apisix_http_latency_bucket{type="apisix",' .. rest .. ',le="60000"} 2',
            'apisix_http_latency_sum{type="request",' .. rest .. '} 24',
            'apisix_bandwidth{type="ingress",' .. rest .. '} 200',
            'apisix_bandwidth{type="egress",' .. rest .. '} 600',
        }) do
            assert.is_truthy(text:find(line .. "\n", 1, true), line .. "\n\n" .. text)
        end
        assert.is_truthy(text:find('code="404",route="",', 1, true))
    end)
    it("takes names, disabled and extra labels", function()
        local reg = registry.new(dict, "apisix_")
        local m = http.new(reg, {metrics = {http_status = {extra_labels = {{upstream_x = "$http_x"}}}}},
            function() return {value = {name = "svc"}} end)
        m:set_disabled({http_status = {"node", "matched_uri"}})
        m:record(request({id = "1", service_id = "s1", name = "route one"}), true, 200, "upstream", 1, nil, 1, 1)
        reg:flush()
        assert.is_truthy(text_of(reg):find('apisix_http_status{code="200",route="route one",matched_uri="",matched_host="h",' ..
            'service="svc",consumer="",node="",request_type="traditional_http",request_llm_model="",llm_model="",' ..
            'response_source="upstream",upstream_x="v"} 1', 1, true), text_of(reg))
    end)
    it("makes no new cells for what it has seen", function()
        local reg = registry.new(dict, "apisix_")
        local m = http.new(reg, {}, function() end)
        local ctx = request({id = "1"})
        for _ = 1, 100 do
            m:record(ctx, false, 200, "upstream", 1, "0.001", 1, 1)
        end
        assert.equal(6, #reg.dirty)
        assert.equal(2, m.combinations)
    end)
end)

describe("metrics.node", function()
    it("tells the state of the node", function()
        local store = {
            list = function(kind) return kind == "routes" and {{modifiedIndex = 7}, {modifiedIndex = 9}} or {}, 1 end,
            status = function() return {revision = 12, source = "disk", synced_at = 990, etcd_reachable = false,
                snapshot_corrupt = 3} end,
            rejected = function() return {{}} end,
        }
        local text = table.concat(node.lines({}, "apisix_", {
            counters = {accepted = 1, handled = 2, requests = 3, active = 4, reading = 5, writing = 6, waiting = 7},
            store = store, now = 1000, hostname = "h", version = "3.1", dicts = {d = dict},
            checkers = {{name = "/apisix/upstreams/1", nodes = {{ip = "127.0.0.1", port = 80, status = "healthy"},
                {ip = "127.0.0.2", port = 80, status = "unhealthy"}}}},
        }), "\n") .. "\n"
        assert.same({}, exposition.check(text))
        for _, line in ipairs({
            "apisix_http_requests_total 3", 'apisix_nginx_http_current_connections{state="waiting"} 7', "apisix_etcd_reachable 0",
            'apisix_etcd_modify_indexes{key="routes"} 9', 'apisix_etcd_modify_indexes{key="max_modify_index"} 9',
            'apisix_etcd_modify_indexes{key="x_etcd_index"} 12', "apisix_config_revision 12", "apisix_config_age_seconds 10",
            'apisix_config_source{source="disk"} 1', 'apisix_config_source{source="etcd"} 0', "apisix_config_rejected_objects 1",
            "apisix_config_snapshot_corrupt_total 3", "apisix_config_snapshot_errors_total 0",
            'apisix_node_info{hostname="h",version="3.1"} 1', 'apisix_shared_dict_capacity_bytes{name="d"} 1048576',
            'apisix_upstream_status{name="/apisix/upstreams/1",ip="127.0.0.2",port="80"} 0',
        }) do
            assert.is_truthy(text:find("\n" .. line .. "\n", 1, true), line .. "\n\n" .. text)
        end
    end)
end)
