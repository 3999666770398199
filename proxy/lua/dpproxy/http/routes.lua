-- The router of this worker, kept in step with the store.
local store = require("dpproxy.config.store")
local router_lib = require("dpproxy.router")

local ngx = ngx

local M = {}

local router

local function service_of(id)
    return store.get("services", id)
end

local function on_error(item, err)
    -- A filter_func may put what a client sent into its message: that is one line of the log all the same.
    ngx.log(ngx.ERR, "route ", item.short_key, " does not match: ", (tostring(err):gsub("%c+", " ")))
end

-- Routes that look at headers: their number, and which ones.
local with_vars, looking = 0, {}

local function looks(item)
    return item ~= nil and (item.value.vars ~= nil or item.value.filter_func ~= nil)
end

local function count(short_key, is)
    if (looking[short_key] or false) ~= is then
        with_vars = with_vars + (is and 1 or -1)
        looking[short_key] = is or nil
    end
end

-- Could a match depend on the request's headers?
function M.look_at_headers()
    return with_vars > 0
end

local function upsert(item)
    local ok, err = router:upsert(item)
    if not ok then
        ngx.log(ngx.ERR, "route ", item.short_key, " is not routed: ", err)
    end
end

local function route_changed(new, _, short_key)
    count(short_key, looks(new))
    if new then
        upsert(new)
    else
        router:remove(short_key)
    end
end

local function service_changed(_, _, short_key)
    router:service_changed(short_key)
end

function M.init_worker(conf)
    router = router_lib.new(conf.apisix.router.http, {service_of = service_of, on_error = on_error})
    store.subscribe("routes", route_changed)
    store.subscribe("services", service_changed)
end

function M.match(req, matched)
    return router:match(req, matched)
end

return M
