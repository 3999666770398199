/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Appending to the log in SQL Server.
 *
 * An append is one statement, and one round trip, which is a transaction of its own: the leases, the head, the rows, COMMIT or
 * ROLLBACK, and then a number that says which (sqlb_ms_text_append). Once it was handed to the driver only two things are
 * certain: that number, and an error that undoes the transaction (mssql_error.c). Everything else is DOUBT.
 *
 * What does not fit into one statement (2,100 parameters, or 8 MiB) goes out in several, between BEGIN TRANSACTION and
 * COMMIT TRANSACTION:
 *
 *	BEGIN; leases that must be past their deadline; leases gone; leases new; the head; rows … rows; the head; COMMIT
 *
 * Until that COMMIT is handed to the driver nothing can have happened for good: a lost connection is AWAY. DOUBT
 * begins there.
 *
 * A victim of a deadlock was rolled back: CONFLICT, as for any append that another one was faster than.
 */
#include <stdlib.h>
#include <string.h>

#include "base/panic.h"
#include "mssql_priv.h"

enum {
	CHUNK_BYTES = 8 << 20, /* of one statement: the driver copies it */
	/* Of leases that one statement does with: there must be room for rows beside them. */
	SMALL_IDS = 64,
};

struct append_run {
	struct sqlb_conn *conn;
	const struct sqlb_append *append;
	/* Sorted, without doubles; the last of several new leases with one id counts. */
	int64_t *expired;
	size_t expired_count;
	int64_t *gone;
	size_t gone_count;
	struct sqlb_lease *fresh;
	size_t fresh_count;
	struct sqlb_ms_shape shape;
};

/* ---- parameters ---- */

int64_t sqlb_ms_ttl(int64_t ttl_ms)
{
	return ttl_ms < 0 ? 0 : ttl_ms > SQLB_MS_TTL_MAX ? SQLB_MS_TTL_MAX : ttl_ms;
}

static int compare_ids(const void *a, const void *b)
{
	int64_t left = *(const int64_t *)a, right = *(const int64_t *)b;

	return (left > right) - (left < right);
}

size_t sqlb_ms_sort_ids(int64_t *ids, size_t count)
{
	size_t kept = 0;

	if (count > 0)
		qsort(ids, count, sizeof(*ids), compare_ids);
	for (size_t i = 0; i < count; i++)
		if (kept == 0 || ids[i] != ids[kept - 1])
			ids[kept++] = ids[i];
	return kept;
}

void sqlb_ms_bind_ids(struct sqlb_conn *conn, const int64_t *ids, size_t count, size_t step)
{
	for (size_t i = 0; i < step; i++) {
		if (i < count)
			sqlb_ms_bind_int8(conn, ids[i]);
		else
			sqlb_ms_bind_null(conn);
	}
}

static void bind_leases(struct sqlb_conn *conn, const struct sqlb_lease *leases, size_t count, size_t step)
{
	for (size_t i = 0; i < step; i++) {
		if (i < count)
			sqlb_ms_bind_int8(conn, leases[i].id);
		else
			sqlb_ms_bind_null(conn);
	}
	for (size_t i = 0; i < step; i++) {
		if (i < count) {
			sqlb_ms_bind_int8(conn, leases[i].id);
			sqlb_ms_bind_int8(conn, sqlb_ms_ttl(leases[i].ttl_ms));
		} else {
			sqlb_ms_bind_null(conn);
			sqlb_ms_bind_null(conn);
		}
	}
}

/* In the order of SQLB_MS_ROW_COLUMNS. */
void sqlb_ms_bind_rows(struct sqlb_conn *conn, const struct sqlb_row *rows, size_t count, size_t step)
{
	for (const struct sqlb_row *row = rows; row < rows + count; row++) {
		sqlb_ms_bind_int8(conn, row->position);
		sqlb_ms_bind_int8(conn, row->sub);
		sqlb_ms_bind_int8(conn, row->rows);
		sqlb_ms_bind_int8(conn, row->kind);
		sqlb_ms_bind_int8(conn, row->revision);
		sqlb_ms_bind_int8(conn, row->create_revision);
		sqlb_ms_bind_int8(conn, row->version);
		sqlb_ms_bind_int8(conn, row->lease);
		sqlb_ms_bind_int8(conn, row->writer);
		sqlb_ms_bind_int8(conn, row->batch);
		sqlb_ms_bind_slice(conn, row->key);
		sqlb_ms_bind_slice(conn, row->value);
		sqlb_ms_bind_slice(conn, row->payload);
	}
	for (size_t i = count; i < step; i++) {
		for (int number = 0; number < SQLB_MS_NUMBERS; number++)
			sqlb_ms_bind_null(conn);
		for (int slice = 0; slice < SQLB_MS_SLICES; slice++)
			sqlb_ms_bind_slice(conn, ks_slice_of(NULL, 0));
	}
}

/* How many of the rows go into one statement. */
static size_t chunk_of(const struct sqlb_row *rows, size_t count)
{
	size_t taken = 0, bytes = 0;

	while (taken < count && taken < SQLB_MS_ROWS_MAX) {
		bytes += sqlb_ms_row_bytes(&rows[taken]);
		if (taken > 0 && bytes > CHUNK_BYTES)
			break;
		taken++;
	}
	return taken;
}

/* ---- one statement ---- */

/* After COMMIT was handed over. Certain is what an error says that we know; after anything else the rows may turn up. */
static enum sqlb_outcome judge_append(struct sqlb_conn *conn, struct ks_err *err)
{
	enum sqlb_ms_class class = sqlb_ms_class_of(conn);
	enum sqlb_outcome outcome = sqlb_ms_judge(conn, err);

	if (class == SQLB_MS_TAKEN || class == SQLB_MS_AGAIN)
		return SQLB_CONFLICT;
	if (class == SQLB_MS_UNSURE || class == SQLB_MS_DAMAGED) {
		sqlb_ms_drop(conn);
		return SQLB_DOUBT;
	}
	return outcome;
}

static enum sqlb_outcome outcome_of(struct sqlb_conn *conn, int64_t state, bool *appended, struct ks_err *err)
{
	switch (state) {
	case SQLB_MS_COMMITTED:
		*appended = true;
		return SQLB_OK;
	case SQLB_MS_HEAD_ELSEWHERE:
		return SQLB_CONFLICT;
	case SQLB_MS_NOT_EXPIRED:
		return SQLB_OK;
	default:
		return sqlb_ms_broken(conn, err, "kineshim_log did not take all rows: has it a trigger?");
	}
}

static void bind_all(struct append_run *run)
{
	const struct sqlb_append *append = run->append;
	struct sqlb_conn *conn = run->conn;

	if (run->shape.expired) {
		sqlb_ms_bind_ids(conn, run->expired, run->expired_count, run->shape.expired);
		sqlb_ms_bind_int8(conn, (int64_t)run->expired_count);
	}
	sqlb_ms_bind_ids(conn, run->gone, run->gone_count, run->shape.gone);
	bind_leases(conn, run->fresh, run->fresh_count, run->shape.fresh);
	if (run->shape.rows) {
		sqlb_ms_bind_int8(conn, append->rows[0].position - 1);
		sqlb_ms_bind_int8(conn, append->after_writer);
		sqlb_ms_bind_int8(conn, append->after_writer);
		sqlb_ms_bind_int8(conn, append->after_batch);
		sqlb_ms_bind_rows(conn, append->rows, append->row_count, run->shape.rows);
		sqlb_ms_bind_int8(conn, (int64_t)append->row_count);
		sqlb_ms_bind_int8(conn, append->rows[append->row_count - 1].position);
	}
}

static enum sqlb_outcome append_at_once(struct append_run *run, bool *appended, struct ks_err *err)
{
	struct sqlb_conn *conn = run->conn;
	int64_t state = 0;
	bool row = false, answered;

	sqlb_ms_start(conn);
	sqlb_ms_text_append(&conn->text, &run->shape);
	bind_all(run);
	if (conn->text.failed || conn->params.failed)
		return sqlb_ms_no_memory(conn, err);
	if (!sqlb_ms_execute(conn) || !sqlb_ms_next(conn, &row))
		return judge_append(conn, err);
	if (!row) {
		(void)sqlb_ms_broken(conn, err, "an append has no answer");
		return SQLB_DOUBT;
	}
	answered = sqlb_ms_get_int8(conn, 1, &state);
	/* How the answer ends is all the same: what it says comes after the COMMIT. */
	if (!answered)
		return judge_append(conn, err);
	if (!sqlb_ms_finish(conn))
		sqlb_ms_drop(conn);
	return outcome_of(conn, state, appended, err);
}

/* ---- several statements ---- */

static enum sqlb_outcome run_text(struct sqlb_conn *conn, const char *text, struct ks_err *err)
{
	sqlb_ms_start(conn);
	sqlb_ms_say(conn, text);
	return sqlb_ms_done(conn, err);
}

/* Sets *passed false when one of the leases is not past its deadline. */
static enum sqlb_outcome expire_all(struct append_run *run, bool *passed, struct ks_err *err)
{
	struct sqlb_conn *conn = run->conn;
	enum sqlb_outcome outcome = SQLB_OK;

	for (size_t i = 0; i < run->expired_count && outcome == SQLB_OK && *passed; i += SQLB_MS_IDS_MAX) {
		size_t left = run->expired_count - i, count = left < SQLB_MS_IDS_MAX ? left : SQLB_MS_IDS_MAX;
		size_t step = sqlb_ms_step(count, SQLB_MS_IDS_MAX);
		int64_t removed = 0;

		sqlb_ms_start(conn);
		sqlb_ms_text_expire(&conn->text, step);
		sqlb_ms_bind_ids(conn, run->expired + i, count, step);
		outcome = sqlb_ms_numbers(conn, &removed, 1, NULL, err);
		*passed = removed == (int64_t)count;
	}
	return outcome;
}

static enum sqlb_outcome put_all(struct append_run *run, struct ks_err *err)
{
	struct sqlb_conn *conn = run->conn;
	enum sqlb_outcome outcome = SQLB_OK;

	for (size_t i = 0; i < run->fresh_count && outcome == SQLB_OK; i += SQLB_MS_IDS_MAX) {
		size_t left = run->fresh_count - i, count = left < SQLB_MS_IDS_MAX ? left : SQLB_MS_IDS_MAX;
		size_t step = sqlb_ms_step(count, SQLB_MS_IDS_MAX);

		sqlb_ms_start(conn);
		sqlb_ms_text_lease_put(&conn->text, step);
		bind_leases(conn, run->fresh + i, count, step);
		outcome = sqlb_ms_done(conn, err);
	}
	return outcome;
}

static enum sqlb_outcome check_before(struct append_run *run, struct ks_err *err)
{
	const struct sqlb_append *append = run->append;
	struct sqlb_head head;
	enum sqlb_outcome outcome = sqlb_ms_head(run->conn, &head, err);

	if (outcome != SQLB_OK)
		return outcome;
	if (head.position != append->rows[0].position - 1)
		return SQLB_CONFLICT;
	if (head.position > 0 && append->after_writer != 0 &&
	    (head.writer != append->after_writer || head.batch != append->after_batch))
		return SQLB_CONFLICT;
	return SQLB_OK;
}

static enum sqlb_outcome check_after(struct append_run *run, struct ks_err *err)
{
	const struct sqlb_append *append = run->append;
	struct sqlb_head head;
	enum sqlb_outcome outcome = sqlb_ms_head(run->conn, &head, err);

	if (outcome != SQLB_OK)
		return outcome;
	return head.position == append->rows[append->row_count - 1].position ? SQLB_OK : SQLB_CONFLICT;
}

static enum sqlb_outcome insert_all(struct append_run *run, struct ks_err *err)
{
	const struct sqlb_append *append = run->append;
	struct sqlb_conn *conn = run->conn;
	size_t count;

	for (size_t i = 0; i < append->row_count; i += count) {
		enum sqlb_outcome outcome;
		int64_t taken = 0;
		size_t step;

		count = chunk_of(append->rows + i, append->row_count - i);
		step = sqlb_ms_step(count, SQLB_MS_ROWS_MAX);
		sqlb_ms_start(conn);
		sqlb_ms_text_insert(&conn->text, step);
		sqlb_ms_say(conn, "; SELECT CAST(@@ROWCOUNT AS bigint)");
		sqlb_ms_bind_rows(conn, append->rows + i, count, step);
		outcome = sqlb_ms_numbers(conn, &taken, 1, NULL, err);
		if (outcome != SQLB_OK)
			return outcome;
		if (taken != (int64_t)count)
			return sqlb_ms_broken(conn, err, "kineshim_log did not take all rows: has it a trigger?");
	}
	return SQLB_OK;
}

/* Everything but COMMIT. */
static enum sqlb_outcome prepare_all(struct append_run *run, bool *passed, struct ks_err *err)
{
	const struct sqlb_append *append = run->append;
	struct sqlb_conn *conn = run->conn;
	enum sqlb_outcome outcome = run_text(conn, "SET XACT_ABORT ON; BEGIN TRANSACTION", err);

	if (outcome == SQLB_OK)
		outcome = expire_all(run, passed, err);
	if (outcome != SQLB_OK || !*passed)
		return outcome;
	outcome = sqlb_ms_drop_leases(conn, run->gone, run->gone_count, err);
	if (outcome == SQLB_OK)
		outcome = put_all(run, err);
	if (append->row_count == 0 || outcome != SQLB_OK)
		return outcome;
	outcome = check_before(run, err);
	if (outcome == SQLB_OK)
		outcome = insert_all(run, err);
	if (outcome == SQLB_OK)
		outcome = check_after(run, err);
	return outcome;
}

static enum sqlb_outcome append_in_pieces(struct append_run *run, bool *appended, struct ks_err *err)
{
	struct sqlb_conn *conn = run->conn;
	enum sqlb_outcome outcome;
	bool passed = true;

	outcome = prepare_all(run, &passed, err);
	if (outcome == SQLB_AWAY &&
	    (sqlb_ms_class_of(conn) == SQLB_MS_TAKEN || sqlb_ms_class_of(conn) == SQLB_MS_AGAIN))
		outcome = SQLB_CONFLICT;
	if (outcome != SQLB_OK || !passed) {
		if (conn->dbc && !sqlb_ms_undo(conn))
			sqlb_ms_drop(conn);
		return outcome;
	}
	sqlb_ms_start(conn);
	sqlb_ms_say(conn, "COMMIT TRANSACTION");
	if (!sqlb_ms_execute(conn) || !sqlb_ms_finish(conn))
		return judge_append(conn, err);
	*appended = true;
	return SQLB_OK;
}

/* ---- the slot ---- */

static int64_t *copy_ids(const int64_t *ids, size_t *count)
{
	int64_t *copy = ks_xcalloc(*count ? *count : 1, sizeof(*copy));

	if (*count > 0)
		memcpy(copy, ids, *count * sizeof(*copy));
	*count = sqlb_ms_sort_ids(copy, *count);
	return copy;
}

/* By id, and those of one id in the order in which they came. */
static int compare_leases(const void *a, const void *b)
{
	const struct sqlb_lease *left = *(const struct sqlb_lease *const *)a;
	const struct sqlb_lease *right = *(const struct sqlb_lease *const *)b;

	if (left->id != right->id)
		return left->id < right->id ? -1 : 1;
	return (left > right) - (left < right);
}

static struct sqlb_lease *copy_leases(const struct sqlb_lease *leases, size_t *count)
{
	const struct sqlb_lease **sorted = ks_xcalloc(*count ? *count : 1, sizeof(const struct sqlb_lease *));
	struct sqlb_lease *copy = ks_xcalloc(*count ? *count : 1, sizeof(*copy));
	size_t kept = 0;

	for (size_t i = 0; i < *count; i++)
		sorted[i] = &leases[i];
	if (*count > 0)
		qsort(sorted, *count, sizeof(const struct sqlb_lease *), compare_leases);
	for (size_t i = 0; i < *count; i++) {
		if (kept > 0 && copy[kept - 1].id == sorted[i]->id)
			kept--;
		copy[kept++] = *sorted[i];
	}
	free(sorted);
	*count = kept;
	return copy;
}

/* False: it does not fit into one statement. */
static bool shape_of(struct append_run *run)
{
	const struct sqlb_append *append = run->append;

	if (run->expired_count > SMALL_IDS || run->gone_count > SMALL_IDS || run->fresh_count > SMALL_IDS ||
	    chunk_of(append->rows, append->row_count) < append->row_count)
		return false;
	run->shape = (struct sqlb_ms_shape){
		.expired = sqlb_ms_step(run->expired_count, SMALL_IDS),
		.gone = sqlb_ms_step(run->gone_count, SMALL_IDS),
		.fresh = sqlb_ms_step(run->fresh_count, SMALL_IDS),
		.rows = sqlb_ms_step(append->row_count, SQLB_MS_ROWS_MAX),
	};
	return sqlb_ms_shape_params(&run->shape) <= SQLB_MS_PARAMS_MAX;
}

enum sqlb_outcome sqlb_ms_append(struct sqlb_conn *conn, const struct sqlb_append *append, bool *appended,
				 struct ks_err *err)
{
	struct append_run run = {.conn = conn, .append = append};
	enum sqlb_outcome outcome;

	*appended = false;
	for (size_t i = 0; i < append->row_count; i++)
		if (sqlb_ms_row_bytes(&append->rows[i]) > SQLB_MS_ROW_BYTES_MAX) {
			ks_fail(err, KS_RESOURCE_EXHAUSTED, "SQL Server: a row of %zu bytes is too large",
				sqlb_ms_row_bytes(&append->rows[i]));
			return SQLB_BROKEN;
		}
	run.expired_count = append->leases_expired_count;
	run.expired = copy_ids(append->leases_expired, &run.expired_count);
	run.gone_count = append->leases_gone_count;
	run.gone = copy_ids(append->leases_gone, &run.gone_count);
	run.fresh_count = append->leases_new_count;
	run.fresh = copy_leases(append->leases_new, &run.fresh_count);
	outcome = sqlb_ms_begin(conn, SQLB_MS_ANSWER_TIMEOUT_S, err);
	conn->error = (struct sqlb_ms_error){0};
	if (outcome == SQLB_OK)
		outcome = shape_of(&run) ? append_at_once(&run, appended, err) : append_in_pieces(&run, appended, err);
	free(run.expired);
	free(run.gone);
	free(run.fresh);
	return outcome;
}
