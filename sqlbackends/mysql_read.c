/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Reading and trimming the log in MySQL and MariaDB. Usually few rows are new and come with one SELECT. More are read in
 * pages of one transaction, and so of one snapshot: a result set cannot be left early but by reading on to its end or by
 * hanging up, and a cursor would copy all of it into a temporary table first. Rows are visited as they arrive: large values
 * never stand in memory together.
 */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "mysql_priv.h"

enum {
	SMALL_READ_BYTES = 8 << 20, /* how much the first SELECT should return; how many rows: few.h */
	PAGE_BYTES = 4 << 20,
	PAGE_ROWS_MAX = 8192,
	SLICE_BYTES = 4096, /* fetched in one go; what is longer needs a second look at the row */
	AT_ONCE = 64,       /* rows asked for in one statement */
};

enum sqlb_outcome sqlb_my_read_head(struct sqlb_conn *conn, struct sqlb_head *head, struct ks_err *err)
{
	enum sqlb_outcome outcome = sqlb_my_begin(conn, SQLB_MY_ANSWER_TIMEOUT_S, err);
	int64_t numbers[4];
	bool found;

	*head = (struct sqlb_head){0};
	if (outcome != SQLB_OK)
		return outcome;
	sqlb_my_params(conn, 0);
	outcome = sqlb_my_query_one(conn, SQLB_MY_HEAD, 4, numbers, &found, err);
	if (outcome == SQLB_OK && found && numbers[0] > 0)
		*head = (struct sqlb_head){
			.position = numbers[0], .revision = numbers[1], .writer = numbers[2], .batch = numbers[3]};
	return sqlb_my_no_conflict(outcome);
}

/* ---- rows ---- */

enum { KEY_COLUMN = 5, VALUE_COLUMN = 6, PAYLOAD_COLUMN = 10 };

/* Where the columns of a row are fetched to. */
struct fetch {
	MYSQL_BIND results[SQLB_MY_ROW_COLUMNS];
	int64_t numbers[SQLB_MY_ROW_COLUMNS];
	unsigned long sizes[SQLB_MY_ROW_COLUMNS];
	my_bool nulls[SQLB_MY_ROW_COLUMNS];
};

static int slice_index(size_t column)
{
	return column == KEY_COLUMN ? 0 : column == VALUE_COLUMN ? 1 : column == PAYLOAD_COLUMN ? 2 : -1;
}

static bool bind_rows(struct sqlb_conn *conn, MYSQL_STMT *stmt, struct fetch *fetch)
{
	memset(fetch, 0, sizeof(*fetch));
	for (size_t i = 0; i < SQLB_MY_ROW_COLUMNS; i++) {
		MYSQL_BIND *result = &fetch->results[i];
		int slice = slice_index(i);

		result->is_null = &fetch->nulls[i];
		result->length = &fetch->sizes[i];
		result->buffer_type = slice < 0 ? MYSQL_TYPE_LONGLONG : MYSQL_TYPE_LONG_BLOB;
		result->buffer = &fetch->numbers[i];
		if (slice < 0)
			continue;
		if (!ks_buf_reserve(&conn->slices[slice], SLICE_BYTES))
			return false;
		result->buffer = conn->slices[slice].data;
		result->buffer_length = conn->slices[slice].capacity;
	}
	return !mysql_stmt_bind_result(stmt, fetch->results);
}

/* The byte string in 'column'; false: no memory, or the library has an error. */
static bool get_slice(struct sqlb_conn *conn, MYSQL_STMT *stmt, struct fetch *fetch, unsigned column,
		      struct ks_slice *slice)
{
	struct ks_buf *buf = &conn->slices[slice_index(column)];
	MYSQL_BIND *result = &fetch->results[column];
	size_t size = fetch->sizes[column];

	if (fetch->nulls[column]) {
		*slice = ks_slice_of(NULL, 0);
		return true;
	}
	if (size > result->buffer_length) {
		ks_buf_reset(buf);
		if (!ks_buf_reserve(buf, size))
			return false;
		result->buffer = buf->data;
		result->buffer_length = buf->capacity;
		if (mysql_stmt_fetch_column(stmt, result, column, 0) != 0 ||
		    mysql_stmt_bind_result(stmt, fetch->results))
			return false;
	}
	*slice = ks_slice_of(result->buffer, size);
	return true;
}

static bool get_row(struct sqlb_conn *conn, MYSQL_STMT *stmt, struct fetch *fetch, struct sqlb_row *row)
{
	const int64_t *numbers = fetch->numbers;

	*row = (struct sqlb_row){.position = numbers[0],
				 .sub = (int32_t)numbers[1],
				 .rows = (int32_t)numbers[2],
				 .kind = (int16_t)numbers[3],
				 .revision = numbers[4],
				 .create_revision = numbers[7],
				 .version = numbers[8],
				 .lease = numbers[9],
				 .writer = numbers[11],
				 .batch = numbers[12]};
	return get_slice(conn, stmt, fetch, KEY_COLUMN, &row->key) &&
	       get_slice(conn, stmt, fetch, VALUE_COLUMN, &row->value) &&
	       get_slice(conn, stmt, fetch, PAYLOAD_COLUMN, &row->payload);
}

static bool is_ours(const struct fetch *fetch)
{
	for (size_t i = 0; i < SQLB_MY_ROW_COLUMNS; i++)
		if (slice_index(i) < 0 && fetch->nulls[i])
			return false;
	return fetch->numbers[1] == (int32_t)fetch->numbers[1] && fetch->numbers[2] == (int32_t)fetch->numbers[2] &&
	       fetch->numbers[3] == (int16_t)fetch->numbers[3];
}

/* A read of rows, on its way. */
struct scan {
	sqlb_row_fn *visit;
	void *ctx;
	size_t max_bytes;
	size_t bytes; /* visited */
	size_t rows;  /* visited */
	struct sqlb_loc last;
	bool stopped; /* rows are left that will not be visited */
};

static void scan_row(struct scan *scan, const struct sqlb_row *row)
{
	if (scan->rows > 0 && scan->bytes >= scan->max_bytes && row->position != scan->last.position) {
		scan->stopped = true;
		return;
	}
	scan->last = (struct sqlb_loc){row->position, row->sub};
	scan->bytes += sqlb_my_row_bytes(row);
	scan->rows++;
	scan->stopped = !scan->visit(scan->ctx, row);
}

/*
 * The rows of an executed statement, up to their explicit end; what comes after a stop is thrown away. *rows: how many came.
 */
static enum sqlb_outcome fetch_rows(struct sqlb_conn *conn, MYSQL_STMT *stmt, struct scan *scan, size_t *rows,
				    struct ks_err *err)
{
	struct fetch fetch;
	struct sqlb_row row;
	int rc = 0;

	*rows = 0;
	if (!bind_rows(conn, stmt, &fetch))
		return sqlb_my_judge_stmt(conn, stmt, err);
	while (!scan->stopped && ((rc = mysql_stmt_fetch(stmt)) == 0 || rc == MYSQL_DATA_TRUNCATED)) {
		(*rows)++;
		if (!is_ours(&fetch))
			return sqlb_my_broken(conn, err,
					      "kineshim_log has a column that is not as this program makes it");
		if (!get_row(conn, stmt, &fetch, &row)) {
			ks_fail(err, KS_RESOURCE_EXHAUSTED, "MySQL: no memory for a row");
			sqlb_my_drop(conn);
			return SQLB_AWAY;
		}
		scan_row(scan, &row);
	}
	if (!scan->stopped && rc != MYSQL_NO_DATA)
		return sqlb_my_judge_stmt(conn, stmt, err);
	/* A buffer that one huge value has grown is not kept. */
	for (size_t i = 0; i < 3; i++)
		if (conn->slices[i].capacity > (1u << 20)) {
			ks_buf_fini(&conn->slices[i]);
			ks_buf_init(&conn->slices[i], (size_t)1 << 32);
		}
	return mysql_stmt_free_result(stmt) ? sqlb_my_judge_stmt(conn, stmt, err) : SQLB_OK;
}

/* Follows the sizes of rows quickly upwards and slowly downwards: only too large a read hurts. */
static void learn_row_bytes(struct sqlb_conn *conn, size_t bytes, size_t rows)
{
	size_t seen = rows ? bytes / rows : conn->row_bytes;

	conn->row_bytes = seen > conn->row_bytes ? seen : conn->row_bytes - (conn->row_bytes - seen) / 8;
}

/* How many rows of the usual size make 'bytes'. */
static size_t rows_for(const struct sqlb_conn *conn, size_t bytes, size_t least, size_t most)
{
	size_t rows = bytes / (conn->row_bytes + 64);

	return rows < least ? least : rows > most ? most : rows;
}

static enum sqlb_outcome read_page(struct sqlb_conn *conn, int64_t to, struct scan *scan, bool *last,
				   struct ks_err *err)
{
	size_t limit = rows_for(conn, PAGE_BYTES, 16, PAGE_ROWS_MAX), bytes_before = scan->bytes,
	       rows_before = scan->rows;
	enum sqlb_outcome outcome;
	MYSQL_STMT *stmt;
	size_t rows;

	/* Whoever wants little shall not be sent much: but one row more, to see whether there is more. */
	if (scan->max_bytes > scan->bytes && scan->max_bytes - scan->bytes < PAGE_BYTES)
		limit = rows_for(conn, scan->max_bytes - scan->bytes, 16, PAGE_ROWS_MAX);
	outcome = sqlb_my_prepare(conn, SQLB_MY_PAGE, 0, &stmt, err);
	if (outcome != SQLB_OK)
		return outcome;
	sqlb_my_params(conn, 5);
	sqlb_my_param(conn, scan->last.position);
	sqlb_my_param(conn, scan->last.sub);
	sqlb_my_param(conn, scan->last.position);
	sqlb_my_param(conn, to);
	sqlb_my_param(conn, (int64_t)limit);
	if (!sqlb_my_execute(conn, stmt))
		return sqlb_my_judge_stmt(conn, stmt, err);
	outcome = fetch_rows(conn, stmt, scan, &rows, err);
	learn_row_bytes(conn, scan->bytes - bytes_before, scan->rows - rows_before);
	*last = rows < limit;
	return outcome;
}

static enum sqlb_outcome read_pages(struct sqlb_conn *conn, int64_t after, int64_t to, struct scan *scan,
				    struct ks_err *err)
{
	enum sqlb_outcome outcome = sqlb_my_exec(conn, "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ", err);
	bool last = false;

	scan->last = (struct sqlb_loc){after, INT32_MAX};
	if (outcome == SQLB_OK)
		outcome = sqlb_my_exec(conn, "START TRANSACTION WITH CONSISTENT SNAPSHOT", err);
	conn->in_transaction = outcome == SQLB_OK;
	while (outcome == SQLB_OK && !last && !scan->stopped)
		outcome = read_page(conn, to, scan, &last, err);
	sqlb_my_roll_back(conn); /* it changed nothing */
	return outcome;
}

/* Keeps the first rows until it is clear that they are all, or visits none: they are read again, in one snapshot. */
static enum sqlb_outcome read_few(struct sqlb_conn *conn, int64_t after, int64_t to, struct scan *scan, bool *all,
				  struct ks_err *err)
{
	size_t limit = rows_for(conn, SMALL_READ_BYTES, 2, sqlb_few_rows(&conn->few, sqlb_my_now_ms())), rows;
	enum sqlb_outcome outcome;
	MYSQL_STMT *stmt;

	outcome = sqlb_my_prepare(conn, SQLB_MY_ROWS, 0, &stmt, err);
	if (outcome != SQLB_OK)
		return outcome;
	sqlb_my_params(conn, 3);
	sqlb_my_param(conn, after);
	sqlb_my_param(conn, to);
	sqlb_my_param(conn, (int64_t)limit);
	if (!sqlb_my_execute(conn, stmt) || mysql_stmt_store_result(stmt) != 0)
		return sqlb_my_judge_stmt(conn, stmt, err);
	*all = mysql_stmt_num_rows(stmt) < limit;
	sqlb_few_learn(&conn->few, mysql_stmt_num_rows(stmt), *all);
	if (*all) {
		outcome = fetch_rows(conn, stmt, scan, &rows, err);
		learn_row_bytes(conn, scan->bytes, scan->rows);
		return outcome;
	}
	return mysql_stmt_free_result(stmt) ? sqlb_my_judge_stmt(conn, stmt, err) : SQLB_OK;
}

enum sqlb_outcome sqlb_my_read_rows(struct sqlb_conn *conn, int64_t after, int64_t to, size_t max_bytes,
				    sqlb_row_fn *visit, void *ctx, bool *more, struct ks_err *err)
{
	struct scan scan = {.visit = visit, .ctx = ctx, .max_bytes = max_bytes};
	enum sqlb_outcome outcome = sqlb_my_begin(conn, SQLB_MY_ANSWER_TIMEOUT_S, err);
	bool all = true;

	*more = false;
	if (outcome != SQLB_OK)
		return outcome;
	if (to < 0)
		to = INT64_MAX;
	if (after < 0)
		after = 0; /* below is the gate, which is no entry */
	outcome = read_few(conn, after, to, &scan, &all, err);
	if (outcome == SQLB_OK && !all)
		outcome = read_pages(conn, after, to, &scan, err);
	*more = scan.stopped;
	return sqlb_my_no_conflict(outcome);
}

/* ---- single rows ---- */

static void param_locs(struct sqlb_conn *conn, const struct sqlb_loc *locs, size_t count)
{
	size_t size = sqlb_my_bucket_size(count);

	sqlb_my_params(conn, 2 * size);
	for (size_t i = 0; i < size; i++) {
		const struct sqlb_loc *loc = &locs[i < count ? i : 0];

		/* The gate is not a row that anybody may have. */
		sqlb_my_param(conn, loc->position > 0 ? loc->position : -1);
		sqlb_my_param(conn, loc->sub);
	}
}

enum sqlb_outcome sqlb_my_read_at(struct sqlb_conn *conn, const struct sqlb_loc *locs, size_t count, sqlb_row_fn *visit,
				  void *ctx, struct ks_err *err)
{
	struct scan scan = {.visit = visit, .ctx = ctx, .max_bytes = SIZE_MAX};
	enum sqlb_outcome outcome = SQLB_OK;
	MYSQL_STMT *stmt;
	size_t rows;

	if (count > 0)
		outcome = sqlb_my_begin(conn, SQLB_MY_ANSWER_TIMEOUT_S, err);
	for (size_t done = 0, some; done < count && outcome == SQLB_OK && !scan.stopped; done += some) {
		some = count - done < AT_ONCE ? count - done : AT_ONCE;
		outcome = sqlb_my_prepare(conn, SQLB_MY_ROWS_AT, some, &stmt, err);
		if (outcome != SQLB_OK)
			break;
		param_locs(conn, locs + done, some);
		if (sqlb_my_execute(conn, stmt))
			outcome = fetch_rows(conn, stmt, &scan, &rows, err);
		else
			outcome = sqlb_my_judge_stmt(conn, stmt, err);
	}
	return sqlb_my_no_conflict(outcome);
}

enum sqlb_outcome sqlb_my_trim(struct sqlb_conn *conn, const struct sqlb_loc *locs, size_t count, struct ks_err *err)
{
	enum sqlb_outcome outcome = SQLB_OK;
	int tries = 0;

	if (count > 0)
		outcome = sqlb_my_begin(conn, SQLB_MY_ANSWER_TIMEOUT_S, err);
	for (size_t done = 0, some; done < count && outcome == SQLB_OK; done += some) {
		some = count - done < SQLB_MY_ITEMS_MAX ? count - done : SQLB_MY_ITEMS_MAX;
		do {
			param_locs(conn, locs + done, some);
			outcome = sqlb_my_run(conn, SQLB_MY_TRIM, some, NULL, err);
		} while (outcome == SQLB_CONFLICT && ++tries < SQLB_MY_RETRIES);
	}
	return sqlb_my_no_conflict(outcome);
}
