-- core.config.local_conf(): dpproxy's configuration file, with APISIX' key names. dpproxy.http gives it to set() once, before the
-- plugins are loaded.
local M = {}

local conf = {}
local reader

function M.set(new_conf, reread)
    conf = new_conf
    reader = reread
end

-- force: read the file again (a hot reload of plugins).
function M.local_conf(force)
    if force and reader then
        local fresh, err = reader()
        if not fresh then
            return nil, err
        end
        conf = fresh
    end
    return conf
end

function M.clear_cache() end

return M
