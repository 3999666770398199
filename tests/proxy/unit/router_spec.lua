local router = require("dpproxy.router")

local function item(id, value, order)
    value.id = id
    return {key = "/apisix/routes/" .. id, kind = "routes", short_key = id, value = value, order = order}
end

-- A router with the given routes, "1", "2", … in this order.
local function new(mode, values, opts)
    local r = assert(router.new(mode, opts))
    for i, value in ipairs(values) do
        assert(r:upsert(item(tostring(i), value, i)))
    end
    return r
end

local function request(uri, more)
    local req = {
        uri = uri, method = "GET", host = "t.com", http_host = "t.com:9080", remote_addr = "127.0.0.1", vars = {uri = uri},
    }
    for k, v in pairs(more or {}) do
        req[k] = v
    end
    return req
end

-- The id of the route that a request gets, and what was matched.
local function match(r, uri, more)
    local found, matched = r:match(request(uri, more), {})
    return found and found.short_key, matched
end

local host_uri, by_uri, with_parameter = "radixtree_host_uri", "radixtree_uri", "radixtree_uri_with_parameter"

describe("router", function()
    for _, mode in ipairs({host_uri, by_uri, with_parameter}) do
        describe(mode, function()
            it("B1: takes the exact path, then the prefix", function()
                local r = new(mode, {{uri = "/a*"}, {uri = "/a"}})
                assert.equal("2", match(r, "/a"))
                assert.equal("1", match(r, "/ab"))
                assert.equal("1", match(r, "/a/b"))
                assert.is_nil(match(r, "/b"))
                assert.is_nil(match(r, ""))
            end)

            it("B2: takes the longer prefix, whatever the priority", function()
                local r = new(mode, {
                    {uri = "/*", priority = 100}, {uri = "/foo/*", priority = 0}, {uri = "/foo/bar", priority = -1},
                })
                assert.equal("2", match(r, "/foo/x"))
                assert.equal("2", match(r, "/foo/"))
                assert.equal("1", match(r, "/foo"))
                assert.equal("3", match(r, "/foo/bar"))
            end)

            it("B3: decides between equal paths by priority, then by age", function()
                local r = new(mode, {{uri = "/a", priority = 1}, {uri = "/a", priority = 2}, {uri = "/b"}, {uri = "/b"}})
                assert.equal("2", match(r, "/a"))
                assert.equal("3", match(r, "/b"))
                assert(r:upsert(item("3", {uri = "/b", methods = {"GET"}}, 3)))
                assert.equal("3", match(r, "/b"))
                r:remove("3")
                assert.equal("4", match(r, "/b"))
            end)

            it("keeps the place of a route that brings no order", function()
                local r = assert(router.new(mode))
                for id = 1, 3 do
                    r:upsert(item(tostring(id), {uri = "/a"}))
                end
                r:upsert(item("1", {uri = "/a", priority = 0}))
                assert.equal("1", match(r, "/a"))
                r:remove("1")
                r:upsert(item("1", {uri = "/a"}))
                assert.equal("2", match(r, "/a"))
            end)

            it("asks the longer path first among those with the same prefix and priority", function()
                local r = new(mode, {{uri = "/a/*"}, {uri = "/a/*/b"}, {uri = "/a/*name"}})
                assert.equal("3", match(r, "/a/x/b"))
                r:remove("3")
                assert.equal("2", match(r, "/a/x/b"))
                assert.equal("1", match(r, "/a/x/c"))
            end)

            it("has several paths for a route", function()
                local r = new(mode, {{uris = {"/a", "/b/*"}}, {uri = "/*"}})
                assert.equal("1", match(r, "/a"))
                assert.equal("1", match(r, "/b/c"))
                r:upsert(item("1", {uris = {"/a", "/c"}}, 1))
                assert.equal("2", match(r, "/b/c"))
                assert.equal("1", match(r, "/c"))
            end)

            it("B8: matches methods", function()
                local r = new(mode, {{uri = "/a", methods = {"GET", "PURGE"}}, {uri = "/b"}, {uri = "/c", methods = {}}})
                assert.equal("1", match(r, "/a"))
                assert.equal("1", match(r, "/a", {method = "PURGE"}))
                assert.is_nil(match(r, "/a", {method = "POST"}))
                assert.is_nil(match(r, "/a", {method = "FOO"}))
                assert.equal("2", match(r, "/b", {method = "FOO"}))
                assert.equal("3", match(r, "/c", {method = "FOO"}))
            end)

            it("B9: matches client addresses", function()
                local r = new(mode, {{uri = "/a", remote_addr = "10.0.0.0/8"}, {uri = "/a", remote_addrs = {"::1", "fe80::/10"}}})
                assert.equal("1", match(r, "/a", {remote_addr = "10.1.1.1"}))
                assert.equal("2", match(r, "/a", {remote_addr = "fe80::1"}))
                assert.is_nil(match(r, "/a", {remote_addr = "11.1.1.1"}))
                assert.is_nil(match(r, "/a", {remote_addr = "unix:"}))
            end)

            it("B10: matches vars, and goes on to the next candidate", function()
                local r = new(mode, {
                    {uri = "/a", vars = {{"arg_x", "==", "1"}}, priority = 1}, {uri = "/a"}, {uri = "/b", vars = {}},
                })
                assert.equal("1", match(r, "/a", {vars = {arg_x = "1"}}))
                assert.equal("2", match(r, "/a", {vars = {arg_x = "2"}}))
                assert.equal("3", match(r, "/b"))
            end)

            it("runs filter functions with vars", function()
                local r = new(mode, {
                    {uri = "/a", filter_func = "function(vars) return vars.arg_x == 'yes' and #vars.uri == 2 end"},
                })
                assert.equal("1", match(r, "/a", {vars = {arg_x = "yes", uri = "/a"}}))
                assert.is_nil(match(r, "/a", {vars = {arg_x = "no", uri = "/a"}}))
            end)

            it("takes a predicate that fails for a no, and tells", function()
                local told = {}
                local r = new(mode, {
                    {uri = "/a", filter_func = "function(vars) leaked = 1; error('oh') end", priority = 2},
                    {uri = "/a", vars = {{"bad", "==", 1}}, priority = 1},
                    {uri = "/a"},
                }, {
                    on_error = function(failed, err)
                        told[#told + 1] = failed.short_key .. " " .. err:match("%a+$")
                    end,
                })
                local vars = setmetatable({}, {__index = function()
                    error("no such thing")
                end})
                assert.equal("3", match(r, "/a", {vars = vars}))
                assert.same({"1 oh", "2 thing"}, told)
                assert.is_nil(rawget(_G, "leaked"))
                assert.equal(0, r.guard.busy)
            end)

            it("B11: keeps the old version when a new one does not compile", function()
                local r = new(mode, {{uri = "/a"}})
                for _, value in ipairs({
                    {uri = "/b", vars = {{"a", "=", 1}}}, {uri = "/b", filter_func = "function("},
                    {uri = "/b", remote_addr = "x"}, {uri = "/b", methods = {"FOO"}}, {}, {uris = {}}, {uris = {"/b", 5}},
                }) do
                    local ok, err = r:upsert(item("1", value, 1))
                    assert.is_nil(ok)
                    assert.is_string(err)
                end
                assert.equal("1", match(r, "/a"))
                assert.is_nil(match(r, "/b"))
            end)

            it("B12: does not route what is switched off", function()
                local r = new(mode, {{uri = "/a", status = 0}, {uri = "/*"}})
                assert.equal("2", match(r, "/a"))
                r:upsert(item("1", {uri = "/a", status = 1}, 1))
                assert.equal("1", match(r, "/a"))
                r:upsert(item("1", {uri = "/a", status = 0}, 1))
                assert.equal("2", match(r, "/a"))
            end)

            it("B13: takes hosts from the service, as it is now", function()
                local services = {s = {value = {hosts = {"s.com", "*.s.com"}}}}
                local r = new(mode, {{uri = "/a", service_id = "s"}, {uri = "/a", service_id = "s", hosts = {"own.com"}},
                                     {uri = "/b", service_id = 7}}, {
                    service_of = function(id)
                        return services[id]
                    end,
                })
                assert.equal("1", match(r, "/a", {host = "s.com"}))
                assert.equal("1", match(r, "/a", {host = "x.s.com"}))
                assert.equal("2", match(r, "/a", {host = "own.com"}))
                assert.is_nil(match(r, "/a"))
                assert.equal("3", match(r, "/b"))

                services.s = {value = {hosts = {"new.com"}}}
                services["7"] = {value = {hosts = {"seven.com"}}}
                r:service_changed("s")
                r:service_changed(7)
                r:service_changed("nobody")
                assert.is_nil(match(r, "/a", {host = "s.com"}))
                assert.equal("1", match(r, "/a", {host = "new.com"}))
                assert.is_nil(match(r, "/b"))
                assert.equal("3", match(r, "/b", {host = "seven.com"}))

                -- a service that is gone gives no hosts: its routes match, and fail later
                services.s = nil
                r:service_changed("s")
                assert.equal("1", match(r, "/a"))
                r:remove("1")
                r:service_changed("s")
                assert.is_nil(match(r, "/a"))
                assert.same({["7"] = {["3"] = true}}, r.by_service)
            end)

            it("captures what stars stand for", function()
                local r = new(mode, {{uri = "/a/*"}, {uri = "/b/*rest"}, {uri = "/c/*/d/*name"}, {uri = "/e/*/f"}})
                local id, matched = match(r, "/a/x/y")
                assert.equal("1", id)
                assert.same({_path = "/a/*", _method = "GET", [":ext"] = "x/y"}, matched)
                id, matched = match(r, "/b/")
                assert.equal("2", id)
                assert.equal("", matched.rest)
                id, matched = match(r, "/c/1/d/2/d/3")
                assert.equal("3", id)
                assert.equal("1/d/2", matched[":ext"])
                assert.equal("3", matched.name)
                assert.equal("4", match(r, "/e/1/2/f"))
                assert.equal("4", match(r, "/e//f"))
                assert.is_nil(match(r, "/e/1/2/g"))
                assert.is_nil(match(r, "/e/f"))
            end)

            it("takes a star inside a segment for a prefix", function()
                local r = new(mode, {{uri = "/a*b"}})
                assert.equal("1", match(r, "/a"))
                assert.equal("1", match(r, "/axxx/y"))
            end)

            it("compares segments after a star as regular expressions only when they look like ones", function()
                local r = new(mode, {{uri = "/a/*/(get|set)"}, {uri = "/b/*/c.d"}})
                assert.equal("1", match(r, "/a/1/get"))
                assert.equal("1", match(r, "/a/1/2/set"))
                assert.is_nil(match(r, "/a/1/let"))
                assert.equal("2", match(r, "/b/1/c.d"))
                assert.is_nil(match(r, "/b/1/cxd"))
            end)

            it("clears what was matched before", function()
                local r = new(mode, {{uri = "/a/*", host = "t.com"}, {uri = "/b"}})
                local req = request("/a/b")
                local _, matched = r:match(req)
                assert.equal("b", matched[":ext"])
                assert.equal("t.com", matched._host)
                req.uri = "/b"
                local found, again = r:match(req)
                assert.equal("2", found.short_key)
                assert.equal(matched, again)
                assert.same({_path = "/b", _method = "GET"}, again)
                req.uri = "/c"
                assert.is_nil((r:match(req)))
                assert.same({}, matched)
            end)

            it("keeps requests apart that share tables while a predicate is suspended", function()
                local slow = {{"slow", "==", "1"}}
                local r = new(mode, {{uri = "/a/*", vars = slow, priority = 3}, {uri = "/a/*", vars = slow, host = "t.com"},
                                     {uri = "/*", vars = slow, priority = 9}})
                local req, results = {}, {}
                local function start(uri, host, value)
                    local vars = setmetatable({}, {__index = function()
                        coroutine.yield()
                        return value
                    end})
                    local thread = coroutine.create(function()
                        for name, field in pairs(request(uri, {host = host, http_host = host, vars = vars})) do
                            req[name] = field
                        end
                        local found, matched = r:match(req)
                        results[host] = {found and found.short_key, matched[":ext"], matched._host}
                    end)
                    assert.is_true(coroutine.resume(thread))
                    return thread
                end
                local first, second, third = start("/a/1", "t.com", "0"), start("/a/2", "u.com", "1"), start("/3", "v.com", "1")
                for _, thread in ipairs({first, third, second, first, first}) do
                    assert.is_true(coroutine.resume(thread))
                end
                assert.same({["t.com"] = {}, ["u.com"] = {"1", "2"}, ["v.com"] = {"3", "3"}}, results)
                assert.equal("dead", coroutine.status(first))
                assert.equal(0, r.guard.busy)
            end)

            it("survives what a suspended predicate's neighbours change", function()
                local r = new(mode, {
                    {uri = "/a/*", vars = {{"slow", "==", "1"}}, priority = 3}, {uri = "/a/*", priority = 2}, {uri = "/*"},
                })
                local vars = setmetatable({}, {__index = function()
                    coroutine.yield()
                    return "0"
                end})
                local thread = coroutine.create(function()
                    return match(r, "/a/x", {vars = vars})
                end)
                assert.is_true(coroutine.resume(thread))
                r:upsert(item("0", {uri = "/a/*", priority = 9}, 0))
                r:remove("1")
                assert.equal("0", match(r, "/a/x"))
                local ok, id, matched = coroutine.resume(thread)
                assert.is_true(ok)
                assert.equal("2", id) -- as the list was when the request came
                assert.equal("x", matched[":ext"])
                assert.equal(0, r.guard.busy)
            end)

            it("forgets everything when its routes go", function()
                local r = new(mode, {{uri = "/a", host = "a.com"}, {uri = "/b/*", hosts = {"*.a.com", "*"}}, {uri = "/"}})
                for id = 1, 3 do
                    r:remove(tostring(id))
                    r:remove("never there")
                end
                assert.same({}, r.hosts)
                assert.same({}, r.any_host.exact)
                assert.equal(0, r.any_host.count)
                assert.equal(0, r.wildcards.count)
                assert.same({}, r.routes)
            end)
        end)
    end

    describe("hosts", function()
        it("B4: a host's prefix beats an exact path without host, in the host router only", function()
            local routes = {{uri = "/*", host = "*.x.com"}, {uri = "/p"}}
            local r = new(host_uri, routes)
            assert.equal("1", match(r, "/p", {host = "a.x.com"}))
            assert.equal("2", match(r, "/p", {host = "y.com"}))
            r = new(by_uri, routes)
            assert.equal("2", match(r, "/p", {host = "a.x.com"}))
            assert.equal("1", match(r, "/q", {host = "a.x.com"}))
        end)

        it("B5: exact host, longer wildcard, shorter wildcard, none", function()
            local r = new(host_uri, {
                {uri = "/1", host = "a.x.com"}, {uri = "/*", host = "*.x.com"}, {uri = "/3", host = "*.a.x.com"},
                {uri = "/*", host = "*"}, {uri = "/none"},
            })
            local id, matched = match(r, "/1", {host = "a.x.com"})
            assert.equal("1", id)
            assert.equal("a.x.com", matched._host)
            id, matched = match(r, "/2", {host = "a.x.com"})
            assert.equal("2", id)
            assert.equal("*.x.com", matched._host)
            assert.equal("3", match(r, "/3", {host = "b.a.x.com"}))
            assert.equal("2", match(r, "/4", {host = "b.a.x.com"}))
            id, matched = match(r, "/none", {host = "other"})
            assert.equal("4", id)
            assert.equal("*", matched._host)
            r:remove("4")
            id, matched = match(r, "/none", {host = "other"})
            assert.equal("5", id)
            assert.is_nil(matched._host)
            assert.equal("5", match(r, "/none", {host = ""}))
        end)

        it("B6: in the path router a wildcard is a suffix, and an entry with a port is compared with the Host header", function()
            local r = new(by_uri, {
                {uri = "/a", host = "*foo.com"}, {uri = "/b", hosts = {"t.com:9080", "u.com"}},
                {uri = "/c", host = "*"}, {uri = "/d", host = "T.com"},
            })
            local id, matched = match(r, "/a", {host = "barfoo.com"})
            assert.equal("1", id)
            assert.equal("*foo.com", matched._host)
            assert.equal("1", match(r, "/a", {host = "a.b.foo.com"}))
            assert.is_nil(match(r, "/a", {host = "foo.org"}))
            assert.equal("2", match(r, "/b"))
            assert.is_nil(match(r, "/b", {http_host = "t.com"}))
            assert.equal("2", match(r, "/b", {host = "u.com"}))
            assert.equal("3", match(r, "/c", {host = "any"}))
            assert.equal("4", match(r, "/d"))
            local req = request("/d")
            req.host = nil
            assert.is_nil((r:match(req)))
        end)

        it("priority decides within a host, also for wildcards of two routes", function()
            local r = new(host_uri, {{uri = "/*", host = "*.x.com"}, {uri = "/*", hosts = {"*.x.com", "y.com"}, priority = 1},
                                     {uri = "/*", host = "a.x.com"}})
            assert.equal("2", match(r, "/p", {host = "b.x.com"}))
            assert.equal("3", match(r, "/p", {host = "a.x.com"}))
            assert.equal("2", match(r, "/p", {host = "y.com"}))
        end)

        it("falls back to routes without host when the host's routes do not accept", function()
            local r = new(host_uri, {{uri = "/p", host = "a.com", methods = {"POST"}}, {uri = "/p"}})
            assert.equal("2", match(r, "/p", {host = "a.com"}))
            assert.equal("1", match(r, "/p", {host = "a.com", method = "POST"}))
        end)

        it("a host may be listed twice", function()
            local r = new(host_uri, {{uri = "/p", hosts = {"A.com", "a.com"}}})
            r:remove("1")
            assert.same({}, r.hosts)
        end)
    end)

    describe("parameters", function()
        it("B7: one segment each", function()
            local r = new(with_parameter, {{uri = "/u/:id/p"}, {uri = "/u/7/p"}, {uri = "/u/:id/*rest"}, {uri = "/n/:a/:b/"}})
            local id, matched = match(r, "/u/8/p")
            assert.equal("3", id) -- the longer path as written
            assert.same({_path = "/u/:id/*rest", _method = "GET", id = "8", rest = "p"}, matched)
            r:remove("3")
            id, matched = match(r, "/u/8/p")
            assert.equal("1", id)
            assert.equal("8", matched.id)
            assert.equal("2", match(r, "/u/7/p"))
            assert.is_nil(match(r, "/u/7/x/p"))
            assert.is_nil(match(r, "/u//p"))
            assert.is_nil(match(r, "/u/8/p/"))
            assert.is_nil(match(r, "/u/8"))
            id, matched = match(r, "/n/1/2/")
            assert.equal("4", id)
            assert.equal("1", matched.a)
            assert.equal("2", matched.b)
            assert.is_nil(match(r, "/n/1/2"))
        end)

        it("are text for the other routers", function()
            for _, mode in ipairs({host_uri, by_uri}) do
                local r = new(mode, {{uri = "/u/:id/p"}})
                assert.is_nil(match(r, "/u/8/p"))
                assert.equal("1", match(r, "/u/:id/p"))
            end
        end)

        it("a longer literal prefix is preferred", function()
            local r = new(with_parameter, {{uri = "/u/:id", priority = 9}, {uri = "/u/me*"}, {uri = "/:any"}})
            assert.equal("2", match(r, "/u/me"))
            assert.equal("1", match(r, "/u/x"))
            assert.equal("3", match(r, "/x"))
            assert.is_nil(match(r, "/x/y"))
        end)

        it("a colon inside a segment makes a prefix", function()
            local r = new(with_parameter, {{uri = "/v1/x:verb"}})
            assert.equal("1", match(r, "/v1/x:verb"))
            assert.equal("1", match(r, "/v1/x"))
        end)

        it("take what a URI may have, newlines too", function()
            local r = new(with_parameter, {{uri = "/f/:name/x"}, {uri = "/g/:name/*rest"}})
            local _, matched = match(r, "/f/a b;c:d@e=%\n/x")
            assert.equal("a b;c:d@e=%\n", matched.name)
            _, matched = match(r, "/g/1/a\nb/c")
            assert.equal("a\nb/c", matched.rest)
        end)

        it("stay quick with many stars and slashes", function()
            local r = new(with_parameter, {{uri = "/:a/*b/x/*c/y/*d/z"}})
            local started = os.clock()
            assert.is_nil(match(r, "/q" .. ("/x/y"):rep(1000)))
            assert.is_true(os.clock() - started < 1)
            assert.equal("1", match(r, "/q/1/x/2/y/3/z"))
        end)
    end)

    it("B14: matches the path that it is given, which is decoded and normal", function()
        local r = new(host_uri, {{uri = "/b"}, {uri = "/a/*"}, {uri = "/ä ö"}})
        assert.equal("1", match(r, "/b"))
        assert.equal("2", match(r, "/a/%2e%2e/b"))
        assert.equal("3", match(r, "/ä ö"))
    end)

    it("knows its modes", function()
        local r, err = router.new("radixtree")
        assert.is_nil(r)
        assert.equal("no such router: radixtree", err)
    end)

    it("checks routes without keeping them", function()
        assert.is_true(router.check({uri = "/a", vars = {{"a", "==", "b"}}}))
        local ok, err = router.check({uri = "/a", vars = {{"a", "=", "b"}}})
        assert.is_nil(ok)
        assert.equal("failed to validate the 'vars' expression: invalid operator '='", err)
    end)

    it("finds prefixes whose hashes collide", function()
        -- 31 * "a" + "B" == 31 * "b" + "#"
        local r = new(host_uri, {{uri = "/aB*"}, {uri = "/b#*"}, {uri = "/aB/aB*"}, {uri = "/b#/b#*"}})
        assert.equal("1", match(r, "/aBx"))
        assert.equal("2", match(r, "/b#x"))
        assert.equal("3", match(r, "/aB/aBx"))
        assert.equal("4", match(r, "/b#/b#x"))
        assert.equal("1", match(r, "/aB/b#x"))
        r:remove("1")
        assert.is_nil(match(r, "/aB/b#x"))
        assert.equal("2", match(r, "/b#x"))
    end)

    it("has prefixes of any length", function()
        local long = "/" .. ("x"):rep(5000)
        local r = new(host_uri, {{uri = long .. "*"}, {uri = "*"}})
        assert.equal("1", match(r, long .. "y"))
        assert.equal("2", match(r, long:sub(1, -2)))
        r:remove("1")
        assert.equal("2", match(r, long))
    end)
end)
