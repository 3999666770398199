local inflate = require("dpproxy.base.inflate").inflate
local random = require("dpproxy.base.random")

describe("base.random", function()
    it("makes UUIDs of version 4", function()
        local seen = {}
        for _ = 1, 1000 do
            local id = random.uuid4()
            assert.is_truthy(id:match("^%x%x%x%x%x%x%x%x%-%x%x%x%x%-4%x%x%x%-[89ab]%x%x%x%-%x%x%x%x%x%x%x%x%x%x%x%x$"), id)
            assert.is_nil(seen[id])
            seen[id] = true
        end
    end)
    it("makes KSUIDs that sort by time", function()
        local a, b = random.ksuid(1700000000), random.ksuid(1700000001)
        assert.equal(27, #a)
        assert.is_true(a < b)
        assert.is_truthy(a:match("^%w+$"))
        -- 0 seconds after its epoch: the leading digits are those of a number below 2^128
        assert.equal("00000", random.ksuid(1400000000):sub(1, 5))
    end)
    it("draws each character of an alphabet about as often", function()
        local text = random.text(6000, "abcdef")
        assert.equal(6000, #text)
        for c in ("abcdef"):gmatch(".") do
            local _, n = text:gsub(c, "")
            assert.is_true(n > 800 and n < 1200, c .. " " .. n)
        end
    end)
end)

describe("base.inflate", function()
    local function pack(text)
        local name = os.tmpname()
        local f = assert(io.popen("gzip -c >" .. name, "w"))
        f:write(text)
        f:close()
        f = assert(io.open(name, "rb"))
        local packed = f:read("*a")
        f:close()
        os.remove(name)
        return packed
    end
    it("unpacks gzip, of any size and in several members", function()
        local long = ("hello world "):rep(40000)
        for _, text in ipairs({"", "x", long}) do
            assert.equal(text, inflate(pack(text)))
        end
        assert.equal("ab", inflate(pack("a") .. pack("b")))
    end)
    it("unpacks both kinds of deflate", function()
        local decode = require("apisix.utils.content-decode").dispatch_decoder("deflate")
        local packed = pack("hello hello hello")
        -- Between gzip's head (10 bytes, no name) and its tail (8) there is deflate.
        assert.equal("hello hello hello", decode(packed:sub(11, -9)))
        assert.equal("hi", decode("\120\156\203\200\4\0\1\59\0\210"))
        assert.is_nil((decode("\255\255\255")))
    end)
    it("refuses what is damaged, cut off or too large", function()
        local packed = pack(("hello world "):rep(4000))
        local _, err = inflate(packed:sub(1, 40))
        assert.equal("packed data ends early", err)
        _, err = inflate("not packed at all")
        assert.is_truthy(err:match("damaged"))
        _, err = inflate(packed, 1000)
        assert.is_truthy(err:match("larger than 1000"))
    end)
end)
