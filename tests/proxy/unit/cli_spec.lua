-- The launcher's configuration: what is taken, what is refused, and that no value can become a directive of nginx.
local file = require("dpproxy.cli.file")
local nginx = require("dpproxy.cli.nginx")
local options = require("dpproxy.cli.options")
local render = require("dpproxy.cli.render")

local function env(vars)
    return function(name) return vars[name] end
end

local function load(args, vars, warnings)
    return options.load(args, env(vars or {}), function(text)
        if warnings then
            warnings[#warnings + 1] = text
        end
    end)
end

local function with_file(text, name, fn)
    local path = os.tmpname() .. (name or ".yaml")
    local handle = assert(io.open(path, "w"))
    handle:write(text)
    handle:close()
    local results = {fn(path)}
    os.remove(path)
    return unpack(results)
end

local function rendered(conf)
    conf.dpproxy.runtime_dir = "/r"
    return render.nginx_conf(conf, {lua_path = "/lua/?.lua", lua_cpath = "/lib/?.so", file_limit = 1024,
        modules = {}, resolvers = {}, env_names = {}})
end

describe("the launcher's options", function()
    it("have APISIX' defaults", function()
        local conf = assert(load({})).conf
        assert.same({{port = 9080}}, conf.apisix.node_listen)
        assert.same({{port = 9443}}, conf.apisix.ssl.listen)
        assert.equal("/apisix", conf.deployment.etcd.prefix)
        assert.equal("auto", conf.nginx_config.worker_processes)
        assert.equal("radixtree_host_uri", conf.apisix.router.http)
    end)

    it("come from flags, with = or without, over the environment, over APISIX' own variables", function()
        local conf = assert(load({"--etcd", "http://a:1,http://b:2", "--listen=127.0.0.1:80,8081"})).conf
        assert.same({"http://a:1", "http://b:2"}, conf.deployment.etcd.host)
        assert.same({{ip = "127.0.0.1", port = 80}, {port = 8081}}, conf.apisix.node_listen)
        local vars = {APISIX_DEPLOYMENT_ETCD_HOST = '["http://c:3"]', APISIX_WORKER_PROCESSES = "3"}
        conf = assert(load({}, vars)).conf
        assert.same({"http://c:3"}, conf.deployment.etcd.host)
        assert.equal(3, conf.nginx_config.worker_processes)
        vars.DPPROXY_ETCD, vars.DPPROXY_WORKERS = "http://d:4", "4"
        conf = assert(load({"--workers", "5"}, vars)).conf
        assert.same({"http://d:4"}, conf.deployment.etcd.host)
        assert.equal(5, conf.nginx_config.worker_processes)
    end)

    it("refuse what is wrong, by name", function()
        for _, case in ipairs({
            {{"--etcd", "ftp://a"}, "%-%-etcd: "},
            {{"--listen", "99999"}, "%-%-listen: "}, {{"--workers", "many"}, "%-%-workers: "},
            {{"--log-level", "loud"}, "%-%-log%-level: must be one of"}, {{"--what"}, "unknown argument: %-%-what"},
            {{"--etcd"}, "%-%-etcd needs URL"}, {{"--test=1"}, "takes no value"},
        }) do
            local loaded, err = load(case[1])
            assert.is_nil(loaded)
            assert.matches(case[2], err)
        end
    end)
end)

describe("the configuration file", function()
    it("may be YAML or JSON, with variables of the environment", function()
        local text =
            "apisix:\n  node_listen:\n    - port: ${{PORT:=81}}\n    - ip: 127.0.0.2\n      port: 82\n"
            .. "nginx_config:\n  worker_processes: ${{N}}\n"
        local conf = assert(with_file(text, nil, function(path) return load({"--config", path}, {N = "7"}) end)).conf
        assert.same({{port = 81}, {ip = "127.0.0.2", port = 82}}, conf.apisix.node_listen)
        assert.equal(7, conf.nginx_config.worker_processes)
        conf = assert(with_file(
            '{"deployment":{"etcd":{"prefix":"/x"}}}', ".json", function(path) return load({"-c", path}) end)).conf
        assert.equal("/x", conf.deployment.etcd.prefix)
        local loaded, err = with_file(text, nil, function(path) return load({"--config", path}) end)
        assert.is_nil(loaded)
        assert.matches("environment variable N is not set", err)
    end)

    it("is refused with the path of each wrong value, and unknown keys are named", function()
        local warnings = {}
        local loaded, err = with_file(
            "apisix:\n  enable_ipv6: maybe\n  nonsense: 1\ndeployment:\n  etcd:\n    timeout: soon\n", nil,
            function(path) return load({"--config", path}, {}, warnings) end)
        assert.is_nil(loaded)
        assert.matches("apisix.enable_ipv6: must be true or false", err)
        assert.matches("deployment.etcd.timeout: must be a number", err)
        assert.matches("apisix.nonsense: unknown key, ignored", warnings[1])
    end)

    it("has its variables replaced once, and not in comments", function()
        assert.equal("a b ${{A}}", file.substitute("${{A}} ${{B:=b}} ${{C}}", env({A = "a", C = "${{A}}"})))
        assert.equal("  # ${{NO}}\nx: a", file.substitute("  # ${{NO}}\nx: ${{A}}", env({A = "a"})))
    end)
end)

describe("nginx.conf", function()
    it("quotes what is no plain word", function()
        assert.equal('"a;b"', nginx.quote("a;b"))
        assert.equal('"a\\"; evil \\"{}"', nginx.quote('a"; evil "{}'))
        assert.equal('"\\\\"', nginx.quote("\\"))
        assert.equal("60s", nginx.quote("60s"))
    end)

    it("has no directive that a value brought along", function()
        local evil = 'x"; return 444; #\n} events { evil on; }'
        local conf = assert(load({})).conf
        conf.apisix.extra_lua_path = evil
        conf.nginx_config.http.access_log_format = evil
        conf.deployment.etcd.prefix = evil
        local text = rendered(conf)
        for line in text:gmatch("[^\n]+") do
            assert.is_nil(line:match("^%s*return 444"))
        end
        assert.matches('log_format main escape=default "x\\"; return 444;', text, 1, true)
    end)

    it("is refused values that would not stay one word where a word is meant", function()
        for _, text in ipairs({
            "nginx_config:\n  http:\n    keepalive_timeout: '60s; evil on'\n",
            "nginx_config:\n  http:\n    real_ip_header: 'a b'\n",
            "nginx_config:\n  error_log: 'a$b'\n", "apisix:\n  ssl:\n    ssl_ciphers: 'A; evil'\n",
            "nginx_config:\n  http:\n    lua_shared_dict:\n      'a b': 1m\n",
            "nginx_config:\n  http:\n    real_ip_from: ['1.2.3.4; x']\n",
            "apisix:\n  ssl:\n    ssl_protocols: TLSv9\n",
            "apisix:\n  control:\n    ip: 'a; b'\n", "nginx_config:\n  user: 'a b'\n",
        }) do
            local loaded, err = with_file(text, nil, function(path) return load({"--config", path}) end)
            assert.is_nil(loaded, text)
            assert.is_string(err)
        end
    end)
end)
