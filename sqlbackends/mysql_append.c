/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Appending to the log in MySQL and MariaDB. mysql_sql.c explains the gate, the row that every append changes.
 *
 *	usual      INSERT gate and rows, by itself a transaction: one round trip
 *	bulk       the same for many rows, where the server takes them for a statement of one: a third less work for it
 *	sent       the same, and its answer is read later: others may be sent behind it meanwhile
 *	larger     START, INSERT gate and rows, INSERT rows …, COMMIT
 *	compound   START, DELETE leases, INSERT leases, INSERT gate and rows …, COMMIT
 *
 * The guard of lease expiry is a DELETE of what is past its deadline: when it finds fewer rows than it should, all is rolled
 * back. Locks are taken in one order, leases by id and the gate last, so that appends do not deadlock with keepalives. The gate
 * is locked until the commit: others who append at the same position wait for it, and should the client die meanwhile, until
 * the server notices.
 *
 * Nothing is committed before the COMMIT, or the INSERT that is one by itself, is sent: a connection lost earlier is AWAY, and
 * DOUBT begins there. An error of the server is certain only where it is known to come before the commit.
 */
#include <inttypes.h>
#include <mysqld_error.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/diag.h"
#include "base/panic.h"
#include "mysql_priv.h"

enum {
	CHUNK_BYTES = 8 << 20,
	/* What a statement and a row need beside keys, values and payloads: numbers, types, sizes. */
	STATEMENT_BYTES = 512,
	ROW_BYTES = 160,
	BULK_ROWS = 16, /* for fewer it is as fast without */
};

static size_t room_of(const struct sqlb_conn *conn)
{
	return conn->server.max_packet - STATEMENT_BYTES;
}

size_t sqlb_my_chunk(const struct sqlb_conn *conn, const struct sqlb_row *rows, size_t count, size_t most)
{
	size_t room = room_of(conn), taken = 0, bytes = 0, size;

	while (taken < count && taken < most) {
		bytes += sqlb_my_row_bytes(&rows[taken]) + ROW_BYTES;
		/* Where the bucket is larger, what fills it up costs as much as empty rows. */
		size = sqlb_my_bucket_size(taken + 2 < SQLB_MY_ROWS_MAX ? taken + 2 : SQLB_MY_ROWS_MAX);
		if (bytes + (size > taken ? size - taken : 0) * ROW_BYTES > room || (taken > 0 && bytes > CHUNK_BYTES))
			break;
		taken++;
	}
	return taken;
}

enum sqlb_outcome sqlb_my_too_large(const struct sqlb_conn *conn, const struct sqlb_row *row, struct ks_err *err)
{
	ks_fail(err, KS_RESOURCE_EXHAUSTED,
		"MySQL: a row of %zu bytes does not fit into the server's max_allowed_packet of %zu: raise it there",
		sqlb_my_row_bytes(row), conn->server.max_packet);
	return SQLB_BROKEN;
}

void sqlb_my_param_row(struct sqlb_conn *conn, const struct sqlb_row *row)
{
	sqlb_my_param(conn, row->position);
	sqlb_my_param(conn, row->sub);
	sqlb_my_param(conn, row->rows);
	sqlb_my_param(conn, row->kind);
	sqlb_my_param(conn, row->revision);
	sqlb_my_param_slice(conn, row->key);
	sqlb_my_param_slice(conn, row->value);
	sqlb_my_param(conn, row->create_revision);
	sqlb_my_param(conn, row->version);
	sqlb_my_param(conn, row->lease);
	sqlb_my_param_slice(conn, row->payload);
	sqlb_my_param(conn, row->writer);
	sqlb_my_param(conn, row->batch);
}

struct append_run {
	struct sqlb_conn *conn;
	const struct sqlb_append *append;
	const struct sqlb_row *last;
};

/* The row that changes the gate: from the entry before ours, or (to fill up a bucket) from our last one to itself. */
static struct sqlb_row gate_row(const struct append_run *run, bool fills_up)
{
	const struct sqlb_append *append = run->append;

	return (struct sqlb_row){
		.revision = run->last->position,
		.writer = run->last->writer,
		.batch = run->last->batch,
		.create_revision = fills_up ? run->last->position : append->rows[0].position - 1,
		.version = fills_up ? 0 : append->after_writer,
		.lease = fills_up ? 0 : append->after_batch,
	};
}

static void param_gate(const struct append_run *run, bool fills_up)
{
	struct sqlb_row gate = gate_row(run, fills_up);

	sqlb_my_param_row(run->conn, &gate);
}

/* The first rows, with the gate. Not judged: 'stmt' has the error. */
static bool insert_first(struct append_run *run, size_t count, MYSQL_STMT *stmt, bool *complete)
{
	size_t size = sqlb_my_bucket_size(count + 1);
	uint64_t expected =
		count + 2 + (size - count - 1); /* an updated row counts twice, or once when it was like that */

	sqlb_my_params(run->conn, size * SQLB_MY_ROW_COLUMNS);
	param_gate(run, false);
	for (size_t i = 0; i < count; i++)
		sqlb_my_param_row(run->conn, &run->append->rows[i]);
	for (size_t i = count + 1; i < size; i++)
		param_gate(run, true);
	if (!sqlb_my_execute(run->conn, stmt))
		return false;
	*complete = mysql_stmt_affected_rows(stmt) == expected;
	return true;
}

/* 1690 is the gate's, 1062 the primary key's. */
static bool is_refusal(unsigned number)
{
	return number == ER_DATA_OUT_OF_RANGE || number == ER_DUP_ENTRY;
}

static enum sqlb_outcome judge_insert(struct append_run *run, MYSQL_STMT *stmt, bool commits, struct ks_err *err)
{
	struct sqlb_conn *conn = run->conn;
	unsigned number = mysql_stmt_errno(stmt);
	char text[KS_ERR_TEXT_MAX];

	if (is_refusal(number))
		return SQLB_CONFLICT;
	if (!commits)
		return sqlb_my_judge_stmt(conn, stmt, err);
	snprintf(text, sizeof(text), "%s", mysql_stmt_error(stmt));
	return sqlb_my_judge_commit(conn, number, text, err);
}

static enum sqlb_outcome gate_is_missing(struct sqlb_conn *conn, struct ks_err *err)
{
	return sqlb_my_broken(
		conn, err,
		"kineshim_log did not take all rows, or has lost its first one (position 0): has somebody "
		"deleted rows, has it a trigger?");
}

/* All rows of an append that fits into one packet; executes it, or only sends it. */
static enum sqlb_outcome append_bulk(struct append_run *run, bool (*execute)(struct sqlb_conn *conn, MYSQL_STMT *stmt),
				     MYSQL_STMT **stmt, struct ks_err *err)
{
	size_t count = run->append->row_count;
	struct sqlb_row gate = gate_row(run, false);
	enum sqlb_outcome outcome = sqlb_my_prepare(run->conn, SQLB_MY_INSERT, 1, stmt, err);

	if (outcome != SQLB_OK)
		return outcome;
	sqlb_my_bulk_begin(run->conn, count + 1);
	sqlb_my_bulk_put(run->conn, &gate);
	for (size_t i = 0; i < count; i++)
		sqlb_my_bulk_put(run->conn, &run->append->rows[i]);
	return execute(run->conn, *stmt) ? SQLB_OK : judge_insert(run, *stmt, true, err);
}

/* What came of it. An updated row counts twice. */
static enum sqlb_outcome check_bulk(struct sqlb_conn *conn, size_t row_count, uint64_t affected, struct ks_err *err)
{
	return affected == row_count + 2 ? SQLB_OK : gate_is_missing(conn, err);
}

static bool fits_bulk(const struct sqlb_conn *conn, const struct sqlb_append *append)
{
	size_t bytes = ROW_BYTES;

	if (!conn->server.has_bulk)
		return false;
	for (size_t i = 0; i < append->row_count; i++)
		bytes += sqlb_my_row_bytes(&append->rows[i]) + ROW_BYTES;
	return bytes <= room_of(conn) && bytes <= CHUNK_BYTES;
}

/* One statement, one transaction. */
static enum sqlb_outcome append_usual(struct append_run *run, struct ks_err *err)
{
	size_t count = run->append->row_count;
	MYSQL_STMT *stmt;
	enum sqlb_outcome outcome = sqlb_my_prepare(run->conn, SQLB_MY_INSERT, count + 1, &stmt, err);
	bool complete;

	if (outcome != SQLB_OK)
		return outcome;
	if (!insert_first(run, count, stmt, &complete))
		return judge_insert(run, stmt, true, err);
	return complete ? SQLB_OK : gate_is_missing(run->conn, err);
}

static enum sqlb_outcome insert_more(struct append_run *run, const struct sqlb_row *rows, size_t count,
				     struct ks_err *err)
{
	MYSQL_STMT *stmt;
	enum sqlb_outcome outcome = sqlb_my_prepare(run->conn, SQLB_MY_INSERT_MORE, count, &stmt, err);

	if (outcome != SQLB_OK)
		return outcome;
	sqlb_my_params(run->conn, count * SQLB_MY_ROW_COLUMNS);
	for (size_t i = 0; i < count; i++)
		sqlb_my_param_row(run->conn, &rows[i]);
	if (!sqlb_my_execute(run->conn, stmt))
		return judge_insert(run, stmt, false, err);
	return SQLB_OK;
}

static enum sqlb_outcome insert_all(struct append_run *run, struct ks_err *err)
{
	const struct sqlb_append *append = run->append;
	size_t done = sqlb_my_chunk(run->conn, append->rows, append->row_count, SQLB_MY_ROWS_MAX - 1);
	enum sqlb_outcome outcome;
	MYSQL_STMT *stmt;
	bool complete;

	if (append->row_count == 0)
		return SQLB_OK;
	outcome = sqlb_my_prepare(run->conn, SQLB_MY_INSERT, done + 1, &stmt, err);
	if (outcome == SQLB_OK && !insert_first(run, done, stmt, &complete))
		outcome = judge_insert(run, stmt, false, err);
	else if (outcome == SQLB_OK && !complete)
		outcome = gate_is_missing(run->conn, err);
	while (outcome == SQLB_OK && done < append->row_count) {
		const struct sqlb_row *rows = &append->rows[done];
		size_t count = sqlb_my_chunk(run->conn, rows, append->row_count - done, SQLB_MY_ROWS_MAX);

		/* Nothing can fill up a bucket here: as many as the largest one that is not larger. */
		while (sqlb_my_bucket_size(count) != count)
			count--;
		outcome = insert_more(run, rows, count, err);
		done += count;
	}
	return outcome;
}

static int compare_ids(const void *a, const void *b)
{
	int64_t left = *(const int64_t *)a, right = *(const int64_t *)b;

	return (left > right) - (left < right);
}

/* *passed: all of them were there and past their deadlines; they are deleted, with the transaction. */
static enum sqlb_outcome expire(struct sqlb_conn *conn, const struct sqlb_append *append, bool *passed,
				struct ks_err *err)
{
	size_t count = append->leases_expired_count, different = 1, deleted = 0;
	int64_t *ids = ks_xmalloc(count * sizeof(*ids));
	enum sqlb_outcome outcome;

	memcpy(ids, append->leases_expired, count * sizeof(*ids));
	qsort(ids, count, sizeof(*ids), compare_ids);
	for (size_t i = 1; i < count; i++)
		if (ids[i] != ids[different - 1])
			ids[different++] = ids[i];
	outcome = sqlb_my_leases_delete(conn, ids, different, SQLB_MY_LEASE_EXPIRE, &deleted, err);
	*passed = deleted == different;
	free(ids);
	return outcome;
}

static enum sqlb_outcome append_in_transaction(struct append_run *run, bool *passed, struct ks_err *err)
{
	const struct sqlb_append *append = run->append;
	struct sqlb_conn *conn = run->conn;
	enum sqlb_outcome outcome = sqlb_my_start(conn, err);
	char text[KS_ERR_TEXT_MAX];

	if (outcome == SQLB_OK && append->leases_expired_count > 0)
		outcome = expire(conn, append, passed, err);
	if (outcome == SQLB_OK && *passed && append->leases_gone_count > 0)
		outcome = sqlb_my_leases_delete(conn, append->leases_gone, append->leases_gone_count,
						SQLB_MY_LEASE_DROP, NULL, err);
	if (outcome == SQLB_OK && *passed && append->leases_new_count > 0)
		outcome =
			sqlb_my_leases_put(conn, append->leases_new, append->leases_new_count, SQLB_MY_LEASE_PUT, err);
	if (outcome == SQLB_OK && *passed)
		outcome = insert_all(run, err);
	if (outcome != SQLB_OK || !*passed) {
		sqlb_my_roll_back(conn);
		return outcome;
	}
	if (sqlb_my_commit(conn))
		return SQLB_OK;
	snprintf(text, sizeof(text), "%s", mysql_error(conn->mysql));
	return sqlb_my_judge_commit(conn, mysql_errno(conn->mysql), text, err);
}

/*
 * The same append was refused twice in a row, so its writer found nothing new in between: does the gate tell something else
 * than the log? Only somebody who changed rows by hand can bring that about. The log is right.
 */
static enum sqlb_outcome mend_gate(struct sqlb_conn *conn, struct ks_err *err)
{
	int64_t gate[3], head[4] = {0};
	bool found, any;
	enum sqlb_outcome outcome = sqlb_my_start(conn, err);

	if (outcome == SQLB_OK) {
		sqlb_my_params(conn, 0);
		outcome = sqlb_my_query_one(conn, SQLB_MY_GATE_LOCK, 3, gate, &found, err);
	}
	if (outcome == SQLB_OK)
		outcome = sqlb_my_query_one(conn, SQLB_MY_HEAD, 4, head, &any, err);
	if (outcome == SQLB_OK && !found)
		outcome = gate_is_missing(conn, err);
	if (outcome == SQLB_OK && head[0] == 0)
		head[2] = head[3] = 0; /* the gate itself */
	if (outcome != SQLB_OK || (gate[0] == head[0] && gate[1] == head[2] && gate[2] == head[3])) {
		sqlb_my_roll_back(conn);
		return outcome;
	}
	ks_diag(KS_WARN, "mysql",
		"rows of kineshim_log were changed by somebody else: it ends at %" PRId64 " and not at %" PRId64,
		head[0], gate[0]);
	sqlb_my_params(conn, 3);
	sqlb_my_param(conn, head[0]);
	sqlb_my_param(conn, head[2]);
	sqlb_my_param(conn, head[3]);
	outcome = sqlb_my_run(conn, SQLB_MY_GATE_SET, 0, NULL, err);
	if (outcome == SQLB_OK && !sqlb_my_commit(conn))
		outcome = sqlb_my_judge_conn(conn, err);
	sqlb_my_roll_back(conn);
	return outcome;
}

static enum sqlb_outcome refused(struct sqlb_conn *conn, const struct sqlb_append *append, struct ks_err *err)
{
	int64_t after = append->row_count ? append->rows[0].position - 1 : -1;
	bool again = conn->refused_after == after;
	enum sqlb_outcome outcome = SQLB_CONFLICT;

	conn->refused_after = after;
	if (again && conn->mysql && mend_gate(conn, err) == SQLB_BROKEN)
		outcome = SQLB_BROKEN;
	return outcome;
}

/* Rows and nothing else. */
static bool is_alone(const struct sqlb_append *append)
{
	return append->row_count > 0 &&
	       append->leases_new_count + append->leases_gone_count + append->leases_expired_count == 0;
}

enum sqlb_outcome sqlb_my_append(struct sqlb_conn *conn, const struct sqlb_append *append, bool *appended,
				 struct ks_err *err)
{
	struct append_run run = {.conn = conn, .append = append};
	bool alone = is_alone(append);
	enum sqlb_outcome outcome;
	bool passed = true;
	MYSQL_STMT *stmt;

	*appended = false;
	outcome = sqlb_my_begin(conn, SQLB_MY_ANSWER_TIMEOUT_S, err);
	if (outcome != SQLB_OK)
		return outcome;
	for (size_t i = 0; i < append->row_count; i++)
		if (sqlb_my_chunk(conn, &append->rows[i], 1, 1) == 0)
			return sqlb_my_too_large(conn, &append->rows[i], err);
	if (append->row_count > 0)
		run.last = &append->rows[append->row_count - 1];
	if (alone && append->row_count >= BULK_ROWS && fits_bulk(conn, append)) {
		outcome = append_bulk(&run, sqlb_my_execute_bulk, &stmt, err);
		if (outcome == SQLB_OK)
			outcome = check_bulk(conn, append->row_count, mysql_stmt_affected_rows(stmt), err);
	} else if (alone &&
		   sqlb_my_chunk(conn, append->rows, append->row_count, SQLB_MY_ROWS_MAX - 1) == append->row_count)
		outcome = append_usual(&run, err);
	else
		outcome = append_in_transaction(&run, &passed, err);
	if (outcome == SQLB_CONFLICT)
		return refused(conn, append, err);
	*appended = outcome == SQLB_OK && passed;
	if (outcome == SQLB_OK)
		conn->refused_after = -1;
	return outcome;
}

/* ---- in two steps ---- */

/* What is one statement; and not again what was refused, since 'append' sees whether the gate is to blame. */
static bool can_be_sent(const struct sqlb_conn *conn, const struct sqlb_append *append)
{
	return conn->server.reads_ahead && is_alone(append) && fits_bulk(conn, append) &&
	       conn->refused_after != append->rows[0].position - 1;
}

static enum sqlb_outcome lost(struct ks_err *err, const char *why)
{
	ks_fail(err, KS_UNAVAILABLE, "MySQL: %s", why);
	return SQLB_AWAY;
}

enum sqlb_outcome sqlb_my_append_send(struct sqlb_conn *conn, const struct sqlb_append *append, struct ks_err *err)
{
	struct sqlb_my_sent *sent = &conn->sent[(conn->oldest + conn->sent_count) % SQLB_SENT_MAX];
	struct append_run run = {.conn = conn, .append = append};
	enum sqlb_outcome outcome = SQLB_OK;
	MYSQL_STMT *stmt;

	KS_ASSERT(conn->sent_count < SQLB_SENT_MAX);
	if (conn->sent_count == 0)
		outcome = sqlb_my_begin(conn, SQLB_MY_ANSWER_TIMEOUT_S, err);
	else if (!conn->mysql)
		outcome = lost(err, "the connection was lost with appends on their way");
	if (outcome == SQLB_OK && !can_be_sent(conn, append)) {
		ks_fail(err, KS_UNIMPLEMENTED,
			"MySQL: an append of several statements, or to other than a lone MariaDB, is not sent ahead");
		outcome = SQLB_AWAY;
	}
	if (outcome != SQLB_OK)
		return outcome;
	run.last = &append->rows[append->row_count - 1];
	/* The statement is prepared when another one is on its way: that one is the same. */
	outcome = append_bulk(&run, sqlb_my_send_bulk, &stmt, err);
	if (outcome != SQLB_OK)
		return outcome;
	*sent = (struct sqlb_my_sent){.row_count = append->row_count,
				      .after = append->rows[0].position - 1,
				      .behind = conn->sent_count > 0,
				      .deadline_ms = sqlb_my_now_ms() + SQLB_MY_ANSWER_TIMEOUT_S * 1000};
	conn->sent_count++;
	return SQLB_OK;
}

static enum sqlb_outcome read_answer(struct sqlb_conn *conn, const struct sqlb_my_sent *sent, struct ks_err *err)
{
	char text[KS_ERR_TEXT_MAX];
	uint64_t affected;

	if (sqlb_my_read_sent(conn, &affected))
		return check_bulk(conn, sent->row_count, affected, err);
	if (is_refusal(mysql_errno(conn->mysql)))
		return SQLB_CONFLICT;
	snprintf(text, sizeof(text), "%s", mysql_error(conn->mysql));
	return sqlb_my_judge_commit(conn, mysql_errno(conn->mysql), text, err);
}

enum sqlb_outcome sqlb_my_append_receive(struct sqlb_conn *conn, int wait_ms, bool *pending, bool *appended,
					 struct ks_err *err)
{
	const struct sqlb_my_sent *sent = &conn->sent[conn->oldest];
	int64_t until_ms = wait_ms < 0 ? sent->deadline_ms : sqlb_my_now_ms() + wait_ms;
	enum sqlb_outcome outcome = SQLB_DOUBT;
	bool arrived;

	KS_ASSERT(conn->sent_count > 0);
	*pending = *appended = false;
	arrived = conn->mysql && sqlb_my_await(conn, until_ms < sent->deadline_ms ? until_ms : sent->deadline_ms);
	*pending = conn->mysql && !arrived && sqlb_my_now_ms() < sent->deadline_ms;
	if (*pending)
		return SQLB_OK;
	conn->oldest = (conn->oldest + 1) % SQLB_SENT_MAX;
	conn->sent_count--;
	if (arrived) {
		outcome = read_answer(conn, sent, err);
	} else {
		(void)lost(err, conn->mysql ? "no answer in time" : "the connection was lost before the answer");
		sqlb_my_drop(conn);
	}
	*appended = outcome == SQLB_OK;
	if (outcome == SQLB_OK)
		conn->refused_after = -1;
	if (outcome == SQLB_CONFLICT && !sent->behind)
		conn->refused_after = sent->after;
	return outcome;
}
