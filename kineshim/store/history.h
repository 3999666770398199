/* SPDX-License-Identifier: Apache-2.0 */
/*
 * All retained records in (revision, sub) order: a directory of segments of pointers. Records are appended at the end (the
 * tail), popped there (rollback), and removed anywhere (compaction).
 *
 * A place in it is named by (revision, sub), which survives every change; a ks_history_pos is valid until the next change.
 * The history points to records, it does not own them.
 * Threads: the store's lock. Errors: false when memory is short; then nothing has changed.
 */
#ifndef KS_STORE_HISTORY_H
#define KS_STORE_HISTORY_H

#include "store/record.h"

#define KS_SEGMENT_RECORDS 256u

struct ks_segment {
	uint32_t used;   /* items, with holes where records were removed */
	uint32_t live;   /* items that are records */
	uint32_t cached; /* of those, puts whose value is in memory: kept by value_cache.c */
	struct ks_record *items[KS_SEGMENT_RECORDS];
};

struct ks_history {
	struct ks_slab *slab; /* borrowed: segments, so that compaction never waits for malloc */
	/* Apart from the segments, so that a search stays in few cache lines. The place is that of the first record, or
	 * of one before that was removed. */
	struct ks_segment_ref {
		int64_t revision;
		int32_t sub;
		struct ks_segment *segment;
	} * segments;
	size_t segment_count;
	size_t capacity;
	size_t records;
};

struct ks_history_pos {
	size_t segment;
	uint32_t i;
};

void ks_history_init(struct ks_history *history, struct ks_slab *slab);
void ks_history_fini(struct ks_history *history);
bool ks_history_append(struct ks_history *history, struct ks_record *record) KS_MUST_CHECK;
struct ks_record *ks_history_last(const struct ks_history *history); /* NULL when empty */
void ks_history_pop(struct ks_history *history);
void ks_history_remove(struct ks_history *history, const struct ks_record *record);
/* Where the record is; it must be in. */
struct ks_segment *ks_history_segment_of(const struct ks_history *history, const struct ks_record *record);

/* Before the first record at or after the place. */
struct ks_history_pos ks_history_seek(const struct ks_history *history, int64_t revision, int32_t sub);
/* The record at 'pos', which moves behind it; NULL at the end. */
struct ks_record *ks_history_next(const struct ks_history *history, struct ks_history_pos *pos);
/* How many records have a revision > 'revision'; stops counting beyond 'enough' (whole segments). */
size_t ks_history_count_after(const struct ks_history *history, int64_t revision, size_t enough);

#endif
