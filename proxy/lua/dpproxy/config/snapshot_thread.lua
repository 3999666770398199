-- Writes the snapshot in a thread of its own (ngx.run_worker_thread), so that no request waits for the disk. It reads shared
-- memory, not the worker's tables: threads share nothing else.
require("resty.core.shdict")
local shared = require("dpproxy.config.shared")
local snapshot = require("dpproxy.config.snapshot")

local M = {}

-- -> seq, size | nil, err
function M.save(space, folder, prefix, time)
    local seq, size = snapshot.save(shared.new({dict = ngx.shared.dpproxy_config, space = space}), folder, prefix, time)
    collectgarbage() -- this Lua state may not run again for long
    return seq, size
end

return M
