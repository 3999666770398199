/* SPDX-License-Identifier: Apache-2.0 */
/* The threaded form of the log: two instances on one memory database with real threads and real time. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/diag.h"
#include "base/metrics.h"
#include "base/panic.h"
#include "base/thread.h"
#include "log/log.h"
#include "sqlbackends/memory.h"
#include "store/alarm.h"
#include "tests/lib/tap.h"

#define CLIENTS 4
#define PUTS 150

struct instance {
	struct sqlb_db *db;
	struct ks_log *log;
	struct ks_store *store;
	struct ks_committer *committer;
	_Atomic int ready;
};

/* Something to wait for; every request of these tests carries one. */
struct gate {
	struct ks_mutex mutex;
	struct ks_cond cond;
	bool open;
};

struct request {
	struct ks_submit submit;
	struct ks_read_proof proof;
	struct ks_keepalive keepalive;
	struct ks_chore chore;
	struct gate gate;
	int64_t revision; /* of the result */
};

static struct instance instances[2];
static const char *database;
static struct ks_autocompact_config autocompact; /* of both */

static void gate_init(struct gate *gate)
{
	ks_mutex_init(&gate->mutex);
	ks_cond_init(&gate->cond);
	gate->open = false;
}

static void gate_open(struct gate *gate)
{
	ks_mutex_lock(&gate->mutex);
	gate->open = true;
	ks_cond_signal(&gate->cond);
	ks_mutex_unlock(&gate->mutex);
}

static void gate_wait(struct gate *gate)
{
	ks_mutex_lock(&gate->mutex);
	while (!gate->open)
		if (!ks_cond_wait(&gate->cond, &gate->mutex, 60000) && !gate->open)
			ks_panic(__FILE__, __LINE__, "no answer within a minute");
	ks_mutex_unlock(&gate->mutex);
	ks_cond_fini(&gate->cond);
	ks_mutex_fini(&gate->mutex);
}

static void submitted(struct ks_submit *submit)
{
	gate_open(&ks_container_of(submit, struct request, submit)->gate);
}

static void proven(struct ks_read_proof *proof)
{
	gate_open(&ks_container_of(proof, struct request, proof)->gate);
}

static void kept_alive(struct ks_keepalive *keepalive)
{
	gate_open(&ks_container_of(keepalive, struct request, keepalive)->gate);
}

static void chore_done(struct ks_chore *chore)
{
	gate_open(&ks_container_of(chore, struct request, chore)->gate);
}

static void is_ready(void *ctx)
{
	atomic_fetch_add(&((struct instance *)ctx)->ready, 1);
}

static void start(size_t i)
{
	char url[64];
	struct ks_err err;
	struct ks_log_config config = {.backend = &sqlb_memory_ops,
				       .value_cache_bytes = 1000,
				       .name = i ? "b" : "a",
				       .client_urls = "http://127.0.0.1:1",
				       .member_id = i + 1,
				       .duty_ttl_ms = 600,
				       .autocompact = autocompact,
				       .quota_bytes = 1 << 20,
				       .ready = is_ready,
				       .ctx = &instances[i]};

	snprintf(url, sizeof(url), "memory://%s", database);
	atomic_store(&instances[i].ready, 0);
	KS_ASSERT(sqlb_memory_ops.open(url, NULL, &instances[i].db, &err) == KS_OK);
	config.db = instances[i].db;
	instances[i].log = ks_log_start(&config, &err);
	KS_ASSERT(instances[i].log);
	instances[i].store = ks_log_store(instances[i].log);
	instances[i].committer = ks_log_committer(instances[i].log);
}

static void stop(size_t i)
{
	ks_log_stop(instances[i].log);
	sqlb_memory_ops.close(instances[i].db);
}

static enum ks_status submit_wait(size_t i, struct request *request)
{
	request->submit.done = submitted;
	request->submit.bytes = 64;
	gate_init(&request->gate);
	instances[i].committer->ops->submit(instances[i].committer, &request->submit);
	gate_wait(&request->gate);
	request->revision = request->submit.err.status == KS_OK ? request->submit.result.revision : 0;
	if (request->submit.err.status == KS_OK)
		ks_result_fini(&request->submit.result);
	return request->submit.err.status;
}

static enum ks_status put(size_t i, const char *key, const char *value, int64_t lease, int64_t *revision)
{
	struct request request = {
		.submit = {
			.request = {.kind = KS_REQ_PUT,
				    .put = {.key = ks_slice_str(key), .value = ks_slice_str(value), .lease = lease}}}};
	enum ks_status status = submit_wait(i, &request);

	if (revision)
		*revision = request.revision;
	return status;
}

static enum ks_status prove(size_t i)
{
	struct request request = {.proof = {.done = proven}};

	gate_init(&request.gate);
	instances[i].committer->ops->prove_read(instances[i].committer, &request.proof);
	gate_wait(&request.gate);
	return request.proof.err.status;
}

static bool exists(size_t i, const char *key, int64_t *version)
{
	struct ks_range_req req = {.interval = {.key = ks_slice_str(key)}, .count_only = version == NULL};
	struct ks_range_result result = {0};
	struct ks_err err;
	struct ks_kv kv = {0};
	int64_t revision;
	bool found;

	KS_ASSERT(ks_store_range(instances[i].store, &req, &result, &revision, &err) == KS_OK);
	found = result.count > 0;
	if (version && found && result.kvs[0].encoded && ks_kv_decode(ks_bytes_slice(result.kvs[0].encoded), &kv))
		*version = kv.version;
	ks_range_result_fini(&result);
	return found;
}

static void wait_ready(size_t i)
{
	for (int turn = 0; turn < 10000 && !atomic_load(&instances[i].ready); turn++) {
		struct timespec ms = {.tv_nsec = 1000000};

		nanosleep(&ms, NULL);
	}
	CU_ASSERT_EQUAL(atomic_load(&instances[i].ready), 1);
}

static void *client(void *arg)
{
	size_t number = *(size_t *)arg, at = number % 2;
	char key[32];

	for (int i = 0; i < PUTS; i++) {
		int64_t revision = 0, shared;

		snprintf(key, sizeof(key), "c%zu-%d", number, i);
		KS_ASSERT(put(at, key, "v", 0, &revision) == KS_OK);
		KS_ASSERT(put(at, "shared", "v", 0, &shared) == KS_OK);
		KS_ASSERT(shared > revision);
		/* What was acknowledged here is there for whoever asks the other instance now. */
		KS_ASSERT(prove(1 - at) == KS_OK);
		KS_ASSERT(exists(1 - at, key, NULL));
	}
	return NULL;
}

static void writers_on_two_instances_agree(void)
{
	pthread_t threads[CLIENTS];
	size_t numbers[CLIENTS];
	struct ks_err err;
	int64_t version = 0;

	database = "threads-agree";
	start(0);
	start(1);
	wait_ready(0);
	wait_ready(1);
	for (size_t i = 0; i < CLIENTS; i++) {
		numbers[i] = i;
		KS_ASSERT(ks_thread_start(&threads[i], "client", client, &numbers[i], &err) == KS_OK);
	}
	for (size_t i = 0; i < CLIENTS; i++)
		ks_thread_join(threads[i]);
	for (size_t i = 0; i < 2; i++) {
		CU_ASSERT_EQUAL(prove(i), KS_OK);
		CU_ASSERT_EQUAL(ks_store_committed(instances[i].store).revision, 1 + CLIENTS * PUTS * 2);
	}
	CU_ASSERT(exists(0, "shared", &version));
	stop(1);
	stop(0);
	sqlb_memory_forget(database);
}

static enum sqlb_memory_fault sometimes(void *ctx, const char *op, struct sqlb_conn *conn)
{
	static _Atomic unsigned calls;
	unsigned call = atomic_fetch_add(&calls, 1);

	(void)ctx;
	(void)conn;
	if (strcmp(op, "append") == 0 && call % 7 == 0)
		return call % 2 ? SQLB_FAULT_DOUBT_DONE : SQLB_FAULT_DOUBT_LOST;
	return call % 23 == 0 ? SQLB_FAULT_AWAY : SQLB_FAULT_NONE;
}

static void writers_agree_while_the_database_fails_at_times(void)
{
	pthread_t threads[CLIENTS];
	size_t numbers[CLIENTS];
	struct ks_err err;

	database = "threads-faults";
	start(0);
	start(1);
	wait_ready(0);
	wait_ready(1);
	sqlb_memory_set_faults(database, sometimes, NULL, 0);
	for (size_t i = 0; i < CLIENTS; i++) {
		numbers[i] = i;
		KS_ASSERT(ks_thread_start(&threads[i], "client", client, &numbers[i], &err) == KS_OK);
	}
	for (size_t i = 0; i < CLIENTS; i++)
		ks_thread_join(threads[i]);
	sqlb_memory_set_faults(database, NULL, NULL, 0);
	CU_ASSERT_EQUAL(prove(0), KS_OK);
	CU_ASSERT_EQUAL(ks_store_committed(instances[0].store).revision, 1 + CLIENTS * PUTS * 2);
	stop(0);
	stop(1);
	sqlb_memory_forget(database);
}

static enum sqlb_memory_fault away(void *ctx, const char *op, struct sqlb_conn *conn)
{
	(void)ctx;
	(void)op;
	(void)conn;
	return SQLB_FAULT_AWAY;
}

static void start_without_a_database_waits_for_it(void)
{
	database = "threads-late";
	sqlb_memory_set_faults(database, away, NULL, 0);
	start(0);
	CU_ASSERT_EQUAL(put(0, "k", "v", 0, NULL), KS_UNAVAILABLE);
	CU_ASSERT_EQUAL(prove(0), KS_UNAVAILABLE);
	CU_ASSERT_EQUAL(atomic_load(&instances[0].ready), 0);
	sqlb_memory_set_faults(database, NULL, NULL, 0);
	wait_ready(0);
	CU_ASSERT_EQUAL(put(0, "k", "v", 0, NULL), KS_OK);
	stop(0);
	sqlb_memory_forget(database);
}

static enum sqlb_memory_fault full(void *ctx, const char *op, struct sqlb_conn *conn)
{
	_Atomic int *left = ctx;

	(void)conn;
	return strcmp(op, "append") == 0 && atomic_fetch_sub(left, 1) > 0 ? SQLB_FAULT_AWAY : SQLB_FAULT_NONE;
}

/* As on a full disk: reading the head succeeds between two appends that do not, which looks as if it came and went. */
static void a_database_that_comes_and_goes_does_not_fill_the_log(void)
{
	const size_t failures = 1; /* of the writer, away */
	double warned, failed;
	_Atomic int left = 30;

	database = "threads-full";
	start(0);
	wait_ready(0);
	warned = ks_metrics_value(KS_METRIC_LOG_LINES, KS_WARN);
	failed = ks_metrics_value(KS_METRIC_DB_FAILURES, failures);
	sqlb_memory_set_faults(database, full, &left, 0);
	CU_ASSERT_EQUAL(put(0, "k", "v", 0, NULL), KS_OK);
	CU_ASSERT(ks_metrics_value(KS_METRIC_DB_FAILURES, failures) - failed >= 30);
	CU_ASSERT_EQUAL(ks_metrics_value(KS_METRIC_LOG_LINES, KS_WARN) - warned, 1);
	sqlb_memory_set_faults(database, NULL, NULL, 0);
	stop(0);
	sqlb_memory_forget(database);
}

static void leases_expire_compaction_trims_and_quit_answers(void)
{
	struct request grant = {.submit = {.request = {.kind = KS_REQ_LEASE_GRANT, .grant = {.id = 9, .ttl = 1}}}};
	struct request compact = {.submit = {.request = {.kind = KS_REQ_COMPACT}}};
	struct request physical = {.chore = {.kind = KS_CHORE_COMPACT_PHYSICAL, .done = chore_done}};
	struct request hash = {.chore = {.kind = KS_CHORE_HASH_KV, .done = chore_done}};
	struct request keep = {.keepalive = {.id = 9, .done = kept_alive}};
	struct ks_member *members;
	struct ks_cluster_status status;
	size_t count;

	database = "threads-leases";
	start(0);
	start(1);
	wait_ready(0);
	wait_ready(1);
	CU_ASSERT_EQUAL(submit_wait(0, &grant), KS_OK);
	CU_ASSERT_EQUAL(put(1, "leased", "v", 9, NULL), KS_OK);
	CU_ASSERT_EQUAL(prove(0), KS_OK);
	CU_ASSERT(exists(0, "leased", NULL));
	for (int turn = 0; turn < 1500 && exists(0, "leased", NULL); turn++) {
		struct timespec ms = {.tv_nsec = 10000000};

		nanosleep(&ms, NULL);
	}
	CU_ASSERT_FALSE(exists(0, "leased", NULL));
	gate_init(&keep.gate);
	instances[1].committer->ops->keepalive(instances[1].committer, &keep.keepalive);
	gate_wait(&keep.gate);
	CU_ASSERT_EQUAL(keep.keepalive.err.status, KS_OK);
	CU_ASSERT_EQUAL(keep.keepalive.ttl, 0);
	for (int i = 0; i < 20; i++)
		CU_ASSERT_EQUAL(put(0, "k", "v", 0, NULL), KS_OK);
	compact.submit.request.compact_revision = ks_store_committed(instances[0].store).revision;
	CU_ASSERT_EQUAL(submit_wait(0, &compact), KS_OK);
	for (size_t i = 0; i < 2; i++) {
		gate_init(&physical.gate);
		instances[i].committer->ops->chore(instances[i].committer, &physical.chore);
		gate_wait(&physical.gate);
		CU_ASSERT_EQUAL(physical.chore.err.status, KS_OK);
		gate_init(&hash.gate);
		instances[i].committer->ops->chore(instances[i].committer, &hash.chore);
		gate_wait(&hash.gate);
		CU_ASSERT_EQUAL(hash.chore.err.status, KS_OK);
	}
	members = instances[0].committer->ops->members(instances[0].committer, &count);
	CU_ASSERT(count >= 1 && count <= 2);
	free(members);
	instances[0].committer->ops->status(instances[0].committer, &status);
	CU_ASSERT(status.available);
	CU_ASSERT(status.leader_id == 1 || status.leader_id == 2);
	CU_ASSERT(status.raft_term >= 2);
	ks_log_quit(instances[1].log);
	CU_ASSERT_EQUAL(put(1, "k", "v", 0, NULL), KS_UNAVAILABLE);
	CU_ASSERT_EQUAL(prove(1), KS_UNAVAILABLE);
	CU_ASSERT_EQUAL(put(0, "k", "v", 0, NULL), KS_OK);
	stop(1);
	stop(0);
	sqlb_memory_forget(database);
}

static enum ks_status move(size_t from, size_t to)
{
	struct request request = {.chore = {.kind = KS_CHORE_MOVE_LEADER, .member_id = to + 1, .done = chore_done}};

	gate_init(&request.gate);
	instances[from].committer->ops->chore(instances[from].committer, &request.chore);
	gate_wait(&request.gate);
	return request.chore.err.status;
}

static uint64_t leader(size_t i)
{
	struct ks_cluster_status status;

	instances[i].committer->ops->status(instances[i].committer, &status);
	return status.leader_id;
}

static enum ks_status alarm_no_space(size_t i, bool activate)
{
	struct request request = {
		.submit = {.request = {.kind = KS_REQ_ALARM,
				       .alarm = {.activate = activate, .member = 7, .type = KS_ALARM_NOSPACE}}}};

	return submit_wait(i, &request);
}

/* While the housekeeper changes again and again: compactions come, alarms take effect at once everywhere, sizes are known. */
static void maintenance_goes_on_while_the_duty_moves(void)
{
	size_t holder = 2, moves = 0;

	database = "threads-duty";
	autocompact =
		(struct ks_autocompact_config){.mode = KS_AUTOCOMPACT_PERIODIC, .retention = 50 * INT64_C(1000000)};
	start(0);
	start(1);
	wait_ready(0);
	wait_ready(1);
	for (int turn = 0; turn < 2000 && holder == 2; turn++) {
		struct timespec ms = {.tv_nsec = 5000000};

		if (leader(0) == 1 || leader(1) == 2)
			holder = leader(0) == 1 ? 0 : 1;
		nanosleep(&ms, NULL);
	}
	CU_ASSERT_FATAL(holder < 2);
	for (int round = 0; round < 6; round++) {
		enum ks_status status = move(holder, 1 - holder);

		/* A machine that stands still for longer than the duty's time may lose it in between. */
		if (status == KS_OK) {
			moves++;
			CU_ASSERT_EQUAL(leader(holder), 1 - holder + 1);
			holder = 1 - holder;
		} else {
			holder = leader(0) == 1 ? 0 : 1;
		}
		for (int i = 0; i < 20; i++)
			CU_ASSERT_EQUAL(put((size_t)i % 2, "k", "v", 0, NULL), KS_OK);
		CU_ASSERT_EQUAL(alarm_no_space(0, true), KS_OK);
		CU_ASSERT_EQUAL(put(1, "k", "v", 0, NULL), KS_RESOURCE_EXHAUSTED);
		CU_ASSERT_EQUAL(alarm_no_space(1, false), KS_OK);
		CU_ASSERT_EQUAL(put(0, "k", "v", 0, NULL), KS_OK);
		CU_ASSERT(instances[0].committer->ops->db_size(instances[0].committer) > 0);
	}
	CU_ASSERT(moves > 0);
	for (int turn = 0; turn < 2000 && ks_store_committed(instances[1].store).compact_revision < 50; turn++) {
		struct timespec ms = {.tv_nsec = 5000000};

		nanosleep(&ms, NULL);
	}
	CU_ASSERT(ks_store_committed(instances[1].store).compact_revision >= 50);
	stop(1);
	stop(0);
	autocompact = (struct ks_autocompact_config){0};
	sqlb_memory_forget(database);
}

int main(void)
{
	return tap_run("log",
		       (const struct tap_test[]){
			       {"writers_on_two_instances_agree", writers_on_two_instances_agree},
			       {"writers_agree_while_the_database_fails_at_times",
				writers_agree_while_the_database_fails_at_times},
			       {"start_without_a_database_waits_for_it", start_without_a_database_waits_for_it},
			       {"a_database_that_comes_and_goes_does_not_fill_the_log",
				a_database_that_comes_and_goes_does_not_fill_the_log},
			       {"leases_expire_compaction_trims_and_quit_answers",
				leases_expire_compaction_trims_and_quit_answers},
			       {"maintenance_goes_on_while_the_duty_moves", maintenance_goes_on_while_the_duty_moves},
			       {NULL, NULL},
		       });
}
