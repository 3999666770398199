local faulty_dict = require("faulty_dict")
local reader = require("dpproxy.config.reader")
local record = require("dpproxy.config.record")
local shared = require("dpproxy.config.shared")
local tables = require("dpproxy.config.tables")

local function put(slot, path, n, order)
    return {op = "V", slot = slot, order = order or slot, create = 1, mod = n, path = path, text = '{"n":' .. n .. '}'}
end

local function at(revision)
    return {revision = revision, cluster = "77", source = "etcd"}
end

local function new_worker(store)
    local worker = {errors = {}}
    local function log(level, message)
        worker.errors[#worker.errors + 1] = message
    end
    worker.tables = tables.new({check = function() return true end, prefix = "/apisix", log = log})
    worker.reader = reader.new({store = store, tables = worker.tables, log = log})
    return worker
end

-- The dump for the disk must say the same as what workers read.
local function dumped(store)
    local found = {}
    for _, text in ipairs(store:dump().texts) do
        local rec = record.decode(text, 1)
        if rec.op == "V" then
            found[#found + 1] = rec
        end
    end
    table.sort(found, function(a, b) return a.order < b.order end)
    for i, rec in ipairs(found) do
        found[i] = rec.path:match("/(.*)") .. "=" .. rec.text:match("%d+")
    end
    return table.concat(found, " ")
end

local function content(worker)
    local found = {}
    for _, item in ipairs((worker.tables:list("routes"))) do
        found[#found + 1] = item.short_key .. "=" .. item.value.n
    end
    return table.concat(found, " ")
end

-- A sequence of publications; the content after each.
local function script(store)
    local writer = assert(store:writer(store:next_epoch()))
    local steps = {
        {put(1, "routes/a", 1), put(2, "routes/b", 1)},
        {put(1, "routes/a", 2), put(2, "routes/b", 2)},
        {{op = "v", slot = 1, path = "routes/a"}, put(3, "routes/c", 3), put(2, "routes/b", 3)},
        {put(1, "routes/d", 4, 4), put(2, "routes/b", 4)},
        {{op = "R", slot = 5, create = 1, mod = 5, path = "routes/b", text = "{", reason = "bad", since = 9}},
        {{op = "v", slot = 2, path = "routes/b"}, {op = "r", slot = 5, path = "routes/b"}, put(2, "routes/e", 6, 6)},
    }
    for i, ops in ipairs(steps) do
        local ok, err = writer:publish(ops, at(i))
        if not ok then
            return nil, err
        end
    end
    return true
end

local states = {
    [0] = "", "a=1 b=1", "a=2 b=2", "b=3 c=3", "b=4 c=3 d=4", "b=4 c=3 d=4", "c=3 d=4 e=6",
}

describe("config.record", function()
    it("gives back what it was given, and nothing of a torn text", function()
        local rec = {
            op = "R", slot = 3, order = 4, create = 2 ^ 52, mod = 2 ^ 53 - 1, since = 1700000000, seq = 9, path = "routes/x",
            text = "{\n\0}", reason = "no\ngood",
        }
        local text = record.encode(rec)
        assert.same(rec, (record.decode(text, 1)))
        for i = 0, #text - 1 do
            assert.is_nil((record.decode(text:sub(1, i), 1)))
        end
        assert.same(2, #record.decode_all(text .. text))
        assert.is_nil(record.decode_all(text .. text:sub(1, -2)))
    end)
end)

describe("config.shared", function()
    it("brings each publication to a worker that follows and to one that is new", function()
        local store = shared.new({dict = faulty_dict.new()})
        local old = new_worker(store)
        assert.is_false(old.reader:refresh())
        assert.is_true(script(store))
        assert.is_true(old.reader:refresh())
        assert.is_false(old.reader:refresh())
        assert.equal(states[6], content(old))
        local young = new_worker(store)
        assert.is_true(young.reader:refresh())
        assert.equal(states[6], content(young))
        assert.same({}, young.errors)
        assert.same({revision = 6, cluster = "77", source = "etcd"}, store:at())
    end)

    it("costs one read when nothing changed", function()
        local dict = faulty_dict.new()
        local store = shared.new({dict = dict})
        script(store)
        local worker = new_worker(store)
        worker.reader:refresh()
        local before = dict.calls
        worker.reader:refresh()
        assert.equal(before + 1, dict.calls)
    end)

    it("keeps a worker that slept for longer than the log", function()
        local store = shared.new({dict = faulty_dict.new(), log_count = 2})
        local worker = new_worker(store)
        local writer = assert(store:writer(store:next_epoch()))
        writer:publish({put(1, "routes/a", 1), put(2, "routes/b", 1)}, at(1))
        worker.reader:refresh()
        local heard = {}
        worker.tables:subscribe("routes", function(new, old, key)
            heard[#heard + 1] = key .. (new and new.value.n or "-") .. (old and old.value.n or "-")
        end)
        for i = 2, 9 do
            writer:publish({put(1, "routes/a", i)}, at(i))
        end
        worker.reader:refresh()
        assert.equal("a=9 b=1", content(worker))
        assert.same({"a91"}, heard) -- one effect, and none for b
    end)

    -- The writer dies before its n-th operation, for every n; then another takes over. Workers that watch all the time must see
    -- only whole publications, never an older one after a newer one, and all must agree at the end.
    it("survives a writer killed between any two operations", function()
        local position = 0
        local finished = false
        while not finished do
            position = position + 1
            local dict = faulty_dict.new()
            local store = shared.new({dict = dict, log_count = 3})
            local witness = new_worker(store)
            local seen = 0
            local function look(worker)
                local now
                if worker then
                    worker.reader:refresh()
                    now = content(worker)
                else
                    now = dumped(store)
                end
                local found
                for i = seen, #states do
                    if states[i] == now then
                        found = i
                        break
                    end
                end
                assert(found, "at " .. position .. ": not a state, or an older one: " .. now)
                return found
            end
            local left = position
            local writing = coroutine.create(function()
                assert(script(store))
                return "finished"
            end)
            dict.before = function()
                if coroutine.running() == writing then
                    left = left - 1
                    if left == 0 then
                        coroutine.yield("killed")
                    end
                    local before = dict.before
                    dict.before = nil
                    seen = look(witness)
                    look(new_worker(store)) -- one born just now
                    look(nil) -- the disk
                    dict.before = before
                end
            end
            local ok, how = coroutine.resume(writing)
            assert(ok, how)
            finished = how == "finished"
            dict.before = nil
            local writer = assert(store:writer(store:next_epoch()))
            seen = look(witness)
            local young = new_worker(store)
            look(young)
            assert.equal(content(witness), content(young))
            assert.equal(content(witness), dumped(store))
            assert(writer:publish({put(9, "routes/z", 99, 99)}, at(50)))
            witness.reader:refresh()
            young.reader:refresh()
            assert.equal(content(witness), content(young))
            assert.truthy(content(young):find("z=99", 1, true))
            -- The base alone is complete again.
            local slots = {}
            for path in pairs(store:read_all().valid) do
                slots[#slots + 1] = path
            end
            assert.equal(store:number("head"), store:number("applied"))
            assert.equal(select(2, content(young):gsub("=", "")), #slots)
        end
        assert.is_true(position > 60)
    end)

    -- The n-th store that needs memory fails, for every n: the publication is either there as a whole or not at all.
    it("says when memory is full, and leaves what was published", function()
        local position = 0
        local finished = false
        while not finished do
            position = position + 1
            local dict = faulty_dict.new()
            local store = shared.new({dict = dict, log_count = 3})
            local left = position
            dict.before = function(operation)
                dict.full = false
                if operation == "safe_set" or operation == "safe_add" then
                    left = left - 1
                    dict.full = left == 0
                end
            end
            local ok, err = script(store)
            finished = left > 0
            dict.before, dict.full = nil, false
            local worker = new_worker(store)
            worker.reader:refresh()
            local now = content(worker)
            local published = store:number("head")
            assert.equal(states[published], now)
            if not ok then
                assert.equal("no memory", err)
            end
            local writer = assert(store:writer(store:next_epoch()))
            assert(writer:publish({put(9, "routes/z", 99, 99)}, at(50)))
            worker.reader:refresh()
            assert.equal(published > 0 and states[published] .. (states[published] == "" and "" or " ") .. "z=99" or
                "z=99", content(worker))
        end
        assert.is_true(position > 10)
    end)

    it("takes large transactions apart, and makes room from the log", function()
        local dict = faulty_dict.new({capacity = 3000000})
        local store = shared.new({dict = dict})
        local writer = assert(store:writer(store:next_epoch()))
        local big = ("x"):rep(1000)
        for round = 1, 4 do
            local ops = {}
            for i = 1, 1000 do
                local rec = put(i, "routes/" .. i, round)
                rec.text = '{"n":' .. round .. ',"x":"' .. big .. '"}'
                ops[i] = rec
            end
            if round < 4 then
                assert(writer:publish(ops, at(round)))
            else
                dict.limit = 1500000
                local ok, err = writer:publish(ops, at(round))
                assert.is_nil(ok)
                assert.equal("no memory", err)
            end
        end
        local worker = new_worker(store)
        worker.reader:refresh()
        assert.equal(1000, #worker.tables:list("routes"))
        assert.equal(3, worker.tables:get("routes", "7").value.n)
    end)

    it("reads again when the log was trimmed past its place meanwhile", function()
        local dict = faulty_dict.new()
        local store = shared.new({dict = dict, log_count = 1})
        local writer = assert(store:writer(store:next_epoch()))
        assert(writer:publish({put(1, "routes/a", 1), put(2, "routes/b", 1)}, at(1)))
        local once = true
        dict.before = function(operation, key)
            if once and operation == "get" and key == "s:2" then
                once = false
                for n = 2, 5 do
                    assert(writer:publish({put(1, "routes/a", n), put(2, "routes/b", n)}, at(n)))
                end
            end
        end
        local worker = new_worker(store)
        worker.reader:refresh()
        assert.is_false(once)
        assert.equal("a=5 b=5", content(worker))
    end)

    it("fences a writer that lost its place", function()
        local dict = faulty_dict.new()
        local store = shared.new({dict = dict})
        local old = assert(store:writer(store:next_epoch()))
        assert(old:publish({put(1, "routes/a", 1)}, at(1)))
        local new = assert(store:writer(store:next_epoch()))
        assert(new:publish({put(1, "routes/a", 2)}, at(2)))
        local ok = old:publish({put(1, "routes/a", 3)}, at(3))
        assert.is_nil(ok)
        local worker = new_worker(store)
        worker.reader:refresh()
        assert.equal("a=2", content(worker))
        assert.equal(0, store:number("dirty"))
    end)

    it("says so when it lost its place while it wrote", function()
        local dict = faulty_dict.new()
        local store = shared.new({dict = dict})
        local old = assert(store:writer(store:next_epoch()))
        dict.before = function(operation, key)
            if operation == "safe_set" and key == "s:1" then
                dict.before = nil
                assert(store:writer(store:next_epoch()):publish({put(1, "routes/a", 2)}, at(2)))
            end
        end
        assert.is_nil((old:publish({put(1, "routes/a", 1)}, at(1))))
        assert.equal(1, store:number("dirty")) -- the present writer must write the base anew
    end)

    it("refuses a commit in a place that is taken", function()
        local dict = faulty_dict.new()
        local store = shared.new({dict = dict})
        local old = assert(store:writer(store:next_epoch()))
        -- The old one is stopped just before it commits; meanwhile another becomes the writer and publishes.
        local once = true
        dict.before = function(operation, key)
            if once and operation == "safe_add" and key == "l:1" then
                once = false
                local new = assert(store:writer(store:next_epoch()))
                assert(new:publish({put(1, "routes/a", 2)}, at(2)))
            end
        end
        assert.is_nil((old:publish({put(1, "routes/a", 1)}, at(1))))
        dict.before = nil
        local worker = new_worker(store)
        worker.reader:refresh()
        assert.equal("a=2", content(worker))
    end)
end)
