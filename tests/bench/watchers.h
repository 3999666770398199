/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Watchers that count their events and how old they are: the value of each put begins with the time at which it was sent. Responses are
 * walked on the wire, without decoding (wire.h), on connections that cost little (h2.h): they are not to be what is measured.
 *
 * Each connection has a thread, which adds up what it reads at once before it tells the others.
 */
#ifndef BENCH_WATCHERS_H
#define BENCH_WATCHERS_H

#include "base/thread.h"
#include "tests/bench/bench.h"
#include "tests/bench/h2.h"

struct watchers;

struct watchers_connection {
	struct watchers *watchers;
	struct h2 *h2;
	/* the connection's thread: since the last pause */
	int64_t events, responses;
	uint64_t us, aged; /* so many events were so old */
};

struct watchers {
	_Atomic int64_t created, events, responses; /* responses: with events */
	_Atomic int64_t ended;
	atomic_bool measuring;   /* how old events are */
	_Atomic int64_t awaited; /* so many events; INT64_MAX: nobody waits */
	struct ks_mutex mutex;
	struct ks_cond came; /* as many as are awaited, or the end of a stream */
	struct hist hist;
	int count;
	struct watchers_connection connection[BENCH_CLIENTS_MAX];
};

/* Connections like those of the clients from 'first' on. False, and a message on stderr, when one fails; close them in any case. */
bool watchers_open(struct watchers *watchers, const struct bench *bench, int first, int count);
/* Until there are so many events, and wakes at once then. False when a stream has ended, or after a minute. One thread. */
bool watchers_await(struct watchers *watchers, int64_t events);
bool watchers_create(struct watchers_connection *connection, size_t stream, const char *key);
void watchers_close(struct watchers *watchers);

#endif
