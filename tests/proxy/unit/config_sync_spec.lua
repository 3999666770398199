local config_world = require("config_world")
local kinds = require("dpproxy.config.kinds")

local function json(n, bad)
    return '{"n":' .. n .. (bad and ',"bad":true}' or "}")
end

local function new_world(opts)
    opts = opts or {}
    local world = config_world.new(opts)
    world.etcd:put("/apisix/routes/", "init_dir")
    world.etcd:put("/apisix/routes/1", json(1))
    world.etcd:put("/apisix/routes/2", json(1))
    world.etcd:put("/apisix-b/routes/9", json(1))
    return world
end

local function all_have(world, kind, key, n)
    return function()
        for _, worker in ipairs(world.workers) do
            local item = worker.tables:get(kind, key)
            if (item and item.value.n) ~= n then
                return false
            end
        end
        return true
    end
end

local function count(world)
    local events = {n = 0}
    for _, worker in ipairs(world.workers) do
        for _, kind in ipairs(kinds.list) do
            worker.tables:subscribe(kind, function() events.n = events.n + 1 end)
        end
    end
    return events
end

describe("config.kinds", function()
    it("knows what a key is", function()
        assert.same({"routes", "1"}, {kinds.split("routes/1")})
        assert.same({"consumers", "jack/credentials/c1"}, {kinds.split("consumers/jack/credentials/c1")})
        assert.same({"secrets", "vault/1"}, {kinds.split("secrets/vault/1")})
        assert.same({"plugins", "plugins"}, {kinds.split("plugins")})
        for _, path in ipairs({"routes/", "routes", "plugins/", "plugins/x", "gen_id", "data_plane/server_info/x", "ssl/1", "",
            "/routes/1", "services/1/graphql_cost_decorations/2"}) do
            assert.is_nil((kinds.split(path)))
        end
        assert.equal("/apisix", kinds.prefix("/apisix/"))
        assert.equal("/a/b", kinds.prefix("a/b//"))
    end)
end)

describe("config.sync", function()
    it("loads, follows, and tells each worker once", function()
        local world = new_world({workers = 3})
        assert(world:run_for(5, all_have(world, "routes", "2", 1)))
        assert.is_nil(world.workers[1].tables:get("routes", "9"))
        assert.equal(2, #world.workers[1].tables:list("routes"))
        local item = world.workers[1].tables:get("routes", "1")
        assert.same({
            key = "/apisix/routes/1", value = {n = 1, id = "1", checked = true}, createdIndex = 3, modifiedIndex = 3,
            kind = "routes",
            short_key = "1", order = 1, version = 1048577,
        }, item)
        local events = count(world)
        world.etcd:put("/apisix/routes/1", json(2))
        assert(world:run_for(1, all_have(world, "routes", "1", 2)))
        assert.equal(1, world.workers[1].tables:get("routes", "1").order)
        world.etcd:delete("/apisix/routes/1")
        assert(world:run_for(1, all_have(world, "routes", "1", nil)))
        world:run_for(120) -- streams that are silent are opened anew meanwhile
        assert.equal(6, events.n)
        assert.is_true(world.status:read().etcd_reachable)
        assert.equal("etcd", world.status:read().source)
    end)

    it("keeps the last valid version of an invalid object, and says so", function()
        local world = new_world({workers = 2})
        world.etcd:put("/apisix/routes/3", json(1, true))
        assert(world:run_for(5, all_have(world, "routes", "2", 1)))
        world.etcd:txn({{"/apisix/routes/1", json(2, true)}, {"/apisix/routes/2", json(2)}})
        assert(world:run_for(1, all_have(world, "routes", "2", 2)))
        for _, worker in ipairs(world.workers) do
            assert.equal(1, worker.tables:get("routes", "1").value.n)
            assert.is_nil(worker.tables:get("routes", "3"))
            local list = worker.tables:rejected_list()
            assert.equal(2, #list)
            assert.same({"/apisix/routes/1", "routes", "it is bad", world.etcd.revision},
                {list[1].key, list[1].kind, list[1].reason, list[1].mod_revision})
        end
        assert.equal(2, world.status:read().rejected)
        world.etcd:put("/apisix/routes/1", "{not JSON")
        world:run_for(1)
        assert.truthy(world.workers[1].tables:rejected_list()[1].reason:find("invalid JSON", 1, true))
        world.etcd:put("/apisix/routes/1", json(3))
        world.etcd:delete("/apisix/routes/3")
        assert(world:run_for(1, all_have(world, "routes", "1", 3)))
        assert.same({}, world.workers[2].tables:rejected_list())
    end)

    it("takes over within two seconds when the owner is killed", function()
        local world = new_world({workers = 3})
        assert(world:run_for(5, all_have(world, "routes", "2", 1)))
        for _, worker in ipairs(world.workers) do
            if worker.owning then
                world:kill(worker)
                break
            end
        end
        world.etcd:put("/apisix/routes/1", json(5))
        assert(world:run_for(2, all_have(world, "routes", "1", 5)))
    end)

    it("compares everything after a compaction, and tells only what differs", function()
        local world = new_world({workers = 2})
        assert(world:run_for(5, all_have(world, "routes", "2", 1)))
        local events = count(world)
        world.etcd.up = false
        world.etcd:cut()
        world:run_for(3)
        assert.is_false(world.status:read().etcd_reachable)
        world.etcd:put("/apisix/routes/2", json(7))
        world.etcd:put("/apisix/routes/3", json(1))
        world.etcd:delete("/apisix/routes/3")
        world.etcd:compact(world.etcd.revision)
        world.etcd.up = true
        assert(world:run_for(8, all_have(world, "routes", "2", 7)))
        assert.equal(2, events.n)
        assert.equal(1, world.status:read().resyncs)
    end)

    it("follows an etcd that was set back, or is another cluster", function()
        for _, other in ipairs({false, 999}) do
            local world = new_world({workers = 2})
            assert(world:run_for(5, all_have(world, "routes", "2", 1)))
            local saved = world.etcd:save()
            world.etcd:put("/apisix/routes/2", json(2))
            world.etcd:put("/apisix/routes/3", json(3))
            assert(world:run_for(1, all_have(world, "routes", "3", 3)))
            local events = count(world)
            world.etcd:restore(saved, other or nil)
            assert(world:run_for(10, all_have(world, "routes", "2", 1)))
            assert.is_nil(world.workers[1].tables:get("routes", "3"))
            assert.equal(4, events.n)
            world.etcd:put("/apisix/routes/2", json(8))
            assert(world:run_for(1, all_have(world, "routes", "2", 8)))
        end
    end)

    it("follows another cluster whose revision is higher", function()
        local world = new_world({workers = 2, sync = {verify_interval = math.huge}})
        assert(world:run_for(5, all_have(world, "routes", "2", 1)))
        local other = world.etcd:save()
        other.revision = 500
        other.keys["/apisix/routes/1"] = nil
        world.etcd:restore(other, 999)
        assert(world:run_for(10, all_have(world, "routes", "1", nil)))
        assert.equal(1, world.workers[1].tables:get("routes", "2").value.n)
    end)

    it("does not take an object that was deleted unseen for an older version", function()
        local world = new_world({workers = 2})
        assert(world:run_for(5, all_have(world, "routes", "2", 1)))
        world.etcd.up = false
        world.etcd:cut()
        world.etcd:delete("/apisix/routes/1")
        world.etcd:put("/apisix/routes/1", json(2, true))
        world.etcd:put("/apisix/routes/2", json(2, true))
        world.etcd:compact(world.etcd.revision)
        world:run_for(1)
        world.etcd.up = true
        assert(world:run_for(10, all_have(world, "routes", "1", nil)))
        assert.equal(1, world.workers[1].tables:get("routes", "2").value.n)
        assert.equal(2, #world.workers[1].tables:rejected_list())
    end)

    it("does not believe an empty etcd that may be another one, unless told to", function()
        for _, cluster in ipairs({false, 999}) do
            local world = new_world({workers = 2})
            assert(world:run_for(5, all_have(world, "routes", "2", 1)))
            world.etcd:restore({revision = 1, compacted = 0, keys = {}, history = {}}, cluster or nil)
            world.etcd:put("/apisix/routes/", "init_dir")
            world:run_for(60)
            assert.equal(2, #world.workers[1].tables:list("routes"))
            assert.is_true(world:logged("the last configuration stays") >= 1)
            assert.truthy(world.status:read().last_error:find("the last configuration stays", 1, true))
            local young = world:start_worker()
            world:run_for(1)
            assert.equal(2, #young.tables:list("routes"))
            world.etcd:put("/apisix/routes/7", json(7))
            assert(world:run_for(10, all_have(world, "routes", "7", 7)))
            assert.equal(1, #world.workers[1].tables:list("routes"))
            assert.is_nil(world.status:read().last_error)
        end
        local world = new_world({workers = 2, sync = {allow_empty = true}})
        assert(world:run_for(5, all_have(world, "routes", "2", 1)))
        world.etcd:restore({revision = 1, compacted = 0, keys = {}, history = {}}, 999)
        assert(world:run_for(10, all_have(world, "routes", "2", nil)))
    end)

    it("does not believe an empty etcd that began anew under its old name and has overtaken us", function()
        local world = new_world({workers = 2})
        assert(world:run_for(5, all_have(world, "routes", "2", 1)))
        world.etcd:restore({revision = 1, compacted = 0, keys = {}, history = {}})
        for i = 1, 20 do
            world.etcd:put("/elsewhere", json(i))
        end
        world:run_for(120)
        assert.equal(2, #world.workers[1].tables:list("routes"))
        assert.is_true(world:logged("another history") >= 1)
        world.etcd:put("/apisix/routes/7", json(7))
        assert(world:run_for(10, all_have(world, "routes", "7", 7)))
        -- But deletions that nobody saw are believed, while their revision can be read.
        world.etcd.up = false
        world.etcd:cut()
        world.etcd:delete("/apisix/routes/7")
        world:run_for(3)
        world.etcd.up = true
        world.dict:incr("dirty", 1) -- has it compare everything
        assert(world:run_for(10, all_have(world, "routes", "7", nil)))
    end)

    it("believes that everything was deleted when the same etcd says so", function()
        local world = new_world({workers = 2})
        assert(world:run_for(5, all_have(world, "routes", "2", 1)))
        world.etcd.up = false
        world.etcd:cut()
        world.etcd:txn({{"/apisix/routes/1"}, {"/apisix/routes/2"}})
        world.etcd:compact(world.etcd.revision)
        world:run_for(2)
        world.etcd.up = true
        assert(world:run_for(10, all_have(world, "routes", "2", nil)))
        assert.equal(0, #world.workers[2].tables:list("routes"))
        -- And an etcd that never had anything is no problem.
        world = config_world.new({workers = 2})
        assert(world:run_for(5, function() return world.workers[2].reader.seq > 0 end))
        world.etcd:put("/apisix/routes/1", json(1))
        assert(world:run_for(2, all_have(world, "routes", "1", 1)))
    end)

    it("notices a watch that is silent about changes", function()
        local world = new_world({workers = 2, sync = {watch_timeout = 100000}})
        assert(world:run_for(5, all_have(world, "routes", "2", 1)))
        world.etcd.silent = true
        world.etcd:put("/apisix/routes/2", json(4))
        world:run_for(60, function() return world:logged("silent about changes") > 0 end)
        assert.equal(1, world:logged("silent about changes"))
        world.etcd.silent = false
        assert(world:run_for(2, all_have(world, "routes", "2", 4)))
    end)

    it("says that it lives while it judges many objects", function()
        local renewed = 0
        local world = new_world({workers = 1, sync = {renew = function() renewed = renewed + 1 end}})
        for i = 1, 1000 do
            world.etcd:put("/apisix/routes/r" .. i, json(i))
        end
        assert(world:run_for(5, all_have(world, "routes", "r1000", 1000)))
        assert.is_true(renewed >= 3)
    end)

    it("asks for less when a page is too large", function()
        local world = new_world({workers = 1})
        for i = 1, 40 do
            world.etcd:put("/apisix/routes/r" .. i, json(i))
        end
        world.etcd.most_bytes = 700
        assert(world:run_for(5, all_have(world, "routes", "r40", 40)))
        assert.equal(42, #world.workers[1].tables:list("routes"))
    end)

    it("bumps a kind's version for the deletion of an unknown key", function()
        local world = new_world({workers = 1})
        world.etcd:put("/apisix/upstreams/1", "init_dir")
        assert(world:run_for(5, all_have(world, "routes", "2", 1)))
        local tables = world.workers[1].tables
        local routes, upstreams = tables:version("routes"), tables:version("upstreams")
        world.etcd:delete("/apisix/upstreams/1")
        world:run_for(1)
        assert.equal(routes, tables:version("routes"))
        assert.equal(upstreams + 1, tables:version("upstreams"))
    end)

    it("writes the base anew when a writer that lost its place wrote into it", function()
        local world = new_world({workers = 2})
        assert(world:run_for(5, all_have(world, "routes", "2", 1)))
        world.etcd:delete("/apisix/routes/1")
        assert(world:run_for(1, all_have(world, "routes", "1", nil)))
        local stale = require("dpproxy.config.record").encode({
            op = "V", slot = 2, order = 2, create = 2, mod = 2, seq = 1, path = "routes/2", text = json(-1),
        })
        world.dict:safe_set("s:2", stale)
        world.dict:safe_set("s:9", (stale:gsub("routes/2", "routes/8")))
        world.dict:set("top", 9)
        local events = count(world)
        world.dict:set("dirty", 1)
        world:run_for(5)
        assert.equal(0, events.n) -- nothing has changed for who was there
        local young = world:start_worker()
        world:run_for(1)
        assert.equal(1, #young.tables:list("routes"))
        assert.equal(1, young.tables:get("routes", "2").value.n)
        assert.equal(0, world.store:number("dirty"))
    end)

    it("judges again when the checks have changed", function()
        local bad = 1
        local function check(_, value)
            return value.n ~= bad, "n is bad"
        end
        local world = new_world({workers = 2, sync = {check = check}})
        world.etcd:put("/apisix/routes/3", json(2))
        assert(world:run_for(5, all_have(world, "routes", "3", 2)))
        assert.equal(2, world.status:read().rejected)
        local events = count(world)
        bad = 2
        world.etcd.up = false -- nothing has to be asked for it
        world.etcd:cut()
        world.dict:set("recheck", 1)
        assert(world:run_for(5, all_have(world, "routes", "2", 1)))
        assert.equal(4, events.n)
        local list = world.workers[2].tables:rejected_list()
        assert.same({1, "/apisix/routes/3", "n is bad"}, {#list, list[1].key, list[1].reason})
        assert.equal(2, world.workers[2].tables:get("routes", "3").value.n)
        world.dict:set("recheck", 1)
        world:run_for(5)
        assert.equal(4, events.n)
    end)

    it("works with a password, also when tokens are forgotten", function()
        local world = new_world({workers = 2, user = "u", password = "p"})
        world.etcd.user, world.etcd.password = "u", "p"
        assert(world:run_for(5, all_have(world, "routes", "2", 1)))
        for n = 2, 4 do
            world.etcd.token = "forgotten"
            world.etcd:cut()
            world.etcd:put("/apisix/routes/2", json(n))
            assert(world:run_for(2, all_have(world, "routes", "2", n)))
        end
    end)
end)

-- Random histories and random faults. At every moment each worker must have whole revisions only and never less than the object
-- that always existed; in the end all must have exactly what etcd has.
local function simulate(seed)
    -- Every other history must do without the comparisons that are made after errors, and does: only an etcd that was set back
    -- and has overtaken us while we could not see it is found by nothing else.
    local strict = seed % 2 == 0
    local world = config_world.new({
        seed = seed, workers = 3, log_count = 1 + seed % 9,
        sync = {page_size = 1 + seed % 7, verify_interval = strict and math.huge or nil},
    })
    local etcd, random = world.etcd, world.random
    local n = 0
    local paths = {
        "routes/1", "routes/2", "routes/3", "routes/4", "services/1", "services/2", "consumers/jack",
        "consumers/jack/credentials/c1",
        "plugins", "routes/", "gen_id", "upstreams/u.1-x", "secrets/vault/1",
    }
    local valid_texts = {}
    local function next_text(path)
        n = n + 1
        local dice = random(10)
        if dice == 1 then
            return json(n, true)
        elseif dice == 2 then
            return random(2) == 1 and "{broken " .. n or random(2) == 1 and "init_dir" or ""
        end
        valid_texts[path] = valid_texts[path] or {}
        valid_texts[path][n] = true
        return json(n)
    end
    local function keep()
        n = n + 1
        etcd:txn({{"/apisix/routes/keep", json(n)}, {"/apisix/routes/pair-a", json(n)}, {"/apisix/services/pair-b", json(n)}})
    end
    local function some_write()
        local dice = random(12)
        if dice <= 2 then
            keep()
        elseif dice == 3 then
            n = n + 1
            etcd:put("/apisix-b/routes/1", json(n))
        elseif dice == 4 then
            local changes = {}
            for _, path in ipairs(paths) do
                if random(3) == 1 then
                    changes[#changes + 1] = {"/apisix/" .. path, random(4) > 1 and next_text(path) or nil}
                end
            end
            etcd:txn(changes)
        else
            local path = paths[random(#paths)]
            etcd:txn({{"/apisix/" .. path, random(4) > 1 and next_text(path) or nil}})
        end
    end
    keep()
    for _ = 1, 20 do
        some_write()
    end

    -- What must hold at each moment in each worker.
    local effects = {}
    local function watch_worker(worker)
        for _, kind in ipairs(kinds.list) do
            worker.tables:subscribe(kind, function(new, old, short_key)
                assert(new or old, "an event about nothing")
                if new and old then
                    assert(new.version > old.version, "an older version after a newer one")
                    assert(new.modifiedIndex ~= old.modifiedIndex or new.value.n ~= old.value.n or
                        new.createdIndex ~= old.createdIndex,
                        "an effect was repeated: " .. kind .. "/" .. short_key)
                end
            end)
        end
        effects[worker] = 0
    end
    for _, worker in ipairs(world.workers) do
        watch_worker(worker)
    end
    world.on_start = function(worker)
        if not effects[worker] then
            watch_worker(worker)
        end
    end
    world.on_refresh = function(worker)
        if worker.reader.seq > 0 then
            local a, b = worker.tables:get("routes", "pair-a"), worker.tables:get("services", "pair-b")
            assert(a and b and worker.tables:get("routes", "keep"), "worker " .. worker.pid .. " lost what always was")
            assert(a.value.n == b.value.n, "worker " .. worker.pid .. " has half of a revision")
        else
            assert(world.store:number("head") == 0, "a worker without the configuration that is there")
        end
    end

    local saved = etcd:save()
    local busy = true
    world:spawn(nil, function()
        while busy do
            world.wait(random() * random() * 2)
            local dice = random(100)
            if dice <= 60 then
                for _ = 1, random(5) do
                    some_write()
                end
            elseif dice <= 66 then
                etcd:cut()
            elseif dice <= 70 then
                etcd.up = false
                etcd:cut()
                for _ = 1, random(30) do
                    some_write()
                end
                world.wait(random() * 5)
                etcd.up = true
            elseif dice <= 75 then
                etcd:compact(etcd.revision - random(10) + 1)
            elseif dice <= 77 then
                etcd.silent = true
                world.wait(random() * 70)
                etcd.silent = false
            elseif dice <= 80 then
                saved = etcd:save()
            elseif dice <= 82 then
                etcd:restore(saved, (strict or random(2) == 1) and random(1000000) or nil)
                for _ = 1, random(20) - 1 do
                    some_write()
                end
            elseif dice <= 83 then
                etcd:restore({revision = 1, compacted = 0, keys = {}, history = {}},
                    (strict or random(2) == 1) and random(1000000) or nil)
                world.wait(random() * 10)
                keep()
                saved = etcd:save()
            elseif dice <= 93 then
                world.workers[random(#world.workers)].dies_after = random(80)
            elseif dice <= 96 then
                world.dict.full = true
                world.wait(random() * 3)
                world.dict.full = false
            else
                etcd.gateway = random(2)
                etcd.most_bytes = random(3) == 1 and 1500 or nil
            end
        end
    end)
    world:run(120)
    busy = false
    world:run_for(20)
    etcd.up, etcd.silent, world.dict.full, etcd.most_bytes = true, false, false, nil
    keep()
    for _, worker in ipairs(world.workers) do
        worker.dies_after = nil
    end
    world:run_for(150)

    for _, line in ipairs(world.logs) do
        assert(not line:find("a subscriber of", 1, true), line)
    end
    assert.equal(0, world.store:number("dirty"))
    for _, worker in ipairs(world.workers) do
        local items, rejected = 0, {}
        for _, entry in ipairs(worker.tables:rejected_list()) do
            rejected[entry.key] = entry
        end
        for key, kv in pairs(etcd.keys) do
            local path = key:match("^/apisix/(.*)$")
            local kind, short_key = kinds.split(path or "")
            if kind and not kinds.is_absent(kv.text) then
                local item = worker.tables:get(kind, short_key)
                if kv.text:find("bad", 1, true) or kv.text:find("broken", 1, true) then
                    assert(rejected[key] and rejected[key].mod_revision == kv.mod, key .. " should be rejected")
                    rejected[key] = nil
                    if item then
                        items = items + 1
                        assert(valid_texts[path][item.value.n])
                        local first = world.workers[1].tables:get(kind, short_key)
                        assert.equal(first.value.n, item.value.n)
                    end
                else
                    items = items + 1
                    assert(item, key .. " is missing")
                    assert.equal(kv.text, json(item.value.n))
                    assert.same({kv.mod, kv.create}, {item.modifiedIndex, item.createdIndex})
                end
            end
        end
        assert.is_nil(next(rejected))
        local there = 0
        for _, kind in ipairs(kinds.list) do
            there = there + #worker.tables:list(kind)
            local last = 0
            for _, item in ipairs((worker.tables:list(kind))) do
                assert.is_true(item.order > last)
                last = item.order
            end
        end
        assert.equal(items, there)
    end
    return world
end

describe("config, with random faults", function()
    it("converges in every worker", function()
        local first = tonumber(os.getenv("DPPROXY_TEST_SEED"))
        local rounds = tonumber(os.getenv("DPPROXY_TEST_ROUNDS")) or (first and 1 or 12)
        first = first or 1
        local deaths = 0
        for seed = first, first + rounds - 1 do
            local ok, world = xpcall(simulate, function(err)
                return tostring(type(err) == "table" and (err.message or err[1]) or err) .. debug.traceback("", 2)
            end, seed)
            assert(ok, "DPPROXY_TEST_SEED=" .. seed .. ": " .. tostring(world))
            deaths = deaths + world.deaths
        end
        assert.is_true(rounds < 5 or deaths > 0)
    end)
end)
