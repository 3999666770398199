/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Two appends on their way. A round trip to a database in another place takes milliseconds; with one append at a time each request waits for the
 * rest of the one before it, and then for its own. Here the next batch is evaluated and sent while the one before it is not answered yet:
 *
 *	store:   committed | the batch's part of the tail | cut | what was sent ahead
 *	log:     … N | N+1 … M, on their way               |     | M+1 …, on their way
 *
 * What is sent ahead goes through only behind the batch, because it names the batch as the entry before it. So there are three ends:
 *
 *	the batch landed         it is published up to the cut, and what was sent ahead takes its place
 *	it never will            nothing that was sent ahead will either: all goes back to the queue
 *	nobody knows (DOUBT)     what was sent ahead is in doubt, too. The batch is settled first, by the same rows at the same
 *	                         positions; when it landed, what was sent ahead is settled in the same way
 *
 * Only puts, deletes and transactions are sent ahead, since only records may lie behind a cut, and only where it pays: in the same machine room a
 * second append would just make two small ones of one.
 */
#include "base/metrics.h"
#include "base/panic.h"
#include "log/log_priv.h"

#define FAR_MS 1 /* the quickest append lately took so long: the database is far away, and not just busy */
#define LATELY_MS 500
#define QUIET_MS 50  /* the tail sees only our own entries meanwhile */
#define LOOK_MS 1    /* between two looks whether something waits to be sent ahead */
#define AS_LONG (-1) /* as an append may take */

void ks_log_ahead_took(struct ks_log *log, int64_t took_ms)
{
	struct ks_log_way *way = &log->writer.way;
	int64_t now_ms = ks_clock_now(log->clock);

	if (now_ms - way->since_ms >= LATELY_MS) {
		way->before_ms = way->since_ms ? way->least_ms : 0;
		way->least_ms = INT64_MAX;
		way->since_ms = now_ms;
	}
	if (took_ms < way->least_ms)
		way->least_ms = took_ms;
}

static bool is_far(const struct ks_log_way *way)
{
	return way->before_ms >= FAR_MS && way->least_ms >= FAR_MS;
}

static bool may_send(struct ks_log *log)
{
	const struct ks_log_writer *w = &log->writer;

	if (!log->ops->append_send || w->batch.expired)
		return false;
	switch (log->config.ahead) {
	case KS_LOG_AHEAD_FAR:
		return is_far(&w->way) && atomic_load(&log->live_members) <= 1;
	case KS_LOG_AHEAD_ALWAYS:
		return true;
	case KS_LOG_AHEAD_NEVER:
		break;
	}
	return false;
}

bool ks_log_ahead_send(struct ks_log *log, int64_t *wait_ms)
{
	struct ks_log_writer *w = &log->writer;
	struct ks_err err = {0};
	struct sqlb_append request;
	enum sqlb_outcome outcome;

	KS_ASSERT(!w->sent && w->batch.count && !w->ahead.count);
	if (!may_send(log))
		return false;
	request = ks_log_batch_begin(log, &w->batch, w->applied.writer, w->applied.batch);
	outcome = log->ops->append_send(w->role.conn, &request, &err);
	if (outcome == SQLB_AWAY && err.status == KS_UNIMPLEMENTED)
		return false;
	*wait_ms = 0;
	w->stays_behind = false;
	if (outcome == SQLB_OK) {
		w->sent = 1;
	} else {
		ks_log_batch_ended(log, &w->batch, outcome, false);
		*wait_ms = ks_log_writer_appended(log, outcome, false, &err);
	}
	return true;
}

/* Appends that follow each other at once would share what waits in tiny pieces. */
static bool time_has_come(struct ks_log *log)
{
	const struct ks_log_writer *w = &log->writer;

	return log->config.ahead == KS_LOG_AHEAD_ALWAYS ||
	       2000 * (ks_clock_now(log->clock) - w->batch.began_ms) >= w->append_us;
}

/* What waits in the queue becomes the batch ahead; false when it is not the moment for it. */
static bool fill_ahead(struct ks_log *log)
{
	struct ks_log_writer *w = &log->writer;

	if (w->stays_behind || w->look || w->alone || atomic_load(&log->stopping) || !time_has_come(log))
		return false;
	ks_mutex_lock(&w->role.mutex);
	/* A look needs the connection; and leases that expire must not wait for clients for ever. */
	if (!w->verify && ks_list_empty(&w->expired))
		ks_log_batch_fill(log, &w->ahead, &w->queue, w->batch_max, true);
	ks_mutex_unlock(&w->role.mutex);
	if (w->ahead.count)
		ks_log_batch_waited(log, &w->ahead);
	return w->ahead.count > 0;
}

/* Nothing of it was sent, or it is certain that it will not be in the log. */
static void take_back(struct ks_log *log)
{
	ks_store_rollback_to_cut(log->store);
	ks_log_batch_put_back(log, &log->writer.ahead);
	log->writer.stays_behind = true;
}

static void send_ahead(struct ks_log *log)
{
	struct ks_log_writer *w = &log->writer;
	struct ks_log_batch *ahead = &w->ahead;
	struct sqlb_append request;
	enum sqlb_outcome outcome;
	struct ks_err err = {0};
	size_t fitted;

	ahead->number = ++w->next_batch;
	ahead->proof_mark = ks_log_proof_mark(log);
	ks_store_cut(log->store);
	/* Without an entry its answers would need a look at a head that is still to come. Whatever is wrong, it is seen to when its turn comes. */
	if (ks_log_batch_evaluate(log, ahead, &fitted) != KS_LOG_EVALUATED || !ahead->entry_count ||
	    !ks_log_batch_encode(log, ahead)) {
		take_back(log);
		return;
	}
	request = ks_log_batch_begin(log, ahead, log->config.writer_id, w->batch.number);
	atomic_store(&log->tail.quiet_ms, ahead->began_ms + QUIET_MS);
	outcome = log->ops->append_send(w->role.conn, &request, &err);
	/* What is wrong the batch's own answer will tell. */
	if (outcome != SQLB_OK && outcome != SQLB_DOUBT) {
		take_back(log);
		return;
	}
	ahead->doubt = outcome == SQLB_DOUBT;
	w->stays_behind = ahead->doubt;
	w->sent += !ahead->doubt;
	KS_COUNT(APPENDS_AHEAD, 1);
	atomic_store_explicit(&w->in_flight, w->batch.count + ahead->count, memory_order_relaxed);
}

/* Takes the answer to what is on its way behind a batch with this outcome, which is not that it landed. */
static void receive_ahead(struct ks_log *log, enum sqlb_outcome of_batch)
{
	struct ks_log_writer *w = &log->writer;
	struct ks_err err = {0};
	bool pending, appended = false;
	enum sqlb_outcome outcome = log->ops->append_receive(w->role.conn, AS_LONG, &pending, &appended, &err);

	w->sent = 0;
	KS_ASSERT(!(outcome == SQLB_OK && pending));
	ks_log_batch_ended(log, &w->ahead, outcome, appended);
	/* To put its requests back would do twice what they ask for. */
	if (outcome == SQLB_OK && appended && of_batch != SQLB_DOUBT)
		ks_panic(__FILE__, __LINE__, "an append went through behind one that did not");
	w->ahead.doubt = outcome == SQLB_DOUBT || (outcome == SQLB_OK && appended);
}

/* The batch has its outcome, and it is not in the log, or nobody knows. What becomes of that which was sent behind it? */
static void end_ahead(struct ks_log *log, enum sqlb_outcome of_batch)
{
	struct ks_log_writer *w = &log->writer;

	if (w->sent)
		receive_ahead(log, of_batch);
	if (!w->ahead.doubt || of_batch != SQLB_DOUBT)
		take_back(log);
}

int64_t ks_log_ahead_step(struct ks_log *log)
{
	struct ks_log_writer *w = &log->writer;
	struct ks_err err = {0};
	bool pending = false, appended = false, waits;
	enum sqlb_outcome outcome;

	if (w->sent == 1 && fill_ahead(log))
		send_ahead(log);
	waits = w->sent == SQLB_SENT_MAX || w->stays_behind || atomic_load(&log->stopping);
	outcome = log->ops->append_receive(w->role.conn, waits ? AS_LONG : LOOK_MS, &pending, &appended, &err);
	if (outcome == SQLB_OK && pending)
		return 0;
	w->sent--;
	w->stays_behind = false;
	ks_log_batch_ended(log, &w->batch, outcome, appended);
	if (w->ahead.count && !(outcome == SQLB_OK && appended))
		end_ahead(log, outcome);
	return ks_log_writer_appended(log, outcome, appended, &err);
}
