/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The database of an etcd member, or a snapshot of one, as the rows of a new log. The file is believed in nothing: it is read
 * to its end once before the first row is given out, so that a damaged one is refused before a database is touched.
 *
 * How etcd's state becomes a log:
 *
 *	position 1      nothing (NOOP): the log is never empty
 *	then            one entry for each lease, role and user, and one for whether auth is on: keys refer to leases
 *	then            one entry for each revision, with etcd's own sub-revisions; behind the last one that the newest compaction
 *	                covers, that compaction
 *
 * Positions have no gaps; sub-revisions may have, where etcd removed records, and the compaction behind them explains it to whoever
 * loads the log (log/replay.c). What etcd keeps of members, raft and alarms is left out.
 *
 * Owner: the caller keeps the file descriptor open; a row is borrowed until the next one. One thread.
 */
#ifndef KS_TOOLS_RESTORE_SOURCE_H
#define KS_TOOLS_RESTORE_SOURCE_H

#include "base/status.h"
#include "sqlbackends/sqlb.h"

struct ks_restore_source;

struct ks_restore_totals {
	int64_t revision, compact_revision; /* compact_revision -1: never compacted */
	uint64_t rows;
	uint64_t records, leases, users, roles;
	bool auth_enabled;
};

/* Checks the whole database in the first 'size' bytes of 'fd'. KS_DATA_LOSS: it is damaged or none of etcd's. */
enum ks_status ks_restore_source_open(int fd, uint64_t size, int64_t writer, struct ks_restore_source **source,
				      struct ks_err *err) KS_MUST_CHECK;
void ks_restore_source_close(struct ks_restore_source *source); /* NULL is fine */
const struct ks_restore_totals *ks_restore_source_totals(const struct ks_restore_source *source);
/* A sqlb_next_fn, with the source as its context. */
enum sqlb_next ks_restore_source_next(void *ctx, struct sqlb_row *row);
/* Why the last call of it failed. */
const struct ks_err *ks_restore_source_error(const struct ks_restore_source *source);

#endif
