-- The text form of changes, in shared memory and on disk. One form for both: a change is also what is kept of the object.
--   V valid object put    R rejected text kept beside the last valid one    v, r the record of that slot is gone
--   U an unknown object was deleted (the kind's version grows)
local format, match, sub, tonumber, floor = string.format, string.match, string.sub, tonumber, math.floor
local concat = table.concat

local M = {}

-- rec: {op =, slot =, order =, create =, mod =, since =, seq =, path =, text =, reason =}
function M.encode(rec)
    local text, reason = rec.text or "", rec.reason or ""
    return format("%s %d %d %d %d %d %d %d %d %d\n", rec.op, rec.slot or 0, rec.order or 0, rec.create or 0, rec.mod or 0,
        floor(rec.since or 0), rec.seq or 0, #rec.path, #text, #reason) .. rec.path .. text .. reason
end

-- -> rec, position after it | nil at the end or when it is garbage
function M.decode(data, pos)
    local op, slot, order, create, mod, since, seq, path_len, text_len, reason_len, at =
        match(data, "^(%a) (%d+) (%d+) (%d+) (%d+) (%d+) (%d+) (%d+) (%d+) (%d+)\n()", pos)
    if not op then
        return nil
    end
    path_len, text_len, reason_len = tonumber(path_len), tonumber(text_len), tonumber(reason_len)
    local text_at = at + path_len
    local reason_at = text_at + text_len
    local stop = reason_at + reason_len
    if stop - 1 > #data then
        return nil
    end
    return {
        op = op, slot = tonumber(slot), order = tonumber(order), create = tonumber(create), mod = tonumber(mod),
        since = tonumber(since), seq = tonumber(seq), path = sub(data, at, text_at - 1),
        text = sub(data, text_at, reason_at - 1), reason = sub(data, reason_at, stop - 1),
    }, stop
end

function M.encode_all(list)
    local parts = {}
    for i, rec in ipairs(list) do
        parts[i] = M.encode(rec)
    end
    return concat(parts)
end

-- -> array (list, with them behind what it has) | nil when anything of it is garbage
function M.decode_all(data, pos, list)
    list = list or {}
    pos = pos or 1
    while pos <= #data do
        local rec
        rec, pos = M.decode(data, pos)
        if not rec then
            return nil
        end
        list[#list + 1] = rec
    end
    return list
end

return M
