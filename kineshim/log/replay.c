/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Rows of the log into the store, on the writer's thread: the whole log (load, jump) or what follows the applied entry (pull).
 *
 * What a pull may believe. Entries are appended onto entries, so when the row at our applied position still carries the writer and
 * batch that we applied, everything behind it continues our history; when it does not, the database lost rows (an
 * asynchronous replica was promoted) and nothing of ours may be kept. That look costs no extra query: each pull begins with
 * the applied entry itself.
 *
 * Holes. Compaction trims rows that nobody needs who has applied it. A reader who has not meets entries whose rows are not
 * all there, and no later row says what the missing ones would have said of older keys. So a pull applies only whole entries without a
 * gap, each of which is exact whatever was trimmed around it; at the first hole it jumps: the log is read from its
 * first row, from ONE snapshot of the database. Chunks will not do for that: a put read from the first and the delete
 * of the same key trimmed before the second would bring the key back to life.
 */
#include <inttypes.h>
#include <string.h>

#include "base/diag.h"
#include "base/metrics.h"
#include "base/panic.h"
#include "log/writer.h"
#include "store/count.h"

#define WHOLE_LOG (SIZE_MAX / 4)

enum reading_end { GOING, LANDED, UNSURE, LOST, HOLE, BAD, NO_MEMORY, STOPPED };

struct reading {
	struct ks_log *log;
	struct ks_log_builder builder;
	struct ks_log_applied base; /* the applied entry; position 0: none, everything is new */
	struct ks_log_applied tail; /* the newest entry that was given to the store */
	bool base_seen;
	bool settling; /* the store's tail holds the batch; the first new row decides */
	bool whole;    /* from the first row on: holes are expected */
	int64_t last_hole;
	struct ks_log_applied compaction;
	size_t entries;
	int64_t now_ms;
	char import[128]; /* an import that is not finished: from where; else empty */
	enum reading_end end;
	struct ks_err err;
};

static bool stop(struct reading *r, enum reading_end end)
{
	r->end = end;
	return false;
}

static void note_import(struct reading *r, const struct ks_effect *effect)
{
	size_t size = effect->payload.size < sizeof(r->import) ? effect->payload.size : sizeof(r->import) - 1;

	r->import[0] = '\0';
	if (effect->version == KS_IMPORT_FINISHED)
		return;
	memcpy(r->import, effect->payload.data, size);
	r->import[size] = '\0';
}

/* Gives the entry to the store. */
static bool flush(struct reading *r)
{
	const struct ks_entry *entry = &r->builder.entry;
	enum ks_status status = ks_store_apply(r->log->store, entry, &r->err);

	if (status != KS_OK)
		return stop(r, status == KS_RESOURCE_EXHAUSTED ? NO_MEMORY : BAD);
	if (entry->position != r->tail.position + 1)
		r->last_hole = entry->position - 1;
	if (entry->subs)
		r->last_hole = entry->position;
	if (!r->whole) {
		ks_count_entry(entry);
		ks_turn_entry(&r->log->writer.turn, r->builder.writer, r->builder.batch, r->now_ms);
	}
	r->tail = (struct ks_log_applied){entry->position, r->builder.writer, r->builder.batch};
	for (size_t i = 0; i < entry->effect_count; i++) {
		if (entry->effects[i].kind == KS_EFFECT_COMPACT)
			r->compaction = r->tail;
		else if (entry->effects[i].kind == KS_EFFECT_IMPORT)
			note_import(r, &entry->effects[i]);
	}
	r->entries++;
	ks_log_builder_reset(&r->builder);
	return true;
}

static bool add(struct reading *r, const struct sqlb_row *row)
{
	enum ks_status status = ks_log_row_check(row, &r->err);

	if (status == KS_OK && !ks_log_builder_open(&r->builder) && row->position <= r->tail.position)
		status = ks_fail(&r->err, KS_DATA_LOSS, "rows of the log come out of order at position %" PRId64,
				 row->position);
	if (status == KS_OK)
		status = ks_log_builder_add(&r->builder, row, &r->err);
	if (status != KS_OK)
		return stop(r, status == KS_RESOURCE_EXHAUSTED ? NO_MEMORY : BAD);
	return true;
}

static bool same(const struct ks_log_applied *applied, const struct sqlb_row *row)
{
	return row->writer == applied->writer && row->batch == applied->batch;
}

/* load, jump */
static bool visit_whole(void *ctx, const struct sqlb_row *row)
{
	struct reading *r = ctx;

	if (atomic_load_explicit(&r->log->stopping, memory_order_relaxed))
		return stop(r, STOPPED);
	if (row->position == r->base.position && !same(&r->base, row))
		return stop(r, LOST);
	if (ks_log_builder_open(&r->builder) && row->position != r->builder.entry.position && !flush(r))
		return false;
	if (!add(r, row))
		return false;
	/* A row of an entry with one row is only borrowed: it must not wait for the next visit. */
	return ks_log_builder_ended(&r->builder) ? flush(r) : true;
}

/* The first row behind the applied entry, while a batch waits for its fate. */
static bool decide(struct reading *r, const struct sqlb_row *row)
{
	const struct ks_log_batch *batch = &r->log->writer.batch;

	r->settling = false;
	if (row->position <= batch->position && row->writer == r->log->config.writer_id && row->batch == batch->number)
		return stop(r, LANDED);
	/* All of the batch or nothing is in the log: one foreign row among its positions, and it never will be. */
	if (row->position > batch->position && batch->doubt)
		return stop(r, UNSURE);
	ks_log_writer_unwind(r->log);
	return true;
}

static bool visit_pull(void *ctx, const struct sqlb_row *row)
{
	struct reading *r = ctx;

	if (row->position == r->base.position) {
		r->base_seen = true;
		return same(&r->base, row) ? true : stop(r, LOST);
	}
	if (row->position < r->base.position || !r->base_seen)
		return stop(r, LOST);
	if (r->settling && !decide(r, row))
		return false;
	if (ks_log_builder_open(&r->builder) ? row->position != r->builder.entry.position
					     : row->position != r->tail.position + 1)
		return stop(r, HOLE);
	if (!add(r, row))
		return false;
	ks_log_size_grow(r->log, row->key.size + row->value.size + row->payload.size, 1);
	return ks_log_builder_whole(&r->builder) ? flush(r) : true;
}

/* Before the store may report what the compaction dropped: the housekeeper must know by then which one it was. */
static void note_compaction(struct reading *r, bool whole)
{
	if (r->compaction.position || whole)
		ks_log_side_compacted(r->log, r->compaction, whole);
}

/* Whatever the last reading left behind besides database trouble; true when the rows are good. */
static bool check_whole(struct reading *r, enum sqlb_outcome *outcome)
{
	if (*outcome != SQLB_OK)
		return false;
	if (r->end == GOING && r->last_hole && r->last_hole >= r->compaction.position) {
		ks_fail(&r->err, KS_DATA_LOSS,
			"rows of the log are missing at position %" PRId64 ", and no compaction explains it",
			r->last_hole);
		r->end = BAD;
	}
	/* What is there is sound, and less than the clients had before they moved: they must not begin to change it. */
	if (r->end == GOING && r->whole && r->import[0]) {
		ks_fail(&r->err, KS_FAILED_PRECONDITION,
			"the import from %s is not finished: run kineshim import again, which goes on with it, or drop "
			"the tables of kineshim",
			r->import);
		r->end = BAD;
	}
	if (r->end == BAD)
		*outcome = SQLB_BROKEN;
	else if (r->end != GOING)
		*outcome = SQLB_AWAY;
	return *outcome == SQLB_OK;
}

/* Reads all rows into the store, which expects them. */
static enum sqlb_outcome read_whole(struct reading *r)
{
	struct ks_log *log = r->log;
	bool more;
	enum sqlb_outcome outcome;

	r->whole = true;
	ks_log_builder_init(&r->builder);
	outcome = log->ops->read_rows(log->writer.role.conn, 0, -1, WHOLE_LOG, visit_whole, r, &more, &r->err);
	if (outcome == SQLB_OK && r->end == GOING && ks_log_builder_open(&r->builder))
		(void)flush(r);
	ks_log_builder_fini(&r->builder);
	check_whole(r, &outcome);
	return outcome;
}

bool ks_log_load(struct ks_log *log)
{
	struct ks_log_writer *w = &log->writer;
	struct reading r = {.log = log};
	int64_t began = ks_clock_now(log->clock);
	enum sqlb_outcome outcome;

	/* Into a state of its own: watchers and calls that began before a tail was lost may still be looking. */
	if (ks_store_jump_begin(log->store, &r.err) != KS_OK) {
		ks_log_role_failed(log, &w->role, SQLB_AWAY, "load", &r.err);
		return false;
	}
	outcome = read_whole(&r);
	if (outcome != SQLB_OK || r.tail.position == 0) {
		ks_store_jump_abort(log->store);
		if (outcome == SQLB_OK)
			ks_fail(&r.err, KS_UNAVAILABLE, "the log is empty again");
		ks_log_role_failed(log, &w->role, outcome == SQLB_OK ? SQLB_AWAY : outcome, "load", &r.err);
		return false;
	}
	ks_log_role_fine(log, &w->role);
	note_compaction(&r, true);
	if (ks_store_jump_end(log->store, &r.err) != KS_OK)
		ks_panic(__FILE__, __LINE__, "what was loaded is older than an empty store");
	ks_log_writer_published(log, r.tail, 0);
	ks_log_side_compact(log);
	ks_diag(KS_INFO, "log", "loaded: position=%" PRId64 " revision=%" PRId64 " entries=%zu took_ms=%" PRId64,
		r.tail.position, ks_store_committed(log->store).revision, r.entries, ks_clock_now(log->clock) - began);
	KS_SET(LOAD_TIME, (double)(ks_clock_now(log->clock) - began) / 1000);
	return true;
}

static enum ks_log_pull jump(struct ks_log *log)
{
	struct ks_log_writer *w = &log->writer;
	struct reading r = {.log = log, .base = w->applied};
	enum sqlb_outcome outcome;
	enum ks_status status = ks_store_jump_begin(log->store, &r.err);

	if (status != KS_OK) {
		ks_log_role_failed(log, &w->role, SQLB_AWAY, "jump", &r.err);
		return KS_LOG_PULL_FAILED;
	}
	outcome = read_whole(&r);
	if (outcome == SQLB_OK && r.tail.position < r.base.position)
		r.end = LOST;
	if (r.end == LOST) {
		ks_store_jump_abort(log->store);
		return KS_LOG_PULL_LOST;
	}
	if (outcome != SQLB_OK) {
		ks_store_jump_abort(log->store);
		ks_log_role_failed(log, &w->role, outcome, "jump", &r.err);
		return KS_LOG_PULL_FAILED;
	}
	note_compaction(&r, true);
	status = ks_store_jump_end(log->store, &r.err);
	if (status != KS_OK)
		return KS_LOG_PULL_LOST;
	ks_log_role_fine(log, &w->role);
	ks_log_writer_published(log, r.tail, 0);
	ks_log_side_compact(log);
	ks_diag(KS_INFO, "log", "overtaken by a compaction, read the log again: position=%" PRId64 " was=%" PRId64,
		r.tail.position, r.base.position);
	return KS_LOG_PULL_DONE;
}

/* Publishes the whole entries that were read, also when the reading ended badly behind them. */
static void publish_read(struct reading *r)
{
	if (r->tail.position == r->base.position)
		return;
	KS_COUNT(FOREIGN, r->entries);
	note_compaction(r, false);
	ks_store_publish(r->log->store);
	ks_log_writer_published(r->log, r->tail, 0);
	if (r->compaction.position)
		ks_log_side_compact(r->log);
}

enum ks_log_pull ks_log_pull(struct ks_log *log, bool settling, bool *more)
{
	struct ks_log_writer *w = &log->writer;
	struct reading r = {.log = log, .base = w->applied, .tail = w->applied, .settling = settling};
	enum sqlb_outcome outcome;

	*more = false;
	KS_ASSERT(r.base.position > 0);
	r.now_ms = ks_clock_now(log->clock);
	ks_log_builder_init(&r.builder);
	outcome = log->ops->read_rows(w->role.conn, r.base.position - 1, -1, KS_LOG_PULL_BYTES, visit_pull, &r, more,
				      &r.err);
	/* The applied entry may fill a chunk alone. */
	if (outcome == SQLB_OK && r.end == GOING && *more && r.base_seen && r.tail.position == r.base.position)
		outcome = log->ops->read_rows(w->role.conn, r.base.position, -1, KS_LOG_PULL_BYTES, visit_pull, &r,
					      more, &r.err);
	if (outcome == SQLB_OK && r.end == GOING && !r.base_seen)
		r.end = LOST;
	if (outcome == SQLB_OK && r.end == GOING && ks_log_builder_open(&r.builder))
		r.end = HOLE;
	ks_log_builder_fini(&r.builder);
	if (r.end == LOST)
		return KS_LOG_PULL_LOST; /* what is in the tail goes with the store */
	publish_read(&r);
	if (outcome != SQLB_OK || r.end == BAD || r.end == NO_MEMORY) {
		if (r.end == BAD)
			outcome = SQLB_BROKEN;
		ks_log_role_failed(log, &w->role, outcome == SQLB_OK ? SQLB_AWAY : outcome, "read", &r.err);
		return KS_LOG_PULL_FAILED;
	}
	ks_log_role_fine(log, &w->role);
	switch (r.end) {
	case LANDED:
		return KS_LOG_PULL_LANDED;
	case UNSURE:
		return KS_LOG_PULL_UNSURE;
	case HOLE:
		*more = false;
		return jump(log);
	case GOING:
	case LOST:
	case BAD:
	case NO_MEMORY:
	case STOPPED:
		break;
	}
	return KS_LOG_PULL_DONE;
}
