-- The control API (spec 6.3), for people and scripts on this machine.
local apis = require("dpproxy.plugin.api")
local core_response = require("apisix.core.response")
local health = require("dpproxy.health")
local health_page = require("dpproxy.health.page")
local json = require("dpproxy.base.json")
local loader = require("dpproxy.plugin.loader")
local schemas = require("dpproxy.schema.control")
local store = require("dpproxy.config.store")
local streams = require("dpproxy.stream.owner")
local utf8 = require("dpproxy.base.utf8")

local ngx = ngx
local assert, ipairs, type = assert, ipairs, type

local M = {}

-- Items without what is ours alone; keys of certificates are nobody's business here.
local function shown(item)
    return {
        key = item.key, value = item.value, createdIndex = item.createdIndex, modifiedIndex = item.modifiedIndex,
        clean_handlers = {}, has_domain = false, update_count = 0,
    }
end

local function list_of(kind)
    return function()
        local list = json.as_array({})
        for i, item in ipairs((store.list(kind))) do
            list[i] = shown(item)
        end
        return 200, list
    end
end

local function one_of(kind, what)
    return function(id)
        local item = store.get(kind, id)
        if not item then
            return 404, {error_msg = what .. " id: " .. id .. " not found"}
        end
        return 200, shown(item)
    end
end

local function plugin_metadata(name)
    local item = store.get("plugin_metadata", name)
    if not item then
        return 404, {error_msg = "plugin metadata[" .. name .. "] not found"}
    end
    return 200, item.value
end

local function plugin_metadatas()
    local list = json.as_array({})
    for i, item in ipairs((store.list("plugin_metadata"))) do
        list[i] = item.value
    end
    return 200, list
end

local function rejected()
    local list = json.as_array({})
    for _, source in ipairs({store.rejected(), streams.rejected()}) do
        for _, entry in ipairs(source) do
            list[#list + 1] = entry
        end
    end
    return 200, list
end

local function collect_garbage()
    collectgarbage()
    return 200
end

local function reload_plugins()
    local ok, err = loader.reload()
    if ok == false or (ok == nil and err) then
        return 503, {error_msg = err}
    end
    return 200, "done"
end

-- JSON, or a page for a browser.
local function health_answer(list, value)
    local accept = ngx.var.http_accept
    if accept and accept:find("text/html", 1, true) then
        ngx.header["Content-Type"] = "text/html"
        return 200, health_page.of(list)
    end
    return 200, value
end

local checked_kinds = {routes = true, services = true, upstreams = true, stream_routes = true}

local function health_of(kind, id)
    if not checked_kinds[kind] then
        return 400, {error_msg = "invalid src type " .. kind}
    end
    local found = health.status(kind, id)
    if not found then
        return 404, {error_msg = "no checker for " .. kind .. "[" .. id .. "]"}
    end
    return health_answer({found}, found)
end

local function all_health()
    local list = json.as_array(health.control())
    return health_answer(list, list)
end

local function all_schemas()
    return 200, schemas.all()
end

local exact = {
    ["GET /v1/routes"] = list_of("routes"),
    ["GET /v1/services"] = list_of("services"),
    ["GET /v1/upstreams"] = list_of("upstreams"),
    ["GET /v1/plugin_metadatas"] = plugin_metadatas,
    ["GET /v1/schema"] = all_schemas,
    ["GET /v1/healthcheck"] = all_health,
    ["GET /v1/rejected"] = rejected,
    ["GET /v1/config_status"] = function() return 200, store.status() end,
    ["POST /v1/gc"] = collect_garbage,
    ["PUT /v1/plugins/reload"] = reload_plugins,
}

local by_id = {
    ["GET /v1/route"] = one_of("routes", "route"),
    ["GET /v1/service"] = one_of("services", "service"),
    ["GET /v1/upstream"] = one_of("upstreams", "upstream"),
    ["GET /v1/plugin_metadata"] = plugin_metadata,
}

-- Keys and values in etcd may be anything; what we answer is JSON.
local function answer(code, body)
    if type(body) == "table" then
        body = utf8.valid(assert(json.encode(body))) .. "\n"
    end
    return core_response.exit(code, body)
end

function M.run()
    store.refresh()
    local method, uri = ngx.req.get_method(), ngx.var.uri
    local handler = exact[method .. " " .. uri]
    if handler then
        return answer(handler())
    end
    local kind, id = uri:match("^/v1/healthcheck/([^/]+)/(.+)$")
    if kind and method == "GET" then
        return answer(health_of(kind, id))
    end
    local path, short_key = uri:match("^(/v1/[^/]+)/(.+)$")
    handler = path and by_id[method .. " " .. path]
    if handler then
        return answer(handler(short_key))
    end
    handler = apis.find("control_api", method, uri)
    if handler then
        return answer(handler({}))
    end
    return answer(404)
end

return M
