-- graphql_name, graphql_operation, graphql_root_fields: the first operation of a GraphQL request. Only as much of the language is
-- read as these need; what does not lex or balance is refused.
local config_local = require("apisix.core.config_local")
local json = require("apisix.core.json")
local log = require("apisix.core.log")
local request = require("apisix.core.request")

local str_find, str_sub, str_match = string.find, string.sub, string.match
local type = type

local M = {}

local max_depth = 100

-- Comments and white space, then one token: its kind ("name", "string", "punct", "end"), text, and the position after it.
local function token(text, pos)
    while true do
        pos = str_match(text, "^[%s,\239\187\191]*()", pos)
        local after = str_match(text, "^#[^\r\n]*()", pos)
        if not after then
            break
        end
        pos = after
    end
    if pos > #text then
        return "end", "", pos
    end
    local word, after = str_match(text, "^([%a_][%w_]*)()", pos)
    if word then
        return "name", word, after
    end
    if str_sub(text, pos, pos + 2) == '"""' then
        local from = pos + 3
        while true do
            local stop = str_find(text, '"""', from, true)
            if not stop then
                return nil
            end
            if str_sub(text, stop - 1, stop - 1) ~= "\\" then
                return "string", "", stop + 3
            end
            from = stop + 3
        end
    end
    if str_sub(text, pos, pos) == '"' then
        local at = pos + 1
        while true do
            local c = str_sub(text, at, at)
            if c == "" or c == "\n" then
                return nil
            elseif c == '"' then
                return "string", "", at + 1
            end
            at = at + (c == "\\" and 2 or 1)
        end
    end
    local number
    number, after = str_match(text, "^(%-?%d[%d.eE+-]*)()", pos)
    if number then
        return "number", number, after
    end
    if str_sub(text, pos, pos + 2) == "..." then
        return "punct", "...", pos + 3
    end
    local c = str_match(text, "^[!$&():=@%[%]{}|]", pos)
    if c then
        return "punct", c, pos + 1
    end
    return nil
end

local closing = {["("] = ")", ["["] = "]", ["{"] = "}"}

-- From just after an opening bracket to just after its closing one.
local function skip(text, pos, close, depth)
    if depth > max_depth then
        return nil
    end
    while true do
        local kind, word
        kind, word, pos = token(text, pos)
        if not kind or kind == "end" then
            return nil
        end
        if kind == "punct" then
            if word == close then
                return pos
            elseif closing[word] then
                pos = skip(text, pos, closing[word], depth + 1)
                if not pos then
                    return nil
                end
            elseif word == ")" or word == "]" or word == "}" then
                return nil
            end
        end
    end
end

-- The names of a selection set's own fields, aliases resolved; spreads have none. Returns fields, position after.
local function selections(text, pos)
    local fields = {}
    local kind, word, _
    while true do
        kind, word, pos = token(text, pos)
        if kind == "punct" and word == "}" then
            return fields, pos
        elseif kind == "name" then
            local name = word
            local k, w, after = token(text, pos)
            if k == "punct" and w == ":" then
                k, name, pos = token(text, after)
                if k ~= "name" then
                    return nil
                end
            end
            fields[#fields + 1] = name
        elseif kind == "punct" and word == "..." then
            -- a fragment's name, or "on Type"
            local k, w, after = token(text, pos)
            if k == "name" then
                pos = after
                if w == "on" then
                    k, _, pos = token(text, pos)
                    if k ~= "name" then
                        return nil
                    end
                end
            end
        elseif kind == "punct" and word == "@" then
            kind, _, pos = token(text, pos)
            if kind ~= "name" then
                return nil
            end
        elseif kind == "punct" and closing[word] then
            pos = skip(text, pos, closing[word], 1)
            if not pos then
                return nil
            end
        else
            return nil
        end
    end
end

-- text -> {operation, name, root_fields} of the first definition | nil
function M.parse(text)
    local kind, word, pos = token(text, 1)
    local operation, name = "query", ""
    if kind == "name" then
        operation = word
        kind, word, pos = token(text, pos)
        if kind == "name" then
            name = word
            kind, word, pos = token(text, pos)
        end
        -- variables and directives
        while kind and kind ~= "end" and word ~= "{" do
            if kind == "punct" and closing[word] then
                pos = skip(text, pos, closing[word], 1)
                if not pos then
                    return nil
                end
            end
            kind, word, pos = token(text, pos)
        end
    end
    if kind ~= "punct" or word ~= "{" then
        return nil
    end
    local fields, after = selections(text, pos)
    if not fields or #fields == 0 then
        return nil
    end
    return {operation = operation, name = name, root_fields = fields}, after
end

local function text_of(ctx, max_size)
    local method = request.get_method()
    if method == "GET" then
        local query = request.get_uri_args(ctx).query
        if type(query) == "table" then
            query = query[1]
        end
        if type(query) ~= "string" then
            return nil, "failed to read graphql data, args[query] is nil"
        end
        return query
    elseif method ~= "POST" then
        return nil, "graphql not support `" .. method .. "` request"
    end
    local body, err = request.get_body(max_size, ctx)
    if not body then
        return nil, "failed to read graphql data, " .. (err or "request body has zero size")
    end
    if request.header(ctx, "Content-Type") ~= "application/json" then
        return body
    end
    local value
    value, err = json.decode(body)
    if type(value) ~= "table" or type(value.query) ~= "string" then
        return nil, "failed to read graphql data, " .. (err or "json body[query] is nil")
    end
    return value.query
end

local nothing = {}

-- Parsed once per request; an empty table when there is nothing to see.
function M.of(ctx)
    if ctx._graphql then
        return ctx._graphql
    end
    local conf = config_local.local_conf()
    local max_size = conf and conf.graphql and conf.graphql.max_size or 1048576
    local text, err = text_of(ctx, max_size)
    local parsed = text and M.parse(text)
    if not parsed then
        log.error(err or "failed to parse graphql")
    end
    ctx._graphql = parsed or nothing
    return ctx._graphql
end

return M
