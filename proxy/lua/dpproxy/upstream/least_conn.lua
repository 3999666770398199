-- Least connections: the node with the lowest (requests in flight + 1) / weight of this worker. The counts belong to an upstream
-- and a priority, not to a picker: new pickers (more nodes, another health) and requests that still hold an old one see the same
-- counts. Equal scores go to the node that waited longest. No ngx in here.
local floor = math.floor

local M = {}
local mt = {__index = M}

-- Key -> state; alive as long as a picker holds it, and a request in flight holds its picker.
local states = setmetatable({}, {__mode = "v"})

local function before(a, b)
    if a.score ~= b.score then
        return a.score < b.score
    end
    return a.turn < b.turn
end

local function place(heap, at, entry)
    heap[at] = entry
    entry.at = at
end

local function sift(heap, entry)
    local at = entry.at
    while at > 1 do
        local parent = floor(at / 2)
        if not before(entry, heap[parent]) then
            break
        end
        place(heap, at, heap[parent])
        at = parent
    end
    local count = heap.count
    while true do
        local child = 2 * at
        if child > count then
            break
        end
        if child < count and before(heap[child + 1], heap[child]) then
            child = child + 1
        end
        if not before(heap[child], entry) then
            break
        end
        place(heap, at, heap[child])
        at = child
    end
    place(heap, at, entry)
end

local function remove(heap, entry)
    local at, last = entry.at, heap[heap.count]
    heap[heap.count] = nil
    heap.count = heap.count - 1
    entry.at = nil
    if last ~= entry then
        place(heap, at, last)
        sift(heap, last)
    end
end

local function rescore(state, entry)
    entry.score = (entry.in_flight + 1) / entry.weight
    if entry.at then
        sift(state.heap, entry)
    elseif entry.in_flight == 0 then
        state.entries[entry.id] = nil -- it left the upstream, and now the last request left it
    end
end

-- The heap holds the newest node set; an entry that has left keeps its count until its last request is done.
local function sync(state, nodes)
    local heap, entries, wanted = state.heap, state.entries, {}
    for i = 1, #nodes do
        local node = nodes[i]
        wanted[node.id] = true
        local entry = entries[node.id]
        if not entry then
            entry = {id = node.id, in_flight = 0, turn = 0}
            entries[node.id] = entry
        end
        entry.weight = node.weight
        if not entry.at then
            heap.count = heap.count + 1
            entry.score = (entry.in_flight + 1) / entry.weight
            place(heap, heap.count, entry)
        end
        rescore(state, entry)
    end
    for at = heap.count, 1, -1 do
        local entry = heap[at]
        if entry and not wanted[entry.id] then
            remove(heap, entry)
            rescore(state, entry)
        end
    end
end

-- opts.key: the upstream's key; without one the counts are the picker's own
function M.new(nodes, _, opts)
    local key = opts.key and opts.key .. "#" .. nodes[1].priority
    local state = key and states[key]
    if not state then
        state = {heap = {count = 0}, entries = {}, turn = 0}
        if key then
            states[key] = state
        end
    end
    sync(state, nodes)
    local self = {nodes = nodes, state = state, node_of = {}, entry_of = {}}
    for i = 1, #nodes do
        local entry = state.entries[nodes[i].id]
        self.node_of[entry] = nodes[i]
        self.entry_of[nodes[i]] = entry
    end
    return setmetatable(self, mt)
end

local function scan(self, tried)
    local best
    for i = 1, #self.nodes do
        local node = self.nodes[i]
        if not (tried and tried[node]) then
            local entry = self.entry_of[node]
            if not best or before(entry, best) then
                best = entry
            end
        end
    end
    return best
end

function M:pick(_, tried)
    local state = self.state
    local entry = state.heap[1]
    local node = entry and self.node_of[entry]
    if not node or tried and tried[node] then
        -- The heap's first is of a newer node set, or tried: rare, so a scan will do.
        entry = scan(self, tried)
        if not entry then
            return nil
        end
        node = self.node_of[entry]
    end
    entry.in_flight = entry.in_flight + 1
    state.turn = state.turn + 1
    entry.turn = state.turn
    rescore(state, entry)
    return node
end

function M:after(_, node)
    local entry = self.entry_of[node]
    if entry and entry.in_flight > 0 then
        entry.in_flight = entry.in_flight - 1
        rescore(self.state, entry)
    end
end

return M
