-- serverless-pre-function: Lua from the configuration, before the other plugins of its phase.
return require("dpproxy.plugin.serverless").new("serverless-pre-function", 10000)
