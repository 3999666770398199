-- Who a credential belongs to. For each auth plugin and key attribute that is asked for there is a table from the
-- attribute's value to the consumer; a change of a consumer or credential touches only their own entries. The newest
-- owner of a value has it.  A node is what plugins know as a consumer: a copy of the consumer's value, with
-- consumer_name, modifiedIndex, auth_conf (the credential, secrets resolved), credential_id, custom_id, version. It lives
-- until the consumer or the credential changes.
local core = require("apisix.core")
local clone = require("table.clone")
local loader = require("dpproxy.plugin.loader")
local merge = require("dpproxy.plugin.merge")
local secrets = require("dpproxy.plugin.secrets")

local ngx = ngx
local log = core.log
local pairs, ipairs, next, type, setmetatable, rawset = pairs, ipairs, next, type, setmetatable, rawset
local error, pcall = error, pcall
local str_match = string.match

local M = {}

local store

local nodes -- short key -> plugin name -> node
local credentials -- consumer name -> short key of a credential -> true
local indexes -- plugin name -> attribute -> index
local references -- short key -> true: has references to secrets, which are looked at again from time to time
local changed = {} -- short keys that were changed since the last look
local generation, version, secrets_version, references_due

local function subscribed(new, old, short_key)
    changed[short_key] = new or old or true
end

function M.use(opts)
    store = opts.store
    generation = nil
    if store.subscribe then
        store.subscribe("consumers", subscribed)
    end
end

local function get_store()
    if not store then
        M.use({store = require("dpproxy.config.store")})
    end
    return store
end

local refresh

local function warm_up(premature)
    if not premature then
        refresh()
    end
end

-- The tables are made soon after the start, not by the first request.
function M.init_worker()
    get_store()
    local ok, err = ngx.timer.at(0, warm_up)
    if not ok then
        log.warn("the first request will look for all consumers: ", err)
    end
end

-- An index maps a value to its node, or to a list of nodes when several claim it; the last one of the list has it.
local list_mt = {}

local function is_list(entry)
    return getmetatable(entry) == list_mt
end

local function older(a, b)
    return a.order < b.order
end

local function index_add(index, value, node)
    local entry = index[value]
    if entry == nil then
        index[value] = node
        return
    end
    local list = is_list(entry) and entry or setmetatable({entry}, list_mt)
    list[#list + 1] = node
    table.sort(list, older)
    index[value] = list
end

local function index_remove(index, value, node)
    local entry = index[value]
    if entry == node then
        index[value] = nil
    elseif entry ~= nil and is_list(entry) then
        for i = #entry, 1, -1 do
            if entry[i] == node then
                table.remove(entry, i)
            end
        end
        if #entry == 1 then
            index[value] = entry[1]
        end
    end
end

local function index_get(index, value)
    local entry = index[value]
    if entry ~= nil and is_list(entry) then
        return entry[#entry]
    end
    return entry
end

-- Nodes

local function credential_of(short_key)
    return str_match(short_key, "^([^/]+)/credentials/(.+)$")
end

-- The credential with secrets resolved, or nil: a client must not get in with the text of a reference.
local function resolve_auth(conf, plugin_name, consumer_name)
    if not secrets.has_secret_ref(conf) then
        return conf, false
    end
    local resolved = secrets.fetch_secrets(conf, true)
    if secrets.has_secret_ref(resolved) then
        log.error("failed to resolve secret reference in consumer auth credential of plugin ", plugin_name,
            ", skipping consumer: ", consumer_name)
        return nil, true
    end
    return resolved, true
end

local function make_node(consumer, credential, auth_conf)
    local node = clone(consumer.value)
    node.consumer_name = node.id
    node.modifiedIndex = consumer.modifiedIndex
    node.auth_conf = auth_conf
    node.custom_id = node.labels and node.labels.custom_id
    node.order = consumer.order
    node.version = consumer.modifiedIndex
    if credential then
        local _, id = credential_of(credential.short_key)
        node.credential_id = id
        node.order = credential.order
        node.version = consumer.modifiedIndex .. "&" .. credential.modifiedIndex
    end
    return node
end

local function index_node(plugin_name, attribute, index, node, add)
    local value = node.auth_conf[attribute]
    if value ~= nil then
        add(index, value, node)
    elseif add == index_add then
        log.error("missing consumer auth credential '", attribute, "' of plugin ", plugin_name, ", skipping consumer: ",
            node.consumer_name)
    end
end

local function for_indexes(plugin_name, node, add)
    for attribute, index in pairs(indexes[plugin_name] or {}) do
        index_node(plugin_name, attribute, index, node, add)
    end
end

-- -> plugin name -> node | nil, has references. May yield: a manager of secrets may be asked.
local function make_nodes(item, consumer, credential)
    local own, has_references
    for plugin_name, conf in pairs(item.value.plugins or {}) do
        if type(conf) == "table" and loader.is_auth(plugin_name) and loader.is_checked(plugin_name, conf, "credentials") then
            local auth_conf, dynamic = resolve_auth(conf, plugin_name, consumer.short_key)
            has_references = has_references or dynamic
            if auth_conf then
                own = own or {}
                own[plugin_name] = make_node(consumer, credential, auth_conf)
            end
        end
    end
    return own, has_references
end

-- The nodes of one consumer or credential become these; nobody sees a state in between.
local function replace(short_key, own, has_references)
    for plugin_name, node in pairs(nodes[short_key] or {}) do
        for_indexes(plugin_name, node, index_remove)
    end
    nodes[short_key] = own
    references[short_key] = has_references or nil
    for plugin_name, node in pairs(own or {}) do
        for_indexes(plugin_name, node, index_add)
    end
end

local function remember_credential(consumer_name, short_key, is_there)
    local of_consumer = credentials[consumer_name]
    if not of_consumer then
        of_consumer = {}
        credentials[consumer_name] = of_consumer
    end
    of_consumer[short_key] = is_there or nil
    if next(of_consumer) == nil then
        credentials[consumer_name] = nil
    end
end

local function update(short_key)
    local item = store.get("consumers", short_key)
    local consumer_name = credential_of(short_key)
    local consumer, credential = item, nil
    if consumer_name then
        remember_credential(consumer_name, short_key, item ~= nil)
        consumer, credential = store.get("consumers", consumer_name), item
    elseif item then
        merge.set_parent(item.value.plugins, item)
    end
    if not item or not consumer then
        return replace(short_key, nil, false)
    end
    replace(short_key, make_nodes(item, consumer, credential))
end

-- A consumer's nodes, and those of its credentials.
local function update_with_credentials(short_key)
    update(short_key)
    local keys = {}
    for credential in pairs(credentials[short_key] or {}) do
        keys[#keys + 1] = credential
    end
    for i = 1, #keys do
        update(keys[i])
    end
end

local function rebuild()
    nodes, credentials, indexes, references = {}, {}, indexes or {}, {}
    for _, by_attribute in pairs(indexes) do
        for attribute in pairs(by_attribute) do
            by_attribute[attribute] = {}
        end
    end
    for _, item in ipairs(store.list("consumers")) do
        update(item.short_key)
    end
end

local function look_at_references(now)
    secrets_version, references_due = secrets.version(), now + 60
    local keys = {}
    for short_key in pairs(references) do
        keys[#keys + 1] = short_key
    end
    for _, short_key in ipairs(keys) do
        update(short_key)
    end
end

local function must_rebuild()
    return generation ~= loader.generation or not store.subscribe and version ~= store.version("consumers")
end

local function references_are_due()
    return next(references) ~= nil and (ngx.now() >= references_due or secrets_version ~= secrets.version())
end

local function take_in()
    if must_rebuild() then
        generation, version = loader.generation, store.version("consumers")
        changed = {}
        rebuild()
        secrets_version, references_due = secrets.version(), ngx.now() + 60
    end
    while next(changed) do
        local keys = changed
        changed = {}
        for short_key in pairs(keys) do
            update_with_credentials(short_key)
        end
    end
    if references_are_due() then
        look_at_references(ngx.now())
    end
end

local busy_until -- somebody takes in changes; not forever, should that request be torn down in the middle

-- Takes in what has changed. A few table reads when nothing has. Managers of secrets may make it yield: others wait for the end.
function refresh()
    get_store()
    while busy_until and ngx.now() < busy_until do
        ngx.sleep(0.002)
    end
    if not must_rebuild() then
        version = store.version("consumers")
        if not next(changed) and not references_are_due() then
            return
        end
    end
    busy_until = ngx.now() + 10
    local ok, err = pcall(take_in)
    busy_until = nil
    if not ok then
        error(err, 0)
    end
end

local function index_of(plugin_name, attribute)
    local by_attribute = indexes[plugin_name]
    if not by_attribute then
        by_attribute = {}
        indexes[plugin_name] = by_attribute
    end
    local index = by_attribute[attribute]
    if not index then
        index = {}
        by_attribute[attribute] = index
        for _, own in pairs(nodes) do
            local node = own[plugin_name]
            if node then
                index_node(plugin_name, attribute, index, node, index_add)
            end
        end
    end
    return index
end

-- What APISIX calls the consumers' configuration of a plugin: {conf_version =, nodes = array, len = n}. The array is made
-- on demand.
local conf_mt = {
    __index = function(conf, key)
        if key ~= "nodes" and key ~= "len" then
            return nil
        end
        local list = {}
        for _, own in pairs(nodes) do
            list[#list + 1] = own[conf.plugin_name]
        end
        table.sort(list, older)
        rawset(conf, "nodes", list)
        rawset(conf, "len", #list)
        return conf[key]
    end,
}

local confs = {}

function M.conf(plugin_name)
    refresh()
    local conf = confs[plugin_name]
    if not conf or conf.conf_version ~= version or conf.generation ~= generation then
        conf = setmetatable({plugin_name = plugin_name, conf_version = version, generation = generation}, conf_mt)
        confs[plugin_name] = conf
    end
    return conf
end

-- -> consumer, conf | nil, nil, err
function M.find(plugin_name, attribute, value)
    local conf = M.conf(plugin_name)
    if value == nil then
        return nil, conf
    end
    return index_get(index_of(plugin_name, attribute), value), conf
end

-- Value of the attribute -> consumer.
function M.of(plugin_name, attribute)
    refresh()
    local index = index_of(plugin_name, attribute)
    return setmetatable({}, {__index = function(_, value)
        return index_get(index, value)
    end})
end

local anonymous = setmetatable({}, {__mode = "k"}) -- consumer item -> {node, conf}

function M.anonymous(name)
    local item = get_store().get("consumers", name)
    if not item then
        return nil, nil, "failed to get anonymous consumer " .. name
    end
    local entry = anonymous[item]
    if not entry then
        merge.set_parent(item.value.plugins, item)
        entry = {node = make_node(item, nil, nil), conf = {conf_version = item.modifiedIndex}}
        anonymous[item] = entry
    end
    return entry.node, entry.conf
end

-- The request is this consumer's from here on. The upstream learns of it; what the client claimed to be is removed.
function M.attach(ctx, consumer, conf)
    ctx.consumer = consumer
    ctx.consumer_name = consumer.consumer_name
    ctx.consumer_group_id = consumer.group_id
    ctx.consumer_ver = conf.conf_version
    local set_header = core.request.set_header
    set_header(ctx, "X-Consumer-Username", consumer.username)
    set_header(ctx, "X-Credential-Identifier", consumer.credential_id)
    set_header(ctx, "X-Consumer-Custom-ID", consumer.custom_id)
end

return M
