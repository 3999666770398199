/* SPDX-License-Identifier: Apache-2.0 */
/* Following others' appends, holes, lost tails, and proofs for reads. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/lib/tap.h"
#include "tests/sim/world.h"

static struct world w;
static int probes;

static enum sqlb_outcome counting_read_head(struct sqlb_conn *conn, struct sqlb_head *head, struct ks_err *err)
{
	probes++;
	return sqlb_memory_ops.read_head(conn, head, err);
}

static void begin_started(size_t nodes)
{
	world_init(&w, nodes);
	w.ops.read_head = counting_read_head;
	world_start_all(&w);
	probes = 0;
}

static uint64_t epoch(size_t node)
{
	return w.nodes[node].log->reader.epoch;
}

static void cut_off(size_t node)
{
	world_fault(&w, NULL, (int)node, 1, 100000000, SQLB_FAULT_AWAY);
}

static void foreign_entries_arrive_without_a_request(void)
{
	begin_started(3);
	CU_ASSERT_EQUAL(world_do_put(&w, 1, "k", "v"), 2);
	world_run(&w, 20);
	CU_ASSERT_EQUAL(world_revision(&w, 0), 2);
	CU_ASSERT_EQUAL(world_revision(&w, 2), 2);
	world_fini(&w);
}

static void proof_waits_for_what_others_wrote(void)
{
	struct world_proof proof;
	struct world_call call;

	begin_started(2);
	world_put(&w, 1, &call, "k", "theirs");
	ks_log_writer_step(w.nodes[1].log);
	CU_ASSERT_EQUAL(world_finish(&w, &call), KS_OK);
	CU_ASSERT_EQUAL(world_revision(&w, 0), 1);
	world_prove(&w, 0, &proof);
	ks_log_reader_step(w.nodes[0].log);
	CU_ASSERT_EQUAL(proof.done, 0);
	ks_log_writer_step(w.nodes[0].log);
	CU_ASSERT_EQUAL(proof.done, 1);
	CU_ASSERT_EQUAL(proof.proof.err.status, KS_OK);
	CU_ASSERT_STRING_EQUAL(world_value(&w, 0, "k"), "theirs");
	world_fini(&w);
}

static void one_probe_serves_all_that_wait(void)
{
	struct world_proof proofs[50];

	begin_started(2);
	for (int i = 0; i < 50; i++)
		world_prove(&w, 0, &proofs[i]);
	ks_log_reader_step(w.nodes[0].log);
	for (int i = 0; i < 50; i++)
		CU_ASSERT(proofs[i].done == 1 && proofs[i].proof.err.status == KS_OK);
	CU_ASSERT_EQUAL(probes, 1);
	world_fini(&w);
}

static void own_append_serves_those_that_came_before_it(void)
{
	struct world_proof before;
	struct world_call call;

	begin_started(2);
	world_prove(&w, 0, &before);
	world_put(&w, 0, &call, "k", "v");
	ks_log_writer_step(w.nodes[0].log);
	CU_ASSERT_EQUAL(before.done, 1);
	CU_ASSERT_EQUAL(probes, 0);
	CU_ASSERT_EQUAL(world_finish(&w, &call), KS_OK);
	world_fini(&w);
}

static void exclusive_database_needs_no_probe(void)
{
	struct world_proof proof;
	struct world_call call;

	world_init(&w, 1);
	w.ops.read_head = counting_read_head;
	w.ops.features |= SQLB_EXCLUSIVE;
	world_start_all(&w);
	probes = 0;
	world_prove(&w, 0, &proof);
	CU_ASSERT_EQUAL(proof.done, 1);
	CU_ASSERT_EQUAL(proof.proof.err.status, KS_OK);
	world_cas(&w, 0, &call, "k", 5, "v");
	CU_ASSERT_EQUAL(world_finish(&w, &call), KS_OK);
	CU_ASSERT_EQUAL(probes, 0);
	world_fini(&w);
}

/* Node 0 sleeps while node 1 overwrites, deletes, compacts and trims. */
static void sleep_through_a_compaction(bool keep_applied_entry)
{
	struct world_call call;

	world_do_put(&w, 1, "dead", "1");
	world_do_put(&w, 1, "over", "1");
	world_do_put(&w, 1, "quiet", "1");
	world_do_put(&w, 1, keep_applied_entry ? "stays" : "over", "2");
	CU_ASSERT(world_settled(&w));
	cut_off(0);
	world_delete(&w, 1, &call, "dead", NULL);
	CU_ASSERT_EQUAL(world_finish(&w, &call), KS_OK);
	for (int i = 0; i < 5; i++)
		world_do_put(&w, 1, "over", "3");
	world_do_put(&w, 1, "new", "4");
	world_compact(&w, 1, &call, world_revision(&w, 1));
	CU_ASSERT_EQUAL(world_finish(&w, &call), KS_OK);
	world_do_put(&w, 1, "after", "5");
	world_run(&w, 30000); /* node 0 is no member any more: its rows go */
}

static void hole_is_jumped_over_as_one_step(void)
{
	struct world_proof proof;
	size_t rows;

	begin_started(2);
	sleep_through_a_compaction(true);
	rows = world_rows(&w);
	CU_ASSERT(rows <= 6); /* stays, quiet, over, new, the compaction, after */
	CU_ASSERT_STRING_EQUAL(world_value(&w, 0, "dead"), "1");
	world_no_faults(&w);
	world_run(&w, 5000); /* until it is believed to be there again */
	world_prove(&w, 0, &proof);
	CU_ASSERT(world_until(&w, &proof.done));
	CU_ASSERT_EQUAL(proof.proof.err.status, KS_OK);
	CU_ASSERT_PTR_NULL(world_value(&w, 0, "dead"));
	CU_ASSERT_STRING_EQUAL(world_value(&w, 0, "over"), "3");
	CU_ASSERT_STRING_EQUAL(world_value(&w, 0, "quiet"), "1");
	CU_ASSERT_STRING_EQUAL(world_value(&w, 0, "after"), "5");
	CU_ASSERT_EQUAL(world_revision(&w, 0), world_revision(&w, 1));
	CU_ASSERT_EQUAL(epoch(0), 0); /* nothing was reset: watches go on */
	world_fini(&w);
}

static void applied_entry_that_was_trimmed_makes_it_load_again(void)
{
	begin_started(2);
	sleep_through_a_compaction(false);
	world_no_faults(&w);
	CU_ASSERT(world_settled(&w));
	CU_ASSERT_PTR_NULL(world_value(&w, 0, "dead"));
	CU_ASSERT_STRING_EQUAL(world_value(&w, 0, "over"), "3");
	CU_ASSERT_EQUAL(epoch(0), 1);
	CU_ASSERT_NOT_EQUAL(world_do_put(&w, 0, "k", "v"), -1);
	world_fini(&w);
}

static void nth_read_of_a_jump_fails(void)
{
	static const enum sqlb_memory_fault faults[] = {SQLB_FAULT_AWAY, SQLB_FAULT_CUT};

	for (int n = 1; n < 8; n++) {
		begin_started(2);
		sleep_through_a_compaction(true);
		world_no_faults(&w);
		world_fault(&w, "read_rows", 0, n, 1, faults[n % 2]);
		CU_ASSERT(world_settled(&w));
		world_run(&w, 100);
		CU_ASSERT_PTR_NULL(world_value(&w, 0, "dead"));
		CU_ASSERT_STRING_EQUAL(world_value(&w, 0, "over"), "3");
		CU_ASSERT_EQUAL(epoch(0), 0);
		CU_ASSERT_NOT_EQUAL(world_do_put(&w, 0, "k", "v"), -1);
		world_fini(&w);
	}
}

static void doubt_whose_rows_were_trimmed_is_never_tried_again(void)
{
	struct world_call doubtful, call;

	begin_started(2);
	world_do_put(&w, 1, "stays", "1");
	CU_ASSERT(world_settled(&w));
	world_run(&w, KS_TURN_LATELY_MS); /* nobody's turn */
	world_fault(&w, "append", 0, 1, 1, SQLB_FAULT_DOUBT_DONE);
	world_put(&w, 0, &doubtful, "over", "ours"); /* it lands, and node 0 does not know */
	ks_log_writer_step(w.nodes[0].log);
	cut_off(0);
	for (int i = 0; i < 3; i++)
		world_do_put(&w, 1, "over", "theirs");
	world_compact(&w, 1, &call, world_revision(&w, 1));
	CU_ASSERT_EQUAL(world_finish(&w, &call), KS_OK);
	world_run(&w, 30000);
	CU_ASSERT(world_rows(&w) < 5);
	CU_ASSERT_EQUAL(doubtful.done, 0);
	world_no_faults(&w);
	CU_ASSERT_EQUAL(world_finish(&w, &doubtful), KS_UNAVAILABLE);
	CU_ASSERT_STRING_EQUAL(doubtful.submit.err.text, "etcdserver: request timed out");
	CU_ASSERT(world_settled(&w));
	CU_ASSERT_STRING_EQUAL(world_value(&w, 0, "over"), "theirs");
	world_fini(&w);
}

/* An applied entry that fills a chunk alone must not hide what follows it. */
static void entries_larger_than_a_chunk_are_followed(void)
{
	struct world_call big;
	uint8_t *value = malloc(3 * KS_LOG_PULL_BYTES);

	CU_ASSERT_PTR_NOT_NULL_FATAL(value);
	memset(value, 'x', 3 * KS_LOG_PULL_BYTES);
	begin_started(2);
	for (int i = 0; i < 3; i++) {
		world_put(&w, 1, &big, "big", "replaced");
		big.submit.request.put.value = ks_slice_of(value, 3 * KS_LOG_PULL_BYTES);
		CU_ASSERT_EQUAL(world_finish(&w, &big), KS_OK);
		CU_ASSERT(world_settled(&w));
		world_do_put(&w, 1, "small", "v");
		CU_ASSERT(world_settled(&w));
		CU_ASSERT_EQUAL(world_revision(&w, 0), 3 + 2 * i);
	}
	world_fini(&w);
	free(value);
}

static void row_of_a_newer_program_stops_writes(void)
{
	struct sqlb_row row = {.position = 3,
			       .rows = 1,
			       .kind = 77,
			       .revision = 2,
			       .payload = ks_slice_str("later"),
			       .writer = 5,
			       .batch = 1};
	struct sqlb_append append = {.rows = &row, .row_count = 1};
	struct sqlb_conn *conn;
	struct world_call call;
	struct ks_err err;
	bool appended;

	begin_started(1);
	CU_ASSERT_EQUAL(world_do_put(&w, 0, "k", "v"), 2);
	CU_ASSERT_EQUAL(sqlb_memory_ops.connect(w.nodes[0].db, &conn, &err), SQLB_OK);
	CU_ASSERT_EQUAL(sqlb_memory_ops.append(conn, &append, &appended, &err), SQLB_OK);
	sqlb_memory_ops.disconnect(conn);
	world_put(&w, 0, &call, "k", "w");
	CU_ASSERT_EQUAL(world_finish(&w, &call), KS_UNAVAILABLE);
	CU_ASSERT(atomic_load(&w.nodes[0].log->writer.role.broken));
	CU_ASSERT_STRING_EQUAL(world_value(&w, 0, "k"), "v");
	CU_ASSERT_EQUAL(world_rows(&w), 3);
	world_fini(&w);
}

static void row_missing_inside_an_entry_is_a_hole(void)
{
	struct world_call call;
	struct sqlb_conn *conn;
	struct sqlb_loc loc;
	struct ks_err err;

	begin_started(2);
	world_do_put(&w, 1, "a", "1");
	world_do_put(&w, 1, "b", "1");
	CU_ASSERT(world_settled(&w));
	cut_off(0);
	world_delete(&w, 1, &call, "a", "c");
	CU_ASSERT_EQUAL(world_finish(&w, &call), KS_OK);
	world_do_put(&w, 1, "b", "2");
	world_compact(&w, 1, &call, world_revision(&w, 1));
	CU_ASSERT_EQUAL(world_finish(&w, &call), KS_OK);
	/* Only the last row of the two deletes goes, as if trimming had been interrupted there. */
	CU_ASSERT_EQUAL(sqlb_memory_ops.connect(w.nodes[1].db, &conn, &err), SQLB_OK);
	loc = (struct sqlb_loc){4, 1};
	CU_ASSERT_EQUAL(sqlb_memory_ops.trim(conn, &loc, 1, &err), SQLB_OK);
	sqlb_memory_ops.disconnect(conn);
	world_no_faults(&w);
	CU_ASSERT(world_settled(&w));
	CU_ASSERT_PTR_NULL(world_value(&w, 0, "a"));
	CU_ASSERT_STRING_EQUAL(world_value(&w, 0, "b"), "2");
	CU_ASSERT_EQUAL(w.nodes[0].log->writer.state, KS_LOG_SERVING);
	world_fini(&w);
}

static void hole_that_no_compaction_explains_is_not_served(void)
{
	struct sqlb_conn *conn;
	struct sqlb_loc loc = {2, 0};
	struct ks_err err;

	begin_started(1);
	world_do_put(&w, 0, "a", "1");
	world_do_put(&w, 0, "b", "1");
	CU_ASSERT_EQUAL(sqlb_memory_ops.connect(w.nodes[0].db, &conn, &err), SQLB_OK);
	CU_ASSERT_EQUAL(sqlb_memory_ops.trim(conn, &loc, 1, &err), SQLB_OK);
	sqlb_memory_ops.disconnect(conn);
	world_stop(&w, 0);
	world_start(&w, 0);
	world_run(&w, 20000);
	CU_ASSERT_FALSE(atomic_load(&w.nodes[0].log->loaded));
	CU_ASSERT(atomic_load(&w.nodes[0].log->writer.role.broken));
	world_fini(&w);
}

static void lost_tail_is_noticed_by_an_idle_server(void)
{
	begin_started(2);
	for (int i = 0; i < 10; i++)
		world_do_put(&w, 0, "k", i < 5 ? "kept" : "lost");
	CU_ASSERT(world_settled(&w));
	sqlb_memory_lose_tail(w.name, 6);
	world_run(&w, 3000);
	for (size_t node = 0; node < 2; node++) {
		CU_ASSERT_EQUAL(world_revision(&w, node), 6);
		CU_ASSERT_STRING_EQUAL(world_value(&w, node, "k"), "kept");
		CU_ASSERT_EQUAL(epoch(node), 1);
	}
	CU_ASSERT_EQUAL(world_do_put(&w, 1, "k", "new"), 7);
	world_fini(&w);
}

static void lost_tail_is_noticed_by_a_read(void)
{
	struct world_proof proof;

	begin_started(2);
	for (int i = 0; i < 10; i++)
		world_do_put(&w, 0, "k", i < 5 ? "kept" : "lost");
	CU_ASSERT(world_settled(&w));
	sqlb_memory_lose_tail(w.name, 6);
	world_prove(&w, 0, &proof);
	CU_ASSERT(world_until(&w, &proof.done));
	CU_ASSERT_EQUAL(proof.proof.err.status, KS_OK);
	CU_ASSERT_STRING_EQUAL(world_value(&w, 0, "k"), "kept");
	world_fini(&w);
}

/* The log is as long as before again, with other entries. */
static void lost_tail_that_grew_again_is_noticed(void)
{
	struct world_proof proof;
	struct world_call call;

	for (int how = 0; how < 2; how++) {
		begin_started(2);
		for (int i = 0; i < 10; i++)
			world_do_put(&w, 0, "k", i < 5 ? "kept" : "lost");
		CU_ASSERT(world_settled(&w));
		cut_off(0);
		sqlb_memory_lose_tail(w.name, 6);
		world_run(&w, 3000);
		for (int i = 0; i < 5; i++)
			CU_ASSERT_EQUAL(world_do_put(&w, 1, "other", "grown"), 7 + i);
		CU_ASSERT_EQUAL(world_revision(&w, 0), 11);
		CU_ASSERT_EQUAL(world_revision(&w, 1), 11);
		world_no_faults(&w);
		world_run(&w, 1100); /* back-off */
		if (how == 0) {
			world_prove(&w, 0, &proof);
			CU_ASSERT(world_until(&w, &proof.done));
			CU_ASSERT_EQUAL(proof.proof.err.status, KS_OK);
		} else {
			world_put(&w, 0, &call, "mine", "v");
			CU_ASSERT(world_until(&w, &call.done));
			if (call.submit.err.status == KS_OK)
				CU_ASSERT_EQUAL(call.submit.result.revision, 12);
			world_finish(&w, &call);
		}
		CU_ASSERT_STRING_EQUAL(world_value(&w, 0, "k"), "kept");
		CU_ASSERT_PTR_NOT_NULL(world_value(&w, 0, "other"));
		CU_ASSERT_EQUAL(epoch(0), 1);
		world_fini(&w);
	}
}

/* Nothing but the append itself tells the writer that its connection leads to another server now. */
static void append_to_another_log(void (*lose_tail)(const char *name, int64_t keep))
{
	struct world_call call;

	begin_started(2);
	for (int i = 0; i < 10; i++)
		world_do_put(&w, 0, "k", i < 5 ? "kept" : "lost");
	CU_ASSERT(world_settled(&w));
	for (int i = 0; i < 5; i++)
		ks_log_writer_step(w.nodes[0].log); /* so that no hint is left over */
	lose_tail(w.name, 6);
	for (int turn = 0; world_revision(&w, 1) != 6; turn++) {
		CU_ASSERT_FATAL(turn < 1000);
		world_step_role(&w, 1, KS_LOG_TAIL);
		world_step_role(&w, 1, KS_LOG_WRITER);
		ks_clock_advance(&w.clock, 1);
	}
	for (int i = 0; i < 5; i++) {
		world_put(&w, 1, &call, "other", "grown");
		for (int turn = 0; turn < 100 && !call.done; turn++) {
			ks_log_writer_step(w.nodes[1].log);
			ks_clock_advance(&w.clock, 1);
		}
		CU_ASSERT_EQUAL(call.done, 1);
		CU_ASSERT_EQUAL(world_finish(&w, &call), KS_OK);
	}
	CU_ASSERT_EQUAL(world_revision(&w, 0), 11);
	CU_ASSERT_EQUAL(world_revision(&w, 1), 11);
	world_put(&w, 0, &call, "mine", "v");
	for (int turn = 0; turn < 1000 && !call.done; turn++) {
		world_step_role(&w, 0, KS_LOG_WRITER);
		ks_clock_advance(&w.clock, 1);
	}
	CU_ASSERT_EQUAL(call.done, 1);
	CU_ASSERT_EQUAL(world_finish(&w, &call), KS_OK);
	CU_ASSERT_EQUAL(epoch(0), 1);
	CU_ASSERT_STRING_EQUAL(world_value(&w, 0, "k"), "kept");
	CU_ASSERT_STRING_EQUAL(world_value(&w, 0, "other"), "grown");
	world_fini(&w);
}

static void append_on_a_new_connection_looks_first(void)
{
	append_to_another_log(sqlb_memory_lose_tail);
}

/* Not even a connection that breaks: only the entry before its own tells the append that the log is another one. */
static void append_behind_a_pooler_does_not_go_onto_another_entry(void)
{
	append_to_another_log(sqlb_memory_lose_tail_quietly);
}

static void nobody_waits_for_a_head_that_was_lost(void)
{
	struct world_proof proof;
	struct world_call call;
	int64_t began;

	begin_started(2);
	world_put(&w, 1, &call, "k", "v");
	ks_log_writer_step(w.nodes[1].log);
	CU_ASSERT_EQUAL(world_finish(&w, &call), KS_OK);
	world_stop(&w, 1);
	world_prove(&w, 0, &proof);
	ks_log_reader_step(w.nodes[0].log);
	CU_ASSERT_EQUAL(proof.done, 0);
	sqlb_memory_lose_tail(w.name, 1);
	began = ks_clock_now(&w.clock);
	CU_ASSERT(world_until(&w, &proof.done));
	CU_ASSERT_EQUAL(proof.proof.err.status, KS_OK);
	CU_ASSERT(ks_clock_now(&w.clock) - began < 1000);
	CU_ASSERT_PTR_NULL(world_value(&w, 0, "k"));
	world_fini(&w);
}

static void doubt_in_a_lost_tail_is_not_tried_again(void)
{
	struct world_call call;

	begin_started(2);
	for (int i = 0; i < 10; i++)
		world_do_put(&w, 0, "k", "v");
	CU_ASSERT(world_settled(&w));
	world_fault(&w, "append", 0, 1, 1, SQLB_FAULT_DOUBT_LOST);
	world_put(&w, 0, &call, "k", "doubtful");
	ks_log_writer_step(w.nodes[0].log);
	CU_ASSERT_EQUAL(call.done, 0);
	sqlb_memory_lose_tail(w.name, 6);
	CU_ASSERT_EQUAL(world_finish(&w, &call), KS_UNAVAILABLE);
	CU_ASSERT_STRING_EQUAL(call.submit.err.text, "etcdserver: request timed out");
	CU_ASSERT(world_settled(&w));
	CU_ASSERT_STRING_EQUAL(world_value(&w, 0, "k"), "v");
	world_fini(&w);
}

static void nth_read_is_cut(void)
{
	bool hit = true;

	/* Loading, and catching up with 40 entries of others. */
	for (int n = 1; hit && n < 200; n++) {
		struct world_fault *f;

		world_init(&w, 2);
		w.config.value_cache_bytes = 1;
		world_start(&w, 1);
		for (int i = 0; i < 100; i++)
			world_run(&w, 1);
		for (int i = 0; i < 20; i++)
			world_do_put(&w, 1, i % 2 ? "a" : "b", "v");
		f = world_fault(&w, "read_rows", 0, n, 2, SQLB_FAULT_CUT);
		world_start(&w, 0);
		for (int i = 0; i < 20; i++) {
			world_do_put(&w, 1, i % 2 ? "a" : "c", "w");
			if (i % 5 == 0)
				world_run(&w, 30);
		}
		hit = f->hits > 0;
		CU_ASSERT(world_settled(&w));
		CU_ASSERT_EQUAL(world_revision(&w, 0), 41);
		CU_ASSERT_STRING_EQUAL(world_value(&w, 0, "a"), "w");
		world_fini(&w);
	}
	CU_ASSERT_FALSE(hit);
}

int main(void)
{
	return tap_run(
		"tail",
		(const struct tap_test[]){
			{"foreign_entries_arrive_without_a_request", foreign_entries_arrive_without_a_request},
			{"proof_waits_for_what_others_wrote", proof_waits_for_what_others_wrote},
			{"one_probe_serves_all_that_wait", one_probe_serves_all_that_wait},
			{"own_append_serves_those_that_came_before_it", own_append_serves_those_that_came_before_it},
			{"exclusive_database_needs_no_probe", exclusive_database_needs_no_probe},
			{"hole_is_jumped_over_as_one_step", hole_is_jumped_over_as_one_step},
			{"applied_entry_that_was_trimmed_makes_it_load_again",
			 applied_entry_that_was_trimmed_makes_it_load_again},
			{"nth_read_of_a_jump_fails", nth_read_of_a_jump_fails},
			{"doubt_whose_rows_were_trimmed_is_never_tried_again",
			 doubt_whose_rows_were_trimmed_is_never_tried_again},
			{"entries_larger_than_a_chunk_are_followed", entries_larger_than_a_chunk_are_followed},
			{"row_of_a_newer_program_stops_writes", row_of_a_newer_program_stops_writes},
			{"row_missing_inside_an_entry_is_a_hole", row_missing_inside_an_entry_is_a_hole},
			{"hole_that_no_compaction_explains_is_not_served",
			 hole_that_no_compaction_explains_is_not_served},
			{"lost_tail_is_noticed_by_an_idle_server", lost_tail_is_noticed_by_an_idle_server},
			{"lost_tail_is_noticed_by_a_read", lost_tail_is_noticed_by_a_read},
			{"lost_tail_that_grew_again_is_noticed", lost_tail_that_grew_again_is_noticed},
			{"append_on_a_new_connection_looks_first", append_on_a_new_connection_looks_first},
			{"append_behind_a_pooler_does_not_go_onto_another_entry",
			 append_behind_a_pooler_does_not_go_onto_another_entry},
			{"nobody_waits_for_a_head_that_was_lost", nobody_waits_for_a_head_that_was_lost},
			{"doubt_in_a_lost_tail_is_not_tried_again", doubt_in_a_lost_tail_is_not_tried_again},
			{"nth_read_is_cut", nth_read_is_cut},
			{NULL, NULL},
		});
}
