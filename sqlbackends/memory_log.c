/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Reading the log, trimming it, and waiting for change.
 */
#include <stdlib.h>

#include "memory_priv.h"

int64_t sqlb_mem_head_position(const struct mem_database *database)
{
	return database->row_count ? database->rows[database->row_count - 1]->row.position : 0;
}

/* The index of the first row at or behind (position, sub). */
static size_t row_find(const struct mem_database *database, int64_t position, int32_t sub)
{
	size_t low = 0, high = database->row_count;

	while (low < high) {
		size_t middle = low + (high - low) / 2;
		const struct sqlb_row *row = &database->rows[middle]->row;

		if (row->position < position || (row->position == position && row->sub < sub))
			low = middle + 1;
		else
			high = middle;
	}
	return low;
}

static bool row_at(const struct mem_database *database, size_t index, const struct sqlb_loc *loc)
{
	return index < database->row_count && database->rows[index]->row.position == loc->position &&
	       database->rows[index]->row.sub == loc->sub;
}

/* ---- reading ---- */

enum sqlb_outcome sqlb_mem_read_head(struct sqlb_conn *conn, struct sqlb_head *head, struct ks_err *err)
{
	const struct mem_database *database = conn->database;
	enum sqlb_memory_fault fault;
	enum sqlb_outcome outcome = sqlb_mem_begin(conn, "read_head", &fault, err);

	if (outcome != SQLB_OK)
		return outcome;
	*head = (struct sqlb_head){0};
	if (database->row_count) {
		const struct sqlb_row *row = &database->rows[database->row_count - 1]->row;

		*head = (struct sqlb_head){.position = row->position,
					   .revision = row->revision,
					   .writer = row->writer,
					   .batch = row->batch};
	}
	return sqlb_mem_end(conn, "read_head", fault, err);
}

/* Visits without the mutex and drops the references. A cut connection shows the first half of the rows. */
static enum sqlb_outcome visit_rows(struct sqlb_conn *conn, const char *op, struct mem_row **rows, size_t count,
				    enum sqlb_memory_fault fault, sqlb_row_fn *visit, void *ctx, bool *stopped,
				    struct ks_err *err)
{
	size_t shown = fault == SQLB_FAULT_NONE ? count : count / 2;
	bool go_on = true;

	for (size_t i = 0; i < shown && go_on; i++)
		go_on = visit(ctx, &rows[i]->row);
	sqlb_mem_rows_free(rows, count);
	*stopped = !go_on;
	if (fault == SQLB_FAULT_NONE || !go_on)
		return SQLB_OK;
	ks_fail(err, KS_UNAVAILABLE, "memory://%s: %s: injected: connection lost", conn->database->name, op);
	return SQLB_AWAY;
}

KS_NO_TSA enum sqlb_outcome sqlb_mem_read_rows(struct sqlb_conn *conn, int64_t after, int64_t to, size_t max_bytes,
					       sqlb_row_fn *visit, void *ctx, bool *more, struct ks_err *err)
{
	struct mem_database *database = conn->database;
	enum sqlb_memory_fault fault;
	enum sqlb_outcome outcome = sqlb_mem_begin(conn, "read_rows", &fault, err);
	size_t first, limit, past, bytes = 0;
	struct mem_row **rows;
	bool left, stopped;

	if (outcome != SQLB_OK)
		return outcome;
	first = after == INT64_MAX ? database->row_count : row_find(database, after + 1, INT32_MIN);
	limit = to < 0 || to == INT64_MAX ? database->row_count : row_find(database, to + 1, INT32_MIN);
	for (past = first; past < limit; past++) {
		const struct sqlb_row *row = &database->rows[past]->row;

		if (past > first && bytes >= max_bytes && database->rows[past - 1]->row.position != row->position)
			break;
		bytes += sqlb_mem_row_bytes(row);
	}
	left = past < limit;
	rows = calloc(past > first ? past - first : 1, sizeof(struct mem_row *));
	for (size_t i = first; rows && i < past; i++)
		rows[i - first] = sqlb_mem_row_ref(database->rows[i]);
	ks_mutex_unlock(&database->mutex);
	if (!rows)
		return sqlb_mem_no_memory(err);
	outcome =
		visit_rows(conn, "read_rows", rows, past > first ? past - first : 0, fault, visit, ctx, &stopped, err);
	*more = left || stopped;
	return outcome;
}

KS_NO_TSA enum sqlb_outcome sqlb_mem_read_at(struct sqlb_conn *conn, const struct sqlb_loc *locs, size_t count,
					     sqlb_row_fn *visit, void *ctx, struct ks_err *err)
{
	struct mem_database *database = conn->database;
	enum sqlb_memory_fault fault;
	enum sqlb_outcome outcome = sqlb_mem_begin(conn, "read_at", &fault, err);
	struct mem_row **rows;
	size_t found = 0;
	bool stopped;

	if (outcome != SQLB_OK)
		return outcome;
	rows = calloc(count ? count : 1, sizeof(struct mem_row *));
	for (size_t i = 0; rows && i < count; i++) {
		size_t index = row_find(database, locs[i].position, locs[i].sub);

		if (row_at(database, index, &locs[i]))
			rows[found++] = sqlb_mem_row_ref(database->rows[index]);
	}
	ks_mutex_unlock(&database->mutex);
	if (!rows)
		return sqlb_mem_no_memory(err);
	return visit_rows(conn, "read_at", rows, found, fault, visit, ctx, &stopped, err);
}

/* ---- the rest ---- */

enum sqlb_outcome sqlb_mem_trim(struct sqlb_conn *conn, const struct sqlb_loc *locs, size_t count, struct ks_err *err)
{
	struct mem_database *database = conn->database;
	enum sqlb_memory_fault fault;
	enum sqlb_outcome outcome = sqlb_mem_begin(conn, "trim", &fault, err);
	size_t kept, lowest;
	char *gone;

	if (outcome != SQLB_OK)
		return outcome;
	lowest = database->row_count;
	gone = ks_xcalloc(database->row_count + 1, 1); /* first all are found by a search in the whole array */
	for (size_t i = 0; i < count && !sqlb_mem_lost_before(fault); i++) {
		size_t index = row_find(database, locs[i].position, locs[i].sub);

		if (!row_at(database, index, &locs[i]))
			continue;
		gone[index] = 1;
		lowest = index < lowest ? index : lowest;
	}
	kept = lowest;
	for (size_t i = lowest; i < database->row_count; i++) {
		if (!gone[i]) {
			database->rows[kept++] = database->rows[i];
			continue;
		}
		database->bytes_in_use -= (int64_t)sqlb_mem_row_bytes(&database->rows[i]->row);
		sqlb_mem_row_unref(database->rows[i]);
	}
	database->row_count = kept;
	free(gone);
	return sqlb_mem_end(conn, "trim", fault, err);
}

KS_NO_TSA enum sqlb_outcome sqlb_mem_wait_for_change(struct sqlb_conn *conn, int64_t after, int wait_ms,
						     struct ks_err *err)
{
	struct mem_database *database = conn->database;
	struct ks_clock *clock = ks_clock_system(); /* patience is real even where the database's time is not */
	int64_t until = ks_clock_now(clock) + wait_ms;
	enum sqlb_memory_fault fault;
	enum sqlb_outcome outcome = sqlb_mem_begin(conn, "wait_for_change", &fault, err);
	int64_t left;

	if (outcome != SQLB_OK)
		return outcome;
	while (fault == SQLB_FAULT_NONE && !conn->cancelled && sqlb_mem_head_position(database) <= after &&
	       conn->cuts_seen == database->cuts && (left = until - ks_clock_now(clock)) > 0)
		ks_cond_wait(&database->changed, &database->mutex, left);
	conn->cancelled = false;
	return sqlb_mem_end(conn, "wait_for_change", fault, err);
}

void sqlb_mem_cancel(struct sqlb_conn *conn)
{
	ks_mutex_lock(&conn->database->mutex);
	conn->cancelled = true;
	ks_cond_broadcast(&conn->database->changed);
	ks_mutex_unlock(&conn->database->mutex);
}
