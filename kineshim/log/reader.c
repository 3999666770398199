/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The reader's thread: in each step a look at the head, if proofs wait for one, and then some values. What of both waits for too long, or
 * when the server stops, fails here.
 */
#include "log/reader.h"

#include <stdlib.h>

#define IDLE_PROBE_MS 1000 /* away, and nobody waits: is it back? */

/* ---- any thread ---- */

void ks_log_reader_fail_all(struct ks_log *log, const char *text)
{
	struct ks_log_reader *r = &log->reader;
	struct ks_list proofs, fetches;

	ks_list_init(&proofs);
	ks_list_init(&fetches);
	ks_mutex_lock(&r->role.mutex);
	ks_list_splice(&proofs, &r->waiting);
	ks_list_splice(&proofs, &r->sent);
	ks_list_splice(&proofs, &r->fresh);
	ks_list_splice(&fetches, &r->fetches);
	ks_mutex_unlock(&r->role.mutex);
	ks_log_proofs_finish(&proofs, text);
	ks_log_fetches_fail(&fetches, KS_UNAVAILABLE, text);
}

static void take_older(struct ks_list *from, struct ks_list *to, int64_t than_ms)
{
	while (!ks_list_empty(from) && ks_log_proof_of(from->next)->since_ms <= than_ms) {
		KS_COUNT(SLOW_READ_INDEXES, 1);
		KS_COUNT_AT(LOG_LATE, 1, 1);
		struct ks_list *link = ks_list_pop(from);

		ks_list_append(to, link);
	}
}

void ks_log_reader_expire(struct ks_log *log)
{
	struct ks_log_reader *r = &log->reader;
	int64_t than_ms = ks_clock_now(log->clock) - log->config.request_timeout_ms;
	struct ks_list proofs, fetches, *link;

	ks_list_init(&proofs);
	ks_list_init(&fetches);
	ks_mutex_lock(&r->role.mutex);
	take_older(&r->waiting, &proofs, than_ms);
	take_older(&r->sent, &proofs, than_ms);
	take_older(&r->fresh, &proofs, than_ms);
	while (!ks_list_empty(&r->fetches)) {
		link = r->fetches.next;
		if (ks_container_of(link, struct ks_fetch, link)->since_ms > than_ms)
			break;
		KS_COUNT_AT(LOG_LATE, 2, 1);
		ks_list_remove(link);
		ks_list_append(&fetches, link);
	}
	ks_mutex_unlock(&r->role.mutex);
	ks_log_proofs_finish(&proofs, "etcdserver: request timed out");
	ks_log_fetches_fail(&fetches, KS_UNAVAILABLE, "etcdserver: request timed out");
}

/* ---- the reader's thread ---- */

int64_t ks_log_reader_step(struct ks_log *log)
{
	struct ks_log_reader *r = &log->reader;
	int64_t wait_ms = ks_log_role_pause(log, &r->role);
	bool busy;

	if (wait_ms)
		return wait_ms;
	if (!r->slots)
		r->slots = calloc(KS_LOG_FETCH_CHUNK, sizeof(*r->slots));
	if (!r->slots)
		return IDLE_PROBE_MS;
	busy = ks_log_prove(log, &wait_ms);
	if (!wait_ms)
		busy = ks_log_fetch_some(log, &wait_ms) || busy;
	if (wait_ms)
		return wait_ms;
	wait_ms = ks_log_role_pause(log, &r->role);
	if (wait_ms)
		return wait_ms;
	return busy ? 0 : KS_LOG_IDLE;
}

/* ---- when it has ended ---- */

void ks_log_reader_abandon(struct ks_log *log)
{
	ks_log_fetches_fail(&log->reader.chunk, KS_UNAVAILABLE, "etcdserver: server stopped");
	ks_log_reader_fail_all(log, "etcdserver: server stopped");
}

void ks_log_reader_fini(struct ks_log *log)
{
	ks_log_reader_abandon(log);
	free(log->reader.slots);
}
