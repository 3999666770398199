-- core.table: the table library, and what it lacks.
local clear = require("table.clear")
local clone = require("table.clone")
local isarray = require("table.isarray")
local isempty = require("table.isempty")
local new_tab = require("table.new")
local nkeys = require("table.nkeys")

local type, pairs, ipairs, select, tostring = type, pairs, ipairs, select, tostring
local getmetatable, setmetatable = getmetatable, setmetatable
local str_sub, str_gmatch = string.sub, string.gmatch
local null = require("dpproxy.base.json").null

local M = {
    version = 0.2,
    new = new_tab,
    clear = clear,
    nkeys = nkeys,
    insert = table.insert,
    concat = table.concat,
    sort = table.sort,
    clone = clone,
    isarray = isarray,
    isempty = isempty,
}

function M.insert_tail(tab, ...)
    local n = #tab
    for i = 1, select("#", ...) do
        n = n + 1
        tab[n] = (select(i, ...))
    end
    return n
end

function M.set(tab, ...)
    for i = 1, select("#", ...) do
        tab[i] = (select(i, ...))
    end
end

-- t.a.b.c, or nil as soon as one step is no table.
function M.try_read_attr(tab, ...)
    for i = 1, select("#", ...) do
        if type(tab) ~= "table" then
            return nil
        end
        tab = tab[(select(i, ...))]
    end
    return tab
end

function M.array_find(array, value)
    if type(array) ~= "table" then
        return nil
    end
    for i, v in ipairs(array) do
        if v == value then
            return i
        end
    end
    return nil
end

-- Lua 5.1 tables know no __gc: a userdata inside the table stands in.
function M.setmt__gc(t, mt)
    local guard = newproxy(true)
    getmetatable(guard).__gc = function()
        mt.__gc(t)
    end
    t[guard] = true
    return setmetatable(t, mt)
end

local function is_shallow(path, parent, opts)
    if M.array_find(opts.shallows, path) then
        return true
    end
    local prefix = opts.shallow_prefix
    return prefix ~= nil and (parent == prefix or str_sub(parent, 1, #prefix + 1) == prefix .. ".")
end

local function copy_with(orig, copied, parent, opts)
    local n = #orig
    local copy = new_tab(n, nkeys(orig) - n)
    copied[orig] = copy -- a table that is met twice, or contains itself, stays one table
    for k, v in pairs(orig) do
        if type(v) == "table" then
            local path = opts and parent .. "." .. tostring(k)
            if not (opts and is_shallow(path, parent, opts)) then
                v = copied[v] or copy_with(v, copied, path, opts)
            end
        end
        copy[k] = v
    end
    return setmetatable(copy, getmetatable(orig))
end

-- opts.shallows: paths ("self.a.b") whose value is shared; opts.shallow_prefix: all members below that path are.
function M.deepcopy(orig, opts)
    if type(orig) ~= "table" then
        return orig
    end
    return copy_with(orig, {}, "self", opts)
end

-- Objects are merged into, arrays replaced, nulls delete.
local function merge(origin, extend)
    for k, v in pairs(extend) do
        if v == null then
            origin[k] = nil
        elseif type(v) == "table" and type(origin[k]) == "table" and not isarray(origin[k]) and not isarray(v) then
            merge(origin[k], v)
        else
            origin[k] = v
        end
    end
    return origin
end
M.merge = merge

-- Sets conf at the "/"-separated path. Returns status, message, or nil, nil, the node.
function M.patch(node_value, sub_path, conf)
    local names = {}
    for name in str_gmatch(sub_path .. "/", "([^/]*)/") do
        names[#names + 1] = name
    end
    local value = node_value
    for i = 1, #names - 1 do
        if value[names[i]] == nil then
            value[names[i]] = {}
        end
        value = value[names[i]]
        if type(value) ~= "table" then
            return 400, "invalid sub-path: /" .. M.concat(names, "/", 1, i)
        end
    end
    if type(value) ~= "table" then
        return 400, "invalid sub-path: /" .. sub_path
    end
    local last = names[#names]
    if last and last ~= "" then
        value[last] = conf
    else
        node_value = conf
    end
    return nil, nil, node_value
end

-- Have both the same keys?
function M.set_eq(a, b)
    if nkeys(a) ~= nkeys(b) then
        return false
    end
    for k in pairs(a) do
        if b[k] == nil then
            return false
        end
    end
    return true
end

local function deep_eq(a, b)
    if type(a) ~= "table" or type(b) ~= "table" then
        return a == b
    end
    if nkeys(a) ~= nkeys(b) then
        return false
    end
    for k, v in pairs(a) do
        if not deep_eq(v, b[k]) then
            return false
        end
    end
    return true
end
M.deep_eq = deep_eq

function M.pick(obj, attrs)
    local picked = {}
    for k, v in pairs(obj) do
        if attrs[k] ~= nil then
            picked[k] = v
        end
    end
    return picked
end

return setmetatable(M, {__index = table})
