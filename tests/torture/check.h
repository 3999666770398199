/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Is the history of a torture run one that etcd could have produced?
 *
 * Revisions are the witness of the order, so nothing has to be searched. All that watchers were told makes the log: what happened at
 * each revision. Then, in one pass over the log: each revision is what exactly one acknowledged operation, one of unknown
 * outcome, or the end of a lease does to the state before it; each answer is what the state at its revision says; and no
 * operation is older than what anybody had seen before it began. That is a proof that the history is linearizable, with nothing lost,
 * nothing twice, no gap; what is found wrong is a proof that it is not.
 *
 * Besides: each watcher was told all of its range, once, in order, with the right prev_kv; leases did not end early; all instances
 * have the same hash.
 */
#ifndef TESTS_TORTURE_CHECK_H
#define TESTS_TORTURE_CHECK_H

#include <stdio.h>

#include "tests/torture/history.h"

/* Describes the first violations of each kind on 'out'; returns the number of all. */
unsigned history_check(const struct history *history, FILE *out);
/* Prints operations, events, faults and latencies as comments. */
void history_statistics(const struct history *history, FILE *out);

/* ---- What the files of the checker share ---- */

#define FINDING_KINDS 64

struct findings {
	FILE *out;
	unsigned count;
	struct {
		const char *what;
		unsigned count;
	} kinds[FINDING_KINDS];
};

/* 'what' is a literal: only the first few of each are printed. */
void found(struct findings *findings, const char *what, const char *format, ...) __attribute__((format(printf, 3, 4)));

/* What happened at one revision. Events are the history's. */
struct log_revision {
	const struct event *events;
	size_t count;
	const struct kv *before; /* their keys in the state before it */
};

struct log {
	int64_t first, last; /* revisions are first + 1 … last */
	struct log_revision *revisions;
	struct kv *before;
};

static inline struct log_revision *log_at(const struct log *log, int64_t revision)
{
	return revision > log->first && revision <= log->last ? &log->revisions[revision - log->first - 1] : NULL;
}

/* The state of all keys at some revision. */
struct state {
	int64_t revision;
	struct kv kvs[HISTORY_KEYS];
};

void state_init(struct state *state, int64_t revision);
void state_apply(struct state *state, const struct event *event);

bool same_kv(const struct kv *a, const struct kv *b);
bool same_event(const struct event *a, const struct event *b);

/* check_watch.c. The log must be complete when the second is called. */
void log_build(struct log *log, const struct history *history, struct findings *findings);
void log_free(struct log *log);
void check_watchers(const struct history *history, const struct log *log, struct findings *findings);

#endif
