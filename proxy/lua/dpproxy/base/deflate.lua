-- Packs a stream of texts as gzip, with zlib.
local ffi = require("ffi")
require("dpproxy.base.inflate")     -- declares dpproxy_z_stream

pcall(ffi.cdef, [[
    int deflateInit2_(dpproxy_z_stream *stream, int level, int method, int window_bits, int memory_level, int strategy,
        const char *version, int size);
    int deflate(dpproxy_z_stream *stream, int flush);
    int deflateEnd(dpproxy_z_stream *stream);
]])

local zlib = ffi.C
if not pcall(function() return ffi.C.deflateInit2_ end) then
    zlib = ffi.load("libz.so.1")
end

local Z_NO_FLUSH, Z_SYNC_FLUSH, Z_FINISH, Z_DEFLATED, Z_BUF_ERROR = 0, 2, 4, 8, -5
local chunk_size = 32768
local chunk = ffi.new("unsigned char[?]", chunk_size)

local M = {}
M.__index = M

-- level: 1 (fast) to 9 (small). -> stream | nil, err
function M.new(level)
    local stream = ffi.new("dpproxy_z_stream")
    if zlib.deflateInit2_(stream, level, Z_DEFLATED, 15 + 16, 8, 0, zlib.zlibVersion(), ffi.sizeof(stream)) ~= 0 then
        return nil, "zlib refused to start"
    end
    -- A response that is cut off never gets to close().
    return setmetatable({stream = ffi.gc(stream, zlib.deflateEnd)}, M)
end

-- What comes out for this text; last: nothing follows; flush: all of it now.
function M:add(text, last, flush)
    local stream = self.stream
    stream.next_in, stream.avail_in = ffi.cast("const unsigned char *", text), #text
    local mode = last and Z_FINISH or flush and Z_SYNC_FLUSH or Z_NO_FLUSH
    local out = {}
    repeat
        stream.next_out, stream.avail_out = chunk, chunk_size
        local status = zlib.deflate(stream, mode)
        if status < 0 and status ~= Z_BUF_ERROR then
            return nil, "zlib failed"
        end
        if stream.avail_out < chunk_size then
            out[#out + 1] = ffi.string(chunk, chunk_size - stream.avail_out)
        end
    until stream.avail_out ~= 0
    if last then
        self:close()
    end
    return table.concat(out)
end

function M:close()
    if self.stream then
        ffi.gc(self.stream, nil)
        zlib.deflateEnd(self.stream)
        self.stream = nil
    end
end

return M
