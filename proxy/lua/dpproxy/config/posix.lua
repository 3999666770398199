-- The few system calls that Lua has no name for: durable files, children, a clock that never jumps.
local ffi = require("ffi")

-- Names of our own for them: other modules declare the same functions in their way.
ffi.cdef [[
int dpproxy_config_open(const char *path, int flags, ...) __asm__("open");
long dpproxy_config_write(int fd, const void *data, size_t size) __asm__("write");
int dpproxy_config_fsync(int fd) __asm__("fsync");
int dpproxy_config_close(int fd) __asm__("close");
int dpproxy_config_rename(const char *from, const char *to) __asm__("rename");
int dpproxy_config_link(const char *from, const char *to) __asm__("link");
int dpproxy_config_unlink(const char *path) __asm__("unlink");
int dpproxy_config_kill(int pid, int signal) __asm__("kill");
int dpproxy_config_flock(int fd, int operation) __asm__("flock");
int dpproxy_config_fork(void) __asm__("fork");
int dpproxy_config_getpid(void) __asm__("getpid");
void dpproxy_config_exit(int status) __asm__("_exit");
int dpproxy_config_pipe2(int *fds, int flags) __asm__("pipe2");
long dpproxy_config_read(int fd, void *data, size_t size) __asm__("read");
long dpproxy_config_sysconf(int name) __asm__("sysconf");
int dpproxy_config_close_range(unsigned int first, unsigned int last, int flags) __asm__("close_range");
struct dpproxy_config_pollfd { int fd; short events, revents; };
int dpproxy_config_poll(struct dpproxy_config_pollfd *fds, unsigned long n, int milliseconds) __asm__("poll");
char *dpproxy_config_strerror(int error) __asm__("strerror");
struct dpproxy_config_timespec { long seconds; long nanoseconds; };
int dpproxy_config_clock_gettime(int clock, struct dpproxy_config_timespec *time) __asm__("clock_gettime");
]]

local C = ffi.C

local M = {}

local O_RDONLY, O_WRONLY, O_CREAT, O_EXCL, O_DIRECTORY, O_NOFOLLOW, O_CLOEXEC = 0, 1, 64, 128, 65536, 131072, 524288
if ffi.arch == "arm64" then
    O_DIRECTORY, O_NOFOLLOW = 16384, 32768
end
local ESRCH, EINTR, EEXIST = 3, 4, 17
local LOCK_EX, SC_OPEN_MAX, POLLIN = 2, 4, 1

local function failure(what)
    return nil, what .. ": " .. ffi.string(C.dpproxy_config_strerror(ffi.errno()))
end

local function write_all(fd, data)
    local from, left = ffi.cast("const char *", data), #data
    while left > 0 do
        local written = tonumber(C.dpproxy_config_write(fd, from, left))
        if written < 0 then
            if ffi.errno() ~= EINTR then
                return failure("write")
            end
        else
            from, left = from + written, left - written
        end
    end
    return true
end

-- A new file with that content, for its owner only, on disk when this returns.
function M.write_new(path, data)
    local flags = bit.bor(O_WRONLY, O_CREAT, O_EXCL, O_NOFOLLOW, O_CLOEXEC)
    local fd = C.dpproxy_config_open(path, flags, ffi.cast("int", 384)) -- 0600
    if fd < 0 and ffi.errno() == EEXIST then
        C.dpproxy_config_unlink(path) -- left by one that was killed
        fd = C.dpproxy_config_open(path, flags, ffi.cast("int", 384))
    end
    if fd < 0 then
        return failure("open")
    end
    local ok, err = write_all(fd, data)
    if ok and C.dpproxy_config_fsync(fd) ~= 0 then
        ok, err = failure("fsync")
    end
    if C.dpproxy_config_close(fd) ~= 0 and ok then
        ok, err = failure("close")
    end
    if not ok then
        C.dpproxy_config_unlink(path)
        return nil, err
    end
    return true
end

function M.rename(from, to)
    if C.dpproxy_config_rename(from, to) ~= 0 then
        return failure("rename")
    end
    return true
end

-- A second name for the same file.
function M.link(from, to)
    if C.dpproxy_config_link(from, to) ~= 0 then
        return failure("link")
    end
    return true
end

function M.unlink(path)
    return C.dpproxy_config_unlink(path) == 0
end

-- Waits until nobody else has the folder locked -> lock, for unlock_folder | nil, err. It goes with its process, too.
function M.lock_folder(path)
    local fd = C.dpproxy_config_open(path, bit.bor(O_RDONLY, O_DIRECTORY, O_CLOEXEC))
    if fd < 0 then
        return failure("open")
    end
    while C.dpproxy_config_flock(fd, LOCK_EX) ~= 0 do
        if ffi.errno() ~= EINTR then
            local _, err = failure("flock")
            C.dpproxy_config_close(fd)
            return nil, err
        end
    end
    return fd
end

function M.unlock_folder(lock)
    C.dpproxy_config_close(lock)
end

-- Makes renames in a folder durable.
function M.sync_folder(path)
    local fd = C.dpproxy_config_open(path, bit.bor(O_RDONLY, O_DIRECTORY, O_CLOEXEC))
    if fd < 0 then
        return failure("open")
    end
    local ok, err = true, nil
    if C.dpproxy_config_fsync(fd) ~= 0 then
        ok, err = failure("fsync")
    end
    C.dpproxy_config_close(fd)
    return ok, err
end

-- Is there no such process any more?
function M.is_dead(pid)
    return C.dpproxy_config_kill(pid, 0) ~= 0 and ffi.errno() == ESRCH
end

-- -> end to read from, end to write to | nil, err
function M.pipe()
    local fds = ffi.new("int[2]")
    if C.dpproxy_config_pipe2(fds, O_CLOEXEC) ~= 0 then
        return failure("pipe")
    end
    return fds[0], fds[1]
end

-- -> 0 in the child, its number here | nil, err
function M.fork()
    local pid = C.dpproxy_config_fork()
    if pid < 0 then
        return failure("fork")
    end
    return pid
end

M.getpid = C.dpproxy_config_getpid
M.close = C.dpproxy_config_close

-- Ends this process as it is: nothing is flushed, nobody is told.
function M.leave()
    C.dpproxy_config_exit(0)
end

-- Closes all files but standard ones and this one.
function M.close_others(keep)
    if C.dpproxy_config_close_range(keep + 1, 0xffffffff, 0) == 0
            and (keep == 3 or C.dpproxy_config_close_range(3, keep - 1, 0) == 0) then
        return
    end
    for fd = 3, tonumber(C.dpproxy_config_sysconf(SC_OPEN_MAX)) - 1 do
        if fd ~= keep then
            C.dpproxy_config_close(fd)
        end
    end
end

-- Writes all of a text -> true | nil, err
M.say = write_all

-- Is there something to read (or the end) within so many seconds?
function M.readable(fd, seconds)
    local one = ffi.new("struct dpproxy_config_pollfd", fd, POLLIN, 0)
    local got
    repeat
        got = C.dpproxy_config_poll(one, 1, seconds * 1000)
    until got >= 0 or ffi.errno() ~= EINTR
    return got > 0
end

-- What is there, at most 4 KiB; "" at the end -> text | nil, err
function M.read(fd)
    local buffer = ffi.new("char[4096]")
    local n = C.dpproxy_config_read(fd, buffer, 4096)
    if n < 0 then
        return failure("read")
    end
    return ffi.string(buffer, n)
end

local timespec = ffi.new("struct dpproxy_config_timespec")

-- Seconds that only grow.
function M.monotonic()
    C.dpproxy_config_clock_gettime(1, timespec)
    return tonumber(timespec.seconds) + tonumber(timespec.nanoseconds) / 1e9
end

return M
