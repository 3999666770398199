/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Several appends on their way. A round trip to a database in another place takes milliseconds; with one append at a time each request waits for
 * the rest of the one before it, and then for its own. Here the next batches are evaluated and sent while those before are not answered yet:
 *
 *	store:   committed | the batch's part of the tail | cut | ahead[0]'s      | cut | ahead[1]'s …
 *	log:     … N | N+1 … M, on their way               |     | M+1 …, on their way |     | …
 *
 * Each goes through only behind the one before it, because it names that one as the entry that it follows. Answers come in this order, so the
 * batch's is always the next. There are three ends:
 *
 *	it landed                it is published up to the first cut, and ahead[0] takes its place
 *	it never will            nothing that was sent ahead will either: when all their answers are in, everything goes back to the queue
 *	nobody knows (DOUBT)     those behind it are in doubt, too, up to the first of which the database says that it will not be there. The
 *	                         batch is settled by the same rows at the same positions; when it landed, the next one is, in the same way
 *
 * Only puts, deletes and transactions are sent ahead, since only records may lie behind a cut, and only where it pays: in the same machine room
 * several appends would just make small ones of one.
 */
#include "base/metrics.h"
#include "base/panic.h"
#include "log/writer.h"

_Static_assert(SQLB_SENT_MAX - 1 <= KS_STORE_CUTS, "the store has not as many cuts");

/*
 * The database is far away when a bare round trip takes FAR_US, and the quickest append lately not more than FAR_PART times as long. Otherwise it is
 * busy, or its disk is slow; and commits wait for each other, so that more of them at a time would only be smaller.
 */
#define FAR_US 800
#define FAR_PART 3
#define FAR_MS 1        /* of the quickest append: is it worth a round trip to know why? */
#define MEASURE_MS 5000 /* between two such round trips */
#define LEAST_SHARE 16  /* requests of an append */
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

static int64_t quickest_ms(const struct ks_log_way *way)
{
	return way->before_ms < way->least_ms ? way->before_ms : way->least_ms;
}

/* As exactly as the log's clock can say. */
static int64_t clock_us(const struct ks_log *log)
{
	return log->clock == ks_clock_system() ? ks_clock_us() : ks_clock_now(log->clock) * 1000;
}

static bool measure_is_due(const struct ks_log *log)
{
	const struct ks_log_way *way = &log->writer.way;

	return log->config.ahead == KS_LOG_AHEAD_FAR && quickest_ms(way) >= FAR_MS &&
	       (!way->measured_ms || ks_clock_now(log->clock) - way->measured_ms >= MEASURE_MS);
}

/* A look at the head is a round trip, and nothing else. */
static enum sqlb_outcome take_round_trip(struct ks_log *log, int64_t *took_us, struct ks_err *err)
{
	int64_t began_us = clock_us(log);
	struct sqlb_head head;
	enum sqlb_outcome outcome = log->ops->read_head(log->writer.role.conn, &head, err);

	*took_us = clock_us(log) - began_us;
	return outcome;
}

/* A long one is measured again: the first may have connected, or prepared its statement. */
static enum sqlb_outcome measure(struct ks_log *log, struct ks_err *err)
{
	struct ks_log_way *way = &log->writer.way;
	int64_t first_us, second_us;
	enum sqlb_outcome outcome = take_round_trip(log, &first_us, err);

	second_us = first_us;
	if (outcome == SQLB_OK && first_us >= FAR_US)
		outcome = take_round_trip(log, &second_us, err);
	if (outcome != SQLB_OK)
		return outcome;
	way->round_us = first_us < second_us ? first_us : second_us;
	way->measured_ms = ks_clock_now(log->clock);
	return SQLB_OK;
}

static bool is_far(const struct ks_log_way *way)
{
	int64_t quickest = quickest_ms(way);

	return quickest >= FAR_MS && way->round_us >= FAR_US && way->round_us * FAR_PART >= quickest * 1000;
}

/* Could it be of use, were the database far away? */
static bool can_send(const struct ks_log *log)
{
	return log->ops->append_send && !log->writer.batch.expired &&
	       (log->config.ahead != KS_LOG_AHEAD_FAR || atomic_load(&log->live_members) <= 1);
}

static bool may_send(const struct ks_log *log)
{
	switch (log->config.ahead) {
	case KS_LOG_AHEAD_FAR:
		return can_send(log) && is_far(&log->writer.way);
	case KS_LOG_AHEAD_ALWAYS:
		return can_send(log);
	case KS_LOG_AHEAD_NEVER:
		break;
	}
	return false;
}

static const struct ks_log_batch *newest(const struct ks_log_writer *w)
{
	return w->ahead_count ? &w->ahead[w->ahead_count - 1] : &w->batch;
}

/* Appends that follow each other at once would share what waits in tiny pieces. */
static int64_t apart_ms(const struct ks_log_writer *w)
{
	int64_t apart = w->append_us / 1000 / SQLB_SENT_MAX;

	return apart ? apart : 1;
}

/* In how many milliseconds the next one may go. */
static int64_t due_in(struct ks_log *log)
{
	const struct ks_log_writer *w = &log->writer;

	if (log->config.ahead == KS_LOG_AHEAD_ALWAYS)
		return 0;
	return newest(w)->began_ms + apart_ms(w) - ks_clock_now(log->clock);
}

size_t ks_log_ahead_share(const struct ks_log *log)
{
	const struct ks_log_writer *w = &log->writer;
	size_t there = w->queue_count + w->batch.count, at_once, share;

	if (log->config.ahead != KS_LOG_AHEAD_FAR || w->way.declined || !may_send(log))
		return w->batch_max;
	for (size_t i = 0; i < w->ahead_count; i++)
		there += w->ahead[i].count;
	at_once = (size_t)(w->append_us / 1000 / apart_ms(w));
	at_once = at_once < SQLB_SENT_MAX ? at_once : SQLB_SENT_MAX;
	share = there / (at_once ? at_once : 1) + 1;
	share = share > LEAST_SHARE ? share : LEAST_SHARE;
	return share < w->batch_max ? share : w->batch_max;
}

bool ks_log_ahead_send(struct ks_log *log, int64_t *wait_ms)
{
	struct ks_log_writer *w = &log->writer;
	struct ks_err err = {0};
	struct sqlb_append request;
	enum sqlb_outcome outcome;

	KS_ASSERT(!w->sent && w->batch.count && !w->ahead_count);
	if (can_send(log) && measure_is_due(log)) {
		outcome = measure(log, &err);
		if (outcome != SQLB_OK) { /* as an append that never left */
			*wait_ms = ks_log_writer_appended(log, outcome, false, &err);
			return true;
		}
	}
	if (!may_send(log))
		return false;
	request = ks_log_batch_begin(log, &w->batch, w->applied.writer, w->applied.batch);
	outcome = log->ops->append_send(w->role.conn, &request, &err);
	w->way.declined = outcome == SQLB_AWAY && err.status == KS_UNIMPLEMENTED;
	if (w->way.declined)
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

static bool may_send_more(struct ks_log *log)
{
	const struct ks_log_writer *w = &log->writer;

	/* With none on its way the database can be measured, and others that write be thought of. */
	return w->sent < SQLB_SENT_MAX && !w->stays_behind && !w->look && !w->alone && !measure_is_due(log) &&
	       !atomic_load(&log->stopping);
}

/* What waits in the queue becomes the newest batch ahead; false when there is nothing. */
static bool fill_ahead(struct ks_log *log)
{
	struct ks_log_writer *w = &log->writer;
	struct ks_log_batch *ahead = &w->ahead[w->ahead_count];
	size_t share;

	ks_mutex_lock(&w->role.mutex);
	share = ks_log_ahead_share(log);
	/* A look needs the connection; and leases that expire must not wait for clients for ever. */
	if (!w->verify && ks_list_empty(&w->expired))
		ks_log_batch_fill(log, ahead, &w->queue, share, true);
	ks_mutex_unlock(&w->role.mutex);
	if (!ahead->count)
		return false;
	ks_log_batch_waited(log, ahead);
	return true;
}

/* All but the first 'kept' of those ahead: nothing of them was sent, or it is certain that they will not be in the log. */
static void take_back(struct ks_log *log, size_t kept)
{
	struct ks_log_writer *w = &log->writer;

	while (w->ahead_count > kept) {
		ks_store_rollback_to_cut(log->store);
		ks_log_batch_put_back(log, &w->ahead[--w->ahead_count]);
	}
	ks_log_batch_count_in_flight(w);
}

static void send_ahead(struct ks_log *log)
{
	struct ks_log_writer *w = &log->writer;
	int64_t after_batch = newest(w)->number;
	struct ks_log_batch *ahead = &w->ahead[w->ahead_count++];
	struct sqlb_append request;
	enum sqlb_outcome outcome;
	struct ks_err err = {0};
	size_t fitted;

	ahead->number = ++w->next_batch;
	ahead->behind = true;
	ahead->proof_mark = ks_log_proof_mark(log);
	ks_store_cut(log->store);
	/* Without an entry its answers would need a look at a head that is still to come. Whatever is wrong, it is seen to when its turn comes. */
	w->stays_behind = ks_log_batch_evaluate(log, ahead, &fitted) != KS_LOG_EVALUATED || !ahead->entry_count ||
			  !ks_log_batch_encode(log, ahead);
	if (w->stays_behind) {
		take_back(log, w->ahead_count - 1);
		return;
	}
	request = ks_log_batch_begin(log, ahead, log->config.writer_id, after_batch);
	atomic_store(&log->tail.quiet_ms, ahead->began_ms + QUIET_MS);
	outcome = log->ops->append_send(w->role.conn, &request, &err);
	w->stays_behind = outcome != SQLB_OK;
	/* What is wrong those before it will be told. */
	if (outcome != SQLB_OK && outcome != SQLB_DOUBT) {
		take_back(log, w->ahead_count - 1);
		return;
	}
	ahead->doubt = outcome == SQLB_DOUBT;
	w->sent += !ahead->doubt;
	KS_COUNT(APPENDS_AHEAD, 1);
	ks_log_batch_count_in_flight(w);
}

/* Takes the answer to one that was sent behind another, which is not in the log or (may_be) in doubt. */
static void receive_ahead(struct ks_log *log, struct ks_log_batch *ahead, bool may_be)
{
	struct ks_log_writer *w = &log->writer;
	struct ks_err err = {0};
	bool pending, appended = false;
	enum sqlb_outcome outcome = log->ops->append_receive(w->role.conn, AS_LONG, &pending, &appended, &err);

	w->sent--;
	KS_ASSERT(!(outcome == SQLB_OK && pending));
	ks_log_batch_ended(log, ahead, outcome, appended);
	/* To put its requests back would do twice what they ask for. */
	if (outcome == SQLB_OK && appended && !may_be)
		ks_panic(__FILE__, __LINE__, "an append went through behind one that did not");
	ahead->doubt = outcome == SQLB_DOUBT || (outcome == SQLB_OK && appended);
}

/* The batch has its outcome, and it is not in the log or (may_be) in doubt. What becomes of those behind it? */
static void end_ahead(struct ks_log *log, bool may_be)
{
	struct ks_log_writer *w = &log->writer;
	size_t kept = 0;

	for (size_t i = 0; i < w->ahead_count; i++) {
		if (w->sent)
			receive_ahead(log, &w->ahead[i], may_be);
		may_be = may_be && w->ahead[i].doubt;
		kept += may_be;
	}
	take_back(log, kept);
}

int64_t ks_log_ahead_step(struct ks_log *log)
{
	struct ks_log_writer *w = &log->writer;
	struct ks_err err = {0};
	bool pending = false, appended = false;
	int64_t wait_ms = AS_LONG;
	enum sqlb_outcome outcome;

	if (may_send_more(log)) {
		wait_ms = due_in(log);
		if (wait_ms <= 0 && fill_ahead(log)) {
			send_ahead(log);
			return 0;
		}
		wait_ms = wait_ms > LOOK_MS ? wait_ms : LOOK_MS;
	}
	outcome = log->ops->append_receive(w->role.conn, (int)wait_ms, &pending, &appended, &err);
	if (outcome == SQLB_OK && pending)
		return 0;
	w->sent--;
	ks_log_batch_ended(log, &w->batch, outcome, appended);
	if (outcome != SQLB_OK || !appended)
		end_ahead(log, outcome == SQLB_DOUBT);
	return ks_log_writer_appended(log, outcome, appended, &err);
}
