/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The side thread: everything that is not in the log, piece by piece. On every instance its row among the members (members.c), keepalives
 * (keepalive.c), remaining times (lease_times.c) and the size (size.c); on the one that holds the duty (duty.c), the
 * housekeeper, expiry of leases (expiry.c), auto-compaction (compactor.c) and trimming (trim.c).
 */
#include <stdlib.h>

#include "log/housekeeper.h"

#define MEMBERS_MS 500
/* Clients renew each third of two seconds or more: in a shorter outage no keepalive was missed. */
#define AWAY_MATTERS_MS 600

/* The first periodic task that is due; its name, or NULL when none is. */
static const char *run_due(struct ks_log *log, enum sqlb_outcome *outcome, struct ks_err *err)
{
	struct ks_log_side *s = &log->side;
	int64_t now = ks_clock_now(log->clock);
	const char *what;

	if (now >= s->beat_at_ms) {
		*outcome = ks_log_members_beat(log, err);
		s->beat_at_ms = now + log->config.member_ttl_ms / 3;
		return "member";
	}
	if (now >= s->duty_at_ms) {
		*outcome = ks_log_duty_take(log, err); /* when it fails the back-off says when again */
		return "duty";
	}
	if (ks_log_duty_move(log, outcome, err))
		return "hand-over of the duty";
	what = ks_log_expiry_step(log, now, outcome, err);
	if (what)
		return what;
	if (s->trim_blocked_ms && now >= s->members_at_ms) {
		*outcome = ks_log_members_list(log, err);
		s->members_at_ms = now + MEMBERS_MS;
		return "members";
	}
	if (ks_log_size_due(log)) {
		*outcome = ks_log_size_step(log, err);
		return "size";
	}
	return NULL;
}

static int64_t next_due(struct ks_log *log)
{
	const struct ks_log_side *s = &log->side;
	int64_t next = s->beat_at_ms;

	if (s->duty_at_ms < next)
		next = s->duty_at_ms;
	if (s->size_at_ms < next)
		next = s->size_at_ms;
	if (ks_log_duty_held(log) && s->expiry_at_ms < next)
		next = s->expiry_at_ms;
	if (s->lapsed_at_ms && s->lapsed_at_ms < next)
		next = s->lapsed_at_ms;
	if (s->gather.until_ms && s->gather.until_ms < next)
		next = s->gather.until_ms;
	if (s->move_passed && s->move_at_ms < next)
		next = s->move_at_ms;
	next -= ks_clock_now(log->clock);
	return next > 0 ? next : 0;
}

int64_t ks_log_side_step(struct ks_log *log)
{
	struct ks_log_side *s = &log->side;
	int64_t pause = ks_log_role_pause(log, &s->role), wait_ms, compactor_ms;
	struct ks_err err = {0};
	enum sqlb_outcome outcome = SQLB_OK;
	const char *what = "keepalive";
	int64_t away_since;
	bool busy;

	if (pause)
		return pause;
	if (!atomic_load(&log->loaded)) {
		ks_mutex_lock(&s->role.mutex);
		ks_gather_stop(&s->gather); /* nobody would end the wait */
		ks_mutex_unlock(&s->role.mutex);
		return KS_LOG_IDLE;
	}
	/* While the database was away keepalives were impossible: leases get their time back before any is judged. */
	away_since = atomic_load(&s->role.away_since_ms);
	if (s->duty_held && away_since && ks_clock_now(log->clock) - away_since >= AWAY_MATTERS_MS)
		s->duty_new = true;
	busy = !s->duty_new && ks_log_keepalives_step(log, &outcome, &err);
	if (outcome == SQLB_OK && ks_log_lease_times_step(log, &outcome, &err)) {
		what = "lease times";
		busy = true;
	}
	if (outcome == SQLB_OK) {
		what = run_due(log, &outcome, &err);
		busy = busy || what;
	}
	if (outcome != SQLB_OK)
		return ks_log_role_failed(log, &s->role, outcome, what, &err);
	if (busy)
		ks_log_role_fine(log, &s->role);
	wait_ms = ks_log_trim_step(log);
	pause = ks_log_role_pause(log, &s->role);
	if (pause)
		return pause;
	compactor_ms = ks_log_compactor_step(log);
	if (busy)
		return 0;
	if (compactor_ms < wait_ms)
		wait_ms = compactor_ms;
	return wait_ms < next_due(log) ? wait_ms : next_due(log);
}

void ks_log_side_fail_all(struct ks_log *log, const char *text)
{
	ks_log_keepalives_fail(log, INT64_MAX, text);
	ks_log_lease_times_fail(log, INT64_MAX, text);
	ks_log_side_chores_fail_all(log, text);
}

void ks_log_side_expire(struct ks_log *log)
{
	int64_t than_ms = ks_clock_now(log->clock) - log->config.request_timeout_ms;

	ks_log_keepalives_fail(log, than_ms, "etcdserver: request timed out");
	ks_log_lease_times_fail(log, than_ms, "etcdserver: request timed out");
	ks_log_side_chores_expire(log, than_ms);
}

void ks_log_side_init(struct ks_log *log)
{
	struct ks_log_side *s = &log->side;

	ks_list_init(&s->keepalives);
	ks_list_init(&s->times);
	ks_list_init(&s->physical);
	ks_list_init(&s->sizes);
	ks_list_init(&s->moves);
	ks_list_init(&s->moving);
	ks_list_init(&s->lapsed);
	ks_autocompact_init(&s->compactor.machine, &log->config.autocompact);
	ks_log_expiry_init(log);
	s->trim_chunk = 100;
	ks_log_members_init(log);
}

void ks_log_side_leave(struct ks_log *log)
{
	struct ks_log_side *s = &log->side;
	struct sqlb_member self = {
		.id = log->config.member_id, .name = ks_slice_str(""), .client_urls = ks_slice_str("")};
	struct ks_err err = {0};

	if (ks_log_role_pause(log, &s->role))
		return; /* rows run out by themselves */
	if (s->duty_held && log->ops->duty_pass(s->role.conn, (int64_t)log->config.member_id, 0, 0, &err) != SQLB_OK)
		return;
	s->duty_held = false;
	if (s->beaten && log->ops->member_beat(s->role.conn, &self, 0, &err) == SQLB_OK)
		s->beaten = false;
}

void ks_log_side_fini(struct ks_log *log)
{
	struct ks_log_side *s = &log->side;

	ks_log_side_fail_all(log, "etcdserver: server stopped");
	ks_autocompact_fini(&s->compactor.machine);
	free(s->members);
	free(s->trim.locs);
	ks_log_expiry_fini(log);
}
