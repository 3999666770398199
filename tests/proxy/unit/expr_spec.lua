local expr = require("dpproxy.router.expr")
local json = require("dpproxy.base.json")

local vars = {
    arg_name = "json", arg_n = "10", arg_f = "1.50", arg_hex = "0x10", arg_empty = "", http_x = "A-b", uri = "/hello/World",
    remote_addr = "10.1.2.3", list = {"a", "b", 3}, number = 7, flag = true,
}

-- {expression, expected}
local cases = {
    {{}, true},
    {{{"arg_name", "==", "json"}}, true},
    {{{"arg_name", "==", "JSON"}}, false},
    {{{"arg_name", "json"}}, true},
    {{{"arg_name", "JSON"}}, true}, -- the short form lowers its value
    {{{"arg_n", 10}}, true}, -- and makes a string of it
    {{{"arg_f", 1.5}}, false},
    {{{"arg_n", "==", 10}}, true},
    {{{"arg_n", "==", "10"}}, true},
    {{{"arg_f", "==", 1.5}}, true},
    {{{"arg_f", "==", "1.5"}}, false},
    {{{"arg_hex", "==", 16}}, true},
    {{{"arg_name", "==", 1}}, false},
    {{{"number", "==", 7}}, true},
    {{{"number", "==", "7"}}, false},
    {{{"flag", "==", true}}, true},
    {{{"missing", "==", "x"}}, false},
    {{{"missing", "==", 1}}, false},
    {{{"missing", "==", json.null}}, true},
    {{{"missing", "=="}}, true},
    {{{"arg_empty", "==", json.null}}, false},
    {{{"arg_name", "~=", "x"}}, true},
    {{{"arg_name", "~=", "json"}}, false},
    {{{"arg_name", "~=", 5}}, true},
    {{{"arg_n", "~=", 10}}, false},
    {{{"missing", "~=", "x"}}, true},
    {{{"missing", "~=", 1}}, true},
    {{{"arg_n", ">", 9}}, true},
    {{{"arg_n", ">", "9"}}, true}, -- numbers, not texts
    {{{"arg_n", ">", 10}}, false},
    {{{"arg_n", ">=", 10}}, true},
    {{{"arg_n", "<", 10.5}}, true},
    {{{"arg_n", "<", 10}}, false},
    {{{"arg_n", "<=", "10"}}, true},
    {{{"arg_name", ">", 1}}, false},
    {{{"arg_name", "<", 1}}, false},
    {{{"arg_n", ">", "x"}}, false},
    {{{"missing", ">", 1}}, false},
    {{{"missing", "<=", 1}}, false},
    {{{"uri", "~~", "^/hello/[A-Z]"}}, true},
    {{{"uri", "~~", "^/HELLO"}}, false},
    {{{"uri", "~*", "^/HELLO"}}, true},
    {{{"uri", "~~", "("}}, false},
    {{{"uri", "~~", {"x"}}}, false},
    {{{"number", "~~", "^7$"}}, true},
    {{{"list", "~~", "a"}}, false},
    {{{"missing", "~~", ".*"}}, false},
    {{{"missing", "~*", ".*"}}, false},
    {{{"arg_name", "in", {"xml", "json"}}}, true},
    {{{"arg_name", "IN", {"xml", "json"}}}, true},
    {{{"arg_name", "in", {"xml"}}}, false},
    {{{"arg_n", "in", {10}}}, false},
    {{{"number", "in", {7}}}, true},
    {{{"arg_name", "in", "json"}}, false},
    {{{"missing", "in", {"x"}}}, false},
    {{{"list", "has", "a"}}, true},
    {{{"list", "has", 3}}, true},
    {{{"list", "has", "3"}}, false},
    {{{"arg_name", "has", "json"}}, false},
    {{{"missing", "has", "a"}}, false},
    {{{"remote_addr", "ipmatch", "10.0.0.0/8"}}, true},
    {{{"remote_addr", "ipmatch", {"127.0.0.1", "10.1.2.3"}}}, true},
    {{{"remote_addr", "ipmatch", {"127.0.0.1", "::1"}}}, false},
    {{{"missing", "ipmatch", "10.0.0.0/8"}}, false},
    -- negation
    {{{"arg_name", "!", "==", "json"}}, false},
    {{{"arg_name", "!", "in", {"xml"}}}, true},
    {{{"arg_name", "!", "~~", "^j"}}, false},
    {{{"remote_addr", "!", "ipmatch", {"127.0.0.1"}}}, true},
    {{{"missing", "!", "==", "x"}}, true},
    {{{"missing", "!", ">", 1}}, true},
    {{{"list", "!", "has", "z"}}, true},
    -- and, or, nesting
    {{{"arg_name", "==", "json"}, {"arg_n", "==", 10}}, true},
    {{{"arg_name", "==", "json"}, {"arg_n", "==", 11}}, false},
    {{"OR", {"arg_name", "==", "x"}, {"arg_n", "==", 10}}, true},
    {{"or", {"arg_name", "==", "x"}, {"arg_n", "==", 11}}, false},
    {{"AND", {"arg_name", "==", "json"}, {"arg_n", "==", 10}}, true},
    {{"!AND", {"arg_name", "==", "json"}, {"arg_n", "==", 10}}, false},
    {{"!AND", {"arg_name", "==", "json"}, {"arg_n", "==", 11}}, true},
    {{"!OR", {"arg_name", "==", "x"}, {"arg_n", "==", 11}}, true},
    {{"!OR", {"arg_name", "==", "json"}, {"arg_n", "==", 11}}, false},
    {{"AND", {"arg_name", "==", "json"}, {"OR", {"arg_n", ">", 50}, {"!AND", {"uri", "==", "/"}, {"flag", "==", true}}}}, true},
    {{{"arg_name", "==", "json"}, {"OR", {"arg_n", ">", 50}, {"arg_f", "<", 1}}}, false},
    {{{{"arg_name", "==", "json"}, {"arg_n", "==", 10}}, {"uri", "~~", "^/"}}, true},
}

describe("router.expr", function()
    for i, case in ipairs(cases) do
        it(i .. ": " .. json.encode(case[1]), function()
            local test = assert(expr.compile(case[1]))
            assert.equal(case[2], test(vars))
        end)
    end

    it("reads through __index", function()
        local lazy = setmetatable({}, {__index = function(_, name)
            return "<" .. name .. ">"
        end})
        assert.is_true(expr.compile({{"arg_x", "==", "<arg_x>"}})(lazy))
    end)

    -- {expression, error}
    local bad = {
        {5, "missing argument rule"},
        {{"arg_name", "==", "json"}, "rule should be wrapped inside brackets"},
        {{true}, "rule should be wrapped inside brackets"},
        {{{"arg_name"}}, "invalid expression"},
        {{{"arg_name", "=", "json"}}, "invalid operator '='"},
        {{{"arg_name", {}, "json"}}, "invalid operator", true},
        {{{"arg_name", "?", "==", "json"}}, "bad 'not' expression"},
        {{{"arg_name", "!", "=>", "json"}}, "invalid operator '=>'"},
        {{{}}, "rule too short"},
        {{"OR"}, "rule too short"},
        {{"OR", {"arg_name", "==", "json"}}, "rule too short"},
        {{{"arg_name", "==", "json"}, "x"}, "invalid expression"},
        {{{"a", "ipmatch", ""}}, "invalid ip address"},
        {{{"a", "ipmatch", {}}}, "invalid ip address"},
        {{{"a", "ipmatch", "x"}}, "invalid ip address: x"},
        {{{"a", "ipmatch", 5}}, "invalid ip address: 5"},
        {{{json.null, "==", 5}}, "invalid expression"},
    }
    for i, case in ipairs(bad) do
        it("refuses " .. i .. ": " .. tostring(json.encode(case[1])), function()
            local test, err = expr.compile(case[1])
            assert.is_nil(test)
            if case[3] then
                err = err:sub(1, #case[2])
            end
            assert.equal(case[2], err)
        end)
    end

    it("refuses endless nesting", function()
        local rule = {{"a", "==", "b"}}
        for _ = 1, 1000 do
            rule = {rule}
        end
        assert.is_nil(expr.compile(rule))
    end)
end)
