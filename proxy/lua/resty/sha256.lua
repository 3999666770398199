-- The API of lua-resty-string's resty.sha256.
return require("dpproxy.base.digest").class("sha256")
