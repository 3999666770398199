-- What a worker's memory grows to: its tables, and what the collector lets come on top of them.
local garbage = require("dpproxy.config.garbage")
local reader = require("dpproxy.config.reader")

describe("the garbage of requests", function()
    local pause, step

    before_each(function()
        pause, step = collectgarbage("setpause", 200), collectgarbage("setstepmul", 200)
    end)

    after_each(function()
        collectgarbage("setpause", pause)
        collectgarbage("setstepmul", step)
    end)

    -- How many times the size of large tables the heap has at most, while there is nothing but garbage.
    local function growth()
        local tables, most = {}, 0
        for i = 1, 100000 do
            tables[i] = {id = i}
        end
        collectgarbage()
        local size = collectgarbage("count")
        for i = 1, 3000000 do
            tables.garbage = {i}
            if i % 1000 == 0 then
                most = math.max(most, collectgarbage("count"))
            end
        end
        return most / size, tables -- they are there until now
    end

    it("is collected soon once memory has doubled", function()
        garbage.init_worker()
        local times = (growth())
        assert.is_true(times < 2.25, "memory grew to " .. times .. " times its size")
    end)

    it("is collected earlier while much is loaded", function()
        garbage.init_worker()
        local times = (garbage.keep_low(growth))
        assert.is_true(times < 1.6, "memory grew to " .. times .. " times its size")
        assert.equal(200, collectgarbage("setpause", 200)) -- as it was
    end)

    it("of a new worker's first load is gone before its first request", function()
        local store = {number = function() return 1 end, read_all = function() return {seq = 1} end}
        local tables = {replace = function()
            local made = {}
            for i = 1, 100000 do
                made[i] = {i}
            end
            return made
        end}
        collectgarbage()
        local before = collectgarbage("count")
        assert.is_true(reader.new({store = store, tables = tables, log = print}):refresh())
        assert.is_true(collectgarbage("count") - before < 1000)
    end)
end)
