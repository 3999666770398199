-- What plugins of others call to have metrics of their own, under APISIX' name.
local export = require("dpproxy.metrics.export")

local M = {metric_label_map = require("dpproxy.metrics.http").metric_label_map}

-- -> an object with counter(), gauge() and histogram(), whose metrics have inc(), set() and observe()
function M.get_prometheus()
    return export.registry()
end

function M.export_metrics()
    return export.http()
end

return M
