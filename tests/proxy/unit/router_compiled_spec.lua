-- What most requests take through the router is compiled: LuaJIT gives up on code with a loop that is never repeated, for good
-- after a few attempts, and then all that calls it stays interpreted.
local router_lib = require("dpproxy.router")
local util = require("jit.util")
local vmdef = require("jit.vmdef")

-- LuaJIT remembers some dozen failures, and so learns that a loop is not repeated; in a worker others make it forget.
local others = {}
for i = 1, 200 do
    others[i] = loadstring("local x = ... for i = 1, 1 do x = x + i end return x", "other" .. i)
end

local ours = {router = true, paths = true, prefixes = true}

-- Calls of a function -> how many attempts to compile something of the router failed at a loop, and where
local function failures(fn)
    local found, first = 0, "none"
    local function on_trace(what, _, func, pc, err)
        if what == "abort" and type(err) == "number" then
            local reason, at = vmdef.traceerr[err], util.funcinfo(func, pc).loc or ""
            if ours[at:match("^%a+")] and (reason:find("loop", 1, true) or reason:find("blacklisted", 1, true)) then
                found = found + 1
                first = found == 1 and at .. ": " .. reason or first
            end
        end
    end
    jit.flush()
    jit.attach(on_trace, "trace")
    jit.off(fn, false) -- as nginx calls a phase: only what is inside of it can be compiled
    for i = 1, 20000 do
        fn()
        others[i % #others + 1](i)
    end
    jit.attach(on_trace)
    return found, first
end

local function router_of(route)
    local r = assert(router_lib.new("radixtree_host_uri"))
    for i = 1, 300 do
        local value = route(i)
        value.id = tostring(i)
        assert(r:upsert({short_key = value.id, value = value, order = i, kind = "routes"}))
    end
    return r
end

describe("a match is compiled:", function()
    local shapes = {
        {"an exact path", {uri = "/service77/x"}, function(i)
            return {uri = "/service" .. i .. "/x", methods = {"GET", "POST"}}
        end},
        {"a prefix", {uri = "/7/service77/x"}, function(i)
            return {uri = "/" .. i % 10 .. "/service" .. i .. "/*", methods = {"GET", "POST"}}
        end},
        {"a host and a prefix", {uri = "/service/x", host = "h77.example.com"}, function(i)
            return {uri = "/service/*", host = "h" .. i .. ".example.com"}
        end},
        {"a wildcard for hosts and a prefix", {uri = "/service/x", host = "www.h77.example.com"}, function(i)
            return {uri = "/service/*", host = "*.h" .. i .. ".example.com"}
        end},
    }
    for _, shape in ipairs(shapes) do
        it(shape[1], function()
            local r, req, matched = router_of(shape[3]), shape[2], {}
            req.method, req.host = "GET", req.host or "api.example.com"
            local count, first = failures(function()
                assert(r:match(req, matched).short_key == "77")
            end)
            -- A few: the loop over the path's bytes may not be hot yet when what is around it is.
            assert.is_true(count <= 20, count .. " attempts to compile it failed, the first at " .. first)
        end)
    end
end)
