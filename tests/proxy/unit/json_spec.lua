local json = require("dpproxy.base.json")

describe("base.json", function()
    it("keeps empty arrays and objects apart", function()
        for _, text in ipairs({'{"a":[]}', '{"a":{}}', "[]", "{}", '{"a":[[]]}'}) do
            assert.equal(text, json.encode(json.decode(text)))
        end
    end)
    it("refuses what is not JSON", function()
        for _, text in ipairs({"", "{", '{"a":[]} x', "/* c */ []", "'a'", '{"a":[],}'}) do
            local value, err = json.decode(text)
            assert.is_nil(value)
            assert.is_string(err)
        end
    end)
    it("has a null", function()
        assert.equal(json.null, json.decode('{"a":null,"b":[]}').a)
    end)
    it("knows arrays", function()
        assert.is_true(json.is_array({1, 2}))
        assert.is_true(json.is_array(json.decode("[]")))
        assert.is_false(json.is_array(json.decode("{}")))
        assert.is_false(json.is_array({1, a = 2}))
    end)
end)
