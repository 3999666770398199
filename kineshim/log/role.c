/* SPDX-License-Identifier: Apache-2.0 */
/* What the threads of the log have in common: the mailbox, and patience with a database that does not answer. */
#include <inttypes.h>

#include "base/diag.h"
#include "base/metrics.h"
#include "log/log_priv.h"

#define SAY_AGAIN_MS 10000

void ks_log_role_init(struct ks_log_role *role, const char *name, uint64_t seed)
{
	*role = (struct ks_log_role){.name = name};
	ks_mutex_init(&role->mutex);
	ks_cond_init(&role->cond);
	ks_backoff_init(&role->backoff, 20, 1000, seed);
}

void ks_log_role_fini(struct ks_log_role *role)
{
	ks_cond_fini(&role->cond);
	ks_mutex_fini(&role->mutex);
}

void ks_log_role_unlock(struct ks_log_role *role)
{
	bool poked = role->poked;

	ks_mutex_unlock(&role->mutex);
	if (poked)
		ks_cond_signal(&role->cond);
}

void ks_log_role_poke(struct ks_log_role *role)
{
	ks_mutex_lock(&role->mutex);
	role->poked = true;
	ks_log_role_unlock(role);
}

/* A database that comes and goes (a full disk: it can be read) is told of every ten seconds, not with each request. */
static bool may_say(struct ks_log_role *role, int64_t now, bool first)
{
	bool due = !role->said_ms || now - role->said_ms >= SAY_AGAIN_MS;

	if (first)
		role->quiet = true;
	if (!role->quiet || !due)
		return false;
	role->said_ms = now ? now : 1;
	role->quiet = false;
	return true;
}

int64_t ks_log_role_failed(struct ks_log *log, struct ks_log_role *role, enum sqlb_outcome outcome, const char *what,
			   const struct ks_err *err)
{
	int64_t now = ks_clock_now(log->clock);
	bool broken = outcome == SQLB_BROKEN;
	bool first = !atomic_load(&role->away_since_ms) || broken != atomic_load(&role->broken);
	int64_t wait_ms = broken ? KS_LOG_BROKEN_RETRY_MS : ks_backoff_failed(&role->backoff);

	KS_COUNT_AT(DB_FAILURES, role->id * KS_METRIC_LABEL_SIZE_DB_STATE + (broken ? 2 : 1), 1);
	if (!atomic_load(&role->away_since_ms))
		atomic_store(&role->away_since_ms, now ? now : 1);
	atomic_store(&role->broken, broken);
	role->retry_at_ms = now + wait_ms;
	if (broken && first) {
		role->quiet = false;
		ks_diag(KS_ERROR, "log",
			"%s: %s: the database is not served until somebody mends this (docs/operations.md has what to "
			"do): %s",
			role->name, what, err->text);
	} else if (!broken && may_say(role, now, first)) {
		ks_diag(KS_WARN, "log", "%s: %s: the database does not answer, will retry: %s", role->name, what,
			err->text);
	} else {
		KS_DIAG_LIMITED(broken ? KS_ERROR : KS_DEBUG, "log", "%s: %s: still failing: %s", role->name, what,
				err->text);
	}
	return wait_ms;
}

void ks_log_role_fine(struct ks_log *log, struct ks_log_role *role)
{
	int64_t since = atomic_load(&role->away_since_ms);

	if (!since)
		return;
	KS_COUNT_AT(DB_FAILURES, role->id * KS_METRIC_LABEL_SIZE_DB_STATE, 1);
	ks_diag(role->quiet ? KS_DEBUG : KS_INFO, "log", "%s: the database answers again after_ms=%" PRId64, role->name,
		ks_clock_now(log->clock) - since);
	role->quiet = false;
	ks_backoff_succeeded(&role->backoff);
	role->retry_at_ms = 0;
	atomic_store(&role->broken, false);
	atomic_store(&role->away_since_ms, 0);
}

int64_t ks_log_role_pause(struct ks_log *log, const struct ks_log_role *role)
{
	int64_t left = role->retry_at_ms ? role->retry_at_ms - ks_clock_now(log->clock) : 0;

	return left > 0 ? left : 0;
}

const char *ks_log_role_refuses(struct ks_log *log, const struct ks_log_role *role)
{
	int64_t since = atomic_load(&role->away_since_ms);

	if (atomic_load(&log->stopping))
		return "etcdserver: server stopped";
	if (!atomic_load(&log->loaded))
		return "etcdserver: no leader";
	if (atomic_load(&role->broken))
		return "etcdserver: no leader";
	if (since && ks_clock_now(log->clock) - since >= KS_LOG_AWAY_LONG_MS)
		return "etcdserver: no leader";
	return NULL;
}

const char *ks_log_role_queue(struct ks_log *log, struct ks_log_role *role, struct ks_list *queue, struct ks_list *link)
{
	const char *refusal;

	ks_mutex_lock(&role->mutex);
	refusal = ks_log_role_refuses(log, role);
	if (!refusal) {
		ks_list_append(queue, link);
		role->poked = true;
	}
	ks_log_role_unlock(role);
	return refusal;
}

/* splitmix64: spreads pauses, nothing more. */
uint64_t ks_log_random(uint64_t *state)
{
	uint64_t x = *state += 0x9e3779b97f4a7c15u;

	x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
	x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
	return x ^ (x >> 31);
}
