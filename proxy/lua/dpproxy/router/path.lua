-- A route's path: what of it is literal, and how the rest of a request's path is checked and captured.
--
--   parse(path, with_parameter) -> literal, check | nil
--       check(uri, matched) -> bool, or a name: what follows the literal, whatever it is, is captured under it
--
-- Without a star a path is exact, and its literal is itself. Else what is before the star (with_parameter: before the first
-- colon, if there is one) is a prefix, and the whole path is checked segment by segment: ":name" takes one segment, "*name" all
-- that remains, a bare star as ":ext". A path of which no segment starts with a colon or star is only a prefix ("/a*b").
local re = require("dpproxy.base.re")

local find, sub, byte, concat, gsub = string.find, string.sub, string.byte, table.concat, string.gsub

local M = {}

local max_steps = 10000 -- of a check with several stars

local function split(path)
    local segments, from = {}, 1
    while true do
        local slash = find(path, "/", from, true)
        segments[#segments + 1] = sub(path, from, slash and slash - 1)
        if not slash then
            return segments
        end
        from = slash + 1
    end
end

-- -> kinds (":" or "*" or false, by segment), names, how many names
local function describe(segments)
    local kinds, names, count = {}, {}, 0
    for i = 1, #segments do
        local first = sub(segments[i], 1, 1)
        kinds[i] = false
        if first == ":" or first == "*" then
            kinds[i], count = first, count + 1
            names[i] = sub(segments[i], 2)
            if first == "*" and names[i] == "" then
                names[i] = ":ext"
            end
        end
    end
    return kinds, names, count
end

local starts, ends, steps = {}, {}, 0 -- of the check that is running (it does not yield)

-- Does the path from `from` on match the segments from i on? Fills starts and ends. As greedy as a regular expression.
local function match_from(pattern, i, uri, from)
    steps = steps + 1
    if steps > max_steps then
        return false
    end
    local kind, last = pattern.kinds[i], i == pattern.n
    if kind == "*" then
        starts[i], ends[i] = from, #uri
        if last then
            return true
        end
        for slash = #uri, from, -1 do
            if byte(uri, slash) == 47 and match_from(pattern, i + 1, uri, slash + 1) then
                starts[i], ends[i] = from, slash - 1
                return true
            end
        end
        return false
    end
    local slash = find(uri, "/", from, true)
    if last ~= (slash == nil) then
        return false
    end
    local stop = slash and slash - 1 or #uri
    if kind == ":" then
        if stop < from then
            return false
        end
        starts[i], ends[i] = from, stop
    elseif sub(uri, from, stop) ~= pattern.segments[i] then
        return false
    end
    return last or match_from(pattern, i + 1, uri, slash + 1)
end

local function segment_check(segments, kinds, names)
    local pattern = {segments = segments, kinds = kinds, n = #segments}
    local captures = {}
    for i = 1, #segments do
        if kinds[i] then
            captures[#captures + 1] = i
        end
    end
    return function(uri, matched)
        steps = 0
        if not match_from(pattern, 1, uri, 1) then
            return false
        end
        for c = 1, #captures do
            local i = captures[c]
            matched[names[i]] = sub(uri, starts[i], ends[i])
        end
        return true
    end
end

-- What follows the literal prefix and looks like a regular expression is one, as in APISIX; a dot alone is only a dot.
local function regex_check(segments, kinds, names, literal_count)
    local parts, by_group = {}, {}
    for i = 1, #segments do
        if kinds[i] then
            by_group[#by_group + 1] = names[i]
            parts[i] = kinds[i] == ":" and "([^/]+)" or "([\\s\\S]*)"
        elseif i <= literal_count then
            parts[i] = gsub(segments[i], "%W", "\\%0")
        else
            parts[i] = gsub(gsub(segments[i], "%.([^*+?{])", "\\.%1"), "%.$", "\\.")
        end
    end
    local pattern = concat(parts, "/")
    return function(uri, matched)
        local captures = re.match(uri, pattern)
        if not captures or captures[0] ~= uri then
            return false
        end
        for i = 1, #captures do
            if by_group[i] and captures[i] then
                matched[by_group[i]] = captures[i]
            end
        end
        return true
    end
end

local function looks_like_regex(segments, kinds, literal_count)
    for i = literal_count + 1, #segments do
        if not kinds[i] and find(segments[i], "[()%[%]{}|\\^$?*+]") then
            return true
        end
    end
    return false
end

local function compile_check(path, literal)
    local segments = split(path)
    local kinds, names, count = describe(segments)
    if count == 0 then
        return nil
    end
    local n = #segments
    if count == 1 and kinds[n] == "*" and #literal + #segments[n] == #path then
        return names[n] -- the kind that most paths are: no function for each of them
    end
    local literal_count = #split(literal) - 1 -- segments that the prefix has whole
    if looks_like_regex(segments, kinds, literal_count) then
        return regex_check(segments, kinds, names, literal_count)
    end
    return segment_check(segments, kinds, names)
end

function M.parse(path, with_parameter)
    local cut = with_parameter and find(path, ":", 1, true) or find(path, "*", 1, true)
    if not cut then
        return path
    end
    local literal = sub(path, 1, cut - 1)
    return literal, compile_check(path, literal)
end

return M
