-- The API of lua-resty-string's resty.sha512.
return require("dpproxy.base.digest").class("sha512")
