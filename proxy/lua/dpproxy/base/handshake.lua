-- TLS over a cosocket. Where the handshake ends without waiting, ngx_lua 0.10.23 closes a connection whose server it does not
-- believe, but says that all is well: the next write would fail as "closed", and nobody knew why.
local M = {}

-- sni: name or address to ask for and to find in the certificate. -> true | nil, err
function M.client(sock, sni, verify)
    local ok, err = sock:sslhandshake(false, sni, verify and true or false)
    if not ok then
        return nil, err
    elseif not sock:getreusedtimes() then
        return nil, "the server's certificate is not accepted"
    end
    return true
end

return M
