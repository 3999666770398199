-- Unpacks gzip and deflate with zlib, into memory, up to a limit.
local ffi = require("ffi")

pcall(ffi.cdef, [[
    typedef struct {
        const unsigned char *next_in;
        unsigned int avail_in;
        unsigned long total_in;
        unsigned char *next_out;
        unsigned int avail_out;
        unsigned long total_out;
        const char *msg;
        void *state;
        void *zalloc;
        void *zfree;
        void *opaque;
        int data_type;
        unsigned long adler;
        unsigned long reserved;
    } dpproxy_z_stream;
    int inflateInit2_(dpproxy_z_stream *stream, int window_bits, const char *version, int size);
    int inflate(dpproxy_z_stream *stream, int flush);
    int inflateReset(dpproxy_z_stream *stream);
    int inflateEnd(dpproxy_z_stream *stream);
    const char *zlibVersion(void);
]])

local zlib = ffi.C
if not pcall(function() return ffi.C.inflateInit2_ end) then
    zlib = ffi.load("libz.so.1")
end

local chunk_size = 65536
local default_limit = 64 * 1024 * 1024
local Z_STREAM_END, Z_BUF_ERROR = 1, -5

local M = {}

local function run(stream, chunk, out, limit)
    local total = 0
    while true do
        stream.next_out, stream.avail_out = chunk, chunk_size
        local status = zlib.inflate(stream, 0)
        local n = chunk_size - stream.avail_out
        if n > 0 then
            total = total + n
            if total > limit then
                return nil, "unpacked data is larger than " .. limit .. " bytes"
            end
            out[#out + 1] = ffi.string(chunk, n)
        end
        if status == Z_STREAM_END then
            -- gzip files may follow one another
            if stream.avail_in == 0 or zlib.inflateReset(stream) ~= 0 then
                return true
            end
        elseif status == Z_BUF_ERROR or (status == 0 and stream.avail_in == 0 and n < chunk_size) then
            return nil, "packed data ends early"
        elseif status ~= 0 then
            return nil, "packed data is damaged (zlib " .. tonumber(status) .. ")"
        end
    end
end

local function inflate_as(window_bits, data, limit)
    local stream = ffi.new("dpproxy_z_stream")
    local buffer = ffi.cast("const unsigned char *", data)
    stream.next_in, stream.avail_in = buffer, #data
    if zlib.inflateInit2_(stream, window_bits, zlib.zlibVersion(), ffi.sizeof(stream)) ~= 0 then
        return nil, "zlib refused to start"
    end
    local out = {}
    local ok, err = run(stream, ffi.new("unsigned char[?]", chunk_size), out, limit or default_limit)
    zlib.inflateEnd(stream)
    if not ok then
        return nil, err
    end
    return table.concat(out)
end

-- data: gzip or zlib format (found out by itself). -> text | nil, err
function M.inflate(data, limit)
    return inflate_as(15 + 32, data, limit)
end

-- What servers mean by "Content-Encoding: deflate": the zlib format, or deflate without it.
function M.inflate_deflate(data, limit)
    local text, err = M.inflate(data, limit)
    if text then
        return text
    end
    return inflate_as(-15, data, limit), err
end

return M
