-- core.math
local M = {}

function M.gcd(a, b)
    while b ~= 0 do
        a, b = b, a % b
    end
    return a
end

return M
