/* SPDX-License-Identifier: Apache-2.0 */
/* Leases and their expiry, the duty, members, and trimming. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/lib/tap.h"
#include "tests/sim/world.h"

static struct world w;

struct keep {
	struct ks_keepalive keepalive;
	int done;
};

struct times {
	struct ks_lease_times times;
	int done;
};

struct chore {
	struct ks_chore chore;
	int done;
};

static void kept(struct ks_keepalive *keepalive)
{
	ks_container_of(keepalive, struct keep, keepalive)->done++;
}

static void timed(struct ks_lease_times *times)
{
	ks_container_of(times, struct times, times)->done++;
}

static void chored(struct ks_chore *chore)
{
	ks_container_of(chore, struct chore, chore)->done++;
}

static void begin_started(size_t nodes)
{
	world_init(&w, nodes);
	world_start_all(&w);
	world_run(&w, 50);
}

static void keep_alive(size_t node, int64_t id, struct keep *keep)
{
	*keep = (struct keep){.keepalive = {.id = id, .done = kept}};
	w.nodes[node].committer->ops->keepalive(w.nodes[node].committer, &keep->keepalive);
}

/* The ttl that a keepalive answers; -1 for an error. */
static int64_t ttl_of(size_t node, int64_t id)
{
	struct keep keep;

	keep_alive(node, id, &keep);
	if (!world_until(&w, &keep.done) || keep.keepalive.err.status != KS_OK)
		return -1;
	return keep.keepalive.ttl;
}

static bool lease_exists(size_t node, int64_t id)
{
	struct ks_lease_info info = {0};
	bool found = ks_store_lease(w.nodes[node].store, id, false, &info);

	if (found)
		ks_lease_info_fini(&info);
	return found;
}

static void grant(size_t node, int64_t id, int64_t ttl)
{
	struct world_call call;

	world_grant(&w, node, &call, id, ttl);
	CU_ASSERT_EQUAL(world_finish(&w, &call), KS_OK);
}

static void put_with(size_t node, const char *key, int64_t lease)
{
	struct world_call call;

	world_put_lease(&w, node, &call, key, "v", lease);
	CU_ASSERT_EQUAL(world_finish(&w, &call), KS_OK);
}

static void compact_now(size_t node)
{
	struct world_call call;

	world_compact(&w, node, &call, world_revision(&w, node));
	CU_ASSERT_EQUAL(world_finish(&w, &call), KS_OK);
}

static size_t holder(void)
{
	for (size_t i = 0; i < w.count; i++)
		if (w.nodes[i].log && ks_log_duty_held(w.nodes[i].log))
			return i;
	return SIZE_MAX;
}

static void lease_takes_its_keys_along_in_one_revision(void)
{
	int64_t before;

	begin_started(2);
	grant(0, 7, 3);
	put_with(0, "a", 7);
	put_with(1, "b", 7);
	put_with(1, "c", 0);
	before = world_revision(&w, 1);
	world_run(&w, 2500);
	CU_ASSERT(lease_exists(0, 7)); /* never early */
	CU_ASSERT_STRING_EQUAL(world_value(&w, 0, "a"), "v");
	world_run(&w, 1500);
	CU_ASSERT(world_settled(&w));
	for (size_t node = 0; node < 2; node++) {
		CU_ASSERT_FALSE(lease_exists(node, 7));
		CU_ASSERT_PTR_NULL(world_value(&w, node, "a"));
		CU_ASSERT_PTR_NULL(world_value(&w, node, "b"));
		CU_ASSERT_PTR_NOT_NULL(world_value(&w, node, "c"));
		CU_ASSERT_EQUAL(world_revision(&w, node), before + 1);
	}
	world_fini(&w);
}

static void keepalive_on_any_instance_extends(void)
{
	begin_started(2);
	grant(0, 7, 3);
	for (int i = 0; i < 10; i++) {
		world_run(&w, 2000);
		CU_ASSERT_EQUAL(ttl_of((size_t)i % 2, 7), 3);
	}
	CU_ASSERT(lease_exists(1, 7));
	CU_ASSERT_EQUAL(ttl_of(0, 12345), 0);
	world_run(&w, 5000);
	CU_ASSERT_EQUAL(ttl_of(1, 7), 0);
	world_fini(&w);
}

static void keepalive_of_a_lapsed_lease_waits_for_its_keys_to_go(void)
{
	struct keep keep;

	begin_started(2);
	grant(0, 7, 2);
	put_with(0, "a", 7);
	world_settled(&w);
	ks_clock_advance(&w.clock, 2001); /* past the deadline, nobody has noticed */
	keep_alive(1, 7, &keep);
	ks_log_side_step(w.nodes[1].log);
	CU_ASSERT_EQUAL(keep.done, 0);
	CU_ASSERT(world_until(&w, &keep.done));
	CU_ASSERT_EQUAL(keep.keepalive.err.status, KS_OK);
	CU_ASSERT_EQUAL(keep.keepalive.ttl, 0);
	CU_ASSERT_PTR_NULL(world_value(&w, 1, "a"));
	world_fini(&w);
}

static void revoke_of_a_lease_that_lives_again_appends_nothing(void)
{
	struct sqlb_conn *conn;
	struct ks_err err;
	size_t rows;

	begin_started(1);
	for (int64_t id = 1; id <= 5; id++)
		grant(0, id, 2);
	rows = world_rows(&w);
	ks_clock_advance(&w.clock, 2500);
	while (ks_list_empty(&w.nodes[0].log->writer.expired))
		ks_log_side_step(w.nodes[0].log);
	/* The revokes are queued; now something gives the leases their time back. */
	CU_ASSERT_EQUAL(sqlb_memory_ops.connect(w.nodes[0].db, &conn, &err), SQLB_OK);
	CU_ASSERT_EQUAL(sqlb_memory_ops.lease_refresh_all(conn, &err), SQLB_OK);
	sqlb_memory_ops.disconnect(conn);
	world_run(&w, 1000);
	CU_ASSERT_EQUAL(world_rows(&w), rows);
	for (int64_t id = 1; id <= 5; id++)
		CU_ASSERT(lease_exists(0, id));
	world_run(&w, 3000);
	for (int64_t id = 1; id <= 5; id++)
		CU_ASSERT_FALSE(lease_exists(0, id));
	world_fini(&w);
}

static void many_leases_expire_together(void)
{
	char key[16];

	begin_started(2);
	for (int64_t id = 1; id <= 2000; id++) {
		struct world_call call;

		world_grant(&w, 0, &call, id, 2);
		CU_ASSERT_EQUAL(world_finish(&w, &call), KS_OK);
		if (id % 10)
			continue;
		snprintf(key, sizeof(key), "k%d", (int)id);
		put_with(0, key, id);
	}
	world_run(&w, 6000);
	CU_ASSERT(world_settled(&w));
	for (int64_t id = 1; id <= 2000; id++)
		CU_ASSERT_FALSE(lease_exists(1, id));
	CU_ASSERT_EQUAL(world_revision(&w, 1), 1 + 200 + 200);
	world_fini(&w);
}

static void new_housekeeper_gives_leases_their_time_again(void)
{
	size_t old;

	begin_started(2);
	old = holder();
	CU_ASSERT_FATAL(old < 2);
	grant(1 - old, 7, 8);
	world_run(&w, 1000);
	/* The holder dies without a word; its duty runs out after 5 s. */
	world_fault(&w, NULL, (int)old, 1, 100000000, SQLB_FAULT_AWAY);
	world_run(&w, 7000);
	CU_ASSERT(ks_log_duty_held(w.nodes[1 - old].log));
	world_run(&w, 5000);
	CU_ASSERT(lease_exists(1 - old, 7));
	world_run(&w, 6000);
	CU_ASSERT_FALSE(lease_exists(1 - old, 7));
	world_fini(&w);
}

static void duty_is_given_back_at_the_end(void)
{
	struct ks_cluster_status status;
	size_t old;

	begin_started(2);
	old = holder();
	CU_ASSERT_FATAL(old < 2);
	world_stop(&w, old);
	world_run(&w, 2500); /* less than its time to live */
	CU_ASSERT_EQUAL(holder(), 1 - old);
	w.nodes[1 - old].committer->ops->status(w.nodes[1 - old].committer, &status);
	CU_ASSERT_EQUAL(status.leader_id, 1 - old + 1);
	CU_ASSERT_EQUAL(status.raft_term, 3);
	CU_ASSERT_EQUAL(status.raft_index, status.raft_applied_index);
	CU_ASSERT(status.available);
	world_fini(&w);
}

static void lease_without_a_deadline_gets_one(void)
{
	struct sqlb_conn *conn;
	struct ks_err err;
	int64_t id = 7;

	begin_started(1);
	grant(0, 7, 5);
	CU_ASSERT_EQUAL(sqlb_memory_ops.connect(w.nodes[0].db, &conn, &err), SQLB_OK);
	CU_ASSERT_EQUAL(sqlb_memory_ops.lease_drop(conn, &id, 1, &err), SQLB_OK);
	sqlb_memory_ops.disconnect(conn);
	world_run(&w, 20000);
	CU_ASSERT(lease_exists(0, 7));
	world_run(&w, 60000);
	CU_ASSERT_FALSE(lease_exists(0, 7));
	world_fini(&w);
}

static size_t side_rows;

static bool count_lease(void *ctx, const struct sqlb_lease *lease)
{
	(void)ctx;
	(void)lease;
	side_rows++;
	return true;
}

static void deadline_without_a_lease_is_dropped(void)
{
	struct sqlb_lease orphan = {.id = 99, .ttl_ms = 1000};
	struct sqlb_conn *conn;
	struct ks_err err;

	begin_started(2);
	grant(0, 7, 600);
	CU_ASSERT_EQUAL(sqlb_memory_ops.connect(w.nodes[0].db, &conn, &err), SQLB_OK);
	CU_ASSERT_EQUAL(sqlb_memory_ops.lease_ensure(conn, &orphan, 1, &err), SQLB_OK);
	world_run(&w, 4000);
	side_rows = 0;
	CU_ASSERT_EQUAL(sqlb_memory_ops.lease_list(conn, 0, count_lease, NULL, &err), SQLB_OK);
	CU_ASSERT_EQUAL(side_rows, 1);
	sqlb_memory_ops.disconnect(conn);
	world_fini(&w);
}

/* Keepalives must not keep a deadline alive whose lease is gone: the client would believe in it for ever. */
static void keepalive_of_a_deadline_without_a_lease_says_so(void)
{
	struct sqlb_lease orphan = {.id = 99, .ttl_ms = 60000};
	struct sqlb_conn *conn;
	struct ks_err err;

	begin_started(2);
	CU_ASSERT_EQUAL(sqlb_memory_ops.connect(w.nodes[0].db, &conn, &err), SQLB_OK);
	CU_ASSERT_EQUAL(sqlb_memory_ops.lease_ensure(conn, &orphan, 1, &err), SQLB_OK);
	CU_ASSERT_EQUAL(ttl_of(1, 99), 0);
	side_rows = 0;
	CU_ASSERT_EQUAL(sqlb_memory_ops.lease_list(conn, 0, count_lease, NULL, &err), SQLB_OK);
	CU_ASSERT_EQUAL(side_rows, 0);
	sqlb_memory_ops.disconnect(conn);
	world_fini(&w);
}

static void keepalive_right_after_a_grant_elsewhere_is_answered(void)
{
	struct world_call call;
	struct keep keep;

	begin_started(2);
	world_grant(&w, 0, &call, 7, 30);
	ks_log_writer_step(w.nodes[0].log);
	CU_ASSERT_EQUAL(call.done, 1);
	keep_alive(1, 7, &keep); /* node 1 has not applied the grant */
	ks_log_side_step(w.nodes[1].log);
	CU_ASSERT(world_until(&w, &keep.done));
	CU_ASSERT_EQUAL(keep.keepalive.err.status, KS_OK);
	CU_ASSERT_EQUAL(keep.keepalive.ttl, 30);
	CU_ASSERT_EQUAL(world_finish(&w, &call), KS_OK);
	world_fini(&w);
}

static void times_are_in_the_order_of_deadlines(void)
{
	struct times all = {.times = {.done = timed}}, some;
	int64_t ids[] = {3, 42};

	begin_started(1);
	grant(0, 1, 300);
	grant(0, 2, 100);
	grant(0, 3, 200);
	w.nodes[0].committer->ops->lease_times(w.nodes[0].committer, &all.times);
	CU_ASSERT(world_until(&w, &all.done));
	CU_ASSERT_EQUAL(all.times.err.status, KS_OK);
	CU_ASSERT_EQUAL_FATAL(all.times.lease_count, 3);
	CU_ASSERT_EQUAL(all.times.leases[0].id, 2);
	CU_ASSERT_EQUAL(all.times.leases[1].id, 3);
	CU_ASSERT_EQUAL(all.times.leases[2].id, 1);
	CU_ASSERT(all.times.leases[0].remaining_ms > 90000 && all.times.leases[0].remaining_ms <= 100000);
	free(all.times.leases);
	some = (struct times){.times = {.ids = ids, .id_count = 2, .done = timed}};
	w.nodes[0].committer->ops->lease_times(w.nodes[0].committer, &some.times);
	CU_ASSERT(world_until(&w, &some.done));
	CU_ASSERT_EQUAL_FATAL(some.times.lease_count, 2);
	CU_ASSERT(some.times.leases[0].found);
	CU_ASSERT_FALSE(some.times.leases[1].found);
	free(some.times.leases);
	world_fini(&w);
}

static void members_come_and_go(void)
{
	struct ks_member *members;
	size_t count;

	begin_started(3);
	world_run(&w, 4000);
	members = w.nodes[1].committer->ops->members(w.nodes[1].committer, &count);
	CU_ASSERT_EQUAL_FATAL(count, 3);
	CU_ASSERT_EQUAL(members[0].id, 1);
	CU_ASSERT_STRING_EQUAL(members[2].name, "n2");
	CU_ASSERT_STRING_EQUAL(members[2].client_urls, "http://127.0.0.1:2379");
	free(members);
	world_stop(&w, 2);
	world_run(&w, 4000);
	members = w.nodes[1].committer->ops->members(w.nodes[1].committer, &count);
	CU_ASSERT_EQUAL(count, 2);
	free(members);
	world_fini(&w);
}

static void compaction_trims_rows(void)
{
	struct chore physical = {.chore = {.kind = KS_CHORE_COMPACT_PHYSICAL, .done = chored}};

	begin_started(2);
	for (int i = 0; i < 500; i++)
		world_do_put(&w, 0, i % 2 ? "a" : "b", "v");
	CU_ASSERT_EQUAL(world_rows(&w), 501);
	compact_now(0);
	w.nodes[holder()].committer->ops->chore(w.nodes[holder()].committer, &physical.chore);
	CU_ASSERT(world_until(&w, &physical.done));
	CU_ASSERT_EQUAL(physical.chore.err.status, KS_OK);
	world_run(&w, 3000);            /* the scan for leftovers finds the very first entry */
	CU_ASSERT(world_rows(&w) <= 4); /* a, b, the compaction, and perhaps the first */
	CU_ASSERT_STRING_EQUAL(world_value(&w, 1, "a"), "v");
	world_do_put(&w, 1, "a", "w");
	world_stop(&w, 0);
	world_start_all(&w);
	CU_ASSERT_STRING_EQUAL(world_value(&w, 0, "a"), "w");
	world_fini(&w);
}

static void rows_stay_while_a_live_member_needs_them(void)
{
	size_t keeper;

	begin_started(2);
	keeper = holder();
	CU_ASSERT_FATAL(keeper < 2);
	for (int i = 0; i < 100; i++)
		world_do_put(&w, keeper, "a", "v");
	CU_ASSERT(world_settled(&w));
	/* The other one is alive and cannot read: it has not applied the compaction. */
	world_fault(&w, "read_rows", (int)(1 - keeper), 1, 100000000, SQLB_FAULT_AWAY);
	compact_now(keeper);
	world_run(&w, 20000);
	CU_ASSERT_EQUAL(world_rows(&w), 102);
	world_no_faults(&w);
	world_run(&w, 8000);
	CU_ASSERT(world_rows(&w) < 10);
	CU_ASSERT_EQUAL(w.nodes[1 - keeper].log->reader.epoch, 0);
	world_fini(&w);
}

static void leftovers_of_a_dead_housekeeper_are_found(void)
{
	begin_started(1);
	for (int i = 0; i < 300; i++)
		world_do_put(&w, 0, "a", "v");
	world_fault(&w, "trim", -1, 1, 100000000, SQLB_FAULT_AWAY);
	compact_now(0);
	world_run(&w, 3000);
	CU_ASSERT_EQUAL(world_rows(&w), 302);
	world_stop(&w, 0);
	world_no_faults(&w);
	world_start_all(&w);
	world_run(&w, 10000);
	CU_ASSERT(world_rows(&w) <= 3);
	CU_ASSERT_STRING_EQUAL(world_value(&w, 0, "a"), "v");
	world_fini(&w);
}

/*
 * A put that a compaction made superfluous is forgotten, because a member lags for too long; the next compaction drops the delete
 * that ended it. Whenever everybody is killed from then on: the key must not come back.
 */
static void nothing_comes_back_to_life_when_rows_were_forgotten(void)
{
	struct world_call call;
	size_t keeper, rows;

	begin_started(2);
	keeper = holder();
	CU_ASSERT_FATAL(keeper < 2);
	world_do_put(&w, keeper, "a", "v");
	world_delete(&w, keeper, &call, "a", NULL);
	CU_ASSERT_EQUAL(world_finish(&w, &call), KS_OK);
	CU_ASSERT(world_settled(&w));
	world_fault(&w, "read_rows", (int)(1 - keeper), 1, 100000000, SQLB_FAULT_AWAY);
	compact_now(keeper); /* the delete is at its revision, and stays */
	world_run(&w, 70000);
	world_do_put(&w, keeper, "b", "v");
	compact_now(keeper);
	world_run(&w, 1000);
	rows = world_rows(&w);
	world_no_faults(&w);
	for (int i = 0; i < 20000 && world_rows(&w) == rows; i++)
		if (!world_step_role(&w, keeper, KS_LOG_SIDE) && !world_step_role(&w, 1 - keeper, KS_LOG_WRITER) &&
		    !world_step_role(&w, 1 - keeper, KS_LOG_SIDE))
			world_run(&w, 1);
	CU_ASSERT(world_rows(&w) < rows);
	world_stop(&w, 0);
	world_stop(&w, 1);
	world_start_all(&w);
	CU_ASSERT_PTR_NULL(world_value(&w, keeper, "a"));
	CU_ASSERT_STRING_EQUAL(world_value(&w, keeper, "b"), "v");
	world_run(&w, 10000);
	CU_ASSERT(world_rows(&w) <= 4);
	world_fini(&w);
}

static void nothing_is_trimmed_in_a_log_that_lost_its_compaction(void)
{
	begin_started(1);
	for (int i = 0; i < 100; i++)
		world_do_put(&w, 0, i == 99 ? "b" : "a", "v");
	/* Dropped from memory, and not yet from the database, when the newest entries are lost with the compaction. */
	world_fault(&w, "trim", -1, 1, 1, SQLB_FAULT_AWAY);
	world_fault(&w, "read_rows", -1, 1, 3, SQLB_FAULT_AWAY); /* the writer notices late */
	compact_now(0);
	for (int i = 0; i < 10000 && w.faults[0].hits == 0; i++) {
		ks_log_side_step(w.nodes[0].log);
		ks_clock_advance(&w.clock, 1); /* the scan takes its time */
	}
	sqlb_memory_lose_tail(w.name, 90);
	world_run(&w, 10000);
	CU_ASSERT_EQUAL(world_rows(&w), 90);
	CU_ASSERT_EQUAL(world_revision(&w, 0), 90);
	world_stop(&w, 0);
	world_start_all(&w);
	CU_ASSERT_EQUAL(world_revision(&w, 0), 90);
	world_fini(&w);
}

static void nth_side_call_fails(void)
{
	bool hit = true;

	for (int n = 1; hit && n < 300; n++) {
		struct world_fault *f;
		static const char *const ops[] = {"lease_touch",       "lease_list", "member_beat",
						  "duty_take",         "trim",       "lease_ensure",
						  "lease_refresh_all", "read_at",    "member_list"};

		world_init(&w, 2);
		f = world_fault(&w, ops[n % 9], -1, 1 + n / 9, 2, n % 2 ? SQLB_FAULT_AWAY : SQLB_FAULT_CUT);
		world_start_all(&w);
		grant(0, 7, 2);
		put_with(1, "a", 7);
		for (int i = 0; i < 20; i++)
			world_do_put(&w, 1, "b", "v");
		CU_ASSERT_EQUAL(ttl_of(0, 7), 2);
		compact_now(1);
		world_run(&w, 15000);
		CU_ASSERT_FALSE(lease_exists(0, 7));
		CU_ASSERT(world_settled(&w));
		CU_ASSERT(world_rows(&w) < 12);
		hit = f->hits > 0 || n < 90;
		world_fini(&w);
	}
}

/* ---- handing the duty on ---- */

static struct chore moved;

static void move(size_t node, uint64_t target)
{
	moved = (struct chore){.chore = {.kind = KS_CHORE_MOVE_LEADER, .member_id = target, .done = chored}};
	w.nodes[node].committer->ops->chore(w.nodes[node].committer, &moved.chore);
}

static struct ks_cluster_status status_of(size_t node)
{
	struct ks_cluster_status status;

	w.nodes[node].committer->ops->status(w.nodes[node].committer, &status);
	return status;
}

static void duty_goes_to_whom_a_client_names(void)
{
	size_t old;

	begin_started(3);
	old = holder();
	CU_ASSERT_FATAL(old < 3);
	for (size_t round = 1; round <= 4; round++) {
		size_t next = (old + round % 2 + 1) % 3;

		move(old, next + 1);
		CU_ASSERT(world_until(&w, &moved.done));
		CU_ASSERT_EQUAL(moved.chore.err.status, KS_OK);
		CU_ASSERT_EQUAL(holder(), next);
		CU_ASSERT_EQUAL(status_of(old).leader_id, next + 1);
		CU_ASSERT_EQUAL(status_of(next).leader_id, next + 1);
		CU_ASSERT_EQUAL(status_of(next).raft_term, 2 + round);
		world_run(&w, 600);
		for (size_t i = 0; i < 3; i++)
			CU_ASSERT_EQUAL(status_of(i).leader_id, next + 1);
		old = next;
	}
	world_fini(&w);
}

static void duty_stays_when_the_move_is_wrong(void)
{
	size_t old;

	begin_started(2);
	old = holder();
	CU_ASSERT_FATAL(old < 2);
	move(1 - old, old + 1);
	CU_ASSERT(world_until(&w, &moved.done));
	CU_ASSERT_EQUAL(moved.chore.err.status, KS_FAILED_PRECONDITION);
	CU_ASSERT_STRING_EQUAL(moved.chore.err.text, "etcdserver: not leader");
	move(old, 12345);
	CU_ASSERT(world_until(&w, &moved.done));
	CU_ASSERT_EQUAL(moved.chore.err.status, KS_FAILED_PRECONDITION);
	CU_ASSERT_STRING_EQUAL(moved.chore.err.text, "etcdserver: bad leader transferee");
	move(old, old + 1);
	CU_ASSERT(world_until(&w, &moved.done));
	CU_ASSERT_EQUAL(moved.chore.err.status, KS_OK);
	CU_ASSERT_EQUAL(holder(), old);
	CU_ASSERT_EQUAL(status_of(old).raft_term, 2);
	world_fini(&w);
}

static void duty_of_a_target_that_is_dead_comes_back(void)
{
	size_t old;

	begin_started(2);
	old = holder();
	CU_ASSERT_FATAL(old < 2);
	world_fault(&w, NULL, (int)(1 - old), 1, 100000000, SQLB_FAULT_AWAY);
	move(old, 1 - old + 1);
	CU_ASSERT(world_until(&w, &moved.done));
	CU_ASSERT_EQUAL(moved.chore.err.status, KS_UNKNOWN);
	CU_ASSERT_STRING_EQUAL(moved.chore.err.text, "etcdserver: request timed out, leader transfer took too long");
	world_run(&w, 1000);
	CU_ASSERT_EQUAL(holder(), old);
	CU_ASSERT_EQUAL(status_of(old).leader_id, old + 1);
	CU_ASSERT_EQUAL(status_of(old).raft_term, 4);
	world_fini(&w);
}

/* Every call that the hand-over makes fails once. */
static void nth_call_of_a_hand_over_fails(void)
{
	for (int n = 1; n <= 6; n++) {
		size_t old;

		begin_started(2);
		old = holder();
		CU_ASSERT_FATAL(old < 2);
		world_fault(&w, NULL, (int)old, n, 1, SQLB_FAULT_AWAY);
		move(old, 1 - old + 1);
		CU_ASSERT(world_until(&w, &moved.done));
		world_run(&w, 10000);
		CU_ASSERT(holder() < 2);
		CU_ASSERT_EQUAL(status_of(0).leader_id, holder() + 1);
		CU_ASSERT_EQUAL(status_of(1).leader_id, holder() + 1);
		if (moved.chore.err.status == KS_OK)
			CU_ASSERT_EQUAL(holder(), 1 - old);
		world_fini(&w);
	}
}

static void a_move_that_waits_when_the_server_stops_is_answered(void)
{
	struct chore second = {.chore = {.kind = KS_CHORE_MOVE_LEADER, .member_id = 1, .done = chored}};
	size_t old;

	begin_started(2);
	old = holder();
	CU_ASSERT_FATAL(old < 2);
	world_fault(&w, NULL, (int)(1 - old), 1, 100000000, SQLB_FAULT_AWAY);
	move(old, 1 - old + 1);
	world_run(&w, 500);
	CU_ASSERT_EQUAL(moved.done, 0);
	w.nodes[old].committer->ops->chore(w.nodes[old].committer, &second.chore);
	world_stop(&w, old);
	CU_ASSERT_EQUAL(second.done, 1);
	CU_ASSERT_EQUAL(second.chore.err.status, KS_UNAVAILABLE);
	CU_ASSERT_EQUAL(moved.done, 1);
	CU_ASSERT_EQUAL(moved.chore.err.status, KS_UNAVAILABLE);
	world_fini(&w);
}

/* ---- auto-compaction ---- */

static int64_t compacted(size_t node)
{
	return ks_store_committed(w.nodes[node].store).compact_revision;
}

static void begin_compacting(size_t nodes, enum ks_autocompact_mode mode, int64_t retention)
{
	world_init(&w, nodes);
	w.config.autocompact = (struct ks_autocompact_config){.mode = mode, .retention = retention};
	world_start_all(&w);
	world_run(&w, 50);
}

/* Puts on 'node' for 'ms', ten a second. */
static void put_for(size_t node, int64_t ms)
{
	for (; ms > 0; ms -= 100) {
		CU_ASSERT(world_do_put(&w, node, "k", "v") > 0);
		world_run(&w, 100);
	}
}

static void housekeeper_compacts_to_what_was_a_period_ago(void)
{
	int64_t then;

	begin_compacting(2, KS_AUTOCOMPACT_PERIODIC, 10000 * INT64_C(1000000));
	put_for(0, 9000);
	CU_ASSERT_EQUAL(compacted(0), -1);
	put_for(1, 2000);
	CU_ASSERT_EQUAL(compacted(0), compacted(1));
	CU_ASSERT(compacted(0) >= 1 && compacted(0) < 12);
	then = compacted(0);
	put_for(0, 10000);
	CU_ASSERT(compacted(0) > then + 80 && compacted(0) < then + 120);
	CU_ASSERT(world_settled(&w));
	CU_ASSERT(world_rows(&w) < 150);
	world_fini(&w);
}

static void auto_compaction_goes_on_when_the_housekeeper_dies(void)
{
	int64_t then;
	size_t old;

	begin_compacting(2, KS_AUTOCOMPACT_PERIODIC, 10000 * INT64_C(1000000));
	put_for(0, 11000);
	old = holder();
	CU_ASSERT_FATAL(old < 2);
	then = compacted(1 - old);
	CU_ASSERT(then >= 1);
	world_fault(&w, NULL, (int)old, 1, 100000000, SQLB_FAULT_AWAY);
	put_for(1 - old, 16000);
	CU_ASSERT_EQUAL(holder(), 1 - old);
	CU_ASSERT(compacted(1 - old) > then + 50);
	world_fini(&w);
}

static void revision_mode_keeps_the_newest(void)
{
	begin_compacting(1, KS_AUTOCOMPACT_REVISION, 30);
	put_for(0, 10000);
	for (int minute = 0; minute < 5; minute++)
		world_run(&w, 60000);
	CU_ASSERT_EQUAL(compacted(0), world_revision(&w, 0) - 30);
	world_fini(&w);
}

static void auto_compaction_waits_for_a_database_that_is_away(void)
{
	begin_compacting(1, KS_AUTOCOMPACT_PERIODIC, 10000 * INT64_C(1000000));
	put_for(0, 9500);
	world_fault(&w, "append", 0, 1, 3, SQLB_FAULT_AWAY);
	world_run(&w, 5000);
	CU_ASSERT(compacted(0) >= 1);
	world_fini(&w);
}

int main(void)
{
	return tap_run(
		"housekeeper",
		(const struct tap_test[]){
			{"lease_takes_its_keys_along_in_one_revision", lease_takes_its_keys_along_in_one_revision},
			{"keepalive_on_any_instance_extends", keepalive_on_any_instance_extends},
			{"keepalive_of_a_lapsed_lease_waits_for_its_keys_to_go",
			 keepalive_of_a_lapsed_lease_waits_for_its_keys_to_go},
			{"revoke_of_a_lease_that_lives_again_appends_nothing",
			 revoke_of_a_lease_that_lives_again_appends_nothing},
			{"many_leases_expire_together", many_leases_expire_together},
			{"new_housekeeper_gives_leases_their_time_again",
			 new_housekeeper_gives_leases_their_time_again},
			{"duty_is_given_back_at_the_end", duty_is_given_back_at_the_end},
			{"lease_without_a_deadline_gets_one", lease_without_a_deadline_gets_one},
			{"deadline_without_a_lease_is_dropped", deadline_without_a_lease_is_dropped},
			{"keepalive_of_a_deadline_without_a_lease_says_so",
			 keepalive_of_a_deadline_without_a_lease_says_so},
			{"keepalive_right_after_a_grant_elsewhere_is_answered",
			 keepalive_right_after_a_grant_elsewhere_is_answered},
			{"times_are_in_the_order_of_deadlines", times_are_in_the_order_of_deadlines},
			{"members_come_and_go", members_come_and_go},
			{"compaction_trims_rows", compaction_trims_rows},
			{"rows_stay_while_a_live_member_needs_them", rows_stay_while_a_live_member_needs_them},
			{"leftovers_of_a_dead_housekeeper_are_found", leftovers_of_a_dead_housekeeper_are_found},
			{"nothing_comes_back_to_life_when_rows_were_forgotten",
			 nothing_comes_back_to_life_when_rows_were_forgotten},
			{"nothing_is_trimmed_in_a_log_that_lost_its_compaction",
			 nothing_is_trimmed_in_a_log_that_lost_its_compaction},
			{"nth_side_call_fails", nth_side_call_fails},
			{"duty_goes_to_whom_a_client_names", duty_goes_to_whom_a_client_names},
			{"duty_stays_when_the_move_is_wrong", duty_stays_when_the_move_is_wrong},
			{"duty_of_a_target_that_is_dead_comes_back", duty_of_a_target_that_is_dead_comes_back},
			{"nth_call_of_a_hand_over_fails", nth_call_of_a_hand_over_fails},
			{"a_move_that_waits_when_the_server_stops_is_answered",
			 a_move_that_waits_when_the_server_stops_is_answered},
			{"housekeeper_compacts_to_what_was_a_period_ago",
			 housekeeper_compacts_to_what_was_a_period_ago},
			{"auto_compaction_goes_on_when_the_housekeeper_dies",
			 auto_compaction_goes_on_when_the_housekeeper_dies},
			{"revision_mode_keeps_the_newest", revision_mode_keeps_the_newest},
			{"auto_compaction_waits_for_a_database_that_is_away",
			 auto_compaction_waits_for_a_database_that_is_away},
			{NULL, NULL},
		});
}
