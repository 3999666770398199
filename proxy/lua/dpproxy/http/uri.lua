-- What the router sees of the request's path, after apisix.delete_uri_tail_slash, normalize_uri_like_servlet and
-- match_uri_encoded_slash (spec 3.1).
local ngx = ngx
local ngx_var = ngx.var
local byte, find, gsub, match, sub = string.byte, string.find, string.gsub, string.match, string.sub

local M = {}

local delete_tail_slash, like_servlet, keep_encoded_slash

-- -> true when rewrite() has something to do
function M.init(conf)
    delete_tail_slash = conf.apisix.delete_uri_tail_slash
    like_servlet = conf.apisix.normalize_uri_like_servlet
    keep_encoded_slash = conf.apisix.match_uri_encoded_slash
    return delete_tail_slash or like_servlet
end

-- /a;x=1/b;y=2?q -> /a/b, as a servlet container sees it; parameters with ".." are not let through.
local function without_parameters(path)
    if not find(path, ";", 1, true) then
        return path
    end
    return (gsub(path, ";[^/]*", ""))
end

function M.rewrite(ctx)
    local path = ngx_var.uri
    local new = path
    if like_servlet then
        new = without_parameters(new)
    end
    if delete_tail_slash and new ~= "/" and byte(new, -1) == 47 then
        new = sub(new, 1, -2)
    end
    if new ~= path then
        ctx.var.uri = new
    end
end

-- Is the path that is matched another one than nginx'?
function M.keeps_encoded_slash()
    return keep_encoded_slash
end

-- The path with %2F left as it is: only for matching.
local function encoded_slashes(path)
    local request_uri = ngx_var.request_uri
    local raw = match(request_uri, "^[^?]*")
    if not find(raw, "%%2[Ff]") then
        return path
    end
    local kept = gsub(raw, "%%2[Ff]", "\1")
    return (gsub(ngx.unescape_uri(kept), "\1", "%%2F"))
end

function M.for_match(ctx)
    local path = ctx.var.uri
    if keep_encoded_slash then
        return encoded_slashes(path)
    end
    return path
end

return M
