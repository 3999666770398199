-- UTF-8 for what others read as JSON or Prometheus' text: one wrong byte in it, and they refuse all of it.
local find, match, concat = string.find, string.match, table.concat

local M = {}

-- Each byte that is no part of a character becomes a question mark.
local function mend(text)
    local out, at = {}, 1
    while at <= #text do
        local piece = match(text, "^[%z\1-\127]+", at)
            or match(text, "^[\194-\223][\128-\191]", at)
            or match(text, "^[\224-\239][\128-\191][\128-\191]", at)
            or match(text, "^[\240-\244][\128-\191][\128-\191][\128-\191]", at)
        -- Overlong forms, surrogates, beyond U+10FFFF
        if piece and (find(piece, "^\224[\128-\159]") or find(piece, "^\237[\160-\191]") or find(piece, "^\240[\128-\143]")
                or find(piece, "^\244[\144-\191]")) then
            piece = nil
        end
        out[#out + 1] = piece or "?"
        at = at + (piece and #piece or 1)
    end
    return concat(out)
end

function M.valid(text)
    return find(text, "[\128-\255]") and mend(text) or text
end

return M
