-- The two numbers that a limiter's configuration, or each of its `rules`, has (a count and a window; places and a burst), which
-- may be templates with variables; and the walk over the rules.
local core = require("apisix.core")
local limit_key = require("dpproxy.limit.key")

local M = {}

-- names: {first field, its least value, second field, its least value}. from: the configuration or a rule.
-- -> first, second | nil, nil, err
function M.numbers(from, ctx, names)
    local first, err = limit_key.number(from[names[1]], ctx, names[2])
    if not first then
        return nil, nil, err
    end
    local second
    second, err = limit_key.number(from[names[3]], ctx, names[4])
    if not second then
        return nil, nil, err
    end
    return first, second
end

-- Calls run(conf, ctx, value, first, second, rule, i) for each rule about something that the request has, until one ends it.
-- What a client may control must not switch a limit off: a bad number is an error, as it is when no rule applies at all.
-- failed(conf, err) -> code, body. -> code, body | nothing
function M.walk(conf, ctx, names, run, failed)
    local applied = 0
    for i = 1, #conf.rules do
        local rule = conf.rules[i]
        local value, _, resolved = core.utils.resolve_var(rule.key, ctx.var)
        if value and resolved ~= 0 then
            local first, second, err = M.numbers(rule, ctx, names)
            if not first then
                return failed(conf, err)
            end
            applied = applied + 1
            -- Two rules may find the same value: each counts by itself.
            local code, body = run(conf, ctx, i .. ":" .. value, first, second, rule, i)
            if code then
                return code, body
            end
        end
    end
    if applied == 0 and not conf.allow_degradation then
        core.log.error("no rule of the limit applies to the request")
        return 500
    end
end

return M
