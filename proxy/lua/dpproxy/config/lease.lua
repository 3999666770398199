-- Which worker owns the watch: a key in shared memory. It goes when its owner's process is dead, or, should the owner hang, when
-- it was not renewed for long: a worker that is merely busy must not lose it, or two that are busy loading would take it from
-- each other for ever. No ngx in here.
local M = {}

local lease_mt = {}
lease_mt.__index = lease_mt

-- opts: {dict =, id = pid, ttl = seconds, is_dead = fn(pid) -> bool | nil}
function M.new(opts)
    return setmetatable({
        dict = opts.dict, id = opts.id, ttl = opts.ttl or 15, name = opts.name or "config-owner", owner = false,
            is_dead = opts.is_dead,
    }, lease_mt)
end

-- Call it a few times per ttl -> is it ours, did that change
function lease_mt:tick()
    local before = self.owner
    if before then
        if self.dict:get(self.name) == self.id then
            self.dict:set(self.name, self.id, self.ttl)
        else
            self.owner = false -- it expired while this worker was busy; somebody may have had it since
        end
    else
        local holder = self.is_dead and self.dict:get(self.name)
        if holder and self.is_dead(holder) and self.dict:get(self.name) == holder then
            self.dict:delete(self.name) -- no need to wait until it expires
        end
        self.owner = self.dict:add(self.name, self.id, self.ttl) == true
    end
    return self.owner, self.owner ~= before
end

-- In the middle of long work -> is it still ours
function lease_mt:renew()
    if not self:holds() then
        return false
    end
    self.dict:set(self.name, self.id, self.ttl)
    return true
end

function lease_mt:holds()
    return self.owner and self.dict:get(self.name) == self.id
end

function lease_mt:release()
    if self.dict:get(self.name) == self.id then
        self.dict:delete(self.name)
    end
    self.owner = false
end

return M
