-- core.etcd for plugins: reads come from the configuration that is here already, in the shapes of APISIX. A gateway has no
-- business writing into etcd, as with APISIX' own role data_plane, so writes are refused.
local log = require("apisix.core.log")

local str_match = string.match

local M = {}

local function refuse(name)
    return function()
        local err = "data plane role should not write to etcd: " .. name
        log.error(err)
        return nil, err
    end
end

M.set = refuse("set")
M.atomic_set = refuse("atomic_set")
M.push = refuse("push")
M.delete = refuse("delete")
M.rmdir = refuse("rmdir")
M.keepalive = refuse("keepalive")

local function node(item)
    return {key = item.key, value = item.value, createdIndex = item.createdIndex, modifiedIndex = item.modifiedIndex}
end

local not_found = {message = "Key not found"}

-- key: "/routes/1" or, with is_dir, "/routes".
function M.get(key, is_dir)
    local store = require("dpproxy.config.store")
    local kind, id = str_match(key, "^/([%w_]+)/?(.*)$")
    if not kind then
        return nil, "no such key: " .. key
    end
    if is_dir or id == "" then
        local nodes = {}
        for i, item in ipairs(store.list(kind) or {}) do
            nodes[i] = node(item)
        end
        return {status = 200, body = {node = {dir = true, key = key, nodes = nodes}, total = #nodes}, headers = {}}
    end
    local item = store.get(kind, id)
    if not item then
        return {status = 404, body = not_found, headers = {}}
    end
    return {status = 200, body = {node = node(item)}, headers = {}}
end

function M.new()
    return nil, "plugins get no etcd client here"
end

function M.server_version()
    return nil, "not known here"
end

return M
