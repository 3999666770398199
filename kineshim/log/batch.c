/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The way of a batch: requests are taken from the queue, evaluated on the store's tail, made rows of and appended; and then answered, put back,
 * or failed. On the writer's thread.
 */
#include <stdlib.h>
#include <string.h>

#include "base/metrics.h"
#include "log/writer.h"
#include "store/count.h"

#define SLOW_APPLY_NS 100000000 /* etcd's --warning-apply-duration */

/* ---- its memory ---- */

static bool batch_room(struct ks_log_batch *batch)
{
	size_t room = batch->room ? 2 * batch->room : 64;
	struct ks_submit **submits;
	struct ks_effects *effects;

	if (batch->count < batch->room)
		return true;
	submits = realloc(batch->submits, room * sizeof(struct ks_submit *));
	if (submits)
		batch->submits = submits;
	effects = realloc(batch->effects, room * sizeof(*effects));
	if (effects)
		batch->effects = effects;
	if (submits && effects)
		batch->room = room;
	return submits && effects;
}

/* Empties the batch, whose requests were answered or put back. */
static void batch_clear(struct ks_log_batch *batch)
{
	batch->count = batch->entry_count = batch->row_count = batch->bytes = 0;
	batch->leases_new_count = batch->leases_gone_count = 0;
	batch->expired = batch->doubt = batch->behind = false;
	batch->compaction = (struct ks_log_applied){0};
}

static void effects_clear(struct ks_log_batch *batch)
{
	for (size_t i = 0; i < batch->count; i++)
		ks_effects_fini(&batch->effects[i]);
}

void ks_log_batch_free(struct ks_log_batch *batch)
{
	free(batch->submits);
	free(batch->effects);
	free(batch->rows);
	free(batch->leases_new);
	free(batch->leases_gone);
}

void ks_log_batch_count_in_flight(struct ks_log_writer *w)
{
	size_t count = w->batch.count;

	for (size_t i = 0; i < w->ahead_count; i++)
		count += w->ahead[i].count;
	atomic_store_explicit(&w->in_flight, count, memory_order_relaxed);
}

/* ---- from the queue and back ---- */

void ks_log_batch_fill(struct ks_log *log, struct ks_log_batch *batch, struct ks_list *from, size_t max, bool only_kv)
{
	size_t bytes = 0;

	while (!ks_list_empty(from) && batch->count < max && batch_room(batch)) {
		struct ks_submit *submit = ks_container_of(from->next, struct ks_submit, link);

		if (batch->count && bytes + submit->bytes > log->config.max_batch_bytes)
			break;
		if (only_kv && !ks_request_is_kv(&submit->request))
			break;
		bytes += submit->bytes;
		ks_log_queue_take(&log->writer, submit, batch->expired);
		batch->submits[batch->count++] = submit;
	}
}

void ks_log_batch_waited(struct ks_log *log, const struct ks_log_batch *batch)
{
	KS_OBSERVE(WRITE_WAIT, (ks_clock_now(log->clock) - batch->submits[0]->since_ms) * 1000000);
}

void ks_log_batch_put_back(struct ks_log *log, struct ks_log_batch *batch)
{
	struct ks_list back;

	effects_clear(batch);
	ks_list_init(&back);
	for (size_t i = 0; i < batch->count; i++) {
		struct ks_submit *submit = batch->submits[i];

		if (submit->err.status == KS_OK)
			ks_result_fini(&submit->result);
		submit->result = (struct ks_result){0};
		ks_list_append(&back, &submit->link);
	}
	ks_log_queue_put_back(&log->writer, &back, batch->expired);
	batch_clear(batch);
}

/* ---- evaluation ---- */

/* A request that was not evaluated puts nothing into the batch's arrays that a rollback would have to know. */
static void drop_behind(struct ks_log_batch *batch, size_t evaluated)
{
	for (size_t i = evaluated; i < batch->count; i++) {
		batch->effects[i] = (struct ks_effects){0};
		batch->submits[i]->result = (struct ks_result){0};
		batch->submits[i]->err.status = KS_OK;
	}
}

/* The end of one evaluation is the beginning of the next: one look at the clock for each. */
static int64_t count_evaluation(enum ks_request_kind kind, bool success, int64_t began)
{
	int64_t ended = ks_metrics_now();

	KS_OBSERVE_AT(APPLY, (size_t)kind * KS_METRIC_LABEL_SIZE_SUCCESS + success, ended - began);
	if (ended - began > SLOW_APPLY_NS)
		KS_COUNT(SLOW_APPLY, 1);
	return ended;
}

enum ks_log_evaluated ks_log_batch_evaluate(struct ks_log *log, struct ks_log_batch *batch, size_t *fitted)
{
	struct ks_log_writer *w = &log->writer;
	int64_t began = ks_metrics_now();

	drop_behind(batch, 0);
	for (size_t i = 0; i < batch->count; i++) {
		struct ks_submit *submit = batch->submits[i];
		struct ks_effects *effects = &batch->effects[i];
		enum ks_status status;

		w->fetch_failed = false;
		status = ks_store_eval(log->store, &submit->request, &submit->result, effects, &submit->err);
		submit->err.status = status;
		began = count_evaluation(submit->request.kind, status == KS_OK, began);
		if (w->fetch_failed)
			return KS_LOG_LACKS_VALUE;
		if (status != KS_OK || !effects->entry.effect_count)
			continue;
		batch->entry_count++;
		batch->row_count += effects->entry.effect_count;
		batch->bytes += effects->bytes;
		batch->position = effects->entry.position;
		if (submit->request.kind == KS_REQ_COMPACT)
			batch->compaction =
				(struct ks_log_applied){batch->position, log->config.writer_id, batch->number};
		if (batch->entry_count > 1 && (batch->row_count > SQLB_MAX_ROWS || batch->bytes > SQLB_MAX_BYTES)) {
			*fitted = i;
			return KS_LOG_TOO_LARGE;
		}
	}
	return KS_LOG_EVALUATED;
}

/* ---- rows ---- */

static bool encode_room(struct ks_log_batch *batch)
{
	if (batch->row_room < batch->row_count) {
		size_t room = batch->row_count + batch->row_count / 2;
		struct sqlb_row *rows = realloc(batch->rows, room * sizeof(*rows));

		if (!rows)
			return false;
		batch->rows = rows;
		batch->row_room = room;
	}
	if (batch->lease_room < batch->count) {
		struct sqlb_lease *leases_new = realloc(batch->leases_new, batch->room * sizeof(*leases_new));
		int64_t *leases_gone;

		if (!leases_new)
			return false;
		batch->leases_new = leases_new;
		leases_gone = realloc(batch->leases_gone, batch->room * sizeof(*leases_gone));
		if (!leases_gone)
			return false;
		batch->leases_gone = leases_gone;
		batch->lease_room = batch->room;
	}
	return true;
}

/* The lease table is changed once for the whole batch: the last word on each id counts. */
static void encode_lease(struct ks_log_batch *batch, const struct ks_request *request)
{
	if (request->kind == KS_REQ_LEASE_GRANT) {
		for (size_t i = 0; i < batch->leases_gone_count; i++)
			if (batch->leases_gone[i] == request->grant.id)
				batch->leases_gone[i] = batch->leases_gone[--batch->leases_gone_count];
		batch->leases_new[batch->leases_new_count++] =
			(struct sqlb_lease){.id = request->grant.id, .ttl_ms = ks_log_ttl_ms(request->grant.ttl)};
	} else if (request->kind == KS_REQ_LEASE_REVOKE) {
		for (size_t i = 0; i < batch->leases_new_count; i++)
			if (batch->leases_new[i].id == request->revoke.id)
				batch->leases_new[i] = batch->leases_new[--batch->leases_new_count];
		batch->leases_gone[batch->leases_gone_count++] = request->revoke.id;
	}
}

bool ks_log_batch_encode(struct ks_log *log, struct ks_log_batch *batch)
{
	struct sqlb_row *row;

	if (!encode_room(batch))
		return false;
	row = batch->rows;
	for (size_t i = 0; i < batch->count; i++) {
		const struct ks_entry *entry = &batch->effects[i].entry;

		if (batch->submits[i]->err.status != KS_OK || !entry->effect_count)
			continue;
		ks_log_entry_rows(entry, log->config.writer_id, batch->number, row);
		row += entry->effect_count;
		encode_lease(batch, &batch->submits[i]->request);
	}
	return true;
}

/* ---- the append ---- */

/* The index of OUTCOME is that of enum sqlb_outcome; a lease that lives on is none of them. */
enum { GUARDED = SQLB_BROKEN + 1 };
_Static_assert((int)GUARDED + 1 == (int)KS_METRIC_LABEL_SIZE_OUTCOME, "an outcome has no label");

static void count_append(const struct ks_log_batch *batch, enum sqlb_outcome outcome, bool appended, int64_t took_ns)
{
	if (outcome != SQLB_OK || !appended) {
		KS_COUNT_AT(APPENDS, outcome == SQLB_OK ? GUARDED : (int)outcome, 1);
		return;
	}
	KS_COUNT_AT(APPENDS, SQLB_OK, 1);
	KS_OBSERVE(APPEND_TIME, took_ns);
	KS_OBSERVE(APPEND_ENTRIES, batch->entry_count);
	KS_OBSERVE(APPEND_BYTES, batch->bytes);
	/* What etcd's dashboards draw: there, the log and the tree are made durable one after the other. */
	KS_OBSERVE(WAL_FSYNC, took_ns);
	KS_OBSERVE(BACKEND_COMMIT, took_ns);
	KS_COUNT(WAL_BYTES, batch->bytes);
}

struct sqlb_append ks_log_batch_begin(struct ks_log *log, struct ks_log_batch *batch, int64_t after_writer,
				      int64_t after_batch)
{
	struct sqlb_append request = {
		.after_writer = after_writer,
		.after_batch = after_batch,
		.rows = batch->rows,
		.row_count = batch->row_count,
		.leases_new = batch->leases_new,
		.leases_new_count = batch->leases_new_count,
	};

	if (batch->expired) {
		request.leases_expired = batch->leases_gone;
		request.leases_expired_count = batch->leases_gone_count;
	} else {
		request.leases_gone = batch->leases_gone;
		request.leases_gone_count = batch->leases_gone_count;
	}
	batch->began_ms = ks_clock_now(log->clock);
	batch->began_ns = ks_metrics_now();
	return request;
}

void ks_log_batch_ended(struct ks_log *log, const struct ks_log_batch *batch, enum sqlb_outcome outcome, bool appended)
{
	struct ks_log_writer *w = &log->writer;
	int64_t took_ms = ks_clock_now(log->clock) - batch->began_ms;

	count_append(batch, outcome, appended, ks_metrics_now() - batch->began_ns);
	w->append_us += (took_ms * 1000 - w->append_us) / 8;
	if (!batch->behind)
		ks_log_ahead_took(log, took_ms);
}

enum sqlb_outcome ks_log_batch_append(struct ks_log *log, bool *appended, struct ks_err *err)
{
	struct ks_log_writer *w = &log->writer;
	struct sqlb_append request = ks_log_batch_begin(log, &w->batch, w->applied.writer, w->applied.batch);
	enum sqlb_outcome outcome;

	*appended = false;
	outcome = log->ops->append(w->role.conn, &request, appended, err);
	ks_log_batch_ended(log, &w->batch, outcome, *appended);
	return outcome;
}

/* ---- its end ---- */

static void fail_requests(struct ks_log_batch *batch, enum ks_status status, const char *text)
{
	size_t count = batch->count;

	effects_clear(batch);
	for (size_t i = 0; i < count; i++)
		if (batch->submits[i]->err.status == KS_OK)
			ks_result_fini(&batch->submits[i]->result);
	batch_clear(batch);
	for (size_t i = 0; i < count; i++)
		ks_log_submit_fail(batch->submits[i], status, text);
}

void ks_log_batch_fail(struct ks_log *log, enum ks_status status, const char *text)
{
	struct ks_log_writer *w = &log->writer;

	KS_ASSERT(!w->sent);
	ks_store_rollback(log->store);
	fail_requests(&w->batch, status, text);
	for (size_t i = 0; i < w->ahead_count; i++)
		fail_requests(&w->ahead[i], status, text);
	w->ahead_count = 0;
	ks_log_batch_count_in_flight(w);
}

void ks_log_batch_answer(struct ks_log *log)
{
	struct ks_log_batch *batch = &log->writer.batch;
	size_t count = batch->count;
	bool alone = count == 1 && ks_log_queue_is_empty(&log->writer);

	effects_clear(batch);
	batch_clear(batch);
	ks_log_batch_count_in_flight(&log->writer);
	for (size_t i = 0; i < count; i++) {
		struct ks_submit *submit = batch->submits[i];

		submit->alone = alone;

		if (submit->err.status == KS_OK)
			ks_count_request(&submit->request, &submit->result);
		submit->done(submit);
	}
}

/* The first that was sent behind the batch, which is done, takes its place. */
static void take_place(struct ks_log_writer *w)
{
	struct ks_log_batch done = w->batch;

	w->batch = w->ahead[0];
	memmove(&w->ahead[0], &w->ahead[1], --w->ahead_count * sizeof(w->ahead[0]));
	w->ahead[w->ahead_count] = done; /* for its arrays */
}

/* The batch is in the log. */
void ks_log_batch_landed(struct ks_log *log)
{
	struct ks_log_writer *w = &log->writer;
	struct ks_log_batch *batch = &w->batch;
	int64_t now;

	if (batch->compaction.position)
		ks_log_side_compacted(log, batch->compaction, false);
	ks_store_publish(log->store);
	now = ks_clock_now(log->clock);
	for (size_t i = 0; i < batch->entry_count; i++)
		ks_turn_entry(&w->turn, log->config.writer_id, batch->number, now);
	ks_log_size_grow(log, batch->bytes, batch->row_count);
	ks_log_writer_published(log, (struct ks_log_applied){batch->position, log->config.writer_id, batch->number},
				batch->proof_mark);
	if (batch->compaction.position)
		ks_log_side_compact(log);
	ks_log_batch_answer(log);
	if (w->ahead_count)
		take_place(w);
}
