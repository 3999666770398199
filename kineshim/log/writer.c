/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The writer: gather → evaluate → append → publish → answer. It alone changes the store.
 *
 * Group commit. While one append is on its way requests gather; the next batch takes all of them, up to its limits. A lone
 * request waits for nobody. Where the database is far away more appends may be on their way behind the first (ahead.c).
 *
 * Answers that change nothing (a failed comparison, an error such as "lease not found", a delete of nothing) are
 * reads: they hold for the state they were evaluated on, and that state is proven to be the newest only by what
 * follows: the append of their batch, which succeeds only at the end of the log, or, when the batch has nothing to append, a
 * look at the head that begins after the evaluation. So all of a batch is answered at its end and never before.
 *
 * Outcomes of an append:
 *   OK        publish, answer.
 *   CONFLICT  somebody was faster. The rows at our position say who; when they are ours after all, it had landed. Else the
 *             tail is rolled back, what others wrote is applied, and the requests go back to the front of the queue.
 *   DOUBT     the same rows are appended at the same positions until a row there settles it: ours, it landed; anybody
 *             else's, it never will. Nobody gets an answer before that.
 *   AWAY      nothing happened: back to the queue, where requests wait until their time is over.
 *   BROKEN    the same, and new requests are refused until a slow retry finds that the tables are whole.
 */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/diag.h"
#include "base/metrics.h"
#include "base/panic.h"
#include "log/log_priv.h"
#include "store/count.h"

#define SUBMIT_OVERHEAD 256     /* bytes that a queued request costs besides its own */
#define EXPIRED_MAX 256         /* revokes of expired leases in one batch */
#define SLOW_APPLY_NS 100000000 /* etcd's --warning-apply-duration */
#define APPEND_QUIET_MS 50      /* so long nobody looks for others' entries while we append */

static struct ks_log *log_of(struct ks_committer *committer)
{
	return ks_container_of(committer, struct ks_log, committer);
}

static void answer_error(struct ks_submit *submit, enum ks_status status, const char *text)
{
	if (status != KS_ABORTED) /* a guard's refusal is no failure */
		KS_COUNT(PROPOSALS_FAILED, 1);
	submit->result = (struct ks_result){0};
	ks_fail(&submit->err, status, "%s", text);
	submit->done(submit);
}

static void answer_errors(struct ks_list *submits, enum ks_status status, const char *text)
{
	struct ks_list *link;

	while ((link = ks_list_pop(submits)))
		answer_error(ks_container_of(link, struct ks_submit, link), status, text);
}

/* ---- the queue: any thread ---- */

static size_t cost(const struct ks_submit *submit)
{
	return submit->bytes + SUBMIT_OVERHEAD;
}

void ks_log_submit(struct ks_committer *committer, struct ks_submit *submit)
{
	struct ks_log *log = log_of(committer);
	struct ks_log_writer *w = &log->writer;
	const char *refusal;
	enum ks_status status = KS_UNAVAILABLE;

	submit->since_ms = ks_clock_now(log->clock);
	ks_mutex_lock(&w->role.mutex);
	refusal = ks_log_role_refuses(log, &w->role);
	if (!refusal && w->queue_bytes && w->queue_bytes + cost(submit) > log->config.max_queue_bytes) {
		refusal = "etcdserver: too many requests";
		status = KS_UNKNOWN; /* spec 0: it leaks as UNKNOWN */
		KS_COUNT(LOG_REFUSED, 1);
	}
	if (!refusal) {
		ks_list_append(&w->queue, &submit->link);
		w->queue_count++;
		w->queue_bytes += cost(submit);
		if (!w->holding)
			w->role.poked = true;
	}
	ks_log_role_unlock(&w->role);
	if (refusal)
		answer_error(submit, status, refusal);
}

void ks_log_submit_expired(struct ks_log *log, struct ks_submit *submit)
{
	struct ks_log_writer *w = &log->writer;
	const char *refusal;

	submit->since_ms = ks_clock_now(log->clock);
	ks_mutex_lock(&w->role.mutex);
	refusal = ks_log_role_refuses(log, &w->role);
	if (!refusal) {
		ks_list_append(&w->expired, &submit->link);
		w->role.poked = true;
	}
	ks_log_role_unlock(&w->role);
	if (refusal)
		answer_error(submit, KS_UNAVAILABLE, refusal);
}

void ks_log_writer_moved(struct ks_log *log, int64_t past)
{
	struct ks_log_writer *w = &log->writer;

	ks_mutex_lock(&w->role.mutex);
	w->moved_past = past;
	w->role.poked = true;
	ks_log_role_unlock(&w->role);
}

void ks_log_writer_head(struct ks_log *log, int64_t position)
{
	struct ks_log_writer *w = &log->writer;

	ks_mutex_lock(&w->role.mutex);
	if (position > w->head_seen)
		w->head_seen = position;
	w->role.poked = true;
	ks_log_role_unlock(&w->role);
}

void ks_log_writer_verify(struct ks_log *log)
{
	struct ks_log_writer *w = &log->writer;

	ks_mutex_lock(&w->role.mutex);
	w->verify = true;
	w->role.poked = true;
	ks_log_role_unlock(&w->role);
}

void ks_log_writer_fail_all(struct ks_log *log, const char *text)
{
	struct ks_log_writer *w = &log->writer;
	struct ks_list all;

	ks_list_init(&all);
	ks_mutex_lock(&w->role.mutex);
	ks_list_splice(&all, &w->queue);
	ks_list_splice(&all, &w->expired);
	w->queue_count = w->queue_bytes = 0;
	ks_mutex_unlock(&w->role.mutex);
	answer_errors(&all, KS_UNAVAILABLE, text);
}

/* Requests are queued in the order of their age, also those that were put back. */
static void take_older(struct ks_log_writer *w, struct ks_list *from, int64_t than_ms, struct ks_list *to)
{
	while (!ks_list_empty(from)) {
		struct ks_submit *submit = ks_container_of(from->next, struct ks_submit, link);

		if (submit->since_ms > than_ms)
			return;
		ks_list_remove(&submit->link);
		ks_list_append(to, &submit->link);
		KS_COUNT_AT(LOG_LATE, 0, 1);
		if (from != &w->queue)
			continue;
		w->queue_count--;
		w->queue_bytes -= cost(submit);
	}
}

void ks_log_writer_expire(struct ks_log *log)
{
	struct ks_log_writer *w = &log->writer;
	int64_t than_ms = ks_clock_now(log->clock) - log->config.request_timeout_ms;
	struct ks_list late;

	ks_list_init(&late);
	ks_mutex_lock(&w->role.mutex);
	take_older(w, &w->queue, than_ms, &late);
	take_older(w, &w->expired, than_ms, &late);
	ks_mutex_unlock(&w->role.mutex);
	answer_errors(&late, KS_UNAVAILABLE, "etcdserver: request timed out");
}

/* ---- from here on the writer's thread only ---- */

static void go(struct ks_log_writer *w, enum ks_log_state state)
{
	static const unsigned allowed[] = {
		[KS_LOG_STARTING] = 1u << KS_LOG_LOADING,
		[KS_LOG_LOADING] = 1u << KS_LOG_SERVING,
		[KS_LOG_SERVING] = 1u << KS_LOG_SETTLING | 1u << KS_LOG_LOADING,
		[KS_LOG_SETTLING] = 1u << KS_LOG_SERVING | 1u << KS_LOG_LOADING,
	};

	KS_ASSERT(allowed[w->state] & 1u << state);
	KS_ASSERT(state != KS_LOG_SERVING || w->batch.count == 0);
	w->state = state;
}

void ks_log_writer_published(struct ks_log *log, struct ks_log_applied applied, uint64_t proof_mark)
{
	log->writer.applied = applied;
	ks_log_caught_up(log, applied.position);
	ks_log_reader_published(log, applied, proof_mark);
}

/* ---- the batch ---- */

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

void ks_log_batch_count_in_flight(struct ks_log_writer *w)
{
	size_t count = w->batch.count;

	for (size_t i = 0; i < w->ahead_count; i++)
		count += w->ahead[i].count;
	atomic_store_explicit(&w->in_flight, count, memory_order_relaxed);
}

static void effects_clear(struct ks_log_batch *batch)
{
	for (size_t i = 0; i < batch->count; i++)
		ks_effects_fini(&batch->effects[i]);
}

void ks_log_batch_put_back(struct ks_log *log, struct ks_log_batch *batch)
{
	struct ks_log_writer *w = &log->writer;
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
	ks_mutex_lock(&w->role.mutex);
	if (batch->expired) {
		ks_list_splice(&back, &w->expired);
		ks_list_splice(&w->expired, &back);
	} else {
		w->queue_count += batch->count;
		for (size_t i = 0; i < batch->count; i++)
			w->queue_bytes += cost(batch->submits[i]);
		ks_list_splice(&back, &w->queue);
		ks_list_splice(&w->queue, &back);
	}
	ks_mutex_unlock(&w->role.mutex);
	batch_clear(batch);
}

void ks_log_writer_unwind(struct ks_log *log)
{
	struct ks_log_writer *w = &log->writer;

	KS_ASSERT(w->batch.count);
	ks_store_rollback(log->store);
	/* The older ones come to stand before those that were behind them. */
	while (w->ahead_count)
		ks_log_batch_put_back(log, &w->ahead[--w->ahead_count]);
	ks_log_batch_put_back(log, &w->batch);
	ks_log_batch_count_in_flight(w);
	if (atomic_load(&log->stopping))
		ks_log_writer_fail_all(log, "etcdserver: server stopped");
}

static void fail_requests(struct ks_log_batch *batch, enum ks_status status, const char *text)
{
	size_t count = batch->count;

	effects_clear(batch);
	for (size_t i = 0; i < count; i++)
		if (batch->submits[i]->err.status == KS_OK)
			ks_result_fini(&batch->submits[i]->result);
	batch_clear(batch);
	for (size_t i = 0; i < count; i++)
		answer_error(batch->submits[i], status, text);
}

/* Whether it landed will never be known, or does not matter any more. What was in doubt behind it shares its fate. */
static void batch_fail(struct ks_log *log, enum ks_status status, const char *text)
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

static bool nobody_waits(struct ks_log_writer *w)
{
	bool nobody;

	ks_mutex_lock(&w->role.mutex);
	nobody = ks_list_empty(&w->queue) && ks_list_empty(&w->expired);
	ks_mutex_unlock(&w->role.mutex);
	return nobody;
}

static void batch_answer(struct ks_log *log)
{
	struct ks_log_batch *batch = &log->writer.batch;
	size_t count = batch->count;
	bool alone = count == 1 && nobody_waits(&log->writer);

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
	batch_answer(log);
	if (w->ahead_count)
		take_place(w);
}

void ks_log_batch_fill(struct ks_log *log, struct ks_log_batch *batch, struct ks_list *from, size_t max, bool only_kv)
{
	struct ks_log_writer *w = &log->writer;
	size_t bytes = 0;

	while (!ks_list_empty(from) && batch->count < max && batch_room(batch)) {
		struct ks_submit *submit = ks_container_of(from->next, struct ks_submit, link);

		if (batch->count && bytes + submit->bytes > log->config.max_batch_bytes)
			break;
		if (only_kv && !ks_request_is_kv(&submit->request))
			break;
		bytes += submit->bytes;
		if (!batch->expired) {
			w->queue_count--;
			w->queue_bytes -= cost(submit);
		}
		ks_list_remove(&submit->link);
		batch->submits[batch->count++] = submit;
	}
}

void ks_log_batch_waited(struct ks_log *log, const struct ks_log_batch *batch)
{
	KS_OBSERVE(WRITE_WAIT, (ks_clock_now(log->clock) - batch->submits[0]->since_ms) * 1000000);
}

static bool gather(struct ks_log *log)
{
	struct ks_log_writer *w = &log->writer;
	struct ks_log_batch *batch = &w->batch;
	struct ks_list *from;
	size_t max;

	KS_ASSERT(batch->count == 0);
	ks_mutex_lock(&w->role.mutex);
	w->expired_next = !ks_list_empty(&w->expired) && (w->expired_next || ks_list_empty(&w->queue));
	from = w->expired_next ? &w->expired : &w->queue;
	batch->expired = w->expired_next;
	max = w->alone ? 1 : ks_log_ahead_share(log);
	if (batch->expired)
		max = w->expired_alone ? 1 : EXPIRED_MAX;
	ks_log_batch_fill(log, batch, from, max, false);
	ks_mutex_unlock(&w->role.mutex);
	if (batch->count)
		ks_log_batch_waited(log, batch);
	ks_log_batch_count_in_flight(w);
	w->expired_next = !w->expired_next; /* turns, so that neither clients nor leases starve */
	if (batch->expired && w->expired_alone)
		w->expired_alone--;
	if (!batch->expired && w->alone)
		w->alone--;
	return batch->count > 0;
}

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

/* False: the requests went back to the queue. */
static bool evaluate(struct ks_log *log, int64_t *wait_ms)
{
	struct ks_log_writer *w = &log->writer;
	struct ks_log_batch *batch = &w->batch;
	size_t fitted = 0;

	*wait_ms = 0;
	switch (ks_log_batch_evaluate(log, batch, &fitted)) {
	case KS_LOG_EVALUATED:
		if (!batch->expired)
			w->batch_max = log->config.max_batch_entries;
		return true;
	case KS_LOG_LACKS_VALUE:
		ks_log_writer_unwind(log);
		*wait_ms = ks_log_role_pause(log, &w->role);
		w->look = true;
		return false;
	case KS_LOG_TOO_LARGE:
		/* Those before it fit: again without it. Revokes of leases with so many keys: one by one. */
		if (batch->expired)
			w->expired_alone = batch->count;
		else
			w->batch_max = fitted;
		ks_log_writer_unwind(log);
		return false;
	}
	return false;
}

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

static enum sqlb_outcome append(struct ks_log *log, bool *appended, struct ks_err *err)
{
	struct ks_log_writer *w = &log->writer;
	struct sqlb_append request = ks_log_batch_begin(log, &w->batch, w->applied.writer, w->applied.batch);
	enum sqlb_outcome outcome;

	*appended = false;
	outcome = log->ops->append(w->role.conn, &request, appended, err);
	ks_log_batch_ended(log, &w->batch, outcome, *appended);
	return outcome;
}

/* ---- losing the log ---- */

static void lost(struct ks_log *log)
{
	struct ks_log_writer *w = &log->writer;

	ks_diag(KS_WARN, "log",
		"the log no longer holds the entry at position %" PRId64
		" that was applied: this server was cut off for so "
		"long that a compaction overtook it, or the database lost writes that it had confirmed (was a replica "
		"promoted?); loading again, watches end",
		w->applied.position);
	KS_COUNT(RELOADS, 1);
	atomic_store(&log->loaded, false);
	if (w->batch.count && w->batch.doubt)
		batch_fail(log, KS_UNAVAILABLE, "etcdserver: request timed out");
	else if (w->batch.count)
		ks_log_writer_unwind(log);
	ks_log_side_lost(log);
	ks_store_reset(log->store);
	w->applied = (struct ks_log_applied){0};
	atomic_store(&log->head_known, 0);
	atomic_store(&log->behind_since_ms, 0);
	ks_mutex_lock(&w->role.mutex);
	w->head_seen = w->hint = 0;
	w->moved_past = -1;
	w->verify = w->look = false;
	ks_mutex_unlock(&w->role.mutex);
	ks_log_reader_reset(log);
	go(w, KS_LOG_LOADING);
}

/* ---- steps ---- */

static int64_t step_starting(struct ks_log *log)
{
	struct ks_log_writer *w = &log->writer;
	struct ks_err err = {0};
	uint64_t cluster_id = 0;
	enum sqlb_outcome outcome = log->ops->migrate(w->role.conn, &cluster_id, &err);

	if (outcome != SQLB_OK)
		return ks_log_role_failed(log, &w->role, outcome, "migrate", &err);
	ks_log_role_fine(log, &w->role);
	atomic_store(&log->cluster_id, cluster_id);
	go(w, KS_LOG_LOADING);
	return 0;
}

/*
 * A new log gets one entry that says nothing: revision 1, as etcd's empty store has, and from then on there always is an
 * applied entry to compare with the log. Several instances may try; whatever comes of it, the next look at the head shows.
 */
static int64_t append_first(struct ks_log *log)
{
	struct ks_log_writer *w = &log->writer;
	struct ks_effect noop = {.kind = KS_EFFECT_NOOP};
	struct ks_entry entry = {.position = 1, .revision = 1, .effects = &noop, .effect_count = 1};
	struct sqlb_row row;
	struct sqlb_append request = {.rows = &row, .row_count = 1};
	struct ks_err err = {0};
	bool appended;
	enum sqlb_outcome outcome;

	ks_log_entry_rows(&entry, log->config.writer_id, ++w->next_batch, &row);
	outcome = log->ops->append(w->role.conn, &request, &appended, &err);
	if (outcome == SQLB_OK || outcome == SQLB_CONFLICT)
		return 0;
	return ks_log_role_failed(log, &w->role, outcome == SQLB_DOUBT ? SQLB_AWAY : outcome, "first entry", &err);
}

static int64_t step_loading(struct ks_log *log)
{
	struct ks_log_writer *w = &log->writer;
	struct sqlb_head head = {0};
	struct ks_err err = {0};
	enum sqlb_outcome outcome = log->ops->read_head(w->role.conn, &head, &err);

	if (outcome != SQLB_OK)
		return ks_log_role_failed(log, &w->role, outcome, "head", &err);
	if (head.position == 0)
		return append_first(log);
	if (!ks_log_load(log))
		return ks_log_role_pause(log, &w->role);
	/* So that the first write already meets the quota. Should it fail, the side thread will ask again. */
	(void)ks_log_size_poll(log, w->role.conn, &err);
	go(w, KS_LOG_SERVING);
	atomic_store(&log->loaded, true);
	ks_log_role_poke(&log->reader.role);
	ks_log_role_poke(&log->side.role);
	ks_log_role_poke(&log->tail.role);
	if (!w->ready_called && log->config.ready)
		log->config.ready(log->config.ctx);
	w->ready_called = true;
	return 0;
}

/* All of the log has been read. A head that was seen behind its end is not there any more, and nobody shall wait for it. */
static void drop_hint(struct ks_log *log)
{
	struct ks_log_writer *w = &log->writer;
	bool wrong = w->hint > w->applied.position;

	w->hint = 0;
	if (wrong)
		ks_log_reader_probe_again(log);
}

static int64_t pull(struct ks_log *log)
{
	struct ks_log_writer *w = &log->writer;
	bool more;
	enum ks_log_pull result = ks_log_pull(log, false, &more);

	switch (result) {
	case KS_LOG_PULL_LOST:
		lost(log);
		break;
	case KS_LOG_PULL_FAILED:
		w->look = true;
		return ks_log_role_pause(log, &w->role);
	case KS_LOG_PULL_DONE:
		w->look = w->look || more;
		if (!more)
			drop_hint(log);
		break;
	case KS_LOG_PULL_LANDED:
	case KS_LOG_PULL_UNSURE:
		ks_panic(__FILE__, __LINE__, "a batch settled that was none");
	}
	return 0;
}

/* The batch has nothing to append: its answers are as good as the head that a probe finds now. */
static int64_t prove_batch(struct ks_log *log)
{
	struct ks_log_writer *w = &log->writer;
	struct sqlb_head head = {0};
	struct ks_err err = {0};
	enum sqlb_outcome outcome;

	if (w->batch.expired || log->ops->features & SQLB_EXCLUSIVE) {
		batch_answer(log);
		return 0;
	}
	outcome = log->ops->read_head(w->role.conn, &head, &err);
	if (outcome != SQLB_OK) {
		ks_log_writer_unwind(log);
		w->look = true;
		return ks_log_role_failed(log, &w->role, outcome, "head", &err);
	}
	ks_log_role_fine(log, &w->role);
	if (head.position == w->applied.position && head.writer == w->applied.writer &&
	    head.batch == w->applied.batch) {
		ks_log_reader_published(log, w->applied, w->batch.proof_mark);
		batch_answer(log);
		return 0;
	}
	ks_log_writer_unwind(log);
	w->look = true;
	return 0;
}

/* The guard of the lease table found one whose deadline has moved. Which one shows when each is tried alone. */
static void guard_refused(struct ks_log *log)
{
	struct ks_log_writer *w = &log->writer;

	if (w->batch.count == 1) {
		batch_fail(log, KS_ABORTED, "the lease is not past its deadline");
		return;
	}
	w->expired_alone = w->batch.count;
	ks_log_writer_unwind(log);
}

/* The database takes everything but a row of this size; which request made it shows when each is tried alone. */
static void row_too_large(struct ks_log *log, const struct ks_err *err)
{
	struct ks_log_writer *w = &log->writer;

	if (w->batch.count == 1) {
		KS_DIAG_LIMITED(KS_WARN, "log", "a request is refused: %s", err->text);
		batch_fail(log, KS_INVALID_ARGUMENT, "etcdserver: request is too large");
		return;
	}
	w->alone = w->batch.count;
	ks_log_writer_unwind(log);
}

int64_t ks_log_writer_appended(struct ks_log *log, enum sqlb_outcome outcome, bool appended, struct ks_err *err)
{
	struct ks_log_writer *w = &log->writer;

	switch (outcome) {
	case SQLB_OK:
		ks_log_role_fine(log, &w->role);
		if (!appended && !w->batch.expired) {
			ks_fail(err, KS_INTERNAL, "the backend appended nothing and gave no reason");
			ks_log_writer_unwind(log);
			w->look = true;
			return ks_log_role_failed(log, &w->role, SQLB_AWAY, "append", err);
		}
		if (appended)
			ks_log_batch_landed(log);
		else
			guard_refused(log);
		if (w->batch.doubt) /* it was sent behind this one */
			go(w, KS_LOG_SETTLING);
		return 0;
	case SQLB_CONFLICT:
		ks_log_role_fine(log, &w->role);
		go(w, KS_LOG_SETTLING);
		return 0;
	case SQLB_DOUBT:
		w->batch.doubt = true;
		go(w, KS_LOG_SETTLING);
		return ks_log_role_failed(log, &w->role, SQLB_AWAY, "append (in doubt)", err);
	case SQLB_BROKEN:
		if (err->status != KS_RESOURCE_EXHAUSTED || w->batch.expired)
			break;
		ks_log_role_fine(log, &w->role);
		row_too_large(log, err);
		return 0;
	case SQLB_AWAY:
		break;
	}
	ks_log_writer_unwind(log);
	w->look = true;
	return ks_log_role_failed(log, &w->role, outcome, "append", err);
}

static int64_t append_batch(struct ks_log *log)
{
	struct ks_err err = {0};
	bool appended;
	enum sqlb_outcome outcome = append(log, &appended, &err);

	return ks_log_writer_appended(log, outcome, appended, &err);
}

/*
 * When the tail may look again: while we append it would only see our own, and a conflict tells of others; while we wait for our
 * turn, the turns say from when on it is of use.
 */
static void listen_from(struct ks_log *log, int64_t quiet_ms)
{
	bool sooner = log->writer.tail_waits || quiet_ms < atomic_load(&log->tail.quiet_ms);

	log->writer.tail_waits = false;
	atomic_store(&log->tail.quiet_ms, quiet_ms);
	if (sooner)
		ks_log_role_poke(&log->tail.role);
}

/*
 * It is not our turn for 'wait_ms'. Where the database tells of changes the tail listens for them, from when on they are of use. Else we
 * look ourselves: the rows come with the look, and nobody has to be woken first. Returns how long to sleep; 0: w->look is set.
 */
static int64_t wait_for_turn(struct ks_log *log, int64_t wait_ms, int64_t now)
{
	struct ks_log_writer *w = &log->writer;
	int64_t look_ms = w->turn.look_ms;

	if (w->held && w->look_at_ms && now >= w->look_at_ms) {
		w->look = true;
		return 0;
	}
	if (log->ops->features & SQLB_NOTIFIES || !look_ms) {
		listen_from(log, look_ms);
		w->look_at_ms = 0;
	} else {
		if (!w->held || !w->look_at_ms)
			w->look_at_ms = look_ms;
		wait_ms = w->look_at_ms - now < wait_ms ? w->look_at_ms - now : wait_ms;
		atomic_store(&log->tail.quiet_ms, now + wait_ms + APPEND_QUIET_MS);
	}
	w->looked = false; /* what comes meanwhile is looked at before the next batch */
	w->held = true;
	ks_mutex_lock(&w->role.mutex);
	w->holding = true;
	ks_mutex_unlock(&w->role.mutex);
	return wait_ms;
}

/* Milliseconds until it is our turn to append; meanwhile requests gather, and others' entries are applied as they come. */
static int64_t hold(struct ks_log *log)
{
	struct ks_log_writer *w = &log->writer;
	int64_t now = ks_clock_now(log->clock);
	int64_t wait_ms = w->pause_until_ms - now;

	if (wait_ms > 0)
		w->turn.look_ms = 0;
	else
		wait_ms = ks_turn_wait(&w->turn, w->append_us / 1000 + 1, atomic_load(&log->live_members) > 1, now);
	if (wait_ms > 0)
		return wait_for_turn(log, wait_ms, now);
	/* Time is over and nothing came: on a busy machine it may just not have been heard of. A look costs less than a conflict. */
	if (w->held)
		w->look = true;
	return 0;
}

static int64_t step_serving(struct ks_log *log)
{
	struct ks_log_writer *w = &log->writer;
	int64_t wait_ms;
	bool look, waiting, moved;

	ks_mutex_lock(&w->role.mutex);
	w->holding = false;
	waiting = !ks_list_empty(&w->queue) || !ks_list_empty(&w->expired);
	moved = w->moved_past >= 0;
	look = w->head_seen > w->applied.position || w->moved_past == w->applied.position;
	/* Hints may be wrong and never end: one look for each batch is enough, a conflict tells the rest. */
	look = w->look || w->verify || (look && !(waiting && w->looked));
	w->moved_past = -1;
	if (look) {
		/* Older than the look; else a log that lost its end would keep us looking for ever. */
		w->hint = w->head_seen > w->hint ? w->head_seen : w->hint;
		w->head_seen = 0;
	}
	w->looked = look;
	w->held = w->held && !look;
	w->verify = w->look = false;
	ks_mutex_unlock(&w->role.mutex);
	w->tail_waits = w->tail_waits || moved;
	if (look)
		return pull(log);
	if (!waiting) {
		wait_ms = ks_turn_lull(&w->turn, ks_clock_now(log->clock));
		if (wait_ms > 0)
			return wait_ms;
		listen_from(log, 0);
		ks_turn_idle(&w->turn, ks_clock_now(log->clock));
		return KS_LOG_IDLE;
	}
	wait_ms = hold(log);
	if (wait_ms > 0 || w->look)
		return wait_ms > 0 ? wait_ms : 0;
	if (!gather(log))
		return KS_LOG_IDLE;
	w->batch.number = ++w->next_batch;
	w->batch.proof_mark = ks_log_proof_mark(log);
	if (!evaluate(log, &wait_ms))
		return wait_ms;
	if (!w->batch.entry_count)
		return prove_batch(log);
	if (!ks_log_batch_encode(log, &w->batch)) {
		batch_fail(log, KS_RESOURCE_EXHAUSTED, "etcdserver: out of memory");
		return 0;
	}
	atomic_store(&log->tail.quiet_ms, ks_clock_now(log->clock) + APPEND_QUIET_MS);
	return ks_log_ahead_send(log, &wait_ms) ? wait_ms : append_batch(log);
}

/* One batch is settled. What was sent behind it, and is in doubt too, is next. */
static void settled(struct ks_log *log)
{
	struct ks_log_writer *w = &log->writer;

	if (w->batch.count)
		return;
	go(w, KS_LOG_SERVING);
	w->look = true; /* there may be more behind it */
}

/* Nothing is at our position: the very same rows again, or, when nothing of them was ever sent, the requests. */
static int64_t settle_again(struct ks_log *log)
{
	struct ks_log_writer *w = &log->writer;
	struct ks_err err = {0};
	bool appended;
	enum sqlb_outcome outcome;

	if (!w->batch.doubt) {
		ks_log_writer_unwind(log);
		go(w, KS_LOG_SERVING);
		w->pause_until_ms = ks_clock_now(log->clock) + 1 + (int64_t)(ks_log_random(&w->random) % 8);
		return 0;
	}
	outcome = append(log, &appended, &err);
	switch (outcome) {
	case SQLB_OK:
		ks_log_role_fine(log, &w->role);
		if (appended)
			ks_log_batch_landed(log);
		else
			guard_refused(log);
		settled(log);
		return 0;
	case SQLB_CONFLICT:
		ks_log_role_fine(log, &w->role);
		return 0;
	case SQLB_DOUBT:
	case SQLB_AWAY:
	case SQLB_BROKEN:
		break;
	}
	return ks_log_role_failed(log, &w->role, outcome == SQLB_DOUBT ? SQLB_AWAY : outcome, "append (in doubt)",
				  &err);
}

static int64_t step_settling(struct ks_log *log)
{
	struct ks_log_writer *w = &log->writer;
	bool more, undecided;
	enum ks_log_pull result = ks_log_pull(log, true, &more);

	undecided = w->batch.count > 0;
	switch (result) {
	case KS_LOG_PULL_LOST:
		lost(log);
		return 0;
	case KS_LOG_PULL_LANDED:
		ks_log_batch_landed(log);
		settled(log);
		return 0;
	case KS_LOG_PULL_UNSURE:
		ks_diag(KS_WARN, "log", "whether an append had landed cannot be found out, its rows have been trimmed");
		batch_fail(log, KS_UNAVAILABLE, "etcdserver: request timed out");
		go(w, KS_LOG_SERVING);
		w->look = true;
		return 0;
	case KS_LOG_PULL_FAILED:
		if (undecided && !w->batch.doubt)
			ks_log_writer_unwind(log);
		if (!w->batch.count) {
			go(w, KS_LOG_SERVING);
			w->look = true;
		}
		return ks_log_role_pause(log, &w->role);
	case KS_LOG_PULL_DONE:
		break;
	}
	if (undecided)
		return settle_again(log);
	go(w, KS_LOG_SERVING);
	w->look = w->look || more;
	return 0;
}

int64_t ks_log_writer_step(struct ks_log *log)
{
	struct ks_log_writer *w = &log->writer;
	int64_t pause = ks_log_role_pause(log, &w->role);

	if (w->sent)
		return ks_log_ahead_step(log);
	if (pause)
		return pause;
	switch (w->state) {
	case KS_LOG_STARTING:
		return step_starting(log);
	case KS_LOG_LOADING:
		return step_loading(log);
	case KS_LOG_SERVING:
		return step_serving(log);
	case KS_LOG_SETTLING:
		return step_settling(log);
	}
	return KS_LOG_IDLE;
}

void ks_log_writer_abandon(struct ks_log *log)
{
	/* Who is on the way still gets an answer. */
	while (log->writer.sent)
		(void)ks_log_ahead_step(log);
	if (log->writer.batch.count)
		batch_fail(log, KS_UNAVAILABLE, "etcdserver: server stopped");
	ks_log_writer_fail_all(log, "etcdserver: server stopped");
}

static void batch_free(struct ks_log_batch *batch)
{
	free(batch->submits);
	free(batch->effects);
	free(batch->rows);
	free(batch->leases_new);
	free(batch->leases_gone);
}

void ks_log_writer_fini(struct ks_log *log)
{
	ks_log_writer_abandon(log);
	batch_free(&log->writer.batch);
	for (size_t i = 0; i < SQLB_SENT_MAX - 1; i++)
		batch_free(&log->writer.ahead[i]);
}
