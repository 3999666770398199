-- core.event: one handler per type, within the worker.
local M = {CONST = {BUILD_ROUTER = 1}}

local handlers = {}

function M.push(type, ...)
    local handler = handlers[type]
    if handler then
        handler(...)
    end
end

function M.register(type, handler)
    handlers[type] = handler
end

function M.unregister(type)
    handlers[type] = nil
end

return M
