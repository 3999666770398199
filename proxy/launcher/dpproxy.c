/* SPDX-License-Identifier: Apache-2.0
 *
 * dpproxy: starts the gateway. What is to be started, with what configuration, is written in Lua (proxy/lua/dpproxy/cli); this file
 * finds the scripts, and gives them the few system calls that they need: start a child, wait for a signal, make a folder.
 */
#include "config.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <lauxlib.h>
#include <limits.h>
#include <lua.h>
#include <lualib.h>
#include <pwd.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static const struct {
	const char *name;
	int number;
} signal_names[] = {
	{"CHLD", SIGCHLD}, {"HUP", SIGHUP},   {"INT", SIGINT},   {"KILL", SIGKILL},   {"QUIT", SIGQUIT},
	{"TERM", SIGTERM}, {"USR1", SIGUSR1}, {"USR2", SIGUSR2}, {"WINCH", SIGWINCH},
};

/* Of a service manager. */
#define FIRST_SOCKET 3
#define SOCKETS_MAX 64

#define N_SIGNALS (sizeof(signal_names) / sizeof(*signal_names))

static int failure(lua_State *L, const char *what)
{
	int error = errno;

	lua_pushnil(L);
	if (what != NULL)
		lua_pushfstring(L, "%s: %s", what, strerror(error));
	else
		lua_pushstring(L, strerror(error));
	return 2;
}

static int success(lua_State *L)
{
	lua_pushboolean(L, 1);
	return 1;
}

static int signal_number(lua_State *L, int index)
{
	const char *name = luaL_checkstring(L, index);

	for (size_t i = 0; i < N_SIGNALS; i++)
		if (strcmp(signal_names[i].name, name) == 0)
			return signal_names[i].number;
	return luaL_error(L, "no signal %s", name);
}

/* All that we act on is blocked and taken by wait_signal(), so that none can be lost between two waits. */
static void our_signals(sigset_t *set)
{
	sigemptyset(set);
	for (size_t i = 0; i < N_SIGNALS; i++)
		if (signal_names[i].number != SIGKILL)
			sigaddset(set, signal_names[i].number);
}

/*
 * Listening sockets of a service manager (sd_listen_fds(3)) go on to nginx, which takes those whose address is in its configuration from
 * NGINX: "3;4;". So they stay open while the gateway is restarted, and clients wait instead of being refused.
 */
static void hand_sockets_on(pid_t parent)
{
	const char *for_whom = getenv("LISTEN_PID"), *count_text = getenv("LISTEN_FDS");
	char list[SOCKETS_MAX * 4 + 1] = "";
	size_t used = 0;
	long count;

	if (for_whom == NULL || count_text == NULL || strtol(for_whom, NULL, 10) != (long)parent)
		return;
	count = strtol(count_text, NULL, 10);
	for (long i = 0; i < count && i < SOCKETS_MAX; i++) {
		int fd = FIRST_SOCKET + (int)i;

		if (fcntl(fd, F_SETFD, 0) == 0)
			used += (size_t)snprintf(list + used, sizeof(list) - used, "%d;", fd);
	}
	unsetenv("LISTEN_PID");
	unsetenv("LISTEN_FDS");
	unsetenv("LISTEN_FDNAMES");
	if (used > 0)
		setenv("NGINX", list, 1);
}

static _Noreturn void become(char **argv, pid_t parent)
{
	sigset_t none;

	/* A group of its own: the terminal's ^C reaches us alone, and the whole of it can be ended. */
	setpgid(0, 0);
	prctl(PR_SET_PDEATHSIG, SIGTERM);
	if (getppid() != parent)
		_exit(1);
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	hand_sockets_on(parent);
	execv(argv[0], argv);
	fprintf(stderr, "dpproxy: %s: %s\n", argv[0], strerror(errno));
	_exit(127);
}

/* spawn({program, argument, …}) -> pid | nil, err */
static int sys_spawn(lua_State *L)
{
	size_t n;
	char **argv;
	pid_t pid, parent = getpid();

	luaL_checktype(L, 1, LUA_TTABLE);
	n = lua_objlen(L, 1);
	argv = lua_newuserdata(L, (n + 1) * sizeof(*argv));
	for (size_t i = 0; i < n; i++) {
		lua_rawgeti(L, 1, (int)i + 1);
		argv[i] = (char *)luaL_checkstring(L, -1);
		lua_pop(L, 1); /* the table still holds it */
	}
	argv[n] = NULL;
	luaL_argcheck(L, n > 0, 1, "empty");
	fflush(NULL);
	pid = fork();
	if (pid < 0)
		return failure(L, "fork");
	if (pid == 0)
		become(argv, parent);
	setpgid(pid, pid);
	lua_pushinteger(L, pid);
	return 1;
}

/* wait_signal([seconds]) -> name | nil when none came in that time */
static int sys_wait_signal(lua_State *L)
{
	double seconds = luaL_optnumber(L, 1, -1);
	struct timespec wait = {.tv_sec = (time_t)seconds,
				.tv_nsec = (long)((seconds - (double)(time_t)seconds) * 1e9)};
	sigset_t set;
	int number;

	our_signals(&set);
	do
		number = seconds < 0 ? sigwaitinfo(&set, NULL) : sigtimedwait(&set, NULL, &wait);
	while (number < 0 && errno == EINTR);
	if (number < 0 && errno == EAGAIN) {
		lua_pushnil(L);
		return 1;
	}
	for (size_t i = 0; i < N_SIGNALS; i++)
		if (signal_names[i].number == number) {
			lua_pushstring(L, signal_names[i].name);
			return 1;
		}
	return failure(L, "sigwaitinfo");
}

static int push_end(lua_State *L, int status)
{
	if (WIFEXITED(status)) {
		lua_pushstring(L, "exit");
		lua_pushinteger(L, WEXITSTATUS(status));
	} else {
		lua_pushstring(L, "signal");
		lua_pushinteger(L, WTERMSIG(status));
	}
	return 2;
}

/* reap(pid, block) -> "exit" | "signal", number | nil when it still runs */
static int sys_reap(lua_State *L)
{
	pid_t pid = (pid_t)luaL_checkinteger(L, 1);
	int status, flags = lua_toboolean(L, 2) ? 0 : WNOHANG;
	pid_t got;

	do
		got = waitpid(pid, &status, flags);
	while (got < 0 && errno == EINTR);
	if (got == pid)
		return push_end(L, status);
	if (got < 0)
		return failure(L, "waitpid");
	lua_pushnil(L);
	return 1;
}

/* kill(pid, name) -> true | nil, err; a negative pid is a group */
static int sys_kill(lua_State *L)
{
	if (kill((pid_t)luaL_checkinteger(L, 1), signal_number(L, 2)) != 0)
		return failure(L, "kill");
	return success(L);
}

static int make_folders(char *path, mode_t mode)
{
	for (char *p = path + 1; *p != '\0'; p++)
		if (*p == '/') {
			*p = '\0';
			if (mkdir(path, 0755) != 0 && errno != EEXIST)
				return -1;
			*p = '/';
		}
	return mkdir(path, mode) != 0 && errno != EEXIST ? -1 : 0;
}

/* mkdir(path, mode) -> true | nil, err; with its parents, which get 0755 */
static int sys_mkdir(lua_State *L)
{
	const char *path = luaL_checkstring(L, 1);
	char copy[PATH_MAX];

	if (snprintf(copy, sizeof(copy), "%s", path) >= (int)sizeof(copy)) {
		errno = ENAMETOOLONG;
		return failure(L, path);
	}
	if (make_folders(copy, (mode_t)luaL_checkinteger(L, 2)) != 0)
		return failure(L, path);
	return success(L);
}

static int write_all(int fd, const char *text, size_t n)
{
	while (n > 0) {
		ssize_t written = write(fd, text, n);

		if (written < 0 && errno == EINTR)
			continue;
		if (written < 0)
			return -1;
		text += written;
		n -= (size_t)written;
	}
	return 0;
}

/* write_file(path, text, mode) -> true | nil, err; the file is whole or the old one */
static int sys_write_file(lua_State *L)
{
	const char *path = luaL_checkstring(L, 1), *text, *new_path;
	size_t n;
	int fd, bad;

	text = luaL_checklstring(L, 2, &n);
	new_path = lua_pushfstring(L, "%s.new", path);
	unlink(new_path);
	fd = open(new_path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, (mode_t)luaL_checkinteger(L, 3));
	if (fd < 0)
		return failure(L, new_path);
	bad = write_all(fd, text, n);
	if (close(fd) != 0 || bad != 0 || rename(new_path, path) != 0)
		return failure(L, path);
	return success(L);
}

static ssize_t read_all(int fd, char *text, size_t size)
{
	size_t n = 0;

	while (n < size) {
		ssize_t got = read(fd, text + n, size - n);

		if (got < 0 && errno == EINTR)
			continue;
		if (got < 0)
			return -1;
		if (got == 0)
			break;
		n += (size_t)got;
	}
	return (ssize_t)n;
}

/* read_plain(path, limit) -> text | nil, err; for a file in a folder of somebody whom we do not trust: no link, nothing to wait for */
static int sys_read_plain(lua_State *L)
{
	const char *path = luaL_checkstring(L, 1);
	lua_Number limit = luaL_checknumber(L, 2);
	struct stat st;
	ssize_t n;
	char *text;
	int fd = open(path, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);

	if (fd < 0)
		return failure(L, path);
	if (fstat(fd, &st) != 0 || !S_ISREG(st.st_mode) || (lua_Number)st.st_size > limit) {
		close(fd);
		errno = EINVAL;
		return failure(L, path);
	}
	text = malloc((size_t)st.st_size + 1);
	n = text == NULL ? -1 : read_all(fd, text, (size_t)st.st_size);
	close(fd);
	if (n < 0) {
		free(text);
		return failure(L, path);
	}
	lua_pushlstring(L, text, (size_t)n);
	free(text);
	return 1;
}

/* stamp(path) -> a text that is another one when the file was replaced or written to | nil when it is not there */
static int sys_stamp(lua_State *L)
{
	struct stat st;
	char text[128];

	if (lstat(luaL_checkstring(L, 1), &st) != 0)
		return failure(L, NULL);
	snprintf(text, sizeof(text), "%jd %jd %jd.%09ld", (intmax_t)st.st_ino, (intmax_t)st.st_size,
		 (intmax_t)st.st_mtim.tv_sec, st.st_mtim.tv_nsec);
	lua_pushstring(L, text);
	return 1;
}

/* monotonic() -> seconds that only grow */
static int sys_monotonic(lua_State *L)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	lua_pushnumber(L, (lua_Number)now.tv_sec + (lua_Number)now.tv_nsec / 1e9);
	return 1;
}

/* own(path, user) -> true | nil, err: gives a file or folder to the user that the workers run as; its group stays ours */
static int sys_own(lua_State *L)
{
	const char *path = luaL_checkstring(L, 1);
	const struct passwd *user = getpwnam(luaL_checkstring(L, 2));

	if (user == NULL) {
		lua_pushnil(L);
		lua_pushfstring(L, "no user %s", lua_tostring(L, 2));
		return 2;
	}
	if (lchown(path, user->pw_uid, (gid_t)-1) != 0)
		return failure(L, path);
	return success(L);
}

/* reaches(folder, user) -> may that user work in it, and in all above it; in a child, which becomes the user */
static int sys_reaches(lua_State *L)
{
	const char *path = luaL_checkstring(L, 1);
	const struct passwd *user = getpwnam(luaL_checkstring(L, 2));
	int status = 0;
	pid_t pid;

	if (user == NULL) {
		lua_pushboolean(L, 0);
		return 1;
	}
	pid = fork();
	if (pid == 0) {
		if (initgroups(user->pw_name, user->pw_gid) != 0 || setgid(user->pw_gid) != 0 ||
		    setuid(user->pw_uid) != 0)
			_exit(2);
		_exit(access(path, R_OK | W_OK | X_OK) == 0 ? 0 : 1);
	}
	if (pid < 0)
		return failure(L, "fork");
	while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
		;
	lua_pushboolean(L, WIFEXITED(status) && WEXITSTATUS(status) == 0);
	return 1;
}

/* group_of(user) -> the name of its group | nil when there is no such user */
static int sys_group_of(lua_State *L)
{
	const struct passwd *user = getpwnam(luaL_checkstring(L, 1));
	const struct group *group = user == NULL ? NULL : getgrgid(user->pw_gid);

	if (group == NULL)
		lua_pushnil(L);
	else
		lua_pushstring(L, group->gr_name);
	return 1;
}

/* kind(path) -> "file" | "folder" | "other" | nil */
static int sys_kind(lua_State *L)
{
	struct stat st;

	if (stat(luaL_checkstring(L, 1), &st) != 0)
		return failure(L, NULL);
	lua_pushstring(L, S_ISDIR(st.st_mode) ? "folder" : S_ISREG(st.st_mode) ? "file" : "other");
	return 1;
}

/* realpath(path) -> path | nil, err */
static int sys_realpath(lua_State *L)
{
	const char *path = luaL_checkstring(L, 1);
	char real[PATH_MAX];

	if (realpath(path, real) == NULL)
		return failure(L, path);
	lua_pushstring(L, real);
	return 1;
}

static int sys_getuid(lua_State *L)
{
	lua_pushinteger(L, (lua_Integer)geteuid());
	return 1;
}

static const luaL_Reg sys[] = {
	{"getuid", sys_getuid},
	{"group_of", sys_group_of},
	{"kill", sys_kill},
	{"kind", sys_kind},
	{"mkdir", sys_mkdir},
	{"monotonic", sys_monotonic},
	{"own", sys_own},
	{"read_plain", sys_read_plain},
	{"realpath", sys_realpath},
	{"reaches", sys_reaches},
	{"reap", sys_reap},
	{"spawn", sys_spawn},
	{"stamp", sys_stamp},
	{"wait_signal", sys_wait_signal},
	{"write_file", sys_write_file},
	{NULL, NULL},
};

static int has_scripts(const char *folder)
{
	char file[PATH_MAX];

	return snprintf(file, sizeof(file), "%s/dpproxy/cli/main.lua", folder) < (int)sizeof(file) &&
	       access(file, R_OK) == 0;
}

/* DPPROXY_LUA_DIR, else beside the program (the build tree), else where make install puts them. */
static int find_scripts(char *folder, size_t size)
{
	const char *named = getenv("DPPROXY_LUA_DIR");
	char self[PATH_MAX];
	ssize_t n;

	if (named != NULL && *named != '\0')
		return realpath(named, self) != NULL && snprintf(folder, size, "%s", self) < (int)size &&
		       has_scripts(folder);
	n = readlink("/proc/self/exe", self, sizeof(self) - 1);
	if (n > 0) {
		self[n] = '\0';
		*(strrchr(self, '/') + 1) = '\0';
		if (snprintf(folder, size, "%sscripts", self) < (int)size && has_scripts(folder))
			return 1;
		if (snprintf(folder, size, "%slua", self) < (int)size && has_scripts(folder))
			return 1;
	}
	return snprintf(folder, size, "%s", DPPROXY_LUA) < (int)size && has_scripts(folder);
}

static void set_package_path(lua_State *L, const char *folder)
{
	lua_getglobal(L, "package");
	lua_getfield(L, -1, "path");
	lua_pushfstring(L, "%s/?.lua;%s/?/init.lua;/usr/share/lua/5.1/?.lua;/usr/share/lua/5.1/?/init.lua;%s", folder,
			folder, lua_tostring(L, -1));
	lua_setfield(L, -3, "path");
	lua_pop(L, 2);
}

static int with_traceback(lua_State *L)
{
	luaL_traceback(L, L, lua_tostring(L, 1), 1);
	return 1;
}

/* dpproxy.cli.main.main(sys, arguments) -> exit status */
static int run_main(lua_State *L, int argc, char **argv)
{
	lua_pushcfunction(L, with_traceback);
	lua_getglobal(L, "require");
	lua_pushliteral(L, "dpproxy.cli.main");
	if (lua_pcall(L, 1, 1, -3) != 0)
		return -1;
	lua_getfield(L, -1, "main");
	lua_getglobal(L, "dpproxy_sys");
	lua_createtable(L, argc, 0);
	for (int i = 1; i < argc; i++) {
		lua_pushstring(L, argv[i]);
		lua_rawseti(L, -2, i);
	}
	if (lua_pcall(L, 2, 1, 1) != 0)
		return -1;
	return (int)lua_tointeger(L, -1);
}

int main(int argc, char **argv)
{
	char folder[PATH_MAX];
	sigset_t set;
	lua_State *L;
	int status;

	if (!find_scripts(folder, sizeof(folder))) {
		fprintf(stderr, "dpproxy: its scripts are not there: %s (DPPROXY_LUA_DIR names another folder)\n",
			folder);
		return 1;
	}
	L = luaL_newstate();
	if (L == NULL) {
		fputs("dpproxy: out of memory\n", stderr);
		return 1;
	}
	our_signals(&set);
	sigprocmask(SIG_BLOCK, &set, NULL);
	luaL_openlibs(L);
	set_package_path(L, folder);
	lua_newtable(L);
	luaL_register(L, NULL, sys);
	lua_pushstring(L, folder);
	lua_setfield(L, -2, "lua_dir");
	lua_pushliteral(L, PACKAGE_VERSION);
	lua_setfield(L, -2, "version");
	lua_setglobal(L, "dpproxy_sys");
	lua_settop(L, 0);
	status = run_main(L, argc, argv);
	if (status < 0) {
		fprintf(stderr, "dpproxy: %s\n", lua_tostring(L, -1));
		status = 1;
	}
	lua_close(L);
	return status;
}
