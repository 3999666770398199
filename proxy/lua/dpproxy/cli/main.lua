-- The program: options, runtime folder, nginx.conf, then nginx as a child until it ends.
local environment = require("dpproxy.cli.environment")
local json = require("cjson.safe").new()
local options = require("dpproxy.cli.options")
local placeholder = require("dpproxy.cli.placeholder")
local render = require("dpproxy.cli.render")
local streams_lib = require("dpproxy.stream.apply")

local M = {}

json.encode_sparse_array(true)

local APISIX_VERSION = "3.18.0"

local STREAM_POLL_SECONDS = 0.25

local function say(text)
    io.stderr:write("dpproxy: ", text, "\n")
end

-- What a child of ours may be asked to do, by the signal that we got.
local passed_on = {TERM = "TERM", INT = "TERM", QUIT = "QUIT", USR1 = "USR1", WINCH = nil}

local function settle_paths(sys, conf)
    local dir = conf.dpproxy.runtime_dir or environment.default_runtime_dir(sys, os.getenv)
    local ok, err = sys.mkdir(dir, 493)
    if not ok then
        return nil, err
    end
    dir, err = sys.realpath(dir)
    if not dir then
        return nil, err
    end
    if dir:find('[%c$"\\]') then
        return nil, dir .. ": a runtime folder must not have '$', quotes or control characters in its name"
    end
    conf.dpproxy.runtime_dir = dir
    conf.dpproxy.snapshot_dir = dir .. "/snapshot"
    for _, zone in ipairs(conf.apisix.proxy_cache.zones) do
        if zone.disk_path and not zone.disk_path:find("^/") then
            zone.disk_path = dir .. "/" .. zone.disk_path
        end
    end
    return dir
end

local function make_folders(sys, dir, conf, user)
    for _, folder in ipairs({{"logs", 493}, {"tmp", 493}, {"cache", 493}, {"snapshot", 448}, {"stream", 448}}) do
        local ok, err = sys.mkdir(dir .. "/" .. folder[1], folder[2])
        if not ok then
            return nil, err
        end
    end
    if user then
        -- What is in "cache" nginx makes and gives away by itself; that one stays ours, for a root that may not write everywhere.
        for _, folder in ipairs({"snapshot", "stream"}) do
            local ok, err = sys.own(dir .. "/" .. folder, user)
            if not ok then
                return nil, err
            end
        end
        if not sys.reaches(dir .. "/snapshot", user) then
            return nil, "the workers' user " .. user .. " cannot get to " .. dir .. ", where the last configuration is kept: " ..
                "choose another folder with --runtime-dir, or another user with --user"
        end
    end
    for _, zone in ipairs(conf.apisix.proxy_cache.zones) do
        if zone.disk_path then
            sys.mkdir(zone.disk_path:match("^(.*)/[^/]*$"), 493)
        end
    end
    return true
end

local function check(sys, nginx, dir, conf_file)
    local pid, err = sys.spawn({nginx, "-q", "-t", "-p", dir .. "/", "-c", conf_file})
    if not pid then
        return nil, err
    end
    local how, status = sys.reap(pid, true)
    if how ~= "exit" or status ~= 0 then
        return nil, "nginx refuses its configuration, " .. conf_file
    end
    return true
end

-- The stream part to go on with: that of the last run, or nothing when it cannot be used any more. It becomes stream.conf.next.
local function choose_streams(sys, nginx, dir, conf, env, streams)
    local test = render.stream_test_conf(conf, env, streams_lib.next_file)
    local ok, err = sys.write_file(dir .. "/" .. streams_lib.test_file, test, 420)
    for _, part in ipairs(ok and streams:candidates() or {}) do
        ok, err = streams:write_next(sys, part)
        if ok then
            ok, err = check(sys, nginx, dir, dir .. "/" .. streams_lib.test_file)
        end
        if ok then
            break
        end
    end
    return ok, err
end

-- checked: the old nginx.conf stays when nginx refuses the new one. (At a start, nginx itself says no just as well, and checks
-- only once.)
local function write_nginx_conf(sys, nginx, dir, conf, env, streams, checked)
    local ok, err = true, nil
    if streams then
        ok, err = choose_streams(sys, nginx, dir, conf, env, streams)
    end
    if ok and checked then
        local text = render.nginx_conf(conf, env, streams_lib.next_file)
        ok, err = sys.write_file(dir .. "/nginx.conf.next", text, 420)
        if ok then
            ok, err = check(sys, nginx, dir, dir .. "/nginx.conf.next")
        end
    end
    if ok and streams then
        ok, err = streams:take_next()
    end
    if ok then
        os.remove(dir .. "/nginx.conf.next")
        ok, err = sys.write_file(dir .. "/nginx.conf", render.nginx_conf(conf, env), 420)
    end
    return ok, err
end

-- Writes everything that nginx reads. -> folder, streams
local function prepare(sys, nginx, loaded, checked)
    local conf = loaded.conf
    local env, err = environment.look(sys, conf)
    if not env then
        return nil, err
    end
    local dir, ok
    dir, err = settle_paths(sys, conf)
    if not dir then
        return nil, err
    end
    local streams = streams_lib.settle(conf)
    ok, err = make_folders(sys, dir, conf, env.user)
    if not ok then
        return nil, err
    end
    if sys.kind(dir .. "/placeholder.key") == nil then
        local cert, key = placeholder.make()
        if not cert then
            return nil, key
        end
        ok, err = sys.write_file(dir .. "/placeholder.pem", cert, 420)
        if ok then
            ok, err = sys.write_file(dir .. "/placeholder.key", key, 384)
        end
        if not ok then
            return nil, err
        end
    end
    conf.dpproxy.version, conf.dpproxy.apisix_version = sys.version, APISIX_VERSION
    -- Workers read it again when plugins are loaded anew; and our group, for a root that may not read everything.
    ok, err = sys.write_file(dir .. "/node.json", json.encode(conf), 416)
    if ok and env.user then
        ok, err = sys.own(dir .. "/node.json", env.user)
    end
    if not ok then
        return nil, err
    end
    ok, err = write_nginx_conf(sys, nginx, dir, conf, env, streams, checked)
    if not ok then
        return nil, err
    end
    return dir, streams
end

local function load(sys, args)
    local seen = {}
    local loaded, err = options.load(args, os.getenv, function(text)
        if not seen[text] then
            say("warning: " .. text)
            seen[text] = true
        end
    end)
    return loaded, err
end

-- nginx takes signals once it has written its process id; before, they would end it.
local function takes_signals(dir, pid)
    local file = io.open(dir .. "/nginx.pid", "r")
    local text = file and file:read("*l")
    if file then
        file:close()
    end
    return tonumber(text) == pid
end

-- A reload that is asked for while nginx starts waits for it, but not for ever. What else comes meanwhile is passed on.
local function hang_up(sys, dir, pid)
    for _ = 1, 200 do
        if takes_signals(dir, pid) then
            break
        end
        local signal = sys.wait_signal(0.05)
        if signal and passed_on[signal] then
            sys.kill(pid, passed_on[signal])
        elseif signal == "CHLD" then
            return
        end
    end
    sys.kill(pid, "HUP")
end

-- -> streams
local function reload(sys, nginx, args, pid, old_streams)
    local loaded, err = load(sys, args)
    local dir, streams
    if loaded then
        dir, streams = prepare(sys, nginx, loaded, true)
        err = streams
    end
    if not dir then
        say("not reloaded, the old configuration goes on: " .. err)
        return old_streams
    end
    hang_up(sys, dir, pid)
    return streams
end

local function look_for_streams(sys, nginx, pid, streams)
    streams:poll(sys, function(file)
        return check(sys, nginx, streams.dir, file)
    end, function()
        return takes_signals(streams.dir, pid)
    end, function()
        sys.kill(pid, "HUP")
    end, say)
end

-- Until nginx has ended -> exit status
local function supervise(sys, nginx, args, pid, streams)
    while true do
        local how, number = sys.reap(pid, false)
        if how then
            -- A master that was killed leaves its workers behind; they hold the ports.
            sys.kill(-pid, "KILL")
            return how == "exit" and number or 128 + number
        end
        local signal = sys.wait_signal(streams and STREAM_POLL_SECONDS)
        if signal == "HUP" then
            streams = reload(sys, nginx, args, pid, streams)
        elseif signal and passed_on[signal] then
            sys.kill(pid, passed_on[signal])
        elseif not signal and streams then
            look_for_streams(sys, nginx, pid, streams)
        end
    end
end

local function print_config(sys, loaded)
    local env, err = environment.look(sys, loaded.conf)
    if not env then
        return nil, err
    end
    io.stdout:write(render.nginx_conf(loaded.conf, env))
    return true
end

local function run(sys, args)
    local loaded, err = load(sys, args)
    if not loaded then
        return nil, err
    end
    if loaded.options.help then
        io.stdout:write(options.help())
        return 0
    elseif loaded.options.version then
        io.stdout:write("dpproxy ", sys.version, " (APISIX ", APISIX_VERSION, ")\n")
        return 0
    elseif loaded.options["print-config"] then
        local ok
        ok, err = print_config(sys, loaded)
        return ok and 0 or nil, err
    end
    local nginx = environment.nginx(sys, os.getenv)
    if not nginx then
        return nil, "nginx is not there (Debian: nginx, libnginx-mod-http-lua, lua-resty-core)"
    end
    local dir, streams = prepare(sys, nginx, loaded, loaded.options.test)
    if not dir then
        return nil, streams
    end
    if loaded.options.test then
        say("the configuration is good, " .. dir .. "/nginx.conf")
        return 0
    end
    local pid
    pid, err = sys.spawn({nginx, "-p", dir .. "/", "-c", dir .. "/nginx.conf"})
    if not pid then
        return nil, err
    end
    return supervise(sys, nginx, args, pid, streams)
end

function M.main(sys, args)
    local status, err = run(sys, args)
    if not status then
        for line in tostring(err):gmatch("[^\n]+") do
            say(line)
        end
        return 1
    end
    return status
end

return M
