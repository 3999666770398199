/* SPDX-License-Identifier: Apache-2.0 */
/*
 * How every call begins and ends, with the faults that tests ask for; and what else they can do to a database.
 */
#include <stdlib.h>

#include "memory_priv.h"

enum sqlb_memory_fault sqlb_mem_ask(struct sqlb_conn *conn, const char *op)
{
	struct mem_database *database = conn->database;
	sqlb_memory_fault_fn *fault;
	void *ctx;

	ks_mutex_lock(&database->mutex);
	fault = database->fault;
	ctx = database->fault_ctx;
	ks_mutex_unlock(&database->mutex);
	return fault ? fault(ctx, op, conn) : SQLB_FAULT_NONE;
}

bool sqlb_mem_is_cut_locked(const struct sqlb_conn *conn)
{
	return conn->connected && conn->cuts_seen != conn->database->cuts;
}

KS_NO_TSA enum sqlb_outcome sqlb_mem_begin(struct sqlb_conn *conn, const char *op, enum sqlb_memory_fault *fault,
					   struct ks_err *err)
{
	struct mem_database *database = conn->database;
	bool cut;

	*fault = sqlb_mem_ask(conn, op);
	ks_mutex_lock(&database->mutex);
	sqlb_mem_late_step_locked(database);
	cut = sqlb_mem_is_cut_locked(conn);
	conn->connected = true;
	if (ks_list_empty(&conn->sent)) /* else append_receive has yet to see it */
		conn->cuts_seen = database->cuts;
	if (!cut && *fault != SQLB_FAULT_AWAY && *fault != SQLB_FAULT_BROKEN)
		return SQLB_OK;
	ks_mutex_unlock(&database->mutex);
	if (!cut && *fault == SQLB_FAULT_BROKEN) {
		ks_fail(err, KS_DATA_LOSS, "memory://%s: %s: injected: broken", database->name, op);
		return SQLB_BROKEN;
	}
	ks_fail(err, KS_UNAVAILABLE, "memory://%s: %s: %s", database->name, op,
		cut ? "connection cut" : "injected: away");
	return SQLB_AWAY;
}

bool sqlb_mem_lost_before(enum sqlb_memory_fault fault)
{
	return fault == SQLB_FAULT_DOUBT_LOST || fault == SQLB_FAULT_DOUBT_LATE || fault == SQLB_FAULT_CUT;
}

KS_NO_TSA enum sqlb_outcome sqlb_mem_end(struct sqlb_conn *conn, const char *op, enum sqlb_memory_fault fault,
					 struct ks_err *err)
{
	ks_mutex_unlock(&conn->database->mutex);
	if (fault == SQLB_FAULT_NONE)
		return SQLB_OK;
	ks_fail(err, KS_UNAVAILABLE, "memory://%s: %s: injected: connection lost", conn->database->name, op);
	return SQLB_AWAY;
}

enum sqlb_outcome sqlb_mem_no_memory(struct ks_err *err)
{
	ks_fail(err, KS_RESOURCE_EXHAUSTED, "memory backend: out of memory");
	return SQLB_AWAY;
}

/* ---- what tests can do ---- */

void sqlb_memory_set_clock(const char *name, struct ks_clock *clock)
{
	struct mem_database *database = sqlb_mem_database_get(name, false);

	ks_mutex_lock(&database->mutex);
	database->clock = clock ? clock : ks_clock_system();
	ks_mutex_unlock(&database->mutex);
}

void sqlb_memory_set_faults(const char *name, sqlb_memory_fault_fn *fault, void *ctx, int late_calls)
{
	struct mem_database *database = sqlb_mem_database_get(name, false);

	ks_mutex_lock(&database->mutex);
	database->fault = fault;
	database->fault_ctx = ctx;
	database->late_calls = late_calls;
	ks_mutex_unlock(&database->mutex);
}

static void lose_tail(const char *name, int64_t keep, bool cut)
{
	struct mem_database *database = sqlb_mem_database_get(name, false);

	ks_mutex_lock(&database->mutex);
	while (database->row_count && database->rows[database->row_count - 1]->row.position > keep) {
		struct mem_row *row = database->rows[--database->row_count];

		database->bytes_in_use -= (int64_t)sqlb_mem_row_bytes(&row->row);
		sqlb_mem_row_unref(row);
	}
	database->cuts += cut;
	ks_cond_broadcast(&database->changed);
	ks_mutex_unlock(&database->mutex);
}

void sqlb_memory_lose_tail(const char *name, int64_t keep)
{
	lose_tail(name, keep, true);
}

void sqlb_memory_lose_tail_quietly(const char *name, int64_t keep)
{
	lose_tail(name, keep, false);
}

void sqlb_memory_visit(const char *name, sqlb_row_fn *visit, void *ctx)
{
	struct mem_database *database = sqlb_mem_database_get(name, false);
	struct mem_row **rows;
	size_t count;
	bool go_on = true;

	ks_mutex_lock(&database->mutex);
	count = database->row_count;
	rows = ks_xcalloc(count + 1, sizeof(struct mem_row *));
	for (size_t i = 0; i < count; i++)
		rows[i] = sqlb_mem_row_ref(database->rows[i]);
	ks_mutex_unlock(&database->mutex);
	for (size_t i = 0; i < count && go_on; i++)
		go_on = visit(ctx, &rows[i]->row);
	sqlb_mem_rows_free(rows, count);
}
