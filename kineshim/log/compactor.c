/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Auto-compaction, on the side thread of every instance: feeds autocompact.c with the time and the revision, and submits what it
 * asks for like any client's Compact.
 */
#include <inttypes.h>

#include "base/diag.h"
#include "log/log_priv.h"

static void compaction_done(struct ks_submit *submit)
{
	struct ks_log_compactor *c = ks_container_of(submit, struct ks_log_compactor, submit);
	struct ks_log *log = ks_container_of(c, struct ks_log, side.compactor);

	if (submit->err.status == KS_OK)
		ks_result_fini(&submit->result);
	ks_mutex_lock(&log->side.role.mutex);
	c->returned = true;
	log->side.role.poked = true;
	ks_log_role_unlock(&log->side.role);
}

/* True while the compaction that was submitted is on its way. */
static bool under_way(struct ks_log *log, int64_t now)
{
	struct ks_log_compactor *c = &log->side.compactor;
	int64_t revision = c->submit.request.compact_revision;
	bool returned, succeeded;

	if (!c->sent)
		return false;
	ks_mutex_lock(&log->side.role.mutex);
	returned = c->returned;
	ks_mutex_unlock(&log->side.role.mutex);
	if (!returned)
		return true;
	c->sent = c->returned = false;
	/* Somebody else may have done it, which is an error to a client and success here. */
	succeeded = c->submit.err.status == KS_OK || ks_store_committed(log->store).compact_revision >= revision;
	if (!succeeded)
		KS_DIAG_LIMITED(KS_WARN, "log",
				"auto-compaction failed, will try again revision=%" PRId64 " error=\"%s\"", revision,
				c->submit.err.text);
	ks_autocompact_done(&c->machine, now, succeeded);
	return false;
}

int64_t ks_log_compactor_step(struct ks_log *log)
{
	struct ks_log_side *s = &log->side;
	struct ks_log_compactor *c = &s->compactor;
	int64_t now = ks_clock_now(log->clock), revision;
	uint64_t generation;

	if (c->machine.config.mode == KS_AUTOCOMPACT_OFF)
		return KS_LOG_IDLE;
	ks_mutex_lock(&s->role.mutex);
	generation = s->generation;
	ks_mutex_unlock(&s->role.mutex);
	if (c->generation != generation)
		ks_autocompact_forget(&c->machine);
	c->generation = generation;
	if (under_way(log, now))
		return KS_LOG_IDLE;
	revision =
		ks_autocompact_step(&c->machine, now, ks_store_committed(log->store).revision, ks_log_duty_held(log));
	if (revision) {
		ks_diag(KS_INFO, "log", "auto-compaction revision=%" PRId64, revision);
		c->sent = true;
		c->submit = (struct ks_submit){
			.request = {.kind = KS_REQ_COMPACT, .caller = {.internal = true}, .compact_revision = revision},
			.done = compaction_done,
		};
		ks_log_submit(&log->committer, &c->submit);
		return KS_LOG_IDLE; /* until it pokes */
	}
	now = ks_autocompact_due_ms(&c->machine) - now;
	return now > 0 ? now : 0;
}
