/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The writer: gather → evaluate → append → publish → answer. It alone changes the store.
 *
 * Group commit. While one append is on its way requests gather; the next batch takes all of them, up to its limits. A lone
 * request waits for nobody. Where the database is far away more appends may be on their way behind the first (ahead.c). What comes of an append is settle.c's.
 *
 * Answers that change nothing (a failed comparison, an error such as "lease not found", a delete of nothing) are
 * reads: they hold for the state they were evaluated on, and that state is proven to be the newest only by what
 * follows: the append of their batch, which succeeds only at the end of the log, or, when the batch has nothing to append, a
 * look at the head that begins after the evaluation. So all of a batch is answered at its end and never before.
 */
#include <inttypes.h>

#include "base/diag.h"
#include "base/metrics.h"
#include "base/panic.h"
#include "log/writer.h"

#define EXPIRED_MAX 256    /* revokes of expired leases in one batch */
#define APPEND_QUIET_MS 50 /* so long nobody looks for others' entries while we append */

void ks_log_writer_go(struct ks_log_writer *w, enum ks_log_state state)
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

/* ---- losing the log ---- */

void ks_log_writer_lost(struct ks_log *log)
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
		ks_log_batch_fail(log, KS_UNAVAILABLE, "etcdserver: request timed out");
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
	ks_log_writer_go(w, KS_LOG_LOADING);
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
	ks_log_writer_go(w, KS_LOG_LOADING);
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
	ks_log_writer_go(w, KS_LOG_SERVING);
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
		ks_log_writer_lost(log);
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
		ks_log_batch_answer(log);
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
		ks_log_batch_answer(log);
		return 0;
	}
	ks_log_writer_unwind(log);
	w->look = true;
	return 0;
}

static int64_t append_batch(struct ks_log *log)
{
	struct ks_err err = {0};
	bool appended;
	enum sqlb_outcome outcome = ks_log_batch_append(log, &appended, &err);

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
		ks_log_batch_fail(log, KS_RESOURCE_EXHAUSTED, "etcdserver: out of memory");
		return 0;
	}
	atomic_store(&log->tail.quiet_ms, ks_clock_now(log->clock) + APPEND_QUIET_MS);
	return ks_log_ahead_send(log, &wait_ms) ? wait_ms : append_batch(log);
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
		return ks_log_settle_step(log);
	}
	return KS_LOG_IDLE;
}

void ks_log_writer_abandon(struct ks_log *log)
{
	/* Who is on the way still gets an answer. */
	while (log->writer.sent)
		(void)ks_log_ahead_step(log);
	if (log->writer.batch.count)
		ks_log_batch_fail(log, KS_UNAVAILABLE, "etcdserver: server stopped");
	ks_log_writer_fail_all(log, "etcdserver: server stopped");
}

void ks_log_writer_fini(struct ks_log *log)
{
	ks_log_writer_abandon(log);
	ks_log_batch_free(&log->writer.batch);
	for (size_t i = 0; i < SQLB_SENT_MAX - 1; i++)
		ks_log_batch_free(&log->writer.ahead[i]);
}
