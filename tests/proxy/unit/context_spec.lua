-- The tables that requests hand on to each other.
local fake_ngx = require("fake_ngx")

local context

before_each(function()
    fake_ngx.install()
    fake_ngx.unload()
    package.loaded["dpproxy.http.context"] = nil
    context = require("dpproxy.http.context")
end)

local function is_new(ctx)
    local tables = ctx.dpproxy_tables
    ctx.dpproxy_tables, ctx.var = nil, nil
    assert.is_nil(next(ctx))
    assert.is_nil(next(tables.matched))
    assert.is_nil(next(tables.ngx_ctx))
    ctx.dpproxy_tables, ctx.var = tables, tables.vars
end

describe("the tables of a request", function()
    it("come back empty", function()
        local ctx = context.take()
        is_new(ctx)
        ctx.route_id, ctx.plugins, ctx.var.a_variable = "1", {}, "x"
        ctx.dpproxy_tables.matched._path = "/a"
        ctx.dpproxy_tables.ngx_ctx.api_ctx = ctx
        context.give_back(ctx)
        local again = context.take()
        assert.equal(ctx, again)
        is_new(again)
        assert.is_nil(rawget(again.var, "_cache").a_variable)
        assert.equal(again, again.var._ctx)
    end)
    it("are not shared by requests at the same time", function()
        local a, b = context.take(), context.take()
        assert.not_equal(a, b)
        context.give_back(a)
        context.give_back(b)
        a, b = context.take(), context.take()
        assert.not_equal(a, b)
        assert.not_equal(a.var, b.var)
        assert.not_equal(a.dpproxy_tables.matched, b.dpproxy_tables.matched)
    end)
    it("go with what a plugin of others left in them", function()
        local ctx = context.take()
        local vars, ngx_ctx = ctx.var, ctx.dpproxy_tables.ngx_ctx
        ctx.of_a_plugin, ngx_ctx.of_a_plugin = "secret", "secret"
        context.give_back(ctx)
        local next_one = context.take()
        is_new(next_one)
        assert.equal("secret", ctx.of_a_plugin)
        assert.equal(next_one, next_one.var._ctx)
        assert.not_equal(vars, next_one.var)
    end)
    it("are not taken back from a ctx that has none", function()
        context.give_back({})
        is_new(context.take())
    end)
    it("know the fields that our code sets", function()
        local known = {}
        for _, name in ipairs(context.fields) do
            known[name] = true
        end
        for _, file in ipairs({"http/request", "http/upstream", "http/balancer", "http/response", "plugin/runtime",
                "plugin/consumer", "upstream/init", "upstream/picker", "upstream/chash"}) do
            local source = assert(io.open("proxy/lua/dpproxy/" .. file .. ".lua")):read("*a")
            for left in source:gmatch("\n *([%w_., ]+) = ") do
                for name in left:gmatch("%f[%w_.]ctx%.([%w_]+)") do
                    assert.is_true(known[name], file .. ": " .. name)
                end
            end
        end
    end)
end)
