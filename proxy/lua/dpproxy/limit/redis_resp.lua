-- The Redis protocol (RESP2) over a socket's send and receive. No ngx in here.
local concat, tonumber, tostring, type = table.concat, tonumber, tostring, type
local byte, match, sub = string.byte, string.match, string.sub

local M = {}

local MAX_BULK = 1048576
local MAX_ELEMENTS = 100000     -- in one reply, nested ones too
local MAX_DEPTH = 5

-- A command as bytes: an array of bulk strings.
function M.encode(args)
    local parts = {"*" .. #args .. "\r\n"}
    for i = 1, #args do
        local text = tostring(args[i])
        parts[i + 1] = "$" .. #text .. "\r\n" .. text .. "\r\n"
    end
    return concat(parts)
end

-- Whole numbers only: tonumber() would take "nan", "1e9" and "0x10".
local function whole(text)
    return tonumber(match(text, "^%-?%d+$"))
end

local read

local function read_bulk(sock, size)
    if size == -1 then
        return M.null
    elseif not size or size < 0 or size > MAX_BULK then
        return nil, "bad reply: a string of " .. tostring(size) .. " bytes"
    end
    local text, err = sock:receive(size + 2)
    if not text then
        return nil, err
    end
    return sub(text, 1, size)
end

local function read_array(sock, size, depth, budget)
    if size == -1 then
        return M.null
    elseif not size or size < 0 or depth >= MAX_DEPTH then
        return nil, "bad reply: an array of " .. tostring(size)
    end
    budget.left = budget.left - size
    if budget.left < 0 then
        return nil, "bad reply: too many elements"
    end
    local list = {}
    for i = 1, size do
        local value, err, refused = read(sock, depth + 1, budget)
        if value == nil and not refused then
            return nil, err
        end
        list[i] = value == nil and M.null or value
    end
    return list
end

read = function(sock, depth, budget)
    local line, err = sock:receive("*l")
    if not line then
        return nil, err
    end
    local kind, rest = byte(line), sub(line, 2)
    if kind == 43 then          -- +
        return rest
    elseif kind == 45 then      -- -
        return nil, rest, true
    elseif kind == 58 then      -- :
        local number = whole(rest)
        if not number then
            return nil, "bad reply: no number"
        end
        return number
    elseif kind == 36 then      -- $
        return read_bulk(sock, whole(rest))
    elseif kind == 42 then      -- *
        return read_array(sock, whole(rest), depth, budget)
    end
    return nil, "bad reply: no Redis protocol"
end

-- Stands for a missing value, which a table cannot have.
M.null = setmetatable({}, {__tostring = function() return "null" end})

-- -> string, number, array or M.null | nil, text, true when the server refuses, nil, err when the connection is no good any more
function M.read(sock)
    return read(sock, 0, {left = MAX_ELEMENTS})
end

-- One command -> as read
function M.call(sock, ...)
    local args = type(...) == "table" and ... or {...}
    local ok, err = sock:send(M.encode(args))
    if not ok then
        return nil, err
    end
    return M.read(sock)
end

return M
