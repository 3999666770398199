/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A closed loop of unary calls: 'inflight' slots, each of which sends its next request when its last one was answered.
 */
#ifndef BENCH_LOOP_H
#define BENCH_LOOP_H

#include "base/thread.h"
#include "tests/bench/bench.h"

struct slot;

/* Looks at an answer, on the client's thread. False: the operation goes on, with one more call of 'start'. */
typedef bool bench_answer_fn(struct slot *slot, struct ks_slice bytes);

/* Of a slot's key. */
#define BENCH_KEY_ROOM 1100

struct loop;

struct slot {
	struct loop *loop;
	struct etcdc *client;
	int endpoint;
	uint64_t started_ns;
	uint64_t seed;
	char *key, *value;
	int64_t number;   /* of the slot */
	int64_t turn;     /* of its client, with --rotate */
	int64_t revision; /* for 'start' and 'answer' */
	int64_t serial;
	int64_t listed;
};

struct loop {
	struct bench *bench;
	void (*start)(struct slot *slot);
	bench_answer_fn *answer;
	struct etcdc_call_options options;
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
/* The call-back of a slot's calls. */
void bench_answered(void *arg, const struct etcdc_result *result);
/* A key's number, at random. */
int64_t bench_draw(struct slot *slot);

#endif
