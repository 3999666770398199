/* SPDX-License-Identifier: Apache-2.0 */
/* The processes of kineshim, and the relays before and behind each. See torture.h. */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/panic.h"
#include "tests/lib/loopback.h"
#include "tests/torture/torture.h"

#define STOP_MS 30000
#define CARE_MS 100
#define RSS_EVERY 20 /* looks */

/* Below the range that the kernel gives to connections, so that it stays ours while nobody listens. */
static int free_port(void)
{
	static unsigned offset;
	int one = 1;

	for (unsigned try = 0; try < 2000; try++) {
		int port = 20000 + (int)(((unsigned)getpid() * 131u + offset++ * 7u) % 12000u);
		struct sockaddr_in address = loopback(port);
		int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
		bool taken;

		setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
		taken = bind(fd, (struct sockaddr *)&address, sizeof(address)) != 0 || listen(fd, 1) != 0;
		close(fd);
		if (!taken)
			return port;
	}
	say("no free port");
	exit(2);
}

/* The endpoint with 'port' for its %p. */
static void make_url(const struct run *run, int port, char *url, size_t size)
{
	const char *place = strstr(run->options.url, "%p");

	if (place)
		snprintf(url, size, "%.*s%d%s", (int)(place - run->options.url), run->options.url, port, place + 2);
	else
		snprintf(url, size, "%s", run->options.url);
}

void instances_open(struct run *run)
{
	const struct options *options = &run->options;

	for (unsigned i = 0; i <= options->instances; i++) {
		struct instance *instance = &run->instances[i];
		int port = options->db_port_count ? options->db_ports[i % options->db_port_count] : 0;
		bool fresh = i == options->instances;

		snprintf(instance->name, sizeof(instance->name), fresh ? "fresh" : "node%u", i);
		instance->port = instance->client_port = free_port();
		if (!fresh) {
			instance->clients = relay_start(instance->port, options->seed * 31 + i, &instance->client_port);
			KS_ASSERT(instance->clients);
		}
		if (port && !fresh) {
			instance->database = relay_start(port, options->seed * 37 + i, &port);
			KS_ASSERT(instance->database);
		}
		make_url(run, port, instance->url, sizeof(instance->url));
	}
}

void instances_close(struct run *run)
{
	for (unsigned i = 0; i <= run->options.instances; i++) {
		relay_stop(run->instances[i].clients);
		relay_stop(run->instances[i].database);
	}
}

static void become(const struct run *run, const struct instance *instance)
{
	char log[600], listen_url[64], advertise[64];
	int fd;

	snprintf(log, sizeof(log), "%s/%s.log", run->options.dir, instance->name);
	snprintf(listen_url, sizeof(listen_url), "http://127.0.0.1:%d", instance->port);
	snprintf(advertise, sizeof(advertise), "http://127.0.0.1:%d", instance->client_port);
	fd = open(log, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
	if (fd < 0 || dup2(fd, STDOUT_FILENO) < 0 || dup2(fd, STDERR_FILENO) < 0)
		_exit(98);
	signal(SIGXFSZ, SIG_IGN); /* a full disk may be played by a limit: see the tool */
	execl(run->options.kineshim, run->options.kineshim, "--endpoint", instance->url, "--data-dir", run->options.dir,
	      "--name", instance->name, "--listen-client-urls", listen_url, "--advertise-client-urls", advertise,
	      "--log-format", "console", (char *)NULL);
	_exit(97);
}

static void start_locked(struct run *run, struct instance *instance)
{
	pid_t pid;

	if (instance->pid)
		return;
	pid = fork();
	KS_ASSERT(pid >= 0);
	if (!pid)
		become(run, instance);
	instance->pid = pid;
	instance->wanted = true;
	instance->paused = false;
}

void instance_start(struct run *run, unsigned number)
{
	pthread_mutex_lock(&run->instances_mutex);
	start_locked(run, &run->instances[number]);
	pthread_mutex_unlock(&run->instances_mutex);
}

void instance_kill(struct run *run, unsigned number)
{
	struct instance *instance = &run->instances[number];

	pthread_mutex_lock(&run->instances_mutex);
	instance->wanted = false;
	if (instance->pid) {
		kill(instance->pid, SIGKILL);
		while (waitpid(instance->pid, NULL, 0) < 0 && errno == EINTR)
			;
		instance->pid = 0;
		instance->paused = false;
	}
	pthread_mutex_unlock(&run->instances_mutex);
}

void instance_stop(struct run *run, unsigned number)
{
	struct instance *instance = &run->instances[number];
	int status = -1;
	pid_t pid, gone = 0;

	pthread_mutex_lock(&run->instances_mutex);
	pid = instance->pid;
	instance->wanted = false;
	instance->pid = 0;
	pthread_mutex_unlock(&run->instances_mutex);
	if (!pid)
		return;
	kill(pid, SIGTERM);
	for (int64_t end = now_ns() + STOP_MS * 1000000ll; !gone && now_ns() < end; sleep_ms(10))
		gone = waitpid(pid, &status, WNOHANG);
	if (!gone) {
		complain(run, "%s does not end within %d s", instance->name, STOP_MS / 1000);
		kill(pid, SIGABRT);
		sleep_ms(500);
		kill(pid, SIGKILL);
		waitpid(pid, &status, 0);
	} else if (!WIFEXITED(status) || WEXITSTATUS(status) != 0) {
		complain(run, "%s ended badly when asked to: wait status %d", instance->name, status);
	}
}

void instance_pause(struct run *run, unsigned number, bool paused)
{
	struct instance *instance = &run->instances[number];

	pthread_mutex_lock(&run->instances_mutex);
	if (instance->pid) {
		kill(instance->pid, paused ? SIGSTOP : SIGCONT);
		instance->paused = paused;
	}
	pthread_mutex_unlock(&run->instances_mutex);
}

/* Megabytes in memory; 0: not known. */
static unsigned rss_of(pid_t pid)
{
	char path[64], line[128];
	unsigned long kib = 0;
	FILE *file;

	snprintf(path, sizeof(path), "/proc/%d/status", (int)pid);
	file = fopen(path, "re");
	while (file && fgets(line, sizeof(line), file))
		if (sscanf(line, "VmRSS: %lu kB", &kib) == 1)
			break;
	if (file)
		fclose(file);
	return (unsigned)(kib / 1024);
}

void instances_overtaken(struct run *run)
{
	for (unsigned i = 0; i < run->options.instances; i++) {
		char path[600], line[1000];
		FILE *file;

		snprintf(path, sizeof(path), "%s/%s.log", run->options.dir, run->instances[i].name);
		file = fopen(path, "re");
		while (file && fgets(line, sizeof(line), file))
			if (strstr(line, "the log no longer holds the entry at position"))
				record_fault(run, OVERTAKEN, "%s", run->instances[i].name);
		if (file)
			fclose(file);
	}
}

void *instances_care(void *arg)
{
	struct run *run = arg;
	bool told[MAX_INSTANCES + 1] = {false};

	for (unsigned look = 0; !atomic_load(&run->stop_care); look++, sleep_ms(CARE_MS)) {
		for (unsigned i = 0; i <= run->options.instances; i++) {
			struct instance *instance = &run->instances[i];
			int status;
			unsigned rss = 0;
			bool ended = false;

			pthread_mutex_lock(&run->instances_mutex);
			if (instance->pid && instance->wanted &&
			    waitpid(instance->pid, &status, WNOHANG) == instance->pid) {
				instance->pid = 0;
				ended = true;
				start_locked(run, instance);
			}
			if (instance->pid && look % RSS_EVERY == 0)
				rss = rss_of(instance->pid);
			pthread_mutex_unlock(&run->instances_mutex);
			if (ended)
				complain(run, "%s ended by itself: wait status %d", instance->name, status);
			if (rss)
				say("%s has %u MiB in memory", instance->name, rss);
			if (run->options.rss_mb && rss > run->options.rss_mb && !told[i]) {
				told[i] = true;
				complain(run, "%s grows: %u MiB in memory", instance->name, rss);
			}
		}
	}
	return NULL;
}
