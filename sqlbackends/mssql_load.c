/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Filling an empty log in SQL Server: one transaction of many INSERTs. The first thing it does is to lock the table, so that a
 * server that starts meanwhile waits until all is there or gives up (1222: AWAY) and tries again. Where hints are ignored the
 * key of the first row does the same.
 *
 * Rows live only until the next one is asked for, so those of one statement are copied.
 */
#include <stdlib.h>
#include <string.h>

#include "mssql_priv.h"

enum { CHUNK_BYTES = 4 << 20 };

static const char begin_text[] = "SET XACT_ABORT ON; SET LOCK_TIMEOUT -1; BEGIN TRANSACTION; "
				 "SELECT CAST(COUNT(*) AS bigint) FROM (SELECT TOP (1) position FROM kineshim_log WITH "
				 "(TABLOCKX, HOLDLOCK)) AS any_row";

struct chunk {
	struct sqlb_row rows[SQLB_MS_ROWS_MAX];
	size_t count;
	struct ks_buf bytes; /* of their slices, one after the other */
};

/* The slices as offsets into chunk->bytes; real addresses come when it does not move any more. */
static struct ks_slice keep(struct chunk *chunk, struct ks_slice slice)
{
	ks_buf_append_slice(&chunk->bytes, slice);
	return slice;
}

static void add_row(struct chunk *chunk, const struct sqlb_row *row)
{
	struct sqlb_row *copy = &chunk->rows[chunk->count++];

	*copy = *row;
	copy->key = keep(chunk, row->key);
	copy->value = keep(chunk, row->value);
	copy->payload = keep(chunk, row->payload);
}

static struct ks_slice settle(const struct chunk *chunk, struct ks_slice slice, size_t *at)
{
	if (slice.data)
		slice.data = chunk->bytes.data ? chunk->bytes.data + *at : (const uint8_t *)"";
	*at += slice.size;
	return slice;
}

static enum sqlb_outcome send_chunk(struct sqlb_conn *conn, struct chunk *chunk, struct ks_err *err)
{
	size_t step = sqlb_ms_step(chunk->count, SQLB_MS_ROWS_MAX), at = 0;
	enum sqlb_outcome outcome;
	int64_t taken = 0;

	if (chunk->count == 0)
		return SQLB_OK;
	if (chunk->bytes.failed)
		return sqlb_ms_no_memory(conn, err);
	for (size_t i = 0; i < chunk->count; i++) {
		struct sqlb_row *row = &chunk->rows[i];

		row->key = settle(chunk, row->key, &at);
		row->value = settle(chunk, row->value, &at);
		row->payload = settle(chunk, row->payload, &at);
	}
	sqlb_ms_start(conn);
	sqlb_ms_text_insert(&conn->text, step);
	sqlb_ms_say(conn, "; SELECT CAST(@@ROWCOUNT AS bigint)");
	sqlb_ms_bind_rows(conn, chunk->rows, chunk->count, step);
	outcome = sqlb_ms_numbers(conn, &taken, 1, NULL, err);
	if (outcome == SQLB_OK && taken != (int64_t)chunk->count)
		outcome = sqlb_ms_broken(conn, err, "kineshim_log did not take all rows: has it a trigger?");
	chunk->count = 0;
	ks_buf_reset(&chunk->bytes);
	return outcome;
}

/* *failed: 'next' did, and has said why. */
static enum sqlb_outcome send_rows(struct sqlb_conn *conn, struct chunk *chunk, sqlb_next_fn *next, void *ctx,
				   bool *failed, struct ks_err *err)
{
	enum sqlb_outcome outcome = SQLB_OK;
	enum sqlb_next what;
	struct sqlb_row row;

	while ((what = next(ctx, &row)) == SQLB_NEXT_ROW) {
		if (sqlb_ms_row_bytes(&row) > SQLB_MS_ROW_BYTES_MAX) {
			ks_fail(err, KS_RESOURCE_EXHAUSTED, "SQL Server: a row of %zu bytes is too large",
				sqlb_ms_row_bytes(&row));
			return SQLB_BROKEN;
		}
		if (chunk->count == SQLB_MS_ROWS_MAX ||
		    (chunk->count > 0 && chunk->bytes.size + sqlb_ms_row_bytes(&row) > CHUNK_BYTES))
			outcome = send_chunk(conn, chunk, err);
		if (outcome != SQLB_OK)
			return outcome;
		add_row(chunk, &row);
	}
	*failed = what == SQLB_NEXT_FAILED;
	return *failed ? SQLB_AWAY : send_chunk(conn, chunk, err);
}

static enum sqlb_outcome begin(struct sqlb_conn *conn, struct ks_err *err)
{
	enum sqlb_outcome outcome;
	int64_t rows = 1;

	sqlb_ms_start(conn);
	sqlb_ms_say(conn, begin_text);
	outcome = sqlb_ms_numbers(conn, &rows, 1, NULL, err);
	if (outcome != SQLB_OK)
		return outcome;
	return rows == 0 ? SQLB_OK : SQLB_CONFLICT;
}

enum sqlb_outcome sqlb_ms_load(struct sqlb_conn *conn, sqlb_next_fn *next, void *ctx, struct ks_err *err)
{
	enum sqlb_outcome outcome = sqlb_ms_begin(conn, SQLB_MS_LONG_TIMEOUT_S, err);
	struct chunk *chunk = calloc(1, sizeof(*chunk));
	bool failed = false;

	if (!chunk) {
		ks_fail(err, KS_RESOURCE_EXHAUSTED, "out of memory");
		return SQLB_AWAY;
	}
	ks_buf_init(&chunk->bytes, SQLB_MS_ROW_BYTES_MAX);
	conn->error = (struct sqlb_ms_error){0};
	if (outcome == SQLB_OK)
		outcome = begin(conn, err);
	if (outcome == SQLB_OK)
		outcome = send_rows(conn, chunk, next, ctx, &failed, err);
	/* Where hints are ignored somebody may have been faster with position 1. */
	if (outcome == SQLB_AWAY && !failed && sqlb_ms_class_of(conn) == SQLB_MS_TAKEN)
		outcome = SQLB_CONFLICT;
	ks_buf_fini(&chunk->bytes);
	free(chunk);
	if (outcome == SQLB_OK) {
		sqlb_ms_start(conn);
		sqlb_ms_say(conn, "COMMIT TRANSACTION");
		if (!sqlb_ms_execute(conn) || !sqlb_ms_finish(conn)) {
			enum sqlb_ms_class class = sqlb_ms_class_of(conn);

			outcome = sqlb_ms_judge(conn, err);
			if (class == SQLB_MS_UNSURE || class == SQLB_MS_DAMAGED)
				outcome = SQLB_DOUBT;
		}
	}
	sqlb_ms_drop(conn); /* with its settings, and whatever was not committed */
	return outcome;
}
