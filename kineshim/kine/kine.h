/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Reads kine's table, in whichever of its databases it lies: rows as kine wrote them, by id, from one snapshot of the database, while
 * kine may go on writing. What the rows mean is for others (tools/import_kine.c).
 *
 * Forms of an endpoint are kine's: sqlite://PATH[?…], postgres://…, mysql://user:pass@tcp(host:port)/db (also unix(path)).
 *
 * Owner: a row points into the connection until the next call on it. One thread for each object. Errors: KS_UNAVAILABLE when the
 * database is away: the next begin connects anew; KS_FAILED_PRECONDITION when there is no such table; KS_DATA_LOSS for a row
 * that kine does not write. Texts never have a password. Nothing is ever written.
 */
#ifndef KS_KINE_KINE_H
#define KS_KINE_KINE_H

#include <stdbool.h>
#include <stdint.h>

#include "base/bytes.h"
#include "base/status.h"

struct ks_kine_row {
	int64_t id; /* the revision */
	struct ks_slice name, value;
	bool created, deleted;
	int64_t create_revision, prev_revision;
	int64_t lease; /* a time to live, in seconds */
};

struct ks_kine_head {
	int64_t newest;           /* 0: the table is empty */
	int64_t compact_revision; /* 0: never compacted */
};

struct ks_kine;

/* Does not connect. KS_INVALID_ARGUMENT: the endpoint or the table's name is wrong; KS_UNIMPLEMENTED: not built in. */
enum ks_status ks_kine_open(const char *endpoint, const char *table, struct ks_kine **kine,
			    struct ks_err *err) KS_MUST_CHECK;
void ks_kine_close(struct ks_kine *kine); /* NULL is fine */
/* Do rows become visible in the order of their ids? Else a missing id may still come, from a transaction that is slow. */
bool ks_kine_ordered(const struct ks_kine *kine);
const char *ks_kine_place(const struct ks_kine *kine); /* without its password */

/* A snapshot: what 'head' says, and the rows with after < id <= to (to < 0: all of it), in order. To be ended, also after an error. */
enum ks_status ks_kine_begin(struct ks_kine *kine, int64_t after, int64_t to, struct ks_kine_head *head,
			     struct ks_err *err) KS_MUST_CHECK;
/* *more false: there are no more. */
enum ks_status ks_kine_next(struct ks_kine *kine, struct ks_kine_row *row, bool *more,
			    struct ks_err *err) KS_MUST_CHECK;
void ks_kine_end(struct ks_kine *kine);

#endif
