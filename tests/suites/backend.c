/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One suite for all SQL backends: every slot and every sentence of sqlb.h as a promise.
 *
 *	backend [[LABEL=]URL …]
 *
 * Without arguments it runs on memory, on SQLite in a temporary folder, on PostgreSQL when KS_TEST_POSTGRES_URL is set, and on
 * MariaDB when KS_TEST_MARIADB_URL is (mysql://user:password@tcp(host:port)/database; KS_TEST_MARIADB_SUPER_URL names who may
 * make databases, where that user may not).
 * KINESHIM_TEST_MSSQL is the URL of an SQL Server and of a user who may create databases: the suite runs there twice, with
 * READ_COMMITTED_SNAPSHOT off and on.
 * Every test gets an empty database: a new name, a new file, or a new schema. Time is a fake clock on memory; on a real
 * database short deadlines pass by waiting.
 */
#include "config.h"

#include "tests/suites/backend.h"

#include <time.h>
#include <unistd.h>
#ifdef HAVE_SQLITE
#include <sqlite3.h>
#endif
#ifdef HAVE_POSTGRESQL
#include <libpq-fe.h>
#endif
#ifdef HAVE_MYSQL
#include <mysql.h>
#endif
#ifdef HAVE_ODBC
#include "sqlbackends/mssql_priv.h"
#endif

#define MAX_SLOTS 7

/* ---- the database of the running test ---- */

static char slot_urls[MAX_SLOTS][1024];
static bool slot_versions[MAX_SLOTS]; /* SQL Server: READ_COMMITTED_SNAPSHOT */
static int slot_count;
static char temp_dir[] = "/tmp/ks-backend-XXXXXX";

struct backend_test t;

bool is(const char *backend)
{
	return strcmp(t.ops->name, backend) == 0;
}

bool ok(enum sqlb_outcome outcome, int line)
{
	if (outcome != SQLB_OK)
		printf("# line %d: %s %s\n", line, sqlb_outcome_name(outcome), t.err.text);
	return outcome == SQLB_OK;
}

#ifdef HAVE_MYSQL
/* One statement. The URL is of the one form that servers.sh gives. */
static bool raw_on_mysql(const char *url, const char *sql)
{
	MYSQL *mysql = mysql_init(NULL);
	char user[64], password[64] = "", host[64], database[80];
	unsigned port;
	MYSQL_RES *result;
	bool done;

	done = (sscanf(url, "%*[^:]://%63[^:@]:%63[^@]@tcp(%63[^:]:%u)/%79[^?]", user, password, host, &port,
		       database) == 5 ||
		sscanf(url, "%*[^:]://%63[^:@]@tcp(%63[^:]:%u)/%79[^?]", user, host, &port, database) == 4) &&
	       mysql_real_connect(mysql, host, user, password, database, port, NULL, 0) != NULL;
	done = done && mysql_query(mysql, sql) == 0;
	if (!done)
		printf("# %s: %s\n", sql, mysql_error(mysql));
	if (done && (result = mysql_store_result(mysql)) != NULL)
		mysql_free_result(result);
	mysql_close(mysql);
	return done;
}

static const char *super_mysql(const char *url)
{
	const char *super = getenv("KS_TEST_MARIADB_SUPER_URL");

	return super && *super ? super : url;
}

/* A database of that name, which the URL's user has all rights on; its URL. */
static void make_mysql(const char *base, const char *name, char *url, size_t url_size)
{
	const char *slash = strrchr(base, '/'), *parameters = strchr(base, '?');
	char sql[300], user[64];

	snprintf(sql, sizeof(sql), "CREATE DATABASE %s", name);
	CU_ASSERT_TRUE(raw_on_mysql(super_mysql(base), sql));
	if (super_mysql(base) != base && sscanf(base, "%*[^:]://%63[^:@]", user) == 1) {
		snprintf(sql, sizeof(sql), "GRANT ALL ON %s.* TO '%s'@'%%'", name, user);
		CU_ASSERT_TRUE(raw_on_mysql(super_mysql(base), sql));
	}
	snprintf(url, url_size, "%.*s/%s%s", (int)(slash - base), base, name, parameters ? parameters : "");
}
#endif

#ifdef HAVE_ODBC
/* One batch, on a connection of its own. */
static bool raw_on_mssql(const char *url, const char *sql)
{
	char connection[SQLB_MS_CONNECTION_MAX], driver[257], text[512] = "no driver, or a bad URL";
	struct sqlb_ms_url parsed;
	SQLHENV env = NULL;
	SQLHDBC dbc = NULL;
	SQLHSTMT stmt = NULL;
	SQLRETURN result = SQL_ERROR;

	if (sqlb_ms_parse_url(url, &parsed, &t.err) == KS_OK &&
	    (*parsed.driver || sqlb_ms_find_driver(parsed.driver, sizeof(parsed.driver), &t.err) == KS_OK) &&
	    (size_t)snprintf(driver, sizeof(driver), "%s", parsed.driver) < sizeof(driver) &&
	    sqlb_ms_connection_string(&parsed, driver, connection, &t.err) == KS_OK &&
	    SQL_SUCCEEDED(SQLAllocHandle(SQL_HANDLE_ENV, SQL_NULL_HANDLE, &env)) &&
	    SQL_SUCCEEDED(SQLSetEnvAttr(env, SQL_ATTR_ODBC_VERSION, (SQLPOINTER)SQL_OV_ODBC3, 0)) &&
	    SQL_SUCCEEDED(SQLAllocHandle(SQL_HANDLE_DBC, env, &dbc))) {
		result =
			SQLDriverConnect(dbc, NULL, (SQLCHAR *)connection, SQL_NTS, NULL, 0, NULL, SQL_DRIVER_NOPROMPT);
		if (SQL_SUCCEEDED(result))
			result = SQLAllocHandle(SQL_HANDLE_STMT, dbc, &stmt);
		if (SQL_SUCCEEDED(result))
			result = SQLExecDirect(stmt, (SQLCHAR *)(uintptr_t)sql, SQL_NTS);
		while (SQL_SUCCEEDED(result))
			result = SQLMoreResults(stmt);
		if (result != SQL_NO_DATA)
			(void)SQLGetDiagRec(stmt ? SQL_HANDLE_STMT : SQL_HANDLE_DBC, stmt ? stmt : dbc, 1,
					    (SQLCHAR[6]){0}, &(SQLINTEGER){0}, (SQLCHAR *)text, sizeof(text),
					    &(SQLSMALLINT){0});
	}
	if (result != SQL_NO_DATA)
		printf("# %s: %s\n", sql, text);
	if (stmt)
		SQLFreeHandle(SQL_HANDLE_STMT, stmt);
	if (dbc) {
		SQLDisconnect(dbc);
		SQLFreeHandle(SQL_HANDLE_DBC, dbc);
	}
	if (env)
		SQLFreeHandle(SQL_HANDLE_ENV, env);
	return result == SQL_NO_DATA;
}

/* A database of the test's own, in which readers wait for locks or read old versions. */
static void make_mssql(bool versions)
{
	const char *path = strchr(strstr(t.base, "//") + 2, '/'), *query = strchr(t.base, '?');
	char sql[200];

	CU_ASSERT_PTR_NOT_NULL_FATAL(path);
	snprintf(sql, sizeof(sql), "CREATE DATABASE %s", t.name);
	CU_ASSERT_TRUE(raw_on_mssql(t.base, sql));
	snprintf(sql, sizeof(sql), "ALTER DATABASE %s SET READ_COMMITTED_SNAPSHOT %s", t.name, versions ? "ON" : "OFF");
	CU_ASSERT_TRUE(raw_on_mssql(t.base, sql));
	snprintf(t.url, sizeof(t.url), "%.*s/%s%s", (int)(path - t.base), t.base, t.name, query ? query : "");
}

static void drop_mssql(void)
{
	char sql[200];

	snprintf(sql, sizeof(sql), "ALTER DATABASE %s SET SINGLE_USER WITH ROLLBACK IMMEDIATE; DROP DATABASE %s",
		 t.name, t.name);
	CU_ASSERT_TRUE(raw_on_mssql(t.base, sql));
}
#endif

/* SQL behind the backend's back. */
static bool raw_on(const char *url, const char *sql)
{
	bool done = true;

	(void)url;
#ifdef HAVE_SQLITE
	if (is("sqlite")) {
		sqlite3 *handle;
		char *text = NULL;

		done = sqlite3_open(url + strlen("sqlite://"), &handle) == SQLITE_OK &&
		       sqlite3_busy_timeout(handle, 5000) == SQLITE_OK &&
		       sqlite3_exec(handle, sql, NULL, NULL, &text) == SQLITE_OK;
		if (!done)
			printf("# %s: %s\n", sql, text ? text : "?");
		sqlite3_free(text);
		sqlite3_close(handle);
	}
#endif
#ifdef HAVE_POSTGRESQL
	if (is("postgres")) {
		PGconn *conn = PQconnectdb(url);
		PGresult *result;

		PQclear(PQexec(conn, "SET client_min_messages = warning"));
		result = PQexec(conn, sql);

		done = PQresultStatus(result) == PGRES_COMMAND_OK || PQresultStatus(result) == PGRES_TUPLES_OK;
		if (!done)
			printf("# %s: %s\n", sql, PQerrorMessage(conn));
		PQclear(result);
		PQfinish(conn);
	}
#endif
#ifdef HAVE_MYSQL
	if (is("mysql"))
		done = raw_on_mysql(url, sql);
#endif
#ifdef HAVE_ODBC
	if (is("mssql"))
		done = raw_on_mssql(url, sql);
#endif
	return done;
}

bool raw(const char *sql)
{
	return raw_on(t.raw, sql);
}

void connect_two(void)
{
	CU_ASSERT_EQUAL(t.ops->open(t.url, temp_dir, &t.db, &t.err), KS_OK);
	OK(t.ops->connect(t.db, &t.a, &t.err));
	OK(t.ops->connect(t.db, &t.b, &t.err));
}

void disconnect(void)
{
	t.ops->disconnect(t.a);
	t.ops->disconnect(t.b);
	t.ops->close(t.db);
	t.a = t.b = NULL;
	t.db = NULL;
}

static void run_on(int slot, void (*test)(void))
{
	static unsigned serial;
	char sql[200];

	t.ops = sqlb_find(slot_urls[slot], &t.err);
	serial++;
	snprintf(t.base, sizeof(t.base), "%s", slot_urls[slot]);
	snprintf(t.name, sizeof(t.name), "ks_test_%ld_%u", (long)getpid(), serial);
	if (is("memory")) {
		snprintf(t.url, sizeof(t.url), "memory://%s", t.name);
		ks_clock_init_fake(&t.clock, 1000);
		sqlb_memory_set_clock(t.name, &t.clock);
	} else if (is("sqlite")) {
		snprintf(t.url, sizeof(t.url), "%s.%u", t.base, serial);
#ifdef HAVE_MYSQL
	} else if (is("mysql")) {
		make_mysql(t.base, t.name, t.url, sizeof(t.url));
#endif
#ifdef HAVE_ODBC
	} else if (is("mssql")) {
		make_mssql(slot_versions[slot]);
#endif
	} else {
		/* What is under test may be a pooler or another dialect; what goes on behind its back is neither. */
		const char *direct = getenv("KS_TEST_POSTGRES_URL");

		direct = direct && strchr(t.base, '?') ? direct : t.base;
		snprintf(sql, sizeof(sql), "CREATE SCHEMA %s", t.name);
		CU_ASSERT_TRUE(raw_on(direct, sql));
		snprintf(t.url, sizeof(t.url), "%s%cschema=%s", t.base, strchr(t.base, '?') ? '&' : '?', t.name);
		snprintf(t.raw, sizeof(t.raw), "%s%coptions=-csearch_path%%3D%s", direct,
			 strchr(direct, '?') ? '&' : '?', t.name);
	}
	if (!is("postgres"))
		snprintf(t.raw, sizeof(t.raw), "%s", t.url);
	connect_two();
	test();
	disconnect();
	if (is("memory")) {
		sqlb_memory_forget(t.name);
	} else if (is("sqlite")) {
		static const char *const ends[] = {"", "-wal", "-shm", ".lock"};

		for (size_t i = 0; i < sizeof(ends) / sizeof(*ends); i++) {
			char path[sizeof(t) + 8];

			snprintf(path, sizeof(path), "%s%s", t.url + strlen("sqlite://"), ends[i]);
			(void)unlink(path);
		}
#ifdef HAVE_MYSQL
	} else if (is("mysql")) {
		snprintf(sql, sizeof(sql), "DROP DATABASE %s", t.name);
		CU_ASSERT_TRUE(raw_on_mysql(super_mysql(t.base), sql));
#endif
#ifdef HAVE_ODBC
	} else if (is("mssql")) {
		drop_mssql();
#endif
	} else {
		snprintf(sql, sizeof(sql), "DROP SCHEMA %s CASCADE", t.name);
		CU_ASSERT_TRUE(raw(sql));
	}
}

void migrate(void)
{
	OK(t.ops->migrate(t.a, &t.cluster_id, &t.err));
}

/* Lets the database's time go by. */
void pass_ms(int ms)
{
	struct timespec wait = {.tv_sec = (ms + 15) / 1000, .tv_nsec = (long)((ms + 15) % 1000) * 1000000};

	if (is("memory"))
		ks_clock_advance(&t.clock, ms + 1);
	else
		nanosleep(&wait, NULL);
}

int64_t real_ms(void)
{
	return ks_clock_now(ks_clock_system());
}

/* ---- rows ---- */

struct sqlb_row row_of(int64_t position, int32_t sub, int32_t rows, const char *key)
{
	return (struct sqlb_row){.position = position,
				 .sub = sub,
				 .rows = rows,
				 .kind = 1,
				 .revision = position + 1,
				 .key = ks_slice_str(key),
				 .value = ks_slice_str("value"),
				 .create_revision = 2,
				 .version = 1,
				 .writer = 77,
				 .batch = position};
}

static bool same_slice(struct ks_slice a, struct ks_slice b)
{
	return (a.data == NULL) == (b.data == NULL) && (!a.data || ks_slice_eq(a, b));
}

bool same_row(const struct sqlb_row *a, const struct sqlb_row *b)
{
	return a->position == b->position && a->sub == b->sub && a->rows == b->rows && a->kind == b->kind &&
	       a->revision == b->revision && same_slice(a->key, b->key) && same_slice(a->value, b->value) &&
	       a->create_revision == b->create_revision && a->version == b->version && a->lease == b->lease &&
	       same_slice(a->payload, b->payload) && a->writer == b->writer && a->batch == b->batch;
}

enum sqlb_outcome append_rows(struct sqlb_conn *conn, const struct sqlb_row *rows, size_t count)
{
	struct sqlb_append append = {.rows = rows, .row_count = count};
	bool appended = false;
	enum sqlb_outcome outcome = t.ops->append(conn, &append, &appended, &t.err);

	CU_ASSERT_EQUAL(appended, outcome == SQLB_OK);
	return outcome;
}

/* Appends one entry of 'rows' small rows. */
enum sqlb_outcome append_entry(struct sqlb_conn *conn, int64_t position, int32_t rows)
{
	struct sqlb_row *all = calloc((size_t)rows, sizeof(*all));
	enum sqlb_outcome outcome;

	for (int32_t i = 0; i < rows; i++)
		all[i] = row_of(position, i, rows, "key");
	outcome = append_rows(conn, all, (size_t)rows);
	free(all);
	return outcome;
}

int64_t head_position(void)
{
	struct sqlb_head head = {.position = -1};

	OK(t.ops->read_head(t.b, &head, &t.err));
	return head.position;
}

bool see(void *ctx, const struct sqlb_row *row)
{
	struct seen *seen = ctx;

	if (seen->count < 64)
		seen->locs[seen->count] = (struct sqlb_loc){row->position, row->sub};
	if (seen->expected)
		seen->wrong += seen->count >= seen->expected_count || !same_row(row, &seen->expected[seen->count]);
	if (seen->count && (row->position < seen->last.position ||
			    (row->position == seen->last.position && row->sub <= seen->last.sub)))
		seen->unordered = true;
	seen->last = (struct sqlb_loc){row->position, row->sub};
	seen->count++;
	return seen->count != seen->stop_after;
}

struct seen read_all(struct sqlb_conn *conn, const struct sqlb_row *expected, size_t count)
{
	struct seen seen = {.expected = expected, .expected_count = count};
	bool more = true;

	OK(t.ops->read_rows(conn, 0, -1, SIZE_MAX, see, &seen, &more, &t.err));
	CU_ASSERT_FALSE(more);
	CU_ASSERT_FALSE(seen.unordered);
	CU_ASSERT_EQUAL(seen.wrong, 0);
	return seen;
}

/* ---- all of them, for each URL ---- */

/* CUnit's tests take no argument, so each slot has wrappers of its own. */
#define WRAPPERS(test)             \
	static void test##_0(void) \
	{                          \
		run_on(0, test);   \
	}                          \
	static void test##_1(void) \
	{                          \
		run_on(1, test);   \
	}                          \
	static void test##_2(void) \
	{                          \
		run_on(2, test);   \
	}                          \
	static void test##_3(void) \
	{                          \
		run_on(3, test);   \
	}                          \
	static void test##_4(void) \
	{                          \
		run_on(4, test);   \
	}                          \
	static void test##_5(void) \
	{                          \
		run_on(5, test);   \
	}                          \
	static void test##_6(void) \
	{                          \
		run_on(6, test);   \
	}
TESTS(WRAPPERS)

#define ENTRY_0(test) {#test, test##_0},
#define ENTRY_1(test) {#test, test##_1},
#define ENTRY_2(test) {#test, test##_2},
#define ENTRY_3(test) {#test, test##_3},
#define ENTRY_4(test) {#test, test##_4},
#define ENTRY_5(test) {#test, test##_5},
#define ENTRY_6(test) {#test, test##_6},
static const struct tap_test slot_0[] = {TESTS(ENTRY_0){NULL, NULL}};
static const struct tap_test slot_1[] = {TESTS(ENTRY_1){NULL, NULL}};
static const struct tap_test slot_2[] = {TESTS(ENTRY_2){NULL, NULL}};
static const struct tap_test slot_3[] = {TESTS(ENTRY_3){NULL, NULL}};
static const struct tap_test slot_4[] = {TESTS(ENTRY_4){NULL, NULL}};
static const struct tap_test slot_5[] = {TESTS(ENTRY_5){NULL, NULL}};
static const struct tap_test slot_6[] = {TESTS(ENTRY_6){NULL, NULL}};
static const struct tap_test *const slots[MAX_SLOTS] = {slot_0, slot_1, slot_2, slot_3, slot_4, slot_5, slot_6};

static bool needs_sending(const char *test)
{
#define NAME(test) #test,
	static const char *const names[] = {TESTS_OF_SENDING(NAME)};
#undef NAME

	for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++)
		if (strcmp(test, names[i]) == 0)
			return true;
	return false;
}

/* What the memory backend has no part in: it has no schema, and takes rows that no log would send for a bug, and aborts. */
static bool applies(const struct sqlb_ops *ops, const char *test)
{
	static const char *const not_memory[] = {"a_foreign_log_table_is_broken_and_left_alone",
						 "a_newer_schema_is_broken",
						 "a_row_that_the_database_refuses_undoes_the_batch"};

	for (size_t i = 0; i < sizeof(not_memory) / sizeof(not_memory[0]); i++)
		if (strcmp(ops->name, "memory") == 0 && strcmp(test, not_memory[i]) == 0)
			return false;
	return ops->append_send || !needs_sending(test);
}

static void add_slot(const char *url)
{
	const char *equals = strchr(url, '='), *colon = strchr(url, ':');
	int label_size = equals && colon && equals < colon ? (int)(equals - url) : 0;
	static struct tap_test chosen[MAX_SLOTS][sizeof(slot_0) / sizeof(slot_0[0])];
	size_t count = 0;
	const struct sqlb_ops *ops;
	struct ks_err err;
	char suite[64];

	snprintf(suite, sizeof(suite), "backend %.*s", label_size, url);
	url += label_size ? label_size + 1 : 0;
	ops = sqlb_find(url, &err);
	if (!ops || slot_count == MAX_SLOTS) {
		printf("Bail out! %s\n", ops ? "too many URLs" : err.text);
		exit(99);
	}
	snprintf(slot_urls[slot_count], sizeof(slot_urls[slot_count]), "%s", url);
	if (!label_size)
		snprintf(suite, sizeof(suite), "backend %s", ops->name);
	for (const struct tap_test *test = slots[slot_count]; test->name; test++)
		if (applies(ops, test->name))
			chosen[slot_count][count++] = *test;
	if (!ops->append_send)
		printf("# %s: an append cannot be sent before the last one is answered: not tested\n", suite);
	slot_versions[slot_count] = strncmp(suite, "backend mssql-versions", sizeof(suite)) == 0;
	tap_add(suite, chosen[slot_count++]);
}

/* No SQL Server can be had from a distribution: who has one names it, with a user who may create databases. */
static void needs_mssql(void)
{
	tap_skip("no SQL Server: set KINESHIM_TEST_MSSQL=mssql://user:password@host/master?... to run it");
}

static void add_mssql(void)
{
	static const struct tap_test none[] = {{"all_of_the_suite", needs_mssql}, {NULL, NULL}};
	const char *mssql = getenv("KINESHIM_TEST_MSSQL");
	char labelled[1100];

	if (!mssql || !*mssql) {
		tap_add("backend mssql", none);
		return;
	}
	snprintf(labelled, sizeof(labelled), "mssql-locks=%s", mssql);
	add_slot(labelled);
	snprintf(labelled, sizeof(labelled), "mssql-versions=%s", mssql);
	add_slot(labelled);
}

int main(int argc, char **argv)
{
	const char *postgres = getenv("KS_TEST_POSTGRES_URL"), *mariadb = getenv("KS_TEST_MARIADB_URL");
	char url[200];
	int status;

	if (!mkdtemp(temp_dir)) {
		printf("Bail out! %s: cannot create\n", temp_dir);
		return 99;
	}
	for (int i = 1; i < argc; i++)
		add_slot(argv[i]);
	if (argc == 1) {
		add_slot("memory://suite");
#ifdef HAVE_SQLITE
		snprintf(url, sizeof(url), "sqlite://%s/suite.db", temp_dir);
		add_slot(url);
#endif
#ifdef HAVE_POSTGRESQL
		if (postgres)
			add_slot(postgres);
#endif
#ifdef HAVE_MYSQL
		if (mariadb)
			add_slot(mariadb);
#endif
		add_mssql();
	}
	(void)url;
	(void)postgres;
	(void)mariadb;
	status = tap_finish();
	(void)rmdir(temp_dir);
	return status;
}
