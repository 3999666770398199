/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What only the MySQL and MariaDB backend has to promise, beyond tests/suites/backend.c: its URLs, connections cut at every
 * byte of an append, sessions and servers that die in the middle of one, servers that refuse, are set strangely, take little
 * at once, or speak TLS.
 *
 * Needs a server that it may kill and restart: without KS_TEST_MARIADB_URL it starts itself under tests/lib/with-mariadb.
 */
#include "tests/lib/tap.h"

#include <netinet/in.h>
#include <poll.h>
#include <pthread.h>
#include <semaphore.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "sqlbackends/mysql_priv.h"
#include "tests/lib/settled_appends.h"

#define URL_MAX 1200
#define PASSWORD "the-test-password"

static const struct sqlb_ops *const ops = &sqlb_mysql_ops;
static int port;
static char url[URL_MAX]; /* with a database of the running test */
static char database[64];
static MYSQL *raw; /* what is done behind the backend's back, by root */
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

#define OK(call) CU_ASSERT_TRUE(ok((call), __LINE__))

static void pause_ms(long ms)
{
	struct timespec pause = {ms / 1000, ms % 1000 * 1000000};

	nanosleep(&pause, NULL);
}

/* By KS_TEST_MARIADB_SUPER_URL, whose form is known. Without it there is nothing to test. */
static MYSQL *root_connect(void)
{
	MYSQL *mysql = mysql_init(NULL);
	char user[64], password[64];

	if (sscanf(getenv("KS_TEST_MARIADB_SUPER_URL"), "mysql://%63[^:]:%63[^@]@", user, password) != 2 ||
	    !mysql_real_connect(mysql, "127.0.0.1", user, password, "mysql", (unsigned)port, NULL, 0)) {
		printf("Bail out! root: %s\n", mysql_error(mysql));
		exit(99);
	}
	return mysql;
}

/* One statement on the other connection; the first value of its result, or "". */
static const char *sql(const char *text)
{
	static char value[400];
	MYSQL_RES *result;
	MYSQL_ROW row;

	value[0] = '\0';
	if (mysql_query(raw, text) != 0) {
		printf("# %s: %s\n", text, mysql_error(raw));
	} else if ((result = mysql_store_result(raw)) != NULL) {
		row = mysql_fetch_row(result);
		if (row && row[0])
			snprintf(value, sizeof(value), "%s", row[0]);
		mysql_free_result(result);
	}
	return value;
}

static const char *sqlf(const char *form, ...) KS_PRINTF(1, 2);

static const char *sqlf(const char *form, ...)
{
	char text[600];
	va_list args;

	va_start(args, form);
	vsnprintf(text, sizeof(text), form, args);
	va_end(args);
	return sql(text);
}

static void use_database(void)
{
	sqlf("USE %s", database);
}

static bool is_mariadb(void)
{
	return strstr(mysql_get_server_info(raw), "MariaDB") != NULL;
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

static void url_at(char out[URL_MAX], const char *user, int at_port, const char *parameters)
{
	snprintf(out, URL_MAX, "mysql://%s:%s@tcp(127.0.0.1:%d)/%s%s", user, PASSWORD, at_port, database, parameters);
}

static struct side begin(void)
{
	static unsigned serial;
	struct side side;
	uint64_t id;

	snprintf(database, sizeof(database), "ks_test_%ld_%u", (long)getpid(), ++serial);
	raw = root_connect();
	sqlf("CREATE DATABASE %s", database);
	sqlf("GRANT ALL ON %s.* TO kineshim@'%%'", database);
	use_database();
	url_at(url, "kineshim", port, "");
	side = side_open(url);
	OK(ops->migrate(side.conn, &id, &err));
	return side;
}

static void end(struct side *side)
{
	side_close(side);
	sqlf("DROP DATABASE %s", database);
	mysql_close(raw);
	raw = NULL;
}

static enum sqlb_outcome append_this(struct sqlb_conn *conn, struct sqlb_append append)
{
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

static enum sqlb_outcome append_as(struct sqlb_conn *conn, int64_t position, int64_t writer, int64_t batch)
{
	struct sqlb_row row = row_of(position, writer, batch);

	return append_this(conn, (struct sqlb_append){.rows = &row, .row_count = 1});
}

/* With a lease, and so a transaction of several statements. */
static enum sqlb_outcome append_with_lease(struct sqlb_conn *conn, int64_t position, int64_t writer, int64_t batch)
{
	struct sqlb_row row = row_of(position, writer, batch);
	struct sqlb_lease lease = {.id = position, .ttl_ms = 60000};

	return append_this(
		conn, (struct sqlb_append){.rows = &row, .row_count = 1, .leases_new = &lease, .leases_new_count = 1});
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

/* A server that takes statements ahead; others have nothing to test here. */
static bool reads_ahead(const struct side *side)
{
	if (is_mariadb())
		CU_ASSERT_TRUE(side->conn->server.reads_ahead);
	return side->conn->server.reads_ahead;
}

static int64_t count_rows(void)
{
	return strtoll(sql("SELECT COUNT(*) FROM kineshim_log WHERE position > 0"), NULL, 10);
}

static int64_t head_of(struct sqlb_conn *conn)
{
	struct sqlb_head head = {.position = -1};

	OK(ops->read_head(conn, &head, &err));
	return head.position;
}

/* ---- URLs ---- */

static bool same_text(const char *a, const char *b)
{
	return a && b ? strcmp(a, b) == 0 : a == b;
}

static void urls_say_where_and_who(void)
{
	static const struct {
		const char *url, *host;
		unsigned port;
		const char *socket, *user, *password, *database;
		enum sqlb_my_tls tls;
		unsigned timeout_s;
	} cases[] = {
		{"mysql://u:p@tcp(h:1)/d", "h", 1, NULL, "u", "p", "d", SQLB_MY_TLS_OFF, 5},
		{"mysql://u:p@tcp(h)/d?tls=true", "h", 3306, NULL, "u", "p", "d", SQLB_MY_TLS_VERIFIED, 5},
		{"mariadb://u:p@h:65535/d", "h", 65535, NULL, "u", "p", "d", SQLB_MY_TLS_OFF, 5},
		{"mysql://u@h/d?tls=skip-verify", "h", 3306, NULL, "u", NULL, "d", SQLB_MY_TLS_UNVERIFIED, 5},
		{"mysql://h/d?tls=preferred", "h", 3306, NULL, NULL, NULL, "d", SQLB_MY_TLS_PREFERRED, 5},
		{"mysql://u:@tcp([::1]:33)/d", "::1", 33, NULL, "u", "", "d", SQLB_MY_TLS_OFF, 5},
		{"mysql://u:p@[fe80::1]/d", "fe80::1", 3306, NULL, "u", "p", "d", SQLB_MY_TLS_OFF, 5},
		{"mysql://u:p@/d", "127.0.0.1", 3306, NULL, "u", "p", "d", SQLB_MY_TLS_OFF, 5},
		{"mysql://u:p@tcp(:33)/d", "127.0.0.1", 33, NULL, "u", "p", "d", SQLB_MY_TLS_OFF, 5},
		{"mysql://u:p@unix(/run/my%20sql.sock)/d", NULL, 3306, "/run/my sql.sock", "u", "p", "d",
		 SQLB_MY_TLS_OFF, 5},
		{"mysql://u%3a1:%40%2f%3f%25@tcp(h:1)/d%2d1", "h", 1, NULL, "u:1", "@/?%", "d-1", SQLB_MY_TLS_OFF, 5},
		{"mysql://u:p@x/y:z@tcp(h:1)/d", "h", 1, NULL, "u", "p@x/y:z", "d", SQLB_MY_TLS_OFF, 5},
		{"mysql://u:p@h/d?ssl-ca=/etc/ca.pem&timeout=1500ms", "h", 3306, NULL, "u", "p", "d",
		 SQLB_MY_TLS_VERIFIED, 2},
		{"mysql://u:p@h/d?timeout=1m&tls=false", "h", 3306, NULL, "u", "p", "d", SQLB_MY_TLS_OFF, 60},
		{"mysql://u:p@h/d?", "h", 3306, NULL, "u", "p", "d", SQLB_MY_TLS_OFF, 5},
	};

	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct sqlb_db *db;
		bool right;

		CU_ASSERT_EQUAL_FATAL(ops->open(cases[i].url, "", &db, &err), KS_OK);
		right = same_text(db->host, cases[i].host) && db->port == cases[i].port &&
			same_text(db->socket_path, cases[i].socket) && same_text(db->user, cases[i].user) &&
			same_text(db->password, cases[i].password) && same_text(db->database, cases[i].database) &&
			db->tls == cases[i].tls && db->connect_timeout_s == cases[i].timeout_s;
		if (!right)
			printf("# %s\n", cases[i].url);
		CU_ASSERT_TRUE(right);
		ops->close(db);
	}
}

static void a_bad_url_is_refused_without_its_secret(void)
{
	static const struct {
		const char *url, *says;
	} bad[] = {
		{"mysql://user:s3cret@tcp(host:54x2)/db", "port"},
		{"mysql://user:s3cret@host:0/db", "port"},
		{"mysql://user:s3cret@host:65536/db", "port"},
		{"mysql://user:s3cret@host", "database"},
		{"mysql://user:s3cret@tcp(host)/", "database"},
		{"mysql://user:s3cret@tcp(host:1", "bracket"},
		{"mysql://user:s3cret@tcp(host:1)db", "database"},
		{"mysql://user:s3cret@[::1/db", "brackets"},
		{"mysql://user:s3cret@::1/db", "port"},
		{"mysql://user:s3cret@pipe(x)/db", "tcp()"},
		{"mysql://user:s3cret@unix()/db", "socket"},
		{"mysql://user:s3%zz@host/db", "%XX"},
		{"mysql://user:s3?cret@tcp(host:1)/db", "%XX"},
		{"mysql://user:12?s3cret@tcp(host:1)/db", "database"},
		{"mysql://user:12/x?s3cret=1@tcp(host:1)/db", "%XX"},
		{"mysql://user:s3cret@host/db/more", "slash"},
		{"mysql://user:s3cret@host/%zz", "%XX"},
		{"mysql://user:s3cret@host/db?nosuch=s3cret", "\"nosuch\""},
		{"mysql://user:s3cret@host/db?parseTime=true", "\"parseTime\""},
		{"mysql://user:s3cret@host/db?tls=yes", "skip-verify"},
		{"mysql://user:s3cret@host/db?timeout=5", "timeout"},
		{"mysql://user:s3cret@host/db?timeout=-1s", "timeout"},
		{"mysql://user:s3cret@host/db?ssl-cert=/c", "together"},
		{"mysql://user:s3cret@host/db?tls=false&ssl-ca=/c", "tls=false"},
		{"mysql://user:s3cret@host/db?ssl-ca=%zz", "%XX"},
	};

	for (size_t i = 0; i < sizeof(bad) / sizeof(*bad); i++) {
		struct sqlb_db *db = (struct sqlb_db *)&err;
		bool right;

		CU_ASSERT_EQUAL(ops->open(bad[i].url, "", &db, &err), KS_INVALID_ARGUMENT);
		CU_ASSERT_PTR_NULL(db);
		right = !strstr(err.text, "s3") && !strstr(err.text, "cret") && strstr(err.text, bad[i].says) &&
			strstr(err.text, "mysql://user:password@tcp(host:3306)/database");
		if (!right)
			printf("# %s: %s\n", bad[i].url, err.text);
		CU_ASSERT_TRUE(right);
	}
}

static void both_schemes_and_a_socket_work(void)
{
	const char *socket_url = getenv("KS_TEST_MARIADB_SOCKET_URL");
	char other[URL_MAX];
	struct sqlb_head head;
	struct side side;

	snprintf(other, sizeof(other), "mariadb://kineshim:" PASSWORD "@127.0.0.1:%d/kineshim", port);
	side = side_open(other);
	CU_ASSERT_EQUAL(ops->read_head(side.conn, &head, &err), SQLB_BROKEN); /* connected, and found no tables */
	side_close(&side);
	side = side_open(socket_url);
	CU_ASSERT_EQUAL(ops->read_head(side.conn, &head, &err), SQLB_BROKEN);
	side_close(&side);
}

/* ---- nobody there, somebody silent ---- */

static void an_unreachable_server_is_away(void)
{
	static const char *const urls[] = {"mysql://user:s3cret@127.0.0.1:1/db",
					   "mysql://user:s3cret@unix(/nowhere)/db",
					   "mysql://user:s3cret@tcp(no.such.host.invalid:1)/db"};
	struct sqlb_head head;
	uint64_t id;

	for (size_t i = 0; i < sizeof(urls) / sizeof(urls[0]); i++) {
		struct side side = side_open(urls[i]);

		CU_ASSERT_EQUAL(ops->migrate(side.conn, &id, &err), SQLB_AWAY);
		CU_ASSERT_EQUAL(ops->read_head(side.conn, &head, &err), SQLB_AWAY);
		CU_ASSERT_EQUAL(append_as(side.conn, 1, 1, 1), SQLB_AWAY);
		CU_ASSERT_EQUAL(ops->wait_for_change(side.conn, 0, 5000, &err), SQLB_AWAY);
		CU_ASSERT_PTR_NULL(strstr(err.text, "s3cret"));
		side_close(&side);
	}
}

static void a_wrong_password_is_away_and_not_told(void)
{
	struct sqlb_head head;
	struct side side;
	char wrong[URL_MAX];

	snprintf(wrong, sizeof(wrong), "mysql://kineshim:s3cret@127.0.0.1:%d/kineshim", port);
	side = side_open(wrong);
	CU_ASSERT_EQUAL(ops->read_head(side.conn, &head, &err), SQLB_AWAY);
	CU_ASSERT_PTR_NOT_NULL(strstr(err.text, "Access denied"));
	CU_ASSERT_PTR_NULL(strstr(err.text, "s3cret"));
	side_close(&side);
}

static int listen_somewhere(int *at_port)
{
	struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	socklen_t size = sizeof(address);
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	CU_ASSERT_EQUAL_FATAL(bind(fd, (struct sockaddr *)&address, sizeof(address)), 0);
	CU_ASSERT_EQUAL_FATAL(listen(fd, 5), 0);
	getsockname(fd, (struct sockaddr *)&address, &size);
	*at_port = ntohs(address.sin_port);
	return fd;
}

static void a_listener_that_never_answers_is_away(void)
{
	int64_t start_ms = now_ms();
	struct sqlb_head head;
	struct side side;
	char silent[100];
	int at_port, fd = listen_somewhere(&at_port);

	snprintf(silent, sizeof(silent), "mysql://user@127.0.0.1:%d/db?timeout=1s", at_port);
	side = side_open(silent);
	CU_ASSERT_EQUAL(ops->read_head(side.conn, &head, &err), SQLB_AWAY);
	CU_ASSERT_TRUE(now_ms() - start_ms < 8000);
	side_close(&side);
	close(fd);
}

static pid_t server_pid(void)
{
	FILE *file = fopen(getenv("KS_TEST_MARIADB_PIDFILE"), "r");
	long pid = 0;

	if (file && fscanf(file, "%ld", &pid) != 1)
		pid = 0;
	if (file)
		fclose(file);
	return (pid_t)pid;
}

/* A load, in the middle of which the server stops. */
struct slow_load {
	struct side side;
	pid_t server;
	int given;
	sem_t stopped;
	pthread_t thread;
};

static enum sqlb_next give_one_and_stop(void *ctx, struct sqlb_row *row)
{
	struct slow_load *load = ctx;

	if (load->given++ == 0) {
		*row = row_of(1, 1, 1);
		return SQLB_NEXT_ROW;
	}
	kill(load->server, SIGSTOP);
	sem_post(&load->stopped);
	return SQLB_NEXT_END;
}

static void *load_slowly(void *arg)
{
	struct slow_load *load = arg;

	OK(ops->load(load->side.conn, give_one_and_stop, load, &err));
	return NULL;
}

/* An append is in doubt after ten seconds; a load, as all that may take long, is not. */
static void a_server_that_stops_answering_leaves_doubt_that_can_be_settled(void)
{
	struct side first = begin(), side;
	struct slow_load load = {.side = first, .server = server_pid()};
	char first_database[sizeof(database)];
	int64_t start_ms;

	memcpy(first_database, database, sizeof(database));
	mysql_close(raw);
	side = begin();
	OK(append_as(side.conn, 1, 7, 1));
	CU_ASSERT_TRUE_FATAL(load.server > 1);
	CU_ASSERT_EQUAL_FATAL(sem_init(&load.stopped, 0, 0), 0);
	CU_ASSERT_EQUAL_FATAL(pthread_create(&load.thread, NULL, load_slowly, &load), 0);
	sem_wait(&load.stopped);
	start_ms = now_ms();
	CU_ASSERT_EQUAL(append_as(side.conn, 2, 7, 2), SQLB_DOUBT);
	CU_ASSERT_TRUE(now_ms() - start_ms < 15000);
	pause_ms(1000);
	kill(load.server, SIGCONT);
	pthread_join(load.thread, NULL);
	CU_ASSERT_EQUAL(head_of(load.side.conn), 1);
	side_close(&load.side);
	sem_destroy(&load.stopped);
	sqlf("DROP DATABASE %s", first_database);
	/* The statement is still in its socket: once it runs on, it lands or it does not, but never twice. */
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

/* ---- appends on their way ---- */

static int64_t cpu_ms(void)
{
	struct timespec now;

	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
	return now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

static void appends_on_their_way_are_pending_until_they_are_answered(void)
{
	struct side side = begin();
	int64_t start_ms, start_cpu_ms;
	bool pending = false;

	OK(append_as(side.conn, 1, 42, 1));
	if (reads_ahead(&side)) {
		sql("START TRANSACTION");
		sql("SELECT * FROM kineshim_log WHERE position = 0 FOR UPDATE");
		for (int i = 0; i < SQLB_SENT_MAX; i++)
			OK(send_entry(side.conn, 2 + i));
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
		CU_ASSERT_EQUAL(count_rows(), 1 + SQLB_SENT_MAX);
		CU_ASSERT_EQUAL(head_of(side.conn), 1 + SQLB_SENT_MAX);
	}
	end(&side);
}

/* The library reads all of them with the first: no look may then wait for the socket. */
static void check_answers_that_came_together(struct side *side, int64_t position)
{
	for (int i = 0; i < SQLB_SENT_MAX; i++)
		OK(send_entry(side->conn, position + i));
	while (count_rows() < position + SQLB_SENT_MAX - 1)
		pause_ms(5);
	pause_ms(50);
	for (int i = 0; i < SQLB_SENT_MAX; i++) {
		bool pending = true;

		OK(receive_within(side->conn, 0, &pending));
		CU_ASSERT_FALSE(pending);
	}
}

static void answers_that_came_together_are_received_one_by_one(void)
{
	struct side side = begin();

	OK(append_as(side.conn, 1, 42, 1));
	if (reads_ahead(&side))
		check_answers_that_came_together(&side, 2);
	end(&side);
}

/* Each has its own time, and what is behind a silent one is in doubt with it. */
static void a_server_that_stops_answering_leaves_all_in_doubt(void)
{
	struct side side = begin();
	pid_t pid = server_pid();
	int64_t start_ms;

	OK(append_as(side.conn, 1, 42, 1));
	OK(send_entry(side.conn, 2)); /* all is prepared */
	OK(receive(side.conn));
	CU_ASSERT_TRUE_FATAL(pid > 1);
	CU_ASSERT_EQUAL_FATAL(kill(pid, SIGSTOP), 0);
	start_ms = now_ms();
	OK(send_entry(side.conn, 3));
	pause_ms(1000);
	for (int i = 1; i < SQLB_SENT_MAX; i++)
		OK(send_entry(side.conn, 3 + i));
	CU_ASSERT_EQUAL(receive(side.conn), SQLB_DOUBT);
	CU_ASSERT_TRUE(now_ms() - start_ms >= 9900 && now_ms() - start_ms < 10000 + SETTLED_STALL_MS);
	for (int i = 1; i < SQLB_SENT_MAX; i++) {
		CU_ASSERT_EQUAL(send_entry(side.conn, 9), SQLB_AWAY); /* not before all are received */
		CU_ASSERT_NOT_EQUAL(err.status, KS_UNIMPLEMENTED);
		CU_ASSERT_EQUAL(receive(side.conn), SQLB_DOUBT);
	}
	CU_ASSERT_TRUE(now_ms() - start_ms < 10000 + SETTLED_STALL_MS);
	kill(pid, SIGCONT);
	/* They are still in the socket: once the server runs on, they land or they do not, but in order and never twice. */
	for (int64_t position = 3; position <= 3 + SQLB_SENT_MAX; position++) {
		enum sqlb_outcome outcome = append_as(side.conn, position, 42, position);

		CU_ASSERT_TRUE(outcome == SQLB_OK || outcome == SQLB_CONFLICT);
	}
	CU_ASSERT_STRING_EQUAL(
		sql("SELECT COUNT(*) = MAX(position) FROM kineshim_log WHERE batch = position AND position > 0"), "1");
	CU_ASSERT_EQUAL(count_rows(), 3 + SQLB_SENT_MAX);
	end(&side);
}

static void an_error_in_the_first_decides_nothing_for_those_behind_it_but_that_they_are_refused(void)
{
	static const struct {
		int number;
		enum sqlb_outcome first, behind;
	} cases[] = {
		{1213, SQLB_CONFLICT, SQLB_CONFLICT}, {1690, SQLB_CONFLICT, SQLB_CONFLICT},
		{1205, SQLB_AWAY, SQLB_CONFLICT},     {1114, SQLB_AWAY, SQLB_CONFLICT},
		{1290, SQLB_AWAY, SQLB_DOUBT},        {1317, SQLB_DOUBT, SQLB_DOUBT},
		{1644, SQLB_BROKEN, SQLB_DOUBT},
	};
	struct side side = begin();

	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
		for (int look = 0; look < 2; look++) {
			bool pending = true;

			CU_ASSERT_EQUAL(append_as(side.conn, 9, 42, 9),
					SQLB_CONFLICT); /* so that it was not position 1 */
			sqlf("CREATE OR REPLACE TRIGGER refuse BEFORE INSERT ON kineshim_log FOR EACH ROW "
			     "IF NEW.position = 1 THEN SIGNAL SQLSTATE '45000' SET MYSQL_ERRNO = %d, MESSAGE_TEXT = "
			     "'no'; "
			     "END IF",
			     cases[i].number);
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
			sql("DROP TRIGGER refuse");
		}
	end(&side);
}

/* Whether the gate is to blame is seen to by an append that nobody is behind. */
static void what_was_refused_is_not_sent_again(void)
{
	struct side side = begin();

	for (int64_t position = 1; position <= 5; position++)
		OK(append_as(side.conn, position, 42, position));
	sql("DELETE FROM kineshim_log WHERE position > 3");
	for (int n = 0; n < 2; n++)
		OK(send_entry(side.conn, 4 + n));
	for (int n = 0; n < 2; n++)
		CU_ASSERT_EQUAL(receive(side.conn), SQLB_CONFLICT);
	CU_ASSERT_EQUAL(send_entry(side.conn, 4), SQLB_AWAY);
	CU_ASSERT_EQUAL(err.status, KS_UNIMPLEMENTED);
	CU_ASSERT_EQUAL(append_as(side.conn, 4, 42, 4), SQLB_CONFLICT);
	OK(append_as(side.conn, 4, 42, 4));
	OK(send_entry(side.conn, 5));
	OK(receive(side.conn));
	CU_ASSERT_EQUAL(count_rows(), 5);
	end(&side);
}

/* Somebody else who speaks for the server has another number for the session. */
static void nothing_is_sent_through_a_proxy_or_to_another_server(void)
{
	struct side side = begin();

	OK(append_as(side.conn, 1, 42, 1));
	side.conn->server.reads_ahead = false;
	CU_ASSERT_EQUAL(send_entry(side.conn, 2), SQLB_AWAY);
	CU_ASSERT_EQUAL(err.status, KS_UNIMPLEMENTED);
	OK(append_as(side.conn, 2, 42, 2));
	end(&side);
}

/* ---- a connection that is cut at a given byte ---- */

/*
 * Passes on everything until it is armed; then 'to_server' bytes more of requests, or (when that is negative) all of them and
 * 'to_client' bytes of answers. Then it hangs up on both sides.
 */
struct relay {
	int listen_fd;
	int at_port;
	_Atomic bool armed, stop;
	_Atomic int to_server, to_client;
	_Atomic int seen_to_server, seen_to_client; /* bytes since it was armed */
	pthread_t thread;
};

/* Moves what has come; false: an end, or the limit was met. */
static bool relay_some(struct relay *relay, int from, int to, _Atomic int *limit, _Atomic int *seen)
{
	char bytes[4096];
	ssize_t size = recv(from, bytes, sizeof(bytes), 0);
	bool last = false;

	if (size <= 0)
		return false;
	if (atomic_load(&relay->armed)) {
		int most = atomic_load(limit);

		last = most >= 0 && atomic_load(seen) + (int)size >= most;
		if (last)
			size = most - atomic_load(seen);
		atomic_fetch_add(seen, (int)size);
	}
	if (size > 0 && send(to, bytes, (size_t)size, MSG_NOSIGNAL) != size)
		return false;
	return !last;
}

static void relay_connection(struct relay *relay, int client)
{
	struct sockaddr_in address = {
		.sin_family = AF_INET, .sin_port = htons((uint16_t)port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	int server = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	bool go_on = connect(server, (struct sockaddr *)&address, sizeof(address)) == 0;

	while (go_on && !atomic_load(&relay->stop)) {
		struct pollfd poll_fds[2] = {{.fd = client, .events = POLLIN}, {.fd = server, .events = POLLIN}};

		if (poll(poll_fds, 2, 50) <= 0)
			continue;
		if (poll_fds[0].revents)
			go_on = relay_some(relay, client, server, &relay->to_server, &relay->seen_to_server);
		if (go_on && poll_fds[1].revents)
			go_on = relay_some(relay, server, client, &relay->to_client, &relay->seen_to_client);
	}
	atomic_store(&relay->armed, false);
	close(server);
	close(client);
}

static void *relay_run(void *arg)
{
	struct relay *relay = arg;

	while (!atomic_load(&relay->stop)) {
		struct pollfd poll_fd = {.fd = relay->listen_fd, .events = POLLIN};
		int client;

		if (poll(&poll_fd, 1, 50) > 0 && (client = accept(relay->listen_fd, NULL, NULL)) >= 0)
			relay_connection(relay, client);
	}
	return NULL;
}

static void relay_arm(struct relay *relay, int to_server, int to_client)
{
	atomic_store(&relay->to_server, to_server);
	atomic_store(&relay->to_client, to_client);
	atomic_store(&relay->seen_to_server, 0);
	atomic_store(&relay->seen_to_client, 0);
	atomic_store(&relay->armed, true);
}

typedef enum sqlb_outcome append_fn(struct sqlb_conn *conn, int64_t position, int64_t writer, int64_t batch);

/*
 * An append that is cut after 'cut' bytes one way: OK is not possible, BROKEN is not true; when it says AWAY, nothing may
 * ever show up. Repeated, it is in the log once.
 */
static void check_cut(struct side *side, append_fn *append, int64_t *position, int *away, int *doubts)
{
	enum sqlb_outcome outcome = append(side->conn, *position, 7, *position);

	if (outcome == SQLB_AWAY) {
		pause_ms(1);
		CU_ASSERT_EQUAL(head_of(side->conn), *position - 1);
	}
	*away += outcome == SQLB_AWAY;
	*doubts += outcome == SQLB_DOUBT;
	CU_ASSERT_TRUE(outcome == SQLB_AWAY || outcome == SQLB_DOUBT || outcome == SQLB_OK);
	if (outcome != SQLB_OK) {
		outcome = append(side->conn, *position, 7, *position);
		CU_ASSERT_TRUE(outcome == SQLB_OK || outcome == SQLB_CONFLICT);
		CU_ASSERT_EQUAL(head_of(side->conn), *position);
	}
	(*position)++;
}

static void cut_everywhere(append_fn *append, int most_to_server, int rows)
{
	struct side direct = begin(), side;
	struct relay relay = {0};
	int64_t position = 1;
	int away = 0, doubts = 0, requests, answers;
	char through[URL_MAX];

	relay.listen_fd = listen_somewhere(&relay.at_port);
	pthread_create(&relay.thread, NULL, relay_run, &relay);
	url_at(through, "kineshim", relay.at_port, "");
	side = side_open(through);
	OK(append(side.conn, position++, 7, 1));
	relay_arm(&relay, -1, -1); /* how much there is to cut */
	OK(append(side.conn, position++, 7, 2));
	atomic_store(&relay.armed, false);
	requests = atomic_load(&relay.seen_to_server);
	answers = atomic_load(&relay.seen_to_client);
	CU_ASSERT_TRUE(requests > 100 && answers > 10);
	for (int cut = 0; cut <= requests; cut += requests > most_to_server ? 3 * rows : 1) {
		relay_arm(&relay, cut, -1);
		check_cut(&side, append, &position, &away, &doubts);
		OK(append(side.conn, position, 7, position)); /* connected and prepared again */
		position++;
	}
	for (int cut = 0; cut < answers; cut++) {
		relay_arm(&relay, -1, cut);
		check_cut(&side, append, &position, &away, &doubts);
		OK(append(side.conn, position, 7, position));
		position++;
	}
	printf("# %d bytes of requests, %d of answers: %d away, %d doubts\n", requests, answers, away, doubts);
	CU_ASSERT_TRUE(doubts > 0);
	CU_ASSERT_EQUAL(count_rows(), (position - 1) * rows);
	side_close(&side);
	atomic_store(&relay.stop, true);
	pthread_join(relay.thread, NULL);
	close(relay.listen_fd);
	end(&direct);
}

static void an_append_cut_at_any_byte_loses_and_doubles_nothing(void)
{
	cut_everywhere(append_as, 10000, 1);
}

static enum sqlb_outcome append_sent(struct sqlb_conn *conn, int64_t position, int64_t writer, int64_t batch)
{
	struct sqlb_row row = row_of(position, writer, batch);
	struct sqlb_append append = {.rows = &row, .row_count = 1};
	enum sqlb_outcome outcome = ops->append_send(conn, &append, &err);

	if (outcome == SQLB_AWAY && err.status == KS_UNIMPLEMENTED)
		return append_as(conn, position, writer, batch);
	return outcome == SQLB_OK ? receive(conn) : outcome;
}

static void an_append_that_was_sent_and_cut_at_any_byte_loses_and_doubles_nothing(void)
{
	cut_everywhere(append_sent, 10000, 1);
}

static void a_transaction_cut_at_any_byte_loses_and_doubles_nothing(void)
{
	cut_everywhere(append_with_lease, 200, 1);
}

/* ---- many rows ---- */

enum { MANY = 300 };

/* As many as take the bulk form on MariaDB. */
static enum sqlb_outcome append_some(struct sqlb_conn *conn, int64_t position, int64_t writer, int64_t batch)
{
	struct sqlb_row rows[20];

	for (int i = 0; i < 20; i++) {
		rows[i] = row_of(position, writer, batch);
		rows[i].sub = i;
		rows[i].rows = 20;
	}
	return append_this(conn, (struct sqlb_append){.rows = rows, .row_count = 20});
}

static enum sqlb_outcome append_many(struct sqlb_conn *conn, int64_t position, int64_t after_writer, int64_t batch)
{
	static struct sqlb_row rows[MANY];

	for (int i = 0; i < MANY; i++)
		rows[i] = row_of(position + i, 7, batch);
	/* Bytes that text would not survive, NULL that is not the same as empty. */
	rows[1].key = ks_slice_of("\0'\\\"\xff\n", 6);
	rows[1].value = ks_slice_of("", 0);
	rows[2].kind = 2;
	rows[2].value = ks_slice_of(NULL, 0);
	rows[3].payload = ks_slice_of("p\0q", 3);
	rows[3].lease = INT64_MIN;
	return append_this(conn, (struct sqlb_append){.rows = rows,
						      .row_count = MANY,
						      .after_writer = after_writer,
						      .after_batch = after_writer ? batch - 1 : 0});
}

static bool count_visited(void *ctx, const struct sqlb_row *row)
{
	(void)row;
	++*(size_t *)ctx;
	return true;
}

static int64_t counter(const char *name)
{
	MYSQL_RES *result;
	MYSQL_ROW row;
	char text[100];
	int64_t value = -1;

	snprintf(text, sizeof(text), "SHOW GLOBAL STATUS LIKE '%s'", name);
	if (mysql_query(raw, text) == 0 && (result = mysql_store_result(raw)) != NULL) {
		row = mysql_fetch_row(result);
		value = row ? strtoll(row[1], NULL, 10) : -1;
		mysql_free_result(result);
	}
	return value;
}

static void many_rows_are_one_statement_and_all_or_nothing(void)
{
	struct side side = begin();
	int64_t begun, inserts;

	OK(append_many(side.conn, 1, 0, 1));
	begun = counter("Com_begin");
	inserts = counter("Com_insert");
	OK(append_many(side.conn, MANY + 1, 7, 2));
	CU_ASSERT_EQUAL(counter("Com_begin"), begun);
	CU_ASSERT_EQUAL(counter("Com_insert"), inserts + 1);
	CU_ASSERT_EQUAL(count_rows(), 2 * MANY);
	CU_ASSERT_STRING_EQUAL(sql("SELECT HEX(`key`) FROM kineshim_log WHERE position = 302"), "00275C22FF0A");
	CU_ASSERT_STRING_EQUAL(sql("SELECT CONCAT_WS(' ', SUM(value IS NULL), SUM(value = ''), SUM(payload IS NULL), "
				   "SUM(payload = 'p\\0q'), "
				   "SUM(lease = -9223372036854775808), SUM(kind = 2), COUNT(DISTINCT writer, batch)) "
				   "FROM kineshim_log "
				   "WHERE position > 300"),
			       "1 1 299 1 1 1 1");
	/* Behind another entry than ours; at positions that are taken; onto one that somebody else put there by hand. */
	CU_ASSERT_EQUAL(append_many(side.conn, 2 * MANY + 1, 7, 4), SQLB_CONFLICT);
	CU_ASSERT_EQUAL(append_many(side.conn, MANY + 1, 7, 3), SQLB_CONFLICT);
	sql("INSERT INTO kineshim_log (position, sub, `rows`, kind, revision, create_revision, version, lease, writer, "
	    "batch) "
	    "VALUES (650, 0, 1, 5, 1, 0, 0, 0, 1, 1)");
	CU_ASSERT_EQUAL(append_many(side.conn, 2 * MANY + 1, 7, 3), SQLB_CONFLICT);
	CU_ASSERT_EQUAL(count_rows(), 2 * MANY + 1);
	sql("DELETE FROM kineshim_log WHERE position = 650");
	OK(append_many(side.conn, 2 * MANY + 1, 7, 3));
	CU_ASSERT_EQUAL(head_of(side.conn), 3 * MANY);
	end(&side);
}

static void many_rows_cut_at_any_byte_lose_and_double_nothing(void)
{
	cut_everywhere(append_some, 500, 20);
}

/* Whoever follows others who append much reads each time with one statement, but not at first, and not after a pause. */
static void reads_of_many_rows_become_one_statement(void)
{
	struct side side = begin();
	int64_t selects = 0;
	size_t rows;
	bool more;

	OK(append_many(side.conn, 1, 0, 1));
	for (int i = 0; i < 6; i++) {
		selects = counter("Com_stmt_execute");
		rows = 0;
		OK(ops->read_rows(side.conn, 0, -1, 4 << 20, count_visited, &rows, &more, &err));
		selects = counter("Com_stmt_execute") - selects;
		CU_ASSERT_EQUAL(rows, MANY);
		CU_ASSERT_FALSE(more);
		if (i == 0)
			CU_ASSERT_EQUAL(selects, 2);
	}
	CU_ASSERT_EQUAL(selects, 1);
	pause_ms(1100);
	selects = counter("Com_stmt_execute");
	OK(ops->read_rows(side.conn, 0, -1, 4 << 20, count_visited, &rows, &more, &err));
	CU_ASSERT_EQUAL(counter("Com_stmt_execute") - selects, 2);
	end(&side);
}

static bool count_row(void *ctx, const struct sqlb_row *row)
{
	(void)row;
	++*(int *)ctx;
	return true;
}

/*
 * In pages, which come with more bytes than the library takes at once: more rows than the first SELECT of a read ever brings. After a
 * pause that brings least, so no later read has fewer bytes than the one that is measured.
 */
static void a_read_that_is_cut_says_why(void)
{
	enum { ENTRIES = SQLB_FEW_MOST / 20 + 50 };
	struct side direct = begin(), side;
	struct relay relay = {0};
	char through[URL_MAX];
	int count = 0, answers, cuts = 0;
	bool more;

	for (int64_t position = 1; position <= ENTRIES; position++)
		OK(append_some(direct.conn, position, 7, position));
	relay.listen_fd = listen_somewhere(&relay.at_port);
	pthread_create(&relay.thread, NULL, relay_run, &relay);
	url_at(through, "kineshim", relay.at_port, "");
	side = side_open(through);
	OK(ops->read_rows(side.conn, 0, -1, 1 << 30, count_row, &count, &more, &err));
	CU_ASSERT_EQUAL(count, ENTRIES * 20);
	pause_ms(SQLB_FEW_PAUSE_MS + 100);
	relay_arm(&relay, -1, -1); /* how much there is to cut */
	OK(ops->read_rows(side.conn, 0, -1, 1 << 30, count_row, &count, &more, &err));
	atomic_store(&relay.armed, false);
	answers = atomic_load(&relay.seen_to_client);
	for (int cut = 0; cut < answers; cut += answers / 30 + 1, cuts++) {
		relay_arm(&relay, -1, cut);
		CU_ASSERT_EQUAL(ops->read_rows(side.conn, 0, -1, 1 << 30, count_row, &count, &more, &err), SQLB_AWAY);
		CU_ASSERT_PTR_NOT_NULL(strstr(err.text, "(error 2013)"));
		if (!strstr(err.text, "(error 2013)"))
			printf("# cut after %d of %d bytes: %s\n", cut, answers, err.text);
		OK(ops->read_rows(side.conn, 0, -1, 1 << 30, count_row, &count, &more, &err));
	}
	printf("# %d cuts of %d bytes\n", cuts, answers);
	side_close(&side);
	atomic_store(&relay.stop, true);
	pthread_join(relay.thread, NULL);
	close(relay.listen_fd);
	end(&direct);
}

/* ---- sessions and servers that die ---- */

/* Ends the writer's session, or just its statement, at any time. */
static void end_session(unsigned *seed)
{
	MYSQL *killer = root_connect();
	struct timespec pause = {0, (long)(rand_r(seed) % 20000) * 1000};
	MYSQL_RES *result;
	MYSQL_ROW row;
	char text[80];

	nanosleep(&pause, NULL);
	if (mysql_query(killer, "SELECT id FROM information_schema.processlist WHERE user = 'kineshim'") == 0 &&
	    (result = mysql_store_result(killer)) != NULL) {
		while ((row = mysql_fetch_row(result)) != NULL) {
			snprintf(text, sizeof(text), "KILL %s %s", rand_r(seed) % 3 ? "CONNECTION" : "QUERY", row[0]);
			(void)mysql_query(killer, text); /* it may have gone by itself */
		}
		mysql_free_result(result);
	}
	mysql_close(killer);
}

static bool run_server_command(const char *command, const char *arguments)
{
	char text[2000];
	bool done;

	snprintf(text, sizeof(text), "bash '%s' %s '%s' %s >/dev/null 2>&1", getenv("KS_TEST_SERVERS"), command,
		 getenv("KS_TEST_MARIADB_DIR"), arguments);
	done = system(text) == 0;
	if (!done)
		printf("# failed: %s\n", text);
	return done;
}

static void crash_server(unsigned *seed)
{
	pause_ms(rand_r(seed) % 300);
	run_server_command("my_kill", "");
	run_server_command("my_start", "");
}

static void restart_server(unsigned *seed)
{
	pause_ms(rand_r(seed) % 300);
	run_server_command("my_restart", "");
}

static void reconnect(void)
{
	mysql_close(raw);
	raw = root_connect();
	use_database();
}

static struct side open_at(int at_port)
{
	char through[URL_MAX];

	url_at(through, "kineshim", at_port, "");
	return side_open(through);
}

/* Some with a transaction of several statements. */
static enum sqlb_outcome append_entry(struct sqlb_conn *conn, int64_t position, struct ks_err *why)
{
	enum sqlb_outcome outcome = position % 4 ? append_as(conn, position, 42, position)
						 : append_with_lease(conn, position, 42, position);

	*why = err;
	return outcome;
}

static const char *entries_of_42(void)
{
	return sql("SELECT CONCAT(COUNT(*), '/', MIN(position), '/', MAX(position)) FROM kineshim_log "
		   "WHERE batch = position AND writer = 42 AND position > 0");
}

static struct settled_backend settled = {
	.ops = &sqlb_mysql_ops,
	.conflicts_with_nobody = true,
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
	.sessions = {300, 60},
	.sessions_with_many = {600, 60},
	.servers = {200, 2},
	.doubts = 50,
};

static void a_session_that_ended_while_idle_is_replaced_without_doubt(void)
{
	struct side side = begin();
	unsigned long id;
	char text[120];

	OK(append_as(side.conn, 1, 1, 1));
	for (int64_t position = 2; position < 8; position++) {
		id = mysql_thread_id(side.conn->mysql);
		snprintf(text, sizeof(text), "KILL %lu", id);
		sql(text);
		snprintf(text, sizeof(text), "SELECT COUNT(*) FROM information_schema.processlist WHERE id = %lu", id);
		while (strcmp(sql(text), "0") != 0)
			pause_ms(2);
		pause_ms(10);
		OK(append_as(side.conn, position, 1, position));
	}
	side_close(&side);
	/* Idle for too long, as the server sees it. */
	sql("SET GLOBAL wait_timeout = 1");
	side = side_open(url);
	OK(append_as(side.conn, 8, 1, 8));
	if (is_mariadb()) /* on MySQL the session sets it, for want of something better */
		pause_ms(2200);
	OK(append_as(side.conn, 9, 1, 9));
	sql("SET GLOBAL wait_timeout = DEFAULT");
	end(&side);
}

/* ---- what the server refuses ---- */

static void a_read_only_server_is_away_and_can_be_read(void)
{
	struct side side = begin(), reader;
	uint64_t id, same_id;

	OK(ops->migrate(side.conn, &id, &err));
	OK(append_as(side.conn, 1, 1, 1));
	sql("SET GLOBAL read_only = 1");
	reader = side_open(url);
	OK(ops->migrate(reader.conn, &same_id, &err));
	CU_ASSERT_EQUAL(id, same_id);
	CU_ASSERT_EQUAL(append_as(reader.conn, 2, 1, 2), SQLB_AWAY);
	CU_ASSERT_PTR_NOT_NULL(strstr(err.text, "read-only"));
	CU_ASSERT_EQUAL(append_with_lease(reader.conn, 2, 1, 2), SQLB_AWAY);
	CU_ASSERT_EQUAL(head_of(reader.conn), 1);
	sql("SET GLOBAL read_only = 0");
	OK(append_as(reader.conn, 2, 1, 2));
	side_close(&reader);
	end(&side);
}

static void a_lock_held_by_somebody_else_is_away_and_nothing_happened(void)
{
	struct side side = begin();
	struct sqlb_loc loc = {1, 0};
	int64_t start_ms;

	OK(append_as(side.conn, 1, 1, 1));
	OK(append_as(side.conn, 2, 1, 2));
	sql("START TRANSACTION");
	sql("SELECT * FROM kineshim_log WHERE position = 0 FOR UPDATE");
	start_ms = now_ms();
	CU_ASSERT_EQUAL(append_as(side.conn, 3, 1, 3), SQLB_AWAY);
	CU_ASSERT_TRUE(now_ms() - start_ms < 9000);
	OK(ops->trim(side.conn, &loc, 1, &err)); /* waits for no append */
	CU_ASSERT_EQUAL(head_of(side.conn), 2);
	sql("COMMIT");
	OK(append_as(side.conn, 3, 1, 3));
	CU_ASSERT_EQUAL(count_rows(), 2);
	end(&side);
}

static void a_lost_column_table_or_right_is_broken_and_can_be_mended(void)
{
	struct side side = begin();
	struct sqlb_lease lease = {.id = 1};

	OK(append_as(side.conn, 1, 1, 1));
	sql("ALTER TABLE kineshim_log CHANGE payload `load` LONGBLOB");
	CU_ASSERT_EQUAL(append_as(side.conn, 2, 1, 2), SQLB_BROKEN);
	CU_ASSERT_EQUAL(append_as(side.conn, 2, 1, 2), SQLB_BROKEN);
	sql("ALTER TABLE kineshim_log CHANGE `load` payload LONGBLOB");
	OK(append_as(side.conn, 2, 1, 2));
	sql("RENAME TABLE kineshim_lease TO lost");
	CU_ASSERT_EQUAL(ops->lease_touch(side.conn, &lease, 1, &err), SQLB_BROKEN);
	sql("RENAME TABLE lost TO kineshim_lease");
	OK(ops->lease_touch(side.conn, &lease, 1, &err));
	sqlf("REVOKE INSERT ON %s.* FROM kineshim@'%%'", database);
	side_close(&side);
	side = side_open(url);
	CU_ASSERT_EQUAL(append_as(side.conn, 3, 1, 3), SQLB_BROKEN);
	CU_ASSERT_EQUAL(head_of(side.conn), 2);
	sqlf("GRANT INSERT ON %s.* TO kineshim@'%%'", database);
	/* A session keeps the rights that it found; BROKEN ends it. */
	(void)append_as(side.conn, 3, 1, 3);
	CU_ASSERT_NOT_EQUAL(append_as(side.conn, 3, 1, 3), SQLB_BROKEN);
	CU_ASSERT_EQUAL(head_of(side.conn), 3);
	end(&side);
}

static void a_trigger_that_refuses_rows_is_broken(void)
{
	struct side side = begin();

	OK(append_as(side.conn, 1, 1, 1));
	sql("CREATE TRIGGER refuse BEFORE INSERT ON kineshim_log FOR EACH ROW SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT "
	    "= 'no'");
	CU_ASSERT_EQUAL(append_as(side.conn, 2, 1, 2), SQLB_BROKEN);
	CU_ASSERT_EQUAL(count_rows(), 1);
	sql("DROP TRIGGER refuse");
	OK(append_as(side.conn, 2, 1, 2));
	end(&side);
}

static void few_rights_are_enough(void)
{
	struct side owner = begin(), side;
	struct sqlb_size size;
	struct sqlb_loc loc = {1, 0};
	char poor[URL_MAX];
	uint64_t id;

	side_close(&owner);
	sqlf("DROP DATABASE %s", database);
	sqlf("CREATE DATABASE %s", database);
	use_database();
	sql("CREATE USER IF NOT EXISTS poor@'%' IDENTIFIED BY '" PASSWORD "'");
	sqlf("GRANT SELECT, INSERT, UPDATE, DELETE, CREATE ON %s.* TO poor@'%%'", database);
	url_at(poor, "poor", port, "");
	side = side_open(poor);
	OK(ops->migrate(side.conn, &id, &err)); /* without the view */
	CU_ASSERT_STRING_EQUAL(sql("SELECT COUNT(*) FROM information_schema.views WHERE table_schema = DATABASE()"),
			       "0");
	OK(append_as(side.conn, 1, 1, 1));
	OK(append_with_lease(side.conn, 2, 1, 2));
	OK(ops->trim(side.conn, &loc, 1, &err));
	OK(ops->size(side.conn, &size, &err));
	CU_ASSERT_TRUE(size.allocated > 0);
	OK(ops->defragment(side.conn, true, &err));
	CU_ASSERT_EQUAL(head_of(side.conn), 2);
	sqlf("GRANT CREATE VIEW ON %s.* TO poor@'%%'", database);
	side_close(&side);
	side = side_open(poor);
	OK(ops->migrate(side.conn, &id, &err)); /* and now with it */
	CU_ASSERT_STRING_EQUAL(sql("SELECT COUNT(*) FROM kineshim_live"), "1");
	sql("DROP USER poor@'%'");
	end(&side);
}

/* ---- strange settings ---- */

static void no_setting_of_the_server_matters(void)
{
	static const char *const settings[] = {
		"SET GLOBAL sql_mode = "
		"'ANSI_QUOTES,PIPES_AS_CONCAT,NO_BACKSLASH_ESCAPES,NO_UNSIGNED_SUBTRACTION,HIGH_NOT_PRECEDENCE,"
		"ERROR_FOR_DIVISION_BY_ZERO,PAD_CHAR_TO_FULL_LENGTH'",
		"SET GLOBAL sql_mode = ''",
		"SET GLOBAL autocommit = 0",
		"SET GLOBAL sql_select_limit = 1",
		"SET GLOBAL completion_type = 'CHAIN'",
		"SET GLOBAL time_zone = '+05:00'",
		"SET GLOBAL character_set_server = latin1",
		"SET GLOBAL TRANSACTION ISOLATION LEVEL SERIALIZABLE",
		"SET GLOBAL TRANSACTION ISOLATION LEVEL READ UNCOMMITTED",
		"SET GLOBAL innodb_snapshot_isolation = 1", /* not everywhere */
		"SET GLOBAL innodb_snapshot_isolation = 0",
	};
	struct side side = begin();
	int64_t position = 1;

	for (size_t i = 0; i < sizeof(settings) / sizeof(settings[0]); i++) {
		struct sqlb_lease lease = {.id = 1};
		const int64_t gone = 1;
		struct sqlb_loc loc;
		struct sqlb_row row;
		int64_t seen[2] = {0};
		uint64_t id;
		bool more;

		if (strstr(settings[i], "snapshot") && mysql_query(raw, settings[i]) != 0)
			continue;
		sql(settings[i]);
		side_close(&side);
		side = side_open(url);
		OK(ops->migrate(side.conn, &id, &err));
		for (int n = 0; n < 6; n++, position++)
			OK(append_as(side.conn, position, 1, position));
		lease.id = position;
		OK(append_with_lease(side.conn, position, 1, position));
		OK(ops->lease_read(side.conn, &lease, 1, &err));
		CU_ASSERT_TRUE(lease.found && lease.remaining_ms > 55000 && lease.remaining_ms <= 60000);
		OK(ops->lease_refresh_all(side.conn, &err));
		CU_ASSERT_EQUAL(append_as(side.conn, position, 1, 99), SQLB_CONFLICT);
		position++;
		row = row_of(position, 1, position);
		OK(append_this(side.conn,
			       (struct sqlb_append){
				       .rows = &row, .row_count = 1, .leases_gone = &gone, .leases_gone_count = 1}));
		loc = (struct sqlb_loc){position - 2, 0};
		OK(ops->trim(side.conn, &loc, 1, &err));
		OK(ops->read_rows(side.conn, position - 8, -1, SIZE_MAX, take_writer_and_batch, seen, &more, &err));
		CU_ASSERT_EQUAL(seen[1], position);
		position++;
	}
	CU_ASSERT_EQUAL(count_rows(), position - 1 - (position - 1) / 8);
	CU_ASSERT_STRING_EQUAL(
		sql("SELECT ABS(TIMESTAMPDIFF(SECOND, MAX(created_at), UTC_TIMESTAMP())) < 60 FROM kineshim_log"), "1");
	sql("SET GLOBAL sql_mode = DEFAULT, GLOBAL autocommit = 1, GLOBAL sql_select_limit = DEFAULT, GLOBAL "
	    "completion_type = DEFAULT, "
	    "GLOBAL time_zone = DEFAULT, GLOBAL character_set_server = DEFAULT");
	sql("SET GLOBAL TRANSACTION ISOLATION LEVEL REPEATABLE READ");
	end(&side);
}

static bool sum_rows(void *ctx, const struct sqlb_row *row)
{
	size_t *sums = ctx;

	sums[0]++;
	sums[1] += row->value.size;
	return true;
}

static void a_small_packet_splits_batches_and_refuses_what_never_fits(void)
{
	enum { ROWS = 300, BYTES = 20000, HUGE = 3 << 20 };
	struct side side = begin();
	struct sqlb_row rows[ROWS], row;
	uint8_t *value = calloc(1, HUGE);
	size_t sums[2] = {0};
	bool more;

	sql("SET GLOBAL max_allowed_packet = 1048576");
	side_close(&side);
	side = side_open(url);
	for (int i = 0; i < ROWS; i++) {
		rows[i] = row_of(i + 1, 1, i + 1);
		rows[i].value = ks_slice_of(value, BYTES);
	}
	OK(append_this(side.conn, (struct sqlb_append){.rows = rows, .row_count = ROWS}));
	row = row_of(ROWS + 1, 1, 1);
	row.value = ks_slice_of(value, 1048576 - 1024);
	OK(append_this(side.conn, (struct sqlb_append){.rows = &row, .row_count = 1}));
	for (size_t size = 1048576 - 1024; size <= 1048576 + 1024; size += 64) {
		enum sqlb_outcome outcome;

		row = row_of(head_of(side.conn) + 1, 1, 1);
		row.value = ks_slice_of(value, size);
		outcome = append_this(side.conn, (struct sqlb_append){.rows = &row, .row_count = 1});
		CU_ASSERT_TRUE(outcome == SQLB_OK || outcome == SQLB_BROKEN);
		if (outcome == SQLB_BROKEN)
			CU_ASSERT_PTR_NOT_NULL(strstr(err.text, "max_allowed_packet of 1048576: raise it"));
		CU_ASSERT_EQUAL(head_of(side.conn), row.position - (outcome == SQLB_BROKEN));
	}
	row = row_of(head_of(side.conn) + 1, 1, 1);
	row.value = ks_slice_of(value, HUGE);
	CU_ASSERT_EQUAL(append_this(side.conn, (struct sqlb_append){.rows = &row, .row_count = 1}), SQLB_BROKEN);
	OK(append_as(side.conn, row.position, 1, 1)); /* the connection is as good as before */
	OK(ops->read_rows(side.conn, 0, ROWS, SIZE_MAX, sum_rows, sums, &more, &err));
	CU_ASSERT_EQUAL(sums[0], ROWS);
	CU_ASSERT_EQUAL(sums[1], (size_t)ROWS * BYTES);
	sql("SET GLOBAL max_allowed_packet = 16777216");
	free(value);
	end(&side);
}

/* ---- the tables ---- */

static void keys_are_bytes_and_are_shown_to_people(void)
{
	uint8_t all[256];
	struct sqlb_row rows[5];
	struct side side = begin();

	for (int i = 0; i < 256; i++)
		all[i] = (uint8_t)i;
	for (int i = 0; i < 5; i++)
		rows[i] = row_of(i + 1, 1, 1);
	rows[0].key = ks_slice_of(all, 256);
	rows[1].key = ks_slice_str("caf\xc3\xa9");
	rows[1].value = ks_slice_str("\xff");
	rows[2].key = ks_slice_str("Key");
	rows[3].key = ks_slice_str("key");
	rows[4].key = ks_slice_str("key ");
	OK(append_this(side.conn, (struct sqlb_append){.rows = rows, .row_count = 5}));
	CU_ASSERT_STRING_EQUAL(sql("SELECT COUNT(*) FROM kineshim_live"), "5");
	CU_ASSERT_STRING_EQUAL(sql("SELECT value FROM kineshim_live WHERE mod_revision = 3"), "0xFF");
	CU_ASSERT_STRING_EQUAL(sql("SELECT HEX(`key`) FROM kineshim_live WHERE mod_revision = 3"), "636166C3A9");
	CU_ASSERT_STRING_EQUAL(
		sql("SELECT CONCAT(HEX(`key`) = SUBSTR((SELECT `key` FROM kineshim_live WHERE mod_revision = 2), 3), "
		    "LENGTH(`key`)) FROM kineshim_log WHERE position = 1"),
		"1256");
	end(&side);
}

static void what_a_crash_left_of_making_the_tables_is_finished(void)
{
	static const char *const damages[] = {"DROP TABLE kineshim_member", "DROP TABLE kineshim_duty",
					      "DROP TABLE kineshim_lease", "DROP TABLE kineshim_log", "SELECT 1"};
	struct side side = begin();
	uint64_t before, after;

	OK(ops->migrate(side.conn, &before, &err));
	sql("DROP VIEW kineshim_live");
	for (size_t i = 0; i < sizeof(damages) / sizeof(damages[0]); i++) {
		for (size_t d = 0; d <= i; d++)
			if (mysql_query(raw, damages[d]) == 0)
				mysql_free_result(mysql_store_result(raw));
		sql("DELETE FROM kineshim_meta");
		OK(ops->migrate(side.conn, &after, &err));
		CU_ASSERT_TRUE(after != 0 && after != before);
		CU_ASSERT_EQUAL(head_of(side.conn), 0);
		OK(append_as(side.conn, 1, 1, 1));
		OK(ops->trim(side.conn, &(struct sqlb_loc){1, 0}, 1, &err));
		sql("UPDATE kineshim_log SET revision = 0, writer = 0, batch = 0 WHERE position = 0");
	}
	sql("ALTER TABLE kineshim_log COMMENT = 'mine'");
	sql("DELETE FROM kineshim_meta");
	CU_ASSERT_EQUAL(ops->migrate(side.conn, &after, &err), SQLB_BROKEN);
	CU_ASSERT_PTR_NOT_NULL(strstr(err.text, "kineshim_log"));
	end(&side);
}

static void set_maker(int until_ms)
{
	sqlf("REPLACE INTO kineshim_meta VALUES ('maker', CONCAT('00000000000000aa ', "
	     "TIMESTAMPDIFF(MICROSECOND, '1970-01-01', UTC_TIMESTAMP(6)) DIV 1000 + %d))",
	     until_ms);
}

/* Another instance may be making them on another node of a cluster, where no lock of this server is seen. */
static void who_makes_the_tables_is_waited_for_and_followed_when_gone(void)
{
	static const char view[] = "SELECT COUNT(*) FROM information_schema.views WHERE table_schema = DATABASE()";
	static const char makers[] = "SELECT COUNT(*) FROM kineshim_meta WHERE name = 'maker'";
	struct side side = begin();
	int64_t start_ms;
	uint64_t id;

	sql("DROP VIEW kineshim_live");
	set_maker(60000);
	OK(ops->migrate(side.conn, &id, &err)); /* the view is no reason to wait */
	CU_ASSERT_STRING_EQUAL(sql(view), "0");
	sql("DROP TABLE kineshim_log");
	sql("DELETE FROM kineshim_meta");
	set_maker(60000);
	CU_ASSERT_EQUAL(ops->migrate(side.conn, &id, &err), SQLB_AWAY);
	CU_ASSERT_PTR_NOT_NULL(strstr(err.text, "another instance"));
	CU_ASSERT_STRING_EQUAL(sql("SHOW TABLES LIKE 'kineshim_log'"), "");
	CU_ASSERT_STRING_EQUAL(sql(makers), "1");
	set_maker(400);
	start_ms = now_ms();
	OK(ops->migrate(side.conn, &id, &err));
	CU_ASSERT_TRUE(now_ms() - start_ms >= 300);
	CU_ASSERT_STRING_EQUAL(sql(makers), "0");
	CU_ASSERT_STRING_EQUAL(sql(view), "1");
	OK(append_as(side.conn, 1, 1, 1));
	end(&side);
}

/* Rows that were taken away by hand, as a database that lost its tail has them. */
static void the_gate_follows_a_log_that_was_changed_by_hand(void)
{
	struct side side = begin();

	for (int64_t position = 1; position <= 5; position++)
		OK(append_as(side.conn, position, 1, position));
	sql("DELETE FROM kineshim_log WHERE position > 3");
	CU_ASSERT_EQUAL(append_as(side.conn, 6, 1, 6), SQLB_OK); /* the gate knows no better; so says the next look */
	sql("DELETE FROM kineshim_log WHERE position > 3");
	CU_ASSERT_EQUAL(append_as(side.conn, 4, 2, 1), SQLB_CONFLICT);
	CU_ASSERT_EQUAL(append_as(side.conn, 4, 2, 1), SQLB_CONFLICT);
	OK(append_as(side.conn, 4, 2, 1));
	CU_ASSERT_EQUAL(head_of(side.conn), 4);
	sql("INSERT INTO kineshim_log SELECT 5, sub, `rows`, kind, revision, `key`, value, create_revision, version, "
	    "lease, payload, "
	    "writer, batch, created_at FROM kineshim_log WHERE position = 4");
	CU_ASSERT_EQUAL(append_as(side.conn, 5, 2, 2), SQLB_CONFLICT);
	CU_ASSERT_EQUAL(append_as(side.conn, 6, 2, 2), SQLB_CONFLICT);
	CU_ASSERT_EQUAL(append_as(side.conn, 6, 2, 2), SQLB_CONFLICT);
	OK(append_as(side.conn, 6, 2, 2));
	sql("DELETE FROM kineshim_log");
	CU_ASSERT_EQUAL(append_as(side.conn, 7, 2, 3), SQLB_BROKEN);
	CU_ASSERT_PTR_NOT_NULL(strstr(err.text, "position 0"));
	end(&side);
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
		append_fn *append = batch % 3 ? append_as : append_with_lease;

		racer->last = append(racer->side.conn, applied + 1, racer->writer, ++batch);
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

/* Takes rows away right behind the appends: what was taken and trimmed must still be refused. */
static void *trim_behind(void *arg)
{
	struct racer *racer = arg;
	int64_t trimmed = 0;

	while (trimmed < racer->until - 2 && racer->last == SQLB_OK) {
		struct sqlb_head head;

		racer->last = ops->read_head(racer->side.conn, &head, &err);
		for (; racer->last == SQLB_OK && trimmed < head.position - 1; trimmed++)
			racer->last = ops->trim(racer->side.conn, &(struct sqlb_loc){trimmed + 1, 0}, 1, &err);
	}
	return NULL;
}

static void racing_appenders_and_a_trim_leave_no_gap(void)
{
	struct side side = begin();
	struct racer racers[5];
	pthread_t threads[5];
	int won = 0;

	for (int i = 0; i < 5; i++) {
		racers[i] = (struct racer){.side = side_open(url), .writer = i + 1, .until = 400};
		pthread_create(&threads[i], NULL, i < 4 ? race : trim_behind, &racers[i]);
	}
	for (int i = 0; i < 5; i++) {
		pthread_join(threads[i], NULL);
		if (racers[i].last != SQLB_OK && racers[i].last != SQLB_CONFLICT)
			printf("# racer %d: %s\n", i, sqlb_outcome_name(racers[i].last));
		CU_ASSERT_TRUE(racers[i].last == SQLB_OK || racers[i].last == SQLB_CONFLICT);
		won += racers[i].won;
		side_close(&racers[i].side);
	}
	CU_ASSERT_EQUAL(won, head_of(side.conn));
	end(&side);
}

struct wait_call {
	struct sqlb_conn *conn;
	int64_t after;
	enum sqlb_outcome outcome;
	int64_t ended_ms;
	pthread_t thread;
};

static void *wait_once(void *arg)
{
	struct wait_call *call = arg;

	call->outcome = ops->wait_for_change(call->conn, call->after, 10000, &err);
	call->ended_ms = now_ms();
	return NULL;
}

static void a_wait_is_prompt_after_activity_and_survives_its_session(void)
{
	struct side side = begin(), waiter = side_open(url);
	struct wait_call call = {.conn = waiter.conn};
	char text[60];
	int64_t least_ms = 10000;

	for (int64_t position = 1; position <= 10; position++) {
		int64_t start_ms;

		call.after = position - 1;
		pthread_create(&call.thread, NULL, wait_once, &call);
		pause_ms(10);
		OK(append_as(side.conn, position, 1, position));
		start_ms = now_ms();
		pthread_join(call.thread, NULL);
		OK(call.outcome);
		if (call.ended_ms - start_ms < least_ms)
			least_ms = call.ended_ms - start_ms;
	}
	CU_ASSERT_TRUE(least_ms < 20);
	call.after = 10;
	pthread_create(&call.thread, NULL, wait_once, &call);
	snprintf(text, sizeof(text), "KILL %lu", mysql_thread_id(waiter.conn->mysql));
	sql(text);
	pause_ms(20);
	OK(append_as(side.conn, 11, 1, 11));
	pthread_join(call.thread, NULL);
	CU_ASSERT_TRUE(call.outcome == SQLB_OK || call.outcome == SQLB_AWAY);
	side_close(&waiter);
	end(&side);
}

/* ---- TLS ---- */

/* The files of a CA and, signed by it, of a server that is 127.0.0.1, and of a client; and another CA. */
static bool make_certificates(const char *dir)
{
	char text[3000];

	snprintf(text, sizeof(text),
		 "exec >/dev/null 2>&1; cd '%s' && for ca in ca other; do openssl req -x509 -newkey ec -pkeyopt "
		 "ec_paramgen_curve:prime256v1 "
		 "-nodes -days 2 "
		 "-subj /CN=$ca -keyout $ca.key -out $ca.pem; done && "
		 "for who in server client; do openssl req -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes "
		 "-subj /CN=$who "
		 "-keyout $who.key -out $who.csr && "
		 "printf 'subjectAltName=IP:127.0.0.1\\n' >san && "
		 "openssl x509 -req -in $who.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile san -out "
		 "$who.pem; done && "
		 "chmod a+r *.key",
		 dir);
	return system(text) == 0;
}

/* A read with these parameters, in which ~ stands for the folder of the certificates. */
static enum sqlb_outcome head_over(const char *parameters, const char *dir, const char *user, const char *host)
{
	struct sqlb_head head;
	enum sqlb_outcome outcome;
	char of[URL_MAX];
	struct side side;
	size_t size;

	snprintf(of, sizeof(of), "mysql://%s:%s@tcp(%s:%d)/%s", user, PASSWORD, host, port, database);
	for (; *parameters; parameters++) {
		size = strlen(of);
		if (*parameters == '~')
			snprintf(of + size, sizeof(of) - size, "%s", dir);
		else
			snprintf(of + size, sizeof(of) - size, "%c", *parameters);
	}
	side = side_open(of);
	outcome = ops->read_head(side.conn, &head, &err);
	side_close(&side);
	return outcome;
}

static void tls_is_verified_unless_it_is_told_not_to_be(void)
{
	static const struct {
		const char *form, *host;
		enum sqlb_outcome required, optional; /* when the server insists on TLS, and when it does not */
	} cases[] = {
		{"?tls=false", "127.0.0.1", SQLB_AWAY, SQLB_OK},
		{"?tls=preferred", "127.0.0.1", SQLB_OK, SQLB_OK},
		{"?tls=skip-verify", "127.0.0.1", SQLB_OK, SQLB_OK},
		{"?tls=true", "127.0.0.1", SQLB_AWAY, SQLB_AWAY}, /* nobody of the system's knows it */
		{"?tls=true&ssl-ca=~/ca.pem", "127.0.0.1", SQLB_OK, SQLB_OK},
		{"?ssl-ca=~/ca.pem", "127.0.0.1", SQLB_OK, SQLB_OK},
		{"?ssl-ca=~/other.pem", "127.0.0.1", SQLB_AWAY, SQLB_AWAY},
		{"?ssl-ca=~/nothing.pem", "127.0.0.1", SQLB_AWAY, SQLB_AWAY},
		{"?ssl-ca=~/ca.pem", "localhost", SQLB_AWAY, SQLB_AWAY}, /* not its name */
	};
	struct side side = begin();
	char dir[] = "/tmp/ks-mysql-tls-XXXXXX", text[800];

	CU_ASSERT_PTR_NOT_NULL_FATAL(mkdtemp(dir));
	CU_ASSERT_EQUAL(chmod(dir, 0755), 0);
	CU_ASSERT_TRUE_FATAL(make_certificates(dir));
	CU_ASSERT_EQUAL(head_over("?tls=preferred", dir, "kineshim", "127.0.0.1"),
			SQLB_OK); /* whatever the server has */
	mysql_close(raw);
	snprintf(text, sizeof(text), "--ssl-ca=%s/ca.pem --ssl-cert=%s/server.pem --ssl-key=%s/server.key", dir, dir,
		 dir);
	run_server_command("my_stop", "");
	CU_ASSERT_TRUE_FATAL(run_server_command("my_start", text));
	raw = root_connect();
	use_database();
	for (int required = 0; required < 2; required++) {
		sql(required ? "SET GLOBAL require_secure_transport = 1" : "SET GLOBAL require_secure_transport = 0");
		for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
			enum sqlb_outcome outcome = head_over(cases[i].form, dir, "kineshim", cases[i].host);

			if (outcome != (required ? cases[i].required : cases[i].optional))
				printf("# %s at %s: %s %s\n", cases[i].form, cases[i].host, sqlb_outcome_name(outcome),
				       err.text);
			CU_ASSERT_EQUAL(outcome, required ? cases[i].required : cases[i].optional);
		}
	}
	sql("SET GLOBAL require_secure_transport = 0");
	sql("CREATE USER certified@'%' IDENTIFIED BY '" PASSWORD "' REQUIRE X509");
	sqlf("GRANT ALL ON %s.* TO certified@'%%'", database);
	CU_ASSERT_EQUAL(head_over("?ssl-ca=~/ca.pem", dir, "certified", "127.0.0.1"), SQLB_AWAY);
	CU_ASSERT_EQUAL(
		head_over("?ssl-ca=~/ca.pem&ssl-cert=~/client.pem&ssl-key=~/client.key", dir, "certified", "127.0.0.1"),
		SQLB_OK);
	sql("DROP USER certified@'%'");
	snprintf(text, sizeof(text), "?ssl-ca=%s/ca.pem", dir);
	side_close(&side);
	url_at(url, "kineshim", port, text);
	side = side_open(url);
	OK(append_as(side.conn, 1, 1, 1));
	OK(append_as(side.conn, 2, 1, 2));
	CU_ASSERT_PTR_NOT_NULL(mysql_get_ssl_cipher(side.conn->mysql));
	OK(append_as(side.conn, 3, 42, 3));
	if (reads_ahead(&side))
		check_answers_that_came_together(&side, 4);
	end(&side);
	snprintf(text, sizeof(text), "rm -rf '%s'", dir);
	CU_ASSERT_EQUAL(system(text), 0);
	run_server_command("my_restart", "");
}

static const struct tap_test tests[] = {
	{"urls_say_where_and_who", urls_say_where_and_who},
	{"a_bad_url_is_refused_without_its_secret", a_bad_url_is_refused_without_its_secret},
	{"both_schemes_and_a_socket_work", both_schemes_and_a_socket_work},
	{"an_unreachable_server_is_away", an_unreachable_server_is_away},
	{"a_wrong_password_is_away_and_not_told", a_wrong_password_is_away_and_not_told},
	{"a_listener_that_never_answers_is_away", a_listener_that_never_answers_is_away},
	{"a_server_that_stops_answering_leaves_doubt_that_can_be_settled",
	 a_server_that_stops_answering_leaves_doubt_that_can_be_settled},
	{"appends_on_their_way_are_pending_until_they_are_answered",
	 appends_on_their_way_are_pending_until_they_are_answered},
	{"answers_that_came_together_are_received_one_by_one", answers_that_came_together_are_received_one_by_one},
	{"a_server_that_stops_answering_leaves_all_in_doubt", a_server_that_stops_answering_leaves_all_in_doubt},
	{"an_error_in_the_first_decides_nothing_for_those_behind_it_but_that_they_are_refused",
	 an_error_in_the_first_decides_nothing_for_those_behind_it_but_that_they_are_refused},
	{"what_was_refused_is_not_sent_again", what_was_refused_is_not_sent_again},
	{"nothing_is_sent_through_a_proxy_or_to_another_server", nothing_is_sent_through_a_proxy_or_to_another_server},
	{"an_append_that_was_sent_and_cut_at_any_byte_loses_and_doubles_nothing",
	 an_append_that_was_sent_and_cut_at_any_byte_loses_and_doubles_nothing},
	{"an_append_cut_at_any_byte_loses_and_doubles_nothing", an_append_cut_at_any_byte_loses_and_doubles_nothing},
	{"a_read_that_is_cut_says_why", a_read_that_is_cut_says_why},
	{"a_transaction_cut_at_any_byte_loses_and_doubles_nothing",
	 a_transaction_cut_at_any_byte_loses_and_doubles_nothing},
	{"many_rows_are_one_statement_and_all_or_nothing", many_rows_are_one_statement_and_all_or_nothing},
	{"many_rows_cut_at_any_byte_lose_and_double_nothing", many_rows_cut_at_any_byte_lose_and_double_nothing},
	{"reads_of_many_rows_become_one_statement", reads_of_many_rows_become_one_statement},
	{"a_session_that_ended_while_idle_is_replaced_without_doubt",
	 a_session_that_ended_while_idle_is_replaced_without_doubt},
	{"a_read_only_server_is_away_and_can_be_read", a_read_only_server_is_away_and_can_be_read},
	{"a_lock_held_by_somebody_else_is_away_and_nothing_happened",
	 a_lock_held_by_somebody_else_is_away_and_nothing_happened},
	{"a_lost_column_table_or_right_is_broken_and_can_be_mended",
	 a_lost_column_table_or_right_is_broken_and_can_be_mended},
	{"a_trigger_that_refuses_rows_is_broken", a_trigger_that_refuses_rows_is_broken},
	{"few_rights_are_enough", few_rights_are_enough},
	{"no_setting_of_the_server_matters", no_setting_of_the_server_matters},
	{"a_small_packet_splits_batches_and_refuses_what_never_fits",
	 a_small_packet_splits_batches_and_refuses_what_never_fits},
	{"keys_are_bytes_and_are_shown_to_people", keys_are_bytes_and_are_shown_to_people},
	{"what_a_crash_left_of_making_the_tables_is_finished", what_a_crash_left_of_making_the_tables_is_finished},
	{"who_makes_the_tables_is_waited_for_and_followed_when_gone",
	 who_makes_the_tables_is_waited_for_and_followed_when_gone},
	{"the_gate_follows_a_log_that_was_changed_by_hand", the_gate_follows_a_log_that_was_changed_by_hand},
	{"racing_appenders_and_a_trim_leave_no_gap", racing_appenders_and_a_trim_leave_no_gap},
	{"a_wait_is_prompt_after_activity_and_survives_its_session",
	 a_wait_is_prompt_after_activity_and_survives_its_session},
	{"tls_is_verified_unless_it_is_told_not_to_be", tls_is_verified_unless_it_is_told_not_to_be},
	{NULL, NULL},
};

int main(int argc, char **argv)
{
	const char *top = getenv("top_srcdir");
	char wrapper[1000];

	(void)argc;
	if (!getenv("KS_TEST_MARIADB_SUPER_URL") || !getenv("KS_TEST_SERVERS")) {
		snprintf(wrapper, sizeof(wrapper), "%s/tests/lib/with-mariadb", top ? top : ".");
		execl(wrapper, wrapper, argv[0], (char *)NULL);
		printf("1..0 # SKIP cannot run %s\n", wrapper);
		return 77;
	}
	port = (int)strtol(getenv("KS_TEST_MARIADB_PORT"), NULL, 10);
	settled.server_port = port;
	tap_add("mysql", tests);
	settled_add("mysql appends", &settled);
	return tap_finish();
}
