-- The API of lua-tablepool.
return require("apisix.core.tablepool")
