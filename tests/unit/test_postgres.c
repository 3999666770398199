/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What only the PostgreSQL backend has to promise, beyond tests/suites/backend.c: sessions and servers that die
 * in the middle of an append, read-only servers, peers that say nothing, notifications, encodings, a trim that
 * meets an append.
 *
 * Needs a server that it may kill and restart: without KS_TEST_POSTGRES_URL it starts itself under
 * tests/lib/with-postgres.
 */
#include "tests/lib/tap.h"

#include <libpq-fe.h>
#include <netinet/in.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "sqlbackends/sqlb.h"
#include "tests/lib/settled_appends.h"

#define URL_MAX 2400

static const struct sqlb_ops *const ops = &sqlb_postgres_ops;
static char base_url[1000]; /* KS_TEST_POSTGRES_URL */
static char url[URL_MAX];   /* with a schema of the running test */
static char schema_name[64];
static PGconn *raw; /* what is done behind the backend's back */
static _Thread_local struct ks_err err;

static int64_t now_ms(void)
{
	return ks_clock_now(ks_clock_system());
}

static bool ok(enum sqlb_outcome outcome, int line)
{
	if (outcome != SQLB_OK)
		printf("# line %d: %s %s\n", line, sqlb_outcome_name(outcome), err.text);
	return outcome == SQLB_OK;
}

static void pause_ms(long ms)
{
	struct timespec pause = {ms / 1000, ms % 1000 * 1000000};

	nanosleep(&pause, NULL);
}

#define OK(call) CU_ASSERT_TRUE(ok((call), __LINE__))

/* SQL on the other connection; the first value of the last result, or "". */
static const char *sql(const char *text)
{
	static char value[400];
	PGresult *result = PQexec(raw, text);

	value[0] = '\0';
	if (PQresultStatus(result) == PGRES_FATAL_ERROR)
		printf("# %s: %s", text, PQerrorMessage(raw));
	else if (PQntuples(result) > 0)
		snprintf(value, sizeof(value), "%s", PQgetvalue(result, 0, 0));
	PQclear(result);
	return value;
}

static void raw_connect(void)
{
	char text[200];

	raw = PQconnectdb(base_url);
	if (PQstatus(raw) != CONNECTION_OK)
		printf("# %s\n", PQerrorMessage(raw));
	snprintf(text, sizeof(text),
		 "SET application_name = 'test'; SET client_min_messages = 'error'; SET search_path = %s", schema_name);
	sql(text);
}

static void url_with(char out[URL_MAX], const char *more_options)
{
	snprintf(out, URL_MAX, "%s%coptions=-csearch_path%%3D%s%s", base_url, strchr(base_url, '?') ? '&' : '?',
		 schema_name, more_options);
}

static struct side side_open(const char *of)
{
	struct side side = {0};

	CU_ASSERT_EQUAL_FATAL(ops->open(of, "", &side.db, &err), KS_OK);
	OK(ops->connect(side.db, &side.conn, &err));
	return side;
}

static void side_close(struct side *side)
{
	ops->disconnect(side->conn);
	ops->close(side->db);
	*side = (struct side){0};
}

static struct side begin(void)
{
	static unsigned serial;
	struct side side;
	char text[200];
	uint64_t id;

	snprintf(schema_name, sizeof(schema_name), "pg_test_%ld_%u", (long)getpid(), ++serial);
	/* "pg_…" is reserved */
	memcpy(schema_name, "ks", 2);
	raw_connect();
	snprintf(text, sizeof(text), "CREATE SCHEMA %s", schema_name);
	sql(text);
	url_with(url, "");
	side = side_open(url);
	OK(ops->migrate(side.conn, &id, &err));
	return side;
}

static void end(struct side *side)
{
	char text[200];

	side_close(side);
	snprintf(text, sizeof(text), "DROP SCHEMA %s CASCADE", schema_name);
	sql(text);
	PQfinish(raw);
	raw = NULL;
}

static enum sqlb_outcome append_as(struct sqlb_conn *conn, int64_t position, int64_t writer, int64_t batch)
{
	struct sqlb_row row = row_of(position, writer, batch);
	struct sqlb_append append = {.rows = &row, .row_count = 1};
	struct ks_err mine = {0};
	enum sqlb_outcome outcome;
	bool appended;

	outcome = ops->append(conn, &append, &appended, &mine);
	CU_ASSERT_EQUAL(appended, outcome == SQLB_OK);
	if (outcome == SQLB_DOUBT || outcome == SQLB_AWAY || outcome == SQLB_BROKEN)
		CU_ASSERT_NOT_EQUAL(mine.text[0], '\0');
	if (outcome != SQLB_CONFLICT)
		err = mine;
	return outcome;
}

static int64_t count_rows(void)
{
	return strtoll(sql("SELECT count(*) FROM kineshim_log"), NULL, 10);
}

/* ---- URLs ---- */

static void a_bad_url_is_refused_without_its_secret(void)
{
	static const char *const bad[] = {
		"postgres://user:s3cret@host:54x2/db",
		"postgres://user:s3/cret@host/db",
		"postgres://user:54/s3cret@host/db",
		"postgres://user:s3@cret@host/db",
		"postgres://user:s3cret@[::1/db",
		"postgres://user:s3cret@host/db?nosuchoption=1",
		"http://user:s3cret@host/db",
		"postgres:",
		"postgres://user:s3cret@host/db?replication=database",
		"postgres://user:s3cret@host/%zz",
		"postgres://user:s3cret@host/db?pool_mode=sometimes",
		"postgres://user:s3cret@host/db?dialect=klingon",
		"postgres://user:s3cret@host/db?sslmode=disable&schema=a%22;b",
		"postgres://user:s3cret@host/db?schema=%zz",
	};

	for (size_t i = 0; i < sizeof(bad) / sizeof(*bad); i++) {
		struct sqlb_db *db = (struct sqlb_db *)&err;

		CU_ASSERT_EQUAL(ops->open(bad[i], "", &db, &err), KS_INVALID_ARGUMENT);
		CU_ASSERT_PTR_NULL(db);
		CU_ASSERT_PTR_NULL(strstr(err.text, "s3"));
		CU_ASSERT_PTR_NULL(strstr(err.text, "cret@"));
		CU_ASSERT_PTR_NOT_NULL(strstr(err.text, "postgres://user:password@host"));
	}
}

static void both_schemes_and_a_socket_work(void)
{
	const char *socket_url = getenv("KS_TEST_POSTGRES_SOCKET_URL");
	char other[URL_MAX];
	struct sqlb_head head;
	struct side side;

	snprintf(other, sizeof(other), "postgresql%s", strchr(base_url, ':'));
	side = side_open(other);
	CU_ASSERT_EQUAL(ops->read_head(side.conn, &head, &err), SQLB_BROKEN); /* connected, and found no tables */
	side_close(&side);
	if (!socket_url)
		return;
	side = side_open(socket_url);
	CU_ASSERT_EQUAL(ops->read_head(side.conn, &head, &err), SQLB_BROKEN);
	side_close(&side);
}

/* ---- nobody there, somebody silent ---- */

static void an_unreachable_server_is_away(void)
{
	struct side side = side_open("postgres://user:s3cret@127.0.0.1:1/db");
	struct sqlb_head head;
	uint64_t id;

	CU_ASSERT_EQUAL(ops->migrate(side.conn, &id, &err), SQLB_AWAY);
	CU_ASSERT_EQUAL(ops->read_head(side.conn, &head, &err), SQLB_AWAY);
	CU_ASSERT_EQUAL(append_as(side.conn, 1, 1, 1), SQLB_AWAY);
	CU_ASSERT_EQUAL(ops->wait_for_change(side.conn, 0, 5000, &err), SQLB_AWAY);
	CU_ASSERT_PTR_NULL(strstr(err.text, "s3cret"));
	side_close(&side);
}

static void a_listener_that_never_answers_is_away(void)
{
	struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	socklen_t size = sizeof(address);
	int fd = socket(AF_INET, SOCK_STREAM, 0);
	int64_t start_ms = now_ms();
	struct sqlb_head head;
	struct side side;
	char silent[100];

	CU_ASSERT_EQUAL_FATAL(bind(fd, (struct sockaddr *)&address, sizeof(address)), 0);
	CU_ASSERT_EQUAL_FATAL(listen(fd, 5), 0);
	getsockname(fd, (struct sockaddr *)&address, &size);
	snprintf(silent, sizeof(silent), "postgres://user@127.0.0.1:%d/db?connect_timeout=2", ntohs(address.sin_port));
	side = side_open(silent);
	CU_ASSERT_EQUAL(ops->read_head(side.conn, &head, &err), SQLB_AWAY);
	CU_ASSERT_TRUE(now_ms() - start_ms < 8000);
	side_close(&side);
	close(fd);
}

/* The server process of the connection that last used a statement of ours. */
static pid_t backend_pid(void)
{
	return (pid_t)strtol(sql("SELECT pid FROM pg_stat_activity WHERE application_name = 'kineshim' "
				 "AND query LIKE '%kineshim_%' ORDER BY query_start DESC LIMIT 1"),
			     NULL, 10);
}

static void a_server_that_stops_answering_leaves_doubt_that_can_be_settled(void)
{
	struct side side = begin();
	struct sqlb_head head;
	int64_t start_ms;
	pid_t pid;

	OK(append_as(side.conn, 1, 7, 1));
	OK(ops->read_head(side.conn, &head, &err)); /* the answer to its notification has been read */
	pid = backend_pid();
	CU_ASSERT_TRUE_FATAL(pid > 1);
	CU_ASSERT_EQUAL_FATAL(kill(pid, SIGSTOP), 0);
	start_ms = now_ms();
	CU_ASSERT_EQUAL(append_as(side.conn, 2, 7, 2), SQLB_DOUBT);
	CU_ASSERT_TRUE(now_ms() - start_ms < 15000);
	/* The statement is still in its socket: once it runs on, it lands or it does not, but never twice. */
	kill(pid, SIGCONT);
	switch ((int)append_as(side.conn, 2, 7, 2)) {
	case SQLB_OK:
	case SQLB_CONFLICT:
		break;
	default:
		CU_FAIL("doubt was not settled");
	}
	OK(append_as(side.conn, 3, 7, 3));
	CU_ASSERT_EQUAL(count_rows(), 3);
	end(&side);
}

/* ---- sessions and servers that die ---- */

/*
 * Ends the writer's session at any time: before, in the middle of, or after an append; sometimes while it
 * connects.
 */
static void end_session(unsigned *seed)
{
	static PGconn *killer;
	struct timespec pause = {0, (long)(rand_r(seed) % 60000) * 1000};

	if (PQstatus(killer) != CONNECTION_OK) { /* none yet, or the server was restarted since */
		PQfinish(killer);
		killer = PQconnectdb(base_url);
		PQclear(PQexec(killer, "SET client_min_messages = 'error'"));
	}
	nanosleep(&pause, NULL);
	PQclear(PQexec(killer,
		       "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'kineshim'"));
}

static void run_server_command(const char *command)
{
	char text[1000];

	snprintf(text, sizeof(text), "bash '%s' %s '%s' >/dev/null 2>&1", getenv("KS_TEST_SERVERS"), command,
		 getenv("KS_TEST_POSTGRES_DIR"));
	if (system(text) != 0)
		printf("# failed: %s\n", text);
}

static void crash_server(unsigned *seed)
{
	struct timespec pause = {0, (long)(rand_r(seed) % 300) * 1000000};

	nanosleep(&pause, NULL);
	run_server_command("pg_kill");
	run_server_command("pg_start");
}

static void restart_server(unsigned *seed)
{
	struct timespec pause = {0, (long)(rand_r(seed) % 300) * 1000000};

	nanosleep(&pause, NULL);
	run_server_command(rand_r(seed) % 2 ? "pg_restart" : "pg_restart_immediately");
}

static void reconnect(void)
{
	PQfinish(raw);
	raw_connect();
}

static struct side open_at(int port)
{
	char through[URL_MAX];

	snprintf(through, sizeof(through), "postgres://kineshim@127.0.0.1:%d/kineshim?options=-csearch_path%%3D%s",
		 port, schema_name);
	return side_open(through);
}

static enum sqlb_outcome append_entry(struct sqlb_conn *conn, int64_t position, struct ks_err *why)
{
	enum sqlb_outcome outcome = append_as(conn, position, 42, position);

	*why = err;
	return outcome;
}

static const char *entries_of_42(void)
{
	return sql("SELECT count(*) || '/' || min(position) || '/' || max(position) FROM kineshim_log "
		   "WHERE batch = position AND writer = 42");
}

static struct settled_backend settled = {
	.ops = &sqlb_postgres_ops,
	.begin = begin,
	.end = end,
	.open_at = open_at,
	.close = side_close,
	.append = append_entry,
	.reconnect = reconnect,
	.entries = entries_of_42,
	.end_session = end_session,
	.crash_server = crash_server,
	.restart_server = restart_server,
	.sessions = {1000, 100},
	.sessions_with_many = {1000, 100},
	.servers = {300, 4},
	.doubts = 100,
};

static void a_session_that_ended_while_idle_is_replaced_without_doubt(void)
{
	struct side side = begin();

	OK(append_as(side.conn, 1, 1, 1));
	for (int64_t position = 2; position < 12; position++) {
		pid_t pid = backend_pid();
		char text[100];

		snprintf(text, sizeof(text), "SELECT pg_terminate_backend(%d, 5000)", pid);
		CU_ASSERT_STRING_EQUAL(sql(text), "t");
		OK(append_as(side.conn, position, 1, position));
	}
	end(&side);
}

/* ---- two appends on their way ---- */

/* 'commit': raised by the COMMIT, not by the INSERT. */
static void raise_at_insert(const char *state, bool commit)
{
	char text[300];

	sql("DROP TRIGGER IF EXISTS refuse ON kineshim_log");
	snprintf(text, sizeof(text),
		 "CREATE OR REPLACE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS "
		 "'BEGIN RAISE EXCEPTION USING ERRCODE = ''%s'', MESSAGE = ''raised''; END'",
		 state);
	sql(text);
	snprintf(text, sizeof(text),
		 "CREATE %s TRIGGER refuse AFTER INSERT ON kineshim_log %s FOR EACH ROW "
		 "EXECUTE FUNCTION refuse()",
		 commit ? "CONSTRAINT" : "", commit ? "DEFERRABLE INITIALLY DEFERRED" : "");
	sql(text);
}

static enum sqlb_outcome send_entry(struct sqlb_conn *conn, int64_t position)
{
	return settled_send(ops, conn, position, &err);
}

static enum sqlb_outcome receive_within(struct sqlb_conn *conn, int wait_ms, bool *pending)
{
	return settled_receive_within(ops, conn, wait_ms, pending, &err);
}

static enum sqlb_outcome receive(struct sqlb_conn *conn)
{
	return settled_receive(ops, conn, &err);
}

static int64_t cpu_ms(void)
{
	struct timespec now;

	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
	return now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

/* With a notification behind each, and without. */
static void appends_on_their_way_are_pending_until_they_are_answered(void)
{
	struct sqlb_member self = {.id = 1, .name = ks_slice_str("self"), .client_urls = ks_slice_str("http://a")};
	struct side side = begin();

	OK(append_as(side.conn, 1, 42, 1)); /* all is prepared, which the lock would not let happen */
	for (int64_t position = 2; position < 2 + 2 * SQLB_SENT_MAX; position += SQLB_SENT_MAX) {
		int64_t start_ms, start_cpu_ms;
		bool pending = false;

		sql("BEGIN; LOCK TABLE kineshim_log IN SHARE MODE");
		for (int i = 0; i < SQLB_SENT_MAX; i++)
			OK(send_entry(side.conn, position + i));
		OK(receive_within(side.conn, 0, &pending));
		CU_ASSERT_TRUE(pending);
		start_ms = now_ms();
		start_cpu_ms = cpu_ms();
		OK(receive_within(side.conn, 300, &pending));
		CU_ASSERT_TRUE(pending);
		CU_ASSERT_TRUE(now_ms() - start_ms >= 290);
		CU_ASSERT_TRUE(cpu_ms() - start_cpu_ms < 100); /* it waits, and does not look again and again */
		sql("COMMIT");
		for (int i = 0; i < SQLB_SENT_MAX; i++)
			OK(receive(side.conn));
		CU_ASSERT_EQUAL(count_rows(), position + SQLB_SENT_MAX - 1);
		OK(ops->member_beat(side.conn, &self, 60000, &err)); /* alone: nobody is notified */
	}
	OK(append_as(side.conn, 2 + 2 * SQLB_SENT_MAX, 42, 2 + 2 * SQLB_SENT_MAX));
	end(&side);
}

/* Each has its own time, and what is behind a silent one is in doubt with it. */
static void a_server_that_stops_answering_leaves_all_in_doubt(void)
{
	struct side side = begin();
	struct sqlb_head head;
	int64_t start_ms;
	pid_t pid;

	OK(append_as(side.conn, 1, 42, 1));
	OK(ops->read_head(side.conn, &head, &err));
	pid = backend_pid();
	CU_ASSERT_TRUE_FATAL(pid > 1);
	CU_ASSERT_EQUAL_FATAL(kill(pid, SIGSTOP), 0);
	start_ms = now_ms();
	OK(send_entry(side.conn, 2));
	pause_ms(2000);
	for (int i = 1; i < SQLB_SENT_MAX; i++)
		OK(send_entry(side.conn, 2 + i));
	CU_ASSERT_EQUAL(receive(side.conn), SQLB_DOUBT);
	CU_ASSERT_TRUE(now_ms() - start_ms >= 9900 && now_ms() - start_ms < 10000 + SETTLED_STALL_MS);
	for (int i = 1; i < SQLB_SENT_MAX; i++) {
		CU_ASSERT_EQUAL(send_entry(side.conn, 9), SQLB_AWAY); /* not before all are received */
		CU_ASSERT_EQUAL(receive(side.conn), SQLB_DOUBT);
	}
	CU_ASSERT_TRUE(now_ms() - start_ms < 10000 + SETTLED_STALL_MS);
	kill(pid, SIGCONT);
	/* All, the first only, or none: whatever the session still did, or does now. */
	for (int64_t position = 2; position <= 2 + SQLB_SENT_MAX; position++) {
		enum sqlb_outcome outcome = append_as(side.conn, position, 42, position);

		CU_ASSERT_TRUE(outcome == SQLB_OK || outcome == SQLB_CONFLICT);
	}
	CU_ASSERT_STRING_EQUAL(sql("SELECT count(*) = max(position) FROM kineshim_log WHERE batch = position"), "t");
	CU_ASSERT_EQUAL(count_rows(), 2 + SQLB_SENT_MAX);
	end(&side);
}

static void an_error_in_the_first_decides_nothing_for_those_behind_it_but_that_they_are_refused(void)
{
	static const struct {
		const char *state;
		enum sqlb_outcome first, behind;
	} cases[] = {
		{"40001", SQLB_CONFLICT, SQLB_CONFLICT}, {"40P01", SQLB_CONFLICT, SQLB_CONFLICT},
		{"53100", SQLB_AWAY, SQLB_CONFLICT},     {"40003", SQLB_DOUBT, SQLB_DOUBT},
		{"25006", SQLB_AWAY, SQLB_DOUBT},        {"23514", SQLB_BROKEN, SQLB_DOUBT},
	};
	struct side side = begin();

	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
		for (int look = 0; look < 2; look++) {
			bool pending = true;

			raise_at_insert(cases[i].state, false);
			for (int n = 1; n <= SQLB_SENT_MAX; n++)
				OK(send_entry(side.conn, n));
			if (look) /* and told when asked again */
				pause_ms(20);
			CU_ASSERT_EQUAL(receive_within(side.conn, look ? 0 : -1, &pending),
					pending ? SQLB_OK : cases[i].first);
			if (pending)
				CU_ASSERT_EQUAL(receive(side.conn), cases[i].first);
			for (int n = 2; n <= SQLB_SENT_MAX; n++)
				CU_ASSERT_EQUAL(receive(side.conn), cases[i].behind);
			CU_ASSERT_EQUAL(count_rows(), 0);
		}
	sql("DROP TRIGGER refuse ON kineshim_log");
	OK(send_entry(side.conn, 1));
	OK(send_entry(side.conn, 2));
	OK(receive(side.conn));
	OK(receive(side.conn));
	end(&side);
}

static void a_session_that_ends_with_two_on_their_way_gives_two_outcomes(void)
{
	struct side side = begin();
	enum sqlb_outcome first, second;
	char text[200];
	int64_t rows;

	OK(send_entry(side.conn, 1));
	OK(receive(side.conn));
	/* At once, before the first is answered; and when it is waiting for a lock. */
	for (int round = 0; round < 2; round++) {
		pid_t pid = backend_pid();

		rows = count_rows();
		if (round)
			sql("BEGIN; LOCK TABLE kineshim_log IN SHARE MODE");
		OK(send_entry(side.conn, rows + 1));
		OK(send_entry(side.conn, rows + 2));
		snprintf(text, sizeof(text), "SELECT pg_terminate_backend(%d, 5000)", pid);
		CU_ASSERT_STRING_EQUAL(sql(text), "t");
		first = receive(side.conn);
		second = receive(side.conn);
		if (round)
			sql("COMMIT");
		printf("# %s, %s, then %lld of 2 are there\n", sqlb_outcome_name(first), sqlb_outcome_name(second),
		       (long long)(count_rows() - rows));
		rows = count_rows() - rows;
		CU_ASSERT_TRUE(first == SQLB_OK ? rows >= 1 : first == SQLB_DOUBT || (first == SQLB_AWAY && rows == 0));
		CU_ASSERT_TRUE(second == SQLB_OK ? first == SQLB_OK && rows == 2 : second == SQLB_DOUBT);
		if (round)
			CU_ASSERT_EQUAL(rows, 0);
		rows = count_rows();
		OK(append_as(side.conn, rows + 1, 42, rows + 1)); /* a new session */
	}
	CU_ASSERT_STRING_EQUAL(sql("SELECT count(*) = max(position) FROM kineshim_log WHERE batch = position"), "t");
	end(&side);
}

/* It is answered, nobody has looked, and its session ends. */
static void send_answer_and_end(struct sqlb_conn *conn, int64_t position)
{
	char text[200];

	OK(send_entry(conn, position));
	pause_ms(100);
	snprintf(text, sizeof(text), "SELECT pg_terminate_backend(%d, 5000)", backend_pid());
	CU_ASSERT_STRING_EQUAL(sql(text), "t");
	CU_ASSERT_EQUAL(count_rows(), position);
}

static void an_answer_that_came_before_the_session_ended_counts(void)
{
	struct side side = begin();
	bool pending = true;

	OK(append_as(side.conn, 1, 42, 1));
	send_answer_and_end(side.conn, 2);
	OK(receive(side.conn));
	send_answer_and_end(side.conn, 3);
	OK(receive_within(side.conn, 0, &pending));
	CU_ASSERT_FALSE(pending);
	/* But not when one was to be sent behind it, which finds the end: it is certain then, and the first is not. */
	send_answer_and_end(side.conn, 4);
	CU_ASSERT_EQUAL(send_entry(side.conn, 5), SQLB_AWAY);
	CU_ASSERT_EQUAL(receive(side.conn), SQLB_DOUBT);
	OK(send_entry(side.conn, 5));
	OK(receive(side.conn));
	end(&side);
}

/* ---- reading all ---- */

enum { ALL_ROWS = 200, ALL_VALUE_BYTES = 200000 }; /* far more than the sockets between hold */

static void append_large_log(struct sqlb_conn *conn)
{
	uint8_t *value = calloc(1, ALL_VALUE_BYTES);

	for (int i = 0; i < ALL_ROWS; i++) {
		struct sqlb_row row = {.position = i + 1,
				       .rows = 1,
				       .kind = 1,
				       .revision = i + 2,
				       .key = ks_slice_str("k"),
				       .value = ks_slice_of(value, ALL_VALUE_BYTES),
				       .create_revision = 2,
				       .version = 1,
				       .writer = 1,
				       .batch = i + 1};
		struct sqlb_append append = {.rows = &row, .row_count = 1};
		bool appended;

		OK(ops->append(conn, &append, &appended, &err));
	}
	free(value);
}

/* A visitor that does something at the first row. */
struct visit {
	void (*at_first)(void);
	int rows;
};

static bool visit_row(void *ctx, const struct sqlb_row *row)
{
	struct visit *visit = ctx;

	CU_ASSERT_EQUAL(row->position, visit->rows + 1);
	if (visit->rows++ == 0)
		visit->at_first();
	return true;
}

static void end_readers(void)
{
	sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'kineshim'");
}

static void take_a_while(void)
{
	struct timespec pause = {0, 400000000};

	nanosleep(&pause, NULL);
}

static void a_read_of_all_whose_session_ends_is_away_and_none_is_taken_for_the_end(void)
{
	struct side side = begin();
	struct visit visit = {.at_first = end_readers};
	bool more;

	append_large_log(side.conn);
	CU_ASSERT_EQUAL(ops->read_rows(side.conn, 0, -1, SIZE_MAX, visit_row, &visit, &more, &err), SQLB_AWAY);
	CU_ASSERT_TRUE(visit.rows < ALL_ROWS);
	visit = (struct visit){.at_first = take_a_while};
	OK(ops->read_rows(side.conn, 0, -1, SIZE_MAX, visit_row, &visit, &more, &err));
	CU_ASSERT_EQUAL(visit.rows, ALL_ROWS);
	end(&side);
}

static void a_read_of_all_may_take_longer_than_a_statement(void)
{
	struct side side = begin(), reader;
	struct visit visit = {.at_first = take_a_while};
	char hasty[URL_MAX];
	bool more;

	append_large_log(side.conn);
	url_with(hasty, "%20-cstatement_timeout%3D200");
	reader = side_open(hasty);
	OK(ops->read_rows(reader.conn, 0, -1, SIZE_MAX, visit_row, &visit, &more, &err));
	CU_ASSERT_EQUAL(visit.rows, ALL_ROWS);
	CU_ASSERT_FALSE(more);
	side_close(&reader);
	end(&side);
}

static void a_long_log_with_a_column_of_another_type_is_broken(void)
{
	struct side side = begin();

	for (int64_t position = 1; position <= 150; position++)
		OK(append_as(side.conn, position, 1, position));
	sql("DROP VIEW kineshim_live");
	sql("ALTER TABLE kineshim_log ALTER COLUMN sub TYPE bigint");
	side_close(&side);
	side = side_open(url);
	CU_ASSERT_EQUAL(ops->read_rows(side.conn, 0, -1, SIZE_MAX, take_writer_and_batch, (int64_t[2]){0},
				       &(bool){false}, &err),
			SQLB_BROKEN);
	end(&side);
}

/* ---- what the server refuses ---- */

static void a_read_only_server_is_away_and_can_be_read(void)
{
	struct side side = begin(), reader;
	char read_only[URL_MAX];
	struct sqlb_head head;
	uint64_t id, same_id;

	OK(ops->migrate(side.conn, &id, &err));
	OK(append_as(side.conn, 1, 1, 1));
	url_with(read_only, "%20-cdefault_transaction_read_only%3Don");
	reader = side_open(read_only);
	OK(ops->migrate(reader.conn, &same_id, &err));
	CU_ASSERT_EQUAL(id, same_id);
	CU_ASSERT_EQUAL(append_as(reader.conn, 2, 1, 1), SQLB_AWAY);
	CU_ASSERT_PTR_NOT_NULL(strstr(err.text, "read-only"));
	OK(ops->read_head(reader.conn, &head, &err));
	CU_ASSERT_EQUAL(head.position, 1);
	side_close(&reader);
	end(&side);
}

static void a_lock_held_by_somebody_else_is_away_and_nothing_happened(void)
{
	struct side side = begin(), waiter;
	char impatient[URL_MAX];

	url_with(impatient, "%20-clock_timeout%3D100");
	waiter = side_open(impatient);
	sql("BEGIN");
	sql("LOCK TABLE kineshim_log IN SHARE MODE");
	CU_ASSERT_EQUAL(append_as(waiter.conn, 1, 1, 1), SQLB_AWAY);
	sql("COMMIT");
	CU_ASSERT_EQUAL(count_rows(), 0);
	OK(append_as(waiter.conn, 1, 1, 1));
	side_close(&waiter);
	end(&side);
}

static void a_lost_column_table_or_right_is_broken_and_can_be_mended(void)
{
	struct side side = begin();
	struct sqlb_lease lease = {.id = 1};

	OK(append_as(side.conn, 1, 1, 1));
	sql("ALTER TABLE kineshim_log RENAME COLUMN payload TO load");
	CU_ASSERT_EQUAL(append_as(side.conn, 2, 1, 2), SQLB_BROKEN);
	CU_ASSERT_EQUAL(append_as(side.conn, 2, 1, 2), SQLB_BROKEN);
	sql("ALTER TABLE kineshim_log RENAME COLUMN load TO payload");
	OK(append_as(side.conn, 2, 1, 2));
	sql("ALTER TABLE kineshim_lease RENAME TO lost");
	CU_ASSERT_EQUAL(ops->lease_touch(side.conn, &lease, 1, &err), SQLB_BROKEN);
	sql("ALTER TABLE lost RENAME TO kineshim_lease");
	OK(ops->lease_touch(side.conn, &lease, 1, &err));
	sql("DROP VIEW kineshim_live");
	sql("ALTER TABLE kineshim_log ALTER COLUMN version TYPE numeric");
	side_close(&side);
	side = side_open(url);
	CU_ASSERT_EQUAL(ops->read_rows(side.conn, 0, -1, SIZE_MAX, take_writer_and_batch, (int64_t[2]){0},
				       &(bool){false}, &err),
			SQLB_BROKEN);
	end(&side);
}

static void a_trigger_that_swallows_rows_is_broken(void)
{
	struct side side = begin();

	sql("CREATE FUNCTION swallow() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN IF NEW.position = 3 THEN RAISE "
	    "''no''; END IF; "
	    "RETURN NULL; END'");
	OK(append_as(side.conn, 1, 1, 1));
	sql("CREATE TRIGGER swallow BEFORE INSERT ON kineshim_log FOR EACH ROW EXECUTE FUNCTION swallow()");
	CU_ASSERT_NOT_EQUAL(append_as(side.conn, 2, 1, 1), SQLB_OK);
	sql("DROP TRIGGER swallow ON kineshim_log");
	OK(append_as(side.conn, 2, 1, 1));
	end(&side);
}

/* What engines of SERIALIZABLE transactions answer, among others. */
static void an_append_undone_for_another_is_a_conflict_and_an_unknown_end_is_doubt(void)
{
	static const struct {
		const char *dialect, *state;
		bool commit;
		enum sqlb_outcome outcome;
	} cases[] = {
		{"postgres", "40001", false, SQLB_CONFLICT}, {"postgres", "40P01", false, SQLB_CONFLICT},
		{"postgres", "40003", false, SQLB_DOUBT},    {"postgres", "53100", false, SQLB_AWAY},
		{"postgres", "23514", true, SQLB_BROKEN},    {"plain", "40001", false, SQLB_CONFLICT},
		{"plain", "40003", false, SQLB_DOUBT},       {"plain", "53100", false, SQLB_AWAY},
		{"plain", "40001", true, SQLB_CONFLICT},     {"plain", "40003", true, SQLB_DOUBT},
		{"plain", "53100", true, SQLB_DOUBT},
	};
	struct side side = begin();

	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct side other;
		char of[URL_MAX];

		url_with(of, "&dialect=");
		snprintf(of + strlen(of), sizeof(of) - strlen(of), "%s", cases[i].dialect);
		other = side_open(of);
		raise_at_insert(cases[i].state, cases[i].commit);
		if (append_as(other.conn, 1, 1, 1) != cases[i].outcome) {
			printf("# %s %s %d\n", cases[i].dialect, cases[i].state, cases[i].commit);
			CU_FAIL("another outcome");
		}
		CU_ASSERT_EQUAL(count_rows(), 0);
		side_close(&other);
	}
	sql("DROP TRIGGER refuse ON kineshim_log");
	OK(append_as(side.conn, 1, 1, 1));
	end(&side);
}

static void which_dialect_it_is_can_be_chosen(void)
{
	struct side side;
	char of[URL_MAX];
	uint64_t id, same_id;

	side = begin();
	OK(ops->migrate(side.conn, &id, &err));
	CU_ASSERT_STRING_EQUAL(sql("SELECT count(*) FROM pg_class WHERE relname = 'kineshim_live' AND "
				   "pg_table_is_visible(oid)"),
			       "1");
	/* The tables are the same: what one dialect wrote the other one reads. */
	OK(append_as(side.conn, 1, 1, 1));
	url_with(of, "&dialect=plain");
	side_close(&side);
	side = side_open(of);
	OK(ops->migrate(side.conn, &same_id, &err));
	CU_ASSERT_EQUAL(id, same_id);
	OK(append_as(side.conn, 2, 1, 2));
	end(&side);
}

/* ---- privileges ---- */

static void boss(const char *super, const char *text)
{
	PGconn *conn = PQconnectdb(super);

	PQclear(PQexec(conn, text));
	PQfinish(conn);
}

/* Whoever may not vacuum can still do all the rest, and is told. */
static void defragmenting_takes_the_owner(void)
{
	const char *super = getenv("KS_TEST_POSTGRES_SUPER_URL");
	struct side side = begin(), weak;
	char role[40], text[300], weak_url[URL_MAX + 60];

	if (!super) {
		end(&side);
		return;
	}
	(void)snprintf(role, sizeof(role), "ks_weak_%ld", (long)getpid());
	(void)snprintf(text, sizeof(text), "CREATE ROLE %s; GRANT %s TO kineshim", role, role);
	boss(super, text);
	(void)snprintf(text, sizeof(text), "GRANT USAGE ON SCHEMA %s TO %s", schema_name, role);
	sql(text);
	(void)snprintf(text, sizeof(text), "GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA %s TO %s",
		       schema_name, role);
	sql(text);
	(void)snprintf(weak_url, sizeof(weak_url), "%s%%20-crole%%3D%s", url, role);
	weak = side_open(weak_url);
	OK(append_as(weak.conn, 1, 1, 1));
	CU_ASSERT_EQUAL(ops->defragment(weak.conn, false, &err), SQLB_BROKEN);
	CU_ASSERT_PTR_NOT_NULL(strstr(err.text, "only the owner of kineshim_log"));
	OK(append_as(weak.conn, 2, 1, 2));
	side_close(&weak);
	OK(ops->defragment(side.conn, false, &err));
	end(&side);
	(void)snprintf(text, sizeof(text), "DROP ROLE %s", role);
	boss(super, text);
}

/* ---- encodings ---- */

static void keys_are_bytes_in_every_encoding(void)
{
	static const char *const encodings[] = {"UTF8", "SQL_ASCII", "LATIN1"};
	const char *super = getenv("KS_TEST_POSTGRES_SUPER_URL");
	uint8_t all[256];

	for (int i = 0; i < 256; i++)
		all[i] = (uint8_t)i;
	for (size_t i = 0; super && i < sizeof(encodings) / sizeof(*encodings); i++) {
		struct sqlb_row rows[] = {
			{.position = 1,
			 .rows = 1,
			 .kind = 1,
			 .revision = 2,
			 .key = ks_slice_of(all, 256),
			 .value = ks_slice_of(all, 0),
			 .create_revision = 2,
			 .version = 1,
			 .writer = 1,
			 .batch = 1},
			{.position = 2,
			 .rows = 1,
			 .kind = 1,
			 .revision = 3,
			 .key = ks_slice_str("caf\xc3\xa9"),
			 .value = ks_slice_str("\xff"),
			 .create_revision = 2,
			 .version = 1,
			 .writer = 1,
			 .batch = 1},
		};
		struct sqlb_append append = {.rows = rows, .row_count = 2};
		char text[URL_MAX], other[URL_MAX];
		struct side side;
		bool appended;
		uint64_t id;

		schema_name[0] = '\0';
		raw = PQconnectdb(super);
		sql("SET client_min_messages = 'error'");
		snprintf(text, sizeof(text), "DROP DATABASE IF EXISTS enc_%s", encodings[i]);
		sql(text);
		snprintf(text, sizeof(text),
			 "CREATE DATABASE enc_%s OWNER kineshim ENCODING '%s' LOCALE 'C' TEMPLATE template0",
			 encodings[i], encodings[i]);
		sql(text);
		PQfinish(raw);
		snprintf(other, sizeof(other), "postgres://kineshim@127.0.0.1:%s/enc_%s",
			 getenv("KS_TEST_POSTGRES_PORT"), encodings[i]);
		for (char *p = strstr(other, "enc_"); *p; p++)
			*p = (char)(*p >= 'A' && *p <= 'Z' ? *p + 32 : *p);
		side = side_open(other);
		OK(ops->migrate(side.conn, &id, &err));
		OK(ops->append(side.conn, &append, &appended, &err));
		raw = PQconnectdb(other);
		CU_ASSERT_STRING_EQUAL(sql("SELECT count(*) FROM kineshim_live"), "2");
		CU_ASSERT_STRING_EQUAL(sql("SELECT value FROM kineshim_live WHERE mod_revision = 3"), "\\xff");
		if (i == 0)
			CU_ASSERT_STRING_EQUAL(sql("SELECT key FROM kineshim_live WHERE mod_revision = 3"),
					       "caf\xc3\xa9");
		OK(ops->member_beat(
			side.conn,
			&(struct sqlb_member){.id = 1, .name = ks_slice_str("n\xff"), .client_urls = ks_slice_str("u")},
			1000, &err));
		CU_ASSERT_STRING_EQUAL(sql("SELECT name FROM kineshim_member"), "\\x6eff");
		CU_ASSERT_STRING_EQUAL(sql("SELECT octet_length(key) FROM kineshim_log WHERE position = 1"), "256");
		PQfinish(raw);
		side_close(&side);
	}
	raw = NULL;
}

/* ---- several at once ---- */

struct racer {
	struct side side;
	int64_t writer;
	int64_t until;
	int won;
	enum sqlb_outcome last;
};

static void *race(void *arg)
{
	struct racer *racer = arg;
	int64_t applied = 0, batch = 0;

	while (applied < racer->until && (racer->last == SQLB_OK || racer->last == SQLB_CONFLICT)) {
		racer->last = append_as(racer->side.conn, applied + 1, racer->writer, ++batch);
		if (racer->last == SQLB_OK) {
			applied++;
			racer->won++;
		} else if (racer->last == SQLB_CONFLICT) {
			struct sqlb_head head;

			if (ops->read_head(racer->side.conn, &head, &err) == SQLB_OK)
				applied = head.position;
		}
	}
	return NULL;
}

static void four_racing_appenders_leave_no_gap(void)
{
	struct side side = begin();
	struct racer racers[4];
	pthread_t threads[4];
	int won = 0;

	for (int i = 0; i < 4; i++) {
		racers[i] = (struct racer){.side = side_open(url), .writer = i + 1, .until = 1000};
		pthread_create(&threads[i], NULL, race, &racers[i]);
	}
	for (int i = 0; i < 4; i++) {
		pthread_join(threads[i], NULL);
		CU_ASSERT_TRUE(racers[i].last == SQLB_OK || racers[i].last == SQLB_CONFLICT);
		won += racers[i].won;
		side_close(&racers[i].side);
	}
	CU_ASSERT_TRUE(won >= 1000 && won == count_rows());
	CU_ASSERT_STRING_EQUAL(
		sql("SELECT max(position) - min(position) + 1 = count(DISTINCT position) FROM kineshim_log"), "t");
	end(&side);
}

struct call {
	struct sqlb_conn *conn;
	enum sqlb_outcome outcome;
	_Atomic bool done;
	pthread_t thread;
};

static void *append_second(void *arg)
{
	struct call *call = arg;

	call->outcome = append_as(call->conn, 2, 9, 9);
	atomic_store(&call->done, true);
	return NULL;
}

static void *trim_first(void *arg)
{
	struct call *call = arg;
	struct sqlb_loc loc = {1, 0};
	struct ks_err mine;

	call->outcome = ops->trim(call->conn, &loc, 1, &mine);
	atomic_store(&call->done, true);
	return NULL;
}

static bool comes_true(const char *condition)
{
	int64_t until_ms = now_ms() + 4000;

	while (now_ms() < until_ms)
		if (strcmp(sql(condition), "t") == 0)
			return true;
	return false;
}

/*
 * An append may have looked at the head before an entry came and may insert after it was trimmed again: then
 * the primary key would not see it. So a trim waits until the appends that run have ended.
 */
static void a_trim_waits_for_the_appends_that_run(void)
{
	struct side side = begin(), trimmer = side_open(url);
	struct call append = {.conn = side.conn}, trim = {.conn = trimmer.conn};

	OK(append_as(side.conn, 1, 1, 1));
	sql("BEGIN");
	sql("INSERT INTO kineshim_log SELECT 2, sub, rows, kind, revision, key, value, create_revision, version, "
	    "lease, payload, "
	    "writer, batch FROM kineshim_log");
	pthread_create(&append.thread, NULL, append_second, &append);
	CU_ASSERT_TRUE(
		comes_true("SELECT count(*) = 1 FROM pg_locks WHERE locktype = 'transactionid' AND NOT granted"));
	pthread_create(&trim.thread, NULL, trim_first, &trim);
	CU_ASSERT_TRUE(comes_true(
		"SELECT count(*) = 1 FROM pg_locks WHERE relation = 'kineshim_meta'::regclass AND NOT granted"));
	CU_ASSERT_FALSE(atomic_load(&append.done));
	CU_ASSERT_FALSE(atomic_load(&trim.done));
	sql("ROLLBACK");
	pthread_join(append.thread, NULL);
	pthread_join(trim.thread, NULL);
	OK(append.outcome);
	OK(trim.outcome);
	CU_ASSERT_EQUAL(count_rows(), 1);
	side_close(&trimmer);
	end(&side);
}

/* ---- waiting ---- */

struct wait_call {
	struct sqlb_conn *conn;
	int64_t after;
	int64_t returned_us;
	enum sqlb_outcome outcome;
	pthread_t thread;
};

static int64_t now_us(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (int64_t)now.tv_sec * 1000000 + now.tv_nsec / 1000;
}

static void *wait_once(void *arg)
{
	struct wait_call *call = arg;
	struct ks_err mine;

	call->outcome = ops->wait_for_change(call->conn, call->after, 20000, &mine);
	call->returned_us = now_us();
	return NULL;
}

static int compare_int64(const void *a, const void *b)
{
	int64_t left = *(const int64_t *)a, right = *(const int64_t *)b;

	return (left > right) - (left < right);
}

/* How long after it was appended a waiter knows of it: the median of some. */
static int64_t median_wake_us(struct side *writer, struct side *waiter, int64_t *position, int rounds)
{
	int64_t took_us[50];

	for (int i = 0; i < rounds; i++) {
		struct wait_call call = {.conn = waiter->conn, .after = *position};
		int64_t appended_us;

		pthread_create(&call.thread, NULL, wait_once, &call);
		pause_ms(30); /* it should be asleep by then; when it is not the measurement is only kinder */
		OK(append_as(writer->conn, *position + 1, 1, *position + 1));
		appended_us = now_us();
		pthread_join(call.thread, NULL);
		OK(call.outcome);
		took_us[i] = call.returned_us - appended_us;
		(*position)++;
	}
	qsort(took_us, (size_t)rounds, sizeof(took_us[0]), compare_int64);
	printf("# woken after %lld us (median), %lld us (worst)\n", (long long)took_us[rounds / 2],
	       (long long)took_us[rounds - 1]);
	return took_us[rounds / 2];
}

static void a_notification_wakes_within_20_ms(void)
{
	struct side writer = begin(), waiter = side_open(url);
	int64_t position = 0;

	(void)ops->wait_for_change(waiter.conn, 0, 10, &err);
	CU_ASSERT_TRUE(median_wake_us(&writer, &waiter, &position, 21) < 20000);
	side_close(&waiter);
	end(&writer);
}

static void announcements_that_came_together_wake_each_waiting_position(void)
{
	struct side writer = begin(), waiter = side_open(url);
	int64_t start_ms;

	(void)ops->wait_for_change(waiter.conn, 0, 10, &err);
	for (int64_t position = 1; position <= 3; position++)
		OK(append_as(writer.conn, position, 1, position));
	pause_ms(50);
	start_ms = now_ms();
	for (int64_t after = 0; after < 3; after++)
		OK(ops->wait_for_change(waiter.conn, after, 5000, &err));
	CU_ASSERT_TRUE(now_ms() - start_ms < 800);
	/* A position that was announced and is not there (its append lost a race) does not wake for ever. */
	sql("NOTIFY kineshim, '9'");
	pause_ms(50);
	OK(ops->wait_for_change(waiter.conn, 3, 5000, &err));
	start_ms = now_ms();
	OK(ops->wait_for_change(waiter.conn, 3, 300, &err));
	CU_ASSERT_TRUE(now_ms() - start_ms >= 290);
	side_close(&waiter);
	end(&writer);
}

static void a_member_that_joins_is_notified_from_then_on(void)
{
	struct side writer = begin(), tail = {0}, waiter = side_open(url);
	struct sqlb_member first = {.id = 1, .name = ks_slice_str("first"), .client_urls = ks_slice_str("http://a")};
	struct sqlb_member second = {.id = 2, .name = ks_slice_str("second"), .client_urls = ks_slice_str("http://b")};
	struct wait_call call;
	int64_t position = 0;

	/* The writer believes to be alone; its tail connection listens. */
	tail.db = writer.db;
	OK(ops->connect(tail.db, &tail.conn, &err));
	OK(ops->member_beat(writer.conn, &first, 60000, &err));
	(void)ops->wait_for_change(tail.conn, 0, 10, &err);
	call = (struct wait_call){.conn = tail.conn, .after = 1000000};
	pthread_create(&call.thread, NULL, wait_once, &call);
	(void)ops->wait_for_change(waiter.conn, 0, 10, &err);
	OK(ops->member_beat(waiter.conn, &second, 60000, &err));
	pause_ms(100);
	CU_ASSERT_TRUE(median_wake_us(&writer, &waiter, &position, 11) < 20000);
	ops->cancel(tail.conn);
	pthread_join(call.thread, NULL);
	ops->disconnect(tail.conn);
	side_close(&waiter);
	end(&writer);
}

/* As behind a pooler that loses them: rows appear and nobody says so. */
static void lost_notifications_are_made_up_for_by_probing(void)
{
	struct side side = begin();
	int64_t took_ms = 0;

	OK(append_as(side.conn, 1, 1, 1));
	for (int64_t position = 1; position <= 8; position++) {
		struct wait_call call = {.conn = side.conn, .after = position};
		int64_t start_ms;

		pthread_create(&call.thread, NULL, wait_once, &call);
		pause_ms(20);
		start_ms = now_ms();
		sql("INSERT INTO kineshim_log SELECT position + 1, sub, rows, kind, revision, key, value, "
		    "create_revision, version, "
		    "lease, payload, writer, batch FROM kineshim_log ORDER BY position DESC LIMIT 1");
		pthread_join(call.thread, NULL);
		OK(call.outcome);
		took_ms = now_ms() - start_ms;
		CU_ASSERT_TRUE(took_ms < 3000);
	}
	/* By now it probes often. */
	CU_ASSERT_TRUE(took_ms < 600);
	end(&side);
}

static void a_wait_survives_the_end_of_its_session(void)
{
	struct side writer = begin(), waiter = side_open(url);
	struct wait_call call = {.conn = waiter.conn, .after = 0};
	enum sqlb_outcome outcome;

	(void)ops->wait_for_change(waiter.conn, 0, 10, &err);
	pthread_create(&call.thread, NULL, wait_once, &call);
	sql("SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE application_name = 'kineshim' AND "
	    "query LIKE '%LISTEN%'");
	OK(append_as(writer.conn, 1, 1, 1));
	pthread_join(call.thread, NULL);
	outcome = call.outcome;
	CU_ASSERT_TRUE(outcome == SQLB_OK || outcome == SQLB_AWAY);
	side_close(&waiter);
	end(&writer);
}

static const struct tap_test tests[] = {
	{"a_bad_url_is_refused_without_its_secret", a_bad_url_is_refused_without_its_secret},
	{"both_schemes_and_a_socket_work", both_schemes_and_a_socket_work},
	{"an_unreachable_server_is_away", an_unreachable_server_is_away},
	{"a_listener_that_never_answers_is_away", a_listener_that_never_answers_is_away},
	{"a_server_that_stops_answering_leaves_doubt_that_can_be_settled",
	 a_server_that_stops_answering_leaves_doubt_that_can_be_settled},
	{"a_session_that_ended_while_idle_is_replaced_without_doubt",
	 a_session_that_ended_while_idle_is_replaced_without_doubt},
	{"appends_on_their_way_are_pending_until_they_are_answered",
	 appends_on_their_way_are_pending_until_they_are_answered},
	{"a_server_that_stops_answering_leaves_all_in_doubt", a_server_that_stops_answering_leaves_all_in_doubt},
	{"an_error_in_the_first_decides_nothing_for_those_behind_it_but_that_they_are_refused",
	 an_error_in_the_first_decides_nothing_for_those_behind_it_but_that_they_are_refused},
	{"a_session_that_ends_with_two_on_their_way_gives_two_outcomes",
	 a_session_that_ends_with_two_on_their_way_gives_two_outcomes},
	{"an_answer_that_came_before_the_session_ended_counts", an_answer_that_came_before_the_session_ended_counts},
	{"a_read_of_all_whose_session_ends_is_away_and_none_is_taken_for_the_end",
	 a_read_of_all_whose_session_ends_is_away_and_none_is_taken_for_the_end},
	{"a_read_of_all_may_take_longer_than_a_statement", a_read_of_all_may_take_longer_than_a_statement},
	{"a_long_log_with_a_column_of_another_type_is_broken", a_long_log_with_a_column_of_another_type_is_broken},
	{"a_read_only_server_is_away_and_can_be_read", a_read_only_server_is_away_and_can_be_read},
	{"a_lock_held_by_somebody_else_is_away_and_nothing_happened",
	 a_lock_held_by_somebody_else_is_away_and_nothing_happened},
	{"a_lost_column_table_or_right_is_broken_and_can_be_mended",
	 a_lost_column_table_or_right_is_broken_and_can_be_mended},
	{"a_trigger_that_swallows_rows_is_broken", a_trigger_that_swallows_rows_is_broken},
	{"an_append_undone_for_another_is_a_conflict_and_an_unknown_end_is_doubt",
	 an_append_undone_for_another_is_a_conflict_and_an_unknown_end_is_doubt},
	{"which_dialect_it_is_can_be_chosen", which_dialect_it_is_can_be_chosen},
	{"defragmenting_takes_the_owner", defragmenting_takes_the_owner},
	{"keys_are_bytes_in_every_encoding", keys_are_bytes_in_every_encoding},
	{"four_racing_appenders_leave_no_gap", four_racing_appenders_leave_no_gap},
	{"a_trim_waits_for_the_appends_that_run", a_trim_waits_for_the_appends_that_run},
	{"a_notification_wakes_within_20_ms", a_notification_wakes_within_20_ms},
	{"announcements_that_came_together_wake_each_waiting_position",
	 announcements_that_came_together_wake_each_waiting_position},
	{"a_member_that_joins_is_notified_from_then_on", a_member_that_joins_is_notified_from_then_on},
	{"lost_notifications_are_made_up_for_by_probing", lost_notifications_are_made_up_for_by_probing},
	{"a_wait_survives_the_end_of_its_session", a_wait_survives_the_end_of_its_session},
	{NULL, NULL},
};

int main(int argc, char **argv)
{
	const char *of = getenv("KS_TEST_POSTGRES_URL");
	const char *top = getenv("top_srcdir");
	char wrapper[1000];

	(void)argc;
	if (!of || !getenv("KS_TEST_SERVERS")) {
		snprintf(wrapper, sizeof(wrapper), "%s/tests/lib/with-postgres", top ? top : ".");
		execl(wrapper, wrapper, argv[0], (char *)NULL);
		printf("1..0 # SKIP cannot run %s\n", wrapper);
		return 77;
	}
	snprintf(base_url, sizeof(base_url), "%s", of);
	settled.server_port = (int)strtol(getenv("KS_TEST_POSTGRES_PORT"), NULL, 10);
	tap_add("postgres", tests);
	settled_add("postgres appends", &settled);
	return tap_finish();
}
