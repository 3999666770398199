/* SPDX-License-Identifier: Apache-2.0 */
/* Migrating, appending, reading, trimming, waiting, and the size. */
#include "tests/suites/backend.h"

#include <pthread.h>
#include <time.h>
#include <unistd.h>

/* ---- migrate ---- */

void migrating_again_changes_nothing(void)
{
	uint64_t again = 0;

	migrate();
	CU_ASSERT_NOT_EQUAL(t.cluster_id, 0);
	OK(append_entry(t.a, 1, 1));
	OK(t.ops->migrate(t.b, &again, &t.err));
	CU_ASSERT_EQUAL(again, t.cluster_id);
	CU_ASSERT_EQUAL(head_position(), 1);
}

void a_new_process_finds_the_same_log_and_cluster(void)
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

void migrating_from_four_connections_at_once_gives_one_schema(void)
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

void a_foreign_log_table_is_broken_and_left_alone(void)
{
	uint64_t id;

	CU_ASSERT_TRUE(raw("CREATE TABLE kineshim_log (mine INTEGER)"));
	t.err.text[0] = '\0';
	CU_ASSERT_EQUAL(t.ops->migrate(t.a, &id, &t.err), SQLB_BROKEN);
	CU_ASSERT_PTR_NOT_NULL(strstr(t.err.text, "kineshim"));
	CU_ASSERT_TRUE(raw("INSERT INTO kineshim_log (mine) VALUES (1)"));
	CU_ASSERT_TRUE(raw("CREATE TABLE kineshim_meta (mine INTEGER)"));
	CU_ASSERT_EQUAL(t.ops->migrate(t.a, &id, &t.err), SQLB_BROKEN);
	CU_ASSERT_TRUE(raw("DROP TABLE kineshim_meta"));
	CU_ASSERT_TRUE(raw("CREATE TABLE kineshim_meta (name VARCHAR(100) PRIMARY KEY, value VARCHAR(100))"));
	CU_ASSERT_TRUE(raw("INSERT INTO kineshim_meta VALUES ('program', 'something else'), ('schema_version', '1')"));
	CU_ASSERT_EQUAL(t.ops->migrate(t.a, &id, &t.err), SQLB_BROKEN);
	CU_ASSERT_PTR_NOT_NULL(strstr(t.err.text, "kineshim"));
}

void a_newer_schema_is_broken(void)
{
	uint64_t id;

	migrate();
	CU_ASSERT_TRUE(raw("UPDATE kineshim_meta SET value = '1000' WHERE name = 'schema_version'"));
	t.err.text[0] = '\0';
	CU_ASSERT_EQUAL(t.ops->migrate(t.b, &id, &t.err), SQLB_BROKEN);
	CU_ASSERT_PTR_NOT_NULL(strstr(t.err.text, "newer"));
	CU_ASSERT_TRUE(raw("UPDATE kineshim_meta SET value = '1' WHERE name = 'schema_version'"));
	OK(t.ops->migrate(t.b, &id, &t.err));
}

/* ---- append ---- */

void an_empty_log_has_head_zero_and_no_rows(void)
{
	struct sqlb_head head = {9, 9, 9, 9};

	migrate();
	OK(t.ops->read_head(t.a, &head, &t.err));
	CU_ASSERT_EQUAL(head.position, 0);
	CU_ASSERT_EQUAL(head.revision, 0);
	CU_ASSERT_EQUAL(read_all(t.a, NULL, 0).count, 0);
}

void every_column_comes_back_as_it_went_in(void)
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

void a_taken_position_conflicts_and_leaves_nothing(void)
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

void the_same_batch_again_conflicts_with_itself(void)
{
	struct sqlb_head head;

	migrate();
	OK(append_entry(t.a, 1, 1));
	CU_ASSERT_EQUAL(append_entry(t.a, 1, 1), SQLB_CONFLICT);
	OK(t.ops->read_head(t.a, &head, &t.err));
	CU_ASSERT_EQUAL(head.writer, 77);
	CU_ASSERT_EQUAL(head.batch, 1);
}

void an_append_behind_a_gap_conflicts(void)
{
	migrate();
	CU_ASSERT_EQUAL(append_entry(t.a, 2, 1), SQLB_CONFLICT);
	OK(append_entry(t.a, 1, 1));
	CU_ASSERT_EQUAL(append_entry(t.a, 3, 1), SQLB_CONFLICT);
	CU_ASSERT_EQUAL(read_all(t.a, NULL, 0).count, 1);
}

void an_append_into_a_trimmed_hole_conflicts(void)
{
	const struct sqlb_loc hole = {2, 0};

	migrate();
	for (int64_t position = 1; position <= 3; position++)
		OK(append_entry(t.a, position, 1));
	OK(t.ops->trim(t.a, &hole, 1, &t.err));
	CU_ASSERT_EQUAL(append_entry(t.b, 2, 1), SQLB_CONFLICT);
	CU_ASSERT_EQUAL(read_all(t.a, NULL, 0).count, 2);
}

/* A log that lost its tail and grew to the same length again: the position is right, the entry before it is another's. */
void an_append_onto_another_entry_conflicts(void)
{
	struct sqlb_row row = row_of(3, 0, 1, "key");
	struct sqlb_append append = {.after_writer = 77, .after_batch = 1, .rows = &row, .row_count = 1};
	bool appended = true;

	migrate();
	OK(append_entry(t.a, 1, 2));
	OK(append_entry(t.a, 2, 2));
	CU_ASSERT_EQUAL(t.ops->append(t.b, &append, &appended, &t.err), SQLB_CONFLICT);
	CU_ASSERT_FALSE(appended);
	append.after_batch = 2;
	append.after_writer = 78;
	CU_ASSERT_EQUAL(t.ops->append(t.b, &append, &appended, &t.err), SQLB_CONFLICT);
	append.leases_gone = (int64_t[]){5};
	append.leases_gone_count = 1;
	CU_ASSERT_EQUAL(t.ops->append(t.b, &append, &appended, &t.err), SQLB_CONFLICT);
	CU_ASSERT_EQUAL(head_position(), 2);
	append.after_writer = 77;
	OK(t.ops->append(t.b, &append, &appended, &t.err));
	CU_ASSERT_TRUE(appended);
	CU_ASSERT_EQUAL(head_position(), 3);
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

void two_racing_writers_leave_no_gap_and_lose_nothing(void)
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

void large_values_come_back(void)
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

void a_batch_of_the_maximum_comes_back(void)
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

void an_entry_of_100000_rows_is_all_or_nothing(void)
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

/* ---- appends in two steps ---- */

/* One that changes leases, too, may be more than a driver can send. */
static bool sends_leases(void)
{
	return strcmp(t.ops->name, "mysql") != 0;
}

/* Sends an entry of one row of writer 5, whose batch is its position; with 'lease' a lease is made along with it, if that can be sent. */
static enum sqlb_outcome send_entry(int64_t position, int64_t lease)
{
	char key[] = "key";
	struct sqlb_row row = row_of(position, 0, 1, key);
	struct sqlb_lease made = {.id = lease, .ttl_ms = LONG_MS};
	struct sqlb_append append = {.after_writer = position > 1 ? 5 : 0,
				     .after_batch = position - 1,
				     .rows = &row,
				     .row_count = 1,
				     .leases_new = &made,
				     .leases_new_count = lease != 0 && sends_leases()};
	enum sqlb_outcome outcome;

	row.writer = 5;
	outcome = t.ops->append_send(t.a, &append, &t.err);
	/* None of this is needed any more. */
	memset(key, 'x', sizeof(key));
	memset(&row, 0xff, sizeof(row));
	memset(&made, 0xff, sizeof(made));
	memset(&append, 0xff, sizeof(append));
	return outcome;
}

static enum sqlb_outcome receive(void)
{
	bool pending = true, appended = true;
	enum sqlb_outcome outcome = t.ops->append_receive(t.a, -1, &pending, &appended, &t.err);

	CU_ASSERT_FALSE(pending);
	CU_ASSERT_EQUAL(appended, outcome == SQLB_OK);
	return outcome;
}

/* With entry 1 in the log; or that this connection sends nothing ahead, and is none the worse for being asked. */
static bool can_send(void)
{
	enum sqlb_outcome outcome;

	migrate();
	t.err.status = KS_OK;
	outcome = send_entry(1, 0);
	if (outcome == SQLB_AWAY && t.err.status == KS_UNIMPLEMENTED) {
		printf("# not on this connection: %s\n", t.err.text);
		/* The last two: of the servers behind the mysql driver only a MariaDB that is no node of a cluster is asked. */
		CU_ASSERT_TRUE(strstr(t.base, "ks_pooled") || strstr(t.base, "dialect=plain") ||
			       getenv("KS_TEST_GALERA_DIR") || getenv("KS_TEST_MYSQL_BIN"));
		CU_ASSERT_EQUAL(head_position(), 0);
		OK(append_entry(t.a, 1, 1));
		return false;
	}
	OK(outcome);
	OK(receive());
	CU_ASSERT_EQUAL(head_position(), 1);
	return outcome == SQLB_OK;
}

static bool lease_exists(int64_t id)
{
	struct sqlb_lease lease = {.id = id};

	OK(t.ops->lease_read(t.b, &lease, 1, &t.err));
	return lease.found;
}

void an_append_that_was_sent_is_an_append(void)
{
	const int64_t gone = 8;
	struct sqlb_row rows[] = {row_of(2, 0, 1, "key"), row_of(3, 0, 2, "a"), row_of(3, 1, 2, "b")};
	struct sqlb_append append = {.rows = rows, .row_count = 3, .leases_gone = &gone, .leases_gone_count = 1};
	struct sqlb_row all[5];

	if (!can_send())
		return;
	OK(send_entry(2, 8));
	OK(receive());
	if (sends_leases()) {
		CU_ASSERT_TRUE(lease_exists(8));
	} else {
		CU_ASSERT_EQUAL(t.ops->append_send(t.a, &append, &t.err), SQLB_AWAY);
		CU_ASSERT_EQUAL(t.err.status, KS_UNIMPLEMENTED);
		append.leases_gone_count = 0;
	}
	CU_ASSERT_EQUAL(t.ops->append_send(t.a, &append, &t.err), SQLB_OK);
	CU_ASSERT_EQUAL(receive(), SQLB_CONFLICT);
	CU_ASSERT_EQUAL(lease_exists(8), sends_leases());
	for (int i = 0; i < 3; i++)
		rows[i].position++;
	CU_ASSERT_EQUAL(t.ops->append_send(t.a, &append, &t.err), SQLB_OK);
	OK(receive());
	CU_ASSERT_FALSE(lease_exists(8));
	for (int i = 0; i < 2; i++) {
		all[i] = row_of(i + 1, 0, 1, "key");
		all[i].writer = 5;
	}
	memcpy(&all[2], rows, sizeof(rows));
	CU_ASSERT_EQUAL(read_all(t.b, all, 5).count, 5);
}

void appends_on_their_way_land_in_order(void)
{
	struct sqlb_row rows[41];

	if (!can_send())
		return;
	for (int64_t position = 2; position <= 41; position++) {
		OK(send_entry(position, position % 3 ? 0 : position));
		if (position > SQLB_SENT_MAX)
			OK(receive());
	}
	for (int i = 1; i < SQLB_SENT_MAX; i++)
		OK(receive());
	for (int i = 0; i < 41; i++) {
		rows[i] = row_of(i + 1, 0, 1, "key");
		rows[i].writer = 5;
	}
	CU_ASSERT_EQUAL(read_all(t.b, rows, 41).count, 41);
	CU_ASSERT_EQUAL(lease_exists(39), sends_leases());
	OK(append_entry(t.a, 42, 1));
	CU_ASSERT_EQUAL(head_position(), 42);
}

void of_those_on_their_way_none_is_there_when_the_first_is_refused(void)
{
	if (!can_send())
		return;
	for (int round = 0; round < 4; round++) {
		int64_t position = round + 2;

		OK(append_entry(t.b, position, 1)); /* somebody else was faster */
		for (int i = 0; i < SQLB_SENT_MAX; i++)
			OK(send_entry(position + i, round & (i % 2 ? 2 : 1) ? 21 + i : 0));
		for (int i = 0; i < SQLB_SENT_MAX; i++)
			CU_ASSERT_EQUAL(receive(), SQLB_CONFLICT);
		CU_ASSERT_EQUAL(head_position(), position);
		for (int i = 0; i < SQLB_SENT_MAX; i++)
			CU_ASSERT_FALSE(lease_exists(21 + i));
	}
	OK(append_entry(t.a, 6, 1));
	CU_ASSERT_EQUAL(read_all(t.b, NULL, 0).count, 6);
}

void an_append_on_its_way_is_pending_until_it_is_answered(void)
{
	const int64_t last = 1 + 20 * SQLB_SENT_MAX;
	unsigned looks = 0;

	if (!can_send())
		return;
	for (int64_t position = 2; position < last; position += SQLB_SENT_MAX) {
		for (int i = 0; i < SQLB_SENT_MAX; i++)
			OK(send_entry(position + i, 0));
		for (int received = 0; received < SQLB_SENT_MAX;) {
			bool pending = false, appended = true;

			OK(t.ops->append_receive(t.a, looks % 2 ? 5 : 0, &pending, &appended, &t.err));
			CU_ASSERT_EQUAL(appended, !pending);
			received += !pending;
			looks++;
		}
	}
	CU_ASSERT_TRUE(looks > last);
	CU_ASSERT_EQUAL(head_position(), last);
	OK(append_entry(t.a, last + 1, 1));
}

void large_appends_can_be_on_their_way(void)
{
	const size_t count = 20000, size = 1500000;
	uint8_t *value = calloc(1, size);
	char(*keys)[24];
	struct sqlb_row *rows = many_rows(count, (int32_t)count, 2, &keys);
	struct sqlb_append append = {.rows = rows, .row_count = count};

	if (can_send()) {
		OK(t.ops->append_send(t.a, &append, &t.err));
		for (int64_t position = 3; position < 2 + SQLB_SENT_MAX; position++) {
			rows[0] = row_of(position, 0, 1, "large");
			rows[0].value = ks_slice_of(value, size);
			append = (struct sqlb_append){
				.after_writer = 77, .after_batch = position - 1, .rows = rows, .row_count = 1};
			OK(t.ops->append_send(t.a, &append, &t.err));
		}
		for (int i = 0; i < SQLB_SENT_MAX; i++)
			OK(receive());
		CU_ASSERT_EQUAL(read_all(t.b, NULL, 0).count, count + SQLB_SENT_MAX);
	}
	free(rows);
	free(keys);
	free(value);
}

void an_append_with_a_guard_is_not_sent(void)
{
	const int64_t expired = 9;
	struct sqlb_row row = row_of(3, 0, 1, "key");
	struct sqlb_append append = {
		.rows = &row, .row_count = 1, .leases_expired = &expired, .leases_expired_count = 1};
	struct sqlb_lease lease = {.id = expired, .ttl_ms = LONG_MS};
	bool appended = false;

	if (!can_send())
		return;
	OK(t.ops->lease_ensure(t.b, &lease, 1, &t.err));
	for (int others = 0; others < 2; others++) {
		if (others)
			OK(send_entry(2, 0));
		CU_ASSERT_EQUAL(t.ops->append_send(t.a, &append, &t.err), SQLB_AWAY);
		CU_ASSERT_EQUAL(t.err.status, KS_UNIMPLEMENTED);
	}
	OK(receive());
	CU_ASSERT_EQUAL(head_position(), 2);
	CU_ASSERT_TRUE(lease_exists(9));
	OK(t.ops->append(t.a, &append, &appended, &t.err)); /* not past its deadline */
	CU_ASSERT_FALSE(appended);
	OK(append_entry(t.a, 3, 1));
}

/* They are there or not, but none without the one before it, and nobody is in the way of the next one. */
void a_connection_may_end_with_appends_on_their_way(void)
{
	enum sqlb_outcome outcome;
	int64_t position = 1;
	struct seen seen;

	if (!can_send())
		return;
	for (int round = 0; round < 4; round++) {
		for (int i = 0; i < (round % 2 ? SQLB_SENT_MAX : 1); i++)
			OK(send_entry(position + 1 + i, 0));
		t.ops->disconnect(t.a);
		OK(t.ops->connect(t.db, &t.a, &t.err));
		do {
			position = head_position();
			outcome = send_entry(position + 1, 0);
			OK(outcome);
			outcome = outcome == SQLB_OK ? receive() : outcome;
		} while (outcome == SQLB_CONFLICT);
		OK(outcome);
		position++;
	}
	seen = read_all(t.b, NULL, 0);
	CU_ASSERT_EQUAL(seen.count, position);
	CU_ASSERT_EQUAL(seen.last.position, position);
}

/* ---- load ---- */

struct feed {
	int64_t entries, given; /* of two rows each */
	int64_t fail_at;        /* 0: never */
	struct sqlb_row last;
};

static enum sqlb_next feed_next(void *ctx, struct sqlb_row *row)
{
	static char key[32];
	struct feed *feed = ctx;
	int64_t position = feed->given / 2 + 1;

	if (feed->fail_at && position == feed->fail_at)
		return SQLB_NEXT_FAILED;
	if (position > feed->entries)
		return SQLB_NEXT_END;
	/* Borrowed until the next call: a driver that keeps it keeps the wrong one. */
	(void)snprintf(key, sizeof(key), "key %lld", (long long)feed->given);
	*row = row_of(position, (int32_t)(feed->given % 2), 2, key);
	feed->given++;
	feed->last = *row;
	return SQLB_NEXT_ROW;
}

void a_load_fills_an_empty_log_and_no_other(void)
{
	struct feed feed = {.entries = 3};
	static char keys[6][32];
	struct sqlb_row rows[6];

	migrate();
	for (int i = 0; i < 6; i++) {
		(void)snprintf(keys[i], sizeof(keys[i]), "key %d", i);
		rows[i] = row_of(i / 2 + 1, i % 2, 2, keys[i]);
	}
	OK(t.ops->load(t.a, feed_next, &feed, &t.err));
	CU_ASSERT_EQUAL(head_position(), 3);
	CU_ASSERT_EQUAL(read_all(t.b, rows, 6).wrong, 0);
	CU_ASSERT_EQUAL(read_all(t.b, NULL, 0).count, 6);
	feed = (struct feed){.entries = 3};
	CU_ASSERT_EQUAL(t.ops->load(t.a, feed_next, &feed, &t.err), SQLB_CONFLICT);
	CU_ASSERT_EQUAL(feed.given, 0);
	OK(append_entry(t.a, 4, 1));
	CU_ASSERT_EQUAL(read_all(t.b, NULL, 0).count, 7);
}

void a_load_that_fails_leaves_nothing(void)
{
	struct feed feed = {.entries = 9000, .fail_at = 8000};

	migrate();
	CU_ASSERT_EQUAL(t.ops->load(t.a, feed_next, &feed, &t.err), SQLB_AWAY);
	CU_ASSERT_EQUAL(read_all(t.b, NULL, 0).count, 0);
	CU_ASSERT_EQUAL(head_position(), 0);
	feed = (struct feed){.entries = 1};
	OK(t.ops->load(t.a, feed_next, &feed, &t.err));
	CU_ASSERT_EQUAL(read_all(t.b, NULL, 0).count, 2);
}

void a_load_of_100000_rows_comes_back(void)
{
	struct feed feed = {.entries = 50000};

	migrate();
	OK(t.ops->load(t.a, feed_next, &feed, &t.err));
	CU_ASSERT_EQUAL(head_position(), 50000);
	CU_ASSERT_EQUAL(read_all(t.b, NULL, 0).count, 100000);
	OK(append_entry(t.b, 50001, 1));
}

/* A batch larger than what a driver sends at once that fails at its last row must not leave the first ones. */
void a_row_that_the_database_refuses_undoes_the_batch(void)
{
	char(*keys)[24];
	struct sqlb_row *rows = many_rows(20000, 1, 1, &keys);

	migrate();
	rows[19999].position = 1; /* the primary key refuses it */
	CU_ASSERT_NOT_EQUAL(append_rows(t.a, rows, 20000), SQLB_OK);
	CU_ASSERT_EQUAL(head_position(), 0);
	free(rows);
	free(keys);
}

/* ---- reading ---- */

void reads_stop_between_entries_only(void)
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

void reads_keep_to_their_bounds(void)
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

void a_visitor_may_stop_and_the_connection_goes_on(void)
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

/* Appends a row and trims others as soon as the first row is seen. */
struct meddler {
	struct seen seen;
	int64_t position; /* of the row */
	const struct sqlb_loc *trimmed;
	size_t trimmed_count;
	bool done;
};

static bool meddle(void *ctx, const struct sqlb_row *row)
{
	struct meddler *meddler = ctx;

	if (!meddler->done) {
		meddler->done = true;
		OK(append_entry(t.b, meddler->position, 1));
		OK(t.ops->trim(t.b, meddler->trimmed, meddler->trimmed_count, &t.err));
	}
	return see(&meddler->seen, row);
}

void a_read_sees_one_snapshot(void)
{
	const struct sqlb_loc loc = {2, 1};
	struct meddler meddler = {.position = 4, .trimmed = &loc, .trimmed_count = 1};
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

enum { LONG_ENTRIES = 12, LONG_ROWS = 60 };

/* More rows than come with the first SELECT, of every form, appended as entries of LONG_ROWS each. */
static void append_long_log(struct sqlb_row *rows)
{
	static uint8_t large[20000];

	for (int i = 0; i < LONG_ENTRIES * LONG_ROWS; i++) {
		struct sqlb_row *row = &rows[i];

		*row = row_of(i / LONG_ROWS + 1, i % LONG_ROWS, LONG_ROWS, "a key");
		row->kind = (int16_t)(i % 7 + 1);
		row->lease = i % 3 ? 0 : -(INT64_C(1) << 40) - i;
		if (i % 5 == 0)
			row->key = ks_slice_of(NULL, 0);
		row->value = i % 4 == 0   ? ks_slice_of(large, sizeof(large))
			     : i % 4 == 1 ? ks_slice_of("", 0)
			     : i % 4 == 2 ? ks_slice_of(NULL, 0)
					  : row->value;
		if (i % 11 == 0)
			row->payload = ks_slice_str("a payload");
	}
	for (int i = 0; i < LONG_ENTRIES; i++)
		OK(append_rows(t.a, rows + (ptrdiff_t)i * LONG_ROWS, LONG_ROWS));
}

void a_long_read_sees_one_snapshot_and_each_row_as_written(void)
{
	/* Without a limit, and with one that is never reached: drivers may read the two in other ways. */
	static const size_t limits[] = {SIZE_MAX, (size_t)1 << 30};
	const struct sqlb_loc trimmed[] = {{2, 1}, {LONG_ENTRIES, 3}};
	struct sqlb_row *rows = calloc(LONG_ENTRIES * LONG_ROWS, sizeof(*rows));
	struct meddler meddler = {0};
	bool more;

	migrate();
	append_long_log(rows);
	for (size_t i = 0; i < 2; i++) {
		struct seen seen = {.expected = rows, .expected_count = LONG_ENTRIES * LONG_ROWS};

		more = true;
		OK(t.ops->read_rows(t.a, 0, -1, limits[i], see, &seen, &more, &t.err));
		CU_ASSERT_FALSE(more);
		CU_ASSERT_EQUAL(seen.count, LONG_ENTRIES * LONG_ROWS);
		CU_ASSERT_EQUAL(seen.wrong, 0);
		seen = (struct seen){.stop_after = 200};
		OK(t.ops->read_rows(t.a, 0, -1, limits[i], see, &seen, &more, &t.err));
		CU_ASSERT_TRUE(more);
		CU_ASSERT_EQUAL(seen.count, 200);
		seen = (struct seen){.expected = rows + LONG_ROWS, .expected_count = 4 * LONG_ROWS};
		OK(t.ops->read_rows(t.a, 1, 5, limits[i], see, &seen, &more, &t.err));
		CU_ASSERT_FALSE(more);
		CU_ASSERT_EQUAL(seen.count, 4 * LONG_ROWS);
		CU_ASSERT_EQUAL(seen.wrong, 0);
	}
	meddler.seen = (struct seen){.expected = rows, .expected_count = LONG_ENTRIES * LONG_ROWS};
	meddler.position = LONG_ENTRIES + 1;
	meddler.trimmed = trimmed;
	meddler.trimmed_count = 2;
	OK(t.ops->read_rows(t.a, 0, -1, SIZE_MAX, meddle, &meddler, &more, &t.err));
	CU_ASSERT_EQUAL(meddler.seen.count, LONG_ENTRIES * LONG_ROWS);
	CU_ASSERT_EQUAL(meddler.seen.wrong, 0);
	CU_ASSERT_EQUAL(read_all(t.a, NULL, 0).count, LONG_ENTRIES * LONG_ROWS - 1);
	free(rows);
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

void read_at_visits_those_that_exist(void)
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

void trimming_removes_just_these_rows(void)
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

void the_head_survives_trimming_of_all_before(void)
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

void a_wait_ends_when_it_is_behind_or_time_runs_out(void)
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

void a_wait_ends_with_an_append_elsewhere(void)
{
	migrate();
	OK(append_entry(t.a, 1, 1));
	for (int64_t position = 2; position <= 4; position++)
		CU_ASSERT_TRUE(wait_while((struct later){.position = position, .after_ms = 40}, position - 1) < 5000);
	CU_ASSERT_EQUAL(head_position(), 4);
}

void cancel_ends_the_running_or_the_next_wait(void)
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

/*
 * Until the size is above 'than', or below it when it is defragmented, for five seconds at most: a backend that has to read everything for it answers
 * with an older size for a while, and a server may still be at the end of an earlier test's session, whose snapshot needs the rows.
 */
static void await_size(struct sqlb_size *size, int64_t than, bool defragment)
{
	for (int i = 0; i < 100; i++) {
		if (defragment)
			OK(t.ops->defragment(t.a, false, &t.err));
		OK(t.ops->size(t.a, size, &t.err));
		if (defragment ? size->allocated < than : size->allocated > than)
			return;
		(void)usleep(50000);
	}
}

void sizes_follow_the_data_and_defragment_keeps_it(void)
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
	await_size(&full, before.allocated, false);
	CU_ASSERT_TRUE(full.allocated > before.allocated);
	CU_ASSERT_TRUE(full.allocated >= full.in_use && full.in_use > 0);
	OK(t.ops->trim(t.a, locs, count - 1, &t.err));
	await_size(&after, full.allocated, true);
	CU_ASSERT_TRUE(after.allocated < full.allocated);
	CU_ASSERT_EQUAL(read_all(t.b, NULL, 0).count, 2);
	OK(append_entry(t.b, (int64_t)count + 2, 1));
	free(rows);
	free(locs);
	free(value);
}
