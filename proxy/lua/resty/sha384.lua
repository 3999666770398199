-- The API of lua-resty-string's resty.sha384.
return require("dpproxy.base.digest").class("sha384")
