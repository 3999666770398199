/* SPDX-License-Identifier: Apache-2.0 */
/* tls.h: limits of handshakes, with clients that say nothing. tests/tls has what needs clients that do. */
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/panic.h"
#include "net/tls.h"
#include "tests/lib/tap.h"

#define WAIT_MS 20000

static char folder[64];
static struct ks_tls *tls;

static void start(int handshake_ms, size_t max_half_open)
{
	struct ks_tls_config config = {
		.settings = {.auto_dir = folder, .auto_hosts = "localhost", .auto_years = 1},
		.handshake_ms = handshake_ms,
		.max_half_open = max_half_open,
		.threads = 1,
	};
	struct ks_err err = {.text = ""};

	(void)snprintf(folder, sizeof(folder), "/tmp/ks-tls.XXXXXX");
	KS_ASSERT(mkdtemp(folder));
	tls = ks_tls_start(&config, &err);
	if (!tls)
		printf("# %s\n", err.text);
	KS_ASSERT(tls);
}

static void stop(void)
{
	char command[96];

	ks_tls_stop(tls, 100);
	(void)snprintf(command, sizeof(command), "rm -rf '%s'", folder);
	KS_ASSERT(system(command) == 0);
}

static int adopted(void)
{
	int ends[2];

	KS_ASSERT(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, ends) == 0);
	ks_tls_adopt(tls, ends[1], "test", true, false, KS_HTTP_CLIENTS);
	return ends[0];
}

/* Reads what comes until the end; the number of bytes, or -1 when it does not end in time. */
static ssize_t read_to_end(int fd)
{
	struct pollfd ready = {.fd = fd, .events = POLLIN};
	ssize_t total = 0, size;
	char bytes[4096];

	for (;;) {
		if (poll(&ready, 1, WAIT_MS) <= 0)
			return -1;
		size = recv(fd, bytes, sizeof(bytes), 0);
		if (size == 0 || (size < 0 && errno == ECONNRESET))
			return total;
		KS_ASSERT(size > 0 || errno == EAGAIN);
		total += size > 0 ? size : 0;
	}
}

static bool is_open(int fd)
{
	char byte;

	return recv(fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT) < 0 && errno == EAGAIN;
}

static void a_silent_handshake_ends_in_time(void)
{
	int silent, half;

	start(100, 0);
	silent = adopted();
	half = adopted();
	KS_ASSERT(send(half, "\x16\x03\x01\x02\x00\x01", 6, MSG_NOSIGNAL) == 6);
	CU_ASSERT_EQUAL(read_to_end(silent), 0);
	CU_ASSERT_EQUAL(read_to_end(half), 0);
	(void)close(silent);
	(void)close(half);
	stop();
}

static void a_flood_pushes_out_the_oldest(void)
{
	int fds[40];

	start(WAIT_MS, 10);
	for (int i = 0; i < 40; i++)
		fds[i] = adopted();
	for (int i = 0; i < 30; i++)
		CU_ASSERT_EQUAL(read_to_end(fds[i]), 0);
	for (int i = 30; i < 40; i++)
		CU_ASSERT_TRUE(is_open(fds[i]));
	for (int i = 0; i < 40; i++)
		(void)close(fds[i]);
	stop();
}

static void nonsense_gets_an_alert_and_the_end(void)
{
	int fd;

	start(WAIT_MS, 0);
	fd = adopted();
	KS_ASSERT(send(fd, "\x16\x03\x01\x00\x05nonsense", 13, MSG_NOSIGNAL) == 13);
	CU_ASSERT_EQUAL(read_to_end(fd), 7); /* one alert record */
	(void)close(fd);
	stop();
}

static void stop_closes_what_waits(void)
{
	int fd;

	start(WAIT_MS, 0);
	fd = adopted();
	stop();
	CU_ASSERT_EQUAL(read_to_end(fd), 0);
	(void)close(fd);
	/* Adopted after the end of handshakes: closed with everything. */
	start(WAIT_MS, 0);
	ks_tls_drain(tls);
	fd = adopted();
	stop();
	CU_ASSERT_EQUAL(read_to_end(fd), 0);
	(void)close(fd);
}

int main(void)
{
	(void)signal(SIGPIPE, SIG_IGN);
	return tap_run("tls", (const struct tap_test[]){
#define T(name) {#name, name}
				      T(a_silent_handshake_ends_in_time),
				      T(a_flood_pushes_out_the_oldest),
				      T(nonsense_gets_an_alert_and_the_end),
				      T(stop_closes_what_waits),
#undef T
				      {NULL, NULL}});
}
