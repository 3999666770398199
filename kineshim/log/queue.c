/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The writer's mailbox: requests that wait for a batch, and what other threads have to tell it. Requests stand in the order of their age, also
 * those that were put back.
 */
#include "base/metrics.h"
#include "log/writer.h"

#define SUBMIT_OVERHEAD 256 /* bytes that a queued request costs besides its own */

void ks_log_submit_fail(struct ks_submit *submit, enum ks_status status, const char *text)
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
		ks_log_submit_fail(ks_container_of(link, struct ks_submit, link), status, text);
}

/* ---- any thread ---- */

static size_t cost(const struct ks_submit *submit)
{
	return submit->bytes + SUBMIT_OVERHEAD;
}

void ks_log_submit(struct ks_committer *committer, struct ks_submit *submit)
{
	struct ks_log *log = ks_log_of(committer);
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
		ks_log_submit_fail(submit, status, refusal);
}

void ks_log_submit_expired(struct ks_log *log, struct ks_submit *submit)
{
	struct ks_log_writer *w = &log->writer;
	const char *refusal;

	submit->since_ms = ks_clock_now(log->clock);
	refusal = ks_log_role_queue(log, &w->role, &w->expired, &submit->link);
	if (refusal)
		ks_log_submit_fail(submit, KS_UNAVAILABLE, refusal);
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

void ks_log_queue_take(struct ks_log_writer *w, struct ks_submit *submit, bool expired)
{
	if (!expired) {
		w->queue_count--;
		w->queue_bytes -= cost(submit);
	}
	ks_list_remove(&submit->link);
}

/* Requests are queued in the order of their age, also those that were put back. */
static void take_older(struct ks_log_writer *w, struct ks_list *from, int64_t than_ms, struct ks_list *to)
{
	while (!ks_list_empty(from)) {
		struct ks_submit *submit = ks_container_of(from->next, struct ks_submit, link);

		if (submit->since_ms > than_ms)
			return;
		ks_log_queue_take(w, submit, from == &w->expired);
		ks_list_append(to, &submit->link);
		KS_COUNT_AT(LOG_LATE, 0, 1);
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

/* ---- the writer's thread ---- */

bool ks_log_queue_is_empty(struct ks_log_writer *w)
{
	bool nobody;

	ks_mutex_lock(&w->role.mutex);
	nobody = ks_list_empty(&w->queue) && ks_list_empty(&w->expired);
	ks_mutex_unlock(&w->role.mutex);
	return nobody;
}

void ks_log_queue_put_back(struct ks_log_writer *w, struct ks_list *back, bool expired)
{
	struct ks_list *queue = expired ? &w->expired : &w->queue;

	ks_mutex_lock(&w->role.mutex);
	for (struct ks_list *link = back->next; link != back && !expired; link = link->next) {
		w->queue_count++;
		w->queue_bytes += cost(ks_container_of(link, struct ks_submit, link));
	}
	ks_list_splice_front(queue, back);
	ks_mutex_unlock(&w->role.mutex);
}
