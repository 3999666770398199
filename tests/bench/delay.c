/* SPDX-License-Identifier: Apache-2.0 */
/*
 * delay LISTEN_PORT TARGET_PORT MS: a relay on 127.0.0.1 that holds each byte from the client for so long, as a network would. One direction
 * only, so a round trip takes MS longer. Order is kept; what is on its way is not limited. One thread that only sleeps and copies, so that what
 * is measured keeps its processors; it ends with a signal.
 */
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "base/panic.h"
#include "tests/lib/loopback.h"

#define PIECE (256 * 1024)
#define CONNECTIONS 1000

struct piece {
	struct piece *next;
	int64_t due_ns;
	size_t size, sent; /* no bytes: the end of the stream */
	uint8_t bytes[];
};

/* One direction of a connection. */
struct way {
	int from, to;
	int64_t delay_ns;
	bool ended; /* nothing more comes */
	bool over;  /* and all has gone */
	struct piece *first, **last;
};

struct connection {
	struct way to_target, to_client;
};

static struct connection *connections[CONNECTIONS];
static size_t count;

static int64_t now_ns(void)
{
	struct timespec now;

	KS_ASSERT(clock_gettime(CLOCK_MONOTONIC, &now) == 0);
	return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

static void keep(struct way *way, const uint8_t *bytes, size_t size)
{
	struct piece *piece = ks_xmalloc(sizeof(*piece) + size);

	*piece = (struct piece){.due_ns = now_ns() + way->delay_ns, .size = size};
	memcpy(piece->bytes, bytes, size);
	*way->last = piece;
	way->last = &piece->next;
}

static bool passing(int error)
{
	return error == EAGAIN || error == EWOULDBLOCK || error == EINTR;
}

static void take(struct way *way)
{
	static uint8_t bytes[PIECE];
	ssize_t size = recv(way->from, bytes, sizeof(bytes), 0);

	if (size < 0 && passing(errno))
		return;
	way->ended = size <= 0;
	keep(way, bytes, size > 0 ? (size_t)size : 0);
}

/* False: the target takes nothing more now. */
static bool send_first(struct way *way)
{
	struct piece *piece = way->first;
	ssize_t sent = 0;

	if (piece->size == 0) {
		(void)shutdown(way->to, SHUT_WR);
		way->over = true;
	} else {
		sent = send(way->to, piece->bytes + piece->sent, piece->size - piece->sent, MSG_NOSIGNAL);
	}
	if (sent < 0 && passing(errno))
		return false;
	if (sent < 0)
		way->ended = way->over = true;
	piece->sent += sent > 0 ? (size_t)sent : 0;
	if (piece->sent < piece->size && !way->over)
		return false;
	way->first = piece->next;
	if (!way->first)
		way->last = &way->first;
	free(piece);
	return true;
}

/* Sends what is due; the time at which there is more, if it is before 'next_ns'. 'blocked': that waits for the target. */
static int64_t pass_on(struct way *way, int64_t next_ns, bool *blocked)
{
	*blocked = false;
	while (way->first && way->first->due_ns <= now_ns()) {
		if (!send_first(way)) {
			*blocked = true;
			return next_ns;
		}
	}
	return way->first && way->first->due_ns < next_ns ? way->first->due_ns : next_ns;
}

static void begin_way(struct way *way, int from, int to, int64_t delay_ns)
{
	*way = (struct way){.from = from, .to = to, .delay_ns = delay_ns};
	way->last = &way->first;
}

static void make_quick(int fd)
{
	const int on = 1;

	KS_ASSERT(setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on)) == 0);
	KS_ASSERT(fcntl(fd, F_SETFL, O_NONBLOCK) == 0);
}

static void begin_connection(int listener, int target_port, int64_t delay_ns)
{
	struct sockaddr_in address = loopback(target_port);
	int client = accept(listener, NULL, NULL), target;
	struct connection *connection;

	if (client < 0)
		return;
	target = socket(AF_INET, SOCK_STREAM, 0);
	KS_ASSERT(target >= 0);
	if (count == CONNECTIONS || connect(target, (struct sockaddr *)&address, sizeof(address)) != 0) {
		(void)close(target);
		(void)close(client);
		return;
	}
	make_quick(client);
	make_quick(target);
	connection = ks_xmalloc(sizeof(*connection));
	begin_way(&connection->to_target, client, target, delay_ns);
	begin_way(&connection->to_client, target, client, 0);
	connections[count++] = connection;
}

static void end_way(struct way *way)
{
	struct piece *next;

	for (struct piece *piece = way->first; piece; piece = next) {
		next = piece->next;
		free(piece);
	}
	(void)close(way->from);
}

static void forget_ended(void)
{
	for (size_t i = count; i-- > 0;) {
		if (!connections[i]->to_target.over || !connections[i]->to_client.over)
			continue;
		end_way(&connections[i]->to_target);
		end_way(&connections[i]->to_client);
		free(connections[i]);
		connections[i] = connections[--count];
	}
}

static short events(const struct way *in, bool out_blocked)
{
	return (short)((in->ended ? 0 : POLLIN) | (out_blocked ? POLLOUT : 0));
}

/* One round: send what is due, sleep until something comes or is due, take what came. */
static void turn(int listener, int target_port, int64_t delay_ns)
{
	static struct pollfd fds[1 + 2 * CONNECTIONS];
	int64_t next_ns = INT64_MAX, left_ns;
	struct timespec wait;
	size_t known;

	for (size_t i = 0; i < count; i++) {
		struct connection *connection = connections[i];
		bool target_blocked, client_blocked;

		next_ns = pass_on(&connection->to_target, next_ns, &target_blocked);
		next_ns = pass_on(&connection->to_client, next_ns, &client_blocked);
		fds[1 + 2 * i] =
			(struct pollfd){connection->to_target.from, events(&connection->to_target, client_blocked), 0};
		fds[2 + 2 * i] =
			(struct pollfd){connection->to_client.from, events(&connection->to_client, target_blocked), 0};
		for (size_t j = 1 + 2 * i; j <= 2 + 2 * i; j++)
			if (!fds[j].events)
				fds[j].fd = -1; /* else poll reports its end again and again */
	}
	known = count;
	fds[0] = (struct pollfd){listener, POLLIN, 0};
	left_ns = next_ns == INT64_MAX ? 1000000000 : next_ns - now_ns();
	if (left_ns < 0)
		left_ns = 0;
	wait = (struct timespec){left_ns / 1000000000, left_ns % 1000000000};
	if (ppoll(fds, 1 + 2 * known, &wait, NULL) <= 0)
		return;
	for (size_t i = 0; i < known; i++) {
		if (fds[1 + 2 * i].revents & (POLLIN | POLLHUP | POLLERR) && !connections[i]->to_target.ended)
			take(&connections[i]->to_target);
		if (fds[2 + 2 * i].revents & (POLLIN | POLLHUP | POLLERR) && !connections[i]->to_client.ended)
			take(&connections[i]->to_client);
	}
	forget_ended();
	if (fds[0].revents)
		begin_connection(listener, target_port, delay_ns);
}

int main(int argc, char **argv)
{
	const int on = 1;
	struct sockaddr_in address;
	int listener = socket(AF_INET, SOCK_STREAM, 0);
	long listen_port, target_port;
	double ms;

	if (argc != 4 || (listen_port = strtol(argv[1], NULL, 10)) <= 0 ||
	    (target_port = strtol(argv[2], NULL, 10)) <= 0 || (ms = strtod(argv[3], NULL)) < 0) {
		(void)fputs("usage: delay LISTEN_PORT TARGET_PORT MS\n", stderr);
		return 2;
	}
	(void)signal(SIGPIPE, SIG_IGN);
	(void)prctl(PR_SET_TIMERSLACK, 1UL, 0UL, 0UL, 0UL); /* a delay of a millisecond is none of 1.05 */
	KS_ASSERT(listener >= 0 && setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on)) == 0);
	address = loopback((int)listen_port);
	if (bind(listener, (struct sockaddr *)&address, sizeof(address)) != 0 || listen(listener, 128) != 0) {
		perror("delay: listen");
		return 1;
	}
	for (;;)
		turn(listener, (int)target_port, (int64_t)(ms * 1e6));
}
