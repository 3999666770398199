-- The launcher's side of streams: turns the plan that a worker left into nginx' configuration, has nginx test it, and tells nginx
-- to reload. Workers may be another user than we are, so they cannot do it, and what they wrote is data to us, no configuration.
local files = require("dpproxy.base.files")
local json = require("cjson.safe").new()
local render = require("dpproxy.stream.render")

local M = {}
local mt = {__index = M}

local MIN_SECONDS = 1 -- between two reloads
local MAX_PLAN = 64 * 1024 * 1024

json.encode_sparse_array(true)

function M.wanted(conf)
    return conf.apisix.proxy_mode ~= "http"
end

local function listeners_of(apisix)
    local list = {}
    for _, kind in ipairs({"tcp", "udp"}) do
        for _, each in ipairs(apisix.stream_proxy[kind] or {}) do
            local ip = each.ip
            list[#list + 1] = {
                where = ip and (ip:find(":", 1, true) and "[" .. ip .. "]" or ip) .. ":" .. each.port or each.port,
                port = each.port, tls = each.tls, udp = kind == "udp", reuseport = apisix.enable_reuseport,
            }
        end
    end
    return list
end

-- Writes into the configuration what workers need to know. -> streams | nil when there are none
function M.settle(conf)
    if not M.wanted(conf) then
        return nil
    end
    local dir, listeners = conf.dpproxy.runtime_dir, listeners_of(conf.apisix)
    local tls = false
    for _, listener in ipairs(listeners) do
        tls = tls or listener.tls == true
    end
    conf.dpproxy.streams = {folder = dir .. "/stream/", result = dir .. "/stream-result.json", tls = tls}
    return setmetatable({
        dir = dir, last = -math.huge,
        node = {listeners = listeners, folder = dir .. "/stream/", fallback_sni = conf.apisix.ssl.fallback_sni},
    }, mt)
end

-- What to start with: the last plan that was good, else nothing. -> array of texts to try
function M:candidates()
    local list = {}
    local saved = json.decode(files.read(self.dir .. "/stream-plan.json") or "")
    if saved then
        list[1] = render.text(saved, self.node)
    end
    list[#list + 1] = assert(render.text(render.empty_plan(), self.node))
    return list
end

-- What is tested before it becomes stream.conf.
M.next_file = "stream.conf.next"
M.test_file = "stream-test.conf"

function M:write_next(sys, text)
    return sys.write_file(self.dir .. "/" .. M.next_file, text, 420)
end

function M:take_next()
    return os.rename(self.dir .. "/" .. M.next_file, self.dir .. "/stream.conf")
end

local function tell(self, sys, result)
    result.since = os.time()
    return sys.write_file(self.dir .. "/stream-result.json", json.encode(result), 420)
end

-- -> is there something new for nginx | nil, err
local function apply(self, sys, check)
    local text, err = sys.read_plain(self.dir .. "/stream/plan.json", MAX_PLAN)
    if not text then
        return nil, err
    end
    local plan = json.decode(text)
    if type(plan) ~= "table" then
        return nil, "the plan is no JSON"
    end
    local rendered, problems = render.text(plan, self.node)
    if not rendered then
        return nil, problems
    end
    local changed = rendered ~= files.read(self.dir .. "/stream.conf")
    if changed then
        local ok
        ok, err = self:write_next(sys, rendered)
        if ok then
            ok, err = check(self.dir .. "/" .. M.test_file)
        end
        if not ok then
            return nil, err
        end
        self:take_next()
    end
    sys.write_file(self.dir .. "/stream-plan.json", text, 384)
    tell(self, sys, {problems = #problems > 0 and problems or nil})
    return changed
end

-- Looks for a new plan. check(file) -> true | nil, err; started() -> does nginx take signals yet; reload() tells it; say(text)
function M:poll(sys, check, started, reload, say)
    local now = sys.monotonic()
    if now - self.last < MIN_SECONDS then
        return
    end
    local stamp = sys.stamp(self.dir .. "/stream/plan.json")
    if not stamp or stamp == self.stamp or not started() then
        return
    end
    self.stamp = stamp
    local changed, err = apply(self, sys, check)
    if changed == nil then
        say("stream routes: the last good configuration goes on: " .. tostring(err))
        tell(self, sys, {error = tostring(err)})
    elseif changed then
        self.last = now
        reload()
    end
end

return M
