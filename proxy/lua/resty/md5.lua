-- The API of lua-resty-string's resty.md5.
return require("dpproxy.base.digest").class("md5")
