-- Writes nginx' configuration language. Every argument is quoted, so that no value can end its directive; only raw() is taken as
-- it is.
local M = {}
local Writer = {}
Writer.__index = Writer

function M.new()
    return setmetatable({lines = {}, depth = 0}, Writer)
end

-- A word as one argument. A "$" stays: values that must not have one are checked before (values.lua).
function M.quote(value)
    value = tostring(value)
    if value:find("^[%w_./:@*+=,$-]+$") then
        return value
    end
    return '"' .. value:gsub('[\\"]', "\\%0") .. '"'
end

local function line(self, text)
    self.lines[#self.lines + 1] = ("    "):rep(self.depth) .. text
end

local function words(name, ...)
    local out = {name}
    for i = 1, select("#", ...) do
        local value = select(i, ...)
        if value ~= nil and value ~= "" then
            out[#out + 1] = M.quote(value)
        end
    end
    return table.concat(out, " ")
end

-- w:set("keepalive_timeout", "60s"): empty and nil arguments are left out
function Writer:set(name, ...)
    line(self, words(name, ...) .. ";")
end

-- The same for a directive whose last argument may be empty text.
function Writer:set_empty(name, ...)
    line(self, words(name, ...) .. ' "";')
end

-- An entry of a map: both parts are data, and the value may be empty.
function Writer:set_quoted(key, value)
    line(self, M.quote(key) .. ' "' .. tostring(value):gsub('[\\"]', "\\%0") .. '";')
end

function Writer:open(name, ...)
    line(self, words(name, ...) .. " {")
    self.depth = self.depth + 1
end

function Writer:close()
    self.depth = self.depth - 1
    line(self, "}")
end

-- Lua code of ours, one line.
function Writer:lua(name, code)
    line(self, name .. " { " .. code .. " }")
end

-- A snippet: the administrator's own nginx configuration.
function Writer:raw(text)
    if text and text ~= "" then
        for each in text:gmatch("[^\n]+") do
            line(self, each)
        end
    end
end

function Writer:comment(text)
    line(self, "# " .. text)
end

function Writer:text()
    return table.concat(self.lines, "\n") .. "\n"
end

return M
