-- The last good configuration on disk: two generations, each with a digest over all of it. Written beside, synced, then
-- renamed. No ngx.
local crypto = require("dpproxy.base.crypto")
local files = require("dpproxy.base.files")
local posix = require("dpproxy.config.posix")
local record = require("dpproxy.config.record")

local match, format, sub, concat = string.match, string.format, string.sub, table.concat

local M = {}

local newest, older, bad = "/config.snapshot", "/config.snapshot.1", "/config.snapshot.bad"
local temporary, second_name = "/config.snapshot.new", "/config.snapshot.old"

local function digest_of(data)
    return (crypto.sha256(data):gsub(".", function(c) return format("%02x", c:byte()) end))
end

-- state: {texts = array of records' texts, at =, prefix =}
function M.encode(state, time)
    local size = 0
    for _, text in ipairs(state.texts) do
        size = size + #text
    end
    local at = state.at
    local head = format("%d %s %d %d %d %s\n", at.revision, at.cluster ~= "" and at.cluster or "-", time, #state.texts, size,
        state.prefix)
    local rest = head .. concat(state.texts)
    return "dpproxy configuration 1 " .. digest_of(rest) .. "\n" .. rest
end

-- text -> state | nil, err
function M.decode(text)
    local digest, at = match(text, "^dpproxy configuration 1 (%x+)\n()")
    if not digest then
        return nil, "not a snapshot"
    end
    local rest = sub(text, at)
    if digest_of(rest) ~= digest then
        return nil, "wrong digest"
    end
    local revision, cluster, time, count, size, prefix, body_at = match(rest, "^(%d+) (%S+) (%d+) (%d+) (%d+) ([^\n]*)\n()")
    local list = revision and #rest - body_at + 1 == tonumber(size) and record.decode_all(rest, body_at)
    if not list or #list ~= tonumber(count) then
        return nil, "not readable"
    end
    local state = {
        valid = {}, rejected = {}, ops = list, time = tonumber(time), prefix = prefix,
        at = {revision = tonumber(revision), cluster = cluster ~= "-" and cluster or "", source = "disk"},
    }
    for _, rec in ipairs(list) do
        state[rec.op == "V" and "valid" or "rejected"][rec.path] = rec
    end
    return state
end

-- Makes the present newest the older one and state the newest -> size | nil, err
function M.write(folder, state, time)
    local text = M.encode(state, time)
    local ok, err = posix.write_new(folder .. temporary, text)
    if not ok then
        return nil, err
    end
    -- The newest keeps its name until the new one takes it: at no moment is there none. (There may be none yet.)
    posix.unlink(folder .. second_name)
    if posix.link(folder .. newest, folder .. second_name) then
        posix.rename(folder .. second_name, folder .. older)
    end
    ok, err = posix.rename(folder .. temporary, folder .. newest)
    if not ok then
        return nil, err
    end
    ok, err = posix.sync_folder(folder)
    if not ok then
        return nil, err
    end
    return #text
end

local function save(store, folder, prefix, time)
    local state, err = store:dump()
    if not state then
        return nil, err
    end
    if not state.at then
        return nil, "nothing is published"
    end
    state.prefix = prefix
    local size
    size, err = M.write(folder, state, time)
    if not size then
        return nil, err
    end
    return state.seq, size
end

-- What is published, to disk -> seq, size | nil, err. One process at a time, and what is published is looked at when it is its
-- turn: one that comes later never writes something older.
function M.save(store, folder, prefix, time)
    local lock, err = posix.lock_folder(folder)
    if not lock then
        return nil, err
    end
    local seq, size = save(store, folder, prefix, time)
    posix.unlock_folder(lock)
    return seq, size
end

-- -> state | nil ; problems are told to `complain(message)`, once for each file that is not good
function M.load(folder, prefix, complain)
    for _, name in ipairs({newest, older}) do
        local path = folder .. name
        local text = files.read(path)
        if text then
            local state, err = M.decode(text)
            if not state then
                complain("config: the snapshot " .. path .. " is damaged (" .. err .. "), an older one is tried")
                if name == newest then
                    -- Out of the way, so that the next one written does not push the good one out.
                    posix.rename(path, folder .. bad)
                end
            elseif state.prefix == prefix then
                return state
            end
        end
    end
    return nil
end

return M
