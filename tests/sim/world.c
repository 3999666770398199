/* SPDX-License-Identifier: Apache-2.0 */
/* Stepped logs on a memory database; world.h has the contract. */
#include "world.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/panic.h"

#define TURNS_MAX 200000

int world_node_of(const struct world *world, const struct sqlb_conn *conn)
{
	for (size_t i = 0; i < world->count; i++) {
		const struct ks_log *log = world->nodes[i].log;

		if (log &&
		    (log->writer.role.conn == conn || log->tail.role.conn == conn || log->reader.role.conn == conn ||
		     log->side.role.conn == conn || log->chores.role.conn == conn))
			return (int)i;
	}
	return -1;
}

static enum sqlb_memory_fault next_fault(void *ctx, const char *op, struct sqlb_conn *conn)
{
	struct world *world = ctx;
	int node = world_node_of(world, conn);
	enum sqlb_memory_fault fault = SQLB_FAULT_NONE;

	for (size_t i = 0; i < world->fault_count; i++) {
		struct world_fault *f = &world->faults[i];

		if ((f->op && strcmp(f->op, op) != 0) || (f->node >= 0 && f->node != node))
			continue;
		f->calls++;
		if (f->calls < f->at || f->calls >= f->at + f->times)
			continue;
		f->hits++;
		if (fault == SQLB_FAULT_NONE)
			fault = f->fault;
	}
	if (fault == SQLB_FAULT_NONE && world->chaos)
		fault = world->chaos(world, op, node);
	return fault;
}

void world_faults_on(struct world *world, int late_calls)
{
	sqlb_memory_set_faults(world->name, next_fault, world, late_calls);
}

void world_init(struct world *world, size_t count)
{
	static unsigned worlds;

	*world = (struct world){.count = count};
	KS_ASSERT(count <= WORLD_NODES);
	snprintf(world->name, sizeof(world->name), "world-%u", ++worlds);
	ks_clock_init_fake(&world->clock, 1000000);
	sqlb_memory_set_clock(world->name, &world->clock);
	world_faults_on(world, 3);
	world->ops = sqlb_memory_ops;
	world->config = (struct ks_log_config){
		.backend = &world->ops,
		.value_cache_bytes = 64u << 20,
		.clock = &world->clock,
		.name = "node",
		.client_urls = "http://127.0.0.1:2379",
	};
}

void world_fini(struct world *world)
{
	world_no_faults(world);
	world->chaos = NULL;
	for (size_t i = 0; i < world->count; i++)
		world_stop(world, i);
	sqlb_memory_forget(world->name);
}

void world_start(struct world *world, size_t node)
{
	struct world_node *n = &world->nodes[node];
	struct ks_log_config config = world->config;
	struct ks_err err = {0};
	char url[64], name[8];

	snprintf(url, sizeof(url), "memory://%s", world->name);
	snprintf(name, sizeof(name), "n%zu", node);
	KS_ASSERT(!n->log);
	KS_ASSERT(sqlb_memory_ops.open(url, NULL, &n->db, &err) == KS_OK);
	config.db = n->db;
	config.name = name;
	config.member_id = node + 1;
	config.writer_id = (int64_t)(node + 1) * 1000 + ++n->starts;
	n->log = ks_log_new_stepped(&config, &err);
	KS_ASSERT(n->log);
	memset(n->due_ms, 0, sizeof(n->due_ms));
	n->store = ks_log_store(n->log);
	n->committer = ks_log_committer(n->log);
}

void world_stop(struct world *world, size_t node)
{
	struct world_node *n = &world->nodes[node];

	if (!n->log)
		return;
	ks_log_stop(n->log);
	sqlb_memory_ops.close(n->db);
	n->log = NULL;
	n->db = NULL;
	n->store = NULL;
	n->committer = NULL;
}

static int all_loaded(const struct world *world)
{
	for (size_t i = 0; i < world->count; i++)
		if (!world->nodes[i].log || !atomic_load(&world->nodes[i].log->loaded))
			return 0;
	return 1;
}

void world_start_all(struct world *world)
{
	for (size_t i = 0; i < world->count; i++)
		if (!world->nodes[i].log)
			world_start(world, i);
	for (int turn = 0; turn < TURNS_MAX && !all_loaded(world); turn++)
		world_run(world, 1);
	KS_ASSERT(all_loaded(world));
}

struct world_fault *world_fault(struct world *world, const char *op, int node, int at, int times,
				enum sqlb_memory_fault fault)
{
	struct world_fault *f = &world->faults[world->fault_count++];

	KS_ASSERT(world->fault_count <= sizeof(world->faults) / sizeof(world->faults[0]));
	*f = (struct world_fault){.op = op, .node = node, .at = at, .times = times, .fault = fault};
	return f;
}

void world_no_faults(struct world *world)
{
	world->fault_count = 0;
}

static struct ks_log_role *role_of(struct ks_log *log, enum ks_log_role_id role)
{
	struct ks_log_role *const roles[KS_LOG_ROLES] = {&log->writer.role, &log->tail.role, &log->reader.role,
							 &log->side.role, &log->chores.role};

	return roles[role];
}

bool world_step_role(struct world *world, size_t node, enum ks_log_role_id role)
{
	static int64_t (*const steps[KS_LOG_ROLES])(struct ks_log *) = {
		ks_log_writer_step, ks_log_tail_step, ks_log_reader_step, ks_log_side_step, ks_log_chores_step};
	struct world_node *n = &world->nodes[node];
	int64_t now = ks_clock_now(&world->clock), wait;

	if (!n->log || (!role_of(n->log, role)->poked && now < n->due_ms[role]))
		return false;
	role_of(n->log, role)->poked = false;
	wait = steps[role](n->log);
	n->due_ms[role] = wait == KS_LOG_IDLE ? INT64_MAX : now + wait;
	if (world->stepped)
		world->stepped(world);
	return true;
}

int64_t world_step(struct world *world)
{
	int64_t least = KS_LOG_IDLE, now = ks_clock_now(&world->clock);

	for (size_t i = 0; i < world->count; i++) {
		if (!world->nodes[i].log)
			continue;
		for (int role = 0; role < KS_LOG_ROLES; role++)
			world_step_role(world, i, (enum ks_log_role_id)role);
		ks_log_expire(world->nodes[i].log);
	}
	for (size_t i = 0; i < world->count; i++) {
		struct ks_log *log = world->nodes[i].log;

		for (int role = 0; log && role < KS_LOG_ROLES; role++) {
			int64_t due = world->nodes[i].due_ms[role];

			if (role_of(log, (enum ks_log_role_id)role)->poked || due <= now)
				return 0;
			least = due < least ? due : least;
		}
	}
	return least == KS_LOG_IDLE ? KS_LOG_IDLE : least - now;
}

void world_run(struct world *world, int64_t ms)
{
	int64_t end = ks_clock_now(&world->clock) + ms;

	for (int turn = 0; turn < TURNS_MAX && ks_clock_now(&world->clock) < end; turn++) {
		int busy = 0;

		while (busy++ < 20 && world_step(world) == 0)
			;
		ks_clock_advance(&world->clock, 1);
	}
}

bool world_until(struct world *world, const int *done)
{
	int64_t end = ks_clock_now(&world->clock) + 120000;

	while (!*done && ks_clock_now(&world->clock) < end) {
		if (world_step(world) > 0)
			ks_clock_advance(&world->clock, 1);
	}
	return *done;
}

struct log_end {
	int64_t position;
	size_t rows;
};

static bool visit_end(void *ctx, const struct sqlb_row *row)
{
	struct log_end *end = ctx;

	end->position = row->position;
	end->rows++;
	return true;
}

bool world_settled(struct world *world)
{
	for (int turn = 0; turn < 20000; turn++) {
		struct log_end end = {0};
		bool same = true;

		sqlb_memory_visit(world->name, visit_end, &end);
		for (size_t i = 0; i < world->count; i++)
			if (world->nodes[i].log)
				same = same && ks_store_committed(world->nodes[i].store).position == end.position &&
				       world->nodes[i].log->writer.batch.count == 0;
		if (same)
			return true;
		world_run(world, 2);
	}
	return false;
}

static void call_done(struct ks_submit *submit)
{
	struct world_call *call = ks_container_of(submit, struct world_call, submit);

	call->done++;
}

static void begin(struct world_call *call, enum ks_request_kind kind, const char *key, const char *value)
{
	*call = (struct world_call){.submit = {.done = call_done, .request = {.kind = kind}}};
	snprintf(call->key, sizeof(call->key), "%s", key);
	snprintf(call->value, sizeof(call->value), "%s", value);
	call->submit.bytes = strlen(call->key) + strlen(call->value);
}

static void send(struct world *world, size_t node, struct world_call *call)
{
	world->nodes[node].committer->ops->submit(world->nodes[node].committer, &call->submit);
}

void world_put_lease(struct world *world, size_t node, struct world_call *call, const char *key, const char *value,
		     int64_t lease)
{
	begin(call, KS_REQ_PUT, key, value);
	call->submit.request.put =
		(struct ks_put_req){.key = ks_slice_str(call->key), .value = ks_slice_str(call->value), .lease = lease};
	send(world, node, call);
}

void world_put(struct world *world, size_t node, struct world_call *call, const char *key, const char *value)
{
	world_put_lease(world, node, call, key, value, 0);
}

void world_delete(struct world *world, size_t node, struct world_call *call, const char *key, const char *end)
{
	begin(call, KS_REQ_DELETE, key, "");
	snprintf(call->end, sizeof(call->end), "%s", end ? end : "");
	call->submit.request.del =
		(struct ks_delete_req){.interval = {.key = ks_slice_str(call->key), .end = ks_slice_str(call->end)}};
	send(world, node, call);
}

void world_cas(struct world *world, size_t node, struct world_call *call, const char *key, int64_t revision,
	       const char *value)
{
	begin(call, KS_REQ_TXN, key, value);
	call->compare = (struct ks_compare){.result = KS_CMP_EQUAL,
					    .target = KS_CMP_MOD,
					    .interval = {.key = ks_slice_str(call->key)},
					    .number = revision};
	call->success = (struct ks_op){.kind = KS_OP_PUT,
				       .put = {.key = ks_slice_str(call->key), .value = ks_slice_str(call->value)}};
	call->failure = (struct ks_op){.kind = KS_OP_RANGE, .range = {.interval = {.key = ks_slice_str(call->key)}}};
	call->submit.request.txn = (struct ks_txn_req){.compares = &call->compare,
						       .compare_count = 1,
						       .success = &call->success,
						       .success_count = 1,
						       .failure = &call->failure,
						       .failure_count = 1};
	send(world, node, call);
}

void world_compact(struct world *world, size_t node, struct world_call *call, int64_t revision)
{
	begin(call, KS_REQ_COMPACT, "", "");
	call->submit.request.compact_revision = revision;
	send(world, node, call);
}

void world_grant(struct world *world, size_t node, struct world_call *call, int64_t id, int64_t ttl)
{
	begin(call, KS_REQ_LEASE_GRANT, "", "");
	call->submit.request.grant = (struct ks_lease_grant_req){.id = id, .ttl = ttl};
	send(world, node, call);
}

void world_revoke(struct world *world, size_t node, struct world_call *call, int64_t id)
{
	begin(call, KS_REQ_LEASE_REVOKE, "", "");
	call->submit.request.revoke = (struct ks_lease_revoke_req){.id = id};
	send(world, node, call);
}

void world_user(struct world *world, size_t node, struct world_call *call, int op, const char *name)
{
	begin(call, KS_REQ_AUTH, name, "hash");
	call->submit.request.caller.internal = true;
	call->submit.request.auth = (struct ks_auth_req){
		.op = (enum ks_auth_op)op, .user = ks_slice_str(call->key), .secret = ks_slice_str(call->value)};
	send(world, node, call);
}

enum ks_status world_finish(struct world *world, struct world_call *call)
{
	if (!world_until(world, &call->done))
		return KS_DEADLINE_EXCEEDED;
	if (call->submit.err.status == KS_OK)
		ks_result_fini(&call->submit.result);
	return call->submit.err.status;
}

int64_t world_do_put(struct world *world, size_t node, const char *key, const char *value)
{
	struct world_call call;
	int64_t revision;

	world_put(world, node, &call, key, value);
	if (!world_until(world, &call.done) || call.submit.err.status != KS_OK)
		return -1;
	revision = call.submit.result.revision;
	ks_result_fini(&call.submit.result);
	return revision;
}

static void proof_done(struct ks_read_proof *proof)
{
	ks_container_of(proof, struct world_proof, proof)->done++;
}

void world_prove(struct world *world, size_t node, struct world_proof *proof)
{
	*proof = (struct world_proof){.proof = {.done = proof_done}};
	world->nodes[node].committer->ops->prove_read(world->nodes[node].committer, &proof->proof);
}

struct world_fetch {
	struct ks_fetch fetch;
	int done;
};

static void fetch_done(struct ks_fetch *fetch)
{
	ks_container_of(fetch, struct world_fetch, fetch)->done++;
}

const char *world_value(struct world *world, size_t node, const char *key)
{
	static char text[128];
	struct ks_range_req req = {.interval = {.key = ks_slice_str(key)}};
	struct ks_range_result result = {0};
	struct ks_err err = {0};
	struct ks_kv kv;
	int64_t revision;
	const char *value = NULL;

	if (ks_store_range(world->nodes[node].store, &req, &result, &revision, &err) != KS_OK)
		return NULL;
	if (result.kv_count == 1 && ks_kvref_missing(&result.kvs[0])) {
		struct ks_kvref *ref = &result.kvs[0];
		struct world_fetch fetch = {.fetch = {.refs = &ref, .count = 1, .done = fetch_done}};

		world->nodes[node].committer->ops->fetch(world->nodes[node].committer, &fetch.fetch);
		world_until(world, &fetch.done);
	}
	if (result.kv_count == 1 && result.kvs[0].encoded && ks_kv_decode(ks_bytes_slice(result.kvs[0].encoded), &kv)) {
		snprintf(text, sizeof(text), "%.*s", (int)kv.value.size, (const char *)kv.value.data);
		value = text;
	}
	ks_range_result_fini(&result);
	return value;
}

int64_t world_revision(struct world *world, size_t node)
{
	return ks_store_committed(world->nodes[node].store).revision;
}

size_t world_rows(struct world *world)
{
	struct log_end end = {0};

	sqlb_memory_visit(world->name, visit_end, &end);
	return end.rows;
}
