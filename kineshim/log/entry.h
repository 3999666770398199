/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One entry of the log and its rows: effects (store.h) on one side, struct sqlb_row on the other.
 *
 * A row is one effect; sqlb_row.kind is enum ks_effect_kind. 'payload' is for kinds that have one (store.h) and NULL for
 * others: a row with an unexpected one was written by a newer program, so that it is refused rather than misread. Rows come
 * from a database that people can edit: everything is checked here, nothing is believed, and no row can end the process.
 * What is inside a payload is for the store to check (ks_store_apply).
 *
 * The builder puts rows together again. Rows of an entry with one row are borrowed, others are copied, because a visitor's
 * row is valid only inside the visitor. Owner: the builder owns its copies until the next entry begins. One thread.
 */
#ifndef KS_LOG_ENTRY_H
#define KS_LOG_ENTRY_H

#include "base/arena.h"
#include "sqlbackends/sqlb.h"
#include "store/store.h"

/* Fills rows[0 … effect_count - 1]; they borrow what the effects borrow. */
void ks_log_entry_rows(const struct ks_entry *entry, int64_t writer, int64_t batch, struct sqlb_row *rows);

/* A lease's seconds as the side table holds them; beyond 100,000 years it does not matter, and databases overflow. */
int64_t ks_log_ttl_ms(int64_t ttl);

/* KS_DATA_LOSS when a row is not one that this program writes; the text says which and why. */
enum ks_status ks_log_row_check(const struct sqlb_row *row, struct ks_err *err) KS_MUST_CHECK;

struct ks_log_builder {
	struct ks_entry entry;
	int64_t writer, batch;
	int32_t rows; /* that the entry was appended with; 0: no entry is open */
	/* the builder's */
	struct ks_effect *effects;
	int32_t *subs;
	size_t room;
	struct ks_arena copies;
};

void ks_log_builder_init(struct ks_log_builder *builder);
void ks_log_builder_fini(struct ks_log_builder *builder);
/* Forgets the entry that is open. */
void ks_log_builder_reset(struct ks_log_builder *builder);
/*
 * Adds a checked row to the open entry, or opens one. KS_DATA_LOSS when the row contradicts the ones before;
 * KS_RESOURCE_EXHAUSTED without memory. A row of another position must not come while an entry is open.
 */
enum ks_status ks_log_builder_add(struct ks_log_builder *builder, const struct sqlb_row *row,
				  struct ks_err *err) KS_MUST_CHECK;

static inline bool ks_log_builder_open(const struct ks_log_builder *builder)
{
	return builder->rows != 0;
}
/* All rows are there; a trimmed entry never becomes whole. */
static inline bool ks_log_builder_whole(const struct ks_log_builder *builder)
{
	return builder->rows != 0 && builder->entry.effect_count == (size_t)builder->rows;
}
/* The last row has been seen, with or without those before it. */
static inline bool ks_log_builder_ended(const struct ks_log_builder *builder)
{
	return builder->rows != 0 && builder->subs[builder->entry.effect_count - 1] == builder->rows - 1;
}

/* A row of the log as a KeyValue; NULL without memory or when the row is no put. */
struct ks_bytes *ks_log_row_encode(const struct sqlb_row *row);

#endif
