/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Reading and trimming the log in PostgreSQL. Usually few rows are new and come with one SELECT; a cursor
 * brings any number from one snapshot, and COPY all that there are. Large values never stand in memory together:
 * rows are visited as they arrive.
 */
#include <endian.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "postgres_priv.h"

enum {
	SMALL_READ_BYTES =
		8 << 20, /* what one plain SELECT should return (how many rows: few.h); more goes through a cursor */
	FETCH_BYTES = 1 << 20, /* what one FETCH of a cursor should bring */
	FETCH_ROWS_MAX = 2048,
};

#define ALL_BYTES (SIZE_MAX / 4) /* who allows so many means to read to the end */

/* Column order: SQLB_PG_ROW_COLUMNS. */
static bool get_row(const PGresult *result, int i, struct sqlb_row *row)
{
	row->key = sqlb_pg_get_slice(result, i, 5);
	row->value = sqlb_pg_get_slice(result, i, 6);
	row->payload = sqlb_pg_get_slice(result, i, 10);
	return sqlb_pg_get_int8(result, i, 0, &row->position) && sqlb_pg_get_int4(result, i, 1, &row->sub) &&
	       sqlb_pg_get_int4(result, i, 2, &row->rows) && sqlb_pg_get_int2(result, i, 3, &row->kind) &&
	       sqlb_pg_get_int8(result, i, 4, &row->revision) &&
	       sqlb_pg_get_int8(result, i, 7, &row->create_revision) && sqlb_pg_get_int8(result, i, 8, &row->version) &&
	       sqlb_pg_get_int8(result, i, 9, &row->lease) && sqlb_pg_get_int8(result, i, 11, &row->writer) &&
	       sqlb_pg_get_int8(result, i, 12, &row->batch);
}

enum { ROW_COLUMNS = 13 };

static enum sqlb_outcome bad_row(struct sqlb_conn *conn, struct ks_err *err)
{
	return sqlb_pg_broken(conn, err, "kineshim_log has a column that is not as this program makes it");
}

enum sqlb_outcome sqlb_pg_read_head(struct sqlb_conn *conn, struct sqlb_head *head, struct ks_err *err)
{
	enum sqlb_outcome outcome = sqlb_pg_begin(conn, SQLB_PG_ANSWER_TIMEOUT_MS, err);
	PGresult *result;

	*head = (struct sqlb_head){0};
	if (outcome != SQLB_OK)
		return outcome;
	outcome = sqlb_pg_query(conn, SQLB_PG_HEAD, NULL, 4, &result, err);
	if (outcome == SQLB_OK && PQntuples(result) > 0 &&
	    !(sqlb_pg_get_int8(result, 0, 0, &head->position) && sqlb_pg_get_int8(result, 0, 1, &head->revision) &&
	      sqlb_pg_get_int8(result, 0, 2, &head->writer) && sqlb_pg_get_int8(result, 0, 3, &head->batch)))
		outcome = bad_row(conn, err);
	PQclear(result);
	return outcome;
}

/* A read of many rows, on its way. */
struct scan {
	sqlb_row_fn *visit;
	void *ctx;
	size_t max_bytes;
	size_t bytes;     /* visited */
	size_t rows;      /* visited */
	int64_t position; /* of the last one */
	bool stopped;     /* rows are left that will not be visited */
};

static void scan_row(struct scan *scan, const struct sqlb_row *row)
{
	if (scan->rows > 0 && scan->bytes >= scan->max_bytes && row->position != scan->position) {
		scan->stopped = true;
		return;
	}
	scan->position = row->position;
	scan->bytes += sqlb_pg_row_bytes(row);
	scan->rows++;
	scan->stopped = !scan->visit(scan->ctx, row);
}

static enum sqlb_outcome scan_result(struct sqlb_conn *conn, struct scan *scan, const PGresult *result,
				     struct ks_err *err)
{
	int count = PQntuples(result);

	if (PQnfields(result) != ROW_COLUMNS)
		return bad_row(conn, err);
	for (int i = 0; i < count && !scan->stopped; i++) {
		struct sqlb_row row;

		if (!get_row(result, i, &row))
			return bad_row(conn, err);
		scan_row(scan, &row);
	}
	return SQLB_OK;
}

/* Follows the sizes of rows quickly upwards and slowly downwards: only too large a read hurts. */
static void learn_row_bytes(struct sqlb_conn *conn, size_t bytes, size_t rows)
{
	size_t seen = rows ? bytes / rows : conn->row_bytes;

	conn->row_bytes = seen > conn->row_bytes ? seen : conn->row_bytes - (conn->row_bytes - seen) / 8;
}

/* How many rows of the usual size make 'bytes'. */
static int rows_for(const struct sqlb_conn *conn, size_t bytes, int least, int most)
{
	size_t rows = bytes / (conn->row_bytes + 64);

	return rows < (size_t)least ? least : rows > (size_t)most ? most : (int)rows;
}

static bool send_sql(struct sqlb_conn *conn, const char *sql)
{
	return PQsendQueryParams(conn->pg, sql, 0, NULL, NULL, NULL, NULL, 1) == 1;
}

static bool send_fetch(struct sqlb_conn *conn, int rows)
{
	char sql[64];

	snprintf(sql, sizeof(sql), "FETCH %d FROM kineshim_rows", rows);
	return send_sql(conn, sql) && PQpipelineSync(conn->pg) && sqlb_pg_flush(conn);
}

/*
 * The answer to one FETCH (and to BEGIN and DECLARE before the first), up to its Sync. Row by row: libpq never
 * holds more than what the socket brought, however large the values are.
 */
static enum sqlb_outcome read_fetch(struct sqlb_conn *conn, struct scan *scan, size_t *rows, struct ks_err *err)
{
	enum sqlb_outcome outcome = SQLB_OK;
	size_t bytes_before = scan->bytes, rows_before = scan->rows;
	bool complete = false;
	PGresult *result;

	*rows = 0;
	for (;;) {
		ExecStatusType status;

		PQsetSingleRowMode(conn->pg); /* refused between statements, which is fine */
		if (!sqlb_pg_next(conn, &result))
			return sqlb_pg_lost(conn, err);
		if (!result)
			continue;
		status = PQresultStatus(result);
		if (status == PGRES_SINGLE_TUPLE || status == PGRES_TUPLES_OK) {
			*rows += (size_t)PQntuples(result);
			complete = status == PGRES_TUPLES_OK;
			if (!scan->stopped && PQntuples(result) > 0)
				outcome = scan_result(conn, scan, result, err);
			/* Both the server and the visitor may take their time, as long as they move. */
			if (*rows % 64 == 0)
				sqlb_pg_more_time(conn, SQLB_PG_ANSWER_TIMEOUT_MS);
		} else if (status == PGRES_FATAL_ERROR) {
			outcome = sqlb_pg_judge(conn, result, err);
		}
		PQclear(result);
		if (outcome != SQLB_OK) {
			sqlb_pg_drop(conn); /* it is inside a failed transaction */
			return outcome;
		}
		if (status == PGRES_PIPELINE_SYNC)
			break;
	}
	learn_row_bytes(conn, scan->bytes - bytes_before, scan->rows - rows_before);
	return complete ? SQLB_OK : sqlb_pg_lost(conn, err);
}

/*
 * One FETCH is still on its way. All rows have come and their end was said: how the transaction ends is all the
 * same.
 */
static enum sqlb_outcome end_cursor(struct sqlb_conn *conn, struct ks_err *err)
{
	struct scan rest = {.stopped = true};
	size_t rows;
	enum sqlb_outcome outcome = read_fetch(conn, &rest, &rows, err);

	if (outcome != SQLB_OK)
		return outcome;
	if (!PQexitPipelineMode(conn->pg) || !PQsendQuery(conn->pg, "COMMIT") || PQflush(conn->pg) < 0)
		sqlb_pg_drop(conn);
	else
		conn->unread = SQLB_PG_UNREAD_STATEMENT;
	conn->in_block = false;
	return SQLB_OK;
}

/*
 * A cursor: one snapshot, any number of rows. Two FETCHes are always on their way, so that the server works on
 * the next rows while these are visited.
 */
static enum sqlb_outcome read_by_cursor(struct sqlb_conn *conn, int64_t after, int64_t to, struct scan *scan,
					struct ks_err *err)
{
	int asked[2] = {rows_for(conn, FETCH_BYTES, 1, FETCH_ROWS_MAX), 0};
	enum sqlb_outcome outcome = SQLB_OK;
	bool last = false;
	char sql[512];

	snprintf(sql, sizeof(sql),
		 "DECLARE kineshim_rows NO SCROLL CURSOR FOR SELECT " SQLB_PG_ROW_COLUMNS " FROM kineshim_log "
		 "WHERE position > %" PRId64 " AND position <= %" PRId64 " ORDER BY position, sub",
		 after, to);
	asked[1] = asked[0];
	if (conn->pooled)
		outcome = sqlb_pg_block_begin(conn, err);
	if (outcome != SQLB_OK)
		return outcome;
	if (!PQenterPipelineMode(conn->pg) || (!conn->in_block && !send_sql(conn, "BEGIN READ ONLY")) ||
	    !send_sql(conn, sql) || !send_fetch(conn, asked[0]) || !send_fetch(conn, asked[1]))
		return sqlb_pg_lost(conn, err);
	while (!last) {
		size_t rows;

		sqlb_pg_more_time(conn, SQLB_PG_ANSWER_TIMEOUT_MS);
		outcome = read_fetch(conn, scan, &rows, err);
		if (outcome != SQLB_OK)
			return outcome;
		last = rows < (size_t)asked[0] || scan->stopped;
		asked[0] = asked[1];
		asked[1] = rows_for(conn, FETCH_BYTES, 1, FETCH_ROWS_MAX);
		if (!last && !send_fetch(conn, asked[1]))
			return sqlb_pg_lost(conn, err);
	}
	return end_cursor(conn, err);
}

/* ---- all rows ---- */

/* What is left of a row as COPY sends it in binary: how many columns, then each with its size. */
struct copied {
	const uint8_t *next;
	size_t size;
	bool bad; /* it ended early, or a column has another size */
};

static const uint8_t *take(struct copied *copied, size_t size)
{
	const uint8_t *bytes = copied->next;

	if (copied->bad || size > copied->size) {
		copied->bad = true;
		return NULL;
	}
	copied->next += size;
	copied->size -= size;
	return bytes;
}

static uint32_t take32(struct copied *copied)
{
	const uint8_t *bytes = take(copied, 4);
	uint32_t big = 0;

	if (bytes)
		memcpy(&big, bytes, sizeof(big));
	return be32toh(big);
}

static uint16_t take16(struct copied *copied)
{
	const uint8_t *bytes = take(copied, 2);
	uint16_t big = 0;

	if (bytes)
		memcpy(&big, bytes, sizeof(big));
	return be16toh(big);
}

static int64_t take_int8(struct copied *copied)
{
	const uint8_t *bytes = take32(copied) == 8 ? take(copied, 8) : NULL;
	uint64_t big = 0;

	if (bytes)
		memcpy(&big, bytes, sizeof(big));
	else
		copied->bad = true;
	return (int64_t)be64toh(big);
}

static int32_t take_int4(struct copied *copied)
{
	if (take32(copied) != 4)
		copied->bad = true;
	return (int32_t)take32(copied);
}

static int16_t take_int2(struct copied *copied)
{
	if (take32(copied) != 2)
		copied->bad = true;
	return (int16_t)take16(copied);
}

static struct ks_slice take_slice(struct copied *copied)
{
	uint32_t size = take32(copied);

	if (size == UINT32_MAX) /* NULL */
		return ks_slice_of(NULL, 0);
	return ks_slice_of(take(copied, size), size);
}

/* Column order: SQLB_PG_ROW_COLUMNS. */
static bool take_row(struct copied *copied, struct sqlb_row *row)
{
	row->position = take_int8(copied);
	row->sub = take_int4(copied);
	row->rows = take_int4(copied);
	row->kind = take_int2(copied);
	row->revision = take_int8(copied);
	row->key = take_slice(copied);
	row->value = take_slice(copied);
	row->create_revision = take_int8(copied);
	row->version = take_int8(copied);
	row->lease = take_int8(copied);
	row->payload = take_slice(copied);
	row->writer = take_int8(copied);
	row->batch = take_int8(copied);
	return !copied->bad && copied->size == 0;
}

/* Passes over what stands before the first row. */
static bool take_header(struct copied *copied)
{
	const uint8_t *signature = take(copied, SQLB_PG_COPY_SIGNATURE_BYTES);

	if (!signature || memcmp(signature, SQLB_PG_COPY_SIGNATURE, SQLB_PG_COPY_SIGNATURE_BYTES) != 0)
		return false;
	(void)take32(copied); /* flags */
	(void)take(copied, take32(copied));
	return !copied->bad;
}

/* One message of a COPY: a row, the first one with the header before it; or the mark of the end, which is *ended. */
static enum sqlb_outcome scan_copied(struct sqlb_conn *conn, struct scan *scan, struct copied copied, bool first,
				     bool *ended, struct ks_err *err)
{
	struct sqlb_row row;
	uint16_t columns;

	if (*ended || (first && !take_header(&copied)))
		return bad_row(conn, err);
	columns = take16(&copied);
	*ended = columns == UINT16_MAX && !copied.bad;
	if (*ended)
		return SQLB_OK;
	if (columns != ROW_COLUMNS || !take_row(&copied, &row))
		return bad_row(conn, err);
	scan_row(scan, &row);
	return SQLB_OK;
}

/* The rows of a COPY that was begun, up to its end or to where the visitor stops. */
static enum sqlb_outcome scan_copy(struct sqlb_conn *conn, struct scan *scan, struct ks_err *err)
{
	enum sqlb_outcome outcome = SQLB_OK;
	bool ended = false;
	int size = 0;

	for (size_t messages = 0; outcome == SQLB_OK && !scan->stopped; messages++) {
		char *data = NULL;

		/* Both the server and the visitor may take their time, as long as they move. */
		if (messages % 64 == 0)
			sqlb_pg_more_time(conn, SQLB_PG_ANSWER_TIMEOUT_MS);
		size = sqlb_pg_get_copied(conn, &data);
		if (size < 0)
			break;
		outcome = scan_copied(conn, scan, (struct copied){(const uint8_t *)data, (size_t)size, false},
				      messages == 0, &ended, err);
		PQfreemem(data);
	}
	if (outcome == SQLB_OK && !scan->stopped)
		outcome = size == -1 ? sqlb_pg_end_copy(conn, err) : sqlb_pg_lost(conn, err);
	if (outcome == SQLB_OK && !scan->stopped && !ended)
		outcome = bad_row(conn, err);
	return outcome;
}

/*
 * One statement, one snapshot, and no way to end it early but to hang up. A start with 1,000,000 rows of 32+100 bytes takes 0.5 s of
 * processor time here and 0.75 s in the server; with a cursor it took 0.7 s and 0.9 s, because libpq makes a result of each row, and
 * the server stores the rows of each FETCH before it sends them.
 */
static enum sqlb_outcome read_by_copy(struct sqlb_conn *conn, int64_t after, int64_t to, struct scan *scan,
				      struct ks_err *err)
{
	enum sqlb_outcome outcome = sqlb_pg_block_begin(conn, err);
	char sql[512];

	snprintf(sql, sizeof(sql),
		 "COPY (SELECT " SQLB_PG_ROW_COLUMNS " FROM kineshim_log WHERE position > %" PRId64
		 " AND position <= %" PRId64 " ORDER BY position, sub) TO STDOUT (FORMAT binary)",
		 after, to);
	if (outcome == SQLB_OK)
		outcome = sqlb_pg_exec(conn, "SET LOCAL statement_timeout = 0", NULL, err);
	if (outcome == SQLB_OK)
		outcome = sqlb_pg_begin_copy(conn, sql, PGRES_COPY_OUT, err);
	if (outcome == SQLB_OK)
		outcome = scan_copy(conn, scan, err);
	/* When all rows came, how the transaction ends is all the same. */
	if (outcome != SQLB_OK || scan->stopped || sqlb_pg_block_end(conn, "COMMIT", err) != SQLB_OK)
		sqlb_pg_drop(conn);
	return outcome;
}

/* One page of read_by_pages: rows as they arrive. */
static enum sqlb_outcome read_page(struct sqlb_conn *conn, struct scan *scan, const struct sqlb_loc *after, int64_t to,
				   int limit, size_t *rows, struct sqlb_loc *last, struct ks_err *err)
{
	/* The first condition is for the index: it knows where to begin. */
	static const char text[] = "SELECT " SQLB_PG_ROW_COLUMNS " FROM kineshim_log WHERE position >= $1::int8 "
				   "AND (position > $1::int8 OR sub > $2::int4) AND position <= $3::int8 "
				   "ORDER BY position, sub LIMIT $4::int8";
	static const int binary[] = {1, 1, 1, 1};
	enum sqlb_outcome outcome = SQLB_OK;
	struct sqlb_pg_params params = {0};
	bool complete = false;
	PGresult *result;

	*rows = 0;
	sqlb_pg_param_int8(&params, after->position);
	sqlb_pg_param_int4(&params, after->sub);
	sqlb_pg_param_int8(&params, to);
	sqlb_pg_param_int8(&params, limit);
	if (!PQsendQueryParams(conn->pg, text, params.count, NULL, params.values, params.sizes, binary, 1) ||
	    !PQsetSingleRowMode(conn->pg))
		return sqlb_pg_lost(conn, err);
	for (;;) {
		ExecStatusType status;

		if (!sqlb_pg_next(conn, &result))
			return sqlb_pg_lost(conn, err);
		if (!result)
			break;
		status = PQresultStatus(result);
		complete = complete || status == PGRES_TUPLES_OK;
		if (status == PGRES_SINGLE_TUPLE) {
			++*rows;
			sqlb_pg_get_int8(result, 0, 0, &last->position);
			sqlb_pg_get_int4(result, 0, 1, &last->sub);
			if (outcome == SQLB_OK && !scan->stopped)
				outcome = scan_result(conn, scan, result, err);
			sqlb_pg_more_time(conn, SQLB_PG_ANSWER_TIMEOUT_MS);
		} else if (status != PGRES_TUPLES_OK && outcome == SQLB_OK) {
			outcome = sqlb_pg_judge(conn, result, err);
		}
		PQclear(result);
		if (!conn->pg)
			return outcome;
	}
	return outcome == SQLB_OK && !complete ? sqlb_pg_lost(conn, err) : outcome;
}

/* Where there are no cursors: page after page in one transaction, which is one snapshot. */
static enum sqlb_outcome read_by_pages(struct sqlb_conn *conn, int64_t after, int64_t to, struct scan *scan,
				       struct ks_err *err)
{
	struct sqlb_loc last = {after, INT32_MAX};
	enum sqlb_outcome outcome = sqlb_pg_block_begin(conn, err);
	bool more = true;

	while (outcome == SQLB_OK && more && !scan->stopped) {
		int limit = rows_for(conn, FETCH_BYTES, 1, FETCH_ROWS_MAX);
		size_t bytes_before = scan->bytes, rows_before = scan->rows, rows;
		struct sqlb_loc from = last;

		outcome = read_page(conn, scan, &from, to, limit, &rows, &last, err);
		learn_row_bytes(conn, scan->bytes - bytes_before, scan->rows - rows_before);
		more = rows == (size_t)limit;
	}
	if (outcome == SQLB_OK)
		outcome = sqlb_pg_block_end(conn, "COMMIT", err);
	if (outcome != SQLB_OK)
		sqlb_pg_drop(conn);
	return outcome;
}

/* The first rows were more than fit: what they weigh sizes the reads that follow. */
static void learn_from_result(struct sqlb_conn *conn, const PGresult *result)
{
	size_t bytes = 0;

	for (int i = 0; i < PQntuples(result); i++)
		bytes += (size_t)PQgetlength(result, i, 5) + (size_t)PQgetlength(result, i, 6) +
			 (size_t)PQgetlength(result, i, 10);
	learn_row_bytes(conn, bytes, (size_t)PQntuples(result));
}

enum sqlb_outcome sqlb_pg_read_rows(struct sqlb_conn *conn, int64_t after, int64_t to, size_t max_bytes,
				    sqlb_row_fn *visit, void *ctx, bool *more, struct ks_err *err)
{
	struct scan scan = {.visit = visit, .ctx = ctx, .max_bytes = max_bytes};
	enum sqlb_outcome outcome = sqlb_pg_begin(conn, SQLB_PG_ANSWER_TIMEOUT_MS, err);
	int limit = rows_for(conn, SMALL_READ_BYTES, 2, (int)sqlb_few_rows(&conn->few, sqlb_pg_now_ms()));
	struct sqlb_pg_params params = {0};
	PGresult *result = NULL;

	*more = false;
	if (outcome != SQLB_OK)
		return outcome;
	if (to < 0)
		to = INT64_MAX;
	/* When these are not all, none of them was visited, and a cursor reads them again: in one snapshot. */
	sqlb_pg_param_int8(&params, after);
	sqlb_pg_param_int8(&params, to);
	sqlb_pg_param_int8(&params, limit);
	outcome = sqlb_pg_query(conn, SQLB_PG_ROWS, &params, ROW_COLUMNS, &result, err);
	if (outcome == SQLB_OK) {
		bool all = PQntuples(result) < limit;

		learn_from_result(conn, result);
		sqlb_few_learn(&conn->few, (size_t)PQntuples(result), all);
		if (all)
			outcome = scan_result(conn, &scan, result, err);
		PQclear(result);
		if (!all)
			outcome = conn->plain              ? read_by_pages(conn, after, to, &scan, err)
				  : max_bytes >= ALL_BYTES ? read_by_copy(conn, after, to, &scan, err)
							   : read_by_cursor(conn, after, to, &scan, err);
	}
	*more = scan.stopped;
	return outcome;
}

/* Two array parameters out of locations. */
static void param_locs(struct sqlb_conn *conn, struct sqlb_pg_params *params, const struct sqlb_loc *locs, size_t count)
{
	struct ks_buf *buf = &conn->arrays;
	size_t middle;

	ks_buf_reset(buf);
	sqlb_pg_array_header(buf, SQLB_PG_INT8, count, false);
	for (size_t i = 0; i < count; i++) {
		sqlb_pg_put32(buf, 8);
		sqlb_pg_put64(buf, (uint64_t)locs[i].position);
	}
	middle = buf->size;
	sqlb_pg_array_header(buf, SQLB_PG_INT4, count, false);
	for (size_t i = 0; i < count; i++) {
		sqlb_pg_put32(buf, 4);
		sqlb_pg_put32(buf, (uint32_t)locs[i].sub);
	}
	sqlb_pg_param_array(params, conn, 0, middle);
	sqlb_pg_param_array(params, conn, middle, buf->size - middle);
}

/* Rows are visited as they arrive: ten thousand large values never stand in memory together. */
enum sqlb_outcome sqlb_pg_read_at(struct sqlb_conn *conn, const struct sqlb_loc *locs, size_t count, sqlb_row_fn *visit,
				  void *ctx, struct ks_err *err)
{
	enum sqlb_pg_statement statement = count == 1 ? SQLB_PG_ROW_AT : SQLB_PG_ROWS_AT;
	struct scan scan = {.visit = visit, .ctx = ctx, .max_bytes = SIZE_MAX};
	struct sqlb_pg_params params = {0};
	enum sqlb_outcome outcome;
	bool complete = false;
	PGresult *result;

	if (count == 0)
		return SQLB_OK;
	outcome = sqlb_pg_begin(conn, SQLB_PG_ANSWER_TIMEOUT_MS, err);
	if (outcome == SQLB_OK)
		outcome = sqlb_pg_prepare(conn, statement, err);
	if (outcome == SQLB_OK && conn->pooled)
		outcome = sqlb_pg_block_begin(conn, err);
	if (outcome != SQLB_OK)
		return outcome;
	if (count == 1) {
		sqlb_pg_param_int8(&params, locs[0].position);
		sqlb_pg_param_int4(&params, locs[0].sub);
	} else {
		param_locs(conn, &params, locs, count);
	}
	if (!sqlb_pg_send(conn, statement, &params) || !PQsetSingleRowMode(conn->pg))
		return sqlb_pg_lost(conn, err);
	for (;;) {
		if (!sqlb_pg_next(conn, &result))
			return sqlb_pg_lost(conn, err);
		if (!result)
			break;
		if (PQresultStatus(result) == PGRES_SINGLE_TUPLE) {
			if (outcome == SQLB_OK && !scan.stopped)
				outcome = scan_result(conn, &scan, result, err);
			sqlb_pg_more_time(conn, SQLB_PG_ANSWER_TIMEOUT_MS);
		} else if (PQresultStatus(result) == PGRES_TUPLES_OK) {
			complete = true;
		} else if (outcome == SQLB_OK) {
			outcome = sqlb_pg_judge(conn, result, err);
		}
		PQclear(result);
		if (!conn->pg)
			return outcome;
	}
	if (outcome == SQLB_OK && !complete)
		return sqlb_pg_lost(conn, err);
	if (conn->in_block && (outcome != SQLB_OK || sqlb_pg_block_end(conn, "COMMIT", err) != SQLB_OK))
		sqlb_pg_drop(conn); /* all rows came: how the transaction ends is all the same */
	return outcome;
}

enum sqlb_outcome sqlb_pg_trim(struct sqlb_conn *conn, const struct sqlb_loc *locs, size_t count, struct ks_err *err)
{
	struct sqlb_pg_params params = {0};
	enum sqlb_outcome outcome;

	if (count == 0)
		return SQLB_OK;
	outcome = sqlb_pg_begin(conn, SQLB_PG_ANSWER_TIMEOUT_MS, err);
	if (outcome != SQLB_OK)
		return outcome;
	/*
	 * Appends that run now may have looked at the log before these rows were in it: let them end. Later
	 * ones see these rows, or that the head is beyond them. The lock is let go before the rows are deleted.
	 */
	if (conn->plain)
		outcome = SQLB_OK; /* under SERIALIZABLE one of the two is undone */
	else if (conn->pooled)
		outcome = sqlb_pg_exec_block(conn, "LOCK TABLE kineshim_meta IN EXCLUSIVE MODE", NULL, err);
	else
		outcome = sqlb_pg_exec(conn, "BEGIN; LOCK TABLE kineshim_meta IN EXCLUSIVE MODE; COMMIT", NULL, err);
	if (outcome != SQLB_OK) {
		sqlb_pg_drop(conn); /* with the transaction, if it is still open */
		return outcome;
	}
	param_locs(conn, &params, locs, count);
	return sqlb_pg_run(conn, SQLB_PG_TRIM, &params, err);
}
