/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Leases end: what the holder of the duty does for them. When it becomes that it gives every lease its whole time again, as etcd does on a
 * change of leader, because keepalives may have been impossible until now. From then on it submits a revoke of each lease that is past
 * its deadline, sees to it that every lease has one, and drops deadlines that are left over.
 *
 * The database's clock judges deadlines, and the proof that a lease is past its own is part of the append of its revoke
 * (sqlb_append.leases_expired). So a holder whose duty ran out without its noticing does no harm: two of them only work twice.
 */
#include <stdlib.h>
#include <string.h>

#include "base/diag.h"
#include "base/panic.h"
#include "log/housekeeper.h"

#define EXPIRY_MS 500
#define EXPIRY_SOON_MS 50
#define EXPIRY_SKIP 20 /* while there are no leases, only each so many-th scan asks the database */
#define AUDIT_MS 60000
#define EXPIRING_MAX (sizeof((struct ks_log_side){0}.expiring) / sizeof(int64_t))

void ks_log_expiry_init(struct ks_log *log)
{
	log->side.orphans = ks_xcalloc(EXPIRING_MAX, sizeof(*log->side.orphans));
}

void ks_log_expiry_fini(struct ks_log *log)
{
	free(log->side.orphans);
}

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

/* ---- the duty begins ---- */

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

/* ---- every lease has a deadline ---- */

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

/* ---- past their deadlines ---- */

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
			if (!ks_log_lease_known(log, s->orphans[i]))
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

static enum sqlb_outcome scan_expired(struct ks_log *log, struct ks_err *err)
{
	struct ks_log_side *s = &log->side;
	struct id_list expired = {0}, unknown = {0};
	enum sqlb_outcome outcome;

	outcome = log->ops->lease_list(s->role.conn, EXPIRING_MAX, visit_expired, &expired, err);
	for (size_t i = 0; outcome == SQLB_OK && i < expired.count; i++) {
		if (ks_log_lease_known(log, expired.ids[i]))
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

/* Without leases an idle server need not ask twice a second; deadlines without a lease can wait. */
static bool nothing_can_expire(struct ks_log *log)
{
	struct ks_store_stats stats;

	ks_store_stats(log->store, &stats);
	return !stats.leases && ++log->side.expiry_skipped % EXPIRY_SKIP != 0;
}

/* ---- the step ---- */

const char *ks_log_expiry_step(struct ks_log *log, int64_t now, enum sqlb_outcome *outcome, struct ks_err *err)
{
	struct ks_log_side *s = &log->side;
	bool done;

	if (!ks_log_duty_held(log))
		return NULL;
	if (s->duty_new) {
		*outcome = begin_duty(log, err);
		return "begin of duty";
	}
	if (now >= s->expiry_at_ms && nothing_can_expire(log))
		s->expiry_at_ms = now + EXPIRY_MS; /* not asked: that says nothing of the database */
	if (now >= s->expiry_at_ms) {
		*outcome = scan_expired(log, err);
		return "lease expiry";
	}
	if (now >= s->audit_at_ms || audit_wanted(s)) {
		*outcome = audit(log, &done, err);
		s->audit_at_ms = now + (done ? AUDIT_MS : EXPIRY_MS);
		return "lease audit";
	}
	return NULL;
}
