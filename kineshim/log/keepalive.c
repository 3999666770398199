/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Keepalives: each moves a deadline in the database, and is answered when it has. Those that came together go together, and
 * where many come they are waited for (gather.h).
 *
 * One that finds no live row answers "ttl 0" only when the lease is gone from the store, that is, after its keys were seen to
 * go; until then it waits: it has lapsed.
 */
#include "log/housekeeper.h"

#define TOUCH_MAX 1000
#define LAPSED_MS 50

/* ---- any thread ---- */

static void finish_keepalive(struct ks_keepalive *keepalive, int64_t ttl, const char *failure)
{
	keepalive->ttl = ttl;
	keepalive->err.status = KS_OK;
	if (failure)
		ks_fail(&keepalive->err, KS_UNAVAILABLE, "%s", failure);
	keepalive->done(keepalive);
}

void ks_log_keepalive(struct ks_committer *committer, struct ks_keepalive *keepalive)
{
	struct ks_log *log = ks_log_of(committer);
	struct ks_log_side *s = &log->side;
	const char *refusal;

	keepalive->since_ms = ks_clock_now(log->clock);
	ks_mutex_lock(&s->role.mutex);
	refusal = ks_log_role_refuses(log, &s->role);
	if (!refusal) {
		ks_list_append(&s->keepalives, &keepalive->link);
		s->arrived++;
		/* While more are waited for, the side thread wakes by itself when time is over. */
		if (!ks_gather_waits(&s->gather, s->arrived, keepalive->since_ms))
			s->role.poked = true;
	}
	ks_log_role_unlock(&s->role);
	if (refusal)
		finish_keepalive(keepalive, 0, refusal);
}

static void take_waiting(struct ks_list *from, int64_t than_ms, struct ks_list *to)
{
	while (!ks_list_empty(from) && ks_container_of(from->next, struct ks_keepalive, link)->since_ms <= than_ms) {
		struct ks_list *link = ks_list_pop(from);

		ks_list_append(to, link);
	}
}

void ks_log_keepalives_fail(struct ks_log *log, int64_t than_ms, const char *text)
{
	struct ks_log_side *s = &log->side;
	struct ks_list failed, *link;

	ks_list_init(&failed);
	ks_mutex_lock(&s->role.mutex);
	take_waiting(&s->lapsed, than_ms, &failed);
	take_waiting(&s->keepalives, than_ms, &failed);
	ks_mutex_unlock(&s->role.mutex);
	while ((link = ks_list_pop(&failed)))
		finish_keepalive(ks_container_of(link, struct ks_keepalive, link), 0, text);
}

bool ks_log_lease_known(struct ks_log *log, int64_t id)
{
	struct ks_lease_info info = {0};

	if (!ks_store_lease(log->store, id, false, &info))
		return false;
	ks_lease_info_fini(&info);
	return true;
}

/* ---- the side thread ---- */

static enum sqlb_outcome put_keepalives_back(struct ks_log *log, struct ks_list *keepalives, enum sqlb_outcome outcome)
{
	struct ks_log_side *s = &log->side;

	ks_mutex_lock(&s->role.mutex);
	ks_list_splice_front(&s->keepalives, keepalives);
	ks_mutex_unlock(&s->role.mutex);
	return outcome;
}

/*
 * A deadline whose lease the store does not know belongs to a grant that it has not applied yet, or is left over. True when it
 * must be the latter: the store is as new as the log was after the deadline was seen.
 */
static enum sqlb_outcome unknown_are_left_over(struct ks_log *log, const struct sqlb_lease *leases, size_t count,
					       bool *left_over, struct ks_err *err)
{
	struct sqlb_head head = {0};
	enum sqlb_outcome outcome;
	bool unknown = false;

	*left_over = false;
	for (size_t i = 0; i < count && !unknown; i++)
		unknown = leases[i].found && !ks_log_lease_known(log, leases[i].id);
	if (!unknown)
		return SQLB_OK;
	outcome = log->ops->read_head(log->side.role.conn, &head, err);
	*left_over = outcome == SQLB_OK && ks_store_committed(log->store).position >= head.position;
	return outcome;
}

static enum sqlb_outcome touch(struct ks_log *log, struct ks_list *keepalives, struct ks_err *err)
{
	struct ks_log_side *s = &log->side;
	struct sqlb_lease leases[TOUCH_MAX];
	int64_t dead[TOUCH_MAX];
	struct ks_list *link;
	size_t count = 0, dead_count = 0;
	enum sqlb_outcome outcome;
	bool left_over = false;

	for (link = keepalives->next; link != keepalives; link = link->next)
		leases[count++] = (struct sqlb_lease){.id = ks_container_of(link, struct ks_keepalive, link)->id};
	outcome = log->ops->lease_touch(s->role.conn, leases, count, err);
	if (outcome == SQLB_OK)
		outcome = unknown_are_left_over(log, leases, count, &left_over, err);
	if (outcome != SQLB_OK)
		return put_keepalives_back(log, keepalives, outcome);
	for (size_t i = 0; i < count; i++) {
		struct ks_keepalive *keepalive = ks_container_of(ks_list_pop(keepalives), struct ks_keepalive, link);
		bool known = ks_log_lease_known(log, keepalive->id);

		if (leases[i].found && known) {
			KS_COUNT(LEASE_RENEWED, 1);
			finish_keepalive(keepalive, leases[i].ttl_ms / 1000, NULL);
		} else if (!known && (!leases[i].found || left_over)) {
			if (leases[i].found)
				dead[dead_count++] = keepalive->id;
			finish_keepalive(keepalive, 0, NULL);
		} else {
			ks_mutex_lock(&s->role.mutex);
			ks_list_append(&s->lapsed, &keepalive->link);
			ks_mutex_unlock(&s->role.mutex);
			s->lapsed_at_ms = ks_clock_now(log->clock) + LAPSED_MS;
		}
	}
	return dead_count ? log->ops->lease_drop(s->role.conn, dead, dead_count, err) : SQLB_OK;
}

/* All that came were taken: the next ones may wait for others. */
static void gather(struct ks_log *log)
{
	struct ks_log_side *s = &log->side;
	int64_t now_ms = ks_clock_now(log->clock);

	ks_mutex_lock(&s->role.mutex);
	if (ks_list_empty(&s->keepalives))
		ks_gather_begin(&s->gather, now_ms);
	ks_mutex_unlock(&s->role.mutex);
}

bool ks_log_keepalives_step(struct ks_log *log, enum sqlb_outcome *outcome, struct ks_err *err)
{
	struct ks_log_side *s = &log->side;
	int64_t now_ms = ks_clock_now(log->clock);
	bool again = s->lapsed_at_ms && now_ms >= s->lapsed_at_ms;
	struct ks_list some;

	ks_list_init(&some);
	ks_mutex_lock(&s->role.mutex);
	if (!again && ks_gather_waits(&s->gather, s->arrived, now_ms)) {
		ks_mutex_unlock(&s->role.mutex);
		return false;
	}
	ks_gather_take(&s->gather, s->arrived, now_ms);
	s->arrived = 0;
	if (again) {
		/* The revoke has been seen, or will be, or a keepalive elsewhere was accepted after all: ask again. */
		ks_list_splice_front(&s->keepalives, &s->lapsed);
		s->lapsed_at_ms = 0;
	}
	for (size_t count = 0; count < TOUCH_MAX && !ks_list_empty(&s->keepalives); count++) {
		struct ks_list *link = ks_list_pop(&s->keepalives);

		ks_list_append(&some, link);
	}
	ks_mutex_unlock(&s->role.mutex);
	if (ks_list_empty(&some))
		return false;
	*outcome = touch(log, &some, err);
	if (*outcome == SQLB_OK)
		gather(log);
	return true;
}
