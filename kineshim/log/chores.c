/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Chores: what a client asks of this instance and no other. Those that may take minutes are done here, on a thread and a connection of
 * their own, so that no keepalive waits behind them; the connection is made for a chore and given back after it. The others wait
 * for the side thread: a move of the duty (duty.c), the size (size.c), the end of a physical compaction (trim.c).
 */
#include <stdlib.h>

#include "log/housekeeper.h"
#include "store/alarm.h"

#define HASH_CHUNK 512

/* ---- any thread ---- */

static void fail(struct ks_chore *chore, enum ks_status status, const char *text)
{
	ks_fail(&chore->err, status, "%s", text);
	chore->done(chore);
}

void ks_log_chore(struct ks_committer *committer, struct ks_chore *chore)
{
	struct ks_log *log = ks_log_of(committer);
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
	refusal = ks_log_role_queue(log, role, queue, &chore->link);
	if (refusal)
		fail(chore, KS_UNAVAILABLE, refusal);
}

/* Those that have waited since then. */
static void fail_waiting(struct ks_log_role *role, struct ks_list *queue, int64_t than_ms, enum ks_status status,
			 const char *text)
{
	struct ks_list failed, *link;

	ks_list_init(&failed);
	ks_mutex_lock(&role->mutex);
	while (!ks_list_empty(queue) && ks_container_of(queue->next, struct ks_chore, link)->since_ms <= than_ms) {
		link = ks_list_pop(queue);
		ks_list_append(&failed, link);
	}
	ks_mutex_unlock(&role->mutex);
	while ((link = ks_list_pop(&failed)))
		fail(ks_container_of(link, struct ks_chore, link), status, text);
}

void ks_log_chores_fail_all(struct ks_log *log, const char *text)
{
	fail_waiting(&log->chores.role, &log->chores.queue, INT64_MAX, KS_UNAVAILABLE, text);
}

void ks_log_side_chores_fail_all(struct ks_log *log, const char *text)
{
	struct ks_log_side *s = &log->side;
	struct ks_list *const queues[] = {&s->physical, &s->moves, &s->moving, &s->sizes};

	for (size_t i = 0; i < sizeof(queues) / sizeof(queues[0]); i++)
		fail_waiting(&s->role, queues[i], INT64_MAX, KS_UNAVAILABLE, text);
}

void ks_log_side_chores_expire(struct ks_log *log, int64_t than_ms)
{
	struct ks_log_side *s = &log->side;

	fail_waiting(&s->role, &s->moving, than_ms, KS_UNKNOWN, KS_LOG_MOVE_TIMEOUT);
	fail_waiting(&s->role, &s->moves, than_ms, KS_UNKNOWN, KS_LOG_MOVE_TIMEOUT);
	fail_waiting(&s->role, &s->sizes, than_ms, KS_UNAVAILABLE, "etcdserver: request timed out");
}

/* ---- the thread for long ones ---- */

struct values {
	const struct ks_loc *locs;
	struct ks_bytes **out;
	size_t count;
	bool no_memory;
};

static bool take_value(void *ctx, const struct sqlb_row *row)
{
	struct values *values = ctx;
	struct ks_bytes *encoded = NULL;

	if (row->kind != KS_EFFECT_PUT)
		return true;
	for (size_t i = 0; i < values->count; i++) {
		if (values->locs[i].position != row->position || values->locs[i].sub != row->sub || values->out[i])
			continue;
		encoded = encoded ? ks_bytes_ref(encoded) : ks_log_row_encode(row);
		values->no_memory = !encoded;
		values->out[i] = encoded;
	}
	return !values->no_memory;
}

static bool hash_fetch(void *ctx, const struct ks_loc *locs, struct ks_bytes **out, size_t count)
{
	struct ks_log *log = ctx;

	for (size_t done = 0; done < count; done += HASH_CHUNK) {
		size_t some = count - done < HASH_CHUNK ? count - done : HASH_CHUNK;
		struct values values = {.locs = locs + done, .out = out + done, .count = some};
		struct sqlb_loc at[HASH_CHUNK];
		struct ks_err err = {0};

		if (atomic_load(&log->stopping))
			return false;
		for (size_t i = 0; i < some; i++)
			at[i] = (struct sqlb_loc){locs[done + i].position, locs[done + i].sub};
		if (log->ops->read_at(log->chores.role.conn, at, some, take_value, &values, &err) != SQLB_OK ||
		    values.no_memory)
			return false;
	}
	return true;
}

/*
 * Who has run out of room and defragments wants all of it, and writes are refused anyway. The quota must hear of it before the
 * next write comes.
 */
static enum sqlb_outcome defragment(struct ks_log *log, struct ks_err *err)
{
	struct sqlb_conn *conn = log->chores.role.conn;
	bool no_space = ks_store_alarm_types(log->store) & 1u << KS_ALARM_NOSPACE;
	enum sqlb_outcome outcome = log->ops->defragment(conn, no_space, err);

	return outcome == SQLB_OK ? ks_log_size_poll(log, conn, err) : outcome;
}

static void run(struct ks_log *log, struct ks_chore *chore)
{
	struct ks_err err = {0};
	enum sqlb_outcome outcome = SQLB_OK;

	int64_t began = ks_metrics_now();

	chore->err.status = KS_OK;
	switch (chore->kind) {
	case KS_CHORE_HASH_KV:
		chore->err.status =
			ks_store_hash_kv(log->store, chore->revision, hash_fetch, log, &chore->hash, &chore->err);
		KS_OBSERVE(HASH_REV_DURATION, ks_metrics_now() - began);
		break;
	case KS_CHORE_DEFRAGMENT:
		KS_SET(DEFRAG_INFLIGHT, 1);
		outcome = defragment(log, &err);
		KS_SET(DEFRAG_INFLIGHT, 0);
		KS_OBSERVE(DEFRAG_DURATION, ks_metrics_now() - began);
		break;
	case KS_CHORE_COMPACT_PHYSICAL: /* the side thread's */
	case KS_CHORE_MOVE_LEADER:
	case KS_CHORE_SIZE:
		break;
	}
	if (outcome == SQLB_BROKEN)
		ks_fail(&chore->err, KS_INTERNAL, "etcdserver: %s", err.text);
	else if (outcome != SQLB_OK)
		ks_fail(&chore->err, KS_UNAVAILABLE, "etcdserver: %s", err.text);
	chore->done(chore);
}

int64_t ks_log_chores_step(struct ks_log *log)
{
	struct ks_log_role *role = &log->chores.role;
	struct ks_chore *chore;
	struct ks_list *link;
	struct ks_err err = {0};

	ks_mutex_lock(&role->mutex);
	link = ks_list_pop(&log->chores.queue);
	ks_mutex_unlock(&role->mutex);
	if (!link)
		return KS_LOG_IDLE;
	chore = ks_container_of(link, struct ks_chore, link);
	if (log->ops->connect(log->config.db, &role->conn, &err) != SQLB_OK) {
		fail(chore, KS_RESOURCE_EXHAUSTED, err.text);
		return 0;
	}
	run(log, chore);
	log->ops->disconnect(role->conn);
	role->conn = NULL;
	return 0;
}
