local ipmatch = require("dpproxy.router.ipmatch")

describe("router.ipmatch", function()
    -- {list, address, expected}
    local cases = {
        {{"10.0.0.1"}, "10.0.0.1", true},
        {{"10.0.0.1"}, "10.0.0.2", false},
        {{"10.0.0.0/8"}, "10.255.255.255", true},
        {{"10.0.0.0/8"}, "11.0.0.0", false},
        {{"10.1.2.3/8"}, "10.9.9.9", true}, -- bits of the host are ignored
        {{"192.168.0.128/25"}, "192.168.0.127", false},
        {{"192.168.0.128/25"}, "192.168.0.200", true},
        {{"200.0.0.0/1"}, "128.0.0.1", true},
        {{"200.0.0.0/1"}, "127.0.0.1", false},
        {{"0.0.0.0/0"}, "255.255.255.255", true},
        {{"0.0.0.0/0"}, "::1", false},
        {{"1.2.3.4/32"}, "1.2.3.4", true},
        {{"::1"}, "::1", true},
        {{"::1"}, "0:0:0:0:0:0:0:1", true},
        {{"::1"}, "::2", false},
        {{"::1"}, "[::1]", true},
        {{"[::1]"}, "::1", true},
        {{"fe80::/10"}, "febf::1", true},
        {{"fe80::/10"}, "fec0::1", false},
        {{"2001:db8::/33"}, "2001:db8:7fff::1", true},
        {{"2001:db8::/33"}, "2001:db8:8000::1", false},
        {{"2001:db8::/127"}, "2001:db8::1", true},
        {{"2001:db8::/127"}, "2001:db8::2", false},
        {{"::/0"}, "ff::", true},
        {{"::/0"}, "1.2.3.4", false},
        {{"2001:db8::/32", "2001:db8::/64", "10.0.0.0/8", "10.1.1.1"}, "2001:db8:1::", true},
        {{}, "1.1.1.1", false},
        {{"10.0.0.1"}, "unix:", false},
        {{"10.0.0.1"}, "", false},
        {{"10.0.0.1"}, "10.0.0.1\0x", false},
        {{"10.0.0.1"}, "10.0.0.1/32", false},
        {{"10.0.0.1"}, nil, false},
        {{"10.0.0.1"}, 10, false},
    }
    for i, case in ipairs(cases) do
        it(i .. ": " .. string.format("%q", tostring(case[2])) .. " in " .. table.concat(case[1], " "), function()
            assert.equal(case[3], assert(ipmatch.new(case[1])):match(case[2]))
        end)
    end

    it("refuses what is no address", function()
        for _, text in ipairs({"", "x", "1.2.3", "1.2.3.4/33", "1.2.3.4/", "1.2.3.4/x", "1.2.3.4/-1", "1.2.3.4/8/8", "::1/129",
                               "1.2.3.4:80", "/8", "1.2.3.4\0", "1.2.3.4 "}) do
            local m, err = ipmatch.new({"10.0.0.1", text})
            assert.is_nil(m)
            assert.equal("invalid ip address: " .. text, err)
        end
        assert.is_nil(ipmatch.new({5}))
        assert.is_nil(ipmatch.new("10.0.0.1"))
    end)

    it("agrees with arithmetic for random networks", function()
        local seed = tonumber(os.getenv("SEED")) or 1
        math.randomseed(seed)
        local function text(n)
            return string.format("%d.%d.%d.%d", n / 2 ^ 24 % 256, n / 2 ^ 16 % 256, n / 256 % 256, n % 256)
        end
        for _ = 1, 200 do
            local list, networks = {}, {}
            for i = 1, 5 do
                local address, bits = math.random(0, 255) * 2 ^ 24 + math.random(0, 2 ^ 24 - 1), math.random(0, 32)
                list[i] = text(address) .. "/" .. bits
                networks[i] = {math.floor(address / 2 ^ (32 - bits)), 2 ^ (32 - bits)}
            end
            table.remove(list, 1)
            table.remove(networks, 1)
            local m = assert(ipmatch.new(list))
            for _ = 1, 20 do
                local address = math.random(0, 255) * 2 ^ 24 + math.random(0, 2 ^ 24 - 1)
                local expected = false
                for _, network in ipairs(networks) do
                    expected = expected or math.floor(address / network[2]) == network[1]
                end
                assert.equal(expected, m:match(text(address)), "seed " .. seed .. ": " .. text(address) .. " in " ..
                    table.concat(list, " "))
            end
        end
    end)
end)
