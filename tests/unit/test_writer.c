/* SPDX-License-Identifier: Apache-2.0 */
/* The writer of the log: every outcome at every append, conflicts, proofs, limits and patience. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "tests/lib/tap.h"
#include "tests/sim/world.h"

static struct world w;

/* Counts appends and holds the writer to the limits of sqlb.h. */
static int appends;
static size_t largest_rows;

static size_t largest_value; /* more than that the database does not take; 0: anything */
static int spurious;         /* so many appends are told CONFLICT for no reason */

static enum sqlb_outcome counting_append(struct sqlb_conn *conn, const struct sqlb_append *append, bool *appended,
					 struct ks_err *err)
{
	bool several = append->row_count && append->rows[0].position != append->rows[append->row_count - 1].position;

	appends++;
	for (size_t i = 0; i < append->row_count && largest_value; i++)
		if (append->rows[i].value.size > largest_value) {
			ks_fail(err, KS_RESOURCE_EXHAUSTED, "a row is too large");
			return SQLB_BROKEN;
		}
	if (spurious) {
		spurious--;
		*appended = false;
		return SQLB_CONFLICT;
	}
	if (several && append->row_count > largest_rows)
		largest_rows = append->row_count;
	return sqlb_memory_ops.append(conn, append, appended, err);
}

static int reads, waits;

static enum sqlb_outcome counting_read(struct sqlb_conn *conn, int64_t after, int64_t to, size_t max_bytes,
				       sqlb_row_fn *visit, void *ctx, bool *more, struct ks_err *err)
{
	reads++;
	return sqlb_memory_ops.read_rows(conn, after, to, max_bytes, visit, ctx, more, err);
}

static enum sqlb_outcome counting_wait(struct sqlb_conn *conn, int64_t after, int wait_ms, struct ks_err *err)
{
	waits++;
	return sqlb_memory_ops.wait_for_change(conn, after, wait_ms, err);
}

static void begin(size_t nodes)
{
	world_init(&w, nodes);
	w.ops.append = counting_append;
	w.ops.read_rows = counting_read;
	w.ops.wait_for_change = counting_wait;
	appends = 0;
	largest_rows = 0;
}

static void begin_started(size_t nodes)
{
	begin(nodes);
	world_start_all(&w);
	appends = 0;
}

struct contiguous {
	int64_t position, revision;
	bool good;
};

static bool visit_contiguous(void *ctx, const struct sqlb_row *row)
{
	struct contiguous *c = ctx;

	if (row->sub == 0) {
		c->good = c->good && row->position == c->position + 1 && row->revision >= c->revision &&
			  row->revision <= c->revision + 1;
		c->position = row->position;
		c->revision = row->revision;
	}
	c->good = c->good && row->position == c->position && row->revision == c->revision;
	return true;
}

static bool log_is_contiguous(void)
{
	struct contiguous c = {.good = true};

	sqlb_memory_visit(w.name, visit_contiguous, &c);
	return c.good;
}

static void empty_store_has_revision_one(void)
{
	begin_started(2);
	CU_ASSERT_EQUAL(world_revision(&w, 0), 1);
	CU_ASSERT_EQUAL(world_revision(&w, 1), 1);
	CU_ASSERT_EQUAL(ks_store_committed(w.nodes[0].store).position, 1);
	CU_ASSERT_EQUAL(world_rows(&w), 1);
	world_fini(&w);
}

static void each_request_of_a_batch_has_its_own_revision(void)
{
	struct world_call calls[100];

	begin_started(1);
	for (int i = 0; i < 100; i++)
		world_put(&w, 0, &calls[i], "k", "v");
	for (int i = 0; i < 100; i++) {
		CU_ASSERT(world_until(&w, &calls[i].done));
		CU_ASSERT_EQUAL(calls[i].submit.err.status, KS_OK);
		CU_ASSERT_EQUAL(calls[i].submit.result.revision, 2 + i);
		CU_ASSERT_EQUAL(world_finish(&w, &calls[i]), KS_OK);
	}
	CU_ASSERT_EQUAL(appends, 1);
	CU_ASSERT(log_is_contiguous());
	world_fini(&w);
}

static void lone_request_is_one_append_and_waits_for_nobody(void)
{
	struct world_call call;
	int64_t began;

	begin_started(2);
	began = ks_clock_now(&w.clock);
	world_put(&w, 0, &call, "k", "v");
	CU_ASSERT_EQUAL(ks_log_writer_step(w.nodes[0].log), 0);
	CU_ASSERT_EQUAL(call.done, 1);
	CU_ASSERT_EQUAL(appends, 1);
	CU_ASSERT_EQUAL(ks_clock_now(&w.clock), began);
	CU_ASSERT_EQUAL(world_finish(&w, &call), KS_OK);
	world_fini(&w);
}

static void put_after_conflict_keeps_revisions_contiguous(void)
{
	struct world_call call;

	begin_started(2);
	/* Node 1 appends, and node 0 does not hear of it before its own append. */
	world_put(&w, 1, &call, "k", "one");
	ks_log_writer_step(w.nodes[1].log);
	CU_ASSERT_EQUAL(world_finish(&w, &call), KS_OK);
	world_put(&w, 0, &call, "k", "two");
	ks_log_writer_step(w.nodes[0].log);
	CU_ASSERT_EQUAL(call.done, 0);
	CU_ASSERT(world_until(&w, &call.done));
	CU_ASSERT_EQUAL(call.submit.result.revision, 3);
	CU_ASSERT_EQUAL(world_finish(&w, &call), KS_OK);
	CU_ASSERT(world_settled(&w));
	CU_ASSERT_STRING_EQUAL(world_value(&w, 1, "k"), "two");
	CU_ASSERT(log_is_contiguous());
	world_fini(&w);
}

static void conflict_evaluates_again(void)
{
	struct world_call call;

	begin_started(2);
	world_cas(&w, 1, &call, "k", 0, "theirs");
	ks_log_writer_step(w.nodes[1].log);
	CU_ASSERT_EQUAL(world_finish(&w, &call), KS_OK);
	world_cas(&w, 0, &call, "k", 0, "ours"); /* holds on node 0's stale state only */
	CU_ASSERT(world_until(&w, &call.done));
	CU_ASSERT_EQUAL(call.submit.err.status, KS_OK);
	CU_ASSERT_FALSE(call.submit.result.txn.succeeded);
	CU_ASSERT_EQUAL(call.submit.result.revision, 2);
	CU_ASSERT_EQUAL(world_finish(&w, &call), KS_OK);
	world_fini(&w);
}

static void answer_that_changes_nothing_is_proven(void)
{
	struct world_call call;

	begin_started(2);
	world_put(&w, 1, &call, "k", "theirs");
	ks_log_writer_step(w.nodes[1].log);
	CU_ASSERT_EQUAL(world_finish(&w, &call), KS_OK);
	/* On node 0's stale state the comparison fails, which would be an answer from the past. */
	world_cas(&w, 0, &call, "k", 2, "ours");
	CU_ASSERT(world_until(&w, &call.done));
	CU_ASSERT(call.submit.result.txn.succeeded);
	CU_ASSERT_EQUAL(world_finish(&w, &call), KS_OK);
	/* Likewise an error. */
	world_grant(&w, 1, &call, 7, 60);
	ks_log_writer_step(w.nodes[1].log);
	CU_ASSERT_EQUAL(world_finish(&w, &call), KS_OK);
	world_put_lease(&w, 0, &call, "leased", "v", 7);
	CU_ASSERT_EQUAL(world_finish(&w, &call), KS_OK);
	world_put_lease(&w, 0, &call, "leased", "v", 8);
	CU_ASSERT_EQUAL(world_finish(&w, &call), KS_NOT_FOUND);
	world_fini(&w);
}

static void conflict_for_no_reason_is_tried_again(void)
{
	begin_started(2);
	spurious = 3;
	CU_ASSERT_EQUAL(world_do_put(&w, 0, "k", "v"), 2);
	CU_ASSERT_EQUAL(spurious, 0);
	CU_ASSERT_EQUAL(world_do_put(&w, 1, "k", "v"), 3);
	world_fini(&w);
}

struct leases {
	int64_t ids[8];
	size_t count;
};

static bool visit_lease(void *ctx, const struct sqlb_lease *lease)
{
	struct leases *leases = ctx;

	leases->ids[leases->count++] = lease->id;
	return leases->count < 8;
}

/* And nothing else in its batch has to wait or fails. */
static void a_row_that_the_database_does_not_take_fails_alone(void)
{
	struct world_call calls[5];

	begin_started(1);
	largest_value = 4;
	for (int i = 0; i < 5; i++)
		world_put(&w, 0, &calls[i], "k", i == 2 ? "large" : "v");
	for (int i = 0; i < 5; i++) {
		CU_ASSERT(world_until(&w, &calls[i].done));
		CU_ASSERT_EQUAL(calls[i].submit.err.status, i == 2 ? KS_INVALID_ARGUMENT : KS_OK);
		if (i == 2) {
			CU_ASSERT_STRING_EQUAL(calls[i].submit.err.text, "etcdserver: request is too large");
		} else {
			CU_ASSERT_EQUAL(calls[i].submit.result.revision, i < 2 ? 2 + i : 1 + i);
		}
		world_finish(&w, &calls[i]);
	}
	CU_ASSERT_EQUAL(appends, 1 + 5);
	CU_ASSERT(!atomic_load(&w.nodes[0].log->writer.role.broken));
	largest_value = 0;
	CU_ASSERT(log_is_contiguous());
	world_fini(&w);
}

static void last_word_on_a_lease_in_a_batch_counts(void)
{
	struct world_call calls[6];
	struct leases leases = {.count = 0};
	struct sqlb_conn *conn;
	struct ks_err err;

	begin_started(1);
	world_grant(&w, 0, &calls[0], 1, 100);
	world_grant(&w, 0, &calls[1], 2, 100);
	world_revoke(&w, 0, &calls[2], 1);
	world_grant(&w, 0, &calls[3], 3, 100);
	world_revoke(&w, 0, &calls[4], 3);
	world_grant(&w, 0, &calls[5], 3, 100);
	for (int i = 0; i < 6; i++)
		CU_ASSERT_EQUAL(world_finish(&w, &calls[i]), KS_OK);
	CU_ASSERT_EQUAL(appends, 1);
	CU_ASSERT_EQUAL(sqlb_memory_ops.connect(w.nodes[0].db, &conn, &err), SQLB_OK);
	CU_ASSERT_EQUAL(sqlb_memory_ops.lease_list(conn, 0, visit_lease, &leases, &err), SQLB_OK);
	sqlb_memory_ops.disconnect(conn);
	CU_ASSERT_EQUAL(leases.count, 2);
	CU_ASSERT_EQUAL(leases.ids[0], 2);
	CU_ASSERT_EQUAL(leases.ids[1], 3);
	world_fini(&w);
}

static void failing_request_does_not_fail_its_neighbours(void)
{
	struct world_call before, bad, after;

	begin_started(1);
	world_put(&w, 0, &before, "a", "1");
	world_put_lease(&w, 0, &bad, "b", "2", 12345);
	world_put(&w, 0, &after, "c", "3");
	CU_ASSERT_EQUAL(world_finish(&w, &before), KS_OK);
	CU_ASSERT_EQUAL(world_finish(&w, &bad), KS_NOT_FOUND);
	CU_ASSERT_STRING_EQUAL(bad.submit.err.text, "etcdserver: requested lease not found");
	CU_ASSERT_EQUAL(world_finish(&w, &after), KS_OK);
	CU_ASSERT_EQUAL(appends, 1);
	CU_ASSERT_EQUAL(world_revision(&w, 0), 3);
	CU_ASSERT_PTR_NULL(world_value(&w, 0, "b"));
	world_fini(&w);
}

static int64_t version_of(size_t node, const char *key)
{
	struct ks_range_req req = {.interval = {.key = ks_slice_str(key)}};
	struct ks_range_result result = {0};
	struct ks_err err;
	struct ks_kv kv = {0};
	int64_t revision;

	if (ks_store_range(w.nodes[node].store, &req, &result, &revision, &err) != KS_OK)
		return -1;
	if (result.kv_count == 1 && result.kvs[0].encoded)
		CU_ASSERT(ks_kv_decode(ks_bytes_slice(result.kvs[0].encoded), &kv));
	ks_range_result_fini(&result);
	return kv.version;
}

/* Writes on two nodes by turns; every one must be acknowledged in the end and have happened exactly once. */
static void script(void)
{
	struct world_call call, other, third;
	int64_t puts = 0, revision;

	for (int i = 0; i < 4; i++) {
		CU_ASSERT_NOT_EQUAL(world_do_put(&w, (size_t)i % 2, "counter", "v"), -1);
		puts++;
	}
	/* Several in a batch, one of which conflicts with what the other node writes. */
	world_put(&w, 0, &call, "counter", "x");
	world_put(&w, 0, &other, "counter", "y");
	world_put(&w, 1, &third, "counter", "z");
	CU_ASSERT_EQUAL(world_finish(&w, &call), KS_OK);
	CU_ASSERT_EQUAL(world_finish(&w, &other), KS_OK);
	CU_ASSERT_EQUAL(world_finish(&w, &third), KS_OK);
	puts += 3;
	world_grant(&w, 1, &call, 5, 600);
	CU_ASSERT_EQUAL(world_finish(&w, &call), KS_OK);
	world_put_lease(&w, 0, &call, "leased", "v", 5);
	CU_ASSERT_EQUAL(world_finish(&w, &call), KS_OK);
	world_cas(&w, 1, &call, "once", 0, "v");
	CU_ASSERT(world_until(&w, &call.done));
	CU_ASSERT_EQUAL(call.submit.err.status, KS_OK);
	/* A doubt that had landed must not see its own write as somebody else's. */
	CU_ASSERT(call.submit.result.txn.succeeded);
	CU_ASSERT_EQUAL(world_finish(&w, &call), KS_OK);
	world_revoke(&w, 1, &call, 5);
	CU_ASSERT_EQUAL(world_finish(&w, &call), KS_OK);
	revision = world_do_put(&w, 0, "counter", "last");
	puts++;
	CU_ASSERT_EQUAL(revision, 1 + puts + 3);
	world_no_faults(&w);
	CU_ASSERT(world_settled(&w));
	for (size_t node = 0; node < 2; node++) {
		CU_ASSERT_EQUAL(version_of(node, "counter"), puts);
		CU_ASSERT_EQUAL(version_of(node, "once"), 1);
		CU_ASSERT_EQUAL(version_of(node, "leased"), 0);
	}
	CU_ASSERT(log_is_contiguous());
}

static void nth_append_fails(enum sqlb_memory_fault fault, int times)
{
	bool hit = true;

	for (int n = 1; hit && n < 100; n++) {
		struct world_fault *f;

		begin(2);
		w.config.request_timeout_ms = 60000; /* nothing may be given up in this test */
		f = world_fault(&w, "append", -1, n, times, fault);
		world_start_all(&w);
		script();
		hit = f->hits > 0;
		world_fini(&w);
	}
	CU_ASSERT_FALSE(hit); /* the loop went past the last append */
}

static void nth_append_away(void)
{
	nth_append_fails(SQLB_FAULT_AWAY, 1);
	nth_append_fails(SQLB_FAULT_AWAY, 3);
}

static void nth_append_in_doubt_that_landed(void)
{
	nth_append_fails(SQLB_FAULT_DOUBT_DONE, 1);
	nth_append_fails(SQLB_FAULT_DOUBT_DONE, 2);
}

static void nth_append_in_doubt_that_did_not_land(void)
{
	nth_append_fails(SQLB_FAULT_DOUBT_LOST, 1);
	nth_append_fails(SQLB_FAULT_DOUBT_LOST, 4);
}

static void nth_append_in_doubt_that_lands_late(void)
{
	nth_append_fails(SQLB_FAULT_DOUBT_LATE, 1);
	nth_append_fails(SQLB_FAULT_DOUBT_LATE, 2);
}

static void nth_call_of_any_kind_away(void)
{
	bool hit = true;

	for (int n = 1; hit && n < 400; n++) {
		struct world_fault *f;

		begin(2);
		w.config.request_timeout_ms = 60000;
		f = world_fault(&w, NULL, -1, n, 1, n % 2 ? SQLB_FAULT_AWAY : SQLB_FAULT_CUT);
		world_start_all(&w);
		script();
		hit = f->hits > 0;
		world_fini(&w);
	}
}

static void doubt_is_never_answered_before_it_is_settled(void)
{
	struct world_call call, next;

	begin_started(2);
	world_fault(&w, "append", 0, 1, 1, SQLB_FAULT_DOUBT_LOST);
	world_fault(&w, "read_rows", 0, 1, 1000000, SQLB_FAULT_AWAY);
	world_put(&w, 0, &call, "k", "doubtful");
	world_run(&w, 60000);
	CU_ASSERT_EQUAL(call.done, 0); /* also long after request_timeout_ms */
	/* Those behind it are not in doubt: they get their answer in time. */
	world_put(&w, 0, &next, "k", "refused");
	CU_ASSERT_EQUAL(next.done, 1);
	CU_ASSERT_STRING_EQUAL(next.submit.err.text, "etcdserver: no leader");
	world_no_faults(&w);
	CU_ASSERT_EQUAL(world_finish(&w, &call), KS_OK);
	CU_ASSERT_EQUAL(version_of(0, "k"), 1);
	world_fini(&w);
}

static void foreign_entry_settles_a_doubt(void)
{
	struct world_call call;

	begin_started(2);
	world_fault(&w, "append", 0, 1, 1, SQLB_FAULT_DOUBT_LOST);
	world_cas(&w, 0, &call, "k", 0, "ours");
	ks_log_writer_step(w.nodes[0].log);
	CU_ASSERT_EQUAL(call.done, 0);
	CU_ASSERT_EQUAL(world_do_put(&w, 1, "k", "theirs"), 2);
	CU_ASSERT(world_until(&w, &call.done));
	CU_ASSERT_EQUAL(call.submit.err.status, KS_OK);
	CU_ASSERT_FALSE(call.submit.result.txn.succeeded);
	CU_ASSERT_EQUAL(world_finish(&w, &call), KS_OK);
	world_fini(&w);
}

static void queue_has_a_byte_limit(void)
{
	struct world_call calls[40];
	int refused = 0;

	begin(1);
	w.config.max_queue_bytes = 5000;
	world_start_all(&w);
	for (int i = 0; i < 40; i++) {
		world_put(&w, 0, &calls[i], "k", "v");
		if (!calls[i].done)
			continue;
		refused++;
		CU_ASSERT_EQUAL(calls[i].submit.err.status, KS_UNKNOWN);
		CU_ASSERT_STRING_EQUAL(calls[i].submit.err.text, "etcdserver: too many requests");
	}
	CU_ASSERT(refused > 10 && refused < 40);
	for (int i = 0; i < 40; i++)
		world_finish(&w, &calls[i]);
	CU_ASSERT_EQUAL(world_revision(&w, 0), 1 + 40 - refused);
	CU_ASSERT_NOT_EQUAL(world_do_put(&w, 0, "k", "there is room again"), -1);
	world_fini(&w);
}

static int64_t real_us(void)
{
	struct timespec now;

	KS_ASSERT(clock_gettime(CLOCK_MONOTONIC, &now) == 0);
	return (int64_t)now.tv_sec * 1000000 + now.tv_nsec / 1000;
}

/* Of proofs that came together; the microseconds until all were there. */
static int64_t prove_together(struct world_proof *proofs, size_t count)
{
	int64_t began = real_us();

	for (size_t i = 0; i < count; i++)
		world_prove(&w, 0, &proofs[i]);
	CU_ASSERT(world_until(&w, &proofs[count - 1].done));
	for (size_t i = 0; i < count; i++)
		CU_ASSERT_EQUAL(proofs[i].done, 1);
	return real_us() - began;
}

static void many_proofs_make_the_next_look_wait_for_more(void)
{
	struct world_proof proofs[24];
	int64_t least = INT64_MAX;

	begin_started(1);
	CU_ASSERT_EQUAL(world_do_put(&w, 0, "k", "v"), 2);
	for (int i = 0; i < 5; i++) {
		int64_t took;

		(void)prove_together(proofs, 23);
		took = prove_together(proofs, 1);
		least = took < least ? took : least;
	}
	CU_ASSERT(least < 300 || getenv("KS_TEST_SLOW")); /* a sanitizer's slowness is no wait */
	(void)prove_together(proofs, 24);
	CU_ASSERT(prove_together(proofs, 1) >= 300);
	world_fini(&w);
}

static void who_is_alone_is_told_so(void)
{
	struct world_proof proofs[2];
	struct world_call calls[2];

	begin_started(1);
	world_put(&w, 0, &calls[0], "k", "v");
	CU_ASSERT_EQUAL(world_finish(&w, &calls[0]), KS_OK);
	CU_ASSERT(calls[0].submit.alone);
	for (int i = 0; i < 2; i++)
		world_put(&w, 0, &calls[i], "k", "v");
	for (int i = 0; i < 2; i++) {
		CU_ASSERT_EQUAL(world_finish(&w, &calls[i]), KS_OK);
		CU_ASSERT_FALSE(calls[i].submit.alone);
	}
	(void)prove_together(proofs, 1);
	CU_ASSERT(proofs[0].proof.alone);
	(void)prove_together(proofs, 2);
	CU_ASSERT_FALSE(proofs[0].proof.alone);
	CU_ASSERT_FALSE(proofs[1].proof.alone);
	world_fini(&w);
}

static void waits_for_a_database_that_is_away_and_recovers(void)
{
	struct world_call waiting, refused;
	struct world_proof proof;
	int64_t began;

	begin_started(1);
	CU_ASSERT_EQUAL(world_do_put(&w, 0, "k", "before"), 2);
	world_fault(&w, NULL, -1, 1, 1000000, SQLB_FAULT_AWAY);
	began = ks_clock_now(&w.clock);
	world_put(&w, 0, &waiting, "k", "v");
	world_prove(&w, 0, &proof);
	CU_ASSERT_EQUAL(world_finish(&w, &waiting), KS_UNAVAILABLE);
	CU_ASSERT_STRING_EQUAL(waiting.submit.err.text, "etcdserver: request timed out");
	CU_ASSERT(ks_clock_now(&w.clock) - began >= 7000 && ks_clock_now(&w.clock) - began < 7500);
	CU_ASSERT(world_until(&w, &proof.done));
	CU_ASSERT_STRING_EQUAL(proof.proof.err.text, "etcdserver: request timed out");
	world_put(&w, 0, &refused, "k", "v");
	CU_ASSERT_EQUAL(refused.done, 1);
	CU_ASSERT_EQUAL(refused.submit.err.status, KS_UNAVAILABLE);
	CU_ASSERT_STRING_EQUAL(refused.submit.err.text, "etcdserver: no leader");
	world_prove(&w, 0, &proof);
	CU_ASSERT_EQUAL(proof.done, 1);
	CU_ASSERT_STRING_EQUAL(proof.proof.err.text, "etcdserver: no leader");
	CU_ASSERT_STRING_EQUAL(world_value(&w, 0, "k"), "before");
	world_no_faults(&w);
	world_run(&w, 3000);
	CU_ASSERT_EQUAL(world_do_put(&w, 0, "k", "after"), 3);
	world_prove(&w, 0, &proof);
	CU_ASSERT(world_until(&w, &proof.done));
	CU_ASSERT_EQUAL(proof.proof.err.status, KS_OK);
	world_fini(&w);
}

static void broken_tables_stop_writes_not_reads(void)
{
	struct world_call call;

	begin_started(1);
	CU_ASSERT_EQUAL(world_do_put(&w, 0, "k", "before"), 2);
	world_fault(&w, NULL, -1, 1, 1000000, SQLB_FAULT_BROKEN);
	world_put(&w, 0, &call, "k", "v");
	CU_ASSERT_EQUAL(world_finish(&w, &call), KS_UNAVAILABLE);
	world_put(&w, 0, &call, "k", "v");
	CU_ASSERT_EQUAL(call.done, 1);
	CU_ASSERT_STRING_EQUAL(call.submit.err.text, "etcdserver: no leader");
	CU_ASSERT_STRING_EQUAL(world_value(&w, 0, "k"), "before");
	world_no_faults(&w);
	world_run(&w, KS_LOG_BROKEN_RETRY_MS + 1000);
	CU_ASSERT_EQUAL(world_do_put(&w, 0, "k", "after"), 3);
	world_fini(&w);
}

static void batches_keep_their_limits(void)
{
	struct world_call *calls = calloc(20000, sizeof(*calls));
	struct world_call wipe, before, after;
	char key[32];

	begin(1);
	w.config.max_batch_entries = 1000000;
	w.config.max_batch_bytes = 64u << 20;
	world_start_all(&w);
	appends = 0;
	for (int i = 0; i < 20000; i++) {
		snprintf(key, sizeof(key), "key-%d", i);
		world_put(&w, 0, &calls[i], key, "v");
	}
	for (int i = 0; i < 20000; i++)
		CU_ASSERT_EQUAL(world_finish(&w, &calls[i]), KS_OK);
	CU_ASSERT_EQUAL(appends, 2);
	CU_ASSERT_EQUAL(largest_rows, SQLB_MAX_ROWS);
	/* One entry that is larger than any batch goes alone, and its neighbours are as before. */
	appends = 0;
	world_put(&w, 0, &before, "a", "v");
	world_delete(&w, 0, &wipe, "key", "kez");
	world_put(&w, 0, &after, "b", "v");
	CU_ASSERT_EQUAL(world_finish(&w, &before), KS_OK);
	CU_ASSERT(world_until(&w, &wipe.done));
	CU_ASSERT_EQUAL(wipe.submit.result.op.del.deleted, 20000);
	CU_ASSERT_EQUAL(wipe.submit.result.revision, 20003);
	CU_ASSERT_EQUAL(world_finish(&w, &wipe), KS_OK);
	CU_ASSERT_EQUAL(world_finish(&w, &after), KS_OK);
	CU_ASSERT(largest_rows <= SQLB_MAX_ROWS);
	CU_ASSERT_EQUAL(appends, 3);
	CU_ASSERT(log_is_contiguous());
	free(calls);
	world_fini(&w);
}

static void stop_answers_everybody(void)
{
	struct world_call queued, doubtful;
	struct world_proof proof;

	begin_started(1);
	world_fault(&w, "append", 0, 1, 1000, SQLB_FAULT_DOUBT_LOST);
	world_put(&w, 0, &doubtful, "k", "v");
	world_run(&w, 100);
	world_put(&w, 0, &queued, "k", "v");
	world_prove(&w, 0, &proof);
	world_stop(&w, 0);
	CU_ASSERT_EQUAL(queued.done, 1);
	CU_ASSERT_STRING_EQUAL(queued.submit.err.text, "etcdserver: server stopped");
	CU_ASSERT_EQUAL(doubtful.done, 1);
	CU_ASSERT_STRING_EQUAL(doubtful.submit.err.text, "etcdserver: server stopped");
	CU_ASSERT_EQUAL(proof.done, 1);
	world_fini(&w);
}

static void restart_loads_what_was_acknowledged(void)
{
	begin_started(1);
	for (int i = 0; i < 50; i++)
		world_do_put(&w, 0, i % 3 ? "a" : "b", "v");
	world_stop(&w, 0);
	world_start_all(&w);
	CU_ASSERT_EQUAL(world_revision(&w, 0), 51);
	CU_ASSERT_EQUAL(version_of(0, "a") + version_of(0, "b"), 50);
	CU_ASSERT_EQUAL(world_do_put(&w, 0, "a", "v"), 52);
	world_fini(&w);
}

static void values_out_of_the_cache_are_fetched(void)
{
	struct world_call call;
	char key[16], value[16];

	begin(1);
	w.config.value_cache_bytes = 1;
	world_start_all(&w);
	for (int i = 0; i < 200; i++) {
		snprintf(key, sizeof(key), "k%d", i);
		snprintf(value, sizeof(value), "v%d", i);
		CU_ASSERT_NOT_EQUAL(world_do_put(&w, 0, key, value), -1);
	}
	for (int i = 0; i < 200; i += 7) {
		const char *got;

		snprintf(key, sizeof(key), "k%d", i);
		snprintf(value, sizeof(value), "v%d", i);
		got = world_value(&w, 0, key);
		CU_ASSERT_PTR_NOT_NULL(got);
		if (got)
			CU_ASSERT_STRING_EQUAL(got, value);
	}
	/* The writer needs one to evaluate: the database answers late, and nothing is lost. */
	world_fault(&w, "read_at", 0, 1, 2, SQLB_FAULT_AWAY);
	world_cas(&w, 0, &call, "k3", 0, "v");
	call.compare.target = KS_CMP_VALUE;
	call.compare.value = ks_slice_str("v3");
	CU_ASSERT(world_until(&w, &call.done));
	CU_ASSERT_EQUAL(call.submit.err.status, KS_OK);
	CU_ASSERT(call.submit.result.txn.succeeded);
	CU_ASSERT_EQUAL(world_finish(&w, &call), KS_OK);
	world_fini(&w);
}

struct fetching {
	struct ks_fetch fetch;
	int done;
};

static void fetched(struct ks_fetch *fetch)
{
	ks_container_of(fetch, struct fetching, fetch)->done++;
}

static void fetch_of_many_comes_in_pieces_and_of_trimmed_ones_fails(void)
{
	struct ks_range_req req = {.interval = {.key = ks_slice_str("k"), .end = ks_slice_str("l")}};
	struct ks_range_result result = {0};
	struct ks_kvref *refs[1500];
	struct fetching fetching = {.fetch = {.refs = refs, .done = fetched}};
	struct world_call call;
	struct ks_err err;
	int64_t revision;
	char key[16], value[16];

	begin(1);
	w.config.value_cache_bytes = 1;
	world_start_all(&w);
	for (int round = 0; round < 2; round++) {
		for (int i = 0; i < 1500; i++) {
			snprintf(key, sizeof(key), "k%04d", i);
			snprintf(value, sizeof(value), "v%d-%d", i, round);
			CU_ASSERT_NOT_EQUAL(world_do_put(&w, 0, key, value), -1);
		}
		if (round == 1)
			req.revision = 1501;
		CU_ASSERT_EQUAL(ks_store_range(w.nodes[0].store, &req, &result, &revision, &err), KS_OK);
		CU_ASSERT_EQUAL_FATAL(result.kv_count, 1500);
		fetching.fetch.count = 0;
		for (size_t i = 0; i < 1500; i++)
			if (ks_kvref_missing(&result.kvs[i]))
				refs[fetching.fetch.count++] = &result.kvs[i];
		CU_ASSERT(fetching.fetch.count > 1000);
		if (round == 1) {
			world_compact(&w, 0, &call, world_revision(&w, 0));
			CU_ASSERT_EQUAL(world_finish(&w, &call), KS_OK);
			world_run(&w, 20000);
			CU_ASSERT(world_rows(&w) < 1510);
		}
		fetching.done = 0;
		w.nodes[0].committer->ops->fetch(w.nodes[0].committer, &fetching.fetch);
		CU_ASSERT(world_until(&w, &fetching.done));
		if (round == 0) {
			CU_ASSERT_EQUAL(fetching.fetch.err.status, KS_OK);
			for (size_t i = 0; i < 1500; i++) {
				struct ks_kv kv = {0};

				snprintf(value, sizeof(value), "v%zu-0", i);
				CU_ASSERT(result.kvs[i].encoded &&
					  ks_kv_decode(ks_bytes_slice(result.kvs[i].encoded), &kv) &&
					  ks_slice_eq(kv.value, ks_slice_str(value)));
			}
		} else {
			CU_ASSERT_EQUAL(fetching.fetch.err.status, KS_OUT_OF_RANGE);
			CU_ASSERT_STRING_EQUAL(fetching.fetch.err.text,
					       "etcdserver: mvcc: required revision has been compacted");
		}
		ks_range_result_fini(&result);
	}
	world_fini(&w);
}

/* ---- several writers ---- */

enum { LOADED = 20 }; /* requests that each instance always has open */

struct load {
	struct world_call calls[WORLD_NODES][LOADED];
	int64_t since_ms[WORLD_NODES][LOADED];
	size_t done[WORLD_NODES];
	int64_t longest_ms[WORLD_NODES]; /* that a request took */
};

/* Every instance in 'nodes' has LOADED puts open, and for each that is answered the next one comes a little later. */
static void load_run(struct load *load, unsigned nodes, int64_t ms)
{
	int64_t end = ks_clock_now(&w.clock) + ms;

	for (int64_t now = ks_clock_now(&w.clock); now < end; now = ks_clock_now(&w.clock)) {
		for (size_t node = 0; node < w.count; node++) {
			for (size_t i = 0; i < LOADED; i++) {
				struct world_call *call = &load->calls[node][i];
				int64_t took = now - load->since_ms[node][i];

				if (call->done == 1) {
					CU_ASSERT_EQUAL(call->submit.err.status, KS_OK);
					if (call->submit.err.status == KS_OK)
						ks_result_fini(&call->submit.result);
					call->done = 2;
					load->done[node]++;
					if (took > load->longest_ms[node])
						load->longest_ms[node] = took;
				}
				if (call->done == 2 && (nodes & 1u << node)) {
					world_put(&w, node, call, "k", "v");
					load->since_ms[node][i] = now;
				}
			}
		}
		world_run(&w, 1);
	}
}

static void load_begin(struct load *load)
{
	*load = (struct load){0};
	for (size_t node = 0; node < WORLD_NODES; node++)
		for (size_t i = 0; i < LOADED; i++)
			load->calls[node][i].done = 2;
	for (size_t node = 0; node < w.count; node++)
		CU_ASSERT_NOT_EQUAL(world_do_put(&w, node, "k", "v"), -1);
	world_settled(&w);
}

/* notifies: the tail listens; else the writer looks itself when it is of use. */
static void take_turns(bool notifies)
{
	static struct load load;
	size_t all, conflicts;

	begin(3);
	w.ops.features = notifies ? SQLB_NOTIFIES : 0;
	world_start_all(&w);
	load_begin(&load);
	load_run(&load, 7, 200);
	appends = reads = waits = 0;
	load_run(&load, 7, 2800);
	/* Each append is read by two others, at best by each with that of the third one. */
	CU_ASSERT(reads < 3 * appends);
	CU_ASSERT(waits < (notifies ? 4 * appends : appends / 2));
	load_run(&load, 0, 1000);
	appends = 0;
	load_begin(&load);
	appends = 0;
	load_run(&load, 7, 3000);
	load_run(&load, 0, 1000);
	all = load.done[0] + load.done[1] + load.done[2];
	CU_ASSERT(all > 3000);
	for (size_t node = 0; node < 3; node++) {
		CU_ASSERT(load.done[node] * 10 > all * 3);
		CU_ASSERT(load.longest_ms[node] <= 40);
	}
	/* Each append takes all that waits, and hardly one is in vain. */
	conflicts = (size_t)appends - all / LOADED;
	CU_ASSERT((size_t)appends >= all / LOADED && conflicts * 20 < (size_t)appends);
	CU_ASSERT(log_is_contiguous());
	world_fini(&w);
}

static void three_busy_writers_take_turns(void)
{
	take_turns(true);
}

static void three_busy_writers_without_notifications_take_turns(void)
{
	take_turns(false);
}

/* A database that cannot tell of changes is asked by an idle instance, and not by one that is busy and alone. */
static void a_lone_busy_writer_asks_for_nothing(void)
{
	static struct load load;

	begin_started(1);
	load_begin(&load);
	reads = waits = appends = 0;
	load_run(&load, 1, 1000);
	CU_ASSERT(appends > 100 && reads < 30 && waits < 30);
	load_run(&load, 0, 1000);
	CU_ASSERT(waits > 100); /* it listens again */
	world_fini(&w);
}

static void a_lone_put_comes_between_the_appends_of_a_busy_one(void)
{
	static struct load load;
	struct world_call call;
	int64_t longest_ms = 0;

	begin_started(3);
	load_begin(&load);
	for (int i = 0; i < 50; i++) {
		int64_t began = ks_clock_now(&w.clock);

		world_put(&w, 1, &call, "guest", "v");
		while (!call.done && ks_clock_now(&w.clock) < began + 1000)
			load_run(&load, 1, 1);
		CU_ASSERT_EQUAL(world_finish(&w, &call), KS_OK);
		if (ks_clock_now(&w.clock) - began > longest_ms)
			longest_ms = ks_clock_now(&w.clock) - began;
		load_run(&load, 1, i % 2 ? 1500 : 30); /* also one that the other has forgotten */
	}
	CU_ASSERT(longest_ms <= 2 * KS_TURN_ROOM_MS);
	load_run(&load, 0, 1000);
	world_fini(&w);
}

static void a_writer_that_dies_in_its_turn_costs_milliseconds(void)
{
	static struct load load;
	size_t before;

	for (int i = 0; i < 20; i++) {
		begin_started(3);
		load_begin(&load);
		load_run(&load, 7, 200 + i);
		load.longest_ms[1] = load.longest_ms[2] = 0;
		before = load.done[1] + load.done[2];
		world_fault(&w, NULL, 0, 1, 100000000, SQLB_FAULT_AWAY);
		load_run(&load, 6, 300);
		CU_ASSERT(load.longest_ms[1] <= 100 && load.longest_ms[2] <= 100);
		CU_ASSERT(load.done[1] + load.done[2] > before + 300);
		world_no_faults(&w);
		load_run(&load, 0, 3000);
		CU_ASSERT(world_settled(&w));
		world_fini(&w);
	}
}

int main(void)
{
	return tap_run(
		"writer",
		(const struct tap_test[]){
			{"empty_store_has_revision_one", empty_store_has_revision_one},
			{"each_request_of_a_batch_has_its_own_revision", each_request_of_a_batch_has_its_own_revision},
			{"lone_request_is_one_append_and_waits_for_nobody",
			 lone_request_is_one_append_and_waits_for_nobody},
			{"put_after_conflict_keeps_revisions_contiguous",
			 put_after_conflict_keeps_revisions_contiguous},
			{"conflict_evaluates_again", conflict_evaluates_again},
			{"answer_that_changes_nothing_is_proven", answer_that_changes_nothing_is_proven},
			{"many_proofs_make_the_next_look_wait_for_more", many_proofs_make_the_next_look_wait_for_more},
			{"who_is_alone_is_told_so", who_is_alone_is_told_so},
			{"conflict_for_no_reason_is_tried_again", conflict_for_no_reason_is_tried_again},
			{"a_row_that_the_database_does_not_take_fails_alone",
			 a_row_that_the_database_does_not_take_fails_alone},
			{"last_word_on_a_lease_in_a_batch_counts", last_word_on_a_lease_in_a_batch_counts},
			{"failing_request_does_not_fail_its_neighbours", failing_request_does_not_fail_its_neighbours},
			{"nth_append_away", nth_append_away},
			{"nth_append_in_doubt_that_landed", nth_append_in_doubt_that_landed},
			{"nth_append_in_doubt_that_did_not_land", nth_append_in_doubt_that_did_not_land},
			{"nth_append_in_doubt_that_lands_late", nth_append_in_doubt_that_lands_late},
			{"nth_call_of_any_kind_away", nth_call_of_any_kind_away},
			{"doubt_is_never_answered_before_it_is_settled", doubt_is_never_answered_before_it_is_settled},
			{"foreign_entry_settles_a_doubt", foreign_entry_settles_a_doubt},
			{"queue_has_a_byte_limit", queue_has_a_byte_limit},
			{"waits_for_a_database_that_is_away_and_recovers",
			 waits_for_a_database_that_is_away_and_recovers},
			{"broken_tables_stop_writes_not_reads", broken_tables_stop_writes_not_reads},
			{"batches_keep_their_limits", batches_keep_their_limits},
			{"stop_answers_everybody", stop_answers_everybody},
			{"restart_loads_what_was_acknowledged", restart_loads_what_was_acknowledged},
			{"values_out_of_the_cache_are_fetched", values_out_of_the_cache_are_fetched},
			{"fetch_of_many_comes_in_pieces_and_of_trimmed_ones_fails",
			 fetch_of_many_comes_in_pieces_and_of_trimmed_ones_fails},
			{"three_busy_writers_take_turns", three_busy_writers_take_turns},
			{"three_busy_writers_without_notifications_take_turns",
			 three_busy_writers_without_notifications_take_turns},
			{"a_lone_busy_writer_asks_for_nothing", a_lone_busy_writer_asks_for_nothing},
			{"a_lone_put_comes_between_the_appends_of_a_busy_one",
			 a_lone_put_comes_between_the_appends_of_a_busy_one},
			{"a_writer_that_dies_in_its_turn_costs_milliseconds",
			 a_writer_that_dies_in_its_turn_costs_milliseconds},
			{NULL, NULL},
		});
}
