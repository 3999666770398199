-- core.config: objects from etcd as plugins see them. dpproxy.config.store holds them; new() only makes a view of one kind.
local config_local = require("apisix.core.config_local")
local log = require("apisix.core.log")

local str_match = string.match
local rawget, setmetatable = rawget, setmetatable

local M = {
    type = "etcd",
    local_conf = config_local.local_conf,
    clear_local_cache = config_local.clear_cache,
}

local views = {}

local function store()
    return require("dpproxy.config.store")
end

local methods = {}

function methods:get(id)
    return store().get(self.kind, id)
end

function methods.upgrade_version() end

function methods.close() end

local no_values = {}

local view_mt = {
    __index = function(self, key)
        if key == "values" then
            return store().list(rawget(self, "kind")) or no_values
        elseif key == "conf_version" then
            return store().version(rawget(self, "kind")) or 0
        end
        return methods[key]
    end,
}

-- key: "/routes" and so on. The options (checker, filter) are the store's own business.
function M.new(key, opts)
    local kind = str_match(key, "^/([%w_]+)$")
    if not kind then
        return nil, "no such kind of object: " .. key
    end
    if not views[key] then
        views[key] = setmetatable({kind = kind, key = key, single_item = opts and opts.single_item}, view_mt)
    end
    return views[key]
end

function M.fetch_created_obj(key)
    local view, err = M.new(key)
    if not view then
        log.warn("failed to fetch objects: ", err)
    end
    return view
end

function M.server_version()
    return nil, "not known here"
end

function M.init()
    return true
end

function M.init_worker()
    return true
end

return M
