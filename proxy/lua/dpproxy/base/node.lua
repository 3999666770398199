-- The node's own configuration: what the launcher made of flags, environment and configuration file. Read once by the master.
local json = require("dpproxy.base.json")

local M = {}

local conf

-- path of node.json -> conf; throws, since nothing works without it
function M.load(path)
    local handle = assert(io.open(path, "r"))
    local text = handle:read("*a")
    handle:close()
    conf = assert(json.decode(text))
    return conf
end

-- For tests.
function M.set(value)
    conf = value
end

function M.get()
    return conf
end

return M
