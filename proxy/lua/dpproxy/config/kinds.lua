-- Kinds of configuration, and which key is what.
local find, sub = string.find, string.sub

local M = {}

M.list = {
    "routes", "services", "upstreams", "consumers", "consumer_groups", "plugin_configs", "global_rules", "plugin_metadata",
    "plugins", "ssls", "secrets", "protos", "stream_routes",
}

M.is_kind = {}
for _, kind in ipairs(M.list) do
    M.is_kind[kind] = true
end

-- path: what follows "<prefix>/" -> kind, short key | nil for what is no object: placeholders, bookkeeping, other programs' keys
function M.split(path)
    if path == "plugins" then
        return "plugins", "plugins"
    end
    local slash = find(path, "/", 1, true)
    if not slash or slash == #path then
        return nil
    end
    local kind, short_key = sub(path, 1, slash - 1), sub(path, slash + 1)
    if not M.is_kind[kind] or kind == "plugins" then
        return nil
    end
    if kind == "services" and find(short_key, "/", 1, true) then
        return nil -- what APISIX keeps below a service
    end
    return kind, short_key
end

-- "/apisix/" -> "/apisix"
function M.prefix(text)
    local prefix = (text or "/apisix"):gsub("/+$", "")
    if sub(prefix, 1, 1) ~= "/" then
        prefix = "/" .. prefix
    end
    return prefix
end

-- A text that stands for no object at all: an empty value, and APISIX' placeholder.
function M.is_absent(text)
    return text == nil or text == "" or text == "init_dir"
end

return M
