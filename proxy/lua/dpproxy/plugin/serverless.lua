-- What serverless-pre-function and serverless-post-function have in common: Lua functions from the configuration.
local core = require("apisix.core")

local ipairs, loadstring, pcall, type = ipairs, loadstring, pcall, type

local phases = {"rewrite", "access", "header_filter", "body_filter", "log", "before_proxy"}

local schema = {
    type = "object",
    properties = {
        phase = {type = "string", default = "access", enum = phases},
        functions = {type = "array", items = {type = "string"}, minItems = 1},
    },
    required = {"functions"},
}

local M = {}

-- configuration -> its functions. A function keeps its upvalues for as long as its configuration is in use.
local loaded = setmetatable({}, {__mode = "k"})

local function load(conf)
    local functions = {}
    for i, source in ipairs(conf.functions) do
        functions[i] = loadstring(source)()
    end
    loaded[conf] = functions
    return functions
end

local function check_schema(conf)
    local ok, err = core.schema.check(schema, conf)
    if not ok then
        return false, err
    end
    for _, source in ipairs(conf.functions) do
        local chunk
        chunk, err = loadstring(source)
        if not chunk then
            return false, "failed to loadstring: " .. err
        end
        local done, value = pcall(chunk)
        if not done then
            return false, "pcall error: " .. tostring(value)
        end
        if type(value) ~= "function" then
            return false, "only accept Lua function, the input code type is " .. type(value)
        end
    end
    return true
end

function M.new(name, priority)
    local plugin = {version = 0.1, priority = priority, name = name, schema = schema, check_schema = check_schema}
    for _, phase in ipairs(phases) do
        plugin[phase] = function(conf, ctx)
            if phase ~= conf.phase then
                return
            end
            local functions = loaded[conf] or load(conf)
            for i = 1, #functions do
                local code, body = functions[i](conf, ctx)
                if code or body then
                    return code, body
                end
            end
        end
    end
    return plugin
end

return M
