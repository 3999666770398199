/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Reading and trimming the log in SQL Server.
 *
 * A read ends at the head as it was when the read began, and goes upwards by key, in one SELECT or, when there is more than
 * one should bring, in several. Why that is as good as one snapshot, whether READ COMMITTED reads old versions
 * (READ_COMMITTED_SNAPSHOT on) or waits for locks (off):
 *
 *  - Rows are never changed, and only added beyond the newest. All rows up to the head were committed before the read
 *    began: none of them can appear while it runs. (With READ_COMMITTED_SNAPSHOT off the look at the head waits for an
 *    append that is being committed; the rows below are not locked by it.)
 *  - Rows that are trimmed while the read runs may be seen or not. Trimming deletes any subset of an entry's rows,
 *    in transactions of any size: each mixture that is read here is what a snapshot between two smaller trims would have shown.
 *  - A hole is explained by a compaction entry that was appended before it was made, at a higher position. An ascending
 *    read that found the hole comes to that entry later, or stops before it and leaves the rest to the next read,
 *    as after any snapshot.
 *
 * Rows are visited as they arrive, so large values never stand in memory together.
 */
#include <string.h>

#include "mssql_priv.h"

enum {
	READ_BYTES = 4 << 20, /* what one SELECT should bring */
	KEEP_BYTES = 1 << 20, /* of each column's buffer, between reads */
	READ_ROWS_MIN = 64,
	READ_ROWS_MAX = 16384,
};

static enum sqlb_outcome bad_row(struct sqlb_conn *conn, struct ks_err *err)
{
	return sqlb_ms_broken(conn, err, "kineshim_log has a column that is not as this program makes it");
}

enum sqlb_outcome sqlb_ms_head(struct sqlb_conn *conn, struct sqlb_head *head, struct ks_err *err)
{
	enum sqlb_outcome outcome;
	int64_t values[4] = {0};
	bool found;

	*head = (struct sqlb_head){0};
	sqlb_ms_start(conn);
	sqlb_ms_say(conn, "SELECT TOP (1) position, revision, writer, batch FROM kineshim_log "
			  "ORDER BY position DESC, sub DESC");
	outcome = sqlb_ms_numbers(conn, values, 4, &found, err);
	if (outcome == SQLB_OK && found)
		*head = (struct sqlb_head){values[0], values[1], values[2], values[3]};
	return outcome;
}

enum sqlb_outcome sqlb_ms_read_head(struct sqlb_conn *conn, struct sqlb_head *head, struct ks_err *err)
{
	enum sqlb_outcome outcome = sqlb_ms_begin(conn, SQLB_MS_ANSWER_TIMEOUT_S, err);

	*head = (struct sqlb_head){0};
	return outcome == SQLB_OK ? sqlb_ms_head(conn, head, err) : outcome;
}

/* A read of many rows, on its way. */
struct scan {
	sqlb_row_fn *visit;
	void *ctx;
	size_t max_bytes;
	size_t bytes;         /* visited */
	size_t rows;          /* visited */
	struct sqlb_loc last; /* where the last one was */
	bool stopped;         /* rows are left that will not be visited */
};

/* The row that was fetched, from 'column' on. False: memory or the connection, or a NULL that cannot be ours. */
static bool get_row(struct sqlb_conn *conn, int column, struct sqlb_row *row, bool *null)
{
	int64_t numbers[SQLB_MS_NUMBERS];
	struct ks_slice slices[SQLB_MS_SLICES];

	*null = false;
	for (int i = 0; i < SQLB_MS_NUMBERS; i++)
		if (!sqlb_ms_get_int8(conn, column++, &numbers[i])) {
			*null = true;
			return false;
		}
	for (int i = 0; i < SQLB_MS_SLICES; i++)
		if (!sqlb_ms_get_slice(conn, column++, &conn->slices[i], &slices[i]))
			return false;
	*row = (struct sqlb_row){
		.position = numbers[0],
		.sub = (int32_t)numbers[1],
		.rows = (int32_t)numbers[2],
		.kind = (int16_t)numbers[3],
		.revision = numbers[4],
		.create_revision = numbers[5],
		.version = numbers[6],
		.lease = numbers[7],
		.writer = numbers[8],
		.batch = numbers[9],
		.key = slices[0],
		.value = slices[1],
		.payload = slices[2],
	};
	return true;
}

static void visit_row(struct scan *scan, const struct sqlb_row *row)
{
	if (scan->rows > 0 && scan->bytes >= scan->max_bytes && row->position != scan->last.position) {
		scan->stopped = true;
		return;
	}
	scan->last = (struct sqlb_loc){row->position, row->sub};
	scan->bytes += sqlb_ms_row_bytes(row);
	scan->rows++;
	scan->stopped = !scan->visit(scan->ctx, row);
}

static enum sqlb_outcome failed_row(struct sqlb_conn *conn, bool null, struct ks_err *err)
{
	if (conn->error.text[0] != '\0')
		return sqlb_ms_judge(conn, err);
	return null ? bad_row(conn, err) : sqlb_ms_no_memory(conn, err);
}

/* One large value is not to take its room for as long as the connection lives. */
static void give_room_back(struct sqlb_conn *conn)
{
	for (int i = 0; i < SQLB_MS_SLICES; i++)
		if (conn->slices[i].capacity > KEEP_BYTES)
			ks_buf_fini(&conn->slices[i]);
}

/*
 * The rows of the statement that is ready, from 'column' on; in front of them may be the head. *rows counts those that
 * came. After a stop the rest is cancelled; whether the connection survives that shows at the next statement.
 */
static enum sqlb_outcome visit_rows(struct sqlb_conn *conn, struct scan *scan, int column, int64_t *head, size_t *rows,
				    struct ks_err *err)
{
	bool have = false, null;
	struct sqlb_row row;

	*rows = 0;
	conn->error = (struct sqlb_ms_error){0};
	if (!sqlb_ms_execute(conn))
		return sqlb_ms_judge(conn, err);
	while (!scan->stopped) {
		if (!sqlb_ms_next(conn, &have))
			return sqlb_ms_judge(conn, err);
		if (!have)
			break;
		if (column > 1 && !sqlb_ms_get_int8(conn, 1, head))
			return failed_row(conn, true, err);
		if (!get_row(conn, column, &row, &null))
			return failed_row(conn, null, err);
		visit_row(scan, &row);
		++*rows;
	}
	give_room_back(conn);
	if (scan->stopped) {
		SQLFreeStmt(conn->stmt, SQL_CLOSE);
		conn->used_at_ms = sqlb_ms_now_ms();
		return SQLB_OK;
	}
	return sqlb_ms_finish(conn) ? SQLB_OK : sqlb_ms_judge(conn, err);
}

/* Follows the sizes of rows quickly upwards and slowly downwards: only too large a read hurts. */
static void learn_row_bytes(struct sqlb_conn *conn, size_t bytes, size_t rows)
{
	size_t seen = rows ? bytes / rows : conn->row_bytes;

	conn->row_bytes = seen > conn->row_bytes ? seen : conn->row_bytes - (conn->row_bytes - seen) / 8;
}

static int64_t rows_wanted(const struct sqlb_conn *conn, const struct scan *scan)
{
	size_t left = scan->max_bytes > scan->bytes ? scan->max_bytes - scan->bytes : 0;
	size_t bytes = left < READ_BYTES ? left : READ_BYTES;
	/* One more than fits, to see that there is one. */
	size_t rows = bytes / (conn->row_bytes + 32) + 2;

	return rows < READ_ROWS_MIN ? READ_ROWS_MIN : rows > READ_ROWS_MAX ? READ_ROWS_MAX : (int64_t)rows;
}

static void start_first(struct sqlb_conn *conn, int64_t limit, int64_t after, int64_t to)
{
	sqlb_ms_start(conn);
	sqlb_ms_say(conn, "DECLARE @head bigint; SET @head = COALESCE((SELECT TOP (1) position FROM kineshim_log "
			  "ORDER BY position DESC, sub DESC), 0); "
			  "SELECT TOP (?) @head, " SQLB_MS_ROW_COLUMNS " FROM kineshim_log "
			  "WHERE position > ? AND position <= ? AND position <= @head ORDER BY position, sub");
	sqlb_ms_bind_int8(conn, limit);
	sqlb_ms_bind_int8(conn, after);
	sqlb_ms_bind_int8(conn, to);
}

static void start_next(struct sqlb_conn *conn, int64_t limit, struct sqlb_loc last, int64_t to)
{
	sqlb_ms_start(conn);
	sqlb_ms_say(conn, "SELECT TOP (?) " SQLB_MS_ROW_COLUMNS " FROM kineshim_log "
			  "WHERE position >= ? AND position <= ? AND (position > ? OR sub > ?) "
			  "ORDER BY position, sub");
	sqlb_ms_bind_int8(conn, limit);
	sqlb_ms_bind_int8(conn, last.position);
	sqlb_ms_bind_int8(conn, to);
	sqlb_ms_bind_int8(conn, last.position);
	sqlb_ms_bind_int8(conn, last.sub);
}

enum sqlb_outcome sqlb_ms_read_rows(struct sqlb_conn *conn, int64_t after, int64_t to, size_t max_bytes,
				    sqlb_row_fn *visit, void *ctx, bool *more, struct ks_err *err)
{
	struct scan scan = {.visit = visit, .ctx = ctx, .max_bytes = max_bytes};
	enum sqlb_outcome outcome = sqlb_ms_begin(conn, SQLB_MS_ANSWER_TIMEOUT_S, err);
	int64_t limit, head = 0;
	size_t rows = 0;

	*more = false;
	if (outcome != SQLB_OK)
		return outcome;
	if (to < 0)
		to = INT64_MAX;
	limit = rows_wanted(conn, &scan);
	start_first(conn, limit, after, to);
	outcome = visit_rows(conn, &scan, 2, &head, &rows, err);
	if (outcome == SQLB_OK && to > head)
		to = head;
	while (outcome == SQLB_OK && !scan.stopped && rows == (size_t)limit) {
		learn_row_bytes(conn, scan.bytes, scan.rows);
		limit = rows_wanted(conn, &scan);
		start_next(conn, limit, scan.last, to);
		outcome = visit_rows(conn, &scan, 1, &head, &rows, err);
	}
	if (outcome == SQLB_OK && scan.rows > 0)
		learn_row_bytes(conn, scan.bytes, scan.rows);
	*more = scan.stopped;
	return outcome;
}

/* ---- places ---- */

static void bind_places(struct sqlb_conn *conn, const struct sqlb_loc *locs, size_t count, size_t step)
{
	for (size_t i = 0; i < step; i++) {
		if (i < count) {
			sqlb_ms_bind_int8(conn, locs[i].position);
			sqlb_ms_bind_int8(conn, locs[i].sub);
		} else {
			sqlb_ms_bind_null(conn);
			sqlb_ms_bind_null(conn);
		}
	}
}

enum sqlb_outcome sqlb_ms_read_at(struct sqlb_conn *conn, const struct sqlb_loc *locs, size_t count, sqlb_row_fn *visit,
				  void *ctx, struct ks_err *err)
{
	struct scan scan = {.visit = visit, .ctx = ctx, .max_bytes = SIZE_MAX};
	enum sqlb_outcome outcome = SQLB_OK;
	size_t rows;

	if (count > 0)
		outcome = sqlb_ms_begin(conn, SQLB_MS_ANSWER_TIMEOUT_S, err);
	for (size_t i = 0; i < count && outcome == SQLB_OK && !scan.stopped; i += SQLB_MS_IDS_MAX) {
		size_t left = count - i, some = left < SQLB_MS_IDS_MAX ? left : SQLB_MS_IDS_MAX;
		size_t step = sqlb_ms_step(some, SQLB_MS_IDS_MAX);

		sqlb_ms_start(conn);
		sqlb_ms_text_read_at(&conn->text, step);
		bind_places(conn, locs + i, some, step);
		outcome = visit_rows(conn, &scan, 1, NULL, &rows, err);
	}
	return outcome;
}

/* No gate here: mssql_sql.c says why an append notices what is trimmed beside it. */
enum sqlb_outcome sqlb_ms_trim(struct sqlb_conn *conn, const struct sqlb_loc *locs, size_t count, struct ks_err *err)
{
	enum sqlb_outcome outcome = SQLB_OK;

	if (count > 0)
		outcome = sqlb_ms_begin(conn, SQLB_MS_ANSWER_TIMEOUT_S, err);
	for (size_t i = 0; i < count && outcome == SQLB_OK; i += SQLB_MS_IDS_MAX) {
		size_t left = count - i, some = left < SQLB_MS_IDS_MAX ? left : SQLB_MS_IDS_MAX;
		size_t step = sqlb_ms_step(some, SQLB_MS_IDS_MAX);

		sqlb_ms_start(conn);
		sqlb_ms_text_trim(&conn->text, step);
		bind_places(conn, locs + i, some, step);
		outcome = sqlb_ms_done(conn, err);
	}
	return outcome;
}
