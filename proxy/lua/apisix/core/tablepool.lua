-- core.tablepool: tables that requests hand on to each other.
local clear = require("table.clear")
local new_tab = require("table.new")

local max_pooled = 200

local M = {}

local pools = {}

function M.fetch(tag, narr, nrec)
    local pool = pools[tag]
    if not pool then
        pools[tag] = {n = 0}
        return new_tab(narr or 0, nrec or 0)
    end
    local n = pool.n
    if n == 0 then
        return new_tab(narr or 0, nrec or 0)
    end
    local obj = pool[n]
    pool[n] = false
    pool.n = n - 1
    return obj
end

function M.release(tag, obj, noclear)
    if not obj then
        error("object empty", 2)
    end
    local pool = pools[tag]
    if not pool then
        pool = {n = 0}
        pools[tag] = pool
    end
    if pool.n >= max_pooled then
        return
    end
    if not noclear then
        setmetatable(obj, nil)
        clear(obj)
    end
    local n = pool.n + 1
    pool[n] = obj
    pool.n = n
end

return M
