/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What clients did and saw while servers were killed, and whether that is linearizable and lossless.
 *
 * The revision of each write is the witness of its place in the total order, so the check needs no search: it only has to be
 * shown that the order by revision agrees with real time, with every read, and with what watchers were told.
 *
 * Threads: recording is for any thread (one lock); checking when all clients have stopped.
 */
#ifndef TESTS_CRASH_HISTORY_H
#define TESTS_CRASH_HISTORY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

enum op_kind { OP_PUT, OP_GET };

enum op_outcome {
	OP_OK,      /* acknowledged */
	OP_UNKNOWN, /* may have happened, may still happen */
	OP_REFUSED, /* the server says that it did not happen */
};

struct op {
	enum op_kind kind;
	enum op_outcome outcome;
	unsigned key;
	uint64_t value;       /* unique for each put; 0 = a read found nothing */
	int64_t mod_revision; /* of what was written or read */
	int64_t header_revision;
	int64_t start_ns, end_ns; /* monotonic, around the whole call */
	unsigned client;
};

/* A PUT that a watcher was told of. Each watcher records its own sequence. */
struct told {
	int64_t revision;
	unsigned key;
	uint64_t value;
};

struct history;

struct history *history_new(unsigned watchers);
void history_free(struct history *history);
void history_add(struct history *history, const struct op *op);
void history_told(struct history *history, unsigned watcher, const struct told *told);
size_t history_acknowledged(struct history *history);
int64_t history_last_told(struct history *history, unsigned watcher);

/*
 * Checks, each returning the number of violations and describing the first ones on 'out'.
 * 'first' is the revision before the first write of the run.
 */
/* Watchers saw each revision from first + 1 on exactly once, ascending, and all of them the same. */
unsigned history_check_watchers(struct history *history, int64_t first, FILE *out);
/* Each acknowledged put is among what the first watcher was told, at its revision; no refused one is. */
unsigned history_check_acknowledged(struct history *history, FILE *out);
/* The order by revision agrees with real time, and each read returned the newest write of its revision, none older than what
 * was complete before it began. */
unsigned history_check_linearizable(struct history *history, int64_t first, FILE *out);

#endif
