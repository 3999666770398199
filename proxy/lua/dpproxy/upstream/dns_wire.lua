-- DNS messages (RFC 1035, 2782, 3596): a query out, a response in. What comes in is a stranger's: every read is checked against
-- the length, compressed names only ever point backwards, counts are bounded, and what does not answer our question is refused.
-- No ngx in here.
local byte, char, sub, lower, find, format = string.byte, string.char, string.sub, string.lower, string.find, string.format
local concat, floor = table.concat, math.floor

local M = {A = 1, CNAME = 5, SOA = 6, AAAA = 28, SRV = 33}

local CLASS_IN = 1
local MAX_RECORDS = 64
local MAX_NAME = 255
local MAX_LABELS = 128

local function u16(packet, at)
    local a, b = byte(packet, at, at + 1)
    if b then
        return a * 256 + b
    end
end

local function u32(packet, at)
    local high, low = u16(packet, at), u16(packet, at + 2)
    if low then
        return high * 65536 + low
    end
end

local function pack16(n)
    return char(floor(n / 256) % 256, n % 256)
end

-- "a.example" or "a.example." -> labels with their lengths | nil, err
local function encode_name(name)
    if sub(name, -1) == "." then
        name = sub(name, 1, -2)
    end
    if name == "" or #name > 253 then
        return nil, "bad name"
    end
    local parts, at = {}, 1
    while at <= #name + 1 do
        local dot = find(name, ".", at, true) or #name + 1
        local length = dot - at
        if length == 0 or length > 63 then
            return nil, "bad name"
        end
        local label = sub(name, at, dot - 1)
        if find(label, "[^%w_-]") then
            return nil, "bad name"
        end
        parts[#parts + 1] = char(length) .. label
        at = dot + 1
    end
    return concat(parts) .. "\0"
end

-- -> packet | nil, err
function M.query(id, name, kind)
    local labels, err = encode_name(name)
    if not labels then
        return nil, err
    end
    -- one question, recursion desired
    return pack16(id) .. "\1\0\0\1\0\0\0\0\0\0" .. labels .. pack16(kind) .. pack16(CLASS_IN)
end

-- -> name in lower case without the last dot, where the next field starts | nil
local function read_name(packet, at)
    local labels, size, after, limit = {}, 0, nil, at
    for _ = 1, MAX_LABELS do
        local length = byte(packet, at)
        if not length then
            return nil
        end
        if length == 0 then
            return lower(concat(labels, ".")), after or at + 1
        elseif length >= 192 then
            local target = u16(packet, at)
            if not target then
                return nil
            end
            target = target - 49152 + 1
            -- Backwards, behind the header, and further back each time: so it ends.
            if target >= limit or target < 13 then
                return nil
            end
            after = after or at + 2
            at, limit = target, target
        elseif length > 63 or at + length > #packet then
            return nil
        else
            local label = sub(packet, at + 1, at + length)
            size = size + length + 1
            if size > MAX_NAME or find(label, "[^%w_-]") then
                return nil
            end
            labels[#labels + 1] = label
            at = at + 1 + length
        end
    end
    return nil
end

local function ipv4(packet, at)
    return format("%d.%d.%d.%d", byte(packet, at, at + 3))
end

-- Sixteen bytes -> text with the longest run of zeros left out (RFC 5952).
local function ipv6(packet, at)
    local groups, best, best_length, run = {}, nil, 1, 0
    for i = 1, 8 do
        groups[i] = u16(packet, at + 2 * i - 2)
        run = groups[i] == 0 and run + 1 or 0
        if run > best_length then
            best, best_length = i - run + 1, run
        end
    end
    local function text(from, to)
        local hex = {}
        for i = from, to do
            hex[#hex + 1] = format("%x", groups[i])
        end
        return concat(hex, ":")
    end
    if not best then
        return text(1, 8)
    end
    return text(1, best - 1) .. "::" .. text(best + best_length, 8)
end

-- The data of a record -> field(s) put into it; false when it is malformed.
local readers = {
    [M.A] = function(record, packet, at, length)
        record.address = length == 4 and ipv4(packet, at)
        return record.address
    end,
    [M.AAAA] = function(record, packet, at, length)
        record.address = length == 16 and ipv6(packet, at)
        return record.address
    end,
    [M.CNAME] = function(record, packet, at)
        record.target = read_name(packet, at)
        return record.target
    end,
    [M.SRV] = function(record, packet, at, length)
        if length < 7 then
            return false
        end
        record.priority, record.weight, record.port = u16(packet, at), u16(packet, at + 2), u16(packet, at + 4)
        record.target = read_name(packet, at + 6)
        return record.target
    end,
    [M.SOA] = function(record, packet, at, length)
        record.minimum = length >= 22 and u32(packet, at + length - 4)
        return record.minimum
    end,
}

-- -> record, next | nil: {name, kind, ttl, …}, without data for kinds that are not ours
local function read_record(packet, at)
    local name
    name, at = read_name(packet, at)
    if not name then
        return nil
    end
    local kind, class, ttl, length = u16(packet, at), u16(packet, at + 2), u32(packet, at + 4), u16(packet, at + 8)
    if not length or at + 10 + length - 1 > #packet then
        return nil
    end
    local record = {name = name, kind = kind, ttl = ttl < 2147483648 and ttl or 0}
    local read = class == CLASS_IN and readers[kind]
    if read then
        if not read(record, packet, at + 10, length) then
            return nil
        end
    else
        record.kind = 0
    end
    return record, at + 10 + length
end

-- A packet that answers the query {id, name, kind} -> {rcode =, truncated =, answers = {…}, negative_ttl =} | nil, why it does
-- not
function M.response(packet, id, name, kind)
    if #packet < 12 then
        return nil, "too short"
    end
    local flags_high, flags_low = byte(packet, 3, 4)
    if u16(packet, 1) ~= id then
        return nil, "another id"
    end
    -- A response to a standard query with our one question.
    if flags_high < 128 or floor(flags_high / 8) % 16 ~= 0 or u16(packet, 5) ~= 1 then
        return nil, "not a response to a query"
    end
    local asked, at = read_name(packet, 13)
    if asked ~= lower(name) or u16(packet, at) ~= kind or u16(packet, at + 2) ~= CLASS_IN then
        return nil, "another question"
    end
    at = at + 4
    local response = {rcode = flags_low % 16, truncated = floor(flags_high / 2) % 2 == 1, answers = {}}
    if response.truncated then
        return response
    end
    local answers, authorities = u16(packet, 7), u16(packet, 9)
    for i = 1, answers + authorities do
        if i > MAX_RECORDS then
            break
        end
        local record
        record, at = read_record(packet, at)
        if not record then
            return nil, "malformed"
        end
        if i <= answers then
            response.answers[i] = record
        elseif record.kind == M.SOA then
            -- RFC 2308: for how long there is nothing
            response.negative_ttl = record.ttl < record.minimum and record.ttl or record.minimum
        end
    end
    return response
end

return M
