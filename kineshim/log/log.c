/* SPDX-License-Identifier: Apache-2.0 */
/* Life cycle of the SQL log: makes the parts, runs the threads, ends them; and what can be asked without waiting. */
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/diag.h"
#include "base/panic.h"
#include "log/log_priv.h"

typedef int64_t step_fn(struct ks_log *log);

struct thread_start {
	struct ks_log *log;
	struct ks_log_role *role;
	step_fn *step;
};

static void log_status(struct ks_committer *committer, struct ks_cluster_status *status)
{
	struct ks_log *log = ks_log_of(committer);
	struct ks_log_side *s = &log->side;
	int64_t applied = ks_store_committed(log->store).position;
	int64_t known = atomic_load(&log->head_known);

	*status = (struct ks_cluster_status){
		.cluster_id = atomic_load(&log->cluster_id),
		.member_id = log->config.member_id,
		.raft_index = (uint64_t)(known > applied ? known : applied),
		.raft_applied_index = (uint64_t)applied,
		.available = atomic_load(&log->loaded) && !atomic_load(&log->writer.role.away_since_ms) &&
			     !atomic_load(&log->reader.role.away_since_ms) &&
			     !atomic_load(&log->side.role.away_since_ms),
	};
	ks_mutex_lock(&s->role.mutex);
	status->leader_id = (uint64_t)s->duty.holder;
	/* Never 0 (spec 0.3), also before this instance has heard of a housekeeper; the first one's term is 1. */
	status->raft_term = s->duty.term > 0 ? (uint64_t)s->duty.term : 1;
	status->db_size = s->size.allocated;
	status->db_size_in_use = s->size.in_use;
	ks_mutex_unlock(&s->role.mutex);
}

static const struct ks_committer_ops committer_ops = {
	.submit = ks_log_submit,
	.prove_read = ks_log_prove_read,
	.fetch = ks_log_fetch,
	.keepalive = ks_log_keepalive,
	.lease_times = ks_log_lease_times,
	.chore = ks_log_chore,
	.status = log_status,
	.members = ks_log_members,
	.db_size = ks_log_db_size,
};

void ks_log_expire(struct ks_log *log)
{
	ks_log_writer_expire(log);
	ks_log_reader_expire(log);
	ks_log_side_expire(log);
}

static void expire_fired(struct ks_timer *timer)
{
	struct ks_log *log = ks_container_of(timer, struct ks_log, expire_timer);

	ks_log_expire(log);
	if (!atomic_load(&log->stopping))
		ks_timer_arm(log->timers, timer, KS_LOG_EXPIRE_MS);
}

/* ---- making ---- */

static uint64_t entropy(void)
{
	uint64_t random = 0;

	if (getentropy(&random, sizeof(random)) != 0)
		ks_diag(KS_WARN, "log", "no entropy from the system");
	return random ^ (uint64_t)ks_clock_now(ks_clock_system());
}

static void set_defaults(struct ks_log_config *config)
{
	while (!config->writer_id)
		config->writer_id = (int64_t)(entropy() >> 1);
	if (!config->clock)
		config->clock = ks_clock_system();
	if (config->request_timeout_ms <= 0)
		config->request_timeout_ms = 7000;
	if (config->duty_ttl_ms <= 0)
		config->duty_ttl_ms = 5000;
	if (config->member_ttl_ms <= 0)
		config->member_ttl_ms = 10000;
	if (!config->max_batch_bytes)
		config->max_batch_bytes = 4u << 20;
	if (config->max_batch_bytes > SQLB_MAX_BYTES)
		config->max_batch_bytes = SQLB_MAX_BYTES;
	if (!config->max_batch_entries)
		config->max_batch_entries = 4096;
	if (config->max_batch_entries > SQLB_MAX_ROWS)
		config->max_batch_entries = SQLB_MAX_ROWS;
	if (!config->max_queue_bytes)
		config->max_queue_bytes = 256u << 20;
}

static struct ks_log_role *role_of(struct ks_log *log, enum ks_log_role_id id)
{
	switch (id) {
	case KS_LOG_WRITER:
		return &log->writer.role;
	case KS_LOG_TAIL:
		return &log->tail.role;
	case KS_LOG_READER:
		return &log->reader.role;
	case KS_LOG_SIDE:
		return &log->side.role;
	case KS_LOG_CHORES:
		return &log->chores.role;
	case KS_LOG_ROLES:
		break;
	}
	return NULL;
}

static void init_parts(struct ks_log *log)
{
	static const char *const names[KS_LOG_ROLES] = {"ks-writer", "ks-tail", "ks-reader", "ks-side", "ks-chores"};
	uint64_t seed = (uint64_t)log->config.writer_id;

	for (int i = 0; i < KS_LOG_ROLES; i++) {
		ks_log_role_init(role_of(log, (enum ks_log_role_id)i), names[i], ks_log_random(&seed));
		role_of(log, (enum ks_log_role_id)i)->id = (enum ks_log_role_id)i;
	}
	ks_list_init(&log->writer.queue);
	ks_list_init(&log->writer.expired);
	log->writer.moved_past = -1;
	log->writer.batch_max = log->config.max_batch_entries;
	log->writer.random = ks_log_random(&seed);
	ks_turn_init(&log->writer.turn, log->config.writer_id);
	ks_list_init(&log->reader.fresh);
	ks_list_init(&log->reader.sent);
	ks_list_init(&log->reader.waiting);
	ks_list_init(&log->reader.fetches);
	ks_list_init(&log->reader.chunk);
	ks_list_init(&log->chores.queue);
	ks_log_side_init(log);
}

static void log_free(struct ks_log *log)
{
	ks_log_writer_fini(log);
	ks_log_reader_fini(log);
	ks_log_side_fini(log);
	for (int i = 0; i < KS_LOG_ROLES; i++) {
		struct ks_log_role *role = role_of(log, (enum ks_log_role_id)i);

		log->ops->disconnect(role->conn);
		ks_log_role_fini(role);
	}
	ks_store_free(log->store);
	free(log->name);
	free(log->client_urls);
	free(log);
}

static struct ks_log *log_new(const struct ks_log_config *config, struct ks_err *err)
{
	struct ks_log *log = ks_xcalloc(1, sizeof(*log));
	struct ks_store_config store = {.value_cache_bytes = config->value_cache_bytes, .fetch = ks_log_writer_fetch};

	KS_ASSERT(config->member_id != 0);
	log->committer.ops = &committer_ops;
	log->config = *config;
	set_defaults(&log->config);
	log->ops = config->backend;
	log->clock = log->config.clock;
	log->name = ks_xstrdup(config->name ? config->name : "");
	log->client_urls = ks_xstrdup(config->client_urls ? config->client_urls : "");
	init_parts(log);
	store.fetch_ctx = log;
	log->store = ks_store_new(&store, err);
	if (!log->store) {
		log_free(log);
		return NULL;
	}
	for (int i = 0; i < KS_LOG_CHORES; i++) {
		if (log->ops->connect(config->db, &role_of(log, (enum ks_log_role_id)i)->conn, err) != SQLB_OK) {
			log_free(log);
			return NULL;
		}
	}
	return log;
}

struct ks_log *ks_log_new_stepped(const struct ks_log_config *config, struct ks_err *err)
{
	struct ks_log *log = log_new(config, err);

	if (log)
		log->stepped = true;
	return log;
}

/* ---- threads ---- */

static void *run(void *arg)
{
	struct thread_start start = *(struct thread_start *)arg;
	struct ks_log *log = start.log;
	struct ks_log_role *role = start.role;

	free(arg);
	while (!atomic_load(&log->stopping)) {
		int64_t wait_ms = start.step(log);

		ks_mutex_lock(&role->mutex);
		/* A poke that came during the step makes the next one follow at once. */
		if (wait_ms > 0 && !role->poked && !atomic_load(&log->stopping))
			ks_cond_wait(&role->cond, &role->mutex, wait_ms == KS_LOG_IDLE ? -1 : wait_ms);
		role->poked = false;
		ks_mutex_unlock(&role->mutex);
	}
	/* What this thread was working on when it was told to stop: calls wait for it, and the net waits for them. */
	if (role == &log->writer.role)
		ks_log_writer_abandon(log);
	else if (role == &log->reader.role)
		ks_log_reader_abandon(log);
	else if (role == &log->side.role)
		ks_log_side_fail_all(log, "etcdserver: server stopped");
	if (role == &log->side.role)
		ks_log_side_leave(log);
	return NULL;
}

static enum ks_status start_thread(struct ks_log *log, enum ks_log_role_id id, struct ks_err *err)
{
	static step_fn *const steps[KS_LOG_ROLES] = {ks_log_writer_step, ks_log_tail_step, ks_log_reader_step,
						     ks_log_side_step, ks_log_chores_step};
	struct thread_start *start = ks_xmalloc(sizeof(*start));
	enum ks_status status;

	*start = (struct thread_start){log, role_of(log, id), steps[id]};
	status = ks_thread_start(&start->role->thread, start->role->name, run, start, err);
	if (status == KS_OK)
		role_of(log, id)->started = true;
	else
		free(start);
	return status;
}

struct ks_log *ks_log_start(const struct ks_log_config *config, struct ks_err *err)
{
	struct ks_log *log = log_new(config, err);

	if (!log)
		return NULL;
	log->timers = ks_timers_start(err);
	if (!log->timers) {
		log_free(log);
		return NULL;
	}
	ks_timer_init(&log->expire_timer, expire_fired);
	ks_timer_arm(log->timers, &log->expire_timer, KS_LOG_EXPIRE_MS);
	for (int i = 0; i < KS_LOG_ROLES; i++) {
		if (i == KS_LOG_TAIL && log->ops->features & SQLB_EXCLUSIVE)
			continue; /* nobody else appends */
		if (start_thread(log, (enum ks_log_role_id)i, err) != KS_OK) {
			ks_log_stop(log);
			return NULL;
		}
	}
	ks_log_gauges_start(log);
	return log;
}

void ks_log_quit(struct ks_log *log)
{
	static const char text[] = "etcdserver: server stopped";

	atomic_store(&log->stopping, true);
	if (log->tail.role.started)
		log->ops->cancel(log->tail.role.conn);
	for (int i = 0; i < KS_LOG_ROLES; i++)
		ks_log_role_poke(role_of(log, (enum ks_log_role_id)i));
	ks_log_writer_fail_all(log, text);
	ks_log_reader_fail_all(log, text);
	ks_log_side_fail_all(log, text);
	ks_log_chores_fail_all(log, text);
}

void ks_log_stop(struct ks_log *log)
{
	if (!log)
		return;
	ks_log_gauges_stop(log);
	ks_log_quit(log);
	for (int i = 0; i < KS_LOG_ROLES; i++) {
		struct ks_log_role *role = role_of(log, (enum ks_log_role_id)i);

		if (role->started)
			ks_thread_join(role->thread);
		role->started = false;
	}
	if (log->stepped)
		ks_log_side_leave(log);
	if (log->timers) {
		ks_timer_cancel(log->timers, &log->expire_timer);
		ks_timers_stop(log->timers);
	}
	log_free(log);
}

struct ks_store *ks_log_store(struct ks_log *log)
{
	return log->store;
}

struct ks_committer *ks_log_committer(struct ks_log *log)
{
	return &log->committer;
}
