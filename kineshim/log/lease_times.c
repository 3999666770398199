/* SPDX-License-Identifier: Apache-2.0 */
/* The remaining times of leases, which the database knows: of those that are asked for, or of all that there are. */
#include <stdlib.h>

#include "log/housekeeper.h"

/* ---- any thread ---- */

static void finish_times(struct ks_lease_times *times, enum ks_status status, const char *failure)
{
	times->err.status = KS_OK;
	if (status != KS_OK) {
		free(times->leases);
		times->leases = NULL;
		times->lease_count = 0;
		ks_fail(&times->err, status, "%s", failure);
	}
	times->done(times);
}

void ks_log_lease_times(struct ks_committer *committer, struct ks_lease_times *times)
{
	struct ks_log *log = ks_log_of(committer);
	const char *refusal;

	times->since_ms = ks_clock_now(log->clock);
	times->leases = NULL;
	times->lease_count = 0;
	refusal = ks_log_role_queue(log, &log->side.role, &log->side.times, &times->link);
	if (refusal)
		finish_times(times, KS_UNAVAILABLE, refusal);
}

void ks_log_lease_times_fail(struct ks_log *log, int64_t than_ms, const char *text)
{
	struct ks_log_side *s = &log->side;
	struct ks_list failed, *link;

	ks_list_init(&failed);
	ks_mutex_lock(&s->role.mutex);
	while (!ks_list_empty(&s->times) &&
	       ks_container_of(s->times.next, struct ks_lease_times, link)->since_ms <= than_ms) {
		link = ks_list_pop(&s->times);
		ks_list_append(&failed, link);
	}
	ks_mutex_unlock(&s->role.mutex);
	while ((link = ks_list_pop(&failed)))
		finish_times(ks_container_of(link, struct ks_lease_times, link), KS_UNAVAILABLE, text);
}

/* ---- the side thread ---- */

struct listing {
	struct ks_log *log;
	struct ks_lease_time *leases;
	size_t count, room;
	bool no_memory;
};

static bool visit_time(void *ctx, const struct sqlb_lease *lease)
{
	struct listing *listing = ctx;

	if (!ks_log_lease_known(listing->log, lease->id))
		return true;
	if (listing->count == listing->room) {
		size_t room = listing->room ? 2 * listing->room : 64;
		struct ks_lease_time *leases = realloc(listing->leases, room * sizeof(*leases));

		if (!leases) {
			listing->no_memory = true;
			return false;
		}
		listing->leases = leases;
		listing->room = room;
	}
	listing->leases[listing->count++] =
		(struct ks_lease_time){.id = lease->id, .remaining_ms = lease->remaining_ms, .found = true};
	return true;
}

static enum sqlb_outcome all_times(struct ks_log *log, struct listing *listing, struct ks_err *err)
{
	return log->ops->lease_list(log->side.role.conn, 0, visit_time, listing, err);
}

static enum sqlb_outcome some_times(struct ks_log *log, const struct ks_lease_times *times, struct listing *listing,
				    struct ks_err *err)
{
	struct sqlb_lease *leases = calloc(times->id_count ? times->id_count : 1, sizeof(*leases));
	enum sqlb_outcome outcome = SQLB_OK;

	listing->leases = calloc(times->id_count ? times->id_count : 1, sizeof(*listing->leases));
	if (!leases || !listing->leases) {
		listing->no_memory = true;
		free(leases);
		return SQLB_OK;
	}
	for (size_t i = 0; i < times->id_count; i++)
		leases[i].id = times->ids[i];
	outcome = log->ops->lease_read(log->side.role.conn, leases, times->id_count, err);
	listing->count = times->id_count;
	for (size_t i = 0; i < times->id_count; i++)
		listing->leases[i] = (struct ks_lease_time){
			.id = leases[i].id, .remaining_ms = leases[i].remaining_ms, .found = leases[i].found};
	free(leases);
	return outcome;
}

bool ks_log_lease_times_step(struct ks_log *log, enum sqlb_outcome *outcome, struct ks_err *err)
{
	struct ks_log_side *s = &log->side;
	struct listing listing = {.log = log};
	struct ks_lease_times *times;
	struct ks_list *link;

	ks_mutex_lock(&s->role.mutex);
	link = ks_list_pop(&s->times);
	ks_mutex_unlock(&s->role.mutex);
	if (!link)
		return false;
	times = ks_container_of(link, struct ks_lease_times, link);
	*outcome = times->ids ? some_times(log, times, &listing, err) : all_times(log, &listing, err);
	if (*outcome != SQLB_OK) {
		free(listing.leases);
		ks_mutex_lock(&s->role.mutex);
		ks_list_append(s->times.next, &times->link); /* before the first */
		ks_mutex_unlock(&s->role.mutex);
		return true;
	}
	times->leases = listing.leases;
	times->lease_count = listing.count;
	if (listing.no_memory)
		finish_times(times, KS_RESOURCE_EXHAUSTED, "etcdserver: out of memory");
	else
		finish_times(times, KS_OK, NULL);
	return true;
}
