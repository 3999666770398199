-- The APISIX release whose behaviour the plugins find here; some look at it.
return {VERSION = "3.18.0"}
