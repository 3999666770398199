-- ctx.var.<name>: what is known of a request, looked up when asked for, and remembered for the request.
-- What a name means is found out once per name (classify), so that a lookup is two table reads and the getter.
local log = require("apisix.core.log")
local request = require("apisix.core.request")
local tablepool = require("apisix.core.tablepool")
local cookie_jar = require("resty.cookie")
local clear = require("table.clear")

local ngx = ngx
local type, error, pcall, setmetatable, tostring = type, error, pcall, setmetatable, tostring
local str_sub, str_lower, str_gsub, str_match = string.sub, string.lower, string.gsub, string.match

local M = {version = 0.2}

-- Not remembered: may change behind our back.
local uncached = {args = true, is_args = true}

-- Written through to nginx, where nginx.conf declares them.
local nginx_writable = {
    upstream_scheme = true,
    upstream_host = true,
    upstream_unresolved_host = true,
    upstream_upgrade = true,
    upstream_connection = true,
    upstream_uri = true,
    upstream_mirror_host = true,
    upstream_mirror_uri = true,
    upstream_mirror_grpc_path = true,
    upstream_cache_zone = true,
    upstream_cache_zone_info = true,
    upstream_no_cache = true,
    upstream_cache_key = true,
    upstream_cache_bypass = true,
    request_line = true,
    rate_limiting_info = true,
    apisix_request_id = true,
    original_x_forwarded_for = true,
}

-- Getters: fn(vars, argument of the name) -> value

local function nginx_var(_, name)
    return ngx.var[name]
end

local function ctx_field(vars, name)
    local ctx = vars._ctx
    return ctx and ctx[name]
end

local function first(value)
    if type(value) == "table" then
        return value[1]
    end
    return value
end

local function uri_arg(vars, name)
    return first(request.get_uri_args(vars._ctx)[name])
end

local function post_arg(vars, name)
    local content_type = request.header(nil, "Content-Type")
    if not content_type or str_sub(content_type, 1, 33) ~= "application/x-www-form-urlencoded" then
        return nil
    end
    return first(request.get_post_args(vars._ctx)[name])
end

local function body_arg(vars, path)
    local body_path = require("apisix.core.body_path")
    local body, err = request.get_request_body_table(vars._ctx, nil, body_path.max_size())
    if not body then
        log.warn("failed to fetch post args value by key: ", path, " error: ", err)
        return nil
    end
    return body_path.get(body, path)
end

local function uri_param(vars, name)
    local matched = vars._ctx.curr_req_matched
    return matched and matched[name]
end

local function graphql(vars, name)
    return require("apisix.core.graphql").of(vars._ctx)[name]
end

local function cookies()
    local jar = cookie_jar.new()
    return jar:get_all() and jar or nil
end

local function cookie_value(vars, name)
    local jar = vars.cookie
    return jar and jar.values[name]
end

local function method()
    return request.get_method()
end

local function resp_body(vars)
    return vars._ctx.resp_body or ""
end

local registered = {}

local function registered_var(vars, name)
    return registered[name](vars._ctx)
end

local exact = {
    method = method,
    cookie = cookies,
    resp_body = resp_body,
    balancer_ip = ctx_field,
    balancer_port = ctx_field,
    consumer_group_id = ctx_field,
    consumer_name = ctx_field,
    route_id = ctx_field,
    route_name = ctx_field,
    service_id = ctx_field,
    service_name = ctx_field,
    upstream_unresolved_host = ctx_field,
}

-- name -> getter, argument
local function classify(name)
    if exact[name] then
        return exact[name], name
    end
    local prefix = str_match(name, "^[^_.]*")
    if prefix == "cookie" and str_sub(name, 1, 7) == "cookie_" then
        return cookie_value, str_sub(name, 8)
    elseif prefix == "arg" and str_sub(name, 1, 4) == "arg_" then
        return uri_arg, str_sub(name, 5)
    elseif prefix == "post" and str_sub(name, 1, 9) == "post_arg_" then
        return post_arg, str_sub(name, 10)
    elseif prefix == "post" and str_sub(name, 1, 9) == "post_arg." then
        return body_arg, str_sub(name, 10)
    elseif prefix == "uri" and str_sub(name, 1, 10) == "uri_param_" then
        return uri_param, str_sub(name, 11)
    elseif prefix == "http" and str_sub(name, 1, 5) == "http_" then
        return nginx_var, (str_gsub(str_lower(name), "-", "_"))
    elseif prefix == "graphql" and str_sub(name, 1, 8) == "graphql_" then
        return graphql, str_sub(name, 9)
    elseif registered[name] then
        return registered_var, name
    end
    return nginx_var, name
end

-- Names come from configuration, whose number is bounded at any time but not over the years.
local getters, arguments, known = {}, {}, 0

local function getter_of(name)
    if type(name) ~= "string" then
        error("invalid argument, expect string value", 3)
    end
    if known >= 8192 then
        getters, arguments, known = {}, {}, 0
    end
    local getter, argument = classify(name)
    getters[name], arguments[name] = getter, argument
    known = known + 1
    return getter
end

local refused = {}

local function set_nginx_var(name, value)
    ngx.var[name] = value
end

local function write_through(name, value)
    if refused[name] then
        return
    end
    local ok, err = pcall(set_nginx_var, name, value)
    if not ok then
        refused[name] = true
        log.warn("variable ", name, " is not declared in nginx.conf: ", tostring(err))
    end
end

local vars_mt = {
    __index = function(vars, name)
        local cache = vars._cache
        local value = cache[name]
        if value ~= nil then
            return value
        end
        local getter = getters[name] or getter_of(name)
        value = getter(vars, arguments[name])
        if value ~= nil and not uncached[name] then
            cache[name] = value
        end
        return value
    end,
    __newindex = function(vars, name, value)
        if nginx_writable[name] then
            write_through(name, value)
        end
        local cache = vars._cache
        if value ~= nil or cache[name] ~= nil then -- a nil would take a place in the table, too
            cache[name] = value
        end
    end,
}

-- A variable of a plugin's: getter(ctx) -> value. opts.no_cacheable: ask it every time.
function M.register_var(name, getter, opts)
    if type(getter) ~= "function" then
        error("the getter of registered var should be a function", 2)
    end
    registered[name] = getter
    exact[name] = registered_var
    getters[name], arguments[name] = registered_var, name
    if opts and opts.no_cacheable then
        uncached[name] = true
    end
end

-- A var that stays with its ctx from request to request; between two of them it is emptied.
function M.new_vars(ctx)
    return setmetatable({_cache = {}, _ctx = ctx}, vars_mt)
end

function M.empty_vars(vars)
    clear(vars._cache)
end

-- Gives ctx its var; release_vars takes it back. The tables are pooled.
function M.set_vars_meta(ctx)
    local vars = tablepool.fetch("ctx_var", 0, 4)
    if not vars._cache then
        vars._cache = {}
    end
    vars._ctx = ctx
    ctx.var = setmetatable(vars, vars_mt)
end

function M.release_vars(ctx)
    local vars = ctx.var
    if not vars then
        return
    end
    ctx.var = nil
    clear(vars._cache)
    setmetatable(vars, nil)
    vars._ctx = nil
    tablepool.release("ctx_var", vars, true)
end

return M
