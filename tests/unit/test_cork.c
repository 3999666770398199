/* SPDX-License-Identifier: Apache-2.0 */
/* What waits for a pull and what does not, with real sockets. */
#include "net/cork.h"

#include <arpa/inet.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/metrics.h"
#include "base/panic.h"
#include "tests/lib/tap.h"

static int64_t now_us;

static int64_t now(void)
{
	return now_us;
}

/* Of TCP, over loopback. */
static void connect_pair(int ends[2])
{
	struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	socklen_t size = sizeof(address);
	int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	KS_ASSERT(bind(listener, (struct sockaddr *)&address, size) == 0 && listen(listener, 1) == 0);
	KS_ASSERT(getsockname(listener, (struct sockaddr *)&address, &size) == 0);
	ends[0] = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	KS_ASSERT(connect(ends[0], (struct sockaddr *)&address, size) == 0);
	ends[1] = accept(listener, NULL, NULL);
	KS_ASSERT(ends[1] >= 0);
	(void)close(listener);
}

static void close_pair(const int ends[2])
{
	(void)close(ends[0]);
	(void)close(ends[1]);
}

static void write_one(struct ks_cork *cork, int fd)
{
	ks_cork_write(cork, fd);
	KS_ASSERT(send(fd, "x", 1, MSG_NOSIGNAL) == 1);
}

/* How many bytes come, as long as the next one takes no more than a tenth of what the kernel waits with a corked one. */
static int arrived(int fd)
{
	struct pollfd ready = {.fd = fd, .events = POLLIN};
	char bytes[64];
	int count = 0;

	while (poll(&ready, 1, 20) > 0) {
		ssize_t got = recv(fd, bytes, sizeof(bytes), 0);

		if (got <= 0)
			break;
		count += (int)got;
	}
	return count;
}

static void the_first_writes_go_and_the_next_wait_for_the_pull(void)
{
	double writes = ks_metrics_value(KS_METRIC_GATHERED_WRITES, 0),
	       pulls = ks_metrics_value(KS_METRIC_GATHERED_PULLS, 0);
	struct ks_cork cork;
	int ends[2];

	ks_cork_init(&cork, now);
	connect_pair(ends);
	for (int burst = 1; burst <= 3; burst++) {
		for (int i = 0; i < KS_CORK_FREE_WRITES; i++)
			write_one(&cork, ends[0]);
		CU_ASSERT_FALSE(ks_cork_holds(&cork));
		for (int i = 0; i < 10; i++)
			write_one(&cork, ends[0]);
		CU_ASSERT(ks_cork_holds(&cork));
		CU_ASSERT_EQUAL(arrived(ends[1]), KS_CORK_FREE_WRITES);
		ks_cork_pull(&cork);
		CU_ASSERT_FALSE(ks_cork_holds(&cork));
		CU_ASSERT_EQUAL(arrived(ends[1]), 10);
		CU_ASSERT_EQUAL(ks_metrics_value(KS_METRIC_GATHERED_WRITES, 0) - writes, 10 * burst);
		CU_ASSERT_EQUAL(ks_metrics_value(KS_METRIC_GATHERED_PULLS, 0) - pulls, burst);
	}
	close_pair(ends);
}

static void writes_with_rests_between_them_never_wait(void)
{
	struct ks_cork cork;
	int ends[2];

	ks_cork_init(&cork, now);
	connect_pair(ends);
	for (int i = 0; i < 100; i++) {
		write_one(&cork, ends[0]);
		ks_cork_rest(&cork);
		CU_ASSERT_FALSE(ks_cork_holds(&cork));
	}
	CU_ASSERT_EQUAL(arrived(ends[1]), 100);
	close_pair(ends);
}

static void a_rest_does_not_let_go_what_waits(void)
{
	struct ks_cork cork;
	int ends[2];

	ks_cork_init(&cork, now);
	connect_pair(ends);
	for (int i = 0; i < KS_CORK_FREE_WRITES + 1; i++)
		write_one(&cork, ends[0]);
	ks_cork_rest(&cork);
	CU_ASSERT(ks_cork_holds(&cork));
	CU_ASSERT_EQUAL(arrived(ends[1]), KS_CORK_FREE_WRITES);
	ks_cork_pull(&cork);
	CU_ASSERT_EQUAL(arrived(ends[1]), 1);
	close_pair(ends);
}

static void a_burst_is_bounded_in_writes_and_time(void)
{
	struct ks_cork cork;
	int ends[2];

	ks_cork_init(&cork, now);
	connect_pair(ends);
	for (int i = 0; i < KS_CORK_MOST_WRITES; i++)
		write_one(&cork, ends[0]);
	CU_ASSERT_EQUAL(arrived(ends[1]), KS_CORK_FREE_WRITES);
	now_us += KS_CORK_MOST_US - 1;
	CU_ASSERT_FALSE(ks_cork_is_late(&cork));
	now_us++;
	CU_ASSERT(ks_cork_is_late(&cork));
	write_one(&cork, ends[0]);
	CU_ASSERT_FALSE(ks_cork_holds(&cork));
	CU_ASSERT_FALSE(ks_cork_is_late(&cork));
	CU_ASSERT_EQUAL(arrived(ends[1]), KS_CORK_MOST_WRITES - KS_CORK_FREE_WRITES + 1);
	close_pair(ends);
}

/* As beside a client that does not read: not everything has been written, and lone answers come and go. */
static void lone_writes_without_a_rest_between_them_never_wait(void)
{
	struct ks_cork cork;
	int ends[2];

	ks_cork_init(&cork, now);
	connect_pair(ends);
	for (int i = 0; i < 3 * KS_CORK_FREE_WRITES; i++) {
		write_one(&cork, ends[0]);
		CU_ASSERT_FALSE(ks_cork_holds(&cork));
		CU_ASSERT_EQUAL(arrived(ends[1]), 1);
		now_us += KS_CORK_MOST_US / KS_CORK_FREE_WRITES;
	}
	close_pair(ends);
}

static void many_connections_with_a_write_each_wait_for_nothing(void)
{
	struct ks_cork cork;
	int ends[8][2];

	ks_cork_init(&cork, now);
	for (int i = 0; i < 8; i++) {
		connect_pair(ends[i]);
		write_one(&cork, ends[i][0]);
	}
	CU_ASSERT_FALSE(ks_cork_holds(&cork));
	for (int i = 0; i < 8; i++) {
		CU_ASSERT_EQUAL(arrived(ends[i][1]), 1);
		close_pair(ends[i]);
	}
}

/* Descriptors that meet in one slot take the place from each other, and are pulled all the same. */
static void connections_of_one_slot_are_all_pulled(void)
{
	struct ks_cork cork;
	int ends[2], twin;

	ks_cork_init(&cork, now);
	connect_pair(ends);
	twin = ends[0] + KS_CORK_SLOTS; /* the same connection by another number */
	KS_ASSERT(dup2(ends[0], twin) == twin);
	for (int i = 0; i < KS_CORK_FREE_WRITES + 1; i++)
		write_one(&cork, ends[0]);
	for (int i = 0; i < KS_CORK_FREE_WRITES + 1; i++)
		write_one(&cork, twin);
	for (int i = 0; i < KS_CORK_FREE_WRITES + 1; i++)
		write_one(&cork, ends[0]);
	CU_ASSERT_EQUAL(cork.corked_count, 2);
	CU_ASSERT_EQUAL(arrived(ends[1]), KS_CORK_FREE_WRITES);
	ks_cork_pull(&cork);
	CU_ASSERT_EQUAL(arrived(ends[1]), 2 * KS_CORK_FREE_WRITES + 3);
	(void)close(twin);
	close_pair(ends);
}

static void what_is_no_tcp_socket_is_left_alone(void)
{
	struct ks_cork cork;
	int ends[2];

	ks_cork_init(&cork, now);
	KS_ASSERT(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) == 0);
	for (int i = 0; i < 10; i++)
		write_one(&cork, ends[0]);
	CU_ASSERT_FALSE(ks_cork_holds(&cork));
	CU_ASSERT_EQUAL(arrived(ends[1]), 10);
	for (int i = 0; i < 10; i++)
		ks_cork_write(&cork, -2);
	CU_ASSERT_FALSE(ks_cork_holds(&cork));
	close_pair(ends);
}

static void a_connection_closed_before_the_pull_loses_nothing(void)
{
	struct ks_cork cork;
	int ends[2];

	ks_cork_init(&cork, now);
	connect_pair(ends);
	for (int i = 0; i < 10; i++)
		write_one(&cork, ends[0]);
	(void)close(ends[0]);
	CU_ASSERT_EQUAL(arrived(ends[1]), 10);
	ks_cork_pull(&cork);
	CU_ASSERT_FALSE(ks_cork_holds(&cork));
	(void)close(ends[1]);
}

int main(void)
{
	return tap_run("cork", (const struct tap_test[]){
#define T(name) {#name, name}
				       T(the_first_writes_go_and_the_next_wait_for_the_pull),
				       T(writes_with_rests_between_them_never_wait),
				       T(a_rest_does_not_let_go_what_waits),
				       T(a_burst_is_bounded_in_writes_and_time),
				       T(lone_writes_without_a_rest_between_them_never_wait),
				       T(many_connections_with_a_write_each_wait_for_nothing),
				       T(connections_of_one_slot_are_all_pulled),
				       T(what_is_no_tcp_socket_is_left_alone),
				       T(a_connection_closed_before_the_pull_loses_nothing),
#undef T
				       {NULL, NULL},
			       });
}
