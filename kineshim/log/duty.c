/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The housekeeper's duty, on the side thread: one instance at a time has it, an expiring row says which. Taking it, keeping it,
 * and handing it on when a client asks for that (MoveLeader).
 *
 * A hand-over is done when the target has refreshed the row itself: it was given less time than it takes for itself, so more
 * time than that is its signature. Until then the row may still run out, because the target is dead, and somebody else is
 * the housekeeper again.
 */
#include <inttypes.h>

#include "base/diag.h"
#include "log/log_priv.h"

#define MOVE_POLL_MS 50

bool ks_log_duty_held(struct ks_log *log)
{
	return log->side.duty_held && ks_clock_now(log->clock) < log->side.duty_until_ms;
}

enum sqlb_outcome ks_log_duty_take(struct ks_log *log, struct ks_err *err)
{
	struct ks_log_side *s = &log->side;
	int64_t self = (int64_t)log->config.member_id, before = ks_clock_now(log->clock);
	struct sqlb_duty duty = {0};
	enum sqlb_outcome outcome = log->ops->duty_take(s->role.conn, self, log->config.duty_ttl_ms, &duty, err);

	if (outcome != SQLB_OK) {
		KS_COUNT(HEARTBEAT_FAILURES, 1);
		return outcome;
	}
	if (duty.holder && duty.holder != s->duty.holder)
		KS_COUNT(LEADER_CHANGES, 1);
	if (duty.holder == self) {
		/* Also when it ran out meanwhile: then the database was away, and keepalives were impossible. */
		if (duty.taken_now || !s->duty_held || before >= s->duty_until_ms) {
			s->duty_new = true;
			ks_diag(KS_INFO, "log", "housekeeper: this server, term=%" PRId64, duty.term);
		}
		s->duty_held = true;
		s->duty_until_ms = before + log->config.duty_ttl_ms;
	} else {
		if (s->duty_held)
			ks_diag(KS_INFO, "log", "housekeeper: another server has taken over, term=%" PRId64, duty.term);
		s->duty_held = s->duty_new = false;
	}
	/* Whoever is not the housekeeper looks often: the duty may be handed to it, and Status names who has it. */
	s->duty_at_ms = before + log->config.duty_ttl_ms / (s->duty_held ? 3 : 10);
	ks_mutex_lock(&s->role.mutex);
	s->duty = duty;
	if (s->duty_new)
		s->scan_wanted = true;
	ks_mutex_unlock(&s->role.mutex);
	return SQLB_OK;
}

/* ---- handing it on ---- */

/* Ends the move under way, unless its time ran out meanwhile and it was ended elsewhere. */
static void finish(struct ks_log *log, enum ks_status status, const char *text)
{
	struct ks_log_side *s = &log->side;
	struct ks_list *link;
	struct ks_chore *chore;

	ks_mutex_lock(&s->role.mutex);
	link = ks_list_pop(&s->moving);
	ks_mutex_unlock(&s->role.mutex);
	if (!link)
		return;
	chore = ks_container_of(link, struct ks_chore, link);
	chore->err.status = KS_OK;
	if (status != KS_OK)
		ks_fail(&chore->err, status, "%s", text);
	chore->done(chore);
}

/* The target of the move under way; it becomes that when none is. 0: nobody asks for one. */
static uint64_t wanted_target(struct ks_log_side *s)
{
	uint64_t target = 0;

	ks_mutex_lock(&s->role.mutex);
	if (ks_list_empty(&s->moving)) {
		struct ks_list *link = ks_list_pop(&s->moves);

		s->move_passed = false;
		if (link)
			ks_list_append(&s->moving, link);
	}
	if (!ks_list_empty(&s->moving))
		target = ks_container_of(s->moving.next, struct ks_chore, link)->member_id;
	ks_mutex_unlock(&s->role.mutex);
	return target;
}

static bool is_member(struct ks_log_side *s, uint64_t id)
{
	bool found = false;

	ks_mutex_lock(&s->role.mutex);
	for (size_t i = 0; i < s->member_count; i++)
		found = found || s->members[i].id == id;
	ks_mutex_unlock(&s->role.mutex);
	return found;
}

static enum sqlb_outcome pass(struct ks_log *log, uint64_t target, struct ks_err *err)
{
	struct ks_log_side *s = &log->side;
	int64_t self = (int64_t)log->config.member_id;
	enum sqlb_outcome outcome;

	if (!ks_log_duty_held(log)) {
		finish(log, KS_FAILED_PRECONDITION, "etcdserver: not leader");
		return SQLB_OK;
	}
	if (target == log->config.member_id) {
		finish(log, KS_OK, NULL);
		return SQLB_OK;
	}
	outcome = ks_log_members_list(log, err);
	if (outcome != SQLB_OK)
		return outcome;
	if (!is_member(s, target)) {
		finish(log, KS_FAILED_PRECONDITION, "etcdserver: bad leader transferee");
		return SQLB_OK;
	}
	s->move_ttl_ms = log->config.duty_ttl_ms - log->config.duty_ttl_ms / 4;
	outcome = log->ops->duty_pass(s->role.conn, self, (int64_t)target, s->move_ttl_ms, err);
	if (outcome == SQLB_OK) {
		s->move_passed = true;
		s->move_at_ms = ks_clock_now(log->clock);
		ks_diag(KS_INFO, "log", "housekeeper: the duty goes to member=%" PRIx64 ", as a client asked", target);
	}
	return outcome;
}

static enum sqlb_outcome look(struct ks_log *log, uint64_t target, struct ks_err *err)
{
	struct ks_log_side *s = &log->side;
	enum sqlb_outcome outcome = ks_log_duty_take(log, err);

	s->move_at_ms = ks_clock_now(log->clock) + MOVE_POLL_MS;
	if (outcome != SQLB_OK)
		return outcome;
	if ((uint64_t)s->duty.holder != target)
		finish(log, KS_UNKNOWN, KS_LOG_MOVE_TIMEOUT);
	else if (s->duty.remaining_ms > s->move_ttl_ms)
		finish(log, KS_OK, NULL);
	return SQLB_OK;
}

bool ks_log_duty_move(struct ks_log *log, enum sqlb_outcome *outcome, struct ks_err *err)
{
	struct ks_log_side *s = &log->side;
	uint64_t target = wanted_target(s);

	if (!target)
		return false;
	if (!s->move_passed)
		*outcome = pass(log, target, err);
	else if (ks_clock_now(log->clock) >= s->move_at_ms)
		*outcome = look(log, target, err);
	else
		return false;
	return true;
}
