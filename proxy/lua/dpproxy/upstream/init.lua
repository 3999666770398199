-- From a route's upstream to a node: what the request's phases call. resolve() in access (it may yield, for DNS), pick() in
-- access and for each retry in balancer, done() in log. Configuration is immutable: resolve() gives a copy with an array of
-- nodes. No ngx in here: dpproxy.upstream.runtime gives a clock, randomness, DNS and health checks (M.setup).
local generations = require("dpproxy.upstream.generations")
local nodes_of = require("dpproxy.upstream.nodes")
local picker = require("dpproxy.upstream.picker")

local find = string.find
local type, getmetatable, setmetatable, pairs = type, getmetatable, setmetatable, pairs

local M = {scheme_port = nodes_of.scheme_port, host_with_port = nodes_of.host_with_port}

-- For ngx.exit in the balancer phase, when there is no other node: nginx' NGX_BUSY, which ends the request with 502. (Without
-- OpenResty's patch of nginx a status as argument ends it with 500.)
M.GIVE_UP = -3

-- Each scheme has a cache: the ports that nodes leave out depend on it, and a plugin may change it for a request.
local CACHE_ENTRIES = 16384
local UNNAMED_ENTRIES = 128
local env = {
    random = math.random,
    clock = os.time,
    address = function(domain) -- domain -> address | nil, err
        return nil, "no resolver for " .. domain
    end,
    checker = nil, -- fn(key, version, upstream) -> health checker | nil (not yet) | false (none)
    discover = nil, -- fn(upstream_value) -> nodes | nil, err
    log = function() end, -- fn(level, message)
}
local caches = {}
local unnamed = generations.new(UNNAMED_ENTRIES) -- of upstreams without a key, by table

-- What the module needs from outside; fields as in `env` above, and dict, the shared dictionary for ewma.
function M.setup(given)
    for name, value in pairs(given) do
        env[name] = value
    end
    caches, unnamed = {}, generations.new(UNNAMED_ENTRIES)
end

local function copy_of(value, nodes, entry)
    local up = {}
    for name, field in pairs(value) do
        up[name] = field
    end
    up.nodes = nodes
    up.type = value.type or "roundrobin"
    up.scheme = value.scheme or "http"
    up.pass_host = value.pass_host or "pass"
    up.hash_on = value.hash_on or "vars"
    -- The entry goes with its upstream in a metatable: plugins encode and copy upstreams, and would follow a field in circles.
    return setmetatable(up, {dpproxy_entry = entry})
end

local function new_entry(key, version, value, scheme)
    local list, needs_domain = nodes_of.normalize(value.nodes, scheme)
    local entry = {key = key, version = version, value = value, scheme = scheme, list = list, needs_domain = needs_domain}
    if not needs_domain then
        entry.up = copy_of(value, list, entry)
    else
        entry.addresses = {}
    end
    return entry
end

-- Domains -> addresses. The resolved upstream changes only when an address does, so pickers stay.
local function resolve_domains(entry)
    local list, addresses = entry.list, entry.addresses
    local changed, reason = entry.up == nil, nil
    for i = 1, #list do
        if list[i].needs_domain then
            local address, err = env.address(list[i].host)
            if not address then
                reason = err
            end
            address = address or false
            if addresses[i] ~= address then
                addresses[i], changed = address, true
                if not address then
                    env.log("warn", "node left out: failed to resolve " .. list[i].host .. ": " .. err)
                end
            end
        end
    end
    if changed then
        local nodes = {}
        for i = 1, #list do
            local node = list[i]
            if not node.needs_domain then
                nodes[#nodes + 1] = node
            elseif addresses[i] then
                nodes[#nodes + 1] = nodes_of.make(node, node.host, node.port, entry.scheme, addresses[i])
            end
        end
        entry.up = copy_of(entry.value, nodes, entry)
    end
    return reason
end

-- service_name + discovery_type: the nodes come from elsewhere, as a table that stays the same while they do.
local function discover(entry, value)
    if not env.discover then
        return nil, "discovery is uninitialized"
    end
    local found, err = env.discover(value)
    if not found then
        return nil, err
    end
    if entry.found ~= found then
        entry.found = found
        entry.list, entry.needs_domain = nodes_of.normalize(found, entry.scheme)
        entry.addresses = {}
        entry.up = not entry.needs_domain and copy_of(value, entry.list, entry) or nil
    end
    return true
end

-- ctx.upstream_key and .upstream_version say which upstream this is; without a key the table itself does. May yield.
-- -> upstream with `nodes` an array of nodes with addresses | nil, status, message
function M.resolve(ctx, value)
    if type(value) ~= "table" then
        return nil, 503, "missing upstream configuration in Route or Service"
    end
    local scheme = ctx.upstream_scheme or value.scheme or "http"
    local key, version = ctx.upstream_key or value, ctx.upstream_version or 0
    local cache = key == value and unnamed or caches[scheme]
    if not cache then
        cache = generations.new(CACHE_ENTRIES)
        caches[scheme] = cache
    end
    local entry = cache:get(key)
    if not entry or entry.version ~= version or entry.scheme ~= scheme then
        entry = new_entry(key, version, value, scheme)
        cache:set(key, entry)
    end
    local reason
    if value.service_name and not value.nodes then -- with nodes a dpagent has asked already
        local ok, err = discover(entry, value)
        if not ok then
            return nil, 503, "no valid upstream node: " .. err
        end
    end
    if entry.needs_domain then
        reason = resolve_domains(entry)
    end
    local up = entry.up
    if #up.nodes == 0 then
        return nil, 503, "no valid upstream node" .. (reason and ": " .. reason or "")
    end
    return up
end

-- Asks for the entry's health checker: with a new upstream, and when its health has changed, since checks may have ended
-- meanwhile.
local function look_for_checker(entry, up)
    local checker = env.checker(entry.key, entry.version, up)
    entry.checker = checker or nil
    entry.checked = checker ~= nil and up or nil
    return entry.checker
end

-- Apart from picker_of: a function that has a closure is not compiled by LuaJIT.
local function build_picker(entry, up, checker, health_version)
    local made, err = picker.new(up, entry.version, {
        random = env.random,
        clock = env.clock,
        dict = env.dict,
        key = type(entry.key) == "string" and entry.key or nil,
        old = entry.picker,
        health = checker and function(host, port)
            return checker:usable(host, port)
        end,
    })
    if not made then
        return nil, err
    end
    entry.picker, entry.picked, entry.health = made, up, health_version
    return made
end

local function picker_of(ctx, up)
    local mt = getmetatable(up)
    local entry = mt and mt.dpproxy_entry
    if not entry then
        -- A plugin's upstream, set without resolve(). In access, so this may yield.
        local resolved, _, err = M.resolve(ctx, up)
        if not resolved then
            return nil, err
        end
        up, entry = resolved, getmetatable(resolved).dpproxy_entry
    end
    local checker, health_version = nil, 0
    if up.checks and env.checker then
        checker = entry.checker
        health_version = checker and checker:health_version() or 0
        if entry.checked ~= up or health_version ~= entry.health then
            checker = look_for_checker(entry, up)
            health_version = checker and checker:health_version() or 0
        end
    end
    ctx.balancer_checker = checker
    if entry.picked ~= up or entry.health ~= health_version then
        return build_picker(entry, up, checker, health_version)
    end
    return entry.picker
end

-- The node for the first try or, called again, for a retry. Never yields. -> node | nil, err
function M.pick(ctx, up)
    local chosen = ctx.balancer_picker
    if chosen then
        chosen:after(ctx, nil, true)
    else
        local err
        chosen, err = picker_of(ctx, up)
        if not chosen then
            return nil, err
        end
        ctx.balancer_picker = chosen
    end
    local node, err = chosen:get(ctx)
    if not node then
        return nil, err
    end
    ctx.balancer_ip, ctx.balancer_port = node.host, node.port
    ctx.balancer_try_count = (ctx.balancer_try_count or 0) + 1
    return node
end

-- In a retry, before pick(): what ngx.balancer's get_last_failure said of the node before ("failed" or "next", and a status).
function M.failed(ctx, state, status)
    local checker = ctx.balancer_checker
    if not checker then
        return
    end
    if state ~= "failed" then
        checker:report(ctx.balancer_ip, ctx.balancer_port, "http", status)
    elseif status == 504 then
        checker:report(ctx.balancer_ip, ctx.balancer_port, "timeout")
    else
        checker:report(ctx.balancer_ip, ctx.balancer_port, "tcp")
    end
end

-- Did the last server of this request send a header? "0.001, -" has one time for each try.
local function no_header(ctx)
    local times = ctx.var.upstream_header_time
    return times == nil or find(times, "-%s*$") ~= nil
end

-- At the request's end, in log: the node is let go of, and its status reported. Without a pick it does nothing.
function M.done(ctx, status)
    local chosen = ctx.balancer_picker
    if not chosen then
        return
    end
    chosen:after(ctx, nil, false)
    ctx.balancer_picker, ctx.balancer_tried = nil, nil
    local checker = ctx.balancer_checker
    if checker then
        if (status == 502 or status == 504) and no_header(ctx) then
            -- The last try's failure, which no failed() was called for.
            checker:report(ctx.balancer_ip, ctx.balancer_port, status == 504 and "timeout" or "tcp")
        elseif checker.has_passive then
            checker:report(ctx.balancer_ip, ctx.balancer_port, "http", status)
        end
        ctx.balancer_checker = nil
    end
end

-- The Host that upstreams see: nil for the client's own (pass_host "pass"). Again for each retry: "node" depends on the node.
function M.host_header(ctx, value, node)
    local mode = value.pass_host or ctx.pass_host or "pass"
    if mode == "rewrite" then
        return value.upstream_host or ctx.upstream_host
    elseif mode == "node" then
        local scheme = ctx.upstream_scheme or value.scheme or "http"
        if node.upstream_host and scheme == (value.scheme or "http") then
            return node.upstream_host
        end
        return nodes_of.host_with_port(node, scheme)
    end
    return nil
end

-- How many more tries there are after the first.
function M.tries(value, node_count)
    local retries = value.retries
    if type(retries) ~= "number" or retries < 0 then
        retries = node_count - 1
    end
    return retries > 0 and retries or 0
end

-- When retries end, or nil for never. Only for requests that have retries.
function M.deadline(value, now)
    local seconds = value.retry_timeout
    if type(seconds) == "number" and seconds > 0 then
        return now + seconds
    end
    return nil
end

-- -> connect, send, read in seconds, or nil for nginx' own
function M.timeouts(route_value, value)
    local timeout = route_value and route_value.timeout or value.timeout
    if type(timeout) ~= "table" then
        return nil
    end
    return timeout.connect, timeout.send, timeout.read
end

return M
