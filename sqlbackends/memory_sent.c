/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Appends on their way: sent, and not yet received.
 */
#include "memory_priv.h"

static bool loses_connection(enum sqlb_memory_fault fault)
{
	return fault != SQLB_FAULT_NONE && fault != SQLB_FAULT_AWAY && fault != SQLB_FAULT_BROKEN;
}

struct mem_waiting *sqlb_mem_sent_oldest(const struct sqlb_conn *conn)
{
	return ks_list_empty(&conn->sent) ? NULL : ks_container_of(conn->sent.next, struct mem_waiting, link);
}

static int sent_count(const struct sqlb_conn *conn)
{
	int count = 0;

	for (const struct ks_list *link = conn->sent.next; link != &conn->sent; link = link->next)
		count++;
	return count;
}

void sqlb_mem_sent_lose_locked(struct sqlb_conn *conn, enum sqlb_memory_fault fault)
{
	struct mem_waiting *sent = sqlb_mem_sent_oldest(conn);
	bool late = fault == SQLB_FAULT_NONE ? conn->database->behind++ % 2 == 1
					     : fault == SQLB_FAULT_DOUBT_LATE || fault == SQLB_FAULT_DOUBT_DONE;

	ks_list_remove(&sent->link);
	if (late && !sqlb_mem_is_cut_locked(conn))
		sqlb_mem_late_add_locked(conn->database, sent);
	else
		sqlb_mem_waiting_free(sent);
}

/* The connection is lost; there is a new one when nothing is left to be received from this one. */
static void sent_lost_locked(struct sqlb_conn *conn)
{
	struct mem_waiting *oldest = sqlb_mem_sent_oldest(conn);

	if (oldest && oldest->told) { /* it was the last one */
		sqlb_mem_sent_lose_locked(conn, SQLB_FAULT_DOUBT_LATE);
		oldest = NULL;
	}
	conn->sent_are_lost = oldest != NULL;
	if (!oldest)
		conn->cuts_seen = conn->database->cuts;
}

/* ---- sending ---- */

/* Takes 'sent'. A fault that loses the connection leaves what is before it in doubt, and itself behind that. */
static enum sqlb_outcome send_locked(struct sqlb_conn *conn, struct mem_waiting *sent, enum sqlb_memory_fault fault)
{
	bool appended;

	if (!loses_connection(fault)) {
		ks_list_append(&conn->sent, &sent->link);
		return SQLB_OK;
	}
	if (!sqlb_mem_sent_oldest(conn))
		return sqlb_mem_append_end_locked(conn->database, sent, fault, &appended);
	conn->sent_are_lost = true;
	if (fault == SQLB_FAULT_DOUBT_LOST || fault == SQLB_FAULT_CUT) {
		sqlb_mem_waiting_free(sent);
	} else {
		sent->told = true;
		ks_list_append(&conn->sent, &sent->link);
	}
	return fault == SQLB_FAULT_CUT ? SQLB_AWAY : SQLB_DOUBT;
}

KS_NO_TSA enum sqlb_outcome sqlb_mem_append_send(struct sqlb_conn *conn, const struct sqlb_append *append,
						 struct ks_err *err)
{
	struct mem_database *database = conn->database;
	enum sqlb_memory_fault fault;
	enum sqlb_outcome outcome;
	struct mem_row **rows;

	if (append->leases_expired_count) {
		ks_fail(err, KS_UNIMPLEMENTED, "memory://%s: a guarded append is not sent ahead", database->name);
		return SQLB_AWAY;
	}
	sqlb_mem_check_rows(append);
	if (conn->sent_are_lost)
		return sqlb_mem_append_outcome(conn, SQLB_AWAY, "connection lost", err);
	KS_ASSERT(sent_count(conn) < SQLB_SENT_MAX);
	rows = sqlb_mem_rows_copy(append->rows, append->row_count);
	if (!rows)
		return sqlb_mem_no_memory(err);
	outcome = sqlb_mem_begin(conn, "append_send", &fault, err);
	if (outcome != SQLB_OK) {
		sqlb_mem_rows_free(rows, append->row_count);
		return outcome;
	}
	outcome = send_locked(conn, sqlb_mem_waiting_new(append, rows), fault);
	ks_mutex_unlock(&database->mutex);
	return sqlb_mem_append_outcome(conn, outcome, sqlb_mem_why_of(fault), err);
}

/* ---- receiving ---- */

KS_NO_TSA enum sqlb_outcome sqlb_mem_append_receive(struct sqlb_conn *conn, int wait_ms, bool *pending, bool *appended,
						    struct ks_err *err)
{
	struct mem_database *database = conn->database;
	struct mem_waiting *sent = sqlb_mem_sent_oldest(conn);
	enum sqlb_memory_fault fault;
	enum sqlb_outcome outcome = SQLB_DOUBT;
	const char *why = "connection lost";

	KS_ASSERT(sent);
	*appended = false;
	*pending = wait_ms >= 0 && !sent->looked_at &&
		   (wait_ms == 0 || sqlb_mem_ask(conn, "append_receive") != SQLB_FAULT_NONE);
	sent->looked_at = true;
	if (*pending)
		return SQLB_OK;
	fault = sqlb_mem_ask(conn, "append");
	ks_mutex_lock(&database->mutex);
	sqlb_mem_late_step_locked(database);
	if (conn->sent_are_lost || sqlb_mem_is_cut_locked(conn)) {
		sqlb_mem_sent_lose_locked(conn, fault);
		sent_lost_locked(conn);
	} else {
		ks_list_remove(&sent->link);
		outcome = sqlb_mem_append_end_locked(database, sent, fault, appended);
		if (loses_connection(fault))
			sent_lost_locked(conn);
		why = sqlb_mem_why_of(fault);
	}
	ks_mutex_unlock(&database->mutex);
	return sqlb_mem_append_outcome(conn, outcome, why, err);
}
