-- traffic-split: sends requests that match a rule to other upstreams than the route's, by weight.
local core = require("apisix.core")
local vars = require("dpproxy.plugin.vars")

local ipairs = ipairs

local schema = {
    type = "object",
    properties = {
        rules = {
            type = "array",
            items = {
                type = "object",
                properties = {
                    match = {
                        type = "array",
                        items = {type = "object", properties = {vars = {type = "array"}}},
                    },
                    weighted_upstreams = {
                        type = "array",
                        items = {
                            type = "object",
                            properties = {
                                upstream_id = core.schema.id_schema or {},
                                upstream = core.schema.upstream or {type = "object"},
                                weight = {type = "integer", default = 1, minimum = 0},
                            },
                        },
                        default = {{weight = 1}},
                        minItems = 1,
                        maxItems = 20,
                    },
                },
            },
        },
    },
}

local M = {
    version = 0.1,
    priority = 966,
    name = "traffic-split",
    schema = schema,
}

function M.check_schema(conf)
    local ok, err = core.schema.check(schema, conf)
    if not ok then
        return false, err
    end
    for _, rule in ipairs(conf.rules or {}) do
        for _, one in ipairs(rule.match or {}) do
            if one.vars then
                ok, err = vars.check(one.vars)
                if not ok then
                    return false, "failed to validate the 'vars' expression: " .. err
                end
            end
        end
    end
    return true
end

local function applies(rule, ctx)
    if not rule.match then
        return true
    end
    for _, one in ipairs(rule.match) do
        if not one.vars or vars.match(one.vars, ctx) then
            return true
        end
    end
    return false
end

local upstream_count = 0

-- What of an inline upstream counts, under a key of its own: pickers and health are remembered by key.
local function prepared(upstream)
    upstream_count = upstream_count + 1
    return {
        key = "traffic-split#" .. upstream_count,
        conf = {
            name = upstream.name,
            type = upstream.type or "roundrobin",
            hash_on = upstream.hash_on,
            key = upstream.key,
            pass_host = upstream.pass_host,
            upstream_host = upstream.upstream_host,
            nodes = upstream.nodes,
            timeout = upstream.timeout,
            scheme = upstream.scheme,
        },
    }
end

-- weighted_upstreams -> targets with their state in this worker
local wheels = setmetatable({}, {__mode = "k"})

local function wheel_of(list)
    local wheel = wheels[list]
    if not wheel then
        wheel = {total = 0}
        for i, entry in ipairs(list) do
            local weight = entry.weight or 1
            wheel[i] = {
                weight = weight,
                current = 0,
                upstream_id = entry.upstream_id,
                upstream = not entry.upstream_id and entry.upstream and prepared(entry.upstream) or nil,
            }
            wheel.total = wheel.total + weight
        end
        wheels[list] = wheel
    end
    return wheel
end

-- Smooth weighted round robin: over `total` requests each target gets its weight, spread evenly.
local function turn(wheel)
    local best
    for i = 1, #wheel do
        local target = wheel[i]
        if target.weight > 0 then
            target.current = target.current + target.weight
            if not best or target.current > best.current then
                best = target
            end
        end
    end
    if best then
        best.current = best.current - wheel.total
    end
    return best
end

local function missing_upstream(list)
    local store = require("dpproxy.config.store")
    for i = 1, #list do
        local id = list[i].upstream_id
        if id and not store.get("upstreams", tostring(id)) then
            return id
        end
    end
end

function M.access(conf, ctx)
    for _, rule in ipairs(conf.rules or {}) do
        local list = rule.weighted_upstreams
        local missing = list and missing_upstream(list)
        if missing then
            return 500, "failed to fetch upstream info by upstream id: " .. missing
        end
        if applies(rule, ctx) then
            local target = list and turn(wheel_of(list))
            if not target then
                return
            end
            if target.upstream then
                ctx.upstream_conf = target.upstream.conf
                ctx.upstream_key = target.upstream.key
                ctx.upstream_version = 1
            else
                -- nil: the route's own
                ctx.upstream_id = target.upstream_id
            end
            return
        end
    end
end

return M
