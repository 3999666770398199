local json = require("dpproxy.base.json")
local validator = require("dpproxy.schema.validator")

local function check(schema, value, opts)
    local fn = assert(validator.compile(schema, opts))
    return fn(value)
end

-- {name, schema, value, error}: without an error the value passes.
local cases = {
    {"a string", {type = "string"}, "x"},
    {"not a string", {type = "string"}, 1, "wrong type: expected string, got number"},
    {"null", {type = "string"}, json.null, "wrong type: expected string, got userdata"},
    {"one of several types", {type = {"string", "integer"}}, 3},
    {"none of several types", {type = {"string", "integer"}}, 3.5, "wrong type: expected one of string, integer, got number"},
    {"an integer as a float", {type = "integer"}, 3.0},
    {"infinity", {type = "integer"}, math.huge, "wrong type: expected integer, got number"},
    {"an array is no object", {type = "object"}, {1, 2}, "wrong type: expected object, got table"},
    {"an object is no array", {type = "array"}, {a = 1}, "wrong type: expected array, got table"},
    {"an empty table is an object", {type = "object"}, {}},
    {"an empty table is an array", {type = "array"}, {}},
    {"[] is taken for an object", {type = "object"}, json.decode("[]")},
    {"{} is taken for an array", {type = "array"}, json.decode("{}")},
    {"boolean", {type = "boolean"}, "true", "wrong type: expected boolean, got string"},
    {"schema true", {properties = {a = true}}, {a = 1}},
    {"schema false", {properties = {a = false}}, {a = 1}, 'property "a" validation failed: expect false always'},

    {"a property", {properties = {uri = {type = "string"}}}, {uri = 1},
        'property "uri" validation failed: wrong type: expected string, got number'},
    {"nested properties", {properties = {a = {properties = {b = {type = "integer"}}}}}, {a = {b = "x"}},
        'property "a" validation failed: property "b" validation failed: wrong type: expected integer, got string'},
    {"required", {required = {"x"}}, {}, 'property "x" is required'},
    {"required and declared", {properties = {x = {type = "string"}}, required = {"x"}}, {}, 'property "x" is required'},
    {"required and there", {required = {"x"}}, {x = false}},
    {"empty required", {required = {}}, {a = 1}, "the input data should be an empty table"},
    {"not an object, so nothing is required", {required = {"x"}}, "text"},
    {"additional", {properties = {a = {}}, additionalProperties = false}, {a = 1, x = 1},
        "additional properties forbidden, found x"},
    {"additional with a schema", {additionalProperties = {type = "string"}}, {x = 1},
        "failed to validate additional property x: wrong type: expected string, got number"},
    {"additional, but by pattern", {patternProperties = {["^x"] = {}}, additionalProperties = false}, {xa = 1}},
    {"pattern properties", {patternProperties = {["^x"] = {type = "string"}}}, {xa = 1},
        'failed to validate xa (matching "^x"): wrong type: expected string, got number'},
    {"each property", {patternProperties = {[".*"] = {type = "string"}}}, {a = 1},
        'failed to validate a (matching ".*"): wrong type: expected string, got number'},
    {"too few properties", {minProperties = 2}, {a = 1}, "expect object to have at least 2 properties"},
    {"too many properties", {maxProperties = 1}, {a = 1, b = 2}, "expect object to have at most 1 properties"},
    {"property names", {propertyNames = {maxLength = 1}}, {ab = 1},
        "invalid property name ab: string too long, expected at most 1, got 2"},
    {"dependency on names", {dependencies = {a = {"b"}}}, {a = 1}, 'property "b" is required when "a" is set'},
    {"dependency fulfilled", {dependencies = {a = {"b"}}}, {a = 1, b = 1}},
    {"dependency on a schema", {properties = {a = {}}, dependencies = {a = {required = {"c"}}}}, {a = 1},
        'failed to validate dependent schema for "a": property "c" is required'},
    {"dependency on absence", {dependencies = {a = {["not"] = {required = {"b", "c"}}}}}, {a = 1, b = 1, c = 1},
        'failed to validate dependent schema for "a": value wasn\'t supposed to match schema'},

    {"too few items", {minItems = 1}, {}, "expect array to have at least 1 items"},
    {"too many items", {maxItems = 1}, {1, 2}, "expect array to have at most 1 items"},
    {"items", {items = {type = "string"}}, {"a", 2}, "failed to validate item 2: wrong type: expected string, got number"},
    {"a tuple", {items = {{type = "string"}, {type = "integer"}}}, {"a", "b"},
        "failed to validate item 2: wrong type: expected integer, got string"},
    {"a short tuple", {items = {{type = "string"}, {type = "integer"}}}, {"a"}},
    {"a long tuple", {items = {{}}, additionalItems = false}, {1, 2}, "found unexpected extra items in array"},
    {"a long tuple with a schema", {items = {{}}, additionalItems = {type = "string"}}, {1, 2},
        "failed to validate additional item 2: wrong type: expected string, got number"},
    {"equal items", {uniqueItems = true}, {"a", "b", "a"}, "expected unique items but items 1 and 3 are equal"},
    {"equal tables", {uniqueItems = true}, {{a = {1}}, {2}, {a = {1}}}, "expected unique items but items 1 and 3 are equal"},
    {"1 and '1' differ", {uniqueItems = true}, {1, "1", {1}, {"1"}}},
    {"contains", {contains = {type = "string"}}, {1, "a"}},
    {"contains not", {contains = {type = "string"}}, {1}, "failed to check contains"},
    {"contains nothing", {contains = {type = "string"}}, {}, "check contains: empty array is invalid"},

    {"too short", {minLength = 2}, "a", "string too short, expected at least 2, got 1"},
    {"too long", {maxLength = 2}, "abc", "string too long, expected at most 2, got 3"},
    {"characters, not bytes", {maxLength = 2}, "äö"},
    {"bytes are not enough", {minLength = 3}, "äö", "string too short, expected at least 3, got 2"},
    {"bad bytes count each", {maxLength = 2}, "\255\254\253", "string too long, expected at most 2, got 3"},
    {"a surrogate counts each", {minLength = 3, maxLength = 3}, "\237\160\128"},
    {"pattern", {pattern = "^a\\d+$"}, "a12"},
    {"pattern fails", {pattern = "^a\\d+$"}, "b", 'failed to match pattern "^a\\\\d+$" with "b"'},
    {"pattern ends before a newline", {pattern = "^(a$|[$]b\\$)$"}, "a\n",
        'failed to match pattern "^(a$|[$]b\\\\$)$" with "a\\\n"'},
    {"pattern with dollars", {pattern = "^(a$|[$]b\\$)$"}, "$b$"},
    {"pattern does not compile", {pattern = "("}, "b", 'failed to match pattern "(" with "b"'},
    {"at least", {minimum = 1}, 0, "expected 0 to be at least 1"},
    {"at most", {maximum = 1}, 1.5, "expected 1.5 to be at most 1"},
    {"greater", {exclusiveMinimum = 0}, 0, "expected 0 to be greater than 0"},
    {"smaller", {exclusiveMaximum = 3}, 3, "expected 3 to be smaller than 3"},
    {"multiple", {multipleOf = 0.01}, 1.13},
    {"not multiple", {multipleOf = 2}, 3, "expected 3 to be a multiple of 2"},
    {"enum", {enum = {"a", 1, false, {1}}}, {1}},
    {"enum false", {enum = {"a", false}}, false},
    {"not in enum", {enum = {"a", 1}}, "1", "matches none of the enum values"},
    {"const", {const = {a = {1, 2}}}, {a = {1, 2}}},
    {"not const", {const = {a = {1, 2}}}, {a = {1}}, "failed to check const value"},
    {"ipv4", {format = "ipv4"}, "10.0.0.1"},
    {"not ipv4", {format = "ipv4"}, "10.0.0.256", "expect valid ipv4 format but got: 10.0.0.256"},
    {"ipv4 and a zero byte", {format = "ipv4"}, "10.0.0.1\0x", "expect valid ipv4 format but got: 10.0.0.1\0x"},
    {"ipv6", {format = "ipv6"}, "::1"},
    {"not ipv6", {format = "ipv6"}, "[::1]", "expect valid ipv6 format but got: [::1]"},
    {"date-time", {format = "date-time"}, "2026-02-28T12:00:00.5+01:00"},
    {"not date-time", {format = "date-time"}, "2026-02-28 12:00", "expect valid date-time format but got: 2026-02-28 12:00"},
    {"uuid", {format = "uuid"}, "123e4567-e89b-12d3-a456-426614174000"},
    {"unknown format", {format = "regex"}, "("},

    {"allOf", {allOf = {{type = "string"}, {minLength = 2}}}, "a",
        "allOf 2 failed: string too short, expected at least 2, got 1"},
    {"anyOf", {anyOf = {{type = "string"}, {type = "integer"}}}, true, "object matches none of the required"},
    {"anyOf required", {anyOf = {{required = {"a", "b"}}, {required = {"c"}}}}, {a = 1},
        'object matches none of the required: ["a","b"] or ["c"]'},
    {"oneOf", {oneOf = {{required = {"a"}}, {required = {"b"}}}}, {a = 1}},
    {"oneOf none", {oneOf = {{required = {"a"}}, {required = {"b"}}}}, {},
        "value should match only one schema, but matches none"},
    {"oneOf two", {oneOf = {{required = {"a"}}, {required = {"b"}}}}, {a = 1, b = 1},
        "value should match only one schema, but matches both schemas 1 and 2"},
    {"then", {["if"] = {required = {"a"}}, ["then"] = {required = {"b"}}}, {a = 1}, "then clause did not match"},
    {"else", {["if"] = {required = {"a"}}, ["else"] = {required = {"b"}}}, {}, "else clause did not match"},
    {"if alone", {["if"] = {required = {"a"}}}, {}},
    {"not", {["not"] = {type = "string"}}, "x", "value wasn't supposed to match schema"},
    {"$ref", {definitions = {["a/b"] = {type = "string"}}, properties = {x = {["$ref"] = "#/definitions/a~1b"}}}, {x = 1},
        'property "x" validation failed: wrong type: expected string, got number'},
    {"$ref into an array", {items = {{["$ref"] = "#/definitions/x/1"}}, definitions = {x = {{}, {type = "string"}}}}, {1},
        "failed to validate item 1: wrong type: expected string, got number"},
    {"$ref to itself", {properties = {child = {["$ref"] = "#"}, n = {type = "integer"}}}, {child = {child = {n = "x"}}},
        'property "child" validation failed: property "child" validation failed: ' ..
        'property "n" validation failed: wrong type: expected integer, got string'},
}

describe("schema.validator", function()
    for _, case in ipairs(cases) do
        it(case[1], function()
            local ok, err = check(case[2], case[3])
            if case[4] then
                assert.is_false(ok)
                assert.equal(case[4], err)
            else
                assert.is_nil(err)
                assert.is_true(ok)
            end
        end)
    end

    it("fills in defaults, each value its own copy", function()
        local schema = {
            properties = {
                a = {type = "integer", default = 7},
                b = {type = "boolean", default = false},
                c = {type = "array", default = {1, {x = 2}}},
                d = {type = "object", properties = {e = {default = "deep"}}},
                f = {properties = {g = {default = 1}}},
            },
        }
        local fn = assert(validator.compile(schema))
        local first, second = {d = {}, a = 1}, {}
        assert.is_true(fn(first))
        assert.is_true(fn(second))
        assert.same({a = 1, b = false, c = {1, {x = 2}}, d = {e = "deep"}}, first)
        assert.same({a = 7, b = false, c = {1, {x = 2}}}, second)
        first.c[2].x = 3
        assert.equal(2, second.c[2].x)
        assert.equal(2, schema.properties.c.default[2].x)
    end)

    it("leaves alone what opts.skip takes", function()
        local function skip(value, schema)
            return type(value) == "string" and value:sub(1, 5) == "$env:" and (not schema.type or schema.type == "string")
        end
        local schema = {properties = {s = {type = "string", minLength = 100}, n = {type = "integer"}}}
        assert.is_true(check(schema, {s = "$env://X"}, {skip = skip}))
        assert.is_false(check(schema, {s = "$envx"}, {skip = skip}))
        assert.is_false(check(schema, {n = "$env://X"}, {skip = skip}))
    end)

    it("refuses schemas that make no sense", function()
        local loop = {properties = {}}
        loop.properties.x = loop
        local deep = {}
        for _ = 1, 1000 do
            deep = {items = deep}
        end
        for _, schema in ipairs({
            loop, deep, 5, "x", {type = "no such"}, {type = 5}, {properties = "x"}, {properties = {a = 1}}, {items = 3},
            {["$ref"] = "#/nowhere"}, {["$ref"] = "http://example.com/"}, {["$ref"] = 7}, {anyOf = true}, {pattern = 5},
        }) do
            local fn, err = validator.compile(schema)
            assert.is_nil(fn)
            assert.is_string(err)
        end
    end)

    it("ends with values and references that have no end", function()
        local fn = assert(validator.compile({properties = {x = {["$ref"] = "#"}}}))
        local value = {}
        value.x = value
        local ok, err = fn(value)
        assert.is_false(ok)
        assert.truthy(err:find("value is nested too deeply", 1, true))
        assert.is_true(fn({x = {x = {}}}))

        fn = assert(validator.compile({["$ref"] = "#/a", a = {["$ref"] = "#/b"}, b = {["$ref"] = "#/a"}}))
        assert.is_false(fn(1))
    end)

    it("check() compiles a schema once", function()
        local schema = {type = "string"}
        assert.is_true(validator.check(schema, "x"))
        schema.type = "integer"
        assert.is_true(validator.check(schema, "x"))
        assert.is_false(validator.check({type = "integer"}, "x"))
    end)
end)
