/* SPDX-License-Identifier: Apache-2.0 */
/* The memory backend's faults do what memory.h says: simulations draw conclusions from them. */
#include <pthread.h>
#include <string.h>

#include "sqlbackends/memory.h"
#include "tests/lib/tap.h"

#define NAME "faults"

static const struct sqlb_ops *const ops = &sqlb_memory_ops;
static struct sqlb_db *db;
static struct sqlb_conn *a, *b;
static struct ks_clock fake;
static struct ks_err err;

/* The script: the next call of 'op' (NULL: any) meets 'fault'. */
static struct {
	const char *op;
	enum sqlb_memory_fault fault;
	unsigned asked;
	struct sqlb_conn *conn;
} script;

static enum sqlb_memory_fault play(void *ctx, const char *op, struct sqlb_conn *conn)
{
	enum sqlb_memory_fault fault = script.fault;

	CU_ASSERT_PTR_EQUAL(ctx, &script);
	script.asked++;
	script.conn = conn;
	if (script.op && strcmp(op, script.op) != 0)
		return SQLB_FAULT_NONE;
	script.fault = SQLB_FAULT_NONE;
	return fault;
}

static void next(const char *op, enum sqlb_memory_fault fault)
{
	script.op = op;
	script.fault = fault;
}

static void set_up(int late_calls)
{
	ks_clock_init_fake(&fake, 5000);
	sqlb_memory_set_clock(NAME, &fake);
	next(NULL, SQLB_FAULT_NONE);
	sqlb_memory_set_faults(NAME, play, &script, late_calls);
	CU_ASSERT_EQUAL(ops->open("memory://" NAME, NULL, &db, &err), KS_OK);
	CU_ASSERT_EQUAL(ops->connect(db, &a, &err), SQLB_OK);
	CU_ASSERT_EQUAL(ops->connect(db, &b, &err), SQLB_OK);
}

static void tear_down(void)
{
	ops->disconnect(a);
	ops->disconnect(b);
	ops->close(db);
	sqlb_memory_forget(NAME);
}

static enum sqlb_outcome put(struct sqlb_conn *conn, int64_t position)
{
	const struct sqlb_row row = {
		.position = position, .rows = 1, .revision = position + 1, .writer = 7, .batch = position};
	const struct sqlb_lease lease = {.id = position, .ttl_ms = 100};
	struct sqlb_append append = {.rows = &row, .row_count = 1, .leases_new = &lease, .leases_new_count = 1};
	bool appended = true;
	enum sqlb_outcome outcome = ops->append(conn, &append, &appended, &err);

	CU_ASSERT_EQUAL(appended, outcome == SQLB_OK);
	return outcome;
}

static enum sqlb_outcome send(struct sqlb_conn *conn, int64_t position)
{
	char key[] = "key";
	struct sqlb_row row = {.position = position,
			       .rows = 1,
			       .revision = position + 1,
			       .writer = 7,
			       .batch = position,
			       .key = ks_slice_str(key)};
	struct sqlb_lease lease = {.id = position, .ttl_ms = 100};
	struct sqlb_append append = {.after_writer = position > 1 ? 7 : 0,
				     .after_batch = position - 1,
				     .rows = &row,
				     .row_count = 1,
				     .leases_new = &lease,
				     .leases_new_count = 1};
	enum sqlb_outcome outcome = ops->append_send(conn, &append, &err);

	/* Nothing of it is needed any more. */
	memset(key, 'x', sizeof(key));
	memset(&row, 0xff, sizeof(row));
	memset(&lease, 0xff, sizeof(lease));
	memset(&append, 0xff, sizeof(append));
	return outcome;
}

static enum sqlb_outcome receive(struct sqlb_conn *conn)
{
	bool pending = true, appended = true;
	enum sqlb_outcome outcome = ops->append_receive(conn, -1, &pending, &appended, &err);

	CU_ASSERT_FALSE(pending);
	CU_ASSERT_EQUAL(appended, outcome == SQLB_OK);
	return outcome;
}

static int64_t head(void)
{
	struct sqlb_head at = {.position = -1};

	CU_ASSERT_EQUAL(ops->read_head(b, &at, &err), SQLB_OK);
	return at.position;
}

static bool lease_exists(int64_t id)
{
	struct sqlb_lease lease = {.id = id};

	CU_ASSERT_EQUAL(ops->lease_read(b, &lease, 1, &err), SQLB_OK);
	return lease.found;
}

static bool count(void *ctx, const struct sqlb_row *row)
{
	(void)row;
	++*(size_t *)ctx;
	return true;
}

static void away_and_broken_change_nothing_and_have_a_text(void)
{
	set_up(0);
	next("append", SQLB_FAULT_AWAY);
	CU_ASSERT_EQUAL(put(a, 1), SQLB_AWAY);
	CU_ASSERT_TRUE(strlen(err.text) > 0);
	CU_ASSERT_PTR_EQUAL(script.conn, a);
	CU_ASSERT_EQUAL(head(), 0);
	err.text[0] = '\0';
	next("append", SQLB_FAULT_BROKEN);
	CU_ASSERT_EQUAL(put(a, 1), SQLB_BROKEN);
	CU_ASSERT_TRUE(strlen(err.text) > 0);
	CU_ASSERT_EQUAL(head(), 0);
	CU_ASSERT_EQUAL(put(a, 1), SQLB_OK);
	tear_down();
}

static void doubt_done_happened(void)
{
	set_up(0);
	next("append", SQLB_FAULT_DOUBT_DONE);
	CU_ASSERT_EQUAL(put(a, 1), SQLB_DOUBT);
	CU_ASSERT_EQUAL(head(), 1);
	CU_ASSERT_TRUE(lease_exists(1));
	CU_ASSERT_EQUAL(put(a, 1), SQLB_CONFLICT);
	tear_down();
}

static void doubt_lost_did_not_happen(void)
{
	set_up(0);
	next("append", SQLB_FAULT_DOUBT_LOST);
	CU_ASSERT_EQUAL(put(a, 1), SQLB_DOUBT);
	CU_ASSERT_EQUAL(head(), 0);
	CU_ASSERT_FALSE(lease_exists(1));
	CU_ASSERT_EQUAL(put(a, 1), SQLB_OK);
	tear_down();
}

static void doubt_late_happens_after_so_many_calls(void)
{
	set_up(2);
	next("append", SQLB_FAULT_DOUBT_LATE);
	CU_ASSERT_EQUAL(put(a, 1), SQLB_DOUBT);
	CU_ASSERT_EQUAL(head(), 0);
	CU_ASSERT_EQUAL(head(), 0);
	CU_ASSERT_EQUAL(head(), 1);
	CU_ASSERT_TRUE(lease_exists(1));
	tear_down();
}

static void doubt_late_conflicts_when_the_position_is_taken(void)
{
	set_up(1);
	next("append", SQLB_FAULT_DOUBT_LATE);
	CU_ASSERT_EQUAL(put(a, 1), SQLB_DOUBT);
	CU_ASSERT_EQUAL(put(b, 1), SQLB_OK);
	CU_ASSERT_EQUAL(put(b, 2), SQLB_OK);
	CU_ASSERT_EQUAL(head(), 2);
	CU_ASSERT_EQUAL(head(), 2);
	tear_down();
}

static void a_late_append_dies_with_its_database(void)
{
	set_up(100);
	next("append", SQLB_FAULT_DOUBT_LATE);
	CU_ASSERT_EQUAL(put(a, 1), SQLB_DOUBT);
	tear_down(); /* the leak checker is the judge */
}

static bool see_key(void *ctx, const struct sqlb_row *row)
{
	++*(size_t *)ctx;
	CU_ASSERT_TRUE(ks_slice_eq(row->key, ks_slice_str("key")));
	return true;
}

static void two_that_were_sent_happen_in_order_when_they_are_received(void)
{
	size_t rows = 0;

	set_up(0);
	CU_ASSERT_EQUAL(send(a, 1), SQLB_OK);
	CU_ASSERT_EQUAL(send(a, 2), SQLB_OK);
	CU_ASSERT_EQUAL(head(), 0);
	CU_ASSERT_EQUAL(receive(a), SQLB_OK);
	CU_ASSERT_EQUAL(head(), 1);
	CU_ASSERT_EQUAL(send(a, 3), SQLB_OK);
	CU_ASSERT_EQUAL(receive(a), SQLB_OK);
	CU_ASSERT_EQUAL(receive(a), SQLB_OK);
	CU_ASSERT_EQUAL(head(), 3);
	CU_ASSERT_TRUE(lease_exists(2));
	sqlb_memory_visit(NAME, see_key, &rows);
	CU_ASSERT_EQUAL(rows, 3);
	tear_down();
}

static void a_first_look_is_pending_with_no_wait_and_else_as_the_script_says(void)
{
	bool pending = false, appended = true;

	set_up(0);
	for (int64_t position = 1; position <= 2; position++) {
		CU_ASSERT_EQUAL(send(a, position), SQLB_OK);
		CU_ASSERT_EQUAL(ops->append_receive(a, 0, &pending, &appended, &err), SQLB_OK);
		CU_ASSERT_TRUE(pending);
		CU_ASSERT_FALSE(appended);
		CU_ASSERT_EQUAL(head(), position - 1);
		CU_ASSERT_EQUAL(ops->append_receive(a, 0, &pending, &appended, &err), SQLB_OK);
		CU_ASSERT_FALSE(pending);
		CU_ASSERT_TRUE(appended);
	}
	CU_ASSERT_EQUAL(send(a, 3), SQLB_OK);
	next("append_receive", SQLB_FAULT_AWAY);
	CU_ASSERT_EQUAL(ops->append_receive(a, 5, &pending, &appended, &err), SQLB_OK);
	CU_ASSERT_TRUE(pending);
	CU_ASSERT_EQUAL(ops->append_receive(a, 5, &pending, &appended, &err), SQLB_OK);
	CU_ASSERT_TRUE(!pending && appended);
	CU_ASSERT_EQUAL(send(a, 4), SQLB_OK);
	CU_ASSERT_EQUAL(ops->append_receive(a, 5, &pending, &appended, &err), SQLB_OK);
	CU_ASSERT_TRUE(!pending && appended);
	CU_ASSERT_EQUAL(head(), 4);
	tear_down();
}

/* And one behind it is refused, as it would be by any database. */
static void one_that_was_sent_can_be_away_or_broken(void)
{
	static const enum sqlb_memory_fault faults[] = {SQLB_FAULT_AWAY, SQLB_FAULT_BROKEN};

	for (int i = 0; i < 2; i++) {
		set_up(0);
		next("append_send", faults[i]);
		CU_ASSERT_EQUAL(send(a, 1), i ? SQLB_BROKEN : SQLB_AWAY);
		CU_ASSERT_EQUAL(send(a, 1), SQLB_OK);
		CU_ASSERT_EQUAL(send(a, 2), SQLB_OK);
		next("append", faults[i]);
		err.text[0] = '\0';
		CU_ASSERT_EQUAL(receive(a), i ? SQLB_BROKEN : SQLB_AWAY);
		CU_ASSERT_TRUE(strlen(err.text) > 0);
		CU_ASSERT_EQUAL(receive(a), SQLB_CONFLICT);
		CU_ASSERT_EQUAL(head(), 0);
		CU_ASSERT_EQUAL(put(a, 1), SQLB_OK);
		tear_down();
	}
}

/*
 * Two are on their way when 'first' happens to the first of them, which is answered with 'outcome'; the head after the calls
 * that the late ones take, when the second meets 'second'.
 */
static int64_t head_after(enum sqlb_memory_fault first, enum sqlb_outcome outcome, enum sqlb_memory_fault second)
{
	int64_t position;

	set_up(2);
	CU_ASSERT_EQUAL(send(a, 1), SQLB_OK);
	CU_ASSERT_EQUAL(send(a, 2), SQLB_OK);
	next("append", first);
	CU_ASSERT_EQUAL(receive(a), outcome);
	CU_ASSERT_EQUAL(send(a, 3), SQLB_AWAY); /* not before the second is received */
	next("append", second);
	CU_ASSERT_EQUAL(receive(a), SQLB_DOUBT);
	for (int i = 0; i < 4; i++)
		position = head();
	CU_ASSERT_EQUAL(put(a, position + 1), SQLB_OK); /* a new connection */
	CU_ASSERT_EQUAL(lease_exists(1), position != 0 || head() == 1);
	tear_down();
	return position;
}

static void what_is_behind_a_lost_connection_is_in_doubt_and_happens_after_it_or_never(void)
{
	CU_ASSERT_EQUAL(head_after(SQLB_FAULT_DOUBT_DONE, SQLB_DOUBT, SQLB_FAULT_DOUBT_LATE), 2);
	CU_ASSERT_EQUAL(head_after(SQLB_FAULT_DOUBT_DONE, SQLB_DOUBT, SQLB_FAULT_DOUBT_DONE), 2);
	CU_ASSERT_EQUAL(head_after(SQLB_FAULT_DOUBT_DONE, SQLB_DOUBT, SQLB_FAULT_DOUBT_LOST), 1);
	CU_ASSERT_EQUAL(head_after(SQLB_FAULT_DOUBT_DONE, SQLB_DOUBT, SQLB_FAULT_AWAY), 1);
	CU_ASSERT_EQUAL(head_after(SQLB_FAULT_DOUBT_LATE, SQLB_DOUBT, SQLB_FAULT_DOUBT_LATE), 2);
	CU_ASSERT_EQUAL(head_after(SQLB_FAULT_DOUBT_LATE, SQLB_DOUBT, SQLB_FAULT_DOUBT_LOST), 1);
	CU_ASSERT_EQUAL(head_after(SQLB_FAULT_DOUBT_LOST, SQLB_DOUBT, SQLB_FAULT_DOUBT_LATE), 0);
	CU_ASSERT_EQUAL(head_after(SQLB_FAULT_CUT, SQLB_AWAY, SQLB_FAULT_DOUBT_LATE), 0);
}

/* Whoever sends the first again has to reckon with that: the second follows what has its writer and batch. */
static void what_is_behind_a_lost_one_follows_that_one_sent_again(void)
{
	set_up(2);
	CU_ASSERT_EQUAL(send(a, 1), SQLB_OK);
	CU_ASSERT_EQUAL(send(a, 2), SQLB_OK);
	next("append", SQLB_FAULT_DOUBT_LOST);
	CU_ASSERT_EQUAL(receive(a), SQLB_DOUBT);
	next("append", SQLB_FAULT_DOUBT_LATE);
	CU_ASSERT_EQUAL(receive(a), SQLB_DOUBT);
	CU_ASSERT_EQUAL(put(a, 1), SQLB_OK);
	CU_ASSERT_EQUAL(head(), 1);
	CU_ASSERT_EQUAL(head(), 2);
	CU_ASSERT_EQUAL(put(a, 2), SQLB_CONFLICT);
	tear_down();
}

/* As many as can be, of which one loses the connection: those before it are there, those behind it as the script says. */
static void of_many_on_their_way_those_behind_a_lost_one_are_in_doubt(void)
{
	for (int at = 1; at <= SQLB_SENT_MAX; at++)
		for (int gone = at + 1; gone <= SQLB_SENT_MAX + 1; gone++) {
			set_up(1);
			for (int i = 1; i <= SQLB_SENT_MAX; i++)
				CU_ASSERT_EQUAL(send(a, i), SQLB_OK);
			for (int i = 1; i <= SQLB_SENT_MAX; i++) {
				next("append", i < at     ? SQLB_FAULT_NONE
					       : i == at  ? SQLB_FAULT_DOUBT_DONE
					       : i < gone ? SQLB_FAULT_DOUBT_LATE
							  : SQLB_FAULT_DOUBT_LOST);
				CU_ASSERT_EQUAL(receive(a), i < at ? SQLB_OK : SQLB_DOUBT);
			}
			for (int i = 0; i < 3; i++)
				head();
			CU_ASSERT_EQUAL(head(), gone - 1);
			CU_ASSERT_EQUAL(put(a, gone), SQLB_OK);
			tear_down();
		}
}

static void late_ones_of_a_session_keep_their_order(void)
{
	set_up(3);
	CU_ASSERT_EQUAL(send(a, 1), SQLB_OK);
	CU_ASSERT_EQUAL(send(a, 2), SQLB_OK);
	next("append", SQLB_FAULT_DOUBT_LATE);
	CU_ASSERT_EQUAL(receive(a), SQLB_DOUBT);
	sqlb_memory_set_faults(NAME, play, &script, 0); /* from now on they come sooner */
	next("append", SQLB_FAULT_DOUBT_LATE);
	CU_ASSERT_EQUAL(receive(a), SQLB_DOUBT);
	for (int i = 0; i < 3; i++)
		head();
	CU_ASSERT_EQUAL(head(), 2);
	tear_down();
}

static void without_a_fault_it_happens_and_does_not_by_turns(void)
{
	int64_t position = 0;

	set_up(1);
	for (int round = 0; round < 4; round++) {
		CU_ASSERT_EQUAL(send(a, position + 1), SQLB_OK);
		CU_ASSERT_EQUAL(send(a, position + 2), SQLB_OK);
		next("append", round % 4 < 2 ? SQLB_FAULT_DOUBT_LATE : SQLB_FAULT_DOUBT_DONE);
		CU_ASSERT_EQUAL(receive(a), SQLB_DOUBT);
		CU_ASSERT_EQUAL(receive(a), SQLB_DOUBT);
		head();
		head();
		CU_ASSERT_EQUAL(head(), position + 1 + round % 2);
		position = head();
	}
	tear_down();
}

static void a_send_that_loses_the_connection_leaves_both_in_doubt(void)
{
	static const enum sqlb_memory_fault faults[] = {SQLB_FAULT_DOUBT_LOST, SQLB_FAULT_DOUBT_LATE,
							SQLB_FAULT_DOUBT_DONE, SQLB_FAULT_CUT};

	for (int i = 0; i < 4; i++)
		for (int late = 0; late < 2; late++) {
			bool both = i == 1 || i == 2;

			set_up(1);
			CU_ASSERT_EQUAL(send(a, 1), SQLB_OK);
			next("append_send", faults[i]);
			CU_ASSERT_EQUAL(send(a, 2), faults[i] == SQLB_FAULT_CUT ? SQLB_AWAY : SQLB_DOUBT);
			next("append", late ? SQLB_FAULT_DOUBT_LATE : SQLB_FAULT_DOUBT_LOST);
			CU_ASSERT_EQUAL(receive(a), SQLB_DOUBT);
			head();
			head();
			CU_ASSERT_EQUAL(head(), late ? 1 + both : 0);
			CU_ASSERT_EQUAL(put(a, head() + 1), SQLB_OK);
			tear_down();
		}
	set_up(0); /* with nothing before it */
	next("append_send", SQLB_FAULT_DOUBT_DONE);
	CU_ASSERT_EQUAL(send(a, 1), SQLB_DOUBT);
	CU_ASSERT_EQUAL(send(a, 2), SQLB_OK);
	CU_ASSERT_EQUAL(receive(a), SQLB_OK);
	tear_down();
}

static void what_was_sent_to_a_log_that_lost_its_tail_is_in_doubt_and_gone(void)
{
	set_up(0);
	CU_ASSERT_EQUAL(put(a, 1), SQLB_OK);
	CU_ASSERT_EQUAL(send(a, 2), SQLB_OK);
	sqlb_memory_lose_tail(NAME, 1);
	CU_ASSERT_EQUAL(send(a, 3), SQLB_AWAY);
	next("append", SQLB_FAULT_DOUBT_LATE);
	CU_ASSERT_EQUAL(receive(a), SQLB_DOUBT);
	CU_ASSERT_EQUAL(head(), 1);
	CU_ASSERT_EQUAL(head(), 1);
	CU_ASSERT_EQUAL(put(a, 2), SQLB_OK);
	tear_down();
}

static void what_is_on_its_way_at_disconnect_happens_and_does_not_by_turns(void)
{
	set_up(0);
	for (int round = 0; round < 2; round++) {
		CU_ASSERT_EQUAL(send(a, 1), SQLB_OK);
		ops->disconnect(a);
		CU_ASSERT_EQUAL(ops->connect(db, &a, &err), SQLB_OK);
		CU_ASSERT_EQUAL(head(), round);
	}
	CU_ASSERT_EQUAL(send(a, 2), SQLB_OK);
	CU_ASSERT_EQUAL(send(a, 3), SQLB_OK);
	tear_down(); /* the leak checker is the judge */
}

static void a_guarded_append_is_not_sent(void)
{
	const struct sqlb_row row = {.position = 1, .rows = 1};
	const int64_t id = 1;
	const struct sqlb_append append = {
		.rows = &row, .row_count = 1, .leases_expired = &id, .leases_expired_count = 1};

	set_up(0);
	CU_ASSERT_EQUAL(ops->append_send(a, &append, &err), SQLB_AWAY);
	CU_ASSERT_EQUAL(err.status, KS_UNIMPLEMENTED);
	CU_ASSERT_EQUAL(put(a, 1), SQLB_OK);
	tear_down();
}

static void a_cut_read_shows_some_rows_and_is_away(void)
{
	const struct sqlb_loc locs[] = {{1, 0}, {2, 0}, {3, 0}, {4, 0}};
	size_t rows = 0;
	bool more;

	set_up(0);
	for (int64_t position = 1; position <= 4; position++)
		CU_ASSERT_EQUAL(put(a, position), SQLB_OK);
	next("read_rows", SQLB_FAULT_CUT);
	CU_ASSERT_EQUAL(ops->read_rows(a, 0, -1, SIZE_MAX, count, &rows, &more, &err), SQLB_AWAY);
	CU_ASSERT_EQUAL(rows, 2);
	rows = 0;
	next("read_at", SQLB_FAULT_CUT);
	CU_ASSERT_EQUAL(ops->read_at(a, locs, 4, count, &rows, &err), SQLB_AWAY);
	CU_ASSERT_EQUAL(rows, 2);
	rows = 0;
	CU_ASSERT_EQUAL(ops->read_rows(a, 0, -1, SIZE_MAX, count, &rows, &more, &err), SQLB_OK);
	CU_ASSERT_EQUAL(rows, 4);
	tear_down();
}

static void a_lost_tail_cuts_each_connection_once(void)
{
	size_t rows = 0;
	struct sqlb_head at;

	set_up(0);
	for (int64_t position = 1; position <= 5; position++)
		CU_ASSERT_EQUAL(put(a, position), SQLB_OK);
	CU_ASSERT_EQUAL(head(), 5); /* b is connected now, too */
	sqlb_memory_lose_tail(NAME, 3);
	sqlb_memory_visit(NAME, count, &rows);
	CU_ASSERT_EQUAL(rows, 3);
	CU_ASSERT_EQUAL(put(a, 6), SQLB_AWAY);
	CU_ASSERT_EQUAL(put(a, 6), SQLB_CONFLICT); /* not behind a gap */
	CU_ASSERT_EQUAL(ops->read_head(b, &at, &err), SQLB_AWAY);
	CU_ASSERT_EQUAL(head(), 3);
	CU_ASSERT_EQUAL(put(a, 4), SQLB_OK);
	tear_down();
}

static void a_new_connection_is_not_cut_for_what_was_before(void)
{
	set_up(0);
	CU_ASSERT_EQUAL(put(a, 1), SQLB_OK);
	sqlb_memory_lose_tail(NAME, 0);
	CU_ASSERT_EQUAL(put(b, 1), SQLB_OK); /* b had not been used yet */
	CU_ASSERT_EQUAL(put(a, 2), SQLB_AWAY);
	tear_down();
}

/* Every slot asks the script under its own name, and answers AWAY when told so. */
static void every_call_can_be_away(void)
{
	const struct sqlb_member self = {.id = 1};
	struct sqlb_lease lease = {.id = 1, .ttl_ms = 1};
	const struct sqlb_loc loc = {1, 0};
	const int64_t id = 1;
	uint64_t cluster_id;
	struct sqlb_head at;
	struct sqlb_duty duty;
	struct sqlb_size size;
	size_t rows = 0;
	bool more;

	set_up(0);
#define AWAY(slot, call)                  \
	next(slot, SQLB_FAULT_AWAY);      \
	CU_ASSERT_EQUAL(call, SQLB_AWAY); \
	CU_ASSERT_EQUAL(script.fault, SQLB_FAULT_NONE)
	AWAY("migrate", ops->migrate(a, &cluster_id, &err));
	AWAY("append", put(a, 1));
	AWAY("read_head", ops->read_head(a, &at, &err));
	AWAY("read_rows", ops->read_rows(a, 0, -1, 1, count, &rows, &more, &err));
	AWAY("read_at", ops->read_at(a, &loc, 1, count, &rows, &err));
	AWAY("trim", ops->trim(a, &loc, 1, &err));
	AWAY("wait_for_change", ops->wait_for_change(a, 0, 0, &err));
	AWAY("lease_touch", ops->lease_touch(a, &lease, 1, &err));
	AWAY("lease_ensure", ops->lease_ensure(a, &lease, 1, &err));
	AWAY("lease_refresh_all", ops->lease_refresh_all(a, &err));
	AWAY("lease_list", ops->lease_list(a, 0, NULL, NULL, &err));
	AWAY("lease_read", ops->lease_read(a, &lease, 1, &err));
	AWAY("lease_drop", ops->lease_drop(a, &id, 1, &err));
	AWAY("duty_take", ops->duty_take(a, 1, 1, &duty, &err));
	AWAY("duty_pass", ops->duty_pass(a, 1, 2, 1, &err));
	AWAY("member_beat", ops->member_beat(a, &self, 1, &err));
	AWAY("member_list", ops->member_list(a, NULL, NULL, &err));
	AWAY("size", ops->size(a, &size, &err));
	AWAY("defragment", ops->defragment(a, false, &err));
	CU_ASSERT_EQUAL(rows, 0);
	tear_down();
}

/* The other writing calls have no DOUBT: they are AWAY, and happened or not as the fault says. */
static void doubt_of_other_calls_is_away(void)
{
	const struct sqlb_lease lease = {.id = 9, .ttl_ms = 100};

	set_up(0);
	next("lease_ensure", SQLB_FAULT_DOUBT_LOST);
	CU_ASSERT_EQUAL(ops->lease_ensure(a, &lease, 1, &err), SQLB_AWAY);
	CU_ASSERT_FALSE(lease_exists(9));
	next("lease_ensure", SQLB_FAULT_DOUBT_DONE);
	CU_ASSERT_EQUAL(ops->lease_ensure(a, &lease, 1, &err), SQLB_AWAY);
	CU_ASSERT_TRUE(lease_exists(9));
	tear_down();
}

static void time_is_the_fake_clock(void)
{
	struct sqlb_lease lease = {.id = 1};

	set_up(0);
	CU_ASSERT_EQUAL(put(a, 1), SQLB_OK); /* a lease of 100 ms */
	ks_clock_advance(&fake, 100);
	CU_ASSERT_EQUAL(ops->lease_read(a, &lease, 1, &err), SQLB_OK);
	CU_ASSERT_EQUAL(lease.remaining_ms, 0);
	CU_ASSERT_EQUAL(ops->lease_touch(a, &lease, 1, &err), SQLB_OK);
	CU_ASSERT_TRUE(lease.found);
	ks_clock_advance(&fake, 101);
	CU_ASSERT_EQUAL(ops->lease_touch(a, &lease, 1, &err), SQLB_OK);
	CU_ASSERT_FALSE(lease.found);
	tear_down();
}

static void a_name_is_one_database_until_it_is_forgotten(void)
{
	struct sqlb_db *other;
	struct sqlb_conn *conn;
	struct sqlb_head at;

	set_up(0);
	CU_ASSERT_EQUAL(put(a, 1), SQLB_OK);
	CU_ASSERT_EQUAL(ops->open("memory://" NAME, NULL, &other, &err), KS_OK);
	CU_ASSERT_EQUAL(ops->connect(other, &conn, &err), SQLB_OK);
	CU_ASSERT_EQUAL(ops->read_head(conn, &at, &err), SQLB_OK);
	CU_ASSERT_EQUAL(at.position, 1);
	sqlb_memory_forget(NAME);
	CU_ASSERT_EQUAL(put(conn, 2), SQLB_OK); /* those who have it keep it */
	CU_ASSERT_EQUAL(head(), 2);
	ops->disconnect(conn);
	ops->close(other);
	tear_down();
	set_up(0);
	CU_ASSERT_EQUAL(head(), 0);
	tear_down();
	CU_ASSERT_EQUAL(ops->open("sqlite://x", NULL, &other, &err), KS_INVALID_ARGUMENT);
}

int main(void)
{
	return tap_run(
		"memory_faults",
		(const struct tap_test[]){
			{"away_and_broken_change_nothing_and_have_a_text",
			 away_and_broken_change_nothing_and_have_a_text},
			{"doubt_done_happened", doubt_done_happened},
			{"doubt_lost_did_not_happen", doubt_lost_did_not_happen},
			{"doubt_late_happens_after_so_many_calls", doubt_late_happens_after_so_many_calls},
			{"doubt_late_conflicts_when_the_position_is_taken",
			 doubt_late_conflicts_when_the_position_is_taken},
			{"a_late_append_dies_with_its_database", a_late_append_dies_with_its_database},
			{"two_that_were_sent_happen_in_order_when_they_are_received",
			 two_that_were_sent_happen_in_order_when_they_are_received},
			{"a_first_look_is_pending_with_no_wait_and_else_as_the_script_says",
			 a_first_look_is_pending_with_no_wait_and_else_as_the_script_says},
			{"one_that_was_sent_can_be_away_or_broken", one_that_was_sent_can_be_away_or_broken},
			{"what_is_behind_a_lost_connection_is_in_doubt_and_happens_after_it_or_never",
			 what_is_behind_a_lost_connection_is_in_doubt_and_happens_after_it_or_never},
			{"what_is_behind_a_lost_one_follows_that_one_sent_again",
			 what_is_behind_a_lost_one_follows_that_one_sent_again},
			{"of_many_on_their_way_those_behind_a_lost_one_are_in_doubt",
			 of_many_on_their_way_those_behind_a_lost_one_are_in_doubt},
			{"late_ones_of_a_session_keep_their_order", late_ones_of_a_session_keep_their_order},
			{"without_a_fault_it_happens_and_does_not_by_turns",
			 without_a_fault_it_happens_and_does_not_by_turns},
			{"a_send_that_loses_the_connection_leaves_both_in_doubt",
			 a_send_that_loses_the_connection_leaves_both_in_doubt},
			{"what_was_sent_to_a_log_that_lost_its_tail_is_in_doubt_and_gone",
			 what_was_sent_to_a_log_that_lost_its_tail_is_in_doubt_and_gone},
			{"what_is_on_its_way_at_disconnect_happens_and_does_not_by_turns",
			 what_is_on_its_way_at_disconnect_happens_and_does_not_by_turns},
			{"a_guarded_append_is_not_sent", a_guarded_append_is_not_sent},
			{"a_cut_read_shows_some_rows_and_is_away", a_cut_read_shows_some_rows_and_is_away},
			{"a_lost_tail_cuts_each_connection_once", a_lost_tail_cuts_each_connection_once},
			{"a_new_connection_is_not_cut_for_what_was_before",
			 a_new_connection_is_not_cut_for_what_was_before},
			{"every_call_can_be_away", every_call_can_be_away},
			{"doubt_of_other_calls_is_away", doubt_of_other_calls_is_away},
			{"time_is_the_fake_clock", time_is_the_fake_clock},
			{"a_name_is_one_database_until_it_is_forgotten", a_name_is_one_database_until_it_is_forgotten},
			{NULL, NULL},
		});
}
