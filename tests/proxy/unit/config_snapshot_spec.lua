local record = require("dpproxy.config.record")
local posix = require("dpproxy.config.posix")
local snapshot = require("dpproxy.config.snapshot")

local function rec(path, text)
    return {
        op = "V", slot = 1, order = 1, create = 2, mod = 3, since = 0, seq = 4, path = path, text = text, reason = "",
    }
end

local function state(n)
    local valid = {["routes/1"] = rec("routes/1", '{"n":' .. n .. "}")}
    local rejected = {["routes/2"] = {
        op = "R", slot = 2, order = 0, create = 2, mod = 5, since = 7, seq = 4, path = "routes/2", text = "{\n", reason = "no\n",
    }}
    return {
        valid = valid, rejected = rejected, prefix = "/apisix",
        texts = {record.encode(valid["routes/1"]), record.encode(rejected["routes/2"])},
        at = {revision = 40 + n, cluster = "18446744073709551615", source = "etcd"},
    }
end

describe("config.snapshot", function()
    local folder, complaints

    local function complain(message)
        complaints[#complaints + 1] = message
    end

    local function write(name, text)
        local file = assert(io.open(folder .. "/" .. name, "wb"))
        file:write(text)
        file:close()
    end

    local function read(name)
        local file = io.open(folder .. "/" .. name, "rb")
        local text = file and file:read("*a")
        if file then
            file:close()
        end
        return text
    end

    before_each(function()
        folder = io.popen("mktemp -d"):read("*l")
        complaints = {}
    end)

    after_each(function()
        os.execute("rm -rf '" .. folder .. "'")
    end)

    it("gives back what was written", function()
        assert.is_nil(snapshot.load(folder, "/apisix", complain))
        assert(snapshot.write(folder, state(1), 1700000000))
        local found = snapshot.load(folder, "/apisix", complain)
        assert.same(state(1).valid, found.valid)
        assert.same(state(1).rejected, found.rejected)
        assert.same({revision = 41, cluster = "18446744073709551615", source = "disk"}, found.at)
        assert.equal(1700000000, found.time)
        assert.equal("600", io.popen("stat -c %a " .. folder .. "/config.snapshot"):read("*l"))
        assert.is_nil(snapshot.load(folder, "/other", complain))
        assert.same({}, complaints)
    end)

    it("believes nothing that is cut or changed, and takes the older generation then", function()
        assert(snapshot.write(folder, state(1), 1))
        assert(snapshot.write(folder, state(2), 2))
        local good = read("config.snapshot")
        for at = 0, #good - 1 do
            assert.is_nil((snapshot.decode(good:sub(1, at))))
            local changed = good:sub(1, at) .. string.char((good:byte(at + 1) + 1) % 256) .. good:sub(at + 2)
            assert.is_nil((snapshot.decode(changed)))
        end
        assert.is_nil((snapshot.decode(good .. "x")))
        write("config.snapshot", good:sub(1, -2))
        local found = snapshot.load(folder, "/apisix", complain)
        assert.equal(41, found.at.revision)
        assert.equal(1, #complaints)
        -- The damaged one must not push the good one out.
        assert(snapshot.write(folder, state(3), 3))
        write("config.snapshot", "")
        assert.equal(41, snapshot.load(folder, "/apisix", complain).at.revision)
        write("config.snapshot.1", "")
        assert.is_nil(snapshot.load(folder, "/apisix", complain))
        assert.equal(3, #complaints)
    end)

    it("keeps what there is when it cannot write", function()
        assert(snapshot.write(folder, state(1), 1))
        local real = posix.rename
        for _, broken in ipairs({"write_new", "rename"}) do
            local original = posix[broken]
            posix[broken] = function() return nil, "no space" end
            local size, err = snapshot.write(folder, state(2), 2)
            posix[broken] = original
            assert.is_nil(size)
            assert.equal("no space", err)
            assert.equal(41, snapshot.load(folder, "/apisix", complain).at.revision)
        end
        assert.equal(real, posix.rename)
        assert.is_nil((snapshot.write(folder .. "/nowhere", state(2), 2)))
        assert.same({}, complaints)
    end)

    it("is not stopped by what a killed writer left", function()
        write("config.snapshot.new", "half")
        write("config.snapshot.old", "half")
        assert(snapshot.write(folder, state(1), 1))
        assert(snapshot.write(folder, state(2), 2))
        assert.equal(42, snapshot.load(folder, "/apisix", complain).at.revision)
        assert.truthy(read("config.snapshot.1"):find('{"n":1}', 1, true))
    end)
end)

describe("config.posix", function()
    it("knows who is dead", function()
        local shell = io.popen("echo $$")
        local pid = tonumber(shell:read("*l"))
        shell:close()
        assert.is_true(posix.is_dead(pid))
        assert.is_false(posix.is_dead(1))
    end)
    it("has a clock that grows", function()
        local before = posix.monotonic()
        assert.is_true(posix.monotonic() >= before and before > 0)
    end)
end)
