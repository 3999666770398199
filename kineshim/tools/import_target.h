/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The database that an import fills: a log that begins with the mark of an import (KS_EFFECT_IMPORT) and ends with another. What
 * lies between is written twice over: once as a whole (load), then entry by entry behind it (follow). The log itself says how far
 * the import came, so whoever opens it again can go on, and servers serve nothing of it until the second mark.
 *
 * Nothing has to keep servers and other imports away: a log that is not empty and does not begin with the mark is refused, an append
 * at a position that is taken fails, and a server that finds the first mark without the second waits.
 *
 * Owner: what is given to a function is copied or written before it returns. One thread. Errors: KS_UNAVAILABLE when the
 * database is away and waiting was given up; KS_FAILED_PRECONDITION when it is not ours to fill.
 */
#ifndef KS_TOOLS_IMPORT_TARGET_H
#define KS_TOOLS_IMPORT_TARGET_H

#include "options.h"
#include "sqlbackends/sqlb.h"
#include "store/store.h"
#include "tools/import_map.h"

#define KS_IMPORT_SOURCE_MAX 128

/* What the log says, read or written. */
struct ks_import_known {
	int64_t position, revision;
	int64_t compact_revision; /* -1: none */
	int64_t auth_revision;    /* 0: none */
	bool begun, finished;
	char source[KS_IMPORT_SOURCE_MAX]; /* as the mark has it */
	uint64_t puts, deletes, bytes;     /* bytes of keys and values */
	struct ks_import_map map;          /* leases, users, roles; keys when they are wanted */
};

struct ks_import_target;

struct ks_import_target_config {
	const struct ks_options *options;
	bool want_keys;                 /* known.map also has the keys */
	bool (*give_up)(void);          /* asked while the database is away, and between chunks of long reads */
	void (*said)(const char *text); /* what a person should know meanwhile */
};

/* Opens the database and reads what is there: nothing, or an import that is not finished. */
enum ks_status ks_import_target_open(const struct ks_import_target_config *config, struct ks_import_target **target,
				     struct ks_err *err) KS_MUST_CHECK;
void ks_import_target_close(struct ks_import_target *target); /* NULL is fine */
struct ks_import_known *ks_import_target_known(struct ks_import_target *target);
const char *ks_import_target_name(const struct ks_import_target *target); /* without its password */
/* Of rows, for those who make some themselves. */
int64_t ks_import_target_writer(const struct ks_import_target *target);

/*
 * The first part, as one transaction into an empty log: what 'next' gives, whose first row has position 1 and becomes the mark.
 * 'source' is the mark's text. When 'next' fails it fills 'next_err'.
 */
enum ks_status ks_import_target_load(struct ks_import_target *target, const char *source, sqlb_next_fn *next, void *ctx,
				     const struct ks_err *next_err, struct ks_err *err) KS_MUST_CHECK;

/*
 * The parts behind it: entries, each begun, filled with rows of which kind, key, value, create_revision, version, lease and payload
 * count, and ended. They are written in batches: at the latest by flush, which returns when all are durable.
 */
void ks_import_entry_begin(struct ks_import_target *target, int64_t revision);
void ks_import_entry_add(struct ks_import_target *target, const struct sqlb_row *row);
enum ks_status ks_import_entry_end(struct ks_import_target *target, struct ks_err *err) KS_MUST_CHECK;
/* One with one row. */
enum ks_status ks_import_entry(struct ks_import_target *target, int64_t revision, const struct sqlb_row *row,
			       struct ks_err *err) KS_MUST_CHECK;
enum ks_status ks_import_flush(struct ks_import_target *target, struct ks_err *err) KS_MUST_CHECK;
/* The second mark. */
enum ks_status ks_import_target_finish(struct ks_import_target *target, int64_t revision,
				       struct ks_err *err) KS_MUST_CHECK;

/* Visits the rows of the log in order, behind 'after', about 'max_bytes' of them. *more: there may be more. */
enum ks_status ks_import_target_read(struct ks_import_target *target, int64_t after, size_t max_bytes,
				     sqlb_row_fn *visit, void *ctx, bool *more, struct ks_err *err) KS_MUST_CHECK;
/*
 * Loads the log as a server does, which proves that one can, and says how many keys and leases it then has, and what its HashKV is.
 */
enum ks_status ks_import_target_check(struct ks_import_target *target, struct ks_store_stats *stats,
				      struct ks_hash_result *hash, struct ks_err *err) KS_MUST_CHECK;

#endif
