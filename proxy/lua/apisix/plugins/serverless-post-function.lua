-- serverless-post-function: Lua from the configuration, after the other plugins of its phase.
return require("dpproxy.plugin.serverless").new("serverless-post-function", -2000)
