/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The side thread: everything that is not in the log. Keepalives and remaining times on every instance, and, on
 * the one instance that holds the duty (duty.c), expiry of leases, auto-compaction (compactor.c) and trimming (trim.c).
 *
 * The database's clock judges deadlines, and the proof that a lease is past its own is part of the append of its revoke
 * (sqlb_append.leases_expired). So a holder whose duty ran out without its noticing does no harm: two of them only work twice.
 * A new holder gives every lease its whole time again, as etcd does on a change of leader, because keepalives may have been
 * impossible until now.
 *
 * A keepalive that finds no live row answers "ttl 0" only when the lease is gone from the store, that is, after its keys were
 * seen to go; until then it waits.
 */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/diag.h"
#include "base/panic.h"
#include "log/log_priv.h"

#define TOUCH_MAX 1000
#define EXPIRY_MS 500
#define EXPIRY_SOON_MS 50
#define EXPIRY_SKIP 20 /* while there are no leases, only each so many-th scan asks the database */
#define LAPSED_MS 50
#define AUDIT_MS 60000
/* Clients renew each third of two seconds or more: in a shorter outage no keepalive was missed. */
#define AWAY_MATTERS_MS 600

static struct ks_log *log_of(struct ks_committer *committer)
{
	return ks_container_of(committer, struct ks_log, committer);
}

static void finish_keepalive(struct ks_keepalive *keepalive, int64_t ttl, const char *failure)
{
	keepalive->ttl = ttl;
	keepalive->err.status = KS_OK;
	if (failure)
		ks_fail(&keepalive->err, KS_UNAVAILABLE, "%s", failure);
	keepalive->done(keepalive);
}

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

static void fail_chores(struct ks_list *chores, enum ks_status status, const char *text)
{
	struct ks_list *link;

	while ((link = ks_list_pop(chores))) {
		struct ks_chore *chore = ks_container_of(link, struct ks_chore, link);

		ks_fail(&chore->err, status, "%s", text);
		chore->done(chore);
	}
}

/* ---- any thread ---- */

/* Queues for the side thread, or says why not. */
static const char *side_queue(struct ks_log *log, struct ks_list *queue, struct ks_list *link)
{
	struct ks_log_side *s = &log->side;
	const char *refusal;

	ks_mutex_lock(&s->role.mutex);
	refusal = ks_log_role_refuses(log, &s->role);
	if (!refusal) {
		ks_list_append(queue, link);
		s->role.poked = true;
	}
	ks_log_role_unlock(&s->role);
	return refusal;
}

void ks_log_keepalive(struct ks_committer *committer, struct ks_keepalive *keepalive)
{
	struct ks_log *log = log_of(committer);
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

void ks_log_lease_times(struct ks_committer *committer, struct ks_lease_times *times)
{
	struct ks_log *log = log_of(committer);
	const char *refusal;

	times->since_ms = ks_clock_now(log->clock);
	times->leases = NULL;
	times->lease_count = 0;
	refusal = side_queue(log, &log->side.times, &times->link);
	if (refusal)
		finish_times(times, KS_UNAVAILABLE, refusal);
}

void ks_log_chore(struct ks_committer *committer, struct ks_chore *chore)
{
	struct ks_log *log = log_of(committer);
	struct ks_log_role *role = &log->side.role;
	struct ks_list *queue = &log->side.physical;
	const char *refusal;

	if (chore->kind == KS_CHORE_MOVE_LEADER) {
		queue = &log->side.moves;
	} else if (chore->kind == KS_CHORE_SIZE) {
		queue = &log->side.sizes;
	} else if (chore->kind != KS_CHORE_COMPACT_PHYSICAL) {
		role = &log->chores.role;
		queue = &log->chores.queue;
	}

	chore->since_ms = ks_clock_now(log->clock);
	ks_mutex_lock(&role->mutex);
	refusal = ks_log_role_refuses(log, role);
	if (!refusal) {
		ks_list_append(queue, &chore->link);
		role->poked = true;
	}
	ks_log_role_unlock(role);
	if (refusal) {
		ks_fail(&chore->err, KS_UNAVAILABLE, "%s", refusal);
		chore->done(chore);
	}
}

void ks_log_side_compacted(struct ks_log *log, struct ks_log_applied compaction, bool loaded)
{
	struct ks_log_side *s = &log->side;

	ks_mutex_lock(&s->role.mutex);
	if (compaction.position >= s->compaction.position)
		s->compaction = compaction;
	/*
	 * A store that was just loaded does not remember what the rows behind the newest compaction will leave over at the next
	 * one: so there is a scan now and another one then.
	 */
	if (loaded)
		s->scan_wanted = s->audit_wanted = s->scan_again = true;
	else if (s->scan_again) {
		s->scan_wanted = true;
		s->scan_again = false;
	}
	ks_mutex_unlock(&s->role.mutex);
}

void ks_log_side_compact(struct ks_log *log)
{
	struct ks_log_side *s = &log->side;

	ks_mutex_lock(&s->role.mutex);
	s->compact_wanted = true;
	s->role.poked = true;
	ks_log_role_unlock(&s->role);
}

void ks_log_side_lost(struct ks_log *log)
{
	struct ks_log_side *s = &log->side;

	ks_mutex_lock(&s->role.mutex);
	s->generation++;
	s->compaction = (struct ks_log_applied){0};
	s->scan_wanted = true;
	ks_mutex_unlock(&s->role.mutex);
}

void ks_log_side_fail_all(struct ks_log *log, const char *text)
{
	struct ks_log_side *s = &log->side;
	struct ks_list keepalives, times, chores, *link;

	ks_list_init(&keepalives);
	ks_list_init(&times);
	ks_list_init(&chores);
	ks_mutex_lock(&s->role.mutex);
	ks_list_splice(&keepalives, &s->lapsed);
	ks_list_splice(&keepalives, &s->keepalives);
	ks_list_splice(&times, &s->times);
	ks_list_splice(&chores, &s->physical);
	ks_list_splice(&chores, &s->moves);
	ks_list_splice(&chores, &s->moving);
	ks_list_splice(&chores, &s->sizes);
	ks_mutex_unlock(&s->role.mutex);
	while ((link = ks_list_pop(&keepalives)))
		finish_keepalive(ks_container_of(link, struct ks_keepalive, link), 0, text);
	while ((link = ks_list_pop(&times)))
		finish_times(ks_container_of(link, struct ks_lease_times, link), KS_UNAVAILABLE, text);
	fail_chores(&chores, KS_UNAVAILABLE, text);
}

static void expire_chores(struct ks_list *from, int64_t than_ms, struct ks_list *to)
{
	while (!ks_list_empty(from) && ks_container_of(from->next, struct ks_chore, link)->since_ms <= than_ms) {
		struct ks_list *link = ks_list_pop(from);

		ks_list_append(to, link);
	}
}

void ks_log_side_expire(struct ks_log *log)
{
	struct ks_log_side *s = &log->side;
	int64_t than_ms = ks_clock_now(log->clock) - log->config.request_timeout_ms;
	struct ks_list keepalives, times, moves, sizes, *link;

	ks_list_init(&keepalives);
	ks_list_init(&times);
	ks_list_init(&moves);
	ks_list_init(&sizes);
	ks_mutex_lock(&s->role.mutex);
	expire_chores(&s->moving, than_ms, &moves);
	expire_chores(&s->moves, than_ms, &moves);
	expire_chores(&s->sizes, than_ms, &sizes);
	while (!ks_list_empty(&s->lapsed) &&
	       ks_container_of(s->lapsed.next, struct ks_keepalive, link)->since_ms <= than_ms) {
		link = ks_list_pop(&s->lapsed);
		ks_list_append(&keepalives, link);
	}
	while (!ks_list_empty(&s->keepalives) &&
	       ks_container_of(s->keepalives.next, struct ks_keepalive, link)->since_ms <= than_ms) {
		link = ks_list_pop(&s->keepalives);
		ks_list_append(&keepalives, link);
	}
	while (!ks_list_empty(&s->times) &&
	       ks_container_of(s->times.next, struct ks_lease_times, link)->since_ms <= than_ms) {
		link = ks_list_pop(&s->times);
		ks_list_append(&times, link);
	}
	ks_mutex_unlock(&s->role.mutex);
	while ((link = ks_list_pop(&keepalives)))
		finish_keepalive(ks_container_of(link, struct ks_keepalive, link), 0, "etcdserver: request timed out");
	while ((link = ks_list_pop(&times)))
		finish_times(ks_container_of(link, struct ks_lease_times, link), KS_UNAVAILABLE,
			     "etcdserver: request timed out");
	fail_chores(&moves, KS_UNKNOWN, KS_LOG_MOVE_TIMEOUT);
	fail_chores(&sizes, KS_UNAVAILABLE, "etcdserver: request timed out");
}

/* ---- keepalives and times ---- */

static bool in_store(struct ks_log *log, int64_t id)
{
	struct ks_lease_info info = {0};

	if (!ks_store_lease(log->store, id, false, &info))
		return false;
	ks_lease_info_fini(&info);
	return true;
}

static enum sqlb_outcome put_keepalives_back(struct ks_log *log, struct ks_list *keepalives, enum sqlb_outcome outcome)
{
	struct ks_log_side *s = &log->side;

	ks_mutex_lock(&s->role.mutex);
	ks_list_splice(keepalives, &s->keepalives);
	ks_list_splice(&s->keepalives, keepalives);
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
		unknown = leases[i].found && !in_store(log, leases[i].id);
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
		bool known = in_store(log, keepalive->id);

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

/* True when there was something to do. */
static bool keepalives(struct ks_log *log, enum sqlb_outcome *outcome, struct ks_err *err)
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
		ks_list_splice(&s->lapsed, &s->keepalives);
		ks_list_splice(&s->keepalives, &s->lapsed);
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

struct listing {
	struct ks_log *log;
	struct ks_lease_time *leases;
	size_t count, room;
	bool no_memory;
};

static bool visit_time(void *ctx, const struct sqlb_lease *lease)
{
	struct listing *listing = ctx;
	struct ks_lease_info info = {0};

	if (!ks_store_lease(listing->log->store, lease->id, false, &info))
		return true;
	ks_lease_info_fini(&info);
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

static bool lease_times(struct ks_log *log, enum sqlb_outcome *outcome, struct ks_err *err)
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
		times->link.prev = &s->times;
		times->link.next = s->times.next;
		s->times.next->prev = &times->link;
		s->times.next = &times->link;
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

/* ---- the duty begins ---- */

struct id_list {
	int64_t *ids;
	size_t count, room;
	bool no_memory;
};

static bool id_add(struct id_list *list, int64_t id)
{
	if (list->count == list->room) {
		size_t room = list->room ? 2 * list->room : 256;
		int64_t *ids = realloc(list->ids, room * sizeof(*ids));

		if (!ids) {
			list->no_memory = true;
			return false;
		}
		list->ids = ids;
		list->room = room;
	}
	list->ids[list->count++] = id;
	return true;
}

static bool visit_id(void *ctx, const struct sqlb_lease *lease)
{
	return id_add(ctx, lease->id);
}

static int by_id(const void *a, const void *b)
{
	int64_t left = *(const int64_t *)a, right = *(const int64_t *)b;

	return (left > right) - (left < right);
}

static enum sqlb_outcome ensure(struct ks_log *log, const struct ks_lease_info *infos, size_t count,
				const struct id_list *known, struct ks_err *err)
{
	struct sqlb_lease leases[256];
	size_t missing = 0, total = 0;
	enum sqlb_outcome outcome = SQLB_OK;

	for (size_t i = 0; i < count && outcome == SQLB_OK; i++) {
		if (!known->count || !bsearch(&infos[i].id, known->ids, known->count, sizeof(*known->ids), by_id)) {
			leases[missing++] =
				(struct sqlb_lease){.id = infos[i].id, .ttl_ms = ks_log_ttl_ms(infos[i].ttl)};
			total++;
		}
		if (missing == 256 || (missing && i + 1 == count)) {
			outcome = log->ops->lease_ensure(log->side.role.conn, leases, missing, err);
			missing = 0;
		}
	}
	if (total)
		ks_diag(KS_INFO, "log", "leases without a deadline were given a new one count=%zu", total);
	return outcome;
}

/*
 * Every lease of the store must have a deadline, else it never expires. A deadline whose lease the store does not know needs
 * no care here: when it passes, the expiry scan finds and drops it.
 *
 * The table first, then the store, which has to be as new as the table was: a lease that is revoked in between would get
 * a deadline back, and its keepalives would be answered for ever. *done is false when the store is not there yet.
 */
static enum sqlb_outcome audit(struct ks_log *log, bool *done, struct ks_err *err)
{
	struct id_list known = {0};
	struct ks_lease_info *infos = NULL;
	struct sqlb_head head = {0};
	size_t count = 0;
	enum sqlb_outcome outcome = log->ops->lease_list(log->side.role.conn, 0, visit_id, &known, err);

	*done = false;
	if (outcome == SQLB_OK)
		outcome = log->ops->read_head(log->side.role.conn, &head, err);
	if (outcome == SQLB_OK && !known.no_memory && ks_store_committed(log->store).position >= head.position &&
	    ks_store_leases(log->store, &infos, &count) == KS_OK) {
		if (known.count)
			qsort(known.ids, known.count, sizeof(*known.ids), by_id);
		outcome = ensure(log, infos, count, &known, err);
		*done = outcome == SQLB_OK;
	}
	free(known.ids);
	for (size_t i = 0; i < count; i++)
		ks_lease_info_fini(&infos[i]);
	free(infos);
	return outcome;
}

/* A new housekeeper's first act. */
static enum sqlb_outcome begin_duty(struct ks_log *log, struct ks_err *err)
{
	struct ks_log_side *s = &log->side;
	enum sqlb_outcome outcome = log->ops->lease_refresh_all(s->role.conn, err);

	if (outcome == SQLB_OK) {
		s->duty_new = false;
		s->expiry_at_ms = ks_clock_now(log->clock) + EXPIRY_MS;
		s->audit_at_ms = 0; /* at once */
	}
	return outcome;
}

/* ---- expiry ---- */

#define EXPIRING_MAX (sizeof((struct ks_log_side){0}.expiring) / sizeof(int64_t))

struct expiry {
	struct ks_submit submit;
	struct ks_log *log;
};

static void expiry_done(struct ks_submit *submit)
{
	struct expiry *expiry = ks_container_of(submit, struct expiry, submit);
	struct ks_log_side *s = &expiry->log->side;

	if (submit->err.status == KS_OK)
		ks_result_fini(&submit->result);
	ks_mutex_lock(&s->role.mutex);
	for (size_t i = 0; i < s->expiring_count; i++)
		if (s->expiring[i] == submit->request.revoke.id)
			s->expiring[i] = s->expiring[--s->expiring_count];
	ks_mutex_unlock(&s->role.mutex);
	free(expiry);
}

/* Sends the revoke, unless it is on its way already. */
static void expire_lease(struct ks_log *log, int64_t id)
{
	struct ks_log_side *s = &log->side;
	struct expiry *expiry = calloc(1, sizeof(*expiry));
	bool send = expiry != NULL;

	ks_mutex_lock(&s->role.mutex);
	for (size_t i = 0; i < s->expiring_count; i++)
		send = send && s->expiring[i] != id;
	send = send && s->expiring_count < EXPIRING_MAX;
	if (send)
		s->expiring[s->expiring_count++] = id;
	ks_mutex_unlock(&s->role.mutex);
	if (!send) {
		free(expiry);
		return;
	}
	expiry->log = log;
	expiry->submit.request = (struct ks_request){
		.kind = KS_REQ_LEASE_REVOKE,
		.caller = {.internal = true},
		.revoke = {.id = id, .expired = true},
	};
	expiry->submit.done = expiry_done;
	ks_log_submit_expired(log, &expiry->submit);
}

static bool visit_expired(void *ctx, const struct sqlb_lease *lease)
{
	return lease->remaining_ms < 0 && id_add(ctx, lease->id);
}

/*
 * A deadline without a lease: either a grant that this store has not applied yet, or left over from a crash. It is left over
 * when the store still does not know it after it reached a head that was read after the deadline was seen.
 */
static enum sqlb_outcome drop_orphans(struct ks_log *log, const struct id_list *unknown, struct ks_err *err)
{
	struct ks_log_side *s = &log->side;
	struct sqlb_head head;
	size_t dropped = 0;
	enum sqlb_outcome outcome = SQLB_OK;

	if (s->orphan_count && ks_store_committed(log->store).position >= s->orphans_head) {
		for (size_t i = 0; i < s->orphan_count; i++)
			if (!in_store(log, s->orphans[i]))
				s->orphans[dropped++] = s->orphans[i];
		if (dropped)
			outcome = log->ops->lease_drop(s->role.conn, s->orphans, dropped, err);
		if (outcome == SQLB_OK)
			s->orphan_count = 0;
		return outcome;
	}
	if (s->orphan_count || !unknown->count)
		return SQLB_OK;
	outcome = log->ops->read_head(s->role.conn, &head, err);
	if (outcome != SQLB_OK)
		return outcome;
	s->orphan_count = unknown->count < EXPIRING_MAX ? unknown->count : EXPIRING_MAX;
	memcpy(s->orphans, unknown->ids, s->orphan_count * sizeof(*s->orphans));
	s->orphans_head = head.position;
	return SQLB_OK;
}

/* Without leases an idle server need not ask twice a second; deadlines without a lease can wait. */
static bool nothing_can_expire(struct ks_log *log)
{
	struct ks_store_stats stats;

	ks_store_stats(log->store, &stats);
	return !stats.leases && ++log->side.expiry_skipped % EXPIRY_SKIP != 0;
}

static enum sqlb_outcome scan_expired(struct ks_log *log, struct ks_err *err)
{
	struct ks_log_side *s = &log->side;
	struct id_list expired = {0}, unknown = {0};
	enum sqlb_outcome outcome;

	outcome = log->ops->lease_list(s->role.conn, EXPIRING_MAX, visit_expired, &expired, err);

	for (size_t i = 0; outcome == SQLB_OK && i < expired.count; i++) {
		if (in_store(log, expired.ids[i]))
			expire_lease(log, expired.ids[i]);
		else
			id_add(&unknown, expired.ids[i]);
	}
	if (outcome == SQLB_OK)
		outcome = drop_orphans(log, &unknown, err);
	s->expiry_at_ms = ks_clock_now(log->clock) + (expired.count == EXPIRING_MAX ? EXPIRY_SOON_MS : EXPIRY_MS);
	free(expired.ids);
	free(unknown.ids);
	return outcome;
}

/* ---- the step ---- */

/* True once after the log was loaded. */
static bool audit_wanted(struct ks_log_side *s)
{
	bool wanted;

	ks_mutex_lock(&s->role.mutex);
	wanted = s->audit_wanted;
	s->audit_wanted = false;
	ks_mutex_unlock(&s->role.mutex);
	return wanted;
}

/* The first periodic task that is due; its name, or NULL when none is. */
static const char *run_due(struct ks_log *log, enum sqlb_outcome *outcome, struct ks_err *err)
{
	struct ks_log_side *s = &log->side;
	int64_t now = ks_clock_now(log->clock);
	bool done;

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
	if (ks_log_duty_held(log) && s->duty_new) {
		*outcome = begin_duty(log, err);
		return "begin of duty";
	}
	if (ks_log_duty_held(log) && now >= s->expiry_at_ms && nothing_can_expire(log))
		s->expiry_at_ms = now + EXPIRY_MS; /* not asked: that says nothing of the database */
	if (ks_log_duty_held(log) && now >= s->expiry_at_ms) {
		*outcome = scan_expired(log, err);
		return "lease expiry";
	}
	if (ks_log_duty_held(log) && (now >= s->audit_at_ms || audit_wanted(s))) {
		*outcome = audit(log, &done, err);
		s->audit_at_ms = now + (done ? AUDIT_MS : EXPIRY_MS);
		return "lease audit";
	}
	if (s->trim_blocked_ms && now >= s->members_at_ms) {
		*outcome = ks_log_members_list(log, err);
		s->members_at_ms = now + EXPIRY_MS;
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
	busy = !s->duty_new && keepalives(log, &outcome, &err);
	if (outcome == SQLB_OK && lease_times(log, &outcome, &err)) {
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
	s->orphans = ks_xcalloc(EXPIRING_MAX, sizeof(*s->orphans));
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
	free(s->orphans);
}
