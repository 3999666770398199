/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A closed loop of unary calls: 'inflight' slots, each of which sends its next request when its last one was answered. Calls are those of
 * h2_call.h, with bench->light, or libetcdc's.
 */
#ifndef BENCH_LOOP_H
#define BENCH_LOOP_H

#include "base/buf.h"
#include "base/thread.h"
#include "tests/bench/bench.h"
#include "tests/bench/h2_call.h"

struct slot;

/* Looks at an answer, on the thread that reads. False: the operation goes on, with one more call of 'start'. */
typedef bool bench_answer_fn(struct slot *slot, struct ks_slice bytes);

/* Of a slot's key. */
#define BENCH_KEY_ROOM 1100

struct loop;

struct slot {
	struct loop *loop;
	int endpoint;
	uint64_t started_ns;
	uint64_t seed;
	char *key, *value;
	int64_t number;   /* of the slot */
	int64_t turn;     /* the number of its client, which another call may find changed */
	int64_t revision; /* for 'start' and 'answer' */
	int64_t serial;
	int64_t listed;
};

struct loop {
	struct bench *bench;
	/* NULL: libetcdc calls */
	struct h2_calls *calls;
	struct h2_connection **connections; /* of the clients */
	void (*start)(struct slot *slot);
	bench_answer_fn *answer;
	atomic_bool measuring, stopping;
	_Atomic uint64_t done, failed, bytes;
	_Atomic uint64_t share[BENCH_ENDPOINTS_MAX]; /* of done */
	struct hist hist;
	struct ks_mutex mutex;
	struct ks_cond idle;
	unsigned run; /* another one in each run: for keys that must be new */
	int open;     /* slots, under mutex */
	struct etcdc_err first_err;
};

/* Runs it for bench->seconds and prints the result; the exit status. 'answer' NULL: not looked at. */
int bench_loop(struct bench *bench, const char *name, void (*start)(struct slot *slot), bench_answer_fn *answer);
/* The next call of a slot, with a request of the method's type. */
void bench_call(struct slot *slot, const struct etcdc_method *method, const void *request);
/* A key's number, at random. */
int64_t bench_draw(struct slot *slot);

#endif
