/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Several appends on their way (log/ahead.c): who waits for whom, and what becomes of all when one of them has a conflict, is lost, or nobody
 * knows. tests/sim/sim does the same by the thousand.
 */
#include <stdio.h>
#include <string.h>

#include "tests/lib/tap.h"
#include "tests/sim/world.h"

#define MOST SQLB_SENT_MAX

static struct world w;
static int appends, sends, receives, on_way, most_on_way;
static int way_ms;                /* what an append takes, by the log's clock */
static int commit_ms;             /* of that, what is not the way there and back */
static void (*with_all)(void);    /* called once, when as many as can be are on their way */
static void (*after_first)(void); /* called once, behind the first answer */
static int refused_at; /* this answer, which is that the append is in doubt and lost, is made a certain one */

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

static void call_once(void (**hook)(void))
{
	void (*now)(void) = *hook;

	*hook = NULL;
	if (now)
		now();
}

static enum sqlb_outcome counting_receive(struct sqlb_conn *conn, int wait_ms, bool *pending, bool *appended,
					  struct ks_err *err)
{
	enum sqlb_outcome outcome;

	if (on_way == MOST)
		call_once(&with_all);
	outcome = sqlb_memory_ops.append_receive(conn, wait_ms, pending, appended, err);
	if (outcome == SQLB_OK && *pending)
		return outcome;
	on_way--;
	ks_clock_advance(&w.clock, way_ms);
	if (++receives == 1)
		call_once(&after_first);
	if (receives == refused_at) {
		CU_ASSERT_EQUAL(outcome, SQLB_DOUBT);
		outcome = SQLB_CONFLICT;
	}
	return outcome;
}

static enum sqlb_outcome slow_append(struct sqlb_conn *conn, const struct sqlb_append *append, bool *appended,
				     struct ks_err *err)
{
	ks_clock_advance(&w.clock, way_ms);
	appends++;
	return sqlb_memory_ops.append(conn, append, appended, err);
}

static enum sqlb_outcome slow_head(struct sqlb_conn *conn, struct sqlb_head *head, struct ks_err *err)
{
	ks_clock_advance(&w.clock, way_ms > commit_ms ? way_ms - commit_ms : 0);
	return sqlb_memory_ops.read_head(conn, head, err);
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
	w.ops.read_head = slow_head;
	way_ms = commit_ms = 0;
	with_all = after_first = NULL;
	refused_at = 0;
	world_start_all(&w);
	appends = sends = receives = on_way = most_on_way = 0;
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

static void put_keys(struct world_call *calls, int count)
{
	char key[8];

	for (int i = 0; i < count; i++) {
		snprintf(key, sizeof(key), "k%d", i);
		world_put(&w, 0, &calls[i], key, "v");
	}
}

static void requests_land_in_their_order(void)
{
	struct world_call calls[3 * MOST];

	begin(1);
	put_keys(calls, 3 * MOST);
	finish_all(calls, 3 * MOST);
	for (int i = 0; i < 3 * MOST; i++)
		CU_ASSERT_EQUAL(revision_of(i), 2 + i);
	CU_ASSERT_EQUAL(sends, 3 * MOST);
	CU_ASSERT_EQUAL(most_on_way, MOST);
	CU_ASSERT_EQUAL(on_way, 0);
	CU_ASSERT_EQUAL(world_rows(&w), 3 * MOST + 1);
	world_fini(&w);
}

static struct world_call seen[MOST];
static bool looked;

static void nothing_is_there(void)
{
	for (int i = 0; i < MOST; i++)
		CU_ASSERT_EQUAL(seen[i].done, 0);
	CU_ASSERT_EQUAL(world_revision(&w, 0), 1);
	CU_ASSERT_EQUAL(world_rows(&w), 1);
	CU_ASSERT_EQUAL(atomic_load(&w.nodes[0].log->writer.in_flight), MOST);
	looked = true;
}

/* Each is seen, and answered, when its own answer is there, and what was sent behind it is not. */
static void nobody_sees_what_is_on_its_way(void)
{
	char value[8];

	begin(1);
	looked = false;
	with_all = nothing_is_there;
	for (int i = 0; i < MOST; i++) {
		snprintf(value, sizeof(value), "%d", i);
		world_put(&w, 0, &seen[i], "a", value);
	}
	for (int i = 0; i < MOST; i++) {
		snprintf(value, sizeof(value), "%d", i);
		CU_ASSERT_EQUAL(world_finish(&w, &seen[i]), KS_OK);
		CU_ASSERT_EQUAL(world_revision(&w, 0), 2 + i);
		CU_ASSERT_STRING_EQUAL(world_value(&w, 0, "a"), value);
		for (int later = i + 1; later < MOST; later++)
			CU_ASSERT_EQUAL(seen[later].done, 0);
		CU_ASSERT_EQUAL(atomic_load(&w.nodes[0].log->writer.in_flight), MOST - 1 - i);
	}
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

/* Ours come behind theirs, all of them once, in their order. */
static void finish_behind_theirs(struct world_call *mine, int count)
{
	finish_all(mine, (size_t)count);
	CU_ASSERT_EQUAL(world_finish(&w, &theirs), KS_OK);
	CU_ASSERT_EQUAL(world_revision(&w, 0), 2 + count);
	for (int i = 0; i < count; i++)
		CU_ASSERT_EQUAL(revision_of(i), 3 + i);
	CU_ASSERT_EQUAL(world_rows(&w), 2 + count);
	world_fini(&w);
}

static void a_conflict_of_the_first_is_one_of_all(void)
{
	struct world_call mine[MOST + 1];

	begin(2);
	with_all = the_other_one_is_faster;
	put_keys(mine, MOST + 1);
	finish_behind_theirs(mine, MOST + 1);
}

static void a_foreign_entry_where_the_first_is_in_doubt_decides_for_all(void)
{
	struct world_call mine[MOST + 1];

	begin(2);
	world_fault(&w, "append", 0, 1, MOST, SQLB_FAULT_DOUBT_LOST);
	after_first = the_other_one_is_faster;
	put_keys(mine, MOST + 1);
	finish_behind_theirs(mine, MOST + 1);
}

/* A driver may know of one behind a doubtful one that it will not be there: nor will those behind it. */
static void what_is_refused_behind_one_in_doubt_goes_back_with_all_behind_it(void)
{
	static const enum sqlb_memory_fault faults[] = {SQLB_FAULT_DOUBT_DONE, SQLB_FAULT_DOUBT_LOST,
							SQLB_FAULT_DOUBT_LATE};

	for (size_t i = 0; i < sizeof(faults) / sizeof(faults[0]); i++)
		for (int at = 2; at <= MOST; at++) {
			struct world_call calls[MOST + 1];

			begin(1);
			refused_at = at;
			world_fault(&w, "append", 0, 1, at - 1, faults[i]);
			world_fault(&w, "append", 0, at, 1, SQLB_FAULT_DOUBT_LOST);
			world_fault(&w, "append", 0, at + 1, MOST - at, SQLB_FAULT_DOUBT_LATE);
			put_keys(calls, MOST + 1);
			finish_all(calls, MOST + 1);
			for (int k = 0; k <= MOST; k++)
				CU_ASSERT_EQUAL(revision_of(k), 2 + k);
			world_run(&w, 2000);
			CU_ASSERT_EQUAL(world_rows(&w), MOST + 2);
			world_fini(&w);
		}
}

/* What 'one' and 'other' (at 0: none) do to the appends with these numbers leaves all requests in the log, once, in their order. */
static void meet_faults(const struct world_fault *one, const struct world_fault *other)
{
	enum { COUNT = 2 * MOST };
	struct world_call calls[COUNT];
	unsigned before = CU_get_number_of_failures();

	begin(1);
	world_fault(&w, one->op, 0, one->at, one->times, one->fault);
	if (other->at)
		world_fault(&w, other->op, 0, other->at, other->times, other->fault);
	put_keys(calls, COUNT);
	finish_all(calls, COUNT);
	for (int i = 0; i < COUNT; i++)
		CU_ASSERT_EQUAL(revision_of(i), 2 + i);
	world_run(&w, 2000); /* late ones come to nothing */
	CU_ASSERT_EQUAL(world_rows(&w), COUNT + 1);
	CU_ASSERT_EQUAL(world_revision(&w, 0), COUNT + 1);
	CU_ASSERT_EQUAL(most_on_way, MOST);
	CU_ASSERT_EQUAL(atomic_load(&w.nodes[0].log->writer.in_flight), 0);
	world_fini(&w);
	if (CU_get_number_of_failures() > before)
		printf("# fault %d at %s %d, %d times, and %d at %d\n", (int)one->fault, one->op, one->at, one->times,
		       (int)other->fault, other->at);
}

static const enum sqlb_memory_fault lossy[] = {SQLB_FAULT_AWAY, SQLB_FAULT_DOUBT_DONE, SQLB_FAULT_DOUBT_LOST,
					       SQLB_FAULT_DOUBT_LATE, SQLB_FAULT_CUT};
#define LOSSY (sizeof(lossy) / sizeof(lossy[0]))

static void every_fault_at_every_append_leaves_each_request_once(void)
{
	for (size_t i = 0; i < LOSSY; i++)
		for (int at = 1; at <= MOST + 1; at++)
			for (int times = 1; times <= MOST + 1; times++)
				meet_faults(
					&(struct world_fault){
						.op = "append", .at = at, .times = times, .fault = lossy[i]},
					&(struct world_fault){.at = 0});
}

static void every_two_faults_leave_each_request_once(void)
{
	for (size_t i = 0; i < LOSSY * LOSSY; i++)
		for (int at = 1; at <= MOST; at++)
			for (int other = at + 1; other <= MOST + 2; other++)
				meet_faults(
					&(struct world_fault){
						.op = "append", .at = at, .times = 1, .fault = lossy[i / LOSSY]},
					&(struct world_fault){
						.op = "append", .at = other, .times = 1, .fault = lossy[i % LOSSY]});
}

static void every_fault_of_a_send_and_of_an_append_leaves_each_request_once(void)
{
	for (size_t i = 0; i < LOSSY * LOSSY; i++)
		for (int send = 1; send <= MOST + 1; send++)
			for (int at = 0; at <= MOST; at++)
				meet_faults(
					&(struct world_fault){
						.op = "append_send", .at = send, .times = 1, .fault = lossy[i / LOSSY]},
					&(struct world_fault){
						.op = "append", .at = at, .times = 1, .fault = lossy[i % LOSSY]});
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
	struct world_call calls[MOST + 1];

	begin(1);
	put_keys(calls, MOST + 1);
	for (int i = 0; i < MOST + 1; i++)
		(void)world_step_role(&w, 0, KS_LOG_WRITER);
	CU_ASSERT_EQUAL(sends, MOST);
	CU_ASSERT_EQUAL(on_way, MOST - 1); /* the first has its answer */
	world_stop(&w, 0);
	CU_ASSERT_EQUAL(on_way, 0);
	for (int i = 0; i < MOST + 1; i++)
		CU_ASSERT_EQUAL(calls[i].done, 1);
	for (int i = 0; i < MOST; i++)
		CU_ASSERT_EQUAL(calls[i].submit.err.status, KS_OK);
	CU_ASSERT_STRING_EQUAL(calls[MOST].submit.err.text, "etcdserver: server stopped");
	CU_ASSERT_EQUAL(world_rows(&w), MOST + 1);
	world_fini(&w);
}

static enum sqlb_outcome declining_send(struct sqlb_conn *conn, const struct sqlb_append *append, struct ks_err *err)
{
	(void)conn;
	(void)append;
	ks_fail(err, KS_UNIMPLEMENTED, "not on such a database");
	return SQLB_AWAY;
}

/* In how many appends do 64 requests go that come at once, to a database 5 ms away? */
static int appends_of(bool declines)
{
	struct world_call calls[64];

	begin(1);
	world_stop(&w, 0);
	w.config.ahead = KS_LOG_AHEAD_FAR;
	w.config.max_batch_entries = 1000;
	if (declines)
		w.ops.append_send = declining_send;
	world_start_all(&w);
	way_ms = 5;
	for (int i = 0; i < 500; i++) {
		(void)world_do_put(&w, 0, "a", "0");
		world_run(&w, 10);
	}
	sends = appends = 0;
	for (int i = 0; i < 64; i++)
		world_put(&w, 0, &calls[i], "a", "1");
	finish_all(calls, 64);
	world_fini(&w);
	return sends + appends;
}

static void each_takes_its_share_where_they_are_sent_ahead_and_else_all(void)
{
	CU_ASSERT(appends_of(false) >= 4);
	CU_ASSERT_EQUAL(appends_of(true), 1);
}

/* Sends among 40 requests at once, after some seconds in which each append took so long, but every tenth 'at_best_ms'. */
static int sends_of(int ms, int at_best_ms, int of_commit_ms, size_t nodes)
{
	struct world_call calls[40];

	begin(nodes);
	commit_ms = of_commit_ms;
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
	CU_ASSERT_EQUAL(sends_of(0, 0, 0, 1), 0);
	CU_ASSERT(sends_of(1, 1, 0, 1) > 10);
	CU_ASSERT(sends_of(5, 5, 0, 1) > 10);
	CU_ASSERT(sends_of(5, 5, 3, 1) > 10);
	CU_ASSERT_EQUAL(sends_of(5, 5, 5, 1), 0); /* near, and its disk slow */
	CU_ASSERT_EQUAL(sends_of(5, 5, 4, 1), 0);
	CU_ASSERT_EQUAL(sends_of(5, 0, 0, 1), 0); /* near, and busy */
	CU_ASSERT_EQUAL(sends_of(5, 5, 0, 2), 0);
}

int main(void)
{
	static const struct tap_test tests[] = {
		{"requests_land_in_their_order", requests_land_in_their_order},
		{"nobody_sees_what_is_on_its_way", nobody_sees_what_is_on_its_way},
		{"a_conflict_of_the_first_is_one_of_all", a_conflict_of_the_first_is_one_of_all},
		{"a_foreign_entry_where_the_first_is_in_doubt_decides_for_all",
		 a_foreign_entry_where_the_first_is_in_doubt_decides_for_all},
		{"what_is_refused_behind_one_in_doubt_goes_back_with_all_behind_it",
		 what_is_refused_behind_one_in_doubt_goes_back_with_all_behind_it},
		{"every_fault_at_every_append_leaves_each_request_once",
		 every_fault_at_every_append_leaves_each_request_once},
		{"every_two_faults_leave_each_request_once", every_two_faults_leave_each_request_once},
		{"every_fault_of_a_send_and_of_an_append_leaves_each_request_once",
		 every_fault_of_a_send_and_of_an_append_leaves_each_request_once},
		{"only_puts_deletes_and_transactions_go_ahead", only_puts_deletes_and_transactions_go_ahead},
		{"a_request_without_an_entry_is_not_sent_ahead", a_request_without_an_entry_is_not_sent_ahead},
		{"stop_answers_who_is_on_the_way", stop_answers_who_is_on_the_way},
		{"each_takes_its_share_where_they_are_sent_ahead_and_else_all",
		 each_takes_its_share_where_they_are_sent_ahead_and_else_all},
		{"only_to_a_database_far_away_and_alone", only_to_a_database_far_away_and_alone},
		{NULL, NULL},
	};

	return tap_run("ahead", tests);
}
