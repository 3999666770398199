/* SPDX-License-Identifier: Apache-2.0 */
/*
 * How large the log is: asked of the database now and then, and estimated in between, so that the quota (api/quota.c) is not
 * overshot by what is written in the pause. What was appended since then comes on top of what was in use; only where that is more than
 * was allocated, for free space inside the table is used first. Near the quota the database is asked more often, and before
 * anybody is refused for what another instance may have mended since (a defragmentation), for each who is about to be.
 */
#include "log/log_priv.h"

#define SIZE_MS 5000
#define SIZE_SOON_MS 200
#define ROW_BYTES 64 /* a row costs at least as much besides its key and value */

enum sqlb_outcome ks_log_size_poll(struct ks_log *log, struct sqlb_conn *conn, struct ks_err *err)
{
	struct ks_log_side *s = &log->side;
	int64_t appended = atomic_load(&log->size.appended);
	struct sqlb_size size;
	enum sqlb_outcome outcome = log->ops->size(conn, &size, err);

	if (outcome != SQLB_OK)
		return outcome;
	atomic_store(&log->size.allocated, size.allocated);
	atomic_store(&log->size.base, size.in_use - appended);
	ks_mutex_lock(&s->role.mutex);
	s->size = size;
	ks_mutex_unlock(&s->role.mutex);
	return SQLB_OK;
}

void ks_log_size_grow(struct ks_log *log, size_t bytes, size_t rows)
{
	atomic_fetch_add_explicit(&log->size.appended, (int64_t)(bytes + rows * ROW_BYTES), memory_order_relaxed);
}

int64_t ks_log_size_expected(struct ks_log *log)
{
	int64_t allocated = atomic_load_explicit(&log->size.allocated, memory_order_relaxed);
	int64_t in_use = atomic_load_explicit(&log->size.base, memory_order_relaxed) +
			 atomic_load_explicit(&log->size.appended, memory_order_relaxed);

	return in_use > allocated ? in_use : allocated;
}

int64_t ks_log_db_size(struct ks_committer *committer)
{
	return ks_log_size_expected(ks_log_of(committer));
}

enum sqlb_outcome ks_log_size_step(struct ks_log *log, struct ks_err *err)
{
	struct ks_log_side *s = &log->side;
	struct ks_list asked, *link;
	enum sqlb_outcome outcome;

	/* Who asks from here on waits for the next poll: this one may be older. */
	ks_list_init(&asked);
	ks_mutex_lock(&s->role.mutex);
	ks_list_splice(&asked, &s->sizes);
	ks_mutex_unlock(&s->role.mutex);
	outcome = ks_log_size_poll(log, s->role.conn, err);
	if (outcome != SQLB_OK) {
		ks_mutex_lock(&s->role.mutex);
		ks_list_splice_front(&s->sizes, &asked);
		ks_mutex_unlock(&s->role.mutex);
	}
	while ((link = ks_list_pop(&asked))) {
		struct ks_chore *chore = ks_container_of(link, struct ks_chore, link);

		chore->err.status = KS_OK;
		chore->done(chore);
	}
	s->size_polled_ms = ks_clock_now(log->clock);
	s->size_at_ms = s->size_polled_ms + SIZE_MS;
	s->size_appended = atomic_load(&log->size.appended);
	return outcome;
}

bool ks_log_size_due(struct ks_log *log)
{
	struct ks_log_side *s = &log->side;
	int64_t now = ks_clock_now(log->clock), grown, left;
	bool asked;

	ks_mutex_lock(&s->role.mutex);
	asked = !ks_list_empty(&s->sizes);
	ks_mutex_unlock(&s->role.mutex);
	if (asked || now >= s->size_at_ms)
		return true;
	if (log->config.quota_bytes <= 0 || now < s->size_polled_ms + SIZE_SOON_MS)
		return false;
	grown = atomic_load(&log->size.appended) - s->size_appended;
	left = log->config.quota_bytes - ks_log_size_expected(log);
	return grown > 0 && left < 4 * grown;
}
