-- Responses in a shared dictionary, with variants by Vary.
--
-- A cache key (made of what clients send) leads to three kinds of entries. Its length stands in front, so that no key can be made
-- to look like a variant of another one:
--
--     <length>:<key>                 a response without Vary
--     <length>:<key>::vary           which headers the responses vary by, and their signatures
--     <length>:<key>::<signature>    a response for these values of the headers
--
-- The dictionary bounds the whole; the list of variants is bounded here. No ngx in here.
local json = require("dpproxy.base.json")

local concat, sort, insert, remove = table.concat, table.sort, table.insert, table.remove
local sub, find, lower, gmatch = string.sub, string.find, string.lower, string.gmatch
local tonumber, type, ipairs = tonumber, type, ipairs

local M = {}

local layout = 1
local max_variants = 64

local function base_of(key)
    return #key .. ":" .. key
end

local function index_of(key)
    return base_of(key) .. "::vary"
end

local function variant_of(key, signature)
    return base_of(key) .. "::" .. signature
end

-- A response as one text: "<length of the head>\n<head as JSON><body>"
local function pack(response)
    local head, err = json.encode({layout = layout, status = response.status, headers = response.headers, ttl = response.ttl,
        at = response.at, size = #response.body})
    if not head then
        return nil, err
    end
    return #head .. "\n" .. head .. response.body
end

local function unpack_response(text)
    local line = type(text) == "string" and find(text, "\n", 1, true)
    local length = line and tonumber(sub(text, 1, line - 1))
    if not length then
        return nil
    end
    local head = json.decode(sub(text, line + 1, line + length))
    local body = sub(text, line + length + 1)
    if type(head) ~= "table" or head.layout ~= layout or head.size ~= #body then
        return nil
    end
    head.body = body
    return head
end

-- "Accept-Encoding, Accept" -> {"accept", "accept-encoding"} | nil for "*": such a response is good for one request only
function M.vary_list(value)
    if type(value) == "table" then
        value = concat(value, ",")
    end
    local names = {}
    for name in gmatch(value or "", "[^,%s]+") do
        if name == "*" then
            return nil
        end
        names[#names + 1] = lower(name)
    end
    sort(names)
    return names
end

-- header(name) -> the request's value; md5(text) -> text
local function signature_of(names, header, md5)
    local parts = {}
    for i, name in ipairs(names) do
        local value = header(name) or ""
        -- The length keeps "a","bc" and "ab","c" apart.
        parts[i] = #value .. ":" .. value
    end
    return md5(concat(parts, ","))
end

local function read_index(dict, key)
    -- Also one that has expired: it still names variants that have not.
    local text = dict:get_stale(index_of(key))
    local index = text and json.decode(text)
    if type(index) ~= "table" or index.layout ~= layout or type(index.vary) ~= "table" or type(index.variants) ~= "table" then
        return nil
    end
    return index
end

local function same(a, b)
    return concat(a, ",") == concat(b, ",")
end

-- -> response | nil, "not found" | nil, "expired"
function M.get(dict, key, header, md5)
    local index = read_index(dict, key)
    local name = index and variant_of(key, signature_of(index.vary, header, md5)) or base_of(key)
    local text, _, stale = dict:get_stale(name)
    if not text then
        return nil, "not found"
    end
    if stale then
        return nil, "expired"
    end
    local response = unpack_response(text)
    if not response then
        dict:delete(name)
        return nil, "not found"
    end
    return response
end

-- Removes all that is kept for a key. -> whether there was something
function M.purge(dict, key)
    local index = read_index(dict, key)
    local found = index ~= nil or dict:get_stale(base_of(key)) ~= nil
    for _, signature in ipairs(index and index.variants or {}) do
        dict:delete(variant_of(key, signature))
    end
    dict:delete(index_of(key))
    dict:delete(base_of(key))
    return found
end

local function put_variant(dict, key, names, signature, ttl)
    local index = read_index(dict, key)
    local variants = {}
    if index and same(index.vary, names) then
        variants = index.variants
    elseif index then
        for _, old in ipairs(index.variants) do
            dict:delete(variant_of(key, old))
        end
    end
    local known = false
    for _, old in ipairs(variants) do
        known = known or old == signature
    end
    if not known then
        -- A Vary on what differs with every client must not grow without end: the oldest goes.
        while #variants >= max_variants do
            dict:delete(variant_of(key, remove(variants, 1)))
        end
        insert(variants, signature)
    end
    return dict:set(index_of(key), json.encode({layout = layout, vary = names, variants = variants}), ttl)
end

-- response: {status, headers, body, ttl, at}. names: vary_list of the response. -> true | nil, err
function M.put(dict, key, names, header, md5, response)
    local text, err = pack(response)
    if not text then
        return nil, err
    end
    local name = base_of(key)
    if #names > 0 then
        local signature = signature_of(names, header, md5)
        local ok
        ok, err = put_variant(dict, key, names, signature, response.ttl)
        if not ok then
            return nil, err
        end
        dict:delete(name)
        name = variant_of(key, signature)
    elseif read_index(dict, key) then
        -- It varied once, and does not any more.
        M.purge(dict, key)
    end
    local ok
    ok, err = dict:set(name, text, response.ttl)
    if not ok then
        return nil, err
    end
    return true
end

return M
