-- Auth plugins that run inside of multi-auth say why they refuse, instead of what a client is told.
local M = {}

function M.is_running_under_multi_auth(ctx)
    return ctx._plugin_name == "multi-auth"
end

return M
