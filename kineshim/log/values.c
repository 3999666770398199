/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Values that the cache let go, read from the log by their primary key: many at a time for those who wait for them (the reader's
 * thread), and one by one while the writer evaluates (its own thread and connection).
 */
#include "log/reader.h"

#include <inttypes.h>
#include <stdlib.h>

static void finish_fetch(struct ks_fetch *fetch, enum ks_status status, const char *text)
{
	fetch->err.status = KS_OK;
	if (status != KS_OK)
		ks_fail(&fetch->err, status, "%s", text);
	fetch->done(fetch);
}

void ks_log_fetches_fail(struct ks_list *fetches, enum ks_status status, const char *text)
{
	struct ks_list *link;

	while ((link = ks_list_pop(fetches)))
		finish_fetch(ks_container_of(link, struct ks_fetch, link), status, text);
}

/* ---- any thread ---- */

void ks_log_fetch(struct ks_committer *committer, struct ks_fetch *fetch)
{
	struct ks_log *log = ks_log_of(committer);
	struct ks_log_reader *r = &log->reader;
	const char *refusal;

	fetch->since_ms = ks_clock_now(log->clock);
	refusal = ks_log_role_queue(log, &r->role, &r->fetches, &fetch->link);
	if (refusal)
		finish_fetch(fetch, KS_UNAVAILABLE, refusal);
}

/* ---- the reader's thread ---- */

static int by_loc(const void *a, const void *b)
{
	const struct ks_log_fetch_slot *left = a, *right = b;

	if (left->loc.position != right->loc.position)
		return left->loc.position < right->loc.position ? -1 : 1;
	return (left->loc.sub > right->loc.sub) - (left->loc.sub < right->loc.sub);
}

struct filling {
	struct ks_log *log;
	struct ks_log_fetch_slot *slots;
	size_t count;
	bool no_memory;
};

static bool fill(void *ctx, const struct sqlb_row *row)
{
	struct filling *f = ctx;
	struct ks_loc loc = {row->position, row->sub};
	struct ks_log_fetch_slot wanted = {.loc = loc};
	size_t low = 0, high = f->count;
	struct ks_bytes *encoded;

	while (low < high) {
		size_t middle = low + (high - low) / 2;

		if (by_loc(&f->slots[middle], &wanted) < 0)
			low = middle + 1;
		else
			high = middle;
	}
	if (row->kind != KS_EFFECT_PUT || low == f->count || by_loc(&f->slots[low], &wanted) != 0)
		return true;
	encoded = ks_log_row_encode(row);
	if (!encoded) {
		f->no_memory = true;
		return false;
	}
	ks_store_cache_fill(f->log->store, encoded, loc);
	for (; low < f->count && by_loc(&f->slots[low], &wanted) == 0; low++)
		if (!f->slots[low].ref->encoded)
			f->slots[low].ref->encoded = ks_bytes_ref(encoded);
	ks_bytes_unref(encoded);
	return true;
}

/* Moves as many fetches into the chunk as fit; a larger one goes alone, piece by piece. */
static void next_chunk(struct ks_log_reader *r)
{
	size_t count = 0;

	if (!ks_list_empty(&r->chunk))
		return;
	r->chunk_offset = 0;
	ks_mutex_lock(&r->role.mutex);
	while (!ks_list_empty(&r->fetches)) {
		struct ks_fetch *fetch = ks_container_of(r->fetches.next, struct ks_fetch, link);

		if (count && count + fetch->count > KS_LOG_FETCH_CHUNK)
			break;
		count += fetch->count;
		ks_list_remove(&fetch->link);
		ks_list_append(&r->chunk, &fetch->link);
	}
	ks_mutex_unlock(&r->role.mutex);
}

static size_t collect(struct ks_log_reader *r, struct ks_log_fetch_slot *slots)
{
	size_t count = 0, i = r->chunk_offset;

	for (struct ks_list *link = r->chunk.next; link != &r->chunk; link = link->next) {
		struct ks_fetch *fetch = ks_container_of(link, struct ks_fetch, link);

		for (; i < fetch->count && count < KS_LOG_FETCH_CHUNK; i++)
			if (ks_kvref_missing(fetch->refs[i]))
				slots[count++] = (struct ks_log_fetch_slot){fetch->refs[i]->loc, fetch->refs[i]};
		if (i < fetch->count) {
			r->chunk_offset = i;
			return count;
		}
		i = 0;
	}
	r->chunk_offset = SIZE_MAX; /* this is the last piece */
	return count;
}

static void finish_chunk(struct ks_log *log, bool trimmed)
{
	struct ks_list *link;

	while ((link = ks_list_pop(&log->reader.chunk))) {
		struct ks_fetch *fetch = ks_container_of(link, struct ks_fetch, link);
		bool whole = true;

		for (size_t i = 0; trimmed && i < fetch->count && whole; i++)
			whole = !ks_kvref_missing(fetch->refs[i]);
		if (whole)
			finish_fetch(fetch, KS_OK, NULL);
		else
			finish_fetch(fetch, KS_OUT_OF_RANGE, "etcdserver: mvcc: required revision has been compacted");
	}
}

/* The chunk could not be read: those who have time left wait. */
static void put_chunk_back(struct ks_log_reader *r)
{
	ks_mutex_lock(&r->role.mutex);
	ks_list_splice_front(&r->fetches, &r->chunk);
	ks_mutex_unlock(&r->role.mutex);
}

bool ks_log_fetch_some(struct ks_log *log, int64_t *wait_ms)
{
	struct ks_log_reader *r = &log->reader;
	struct sqlb_loc locs[KS_LOG_FETCH_CHUNK];
	struct filling filling = {.log = log, .slots = r->slots};
	size_t offset, distinct = 0;
	int64_t began;
	struct ks_err err = {0};
	enum sqlb_outcome outcome = SQLB_OK;
	bool missing = false;

	next_chunk(r);
	if (ks_list_empty(&r->chunk))
		return false;
	offset = r->chunk_offset;
	filling.count = collect(r, r->slots);
	qsort(r->slots, filling.count, sizeof(*r->slots), by_loc);
	for (size_t i = 0; i < filling.count; i++)
		if (!i || by_loc(&r->slots[i - 1], &r->slots[i]) != 0)
			locs[distinct++] = (struct sqlb_loc){r->slots[i].loc.position, r->slots[i].loc.sub};
	if (distinct) {
		began = ks_metrics_now();
		outcome = log->ops->read_at(r->role.conn, locs, distinct, fill, &filling, &err);
		KS_OBSERVE(FETCH_TIME, ks_metrics_now() - began);
		KS_COUNT(FETCHED, distinct);
	}
	if (outcome != SQLB_OK) {
		r->chunk_offset = offset;
		put_chunk_back(r);
		*wait_ms = ks_log_role_failed(log, &r->role, outcome, "read values", &err);
		return true;
	}
	ks_log_role_fine(log, &r->role);
	if (filling.no_memory) {
		ks_log_fetches_fail(&r->chunk, KS_RESOURCE_EXHAUSTED, "etcdserver: out of memory");
		return true;
	}
	for (size_t i = 0; i < filling.count; i++)
		missing = missing || ks_kvref_missing(r->slots[i].ref);
	if (missing)
		ks_log_writer_verify(log); /* a compaction that we do not know of yet, or a lost tail */
	if (missing || r->chunk_offset == SIZE_MAX)
		finish_chunk(log, missing);
	return true;
}

/* ---- for the store, on the writer's thread ---- */

struct one_value {
	struct ks_bytes *encoded;
	bool no_memory;
};

static bool take_one(void *ctx, const struct sqlb_row *row)
{
	struct one_value *one = ctx;

	if (row->kind == KS_EFFECT_PUT && !one->encoded) {
		one->encoded = ks_log_row_encode(row);
		one->no_memory = !one->encoded;
	}
	return true;
}

struct ks_bytes *ks_log_writer_fetch(void *ctx, struct ks_loc loc)
{
	struct ks_log *log = ctx;
	struct ks_log_writer *w = &log->writer;
	struct sqlb_loc at = {loc.position, loc.sub};
	struct one_value one = {0};
	struct ks_err err = {0};
	enum sqlb_outcome outcome;

	/* While appends are on their way the connection is theirs. */
	w->fetch_failed = w->fetch_failed || w->sent;
	if (w->fetch_failed)
		return NULL; /* one is enough to put the batch off */
	outcome = log->ops->read_at(w->role.conn, &at, 1, take_one, &one, &err);
	if (outcome == SQLB_OK && one.encoded)
		return one.encoded;
	ks_bytes_unref(one.encoded);
	w->fetch_failed = true;
	if (outcome == SQLB_OK) {
		outcome = SQLB_AWAY;
		if (one.no_memory)
			ks_fail(&err, KS_RESOURCE_EXHAUSTED, "out of memory");
		else
			ks_fail(&err, KS_DATA_LOSS, "the row (%" PRId64 ", %" PRId32 ") of a live key is not there",
				loc.position, loc.sub);
	}
	ks_log_role_failed(log, &w->role, outcome, "read value", &err);
	return NULL;
}
