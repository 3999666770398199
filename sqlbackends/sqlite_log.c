/* SPDX-License-Identifier: Apache-2.0 */
/* SQLite: the log. Appending, reading, trimming, and waiting for appends of this process. */
#include "sqlite_priv.h"

#include "base/clock.h"

void sqlb_lite_learn_newest(struct sqlb_db *db, int64_t position)
{
	ks_mutex_lock(&db->mutex);
	if (db->newest < position) {
		db->newest = position;
		ks_cond_broadcast(&db->changed);
	}
	ks_mutex_unlock(&db->mutex);
}

/* ---- append ---- */

static int bind_slice(sqlite3_stmt *statement, int index, struct ks_slice slice)
{
	if (!slice.data)
		return sqlite3_bind_null(statement, index);
	return sqlite3_bind_blob64(statement, index, slice.data, slice.size, SQLITE_STATIC);
}

static int insert_row(sqlite3_stmt *statement, const struct sqlb_row *row, int64_t created_at)
{
	int rc = sqlite3_bind_int64(statement, 1, row->position);

	rc |= sqlite3_bind_int(statement, 2, row->sub);
	rc |= sqlite3_bind_int(statement, 3, row->rows);
	rc |= sqlite3_bind_int(statement, 4, row->kind);
	rc |= sqlite3_bind_int64(statement, 5, row->revision);
	rc |= bind_slice(statement, 6, row->key);
	rc |= bind_slice(statement, 7, row->value);
	rc |= sqlite3_bind_int64(statement, 8, row->create_revision);
	rc |= sqlite3_bind_int64(statement, 9, row->version);
	rc |= sqlite3_bind_int64(statement, 10, row->lease);
	rc |= bind_slice(statement, 11, row->payload);
	rc |= sqlite3_bind_int64(statement, 12, row->writer);
	rc |= sqlite3_bind_int64(statement, 13, row->batch);
	rc |= sqlite3_bind_int64(statement, 14, created_at);
	if (rc != SQLITE_OK)
		return SQLITE_NOMEM; /* TOOBIG or NOMEM: no other way to fail */
	rc = sqlite3_step(statement);
	sqlite3_reset(statement);
	return rc == SQLITE_DONE ? SQLITE_OK : rc;
}

static int insert_rows(struct sqlb_conn *conn, const struct sqlb_append *append, int64_t now)
{
	sqlite3_stmt *statement;
	int rc = sqlb_lite_prepare(conn, LITE_INSERT_ROW, &statement);

	for (size_t i = 0; i < append->row_count && rc == SQLITE_OK; i++)
		rc = insert_row(statement, &append->rows[i], now);
	return rc;
}

static int change_leases(struct sqlb_conn *conn, const struct sqlb_append *append, int64_t now)
{
	int rc = SQLITE_OK;

	for (size_t i = 0; i < append->leases_expired_count && rc == SQLITE_OK; i++)
		rc = sqlb_lite_run(conn, LITE_LEASE_DROP, INTS(append->leases_expired[i]));
	for (size_t i = 0; i < append->leases_gone_count && rc == SQLITE_OK; i++)
		rc = sqlb_lite_run(conn, LITE_LEASE_DROP, INTS(append->leases_gone[i]));
	for (size_t i = 0; i < append->leases_new_count && rc == SQLITE_OK; i++)
		rc = sqlb_lite_run(conn, LITE_LEASE_PUT,
				   INTS(append->leases_new[i].id, append->leases_new[i].ttl_ms, now));
	return rc;
}

static bool touches_leases(const struct sqlb_append *append)
{
	return append->leases_new_count + append->leases_gone_count + append->leases_expired_count > 0;
}

/* Before the transaction changes anything. *expired: those that have to be past their deadlines are. */
static int look_at_leases(struct sqlb_conn *conn, const struct sqlb_append *append, int64_t now, bool *expired)
{
	int rc;

	if (!touches_leases(append))
		return SQLITE_OK;
	rc = sqlb_lite_leases_know(conn);
	if (rc == SQLITE_OK && !sqlb_lite_leases_reserve(conn->db, append->leases_new_count))
		rc = SQLITE_NOMEM;
	if (rc == SQLITE_OK)
		*expired = sqlb_lite_leases_past(conn->db, append->leases_expired, append->leases_expired_count, now);
	return rc;
}

/* After it ended. */
static void note_leases(struct sqlb_db *db, const struct sqlb_append *append, int64_t now, enum sqlb_outcome outcome)
{
	if (!touches_leases(append) || (outcome != SQLB_OK && outcome != SQLB_DOUBT))
		return;
	sqlb_lite_leases_drop(db, append->leases_expired, append->leases_expired_count);
	sqlb_lite_leases_drop(db, append->leases_gone, append->leases_gone_count);
	if (outcome == SQLB_OK) {
		sqlb_lite_leases_put(db, append->leases_new, append->leases_new_count, now);
		return;
	}
	/* An old deadline of an id that was granted again would be too early. */
	for (size_t i = 0; i < append->leases_new_count; i++)
		sqlb_lite_leases_drop(db, &append->leases_new[i].id, 1);
	sqlb_lite_leases_doubt(db);
}

enum sqlb_outcome sqlb_lite_append(struct sqlb_conn *conn, const struct sqlb_append *append, bool *appended,
				   struct ks_err *err)
{
	enum sqlb_outcome outcome = sqlb_lite_begin_write(conn, LITE_DURABLE, "append", err);
	int64_t head[4] = {0};
	int64_t now = sqlb_lite_now(conn->db);
	bool taken = false, expired = true;
	int rc;

	*appended = false;
	if (outcome != SQLB_OK)
		return outcome;
	rc = sqlb_lite_ask(conn, LITE_HEAD, NULL, 0, head, 4);
	if (sqlb_lite_outcome(rc) == SQLB_OK) {
		rc = SQLITE_OK;
		taken = append->row_count && (append->rows[0].position != head[0] + 1 ||
					      (append->after_writer != 0 &&
					       (head[2] != append->after_writer || head[3] != append->after_batch)));
	}
	if (rc == SQLITE_OK && !taken)
		rc = look_at_leases(conn, append, now, &expired);
	if (rc == SQLITE_OK && (taken || !expired)) {
		sqlb_lite_roll_back(conn);
		sqlb_lite_give_turn(conn->db);
		sqlb_lite_learn_newest(conn->db, head[0]);
		return taken ? SQLB_CONFLICT : SQLB_OK;
	}
	if (rc == SQLITE_OK)
		rc = insert_rows(conn, append, now);
	if (rc == SQLITE_OK)
		rc = change_leases(conn, append, now);
	outcome = sqlb_lite_commit(conn, rc, "append", err);
	note_leases(conn->db, append, now, outcome);
	sqlb_lite_give_turn(conn->db);
	*appended = outcome == SQLB_OK;
	if (outcome == SQLB_OK && append->row_count)
		sqlb_lite_learn_newest(conn->db, append->rows[append->row_count - 1].position);
	return outcome;
}

/* ---- load ---- */

/* *failed: 'next' did. */
static int insert_all(struct sqlb_conn *conn, sqlb_next_fn *next, void *ctx, int64_t *newest, bool *failed)
{
	int64_t now = sqlb_lite_now(conn->db);
	enum sqlb_next what = SQLB_NEXT_END;
	sqlite3_stmt *statement;
	struct sqlb_row row;
	int rc = sqlb_lite_prepare(conn, LITE_INSERT_ROW, &statement);

	while (rc == SQLITE_OK && (what = next(ctx, &row)) == SQLB_NEXT_ROW) {
		*newest = row.position;
		rc = insert_row(statement, &row, now);
	}
	*failed = what == SQLB_NEXT_FAILED;
	return rc;
}

enum sqlb_outcome sqlb_lite_load(struct sqlb_conn *conn, sqlb_next_fn *next, void *ctx, struct ks_err *err)
{
	enum sqlb_outcome outcome = sqlb_lite_begin_write(conn, LITE_DURABLE, "load", err);
	int64_t head[4] = {0}, newest = 0;
	bool failed = false;
	int rc;

	if (outcome != SQLB_OK)
		return outcome;
	rc = sqlb_lite_ask(conn, LITE_HEAD, NULL, 0, head, 4);
	if (sqlb_lite_outcome(rc) == SQLB_OK)
		rc = SQLITE_OK;
	if (rc == SQLITE_OK && head[0] == 0)
		rc = insert_all(conn, next, ctx, &newest, &failed);
	if (rc == SQLITE_OK && (head[0] != 0 || failed)) {
		sqlb_lite_roll_back(conn);
		sqlb_lite_give_turn(conn->db);
		return failed ? SQLB_AWAY : SQLB_CONFLICT;
	}
	outcome = sqlb_lite_end_write(conn, rc, "load", err);
	if (outcome == SQLB_OK)
		sqlb_lite_learn_newest(conn->db, newest);
	return outcome;
}

/* ---- reading the log ---- */

enum sqlb_outcome sqlb_lite_read_head(struct sqlb_conn *conn, struct sqlb_head *head, struct ks_err *err)
{
	enum sqlb_outcome outcome = sqlb_lite_ready(conn, "read_head", err);
	int64_t columns[4] = {0};
	int rc;

	if (outcome != SQLB_OK)
		return outcome;
	rc = sqlb_lite_ask(conn, LITE_HEAD, NULL, 0, columns, 4);
	*head = (struct sqlb_head){
		.position = columns[0], .revision = columns[1], .writer = columns[2], .batch = columns[3]};
	return sqlb_lite_end_read(conn, rc, "read_head", err);
}

static void column_row(sqlite3_stmt *statement, struct sqlb_row *row)
{
	row->position = sqlite3_column_int64(statement, 0);
	row->sub = sqlite3_column_int(statement, 1);
	row->rows = sqlite3_column_int(statement, 2);
	row->kind = (int16_t)sqlite3_column_int(statement, 3);
	row->revision = sqlite3_column_int64(statement, 4);
	row->key = sqlb_lite_slice(statement, 5);
	row->value = sqlb_lite_slice(statement, 6);
	row->create_revision = sqlite3_column_int64(statement, 7);
	row->version = sqlite3_column_int64(statement, 8);
	row->lease = sqlite3_column_int64(statement, 9);
	row->payload = sqlb_lite_slice(statement, 10);
	row->writer = sqlite3_column_int64(statement, 11);
	row->batch = sqlite3_column_int64(statement, 12);
}

enum sqlb_outcome sqlb_lite_read_rows(struct sqlb_conn *conn, int64_t after, int64_t to, size_t max_bytes,
				      sqlb_row_fn *visit, void *ctx, bool *more, struct ks_err *err)
{
	enum sqlb_outcome outcome = sqlb_lite_ready(conn, "read_rows", err);
	struct sqlb_row row = {0};
	int64_t position = 0; /* of the entry being visited */
	size_t bytes = 0;
	sqlite3_stmt *statement;
	int rc;

	*more = false;
	if (outcome != SQLB_OK)
		return outcome;
	rc = sqlb_lite_prepare(conn, LITE_ROWS, &statement);
	if (rc == SQLITE_OK)
		rc = sqlb_lite_bind(statement, INTS(after, to < 0 ? INT64_MAX : to));
	while (rc == SQLITE_OK && (rc = sqlite3_step(statement)) == SQLITE_ROW) {
		rc = SQLITE_OK;
		column_row(statement, &row);
		*more = position != 0 && bytes >= max_bytes && row.position != position;
		if (*more)
			break;
		position = row.position;
		bytes += row.key.size + row.value.size + row.payload.size;
		*more = !visit(ctx, &row);
		if (*more)
			break;
	}
	if (statement)
		sqlite3_reset(statement);
	return sqlb_lite_end_read(conn, rc, "read_rows", err);
}

enum sqlb_outcome sqlb_lite_read_at(struct sqlb_conn *conn, const struct sqlb_loc *locs, size_t count,
				    sqlb_row_fn *visit, void *ctx, struct ks_err *err)
{
	enum sqlb_outcome outcome = sqlb_lite_ready(conn, "read_at", err);
	struct sqlb_row row = {0};
	sqlite3_stmt *statement = NULL;
	bool go_on = true;
	int rc = SQLITE_OK;

	if (outcome != SQLB_OK)
		return outcome;
	if (count > 1)
		rc = sqlb_lite_run(conn, LITE_BEGIN_READ, NULL, 0);
	if (rc == SQLITE_OK)
		rc = sqlb_lite_prepare(conn, LITE_ROW_AT, &statement);
	for (size_t i = 0; i < count && rc == SQLITE_OK && go_on; i++) {
		rc = sqlb_lite_bind(statement, INTS(locs[i].position, locs[i].sub));
		if (rc == SQLITE_OK)
			rc = sqlite3_step(statement);
		if (rc == SQLITE_ROW) {
			column_row(statement, &row);
			go_on = visit(ctx, &row);
		}
		sqlite3_reset(statement);
		if (sqlb_lite_outcome(rc) == SQLB_OK)
			rc = SQLITE_OK;
	}
	return sqlb_lite_end_read(conn, rc, "read_at", err);
}

enum sqlb_outcome sqlb_lite_trim(struct sqlb_conn *conn, const struct sqlb_loc *locs, size_t count, struct ks_err *err)
{
	/* Trimming again after a power cut is fine, so it need not wait for the disk. */
	enum sqlb_outcome outcome = sqlb_lite_begin_write(conn, LITE_RELAXED, "trim", err);
	int rc = SQLITE_OK;

	if (outcome != SQLB_OK)
		return outcome;
	for (size_t i = 0; i < count && rc == SQLITE_OK; i++)
		rc = sqlb_lite_run(conn, LITE_TRIM, INTS(locs[i].position, locs[i].sub));
	return sqlb_lite_end_side(conn, rc, "trim", err);
}

enum sqlb_outcome sqlb_lite_wait_for_change(struct sqlb_conn *conn, int64_t after, int wait_ms, struct ks_err *err)
{
	struct sqlb_db *db = conn->db;
	int64_t until = ks_clock_now(ks_clock_system()) + wait_ms;
	int64_t left;

	(void)err;
	ks_mutex_lock(&db->mutex);
	while (!conn->cancelled && db->newest <= after && (left = until - ks_clock_now(ks_clock_system())) > 0)
		ks_cond_wait(&db->changed, &db->mutex, left);
	conn->cancelled = false;
	ks_mutex_unlock(&db->mutex);
	return SQLB_OK;
}

void sqlb_lite_cancel(struct sqlb_conn *conn)
{
	ks_mutex_lock(&conn->db->mutex);
	conn->cancelled = true;
	ks_cond_broadcast(&conn->db->changed);
	ks_mutex_unlock(&conn->db->mutex);
}
