/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Two appends on their way (log/ahead.c): who waits for whom, and what becomes of both when the first one has a conflict, is lost, or nobody
 * knows. tests/sim/sim does the same by the thousand.
 */
#include <stdio.h>
#include <string.h>

#include "tests/lib/tap.h"
#include "tests/sim/world.h"

static struct world w;
static int sends, on_way, most_on_way;
static int way_ms;             /* what a round trip takes, by the log's clock */
static void (*with_two)(void); /* called once, when two are on their way */

static enum sqlb_outcome counting_send(struct sqlb_conn *conn, const struct sqlb_append *append, struct ks_err *err)
{
	enum sqlb_outcome outcome = sqlb_memory_ops.append_send(conn, append, err);

	if (outcome != SQLB_OK)
		return outcome;
	sends++;
	on_way++;
	most_on_way = on_way > most_on_way ? on_way : most_on_way;
	return SQLB_OK;
}

static enum sqlb_outcome counting_receive(struct sqlb_conn *conn, int wait_ms, bool *pending, bool *appended,
					  struct ks_err *err)
{
	void (*hook)(void) = on_way == 2 ? with_two : NULL;
	enum sqlb_outcome outcome;

	if (hook) {
		with_two = NULL;
		hook();
	}
	outcome = sqlb_memory_ops.append_receive(conn, wait_ms, pending, appended, err);
	if (outcome == SQLB_OK && *pending)
		return outcome;
	on_way--;
	ks_clock_advance(&w.clock, way_ms);
	return outcome;
}

static enum sqlb_outcome slow_append(struct sqlb_conn *conn, const struct sqlb_append *append, bool *appended,
				     struct ks_err *err)
{
	ks_clock_advance(&w.clock, way_ms);
	return sqlb_memory_ops.append(conn, append, appended, err);
}

/* Each request is a batch. */
static void begin(size_t nodes)
{
	world_init(&w, nodes);
	w.config.ahead = KS_LOG_AHEAD_ALWAYS;
	w.config.max_batch_entries = 1;
	w.ops.append_send = counting_send;
	w.ops.append_receive = counting_receive;
	w.ops.append = slow_append;
	way_ms = 0;
	with_two = NULL;
	world_start_all(&w);
	sends = on_way = most_on_way = 0;
}

static void finish_all(struct world_call *calls, size_t count)
{
	for (size_t i = 0; i < count; i++)
		CU_ASSERT_EQUAL(world_finish(&w, &calls[i]), KS_OK);
}

/* When the key was written. */
static int64_t revision_of(int number)
{
	char key[8];
	struct ks_range_req request = {
		.interval.key = {(const uint8_t *)key, (size_t)snprintf(key, sizeof(key), "k%d", number)}};
	struct ks_range_result result;
	struct ks_kv kv = {0};
	int64_t revision;
	struct ks_err err;

	CU_ASSERT_EQUAL_FATAL(ks_store_range(w.nodes[0].store, &request, &result, &revision, &err), KS_OK);
	CU_ASSERT_EQUAL_FATAL(result.kv_count, 1);
	CU_ASSERT(ks_kv_decode(ks_bytes_slice(result.kvs[0].encoded), &kv));
	ks_range_result_fini(&result);
	return kv.mod_revision;
}

static void requests_land_in_their_order(void)
{
	struct world_call calls[6];
	char key[8];

	begin(1);
	for (int i = 0; i < 6; i++) {
		snprintf(key, sizeof(key), "k%d", i);
		world_put(&w, 0, &calls[i], key, "v");
	}
	finish_all(calls, 6);
	for (int i = 0; i < 6; i++)
		CU_ASSERT_EQUAL(revision_of(i), 2 + i);
	CU_ASSERT_EQUAL(sends, 6);
	CU_ASSERT_EQUAL(most_on_way, 2);
	CU_ASSERT_EQUAL(on_way, 0);
	CU_ASSERT_EQUAL(world_rows(&w), 7);
	world_fini(&w);
}

static struct world_call seen[2];
static bool looked;

static void nothing_is_there(void)
{
	CU_ASSERT_EQUAL(seen[0].done + seen[1].done, 0);
	CU_ASSERT_EQUAL(world_revision(&w, 0), 1);
	CU_ASSERT_EQUAL(world_rows(&w), 1);
	looked = true;
}

static void nobody_sees_what_is_on_its_way(void)
{
	begin(1);
	looked = false;
	with_two = nothing_is_there;
	world_put(&w, 0, &seen[0], "a", "1");
	world_put(&w, 0, &seen[1], "a", "2");
	CU_ASSERT_EQUAL(world_finish(&w, &seen[0]), KS_OK);
	CU_ASSERT_EQUAL(seen[1].done, 0);
	CU_ASSERT_EQUAL(world_revision(&w, 0), 2);
	CU_ASSERT_STRING_EQUAL(world_value(&w, 0, "a"), "1");
	CU_ASSERT_EQUAL(world_finish(&w, &seen[1]), KS_OK);
	CU_ASSERT_STRING_EQUAL(world_value(&w, 0, "a"), "2");
	CU_ASSERT(looked);
	world_fini(&w);
}

static struct world_call theirs;

static void the_other_one_is_faster(void)
{
	world_put(&w, 1, &theirs, "c", "1");
	for (int i = 0; i < 100 && world_rows(&w) == 1; i++)
		(void)world_step_role(&w, 1, KS_LOG_WRITER);
	CU_ASSERT_EQUAL(world_rows(&w), 2);
}

static void a_conflict_of_the_first_is_one_of_both(void)
{
	struct world_call mine[2];

	begin(2);
	with_two = the_other_one_is_faster;
	world_put(&w, 0, &mine[0], "a", "1");
	world_put(&w, 0, &mine[1], "a", "2");
	finish_all(mine, 2);
	CU_ASSERT_EQUAL(world_finish(&w, &theirs), KS_OK);
	CU_ASSERT_EQUAL(world_revision(&w, 0), 4);
	CU_ASSERT_STRING_EQUAL(world_value(&w, 0, "a"), "2");
	CU_ASSERT_EQUAL(world_rows(&w), 4);
	world_fini(&w);
}

/* Whatever becomes of either: all four are in the log, once, in their order. */
static void one_fault(enum sqlb_memory_fault fault, int at, int times)
{
	struct world_call calls[4];
	char key[8];

	begin(1);
	world_fault(&w, "append", 0, at, times, fault);
	for (int i = 0; i < 4; i++) {
		snprintf(key, sizeof(key), "k%d", i);
		world_put(&w, 0, &calls[i], key, "v");
	}
	finish_all(calls, 4);
	for (int i = 0; i < 4; i++)
		CU_ASSERT_EQUAL(revision_of(i), 2 + i);
	world_run(&w, 2000); /* late ones come to nothing */
	CU_ASSERT_EQUAL(world_rows(&w), 5);
	CU_ASSERT_EQUAL(world_revision(&w, 0), 5);
	CU_ASSERT_EQUAL(most_on_way, 2);
	world_fini(&w);
}

static void every_fault_at_every_append_leaves_each_request_once(void)
{
	static const enum sqlb_memory_fault faults[] = {SQLB_FAULT_AWAY, SQLB_FAULT_DOUBT_DONE, SQLB_FAULT_DOUBT_LOST,
							SQLB_FAULT_DOUBT_LATE};

	for (size_t i = 0; i < sizeof(faults) / sizeof(faults[0]); i++) {
		for (int at = 1; at <= 4; at++) {
			for (int times = 1; times <= 3; times++) {
				unsigned before = CU_get_number_of_failures();

				one_fault(faults[i], at, times);
				if (CU_get_number_of_failures() > before)
					printf("# fault %d at append %d, %d times\n", (int)faults[i], at, times);
			}
		}
	}
}

static void only_puts_deletes_and_transactions_go_ahead(void)
{
	struct world_call put, grant, after;

	begin(1);
	world_put(&w, 0, &put, "a", "1");
	world_grant(&w, 0, &grant, 7, 60);
	world_put(&w, 0, &after, "b", "1");
	CU_ASSERT_EQUAL(world_finish(&w, &put), KS_OK);
	CU_ASSERT_EQUAL(most_on_way, 1);
	CU_ASSERT_EQUAL(world_finish(&w, &grant), KS_OK);
	CU_ASSERT_EQUAL(world_finish(&w, &after), KS_OK);
	CU_ASSERT_EQUAL(most_on_way, 2); /* a put may follow a lease */
	CU_ASSERT_EQUAL(world_rows(&w), 4);
	world_fini(&w);
}

/* A failed comparison has nothing to append: it waits for the batch before it, and is told the truth then. */
static void a_request_without_an_entry_is_not_sent_ahead(void)
{
	struct world_call put, cas, after;

	begin(1);
	world_put(&w, 0, &put, "a", "1");
	world_cas(&w, 0, &cas, "a", 1000, "never");
	world_put(&w, 0, &after, "b", "1");
	CU_ASSERT_EQUAL(world_finish(&w, &put), KS_OK);
	CU_ASSERT_EQUAL(world_finish(&w, &cas), KS_OK);
	CU_ASSERT_EQUAL(world_finish(&w, &after), KS_OK);
	CU_ASSERT_STRING_EQUAL(world_value(&w, 0, "a"), "1");
	CU_ASSERT_EQUAL(world_rows(&w), 3);
	world_fini(&w);
}

static void stop_answers_who_is_on_the_way(void)
{
	struct world_call calls[3];

	begin(1);
	for (int i = 0; i < 3; i++)
		world_put(&w, 0, &calls[i], "a", "1");
	for (int i = 0; i < 2; i++)
		(void)world_step_role(&w, 0, KS_LOG_WRITER);
	CU_ASSERT_EQUAL(sends, 2);
	CU_ASSERT_EQUAL(on_way, 1); /* the first has its answer */
	world_stop(&w, 0);
	CU_ASSERT_EQUAL(on_way, 0);
	for (int i = 0; i < 3; i++)
		CU_ASSERT_EQUAL(calls[i].done, 1);
	CU_ASSERT_EQUAL(calls[0].submit.err.status, KS_OK);
	CU_ASSERT_EQUAL(calls[1].submit.err.status, KS_OK);
	CU_ASSERT_STRING_EQUAL(calls[2].submit.err.text, "etcdserver: server stopped");
	CU_ASSERT_EQUAL(world_rows(&w), 3);
	world_fini(&w);
}

/* Sends among 40 requests at once, after some seconds in which each append took so long, but every tenth 'at_best_ms'. */
static int sends_of(int ms, int at_best_ms, size_t nodes)
{
	struct world_call calls[40];

	begin(nodes);
	for (size_t node = 0; node < nodes; node++) {
		world_stop(&w, node);
		w.config.ahead = KS_LOG_AHEAD_FAR;
	}
	world_start_all(&w);
	for (int i = 0; i < 500; i++) {
		way_ms = i % 10 ? ms : at_best_ms;
		(void)world_do_put(&w, 0, "a", "0");
		world_run(&w, 10);
	}
	sends = 0;
	way_ms = ms;
	for (int i = 0; i < 40; i++)
		world_put(&w, 0, &calls[i], "a", "1");
	finish_all(calls, 40);
	world_fini(&w);
	return sends;
}

static void only_to_a_database_far_away_and_alone(void)
{
	CU_ASSERT_EQUAL(sends_of(0, 0, 1), 0);
	CU_ASSERT(sends_of(5, 5, 1) > 10);
	CU_ASSERT_EQUAL(sends_of(5, 0, 1), 0); /* near, and busy */
	CU_ASSERT_EQUAL(sends_of(5, 5, 2), 0);
}

int main(void)
{
	static const struct tap_test tests[] = {
		{"requests_land_in_their_order", requests_land_in_their_order},
		{"nobody_sees_what_is_on_its_way", nobody_sees_what_is_on_its_way},
		{"a_conflict_of_the_first_is_one_of_both", a_conflict_of_the_first_is_one_of_both},
		{"every_fault_at_every_append_leaves_each_request_once",
		 every_fault_at_every_append_leaves_each_request_once},
		{"only_puts_deletes_and_transactions_go_ahead", only_puts_deletes_and_transactions_go_ahead},
		{"a_request_without_an_entry_is_not_sent_ahead", a_request_without_an_entry_is_not_sent_ahead},
		{"stop_answers_who_is_on_the_way", stop_answers_who_is_on_the_way},
		{"only_to_a_database_far_away_and_alone", only_to_a_database_far_away_and_alone},
		{NULL, NULL},
	};

	return tap_run("ahead", tests);
}
