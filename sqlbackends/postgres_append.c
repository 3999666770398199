/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Appending to the log in PostgreSQL.
 *
 * An append is one round trip: the changes of the lease table and the rows go out in one pipeline, which the
 * server runs as one transaction up to the Sync at its end. Only the guard of lease expiry needs an answer in
 * between, and so a transaction of its own making (BEGIN … COMMIT):
 *
 *	usual      INSERT rows if the head is where it should be, Sync
 *	compound   DELETE leases, INSERT leases, check the head, INSERT rows…, Sync
 *	guarded    BEGIN, SELECT … FOR UPDATE, Sync → answer → DELETE, check, INSERT rows…, COMMIT, Sync
 *
 * Behind a pooler of transactions all of them begin with BEGIN and its settings, and end with COMMIT.
 *
 * A compound one has something to undo when the head is elsewhere, so the check raises an error there; the
 * usual one then just inserts nothing.
 *
 * The rows come last: whoever appends at the same position waits for this transaction, and should its client
 * die between two packets, they wait until the server notices. Nothing is committed before the Sync (or COMMIT)
 * is sent, so a connection lost earlier is AWAY, and DOUBT begins there.
 *
 * Others are told after the commit, by one more transaction that is sent along and whose answer nobody waits
 * for. NOTIFY in the append's own would hold a lock of the whole server, for every database on it that
 * notifies, while the commit is flushed to disk. That it is sent after a conflict, too, does no harm: who wins
 * notifies as well.
 *
 * Where a session is ours alone, the next append may be sent before this one is answered, as a pipeline behind it. The
 * server begins with it after this one's Sync, whatever came of this one: its own look at the head refuses it then.
 */
#include <endian.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/panic.h"
#include "postgres_priv.h"

enum {
	CHUNK_BYTES = 8 << 20, /* of one INSERT; it is one parameter set, and must be far from PostgreSQL's 1 GB */
	CHUNK_ROWS = 8192,
};

#define ROW_BYTES_MAX ((size_t)512 << 20)

/* One array column of rows, whose elements have 'size' bytes at 'offset' of the row. */
static void put_numbers(struct ks_buf *buf, const struct sqlb_row *rows, size_t count, size_t offset, size_t size)
{
	static const Oid types[] = {[2] = SQLB_PG_INT2, [4] = SQLB_PG_INT4, [8] = SQLB_PG_INT8};
	uint8_t *out;

	sqlb_pg_array_header(buf, types[size], count, false);
	if (!ks_buf_reserve(buf, count * (4 + size)))
		return;
	out = buf->data + buf->size;
	for (size_t i = 0; i < count; i++, out += 4 + size) {
		const uint8_t *field = (const uint8_t *)&rows[i] + offset;
		uint32_t big_size = htobe32((uint32_t)size);
		uint64_t value = 0;

		memcpy(out, &big_size, 4);
#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
		memcpy(&value, field, size);
		value = __builtin_bswap64(value) >> (64 - 8 * size);
#else
		memcpy(&value, field, size);
#endif
		memcpy(out + 4, &value, size);
	}
	buf->size += count * (4 + size);
}

static void put_slices(struct ks_buf *buf, const struct sqlb_row *rows, size_t count, size_t offset)
{
	bool nulls = false;

	for (size_t i = 0; i < count; i++)
		nulls |= ((const struct ks_slice *)(const void *)((const uint8_t *)&rows[i] + offset))->data == NULL;
	sqlb_pg_array_header(buf, SQLB_PG_BYTEA, count, nulls);
	for (size_t i = 0; i < count; i++) {
		const struct ks_slice *slice = (const void *)((const uint8_t *)&rows[i] + offset);

		sqlb_pg_put32(buf, slice->data ? (uint32_t)slice->size : UINT32_MAX);
		ks_buf_append_slice(buf, *slice);
	}
}

/* What must be before 'position'. */
static void param_head(const struct sqlb_pg_append_run *run, struct sqlb_pg_params *params, int64_t position)
{
	sqlb_pg_param_int8(params, position - 1);
	sqlb_pg_param_int8(params, run->append->after_writer);
	sqlb_pg_param_int8(params, run->append->after_batch);
}

static bool send_one_row(struct sqlb_pg_append_run *run, const struct sqlb_row *row)
{
	struct sqlb_pg_params params = {0};

	sqlb_pg_param_int8(&params, row->position);
	sqlb_pg_param_int4(&params, row->sub);
	sqlb_pg_param_int4(&params, row->rows);
	sqlb_pg_param_int2(&params, row->kind);
	sqlb_pg_param_int8(&params, row->revision);
	sqlb_pg_param_slice(&params, row->key);
	sqlb_pg_param_slice(&params, row->value);
	sqlb_pg_param_int8(&params, row->create_revision);
	sqlb_pg_param_int8(&params, row->version);
	sqlb_pg_param_int8(&params, row->lease);
	sqlb_pg_param_slice(&params, row->payload);
	sqlb_pg_param_int8(&params, row->writer);
	sqlb_pg_param_int8(&params, row->batch);
	param_head(run, &params, row->position);
	return sqlb_pg_send(run->conn, SQLB_PG_INSERT_ONE, &params);
}

bool sqlb_pg_param_rows(struct sqlb_conn *conn, struct sqlb_pg_params *params, const struct sqlb_row *rows,
			size_t count, bool of_many)
{
	static const struct column {
		uint16_t offset;
		uint16_t size; /* 0: a slice */
	} columns[] = {
#define COLUMN(field, size) {offsetof(struct sqlb_row, field), size}
		COLUMN(position, 8), COLUMN(sub, 4),   COLUMN(rows, 4),    COLUMN(kind, 2),
		COLUMN(revision, 8), COLUMN(key, 0),   COLUMN(value, 0),   COLUMN(create_revision, 8),
		COLUMN(version, 8),  COLUMN(lease, 8), COLUMN(payload, 0), COLUMN(writer, 8),
		COLUMN(batch, 8),
#undef COLUMN
	};
	enum { COLUMNS = sizeof(columns) / sizeof(columns[0]) };
	struct ks_buf *buf = &conn->arrays;
	size_t starts[COLUMNS + 1], used = of_many ? COLUMNS : COLUMNS - 2;

	ks_buf_reset(buf);
	for (size_t i = 0; i < used; i++) {
		starts[i] = buf->size;
		if (columns[i].size)
			put_numbers(buf, rows, count, columns[i].offset, columns[i].size);
		else
			put_slices(buf, rows, count, columns[i].offset);
	}
	starts[used] = buf->size;
	if (buf->failed)
		return false;
	for (size_t i = 0; i < used; i++)
		sqlb_pg_param_array(params, conn, starts[i], starts[i + 1] - starts[i]);
	if (of_many)
		return true;
	sqlb_pg_param_int8(params, rows[0].writer);
	sqlb_pg_param_int8(params, rows[0].batch);
	return true;
}

static bool send_rows(struct sqlb_pg_append_run *run, const struct sqlb_row *rows, size_t count)
{
	struct sqlb_pg_params params = {0};

	if (!sqlb_pg_param_rows(run->conn, &params, rows, count, false))
		return false;
	if (run->compound)
		return sqlb_pg_send(run->conn, SQLB_PG_INSERT_MORE, &params);
	param_head(run, &params, rows[0].position);
	return sqlb_pg_send(run->conn, SQLB_PG_INSERT_MANY, &params);
}

/* How many of the rows go into one INSERT. */
static size_t chunk_of(const struct sqlb_row *rows, size_t count)
{
	size_t taken = 0, bytes = 0;

	while (taken < count && taken < CHUNK_ROWS && rows[taken].writer == rows[0].writer &&
	       rows[taken].batch == rows[0].batch) {
		bytes += sqlb_pg_row_bytes(&rows[taken]);
		if (taken > 0 && bytes > CHUNK_BYTES)
			break;
		taken++;
	}
	return taken;
}

static bool send_all_rows(struct sqlb_pg_append_run *run)
{
	size_t count;

	for (size_t i = 0; i < run->append->row_count; i += count) {
		const struct sqlb_row *rows = &run->append->rows[i];

		count = chunk_of(rows, run->append->row_count - i);
		if (!(count == 1 && !run->compound ? send_one_row(run, rows) : send_rows(run, rows, count)))
			return false;
		run->statements++;
		/* Of a huge entry libpq must not hold more than a chunk; a small one goes out with the Sync. */
		if (i + count < run->append->row_count) {
			sqlb_pg_more_time(run->conn, SQLB_PG_ANSWER_TIMEOUT_MS);
			if (!sqlb_pg_flush(run->conn))
				return false;
		}
	}
	return true;
}

static bool send_leases_gone(struct sqlb_pg_append_run *run)
{
	const struct sqlb_append *append = run->append;
	struct ks_buf *buf = &run->conn->arrays;
	struct sqlb_pg_params params = {0};

	if (append->leases_gone_count + append->leases_expired_count == 0)
		return true;
	ks_buf_reset(buf);
	sqlb_pg_int8_array(buf, append->leases_gone, append->leases_gone_count, append->leases_expired,
			   append->leases_expired_count);
	if (buf->failed)
		return false;
	sqlb_pg_param_array(&params, run->conn, 0, buf->size);
	run->statements++;
	return sqlb_pg_send(run->conn, SQLB_PG_LEASE_DROP, &params);
}

static bool send_leases_new(struct sqlb_pg_append_run *run)
{
	const struct sqlb_append *append = run->append;
	struct ks_buf *buf = &run->conn->arrays;
	struct sqlb_pg_params params = {0};
	size_t middle;

	if (append->leases_new_count == 0)
		return true;
	sqlb_pg_leases_arrays(buf, append->leases_new, append->leases_new_count, &middle);
	if (buf->failed)
		return false;
	sqlb_pg_param_array(&params, run->conn, 0, middle);
	sqlb_pg_param_array(&params, run->conn, middle, buf->size - middle);
	run->statements++;
	return sqlb_pg_send(run->conn, SQLB_PG_LEASE_PUT, &params);
}

static bool others_listen(const struct sqlb_pg_append_run *run)
{
	return run->append->row_count > 0 && !run->conn->plain &&
	       atomic_load_explicit(&run->conn->db->others, memory_order_relaxed) != 0;
}

static bool send_notify(struct sqlb_pg_append_run *run)
{
	struct sqlb_pg_params params = {0};
	char position[24];

	snprintf(position, sizeof(position), "%" PRId64, run->append->rows[run->append->row_count - 1].position);
	sqlb_pg_param_slice(&params, ks_slice_str(position));
	return sqlb_pg_send(run->conn, SQLB_PG_NOTIFY, &params);
}

static bool send_check(struct sqlb_pg_append_run *run)
{
	struct sqlb_pg_params params = {0};

	if (!run->compound || run->append->row_count == 0)
		return true;
	param_head(run, &params, run->append->rows[0].position);
	run->statements++;
	return sqlb_pg_send(run->conn, SQLB_PG_CHECK_HEAD, &params);
}

/* Everything up to and with the Sync. False: the connection is lost; run->may_commit tells when. */
static bool send_pipeline(struct sqlb_pg_append_run *run)
{
	const struct sqlb_append *append = run->append;
	PGconn *pg = run->conn->pg;

	run->compound = run->in_block || append->leases_gone_count + append->leases_new_count > 0 ||
			chunk_of(append->rows, append->row_count) < append->row_count;
	if (!PQenterPipelineMode(pg))
		return false;
	if ((run->conn->pooled || run->conn->plain) && !run->in_block) {
		run->statements = sqlb_pg_block_send(run->conn);
		run->in_block = run->statements > 0;
		if (!run->in_block)
			return false;
	}
	if (!send_leases_gone(run) || !send_leases_new(run) || !send_check(run))
		return false;
	run->insert_index = run->statements;
	if (!send_all_rows(run))
		return false;
	run->may_commit = true;
	if (run->in_block) {
		run->statements++;
		run->conn->in_block = false;
		if (!PQsendQueryParams(pg, "COMMIT", 0, NULL, NULL, NULL, NULL, 1))
			return false;
	}
	if (!PQpipelineSync(pg))
		return false;
	run->notifies = !run->in_block && others_listen(run); /* else its own transaction follows the answer */
	if (run->notifies && (!send_notify(run) || !PQpipelineSync(pg)))
		return false;
	return sqlb_pg_flush(run->conn);
}

/*
 * What an error means for the append. An ERROR from the server means that the transaction is rolled back. FATAL
 * and PANIC end the session, and may do so at any time: a PANIC may follow the commit record, and a pooler in
 * between says FATAL (class 08, 58) when it lost the server itself. A shutdown (57P0x) is certain as long as
 * the INSERT was not answered: a backend that was asked to leave does so before the commit or after it, and
 * then the answer to the INSERT comes first.
 */
static enum sqlb_outcome judge_append_error(struct sqlb_pg_append_run *run, const PGresult *result)
{
	size_t index = run->answered;
	const char *severity = PQresultErrorField(result, PG_DIAG_SEVERITY_NONLOCALIZED);
	const char *constraint = PQresultErrorField(result, PG_DIAG_CONSTRAINT_NAME);
	bool inserted = run->may_commit && index >= run->statements - (run->in_block ? 1 : 0);
	bool ends_session = !severity || strcmp(severity, "ERROR") != 0;
	bool certain = !ends_session || !run->may_commit || (sqlb_pg_has_state(result, "57P0") && !inserted);

	if (certain && index >= run->insert_index && sqlb_pg_has_state(result, "23505") &&
	    (!constraint || strcmp(constraint, "kineshim_log_pkey") == 0))
		return SQLB_CONFLICT;
	if (certain && run->compound && index + 1 == run->insert_index && sqlb_pg_has_state(result, "22P02"))
		return SQLB_CONFLICT;
	/* Engines that cannot say whether a transaction was committed say so; PostgreSQL itself never does. */
	certain = certain && !sqlb_pg_has_state(result, "40003") && !sqlb_pg_has_state(result, "08007");
	/* And of others' COMMIT only those errors are certain that are known to be. */
	if (run->conn->plain && inserted && !sqlb_pg_has_state(result, "40001") && !sqlb_pg_has_state(result, "23505"))
		certain = false;
	if (certain)
		return sqlb_pg_judge(run->conn, result, &run->err);
	sqlb_pg_judge(run->conn, result, &run->err);
	sqlb_pg_drop(run->conn);
	return SQLB_DOUBT;
}

/* Undone for the sake of another transaction: a fresh look, and again, instead of patience. */
static enum sqlb_outcome undone_is_conflict(const struct sqlb_conn *conn, enum sqlb_outcome outcome)
{
	return outcome == SQLB_AWAY && conn->undone ? SQLB_CONFLICT : outcome;
}

static void take_answer(struct sqlb_pg_append_run *run, const PGresult *result)
{
	switch ((int)PQresultStatus(result)) {
	case PGRES_PIPELINE_SYNC:
		run->synced = true;
		return;
	case PGRES_COMMAND_OK:
	case PGRES_TUPLES_OK:
		if (run->answered >= run->insert_index && strncmp(PQcmdStatus((PGresult *)result), "INSERT", 6) == 0)
			run->rows_taken += strtoll(PQcmdTuples((PGresult *)result), NULL, 10);
		break;
	case PGRES_PIPELINE_ABORTED:
		break;
	default:
		if (run->outcome != SQLB_OK)
			break;
		run->conn->undone = false;
		run->outcome = undone_is_conflict(run->conn, judge_append_error(run, result));
		break;
	}
	run->answered++;
}

/* The answers up to the Sync's, as far as they are there by 'until_ms'. */
static enum sqlb_pg_arrival read_answers(struct sqlb_pg_append_run *run, int64_t until_ms)
{
	struct sqlb_conn *conn = run->conn;

	while (!run->synced) {
		enum sqlb_pg_arrival arrival = sqlb_pg_await(conn, until_ms);
		PGresult *result;

		if (arrival != SQLB_PG_ARRIVED)
			return arrival;
		if (!sqlb_pg_next(conn, &result))
			return SQLB_PG_LOST;
		if (!result)
			continue;
		take_answer(run, result);
		PQclear(result);
		if (!conn->pg)
			return SQLB_PG_LOST;
	}
	return SQLB_PG_ARRIVED;
}

/* Were all the rows taken, or none? */
static enum sqlb_outcome check_rows_taken(struct sqlb_pg_append_run *run)
{
	if (run->rows_taken == 0 && run->row_count > 0 && !run->compound)
		return SQLB_CONFLICT;
	if (run->rows_taken != (int64_t)run->row_count)
		return sqlb_pg_broken(run->conn, &run->err,
				      "kineshim_log did not take all rows: has it a rule or a trigger?");
	return SQLB_OK;
}

/* No more answers are read: what came of the append. */
static enum sqlb_outcome conclude(struct sqlb_pg_append_run *run, enum sqlb_pg_arrival arrival, bool *appended,
				  struct ks_err *err)
{
	struct sqlb_conn *conn = run->conn;
	enum sqlb_outcome outcome = run->outcome;

	if (arrival != SQLB_PG_ARRIVED) {
		sqlb_pg_lost(conn, outcome == SQLB_OK ? &run->err : NULL);
		outcome = outcome == SQLB_OK ? SQLB_DOUBT : outcome;
	} else {
		if (run->notifies)
			conn->unread = SQLB_PG_UNREAD_PIPELINE;
		else if (conn->sent_count == 0 && !PQexitPipelineMode(conn->pg))
			sqlb_pg_drop(conn);
		outcome = outcome == SQLB_OK ? check_rows_taken(run) : outcome;
	}
	*appended = outcome == SQLB_OK;
	if (err && outcome != SQLB_OK && outcome != SQLB_CONFLICT)
		*err = run->err;
	return outcome;
}

/* BEGIN and the question whether all the leases are past their deadlines, with their rows locked. */
static enum sqlb_outcome guard(struct sqlb_pg_append_run *run, bool *passed, struct ks_err *err)
{
	const struct sqlb_append *append = run->append;
	struct sqlb_conn *conn = run->conn;
	struct sqlb_pg_params params = {0};
	enum sqlb_outcome outcome;
	PGresult *result;

	outcome = sqlb_pg_block_begin(conn, err);
	if (outcome != SQLB_OK)
		return undone_is_conflict(conn, outcome);
	run->in_block = true;
	ks_buf_reset(&conn->arrays);
	sqlb_pg_int8_array(&conn->arrays, append->leases_expired, append->leases_expired_count, NULL, 0);
	sqlb_pg_param_array(&params, conn, 0, conn->arrays.size);
	outcome = sqlb_pg_query(conn, SQLB_PG_GUARD, &params, 1, &result, err);
	if (outcome == SQLB_OK && !sqlb_pg_get_bool(result, 0, 0, passed))
		outcome = sqlb_pg_broken(conn, err, "the guard of lease expiry has no answer");
	PQclear(result);
	return undone_is_conflict(conn, outcome);
}

static enum sqlb_outcome prepare_append(struct sqlb_conn *conn, const struct sqlb_append *append, struct ks_err *err)
{
	static const enum sqlb_pg_statement needed[] = {
		SQLB_PG_INSERT_ONE, SQLB_PG_INSERT_MANY, SQLB_PG_INSERT_MORE, SQLB_PG_CHECK_HEAD,
		SQLB_PG_NOTIFY,     SQLB_PG_LEASE_DROP,  SQLB_PG_LEASE_PUT,   SQLB_PG_GUARD,
	};
	enum sqlb_outcome outcome = SQLB_OK;

	for (size_t i = 0; i < append->row_count; i++)
		if (sqlb_pg_row_bytes(&append->rows[i]) > ROW_BYTES_MAX) {
			ks_fail(err, KS_RESOURCE_EXHAUSTED, "PostgreSQL: a row of %zu bytes is too large",
				sqlb_pg_row_bytes(&append->rows[i]));
			return SQLB_BROKEN;
		}
	for (size_t i = 0; i < sizeof(needed) / sizeof(needed[0]) && outcome == SQLB_OK; i++)
		outcome = sqlb_pg_prepare(conn, needed[i], err);
	return outcome;
}

/* Sends the pipeline; any other outcome than OK is the append's. */
static enum sqlb_outcome send_append(struct sqlb_pg_append_run *run, struct ks_err *err)
{
	bool sent = send_pipeline(run);

	run->deadline_ms = run->conn->deadline_ms;
	if (sent)
		return SQLB_OK;
	sqlb_pg_lost(run->conn, err);
	return run->may_commit ? SQLB_DOUBT : SQLB_AWAY;
}

static struct sqlb_pg_append_run run_of(struct sqlb_conn *conn, const struct sqlb_append *append)
{
	return (struct sqlb_pg_append_run){.conn = conn, .append = append, .row_count = append->row_count};
}

enum sqlb_outcome sqlb_pg_append(struct sqlb_conn *conn, const struct sqlb_append *append, bool *appended,
				 struct ks_err *err)
{
	struct sqlb_pg_append_run run = run_of(conn, append);
	enum sqlb_outcome outcome;
	bool passed = true;

	*appended = false;
	outcome = sqlb_pg_begin(conn, SQLB_PG_ANSWER_TIMEOUT_MS, err);
	if (outcome == SQLB_OK)
		outcome = prepare_append(conn, append, err);
	if (outcome == SQLB_OK && append->leases_expired_count > 0)
		outcome = guard(&run, &passed, err);
	if (outcome == SQLB_OK && passed)
		outcome = send_append(&run, err);
	if (outcome == SQLB_OK && passed)
		outcome = conclude(&run, read_answers(&run, run.deadline_ms), appended, err);
	/* Rolled back it is in any case; this only gets the connection out of the failed block. */
	if (run.in_block && conn->pg && (outcome != SQLB_OK || !passed) &&
	    sqlb_pg_block_end(conn, "ROLLBACK", NULL) != SQLB_OK)
		sqlb_pg_drop(conn);
	if (*appended && run.in_block && conn->pg && others_listen(&run)) {
		if (send_notify(&run) && PQflush(conn->pg) >= 0)
			conn->unread = SQLB_PG_UNREAD_STATEMENT;
		else
			sqlb_pg_drop(conn);
	}
	return outcome;
}

/* ---- in two steps ---- */

/* One that is sent behind another, in the middle of whose answers the connection may be. */
static enum sqlb_outcome begin_behind(struct sqlb_conn *conn, struct ks_err *err)
{
	if (!conn->pg || !sqlb_pg_take_arrived(conn))
		return sqlb_pg_lost(conn, err);
	sqlb_pg_more_time(conn, SQLB_PG_ANSWER_TIMEOUT_MS);
	return SQLB_OK;
}

enum sqlb_outcome sqlb_pg_append_send(struct sqlb_conn *conn, const struct sqlb_append *append, struct ks_err *err)
{
	struct sqlb_pg_append_run *run = &conn->sent[(conn->oldest + conn->sent_count) % SQLB_SENT_MAX];
	enum sqlb_outcome outcome;

	KS_ASSERT(conn->sent_count < SQLB_SENT_MAX);
	outcome = conn->sent_count ? begin_behind(conn, err) : sqlb_pg_begin(conn, SQLB_PG_ANSWER_TIMEOUT_MS, err);
	if (outcome == SQLB_OK && (conn->pooled || conn->plain || append->leases_expired_count > 0)) {
		ks_fail(err, KS_UNIMPLEMENTED,
			"PostgreSQL: an append with a guard, or where no session lasts, is not sent ahead");
		return SQLB_AWAY;
	}
	/* All is prepared when another one is on its way: this says nothing to the server then. */
	if (outcome == SQLB_OK)
		outcome = prepare_append(conn, append, err);
	if (outcome != SQLB_OK)
		return outcome;
	*run = run_of(conn, append);
	outcome = send_append(run, err);
	run->append = NULL;
	conn->sent_count += outcome == SQLB_OK;
	return outcome;
}

enum sqlb_outcome sqlb_pg_append_receive(struct sqlb_conn *conn, int wait_ms, bool *pending, bool *appended,
					 struct ks_err *err)
{
	struct sqlb_pg_append_run *run = &conn->sent[conn->oldest];
	int64_t until_ms = wait_ms < 0 ? run->deadline_ms : sqlb_pg_now_ms() + wait_ms;
	enum sqlb_pg_arrival arrival = SQLB_PG_LOST;

	KS_ASSERT(conn->sent_count > 0);
	*pending = *appended = false;
	conn->deadline_ms = run->deadline_ms;
	if (until_ms > run->deadline_ms)
		until_ms = run->deadline_ms;
	if (conn->pg) {
		if (wait_ms == 0)
			sqlb_pg_look(conn);
		arrival = sqlb_pg_read_unread(conn, until_ms);
	}
	if (arrival == SQLB_PG_ARRIVED)
		arrival = read_answers(run, until_ms);
	*pending = arrival == SQLB_PG_NOT_YET && sqlb_pg_now_ms() < run->deadline_ms;
	if (*pending)
		return SQLB_OK;
	conn->oldest = (conn->oldest + 1) % SQLB_SENT_MAX;
	conn->sent_count--;
	return conclude(run, arrival, appended, err);
}
