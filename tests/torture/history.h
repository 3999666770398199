/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What clients did and saw during a torture run: operations, what watchers were told, hashes, faults. A run writes it to a
 * file, one JSON object a line (json.c), and keeps nothing; the checker (check.h) reads the file into a struct history.
 *
 * Keys are numbers, 0 to HISTORY_KEYS - 1, in the order of their names, so a range of keys is a range of numbers. Values are
 * numbers that are written only once in a run. A put, a delete and a range are transactions with one action.
 *
 * Threads: one.
 */
#ifndef TESTS_TORTURE_HISTORY_H
#define TESTS_TORTURE_HISTORY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#define HISTORY_GROUPS 8
#define HISTORY_GROUP_KEYS 5
#define HISTORY_KEYS (HISTORY_GROUPS * HISTORY_GROUP_KEYS)
#define HISTORY_ACTIONS 4
#define HISTORY_NAME 16
#define HISTORY_WATCHERS 64

enum op_kind { OP_TXN, OP_GRANT, OP_KEEPALIVE, OP_REVOKE, OP_COMPACT, OP_KINDS };

enum op_outcome {
	OP_OK,      /* acknowledged */
	OP_FAILED,  /* has not happened, and never will */
	OP_UNKNOWN, /* may have happened, may still happen */
	OP_OUTCOMES
};

/* value 0: there is no such key. */
struct kv {
	int key;
	int64_t value, create, mod, version, lease;
};

enum action_kind { ACTION_GET, ACTION_PUT, ACTION_DELETE };

struct action {
	enum action_kind kind;
	int from, to; /* [from, to) */
	int64_t value, lease;
	bool prev; /* asked for the keys before */
};

enum compare_target { COMPARE_VERSION, COMPARE_CREATE, COMPARE_MOD, COMPARE_VALUE, COMPARE_LEASE };
enum compare_relation { COMPARE_EQUAL, COMPARE_GREATER, COMPARE_LESS, COMPARE_NOT_EQUAL };

struct compare {
	int key;
	enum compare_target target;
	enum compare_relation relation;
	int64_t operand;
};

/* Of one action: a GET's keys, a PUT's or DELETE's keys before; 'count' as the server said it (a PUT has 1). */
struct action_result {
	int64_t count;
	size_t kv_count;
	struct kv *kvs;
};

struct op {
	enum op_kind kind;
	char name[HISTORY_NAME]; /* for people and statistics: "put", "cas" */
	enum op_outcome outcome;
	unsigned client;
	int64_t start_ns, end_ns; /* monotonic, around the whole call */
	int64_t revision;         /* of the response's header; 0 unless OK */
	/* OP_TXN */
	bool serializable;
	int64_t at; /* the revision that was asked for, also of OP_COMPACT; 0: the newest */
	size_t compare_count, then_count, else_count;
	struct compare compares[HISTORY_ACTIONS];
	struct action thens[HISTORY_ACTIONS], elses[HISTORY_ACTIONS];
	bool succeeded;
	struct action_result results[HISTORY_ACTIONS]; /* of the branch that ran; OK only */
	/* leases */
	int64_t lease, ttl; /* the server's answer in seconds; 0: the lease is gone */
};

struct event {
	bool is_delete, has_prev;
	struct kv kv; /* a delete has key and mod only */
	struct kv prev;
};

enum watch_kind { WATCH_STARTED, WATCH_EVENTS, WATCH_PROGRESS, WATCH_RESUMED, WATCH_COMPACTED, WATCH_CANCELLED };

/* One thing that one watcher was told; in the order in which it was told. */
struct watch_record {
	enum watch_kind kind;
	unsigned watcher;
	int64_t at_ns;
	int64_t revision; /* STARTED: the first that it asks for; COMPACTED: the compact revision; else the header's */
	int from, to;     /* STARTED */
	bool prev, no_put, no_delete;
	size_t event_count;
	struct event *events;
};

struct hash_record {
	char instance[HISTORY_NAME];
	int64_t revision, compact_revision;
	uint32_t hash;
};

/*
 * A fault that nobody played: an instance found that a compaction had taken the entry that it had applied last, and loaded
 * everything again.
 */
#define OVERTAKEN "overtaken"

struct fault_record {
	char kind[HISTORY_NAME];
	int64_t at_ns;
};

struct history {
	int64_t first; /* revision before the run */
	int64_t last;  /* revision at its end; 0: it did not get there */
	struct op *ops;
	size_t op_count, op_room;
	struct watch_record *watches;
	size_t watch_count, watch_room;
	struct hash_record *hashes;
	size_t hash_count, hash_room;
	struct fault_record *faults;
	size_t fault_count, fault_room;
	/* What is no part of the history, but wrong: an instance that ended by itself. Texts. */
	char **complaints;
	size_t complaint_count, complaint_room;
};

void history_init(struct history *history);
void history_fini(struct history *history);
/* These copy; what 'op' and 'record' point to is the history's afterwards. */
void history_add_op(struct history *history, const struct op *op);
void history_add_watch(struct history *history, const struct watch_record *record);
void history_add_hash(struct history *history, const struct hash_record *record);
void history_add_fault(struct history *history, const struct fault_record *record);
void history_add_complaint(struct history *history, const char *text);

/* json.c: one line each. False: the file could not be written. */
bool history_write_start(FILE *file, int64_t first);
bool history_write_end(FILE *file, int64_t last);
bool history_write_op(FILE *file, const struct op *op);
bool history_write_watch(FILE *file, const struct watch_record *record);
bool history_write_hash(FILE *file, const struct hash_record *record);
/* 'text' must need no escapes. */
bool history_write_fault(FILE *file, const struct fault_record *record, const char *text);
bool history_write_complaint(FILE *file, const char *text);
/* False with a line on stderr: not a whole history. */
bool history_read(struct history *history, const char *path);

#endif
