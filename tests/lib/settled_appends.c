/* SPDX-License-Identifier: Apache-2.0 */
/* The tests, two loops over positions, and one step of them for each way to append. See settled_appends.h. */
#include "tests/lib/settled_appends.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <time.h>

#include "tests/lib/cut_proxy.h"
#include "tests/lib/tap.h"

#define WRITER 42
#define LIFE_MS 60 /* of a connection through the proxy, at most */
#define PROXY_SEED 20260
#define DISTURBER_SEED 4711
#define MOST_POSITIONS 100000 /* when there is no doubt at all */

struct tally {
	int done, doubts, landed, away, conflicts;
};

struct disturber {
	_Atomic bool stop;
	void (*disturb)(unsigned *seed);
	pthread_t thread;
	_Atomic int times;
};

static const struct settled_backend *tested;

static void through_disturbance(void (*disturb)(unsigned *seed), int at_a_time, const struct settled_goal *goal);
static void through_cuts(int at_a_time);
static void *disturb_now_and_then(void *arg);
static bool append_from(struct sqlb_conn *conn, int64_t position, int at_a_time, struct tally *tally);
static void check_tally(const struct tally *tally, int least, int disturbances);

/* ---- the tests ---- */

static void connections_cut_during_appends_lose_and_double_nothing(void)
{
	through_cuts(1);
}

static void connections_cut_with_many_on_their_way_lose_and_double_nothing(void)
{
	through_cuts(SQLB_SENT_MAX);
}

static void sessions_ended_during_appends_lose_and_double_nothing(void)
{
	through_disturbance(tested->end_session, 1, &tested->sessions);
}

static void sessions_ended_with_many_on_their_way_lose_and_double_nothing(void)
{
	through_disturbance(tested->end_session, SQLB_SENT_MAX, &tested->sessions_with_many);
}

static void crashes_of_the_server_during_appends_lose_and_double_nothing(void)
{
	through_disturbance(tested->crash_server, 1, &tested->servers);
}

static void crashes_of_the_server_with_many_on_their_way_lose_and_double_nothing(void)
{
	through_disturbance(tested->crash_server, SQLB_SENT_MAX, &tested->servers);
}

static void restarts_of_the_server_during_appends_lose_and_double_nothing(void)
{
	through_disturbance(tested->restart_server, 1, &tested->servers);
}

static const struct tap_test tests[] = {
	{"connections_cut_during_appends_lose_and_double_nothing",
	 connections_cut_during_appends_lose_and_double_nothing},
	{"connections_cut_with_many_on_their_way_lose_and_double_nothing",
	 connections_cut_with_many_on_their_way_lose_and_double_nothing},
	{"sessions_ended_during_appends_lose_and_double_nothing",
	 sessions_ended_during_appends_lose_and_double_nothing},
	{"sessions_ended_with_many_on_their_way_lose_and_double_nothing",
	 sessions_ended_with_many_on_their_way_lose_and_double_nothing},
	{"crashes_of_the_server_during_appends_lose_and_double_nothing",
	 crashes_of_the_server_during_appends_lose_and_double_nothing},
	{"crashes_of_the_server_with_many_on_their_way_lose_and_double_nothing",
	 crashes_of_the_server_with_many_on_their_way_lose_and_double_nothing},
	{"restarts_of_the_server_during_appends_lose_and_double_nothing",
	 restarts_of_the_server_during_appends_lose_and_double_nothing},
	{NULL, NULL},
};

void settled_add(const char *suite, const struct settled_backend *backend)
{
	tested = backend;
	tap_add(suite, tests);
}

/* ---- what they and others are made of ---- */

struct sqlb_row row_of(int64_t position, int64_t writer, int64_t batch)
{
	return (struct sqlb_row){.position = position,
				 .rows = 1,
				 .kind = 1,
				 .revision = position + 1,
				 .key = ks_slice_str("k"),
				 .value = ks_slice_str("v"),
				 .create_revision = 2,
				 .version = position,
				 .writer = writer,
				 .batch = batch};
}

enum sqlb_outcome settled_send(const struct sqlb_ops *ops, struct sqlb_conn *conn, int64_t position, struct ks_err *err)
{
	struct sqlb_row row = row_of(position, WRITER, position);
	struct sqlb_append append = {
		.after_writer = position > 1 ? WRITER : 0, .after_batch = position - 1, .rows = &row, .row_count = 1};

	*err = (struct ks_err){0};
	return ops->append_send(conn, &append, err);
}

enum sqlb_outcome settled_receive_within(const struct sqlb_ops *ops, struct sqlb_conn *conn, int wait_ms, bool *pending,
					 struct ks_err *err)
{
	bool appended = true;
	enum sqlb_outcome outcome;

	err->text[0] = '\0';
	outcome = ops->append_receive(conn, wait_ms, pending, &appended, err);
	CU_ASSERT_EQUAL(appended, outcome == SQLB_OK && !*pending);
	if (outcome != SQLB_OK && outcome != SQLB_CONFLICT)
		CU_ASSERT_NOT_EQUAL(err->text[0], '\0');
	return outcome;
}

enum sqlb_outcome settled_receive(const struct sqlb_ops *ops, struct sqlb_conn *conn, struct ks_err *err)
{
	bool pending = true;
	enum sqlb_outcome outcome = settled_receive_within(ops, conn, -1, &pending, err);

	CU_ASSERT_FALSE(pending);
	return outcome;
}

bool take_writer_and_batch(void *ctx, const struct sqlb_row *row)
{
	int64_t *found = ctx;

	found[0] = row->writer;
	found[1] = row->batch;
	return true;
}

/*
 * Both: 'at_a_time' entries, at most SQLB_SENT_MAX, are sent before the first of them is received; 1: it is appended in one call.
 */
static void through_disturbance(void (*disturb)(unsigned *seed), int at_a_time, const struct settled_goal *goal)
{
	struct side side = tested->begin();
	struct disturber disturber = {.disturb = disturb};
	struct tally tally = {0};

	CU_ASSERT_EQUAL_FATAL(pthread_create(&disturber.thread, NULL, disturb_now_and_then, &disturber), 0);
	for (int64_t position = 1; position <= goal->entries || atomic_load(&disturber.times) < goal->disturbances;
	     position += at_a_time)
		if (!append_from(side.conn, position, at_a_time, &tally)) {
			CU_FAIL("an append came to something else");
			break;
		}
	atomic_store(&disturber.stop, true);
	pthread_join(disturber.thread, NULL);
	tested->reconnect();
	CU_ASSERT_TRUE(tally.doubts + tally.away > 0);
	check_tally(&tally, goal->entries, atomic_load(&disturber.times));
	tested->end(&side);
}

static void through_cuts(int at_a_time)
{
	struct side side = tested->begin(), cut;
	struct tally tally = {0};
	struct cut_proxy *proxy;
	int port, cuts;

	proxy = cut_proxy_start(tested->server_port, LIFE_MS, PROXY_SEED, &port);
	CU_ASSERT_PTR_NOT_NULL_FATAL(proxy);
	cut = tested->open_at(port);
	for (int64_t position = 1; tally.doubts < tested->doubts && position < MOST_POSITIONS; position += at_a_time)
		if (!append_from(cut.conn, position, at_a_time, &tally)) {
			CU_FAIL("an append came to something else");
			break;
		}
	tested->close(&cut);
	cuts = cut_proxy_stop(proxy);
	CU_ASSERT_TRUE(tally.landed > 0 && tally.doubts >= tested->doubts);
	check_tally(&tally, tested->doubts, cuts);
	tested->end(&side);
}

static void *disturb_now_and_then(void *arg)
{
	struct disturber *disturber = arg;
	unsigned seed = DISTURBER_SEED;

	while (!atomic_load(&disturber->stop)) {
		disturber->disturb(&seed);
		atomic_fetch_add(&disturber->times, 1);
	}
	return NULL;
}

static void pause_a_little(void)
{
	struct timespec pause = {0, 5000000};

	nanosleep(&pause, NULL);
}

/* Whether the entry that stands in the way is the one that is appended: then it had landed. */
static bool is_ours(const int64_t found[2], int64_t position)
{
	if (found[0] == WRITER && found[1] == position)
		return true;
	printf("# position %lld has %lld/%lld\n", (long long)position, (long long)found[0], (long long)found[1]);
	return false;
}

/*
 * DOUBT, AWAY and, where that may happen, a conflict with nobody are answered by the same batch again, a conflict with itself
 * means that it had landed. False: something that must not happen.
 */
static bool append_until_settled(struct sqlb_conn *conn, int64_t position, struct tally *tally)
{
	for (;;) {
		struct ks_err err = {0};
		enum sqlb_outcome outcome = tested->append(conn, position, &err);
		int64_t found[2] = {0};

		tally->doubts += outcome == SQLB_DOUBT;
		tally->away += outcome == SQLB_AWAY;
		tally->conflicts += outcome == SQLB_CONFLICT;
		switch (outcome) {
		case SQLB_OK:
			tally->done++;
			return true;
		case SQLB_DOUBT:
			break;
		case SQLB_AWAY:
			pause_a_little();
			break;
		case SQLB_CONFLICT:
			while (tested->ops->read_at(conn, &(struct sqlb_loc){position, 0}, 1, take_writer_and_batch,
						    found, &err) == SQLB_AWAY)
				pause_a_little();
			if (found[0] == 0 && tested->conflicts_with_nobody)
				break;
			tally->landed++;
			if (!is_ours(found, position))
				return false;
			tally->done++;
			return true;
		case SQLB_BROKEN:
			printf("# %s %s\n", sqlb_outcome_name(outcome), err.text);
			return false;
		}
	}
}

/* Sends as many as can be, and sends again what was not OK, one by one. False: something that must not happen. */
static bool append_many_until_settled(struct sqlb_conn *conn, int64_t position, int count, struct tally *tally)
{
	enum sqlb_outcome outcomes[SQLB_SENT_MAX];
	struct ks_err err;
	int sent = 0;

	for (int i = 0; i < count; i++)
		outcomes[i] = SQLB_AWAY;
	while (sent < count && (outcomes[sent] = settled_send(tested->ops, conn, position + sent, &err)) == SQLB_OK)
		sent++;
	for (int i = 0; i < sent; i++)
		outcomes[i] = settled_receive(tested->ops, conn, &err);
	for (int i = 0; i < count; i++) {
		tally->doubts += outcomes[i] == SQLB_DOUBT;
		tally->away += outcomes[i] == SQLB_AWAY;
		if (i && outcomes[i] == SQLB_OK && outcomes[i - 1] != SQLB_OK) {
			printf("# number %d without the one before it, which is %s\n", i + 1,
			       sqlb_outcome_name(outcomes[i - 1]));
			return false;
		}
	}
	for (int i = 0; i < count; i++)
		if (outcomes[i] == SQLB_OK)
			tally->done++;
		else if (!append_until_settled(conn, position + i, tally))
			return false;
	return true;
}

static bool append_from(struct sqlb_conn *conn, int64_t position, int at_a_time, struct tally *tally)
{
	return at_a_time == 1 ? append_until_settled(conn, position, tally)
			      : append_many_until_settled(conn, position, at_a_time, tally);
}

/* Every batch must be in the log once, in order. */
static void check_tally(const struct tally *tally, int least, int disturbances)
{
	char expected[100];

	printf("# %d appends, %d disturbances, %d doubts, %d away, ", tally->done, disturbances, tally->doubts,
	       tally->away);
	if (tested->conflicts_with_nobody) /* elsewhere they are those that had landed */
		printf("%d conflicts, ", tally->conflicts);
	printf("%d had landed\n", tally->landed);
	CU_ASSERT_TRUE(tally->done >= least);
	snprintf(expected, sizeof(expected), "%d/1/%d", tally->done, tally->done);
	CU_ASSERT_STRING_EQUAL(tested->entries(), expected);
}
