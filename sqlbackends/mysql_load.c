/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Filling an empty log in MySQL and MariaDB: one transaction of many INSERTs. It holds the gate from the beginning, so that a
 * server that starts meanwhile cannot append: it is told to try later, until the log is there. In a Galera cluster the
 * transaction must not be larger than wsrep_max_ws_size (2 GiB).
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/panic.h"
#include "mysql_priv.h"

enum { BATCH_BYTES = 4 << 20 };

/* Rows that 'next' lent and that were copied, to go out together. */
struct batch {
	struct sqlb_row rows[SQLB_MY_ROWS_MAX];
	size_t offsets[SQLB_MY_ROWS_MAX][3]; /* of key, value and payload in 'bytes', which may move */
	size_t count;
	struct ks_buf bytes;
};

static struct ks_slice *slices_of(struct sqlb_row *row, size_t i)
{
	struct ks_slice *slices[] = {&row->key, &row->value, &row->payload};

	return slices[i];
}

static void keep_row(struct batch *batch, const struct sqlb_row *row)
{
	struct sqlb_row *kept = &batch->rows[batch->count];

	*kept = *row;
	for (size_t i = 0; i < 3; i++) {
		batch->offsets[batch->count][i] = batch->bytes.size;
		ks_buf_append_slice(&batch->bytes, *slices_of(kept, i));
	}
	batch->count++;
}

/* Sends the rows; buckets have no fillers here, so it takes as many as the largest that is full, again and again. */
static enum sqlb_outcome send_batch(struct sqlb_conn *conn, struct batch *batch, struct ks_err *err)
{
	enum sqlb_outcome outcome = SQLB_OK;

	for (size_t i = 0; i < batch->count; i++)
		for (size_t s = 0; s < 3; s++) {
			struct ks_slice *slice = slices_of(&batch->rows[i], s);

			if (slice->data)
				slice->data = batch->bytes.data ? batch->bytes.data + batch->offsets[i][s]
								: (const uint8_t *)"";
		}
	for (size_t done = 0; done < batch->count && outcome == SQLB_OK;) {
		const struct sqlb_row *rows = &batch->rows[done];
		size_t count = sqlb_my_chunk(conn, rows, batch->count - done, SQLB_MY_ROWS_MAX);

		while (count > 1 && sqlb_my_bucket_size(count) != count)
			count--;
		if (count == 0)
			return sqlb_my_too_large(conn, rows, err);
		sqlb_my_params(conn, count * SQLB_MY_ROW_COLUMNS);
		for (size_t i = 0; i < count; i++)
			sqlb_my_param_row(conn, &rows[i]);
		outcome = sqlb_my_run(conn, SQLB_MY_INSERT_MORE, count, NULL, err);
		done += count;
	}
	batch->count = 0;
	ks_buf_reset(&batch->bytes);
	return outcome;
}

static enum sqlb_outcome send_all(struct sqlb_conn *conn, sqlb_next_fn *next, void *ctx, struct sqlb_row *last,
				  struct ks_err *err)
{
	struct batch *batch = ks_xcalloc(1, sizeof(*batch));
	enum sqlb_outcome outcome = SQLB_OK;
	enum sqlb_next what;
	struct sqlb_row row;

	ks_buf_init(&batch->bytes, (size_t)1 << 32);
	while (outcome == SQLB_OK && (what = next(ctx, &row)) == SQLB_NEXT_ROW) {
		keep_row(batch, &row);
		*last = row;
		if (batch->bytes.failed) {
			ks_fail(err, KS_RESOURCE_EXHAUSTED, "MySQL: no memory for rows");
			outcome = SQLB_AWAY;
		} else if (batch->count == SQLB_MY_ROWS_MAX || batch->bytes.size >= BATCH_BYTES) {
			outcome = send_batch(conn, batch, err);
		}
	}
	if (outcome == SQLB_OK && what == SQLB_NEXT_FAILED)
		outcome = SQLB_AWAY; /* 'err' is the feeder's */
	if (outcome == SQLB_OK)
		outcome = send_batch(conn, batch, err);
	ks_buf_fini(&batch->bytes);
	free(batch);
	return outcome;
}

static enum sqlb_outcome begin_load(struct sqlb_conn *conn, struct ks_err *err)
{
	int64_t gate[3] = {0}, head[4] = {0};
	enum sqlb_outcome outcome = sqlb_my_start(conn, err);
	bool found = false, any;

	sqlb_my_params(conn, 0);
	if (outcome == SQLB_OK)
		outcome = sqlb_my_query_one(conn, SQLB_MY_GATE_LOCK, 3, gate, &found, err);
	if (outcome == SQLB_OK)
		outcome = sqlb_my_query_one(conn, SQLB_MY_HEAD, 4, head, &any, err);
	if (outcome == SQLB_OK && !found)
		return sqlb_my_broken(conn, err, "kineshim_log has lost its first row (position 0)");
	outcome = sqlb_my_no_conflict(outcome);
	return outcome == SQLB_OK && (gate[0] != 0 || head[0] != 0) ? SQLB_CONFLICT : outcome;
}

static enum sqlb_outcome end_load(struct sqlb_conn *conn, const struct sqlb_row *last, struct ks_err *err)
{
	enum sqlb_outcome outcome;

	sqlb_my_params(conn, 3);
	sqlb_my_param(conn, last->position);
	sqlb_my_param(conn, last->writer);
	sqlb_my_param(conn, last->batch);
	outcome = sqlb_my_run(conn, SQLB_MY_GATE_SET, 0, NULL, err);
	if (outcome != SQLB_OK)
		return outcome;
	if (!sqlb_my_commit(conn)) {
		char text[KS_ERR_TEXT_MAX];

		(void)snprintf(text, sizeof(text), "%s", mysql_error(conn->mysql));
		return sqlb_my_judge_commit(conn, mysql_errno(conn->mysql), text, err);
	}
	return SQLB_OK;
}

enum sqlb_outcome sqlb_my_load(struct sqlb_conn *conn, sqlb_next_fn *next, void *ctx, struct ks_err *err)
{
	/* The commit may take long, and so may the feeder. */
	enum sqlb_outcome outcome = sqlb_my_begin(conn, SQLB_MY_LONG_TIMEOUT_S, err);
	struct sqlb_row last = {0};

	if (outcome == SQLB_OK)
		outcome = begin_load(conn, err);
	if (outcome == SQLB_CONFLICT) {
		sqlb_my_drop(conn);
		return outcome;
	}
	if (outcome == SQLB_OK)
		outcome = send_all(conn, next, ctx, &last, err);
	if (outcome == SQLB_OK)
		outcome = end_load(conn, &last, err);
	sqlb_my_drop(conn);
	return sqlb_my_no_conflict(outcome);
}
