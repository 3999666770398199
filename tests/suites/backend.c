/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One suite for all SQL backends: every slot and every sentence of sqlb.h as a promise.
 *
 *	backend [URL …]
 *
 * Without arguments it runs on memory, on SQLite in a temporary folder, and on PostgreSQL when KS_TEST_POSTGRES_URL is set.
 * Every test gets an empty database: a new name, a new file, or a new schema. Time is a fake clock on memory; on a real
 * database short deadlines pass by waiting.
 */
#include "config.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>
#ifdef HAVE_SQLITE
#include <sqlite3.h>
#endif
#ifdef HAVE_POSTGRESQL
#include <libpq-fe.h>
#endif

#include "base/clock.h"
#include "sqlbackends/memory.h"
#include "sqlbackends/sqlb.h"
#include "tests/lib/tap.h"

#define MAX_SLOTS 4
#define SHORT_MS 60 /* a deadline that a test waits for */
#define LONG_MS 60000

/* ---- the database of the running test ---- */

static char slot_urls[MAX_SLOTS][1024];
static int slot_count;
static char temp_dir[] = "/tmp/ks-backend-XXXXXX";

static struct {
	const struct sqlb_ops *ops;
	char base[1024]; /* the URL of the slot */
	char url[1200];  /* of this test's own database */
	char name[64];   /* of the memory database or the schema */
	struct ks_clock clock;
	struct sqlb_db *db;
	struct sqlb_conn *a, *b;
	uint64_t cluster_id;
	struct ks_err err;
} t;

static bool is(const char *backend)
{
	return strcmp(t.ops->name, backend) == 0;
}

static bool ok(enum sqlb_outcome outcome, int line)
{
	if (outcome != SQLB_OK)
		printf("# line %d: %s %s\n", line, sqlb_outcome_name(outcome), t.err.text);
	return outcome == SQLB_OK;
}

#define OK(call)                                     \
	do {                                         \
		CU_ASSERT_TRUE(ok((call), __LINE__)) \
	} while (0)

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
		PGresult *result = PQexec(conn, sql);

		done = PQresultStatus(result) == PGRES_COMMAND_OK || PQresultStatus(result) == PGRES_TUPLES_OK;
		if (!done)
			printf("# %s: %s\n", sql, PQerrorMessage(conn));
		PQclear(result);
		PQfinish(conn);
	}
#endif
	return done;
}

static bool raw(const char *sql)
{
	return raw_on(t.url, sql);
}

static void connect_two(void)
{
	CU_ASSERT_EQUAL(t.ops->open(t.url, temp_dir, &t.db, &t.err), KS_OK);
	OK(t.ops->connect(t.db, &t.a, &t.err));
	OK(t.ops->connect(t.db, &t.b, &t.err));
}

static void disconnect(void)
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
	} else {
		snprintf(sql, sizeof(sql), "CREATE SCHEMA %s", t.name);
		CU_ASSERT_TRUE(raw_on(t.base, sql));
		snprintf(t.url, sizeof(t.url), "%s%coptions=-csearch_path%%3D%s", t.base,
			 strchr(t.base, '?') ? '&' : '?', t.name);
	}
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
	} else {
		snprintf(sql, sizeof(sql), "DROP SCHEMA %s CASCADE", t.name);
		CU_ASSERT_TRUE(raw_on(t.base, sql));
	}
}

static void migrate(void)
{
	OK(t.ops->migrate(t.a, &t.cluster_id, &t.err));
}

/* Lets the database's time go by. */
static void pass_ms(int ms)
{
	struct timespec wait = {.tv_sec = (ms + 15) / 1000, .tv_nsec = (long)((ms + 15) % 1000) * 1000000};

	if (is("memory"))
		ks_clock_advance(&t.clock, ms + 1);
	else
		nanosleep(&wait, NULL);
}

static int64_t real_ms(void)
{
	return ks_clock_now(ks_clock_system());
}

/* ---- rows ---- */

static struct sqlb_row row_of(int64_t position, int32_t sub, int32_t rows, const char *key)
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

static bool same_row(const struct sqlb_row *a, const struct sqlb_row *b)
{
	return a->position == b->position && a->sub == b->sub && a->rows == b->rows && a->kind == b->kind &&
	       a->revision == b->revision && same_slice(a->key, b->key) && same_slice(a->value, b->value) &&
	       a->create_revision == b->create_revision && a->version == b->version && a->lease == b->lease &&
	       same_slice(a->payload, b->payload) && a->writer == b->writer && a->batch == b->batch;
}

static enum sqlb_outcome append_rows(struct sqlb_conn *conn, const struct sqlb_row *rows, size_t count)
{
	struct sqlb_append append = {.rows = rows, .row_count = count};
	bool appended = false;
	enum sqlb_outcome outcome = t.ops->append(conn, &append, &appended, &t.err);

	CU_ASSERT_EQUAL(appended, outcome == SQLB_OK);
	return outcome;
}

/* Appends one entry of 'rows' small rows. */
static enum sqlb_outcome append_entry(struct sqlb_conn *conn, int64_t position, int32_t rows)
{
	struct sqlb_row *all = calloc((size_t)rows, sizeof(*all));
	enum sqlb_outcome outcome;

	for (int32_t i = 0; i < rows; i++)
		all[i] = row_of(position, i, rows, "key");
	outcome = append_rows(conn, all, (size_t)rows);
	free(all);
	return outcome;
}

static int64_t head_position(void)
{
	struct sqlb_head head = {.position = -1};

	OK(t.ops->read_head(t.b, &head, &t.err));
	return head.position;
}

/* What a read visited: how much, in which order, and whether each row was equal to the expected one. */
struct seen {
	size_t count;
	struct sqlb_loc locs[64]; /* of the first ones */
	const struct sqlb_row *expected;
	size_t expected_count;
	size_t wrong;
	bool unordered;
	size_t stop_after; /* 0: never */
	struct sqlb_loc last;
};

static bool see(void *ctx, const struct sqlb_row *row)
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

static struct seen read_all(struct sqlb_conn *conn, const struct sqlb_row *expected, size_t count)
{
	struct seen seen = {.expected = expected, .expected_count = count};
	bool more = true;

	OK(t.ops->read_rows(conn, 0, -1, SIZE_MAX, see, &seen, &more, &t.err));
	CU_ASSERT_FALSE(more);
	CU_ASSERT_FALSE(seen.unordered);
	CU_ASSERT_EQUAL(seen.wrong, 0);
	return seen;
}

/* ---- migrate ---- */

static void migrating_again_changes_nothing(void)
{
	uint64_t again = 0;

	migrate();
	CU_ASSERT_NOT_EQUAL(t.cluster_id, 0);
	OK(append_entry(t.a, 1, 1));
	OK(t.ops->migrate(t.b, &again, &t.err));
	CU_ASSERT_EQUAL(again, t.cluster_id);
	CU_ASSERT_EQUAL(head_position(), 1);
}

static void a_new_process_finds_the_same_log_and_cluster(void)
{
	uint64_t before;

	migrate();
	before = t.cluster_id;
	OK(append_entry(t.a, 1, 3));
	disconnect();
	connect_two();
	migrate();
	CU_ASSERT_EQUAL(t.cluster_id, before);
	CU_ASSERT_EQUAL(head_position(), 1);
	CU_ASSERT_EQUAL(read_all(t.a, NULL, 0).count, 3);
}

struct migration {
	uint64_t cluster_id;
	enum sqlb_outcome outcome;
	struct ks_err err;
};

static void *migrate_in_thread(void *arg)
{
	struct migration *migration = arg;
	struct sqlb_conn *conn;

	migration->outcome = t.ops->connect(t.db, &conn, &migration->err);
	if (migration->outcome != SQLB_OK)
		return NULL;
	migration->outcome = t.ops->migrate(conn, &migration->cluster_id, &migration->err);
	t.ops->disconnect(conn);
	return NULL;
}

static void migrating_from_four_connections_at_once_gives_one_schema(void)
{
	pthread_t threads[4];
	struct migration migrations[4] = {0};

	for (int i = 0; i < 4; i++)
		CU_ASSERT_EQUAL_FATAL(pthread_create(&threads[i], NULL, migrate_in_thread, &migrations[i]), 0);
	for (int i = 0; i < 4; i++) {
		pthread_join(threads[i], NULL);
		CU_ASSERT_EQUAL(migrations[i].outcome, SQLB_OK);
		if (migrations[i].outcome != SQLB_OK)
			printf("# %s\n", migrations[i].err.text);
		CU_ASSERT_EQUAL(migrations[i].cluster_id, migrations[0].cluster_id);
	}
	CU_ASSERT_EQUAL(head_position(), 0);
}

static void a_foreign_log_table_is_broken_and_left_alone(void)
{
	uint64_t id;

	if (is("memory"))
		return;
	CU_ASSERT_TRUE(raw("CREATE TABLE kineshim_log (mine INTEGER)"));
	t.err.text[0] = '\0';
	CU_ASSERT_EQUAL(t.ops->migrate(t.a, &id, &t.err), SQLB_BROKEN);
	CU_ASSERT_PTR_NOT_NULL(strstr(t.err.text, "kineshim"));
	CU_ASSERT_TRUE(raw("INSERT INTO kineshim_log (mine) VALUES (1)"));
	CU_ASSERT_TRUE(raw("CREATE TABLE kineshim_meta (mine INTEGER)"));
	CU_ASSERT_EQUAL(t.ops->migrate(t.a, &id, &t.err), SQLB_BROKEN);
	CU_ASSERT_TRUE(raw("DROP TABLE kineshim_meta"));
	CU_ASSERT_TRUE(raw("CREATE TABLE kineshim_meta (name TEXT PRIMARY KEY, value TEXT)"));
	CU_ASSERT_TRUE(raw("INSERT INTO kineshim_meta VALUES ('program', 'something else'), ('schema_version', '1')"));
	CU_ASSERT_EQUAL(t.ops->migrate(t.a, &id, &t.err), SQLB_BROKEN);
	CU_ASSERT_PTR_NOT_NULL(strstr(t.err.text, "kineshim"));
}

static void a_newer_schema_is_broken(void)
{
	uint64_t id;

	if (is("memory"))
		return;
	migrate();
	CU_ASSERT_TRUE(raw("UPDATE kineshim_meta SET value = '1000' WHERE name = 'schema_version'"));
	t.err.text[0] = '\0';
	CU_ASSERT_EQUAL(t.ops->migrate(t.b, &id, &t.err), SQLB_BROKEN);
	CU_ASSERT_PTR_NOT_NULL(strstr(t.err.text, "newer"));
	CU_ASSERT_TRUE(raw("UPDATE kineshim_meta SET value = '1' WHERE name = 'schema_version'"));
	OK(t.ops->migrate(t.b, &id, &t.err));
}

/* ---- append ---- */

static void an_empty_log_has_head_zero_and_no_rows(void)
{
	struct sqlb_head head = {9, 9, 9, 9};

	migrate();
	OK(t.ops->read_head(t.a, &head, &t.err));
	CU_ASSERT_EQUAL(head.position, 0);
	CU_ASSERT_EQUAL(head.revision, 0);
	CU_ASSERT_EQUAL(read_all(t.a, NULL, 0).count, 0);
}

static void every_column_comes_back_as_it_went_in(void)
{
	static const uint8_t bytes[] = {0x00, 0xff, 'a', 0x00, '\\', '\'', 0x80, 0xfe, 0x00};
	const struct ks_slice null = {0}, empty = ks_slice_of("", 0), binary = ks_slice_of(bytes, sizeof(bytes));
	struct sqlb_row rows[] = {
		{.position = 1,
		 .rows = 2,
		 .kind = 32767,
		 .revision = INT64_MAX,
		 .key = binary,
		 .value = empty,
		 .create_revision = INT64_MAX - 1,
		 .version = INT64_MAX - 2,
		 .lease = INT64_MIN,
		 .payload = null,
		 .writer = INT64_MIN + 1,
		 .batch = -1},
		{.position = 1,
		 .sub = 1,
		 .rows = 2,
		 .kind = -32768,
		 .revision = 1,
		 .key = null,
		 .value = null,
		 .payload = binary,
		 .writer = 5,
		 .batch = 6},
		{.position = 2,
		 .rows = 1,
		 .kind = 3,
		 .revision = 2,
		 .key = empty,
		 .value = binary,
		 .payload = empty,
		 .writer = 5,
		 .batch = 7},
	};
	struct sqlb_head head;
	bool all_right;

	migrate();
	OK(append_rows(t.a, rows, 3));
	all_right = read_all(t.b, rows, 3).count == 3;
	CU_ASSERT_TRUE(all_right);
	OK(t.ops->read_head(t.b, &head, &t.err));
	CU_ASSERT_EQUAL(head.position, 2);
	CU_ASSERT_EQUAL(head.revision, 2);
	CU_ASSERT_EQUAL(head.writer, 5);
	CU_ASSERT_EQUAL(head.batch, 7);
}

static void a_taken_position_conflicts_and_leaves_nothing(void)
{
	struct sqlb_row rows[] = {row_of(2, 0, 1, "x"), row_of(3, 0, 1, "y")};
	struct sqlb_lease lease = {.id = 5, .ttl_ms = LONG_MS};
	struct sqlb_append append = {.rows = rows, .row_count = 2, .leases_new = &lease, .leases_new_count = 1};
	bool appended = true;

	migrate();
	OK(append_entry(t.a, 1, 2));
	OK(append_entry(t.a, 2, 2));
	CU_ASSERT_EQUAL(t.ops->append(t.b, &append, &appended, &t.err), SQLB_CONFLICT);
	CU_ASSERT_FALSE(appended);
	CU_ASSERT_EQUAL(head_position(), 2);
	CU_ASSERT_EQUAL(read_all(t.a, NULL, 0).count, 4);
	OK(t.ops->lease_read(t.b, &lease, 1, &t.err));
	CU_ASSERT_FALSE(lease.found);
	OK(append_entry(t.b, 3, 1)); /* the connection is as good as before */
}

static void the_same_batch_again_conflicts_with_itself(void)
{
	struct sqlb_head head;

	migrate();
	OK(append_entry(t.a, 1, 1));
	CU_ASSERT_EQUAL(append_entry(t.a, 1, 1), SQLB_CONFLICT);
	OK(t.ops->read_head(t.a, &head, &t.err));
	CU_ASSERT_EQUAL(head.writer, 77);
	CU_ASSERT_EQUAL(head.batch, 1);
}

static void an_append_behind_a_gap_conflicts(void)
{
	migrate();
	CU_ASSERT_EQUAL(append_entry(t.a, 2, 1), SQLB_CONFLICT);
	OK(append_entry(t.a, 1, 1));
	CU_ASSERT_EQUAL(append_entry(t.a, 3, 1), SQLB_CONFLICT);
	CU_ASSERT_EQUAL(read_all(t.a, NULL, 0).count, 1);
}

static void an_append_into_a_trimmed_hole_conflicts(void)
{
	const struct sqlb_loc hole = {2, 0};

	migrate();
	for (int64_t position = 1; position <= 3; position++)
		OK(append_entry(t.a, position, 1));
	OK(t.ops->trim(t.a, &hole, 1, &t.err));
	CU_ASSERT_EQUAL(append_entry(t.b, 2, 1), SQLB_CONFLICT);
	CU_ASSERT_EQUAL(read_all(t.a, NULL, 0).count, 2);
}

struct racer {
	struct sqlb_conn *conn;
	int64_t writer;
	int entries;
	unsigned conflicts, failures;
};

static void *race(void *arg)
{
	struct racer *racer = arg;
	struct sqlb_head head = {0};
	struct ks_err err;

	for (int batch = 1; batch <= racer->entries;) {
		struct sqlb_row rows[] = {row_of(head.position + 1, 0, 2, "k"), row_of(head.position + 1, 1, 2, "k")};
		struct sqlb_append append = {.rows = rows, .row_count = 2};
		bool appended;

		rows[0].writer = rows[1].writer = racer->writer;
		rows[0].batch = rows[1].batch = batch;
		switch (t.ops->append(racer->conn, &append, &appended, &err)) {
		case SQLB_OK:
			batch++;
			head.position++;
			continue;
		case SQLB_CONFLICT:
			racer->conflicts++;
			break;
		case SQLB_DOUBT:
		case SQLB_AWAY:
		case SQLB_BROKEN:
			printf("# append: %s\n", err.text);
			racer->failures++;
			return NULL;
		}
		if (t.ops->read_head(racer->conn, &head, &err) != SQLB_OK) {
			racer->failures++;
			return NULL;
		}
	}
	return NULL;
}

struct order {
	int64_t next_position;
	int32_t next_sub;
	int64_t last_batch[3]; /* by writer */
	bool wrong;
};

static bool check_order(void *ctx, const struct sqlb_row *row)
{
	struct order *order = ctx;

	order->wrong |= row->position != order->next_position || row->sub != order->next_sub || row->rows != 2 ||
			row->writer < 1 || row->writer > 2;
	if (order->wrong)
		return false;
	if (row->sub == 0)
		order->wrong |= row->batch != ++order->last_batch[row->writer];
	else
		order->wrong |= row->batch != order->last_batch[row->writer];
	order->next_sub = !row->sub;
	order->next_position += row->sub;
	return true;
}

static void two_racing_writers_leave_no_gap_and_lose_nothing(void)
{
	struct racer racers[2] = {{.conn = t.a, .writer = 1, .entries = 150},
				  {.conn = t.b, .writer = 2, .entries = 150}};
	struct order order = {.next_position = 1};
	pthread_t threads[2];
	bool more;

	migrate();
	for (int i = 0; i < 2; i++)
		CU_ASSERT_EQUAL_FATAL(pthread_create(&threads[i], NULL, race, &racers[i]), 0);
	for (int i = 0; i < 2; i++) {
		pthread_join(threads[i], NULL);
		CU_ASSERT_EQUAL(racers[i].failures, 0);
	}
	OK(t.ops->read_rows(t.a, 0, -1, SIZE_MAX, check_order, &order, &more, &t.err));
	CU_ASSERT_FALSE(order.wrong);
	CU_ASSERT_EQUAL(order.next_position, 301);
}

static void large_values_come_back(void)
{
	const size_t size = 1500000;
	uint8_t *value = malloc(size);
	struct sqlb_row rows[4];

	for (size_t i = 0; i < size; i++)
		value[i] = (uint8_t)(i * 7 + (i >> 8));
	for (int i = 0; i < 4; i++) {
		rows[i] = row_of(i < 2 ? 1 : i, i < 2 ? i : 0, i < 2 ? 2 : 1, "large");
		rows[i].value = ks_slice_of(value, size - (size_t)i);
	}
	rows[3].value = ks_slice_of(NULL, 0);
	rows[3].payload = ks_slice_of(value, size);
	migrate();
	OK(append_rows(t.a, rows, 4));
	CU_ASSERT_EQUAL(read_all(t.b, rows, 4).count, 4);
	free(value);
}

/* 'count' rows with keys of their own: entries of 'per_entry' rows from position 'first' on. */
static struct sqlb_row *many_rows(size_t count, int32_t per_entry, int64_t first, char (**keys)[24])
{
	struct sqlb_row *rows = calloc(count, sizeof(*rows));

	*keys = calloc(count, sizeof(**keys));
	for (size_t i = 0; i < count; i++) {
		snprintf((*keys)[i], sizeof(**keys), "key%zu", i);
		rows[i] =
			row_of(first + (int64_t)i / per_entry, (int32_t)(i % (size_t)per_entry), per_entry, (*keys)[i]);
	}
	return rows;
}

static void a_batch_of_the_maximum_comes_back(void)
{
	char(*keys)[24];
	struct sqlb_row *rows = many_rows(SQLB_MAX_ROWS, 4, 1, &keys);

	migrate();
	OK(append_rows(t.a, rows, SQLB_MAX_ROWS));
	CU_ASSERT_EQUAL(read_all(t.b, rows, SQLB_MAX_ROWS).count, SQLB_MAX_ROWS);
	CU_ASSERT_EQUAL(head_position(), SQLB_MAX_ROWS / 4);
	free(rows);
	free(keys);
}

static void an_entry_of_100000_rows_is_all_or_nothing(void)
{
	const size_t count = 100000;
	char(*keys)[24];
	struct sqlb_row *rows = many_rows(count, (int32_t)count, 1, &keys);
	struct seen seen = {.expected = rows, .expected_count = count};
	bool more;

	migrate();
	OK(append_rows(t.a, rows, count));
	CU_ASSERT_EQUAL(append_rows(t.a, rows, count), SQLB_CONFLICT);
	/* It is one entry, so a small limit does not cut it. */
	OK(t.ops->read_rows(t.b, 0, -1, 10, see, &seen, &more, &t.err));
	CU_ASSERT_FALSE(more);
	CU_ASSERT_EQUAL(seen.count, count);
	CU_ASSERT_EQUAL(seen.wrong, 0);
	free(rows);
	free(keys);
}

/* A batch larger than what a driver sends at once that fails at its last row must not leave the first ones. */
static void a_row_that_the_database_refuses_undoes_the_batch(void)
{
	char(*keys)[24];
	struct sqlb_row *rows = many_rows(20000, 1, 1, &keys);

	migrate();
	rows[19999].position = 1; /* the primary key refuses it. The memory backend takes it for the bug that it is */
	if (!is("memory")) {
		CU_ASSERT_NOT_EQUAL(append_rows(t.a, rows, 20000), SQLB_OK);
		CU_ASSERT_EQUAL(head_position(), 0);
	}
	free(rows);
	free(keys);
}

/* ---- reading ---- */

static void reads_stop_between_entries_only(void)
{
	static const int32_t sizes[] = {1, 3, 2, 5, 1};
	struct seen seen;
	bool more;

	migrate();
	for (int i = 0; i < 5; i++)
		OK(append_entry(t.a, i + 1, sizes[i]));
	/* A row is 8 bytes of key and value. */
	for (size_t max = 0; max <= 13 * 8; max += 4) {
		int64_t after = 0;
		size_t total = 0;
		unsigned reads = 0;

		do {
			seen = (struct seen){0};
			OK(t.ops->read_rows(t.b, after, -1, max, see, &seen, &more, &t.err));
			CU_ASSERT_TRUE(seen.count > 0);
			CU_ASSERT_FALSE(seen.unordered);
			if (seen.count == 0)
				break;
			CU_ASSERT_EQUAL(seen.locs[0].position, after + 1);
			CU_ASSERT_EQUAL(seen.locs[0].sub, 0);
			CU_ASSERT_EQUAL(seen.last.sub, sizes[seen.last.position - 1] - 1);
			after = seen.last.position;
			total += seen.count;
			CU_ASSERT_EQUAL(more, after < 5);
		} while (more && ++reads < 10);
		CU_ASSERT_EQUAL(total, 12);
		if (max <= 8)
			CU_ASSERT_EQUAL(reads, 4); /* one entry each, the last one does not count here */
		if (max > 12 * 8)
			CU_ASSERT_EQUAL(reads, 0);
	}
}

static void reads_keep_to_their_bounds(void)
{
	static const struct {
		int64_t after, to;
		size_t count;
	} cases[] = {{0, -1, 10}, {0, 0, 0}, {0, 1, 2}, {2, 4, 4},   {4, -1, 2},         {4, 5, 2},
		     {5, -1, 0},  {5, 9, 0}, {3, 2, 0}, {99, -1, 0}, {INT64_MAX, -1, 0}, {0, INT64_MAX, 10}};
	bool more;

	migrate();
	for (int64_t position = 1; position <= 5; position++)
		OK(append_entry(t.a, position, 2));
	for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
		struct seen seen = {0};

		more = true;
		OK(t.ops->read_rows(t.b, cases[i].after, cases[i].to, SIZE_MAX, see, &seen, &more, &t.err));
		CU_ASSERT_EQUAL(seen.count, cases[i].count);
		CU_ASSERT_FALSE(more); /* 'to' bounds what counts as left */
	}
}

static void a_visitor_may_stop_and_the_connection_goes_on(void)
{
	const struct sqlb_loc locs[] = {{1, 0}, {2, 0}, {3, 0}};
	struct seen seen = {.stop_after = 2};
	bool more = false;

	migrate();
	for (int64_t position = 1; position <= 3; position++)
		OK(append_entry(t.a, position, 1));
	OK(t.ops->read_rows(t.a, 0, -1, SIZE_MAX, see, &seen, &more, &t.err));
	CU_ASSERT_EQUAL(seen.count, 2);
	CU_ASSERT_TRUE(more);
	seen = (struct seen){.stop_after = 1};
	OK(t.ops->read_at(t.a, locs, 3, see, &seen, &t.err));
	CU_ASSERT_EQUAL(seen.count, 1);
	OK(append_entry(t.a, 4, 1));
	CU_ASSERT_EQUAL(read_all(t.a, NULL, 0).count, 4);
}

struct meddler {
	struct seen seen;
	bool done;
};

static bool meddle(void *ctx, const struct sqlb_row *row)
{
	struct meddler *meddler = ctx;
	const struct sqlb_loc loc = {2, 1};

	if (!meddler->done) {
		meddler->done = true;
		OK(append_entry(t.b, 4, 1));
		OK(t.ops->trim(t.b, &loc, 1, &t.err));
	}
	return see(&meddler->seen, row);
}

static void a_read_sees_one_snapshot(void)
{
	struct meddler meddler = {0};
	bool more = true;

	migrate();
	for (int64_t position = 1; position <= 3; position++)
		OK(append_entry(t.a, position, 2));
	OK(t.ops->read_rows(t.a, 0, -1, SIZE_MAX, meddle, &meddler, &more, &t.err));
	CU_ASSERT_FALSE(more);
	CU_ASSERT_EQUAL(meddler.seen.count, 6);
	CU_ASSERT_EQUAL(read_all(t.a, NULL, 0).count, 6); /* one more, one less */
	CU_ASSERT_EQUAL(head_position(), 4);
}

struct found {
	unsigned count;
	unsigned mask;
};

static bool find(void *ctx, const struct sqlb_row *row)
{
	struct found *found = ctx;

	found->count++;
	found->mask |= 1u << (2 * row->position + row->sub);
	CU_ASSERT_TRUE(ks_slice_eq(row->value, ks_slice_str("value")));
	return true;
}

static void read_at_visits_those_that_exist(void)
{
	const struct sqlb_loc locs[] = {{3, 1}, {1, 0}, {9, 0}, {1, 7}, {2, 1}, {INT64_MAX, 0}};
	struct sqlb_loc *many = calloc(2000, sizeof(*many));
	struct found found = {0};

	migrate();
	for (int64_t position = 1; position <= 3; position++)
		OK(append_entry(t.a, position, 2));
	OK(t.ops->read_at(t.b, locs, 6, find, &found, &t.err));
	CU_ASSERT_EQUAL(found.count, 3);
	CU_ASSERT_EQUAL(found.mask, 1u << 7 | 1u << 2 | 1u << 5);
	found = (struct found){0};
	OK(t.ops->read_at(t.b, locs + 1, 1, find, &found, &t.err));
	CU_ASSERT_EQUAL(found.count, 1);
	found = (struct found){0};
	OK(t.ops->read_at(t.b, NULL, 0, find, &found, &t.err));
	CU_ASSERT_EQUAL(found.count, 0);
	for (int i = 0; i < 2000; i++)
		many[i] = (struct sqlb_loc){i + 1, 0};
	OK(t.ops->read_at(t.b, many, 2000, find, &found, &t.err));
	CU_ASSERT_EQUAL(found.count, 3);
	free(many);
}

/* ---- trim ---- */

static void trimming_removes_just_these_rows(void)
{
	const struct sqlb_loc gone[] = {{1, 0}, {2, 1}, {2, 1}, {2, 9}, {7, 0}};
	const struct sqlb_loc left[] = {{1, 1}, {2, 0}, {3, 0}, {3, 1}};
	struct seen seen;

	migrate();
	for (int64_t position = 1; position <= 3; position++)
		OK(append_entry(t.a, position, 2));
	OK(t.ops->trim(t.a, gone, 5, &t.err));
	OK(t.ops->trim(t.a, gone, 5, &t.err)); /* again: they are gone already */
	OK(t.ops->trim(t.a, NULL, 0, &t.err));
	seen = read_all(t.b, NULL, 0);
	CU_ASSERT_EQUAL(seen.count, 4);
	for (size_t i = 0; i < 4; i++)
		CU_ASSERT_TRUE(seen.locs[i].position == left[i].position && seen.locs[i].sub == left[i].sub);
	CU_ASSERT_EQUAL(head_position(), 3);
}

static void the_head_survives_trimming_of_all_before(void)
{
	struct sqlb_loc locs[1000];
	struct sqlb_head head;
	char(*keys)[24];
	struct sqlb_row *rows = many_rows(1001, 1, 1, &keys);

	migrate();
	OK(append_rows(t.a, rows, 1001));
	for (int i = 0; i < 1000; i++)
		locs[i] = (struct sqlb_loc){i + 1, 0};
	OK(t.ops->trim(t.a, locs, 1000, &t.err));
	OK(t.ops->read_head(t.b, &head, &t.err));
	CU_ASSERT_EQUAL(head.position, 1001);
	CU_ASSERT_EQUAL(head.revision, 1002);
	CU_ASSERT_EQUAL(read_all(t.b, NULL, 0).count, 1);
	OK(append_entry(t.b, 1002, 1));
	free(rows);
	free(keys);
}

/* ---- leases ---- */

/* An entry of one row at 'position' with the lease changes of 'append'. */
static bool append_leases(struct sqlb_conn *conn, int64_t position, struct sqlb_append append)
{
	struct sqlb_row row = row_of(position, 0, 1, "l");
	bool appended = false;

	append.rows = &row;
	append.row_count = 1;
	OK(t.ops->append(conn, &append, &appended, &t.err));
	return appended;
}

static void grant(int64_t position, int64_t id, int64_t ttl_ms)
{
	struct sqlb_lease lease = {.id = id, .ttl_ms = ttl_ms};

	CU_ASSERT_TRUE(append_leases(t.a, position, (struct sqlb_append){.leases_new = &lease, .leases_new_count = 1}));
}

static struct sqlb_lease lease_of(int64_t id)
{
	struct sqlb_lease lease = {.id = id};

	OK(t.ops->lease_read(t.b, &lease, 1, &t.err));
	return lease;
}

static void appends_create_overwrite_and_remove_leases(void)
{
	const struct sqlb_lease three[] = {{.id = 1, .ttl_ms = LONG_MS},
					   {.id = INT64_MAX, .ttl_ms = 2 * LONG_MS},
					   {.id = 3, .ttl_ms = 3 * LONG_MS}};
	const int64_t gone[] = {1, 3, 99};
	struct sqlb_lease lease;

	migrate();
	CU_ASSERT_TRUE(append_leases(t.a, 1, (struct sqlb_append){.leases_new = three, .leases_new_count = 3}));
	lease = lease_of(INT64_MAX);
	CU_ASSERT_TRUE(lease.found);
	CU_ASSERT_EQUAL(lease.ttl_ms, 2 * LONG_MS);
	CU_ASSERT_TRUE(lease.remaining_ms > LONG_MS && lease.remaining_ms <= 2 * LONG_MS);
	grant(2, 3, 9 * LONG_MS);
	CU_ASSERT_EQUAL(lease_of(3).ttl_ms, 9 * LONG_MS);
	CU_ASSERT_TRUE(append_leases(t.b, 3, (struct sqlb_append){.leases_gone = gone, .leases_gone_count = 3}));
	CU_ASSERT_FALSE(lease_of(1).found);
	CU_ASSERT_FALSE(lease_of(3).found);
	CU_ASSERT_TRUE(lease_of(INT64_MAX).found);
}

static void expiry_before_the_deadline_appends_nothing(void)
{
	const int64_t ids[] = {1, 2};
	struct sqlb_append append = {.leases_expired = ids, .leases_expired_count = 1};

	migrate();
	grant(1, 1, LONG_MS);
	CU_ASSERT_FALSE(append_leases(t.b, 2, append));
	CU_ASSERT_EQUAL(head_position(), 1);
	CU_ASSERT_TRUE(lease_of(1).found);
	append.leases_expired = &ids[1]; /* does not exist */
	CU_ASSERT_FALSE(append_leases(t.b, 2, append));
	CU_ASSERT_EQUAL(head_position(), 1);
	OK(append_entry(t.b, 2, 1));
}

static void expiry_past_the_deadline_appends_and_removes(void)
{
	const int64_t id = 1;

	migrate();
	grant(1, 1, SHORT_MS);
	pass_ms(SHORT_MS);
	CU_ASSERT_TRUE(lease_of(1).remaining_ms < 0);
	CU_ASSERT_TRUE(append_leases(t.b, 2, (struct sqlb_append){.leases_expired = &id, .leases_expired_count = 1}));
	CU_ASSERT_FALSE(lease_of(1).found);
	CU_ASSERT_EQUAL(head_position(), 2);
}

static void one_lease_that_lives_keeps_all_from_expiring(void)
{
	const int64_t ids[] = {1, 2, 3};
	struct sqlb_append append = {.leases_expired = ids, .leases_expired_count = 3};

	migrate();
	grant(1, 1, SHORT_MS);
	grant(2, 2, LONG_MS);
	grant(3, 3, SHORT_MS);
	pass_ms(SHORT_MS);
	CU_ASSERT_FALSE(append_leases(t.b, 4, append));
	CU_ASSERT_TRUE(lease_of(1).found && lease_of(2).found && lease_of(3).found);
	CU_ASSERT_EQUAL(head_position(), 3);
}

static void touching_renews_the_living_only(void)
{
	struct sqlb_lease leases[] = {{.id = 1}, {.id = 2}, {.id = 3}};

	migrate();
	grant(1, 1, SHORT_MS);
	grant(2, 2, LONG_MS);
	pass_ms(SHORT_MS);
	OK(t.ops->lease_touch(t.b, leases, 3, &t.err));
	CU_ASSERT_FALSE(leases[0].found);
	CU_ASSERT_TRUE(leases[1].found);
	CU_ASSERT_EQUAL(leases[1].ttl_ms, LONG_MS);
	CU_ASSERT_TRUE(leases[1].remaining_ms > LONG_MS - 5000 && leases[1].remaining_ms <= LONG_MS);
	CU_ASSERT_FALSE(leases[2].found);
	CU_ASSERT_TRUE(lease_of(1).found && lease_of(1).remaining_ms < 0); /* nothing changed */
	CU_ASSERT_TRUE(lease_of(2).remaining_ms > LONG_MS - 5000);
	OK(t.ops->lease_touch(t.b, leases, 0, &t.err));
}

static void touching_moves_the_deadline(void)
{
	const int64_t id = 1;
	struct sqlb_lease lease = {.id = 1};
	int64_t before;

	migrate();
	grant(1, 1, 4000);
	pass_ms(100);
	before = lease_of(1).remaining_ms;
	CU_ASSERT_TRUE(before <= 3900);
	OK(t.ops->lease_touch(t.b, &lease, 1, &t.err));
	CU_ASSERT_TRUE(lease.found);
	CU_ASSERT_TRUE(lease_of(1).remaining_ms > before);
	CU_ASSERT_FALSE(append_leases(t.b, 2, (struct sqlb_append){.leases_expired = &id, .leases_expired_count = 1}));
}

static void ensuring_adds_the_missing_only(void)
{
	const struct sqlb_lease leases[] = {{.id = 1, .ttl_ms = 3 * LONG_MS}, {.id = 2, .ttl_ms = 2 * LONG_MS}};

	migrate();
	grant(1, 1, LONG_MS);
	OK(t.ops->lease_ensure(t.b, leases, 2, &t.err));
	CU_ASSERT_EQUAL(lease_of(1).ttl_ms, LONG_MS);
	CU_ASSERT_TRUE(lease_of(1).remaining_ms <= LONG_MS);
	CU_ASSERT_EQUAL(lease_of(2).ttl_ms, 2 * LONG_MS);
	CU_ASSERT_TRUE(lease_of(2).remaining_ms > LONG_MS);
}

static void refreshing_gives_all_their_whole_ttl(void)
{
	migrate();
	grant(1, 1, SHORT_MS);
	grant(2, 2, LONG_MS);
	pass_ms(SHORT_MS);
	OK(t.ops->lease_refresh_all(t.b, &t.err));
	CU_ASSERT_TRUE(lease_of(1).remaining_ms > -SHORT_MS / 2);
	CU_ASSERT_TRUE(lease_of(2).remaining_ms > LONG_MS - SHORT_MS);
}

struct leases_seen {
	int64_t ids[8];
	size_t count, stop_after;
};

static bool see_lease(void *ctx, const struct sqlb_lease *lease)
{
	struct leases_seen *seen = ctx;

	CU_ASSERT_TRUE(lease->remaining_ms <= lease->ttl_ms);
	if (seen->count < 8)
		seen->ids[seen->count] = lease->id;
	return ++seen->count != seen->stop_after;
}

static void leases_are_listed_soonest_first(void)
{
	const int64_t expected[] = {4, 1, 3, 2};
	struct leases_seen seen = {0};

	migrate();
	grant(1, 1, 2 * LONG_MS);
	grant(2, 2, 9 * LONG_MS);
	grant(3, 3, 3 * LONG_MS);
	grant(4, 4, SHORT_MS);
	pass_ms(SHORT_MS);
	OK(t.ops->lease_list(t.b, 0, see_lease, &seen, &t.err));
	CU_ASSERT_EQUAL(seen.count, 4); /* those past their deadline, too */
	CU_ASSERT_EQUAL(memcmp(seen.ids, expected, sizeof(expected)), 0);
	seen = (struct leases_seen){0};
	OK(t.ops->lease_list(t.b, 2, see_lease, &seen, &t.err));
	CU_ASSERT_EQUAL(seen.count, 2);
	CU_ASSERT_EQUAL(seen.ids[1], 1);
	seen = (struct leases_seen){.stop_after = 3};
	OK(t.ops->lease_list(t.b, 0, see_lease, &seen, &t.err));
	CU_ASSERT_EQUAL(seen.count, 3);
}

static void reading_and_dropping_leases(void)
{
	struct sqlb_lease leases[] = {{.id = 2}, {.id = 7}, {.id = 1}};
	const int64_t drop[] = {1, 8};

	migrate();
	grant(1, 1, LONG_MS);
	grant(2, 2, 2 * LONG_MS);
	OK(t.ops->lease_read(t.b, leases, 3, &t.err));
	CU_ASSERT_TRUE(leases[0].found && !leases[1].found && leases[2].found);
	CU_ASSERT_EQUAL(leases[0].ttl_ms, 2 * LONG_MS);
	CU_ASSERT_EQUAL(leases[2].ttl_ms, LONG_MS);
	OK(t.ops->lease_drop(t.b, drop, 2, &t.err));
	CU_ASSERT_FALSE(lease_of(1).found);
	CU_ASSERT_TRUE(lease_of(2).found);
}

/*
 * Keepalives against expiry. Both threads go over the same leases about the time they run out, from opposite ends. Whatever
 * happens to one, it cannot be both kept (found by a touch) and expired, unless its renewed time ran out again.
 */
#define RACE_LEASES 24
#define RACE_MS 250

struct keepalive {
	bool found[RACE_LEASES];
	int64_t found_at[RACE_LEASES];
	_Atomic int failures;
};

static void *keep_alive(void *arg)
{
	struct keepalive *keepalive = arg;
	struct ks_err err;

	for (int i = 0; i < RACE_LEASES; i++) {
		struct sqlb_lease lease = {.id = i + 1};

		keepalive->found_at[i] = real_ms(); /* its new time begins now or later */
		if (t.ops->lease_touch(t.b, &lease, 1, &err) != SQLB_OK)
			keepalive->failures++;
		keepalive->found[i] = lease.found;
	}
	return NULL;
}

static void keepalive_and_expiry_exclude_each_other(void)
{
	int64_t position = 1;

	migrate();
	for (int round = 0; round < 4; round++) {
		struct sqlb_lease leases[RACE_LEASES];
		struct keepalive keepalive = {0};
		struct sqlb_append append = {.leases_new = leases, .leases_new_count = RACE_LEASES};
		pthread_t thread;

		for (int i = 0; i < RACE_LEASES; i++)
			leases[i] = (struct sqlb_lease){.id = i + 1, .ttl_ms = RACE_MS};
		CU_ASSERT_TRUE(append_leases(t.a, position++, append));
		if (is("memory")) /* on the memory backend expiry always comes in time: half the rounds are past it */
			ks_clock_advance(&t.clock, RACE_MS + round % 2);
		else
			pass_ms(RACE_MS - 20 + round * 2);
		CU_ASSERT_EQUAL_FATAL(pthread_create(&thread, NULL, keep_alive, &keepalive), 0);
		for (int i = RACE_LEASES - 1; i >= 0; i--) {
			const int64_t id = i + 1;
			bool expired = append_leases(
				t.a, position, (struct sqlb_append){.leases_expired = &id, .leases_expired_count = 1});
			position += expired;
			leases[i].found = expired;
			leases[i].remaining_ms = real_ms();
		}
		pthread_join(thread, NULL);
		CU_ASSERT_EQUAL(keepalive.failures, 0);
		for (int i = 0; i < RACE_LEASES; i++) {
			bool ran_out_again = leases[i].remaining_ms - keepalive.found_at[i] >= RACE_MS;

			CU_ASSERT_TRUE(!leases[i].found || !keepalive.found[i] || (ran_out_again && !is("memory")));
			CU_ASSERT_EQUAL(lease_of(i + 1).found, !leases[i].found);
		}
	}
	CU_ASSERT_EQUAL(head_position(), position - 1);
}

/* ---- duty ---- */

static struct sqlb_duty take(struct sqlb_conn *conn, int64_t self, int ttl_ms)
{
	struct sqlb_duty duty = {0};

	OK(t.ops->duty_take(conn, self, ttl_ms, &duty, &t.err));
	return duty;
}

static void check_duty(struct sqlb_duty duty, int64_t holder, int64_t term, bool taken_now, int line)
{
	bool right = duty.holder == holder && duty.term == term && duty.taken_now == taken_now;

	if (!right)
		printf("# line %d: holder %lld term %lld taken_now %d\n", line, (long long)duty.holder,
		       (long long)duty.term, duty.taken_now);
	CU_ASSERT_TRUE(right);
}

#define DUTY(duty, holder, term, taken_now) check_duty(duty, holder, term, taken_now, __LINE__)

static void the_duty_has_one_holder_at_a_time(void)
{
	migrate();
	DUTY(take(t.a, -5, LONG_MS), -5, 2, true);
	DUTY(take(t.b, 6, LONG_MS), -5, 2, false);
	DUTY(take(t.a, -5, SHORT_MS), -5, 2, false);
	DUTY(take(t.b, 6, LONG_MS), -5, 2, false);
	pass_ms(SHORT_MS);
	DUTY(take(t.b, 6, SHORT_MS), 6, 3, true);
	DUTY(take(t.a, -5, LONG_MS), 6, 3, false);
	pass_ms(SHORT_MS);
	DUTY(take(t.b, 6, LONG_MS), 6, 3, false); /* late, but nobody was faster */
}

static void the_duty_can_be_passed(void)
{
	migrate();
	take(t.a, 5, LONG_MS);
	OK(t.ops->duty_pass(t.b, 6, 7, LONG_MS, &t.err)); /* 6 does not have it */
	DUTY(take(t.b, 6, LONG_MS), 5, 2, false);
	OK(t.ops->duty_pass(t.a, 5, 6, SHORT_MS, &t.err));
	DUTY(take(t.a, 5, LONG_MS), 6, 3, false);
	pass_ms(SHORT_MS); /* 6 did not notice */
	DUTY(take(t.a, 5, LONG_MS), 5, 4, true);
	OK(t.ops->duty_pass(t.a, 5, 0, 0, &t.err));
	DUTY(take(t.b, 6, LONG_MS), 6, 5, true);
}

struct candidate {
	struct sqlb_conn *conn;
	int64_t self;
	struct sqlb_duty duty;
	enum sqlb_outcome outcome;
};

static void *apply_for_duty(void *arg)
{
	struct candidate *candidate = arg;
	struct ks_err err;

	candidate->outcome = t.ops->duty_take(candidate->conn, candidate->self, LONG_MS, &candidate->duty, &err);
	return NULL;
}

static void of_two_candidates_one_gets_the_duty(void)
{
	migrate();
	for (int round = 0; round < 20; round++) {
		struct candidate both[2] = {{.conn = t.a, .self = 1}, {.conn = t.b, .self = 2}};
		pthread_t thread;

		CU_ASSERT_EQUAL_FATAL(pthread_create(&thread, NULL, apply_for_duty, &both[1]), 0);
		apply_for_duty(&both[0]);
		pthread_join(thread, NULL);
		OK(both[0].outcome);
		OK(both[1].outcome);
		CU_ASSERT_TRUE(both[0].duty.taken_now != both[1].duty.taken_now);
		CU_ASSERT_EQUAL(both[0].duty.holder, both[1].duty.holder);
		CU_ASSERT_EQUAL(both[0].duty.term, round + 2);
		CU_ASSERT_EQUAL(both[1].duty.term, round + 2);
		OK(t.ops->duty_pass(t.a, both[0].duty.holder, 0, 0, &t.err));
	}
}

/* ---- members ---- */

struct members_seen {
	uint64_t ids[8];
	char names[8][32];
	char urls[8][64];
	int64_t positions[8];
	size_t count;
};

static bool see_member(void *ctx, const struct sqlb_member *member)
{
	struct members_seen *seen = ctx;

	if (seen->count < 8) {
		seen->ids[seen->count] = member->id;
		seen->positions[seen->count] = member->position;
		snprintf(seen->names[seen->count], 32, "%.*s", (int)member->name.size, (const char *)member->name.data);
		snprintf(seen->urls[seen->count], 64, "%.*s", (int)member->client_urls.size,
			 (const char *)member->client_urls.data);
	}
	seen->count++;
	return true;
}

static struct members_seen members(void)
{
	struct members_seen seen = {0};

	OK(t.ops->member_list(t.b, see_member, &seen, &t.err));
	return seen;
}

static void beat(uint64_t id, const char *name, const char *urls, int64_t position, int ttl_ms)
{
	struct sqlb_member member = {
		.id = id, .name = ks_slice_str(name), .client_urls = ks_slice_str(urls), .position = position};

	OK(t.ops->member_beat(t.a, &member, ttl_ms, &t.err));
}

static void members_are_listed_by_unsigned_id(void)
{
	struct members_seen seen;

	migrate();
	CU_ASSERT_EQUAL(members().count, 0);
	beat(UINT64_MAX, "last", "http://c:2379", 3, LONG_MS);
	beat(1, "first", "http://a:2379,https://b:2379", 1, LONG_MS);
	beat(0x8000000000000000u, "", "", 2, LONG_MS);
	beat(0x7fffffffffffffffu, "caf\xc3\xa9 'x'", "http://d:1", 9, LONG_MS);
	seen = members();
	CU_ASSERT_EQUAL(seen.count, 4);
	CU_ASSERT_EQUAL(seen.ids[0], 1);
	CU_ASSERT_STRING_EQUAL(seen.urls[0], "http://a:2379,https://b:2379");
	CU_ASSERT_EQUAL(seen.ids[1], 0x7fffffffffffffffu);
	CU_ASSERT_STRING_EQUAL(seen.names[1], "caf\xc3\xa9 'x'");
	CU_ASSERT_EQUAL(seen.ids[2], 0x8000000000000000u);
	CU_ASSERT_STRING_EQUAL(seen.names[2], "");
	CU_ASSERT_EQUAL(seen.ids[3], UINT64_MAX);
	CU_ASSERT_EQUAL(seen.positions[3], 3);
	beat(1, "renamed", "http://z:1", 10, LONG_MS);
	seen = members();
	CU_ASSERT_EQUAL(seen.count, 4);
	CU_ASSERT_STRING_EQUAL(seen.names[0], "renamed");
	CU_ASSERT_STRING_EQUAL(seen.urls[0], "http://z:1");
	CU_ASSERT_EQUAL(seen.positions[0], 10);
}

static void members_that_are_silent_or_leave_are_not_listed(void)
{
	struct members_seen seen;

	migrate();
	beat(1, "one", "http://a:1", 1, SHORT_MS);
	beat(2, "two", "http://b:1", 1, LONG_MS);
	beat(3, "three", "http://c:1", 1, LONG_MS);
	beat(3, "three", "http://c:1", 1, 0);
	pass_ms(SHORT_MS);
	seen = members();
	CU_ASSERT_EQUAL(seen.count, 1);
	CU_ASSERT_EQUAL(seen.ids[0], 2);
	beat(1, "one", "http://a:1", 1, LONG_MS);
	CU_ASSERT_EQUAL(members().count, 2);
}

/* ---- waiting ---- */

struct later {
	pthread_t thread;
	int64_t position; /* to append; 0: cancel 'a' */
	int after_ms;
};

static void *act_later(void *arg)
{
	struct later *later = arg;
	struct timespec wait = {.tv_nsec = later->after_ms * 1000000L};

	nanosleep(&wait, NULL);
	if (later->position)
		OK(append_entry(t.b, later->position, 1));
	else
		t.ops->cancel(t.a);
	return NULL;
}

/* How long a wait of ten seconds takes while 'later' happens. */
static int64_t wait_while(struct later later, int64_t after)
{
	int64_t start = real_ms();

	CU_ASSERT_EQUAL_FATAL(pthread_create(&later.thread, NULL, act_later, &later), 0);
	OK(t.ops->wait_for_change(t.a, after, 10000, &t.err));
	start = real_ms() - start;
	pthread_join(later.thread, NULL);
	return start;
}

static void a_wait_ends_when_it_is_behind_or_time_runs_out(void)
{
	int64_t start;

	migrate();
	OK(append_entry(t.a, 1, 1));
	start = real_ms();
	OK(t.ops->wait_for_change(t.a, 0, 10000, &t.err));
	CU_ASSERT_TRUE(real_ms() - start < 5000);
	start = real_ms();
	OK(t.ops->wait_for_change(t.a, 1, 80, &t.err));
	CU_ASSERT_TRUE(real_ms() - start >= 70);
	CU_ASSERT_TRUE(real_ms() - start < 5000);
	start = real_ms();
	OK(t.ops->wait_for_change(t.a, 1, 0, &t.err));
	CU_ASSERT_TRUE(real_ms() - start < 5000);
}

static void a_wait_ends_with_an_append_elsewhere(void)
{
	migrate();
	OK(append_entry(t.a, 1, 1));
	for (int64_t position = 2; position <= 4; position++)
		CU_ASSERT_TRUE(wait_while((struct later){.position = position, .after_ms = 40}, position - 1) < 5000);
	CU_ASSERT_EQUAL(head_position(), 4);
}

static void cancel_ends_the_running_or_the_next_wait(void)
{
	int64_t start;

	migrate();
	OK(append_entry(t.a, 1, 1));
	CU_ASSERT_TRUE(wait_while((struct later){.after_ms = 40}, 1) < 5000);
	t.ops->cancel(t.a);
	CU_ASSERT_EQUAL(head_position(), 1);
	OK(append_entry(t.a, 2, 1)); /* other calls do not care */
	start = real_ms();
	OK(t.ops->wait_for_change(t.a, 2, 10000, &t.err));
	CU_ASSERT_TRUE(real_ms() - start < 5000);
	start = real_ms();
	OK(t.ops->wait_for_change(t.a, 2, 60, &t.err)); /* and it is used up */
	CU_ASSERT_TRUE(real_ms() - start >= 50);
}

/* ---- size ---- */

static void sizes_follow_the_data_and_defragment_keeps_it(void)
{
	const size_t count = 400;
	uint8_t *value = calloc(1, 10000);
	struct sqlb_row *rows = calloc(count, sizeof(*rows));
	struct sqlb_loc *locs = calloc(count, sizeof(*locs));
	struct sqlb_size before = {0}, full = {0}, after = {0};

	for (size_t i = 0; i < 10000; i++)
		value[i] = (uint8_t)((i * 2654435761u) >> 13); /* does not compress */
	migrate();
	OK(append_entry(t.a, 1, 1));
	OK(t.ops->size(t.a, &before, &t.err));
	for (size_t i = 0; i < count; i++) {
		rows[i] = row_of((int64_t)i + 2, 0, 1, "k");
		rows[i].value = ks_slice_of(value, 10000);
		locs[i] = (struct sqlb_loc){(int64_t)i + 2, 0};
	}
	OK(append_rows(t.a, rows, count));
	OK(t.ops->size(t.a, &full, &t.err));
	CU_ASSERT_TRUE(full.allocated > before.allocated);
	CU_ASSERT_TRUE(full.allocated >= full.in_use && full.in_use > 0);
	OK(t.ops->trim(t.a, locs, count - 1, &t.err));
	OK(t.ops->defragment(t.a, &t.err));
	OK(t.ops->size(t.a, &after, &t.err));
	CU_ASSERT_TRUE(after.allocated < full.allocated);
	CU_ASSERT_EQUAL(read_all(t.b, NULL, 0).count, 2);
	OK(append_entry(t.b, (int64_t)count + 2, 1));
	free(rows);
	free(locs);
	free(value);
}

/* ---- all of them, for each URL ---- */

#define TESTS(X)                                                    \
	X(migrating_again_changes_nothing)                          \
	X(a_new_process_finds_the_same_log_and_cluster)             \
	X(migrating_from_four_connections_at_once_gives_one_schema) \
	X(a_foreign_log_table_is_broken_and_left_alone)             \
	X(a_newer_schema_is_broken)                                 \
	X(an_empty_log_has_head_zero_and_no_rows)                   \
	X(every_column_comes_back_as_it_went_in)                    \
	X(a_taken_position_conflicts_and_leaves_nothing)            \
	X(the_same_batch_again_conflicts_with_itself)               \
	X(an_append_behind_a_gap_conflicts)                         \
	X(an_append_into_a_trimmed_hole_conflicts)                  \
	X(two_racing_writers_leave_no_gap_and_lose_nothing)         \
	X(large_values_come_back)                                   \
	X(a_batch_of_the_maximum_comes_back)                        \
	X(an_entry_of_100000_rows_is_all_or_nothing)                \
	X(a_row_that_the_database_refuses_undoes_the_batch)         \
	X(reads_stop_between_entries_only)                          \
	X(reads_keep_to_their_bounds)                               \
	X(a_visitor_may_stop_and_the_connection_goes_on)            \
	X(a_read_sees_one_snapshot)                                 \
	X(read_at_visits_those_that_exist)                          \
	X(trimming_removes_just_these_rows)                         \
	X(the_head_survives_trimming_of_all_before)                 \
	X(appends_create_overwrite_and_remove_leases)               \
	X(expiry_before_the_deadline_appends_nothing)               \
	X(expiry_past_the_deadline_appends_and_removes)             \
	X(one_lease_that_lives_keeps_all_from_expiring)             \
	X(touching_renews_the_living_only)                          \
	X(touching_moves_the_deadline)                              \
	X(ensuring_adds_the_missing_only)                           \
	X(refreshing_gives_all_their_whole_ttl)                     \
	X(leases_are_listed_soonest_first)                          \
	X(reading_and_dropping_leases)                              \
	X(keepalive_and_expiry_exclude_each_other)                  \
	X(the_duty_has_one_holder_at_a_time)                        \
	X(the_duty_can_be_passed)                                   \
	X(of_two_candidates_one_gets_the_duty)                      \
	X(members_are_listed_by_unsigned_id)                        \
	X(members_that_are_silent_or_leave_are_not_listed)          \
	X(a_wait_ends_when_it_is_behind_or_time_runs_out)           \
	X(a_wait_ends_with_an_append_elsewhere)                     \
	X(cancel_ends_the_running_or_the_next_wait)                 \
	X(sizes_follow_the_data_and_defragment_keeps_it)

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
	}
TESTS(WRAPPERS)

#define ENTRY_0(test) {#test, test##_0},
#define ENTRY_1(test) {#test, test##_1},
#define ENTRY_2(test) {#test, test##_2},
#define ENTRY_3(test) {#test, test##_3},
static const struct tap_test slot_0[] = {TESTS(ENTRY_0){NULL, NULL}};
static const struct tap_test slot_1[] = {TESTS(ENTRY_1){NULL, NULL}};
static const struct tap_test slot_2[] = {TESTS(ENTRY_2){NULL, NULL}};
static const struct tap_test slot_3[] = {TESTS(ENTRY_3){NULL, NULL}};
static const struct tap_test *const slots[MAX_SLOTS] = {slot_0, slot_1, slot_2, slot_3};

static void add_slot(const char *url)
{
	struct ks_err err;
	const struct sqlb_ops *ops = sqlb_find(url, &err);
	char suite[64];

	if (!ops || slot_count == MAX_SLOTS) {
		printf("Bail out! %s\n", ops ? "too many URLs" : err.text);
		exit(99);
	}
	snprintf(slot_urls[slot_count], sizeof(slot_urls[slot_count]), "%s", url);
	snprintf(suite, sizeof(suite), "backend %s", ops->name);
	tap_add(suite, slots[slot_count++]);
}

int main(int argc, char **argv)
{
	const char *postgres = getenv("KS_TEST_POSTGRES_URL");
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
	}
	(void)url;
	(void)postgres;
	status = tap_finish();
	(void)rmdir(temp_dir);
	return status;
}
