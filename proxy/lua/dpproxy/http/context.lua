-- The tables of a request that goes the whole way: its ctx, ctx.var, what the router matched, ngx.ctx. Requests hand them on
-- to each other, and the names of ctx's fields stay in it: a new name in a table costs more than most of what is done with it.
local core_ctx = require("apisix.core.ctx")
local clear = require("table.clear")
local nkeys = require("table.nkeys")

local concat = table.concat
local ipairs, loadstring = ipairs, loadstring

local M = {}

-- What our own code, and plugins that are used much, put into ctx. Other fields cost a little more, no more.
M.fields = {
    "_apisix_proxied", "_body_buffer", "_meta_filter", "_plugin_failed", "_plugin_name", "_resp_source", "_skip_plugins",
    "balancer_checker", "balancer_group", "balancer_hash", "balancer_ip", "balancer_node", "balancer_picker", "balancer_port",
    "balancer_server", "balancer_tried", "balancer_try_count", "conf_id", "conf_type", "conf_version", "consumer",
    "consumer_group_id", "consumer_name", "consumer_ver", "curr_req_matched", "dpproxy_answered", "dpproxy_conf",
    "dpproxy_deadline", "dpproxy_filtered", "dpproxy_item", "dpproxy_plugins", "dpproxy_tables", "dpproxy_tls_slot", "dpproxy_up",
    "global_conf", "global_plugins", "matched_route", "matched_upstream", "picked_server", "plugins", "proxy_passed",
    "req_uri_args", "route_id", "route_name", "service_id", "service_name", "upstream_conf", "upstream_key", "upstream_scheme",
    "upstream_version", "var",
}

-- A function that makes a table with all the names, and one that takes their values out. As code, since LuaJIT knows where in a
-- table a constant name is.
local function generate()
    local made, emptied = {}, {}
    for i, name in ipairs(M.fields) do
        made[i] = name .. " = false"
        emptied[i] = "ctx." .. name .. " = nil"
    end
    return loadstring("return {" .. concat(made, ", ") .. "}", "=new_ctx"),
        loadstring("local ctx = ... " .. concat(emptied, " "), "=empty_ctx")
end

local new_ctx, empty = generate()

local max_kept = 200
local kept, count = {}, 0

-- A ctx without values, and its var. Also for tables whose ctx has somebody's own fields: they go with it.
local function set_ctx(tables)
    local ctx = new_ctx()
    empty(ctx)
    tables.ctx, tables.vars = ctx, core_ctx.new_vars(ctx)
    return tables
end

-- -> ctx. The rest is in ctx.dpproxy_tables: matched, for the router; ngx_ctx, which may become ngx.ctx.
function M.take()
    local tables
    if count > 0 then
        tables = kept[count]
        kept[count] = false
        count = count - 1
    else
        tables = set_ctx({matched = {}, ngx_ctx = {}})
    end
    local ctx = tables.ctx
    ctx.dpproxy_tables, ctx.var = tables, tables.vars
    return ctx
end

-- At a request's end, when nobody has these tables any more.
function M.give_back(ctx)
    local tables = ctx.dpproxy_tables
    if not tables or count >= max_kept then
        return
    end
    core_ctx.empty_vars(tables.vars)
    empty(ctx)
    if nkeys(ctx) > 0 then
        set_ctx(tables)
    end
    local ngx_ctx = tables.ngx_ctx
    ngx_ctx.api_ctx = nil
    if nkeys(ngx_ctx) > 0 then
        tables.ngx_ctx = {}
    end
    clear(tables.matched)
    count = count + 1
    kept[count] = tables
end

return M
