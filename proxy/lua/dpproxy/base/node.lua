-- The node's own configuration: what the launcher made of flags, environment and configuration file. Read once by the master.
local files = require("dpproxy.base.files")
local json = require("dpproxy.base.json")

local M = {}

local conf

local file

local function read()
    local text, err = files.read(file)
    if not text then
        return nil, err
    end
    return json.decode(text)
end

-- path of node.json -> conf; throws, since nothing works without it
function M.load(path)
    file = path
    conf = assert(read())
    return conf
end

-- What the launcher wrote last, for a hot reload of plugins -> conf | nil, err
function M.reload()
    return read()
end

-- For tests.
function M.set(value)
    conf = value
end

function M.get()
    return conf
end

return M
