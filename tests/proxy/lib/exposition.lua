-- Judges a text in Prometheus' exposition format, as `promtool check metrics` does for what matters to a scrape.
local M = {}

local function labels_of(text, problem)
    local labels, rest = {}, text
    while rest ~= "" do
        local name, after = rest:match('^([%a_][%w_]*)="(.*)$')
        if not name then
            problem("bad labels: " .. text)
            return labels
        end
        local value, at = "", 1
        while true do
            local c = after:sub(at, at)
            if c == "" then
                problem("value without end: " .. text)
                return labels
            elseif c == "\\" then
                value, at = value .. after:sub(at, at + 1), at + 2
            elseif c == '"' then
                break
            else
                value, at = value .. c, at + 1
            end
        end
        if labels[name] then
            problem("label twice: " .. text)
        end
        labels[name] = value
        rest = after:sub(at + 1)
        rest = rest:gsub("^,", "")
    end
    return labels
end

local function family_of(name, types)
    for _, suffix in ipairs({"_bucket", "_count", "_sum"}) do
        local base = name:sub(-#suffix) == suffix and name:sub(1, -#suffix - 1)
        if base and types[base] == "histogram" then
            return base, suffix
        end
    end
    return name
end

-- -> array of complaints, array of samples {name, labels, value}
function M.check(text)
    local problems, samples = {}, {}
    local types, helps, seen, closed, current = {}, {}, {}, {}, nil
    local last_bucket = {}
    local function problem(what)
        problems[#problems + 1] = what
    end
    if text:sub(-1) ~= "\n" then
        problem("no newline at the end")
    end
    for line in text:gmatch("([^\n]*)\n") do
        local kind, name, rest = line:match("^# (%u+) (%S+) (.*)$")
        if kind == "HELP" then
            if helps[name] then
                problem("HELP twice: " .. name)
            end
            helps[name] = true
        elseif kind == "TYPE" then
            if types[name] then
                problem("TYPE twice: " .. name)
            end
            types[name] = rest
        elseif line ~= "" then
            local metric, label_part, value = line:match("^([%a_:][%w_:]*){(.*)} (%S+)$")
            if not metric then
                metric, value = line:match("^([%a_:][%w_:]*) (%S+)$")
                label_part = ""
            end
            if not metric or not (tonumber(value) or value == "+Inf" or value == "-Inf" or value == "NaN") then
                problem("not a sample: " .. line)
            else
                local labels = labels_of(label_part, problem)
                local family, suffix = family_of(metric, types)
                if not types[family] or not helps[family] then
                    problem("no HELP or TYPE before " .. line)
                end
                if family ~= current then
                    if closed[family] then
                        problem("not together: " .. family)
                    end
                    if current then
                        closed[current] = true
                    end
                    current = family
                end
                local id = metric .. "{" .. label_part .. "}"
                if seen[id] then
                    problem("twice: " .. id)
                end
                seen[id] = true
                if suffix == "_bucket" then
                    local key = label_part:gsub(',?le="[^"]*"', "")
                    if last_bucket[family .. key] and last_bucket[family .. key] > tonumber(value) then
                        problem("buckets fall: " .. line)
                    end
                    last_bucket[family .. key] = tonumber(value)
                elseif suffix == "_count" and last_bucket[family .. label_part] ~= tonumber(value) then
                    problem("count is not the last bucket: " .. line)
                end
                samples[#samples + 1] = {name = metric, labels = labels, value = tonumber(value)}
            end
        end
    end
    return problems, samples
end

return M
