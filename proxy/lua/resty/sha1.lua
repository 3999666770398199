-- The API of lua-resty-string's resty.sha1.
return require("dpproxy.base.digest").class("sha1")
