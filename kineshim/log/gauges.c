/* SPDX-License-Identifier: Apache-2.0 */
/* The log's numbers that are asked for when the metrics are read (base/metrics.h). Nothing here waits for the database. */
#include "base/metrics.h"
#include "log/log_priv.h"

static const struct ks_log_role *const *roles(const struct ks_log *log, const struct ks_log_role *all[KS_LOG_ROLES])
{
	all[KS_LOG_WRITER] = &log->writer.role;
	all[KS_LOG_TAIL] = &log->tail.role;
	all[KS_LOG_READER] = &log->reader.role;
	all[KS_LOG_SIDE] = &log->side.role;
	all[KS_LOG_CHORES] = &log->chores.role;
	return all;
}

/* The indices of the labels ROLE and DB_STATE are those of enum ks_log_role_id and of the enum below. */
enum { OK, AWAY, BROKEN, STATES };
_Static_assert((int)KS_LOG_ROLES == (int)KS_METRIC_LABEL_SIZE_ROLE, "a role has no label");
_Static_assert((int)STATES == (int)KS_METRIC_LABEL_SIZE_DB_STATE, "a state has no label");

static void ask_connections(struct ks_log *log)
{
	const struct ks_log_role *all[KS_LOG_ROLES];

	(void)roles(log, all);
	for (int i = 0; i < KS_LOG_ROLES; i++) {
		int state = atomic_load(&all[i]->away_since_ms) == 0 ? OK : AWAY;

		if (atomic_load(&all[i]->broken))
			state = BROKEN;
		for (int j = 0; j < STATES; j++)
			KS_SET_AT(DB_STATES, i * STATES + j, j == state);
	}
}

static void ask_queues(struct ks_log *log)
{
	struct ks_log_writer *w = &log->writer;
	struct ks_log_reader *r = &log->reader;
	size_t requests, bytes, fetches = 0;

	ks_mutex_lock(&w->role.mutex);
	requests = w->queue_count;
	bytes = w->queue_bytes;
	ks_mutex_unlock(&w->role.mutex);
	ks_mutex_lock(&r->role.mutex);
	for (const struct ks_list *link = r->fetches.next; link != &r->fetches; link = link->next)
		fetches++;
	ks_mutex_unlock(&r->role.mutex);
	KS_SET(LOG_QUEUE, requests);
	KS_SET(LOG_QUEUE_BYTES, bytes);
	KS_SET(PROPOSALS_PENDING, requests + atomic_load_explicit(&w->in_flight, memory_order_relaxed));
	KS_SET(OPEN_READS, fetches);
}

static void ask_positions(struct ks_log *log)
{
	int64_t applied = ks_store_committed(log->store).position;
	int64_t known = atomic_load(&log->head_known), since = atomic_load(&log->behind_since_ms);
	bool behind = known > applied;

	if (!behind)
		known = applied;
	KS_SET(LOG_APPLIED, applied);
	KS_SET(LOG_LAG, known - applied);
	KS_SET(LOG_LAG_TIME, behind && since ? (double)(ks_clock_now(log->clock) - since) / 1000 : 0);
	KS_SET(PROPOSALS_APPLIED, applied);
	KS_SET(PROPOSALS_COMMITTED, known);
	KS_SET(LOADED, atomic_load(&log->loaded));
	KS_SET(SNAPSHOT_APPLY, !atomic_load(&log->loaded));
}

static void ask_side(struct ks_log *log)
{
	struct ks_log_side *s = &log->side;
	int64_t holder, term;
	size_t members;
	struct sqlb_size size;

	ks_mutex_lock(&s->role.mutex);
	holder = s->duty.holder;
	term = s->duty.term;
	members = s->member_count;
	size = s->size;
	ks_mutex_unlock(&s->role.mutex);
	KS_SET(HOUSEKEEPER, (uint64_t)holder == log->config.member_id);
	KS_SET(HOUSEKEEPER_TERM, term);
	KS_SET(INSTANCES, members);
	KS_SET(DB_SIZE, size.allocated);
	KS_SET(DB_IN_USE, size.in_use);
}

static void ask(struct ks_metrics_source *source, struct ks_metrics_sink *sink)
{
	struct ks_log *log = ks_container_of(source, struct ks_log, source);

	(void)sink;
	ask_connections(log);
	ask_queues(log);
	ask_positions(log);
	ask_side(log);
	KS_SET(CACHE_LIMIT, log->config.value_cache_bytes);
	KS_SET(QUOTA, log->config.quota_bytes > 0 ? log->config.quota_bytes : 0);
}

void ks_log_gauges_start(struct ks_log *log)
{
	log->source.ask = ask;
	ks_metrics_add_source(&log->source);
}

void ks_log_gauges_stop(struct ks_log *log)
{
	ks_metrics_remove_source(&log->source);
}

/* A position that the log was seen at. While it lies before the applied one, the time since then is the lag. */
void ks_log_know_head(struct ks_log *log, int64_t position)
{
	int64_t none = 0;

	if (atomic_load(&log->head_known) >= position)
		return;
	atomic_store(&log->head_known, position);
	if (position > ks_store_committed(log->store).position)
		(void)atomic_compare_exchange_strong(&log->behind_since_ms, &none, ks_clock_now(log->clock));
}

void ks_log_caught_up(struct ks_log *log, int64_t applied)
{
	if (atomic_load(&log->head_known) <= applied) {
		atomic_store(&log->head_known, applied);
		atomic_store(&log->behind_since_ms, 0);
	}
}
