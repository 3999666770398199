/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Filling an empty log in PostgreSQL: one transaction with one COPY in binary, which is several times as fast as INSERTs.
 * The table is locked against other writers first, so that a server that starts meanwhile waits until all is there; the lock is
 * waited for, for as long as the session allows.
 */
#include <stdlib.h>
#include <string.h>

#include "postgres_priv.h"

#define COPY_COLUMNS 13
#define CHUNK_BYTES (256u << 10) /* handed to libpq at a time */
#define ROW_BYTES_MAX ((size_t)512 << 20)

static const char begin_text[] = "SET LOCAL statement_timeout = 0; "
				 "LOCK TABLE kineshim_log IN SHARE ROW EXCLUSIVE MODE; "
				 "SELECT EXISTS (SELECT FROM kineshim_log)";
static const char copy_text[] = "COPY kineshim_log (" SQLB_PG_ROW_COLUMNS ") FROM STDIN (FORMAT binary)";

static void put16(struct ks_buf *buf, uint16_t value)
{
	const uint8_t bytes[2] = {(uint8_t)(value >> 8), (uint8_t)value};

	ks_buf_append(buf, bytes, sizeof(bytes));
}

static void put_int2(struct ks_buf *buf, int16_t value)
{
	sqlb_pg_put32(buf, 2);
	put16(buf, (uint16_t)value);
}

static void put_int4(struct ks_buf *buf, int32_t value)
{
	sqlb_pg_put32(buf, 4);
	sqlb_pg_put32(buf, (uint32_t)value);
}

static void put_int8(struct ks_buf *buf, int64_t value)
{
	sqlb_pg_put32(buf, 8);
	sqlb_pg_put64(buf, (uint64_t)value);
}

static void put_slice(struct ks_buf *buf, struct ks_slice value)
{
	sqlb_pg_put32(buf, value.data ? (uint32_t)value.size : UINT32_MAX);
	ks_buf_append_slice(buf, value);
}

static void put_header(struct ks_buf *buf)
{
	ks_buf_append(buf, SQLB_PG_COPY_SIGNATURE, SQLB_PG_COPY_SIGNATURE_BYTES);
	sqlb_pg_put32(buf, 0); /* flags */
	sqlb_pg_put32(buf, 0); /* size of the extension */
}

/* In the order of SQLB_PG_ROW_COLUMNS. */
static void put_row(struct ks_buf *buf, const struct sqlb_row *row)
{
	put16(buf, COPY_COLUMNS);
	put_int8(buf, row->position);
	put_int4(buf, row->sub);
	put_int4(buf, row->rows);
	put_int2(buf, row->kind);
	put_int8(buf, row->revision);
	put_slice(buf, row->key);
	put_slice(buf, row->value);
	put_int8(buf, row->create_revision);
	put_int8(buf, row->version);
	put_int8(buf, row->lease);
	put_slice(buf, row->payload);
	put_int8(buf, row->writer);
	put_int8(buf, row->batch);
}

/* False: the connection is lost. Whatever the server says of the rows comes at the end. */
static bool hand_over(struct sqlb_conn *conn)
{
	struct ks_buf *buf = &conn->arrays;
	int queued;

	sqlb_pg_more_time(conn, SQLB_PG_LONG_TIMEOUT_MS);
	if (buf->failed)
		return false;
	while ((queued = PQputCopyData(conn->pg, (const char *)buf->data, (int)buf->size)) == 0)
		if (!sqlb_pg_flush(conn))
			return false;
	ks_buf_reset(buf);
	return queued == 1 && sqlb_pg_flush(conn);
}

static enum sqlb_outcome copy_rows(struct sqlb_conn *conn, sqlb_next_fn *next, void *ctx, bool *failed,
				   struct ks_err *err)
{
	struct ks_buf *buf = &conn->arrays;
	enum sqlb_next what;
	struct sqlb_row row;

	ks_buf_reset(buf);
	put_header(buf);
	while ((what = next(ctx, &row)) == SQLB_NEXT_ROW) {
		if (sqlb_pg_row_bytes(&row) > ROW_BYTES_MAX) {
			ks_fail(err, KS_RESOURCE_EXHAUSTED, "PostgreSQL: a row of %zu bytes is too large",
				sqlb_pg_row_bytes(&row));
			return SQLB_BROKEN;
		}
		put_row(buf, &row);
		if (buf->size >= CHUNK_BYTES && !hand_over(conn))
			return sqlb_pg_lost(conn, err);
	}
	*failed = what == SQLB_NEXT_FAILED;
	if (*failed)
		return SQLB_AWAY;
	put16(buf, UINT16_MAX);
	return hand_over(conn) ? SQLB_OK : sqlb_pg_lost(conn, err);
}

/* Reads what the server says of the COPY. */
static enum sqlb_outcome end_copy(struct sqlb_conn *conn, struct ks_err *err)
{
	int ended;

	while ((ended = PQputCopyEnd(conn->pg, NULL)) == 0)
		if (!sqlb_pg_flush(conn))
			return sqlb_pg_lost(conn, err);
	if (ended != 1 || !sqlb_pg_flush(conn))
		return sqlb_pg_lost(conn, err);
	return sqlb_pg_end_copy(conn, err);
}

static enum sqlb_outcome begin(struct sqlb_conn *conn, struct ks_err *err)
{
	enum sqlb_outcome outcome;
	PGresult *result;
	bool empty;

	outcome = sqlb_pg_block_begin(conn, err);
	if (outcome == SQLB_OK)
		outcome = sqlb_pg_exec(conn, begin_text, &result, err);
	if (outcome != SQLB_OK)
		return outcome;
	empty = PQntuples(result) == 1 && strcmp(PQgetvalue(result, 0, 0), "f") == 0;
	PQclear(result);
	return empty ? SQLB_OK : SQLB_CONFLICT;
}

enum sqlb_outcome sqlb_pg_load(struct sqlb_conn *conn, sqlb_next_fn *next, void *ctx, struct ks_err *err)
{
	enum sqlb_outcome outcome = sqlb_pg_begin(conn, SQLB_PG_LONG_TIMEOUT_MS, err);
	bool failed = false;

	if (outcome == SQLB_OK && conn->plain)
		return sqlb_pg_plain_load(conn, next, ctx, err);
	if (outcome == SQLB_OK)
		outcome = begin(conn, err);
	if (outcome == SQLB_OK)
		outcome = sqlb_pg_begin_copy(conn, copy_text, PGRES_COPY_IN, err);
	if (outcome == SQLB_OK)
		outcome = copy_rows(conn, next, ctx, &failed, err);
	if (outcome == SQLB_OK)
		outcome = end_copy(conn, err);
	if (outcome != SQLB_OK) {
		sqlb_pg_drop(conn); /* which rolls back, whatever state it is in */
		return outcome;
	}
	sqlb_pg_more_time(conn, SQLB_PG_LONG_TIMEOUT_MS);
	outcome = sqlb_pg_block_end(conn, "COMMIT", err);
	if (outcome == SQLB_OK)
		return SQLB_OK;
	/* Sent, and not answered. */
	sqlb_pg_drop(conn);
	return SQLB_DOUBT;
}
