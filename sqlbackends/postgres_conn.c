/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Connecting to PostgreSQL, and what a session is set to.
 *
 * Only connecting blocks, within connect_timeout, because libpq tries the hosts of a list one after the other only
 * there. Sockets that died while nobody looked are found before a statement is sent: an append that was never
 * sent is AWAY, not DOUBT.
 *
 * Whether a pooler is there that gives each transaction another session (postgres_block.c) is told by the process id
 * that the connection was given for cancelling: poolers make up their own.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/diag.h"
#include "base/metrics.h"
#include "base/panic.h"
#include "postgres_priv.h"

/*
 * What a session must be set to, as far as the server knows the setting and the URL does not set it
 * ("options"). Plans are made once and go by primary key: tables that grow from nothing mislead the planner,
 * and a plan that scans or sorts the log would never do. A lost commit must not count as durable: "off" becomes
 * "on", anything stricter stays. Server-side keepalives and the check of the client free the locks of a
 * kineshim whose machine went away.
 */
static const char session_text[] =
	"SELECT set_config(s.name, w.value, false) FROM (VALUES ('default_transaction_isolation', 'read committed'), "
	"('synchronous_commit', 'on'), ('lock_timeout', '%d'), ('statement_timeout', '%d'), "
	"('idle_in_transaction_session_timeout', '10000'), ('idle_session_timeout', '0'), "
	"('client_connection_check_interval', '2000'), ('standard_conforming_strings', 'on'), ('bytea_output', 'hex'), "
	"('tcp_keepalives_idle', '10'), ('tcp_keepalives_interval', '5'), ('tcp_keepalives_count', '3'), "
	"('plan_cache_mode', 'force_generic_plan'), ('jit', 'off'), ('enable_seqscan', 'off'), "
	"('enable_bitmapscan', 'off'), ('enable_sort', 'off'), ('max_parallel_workers_per_gather', '0')) "
	"AS w(name, value) JOIN pg_settings AS s USING (name) "
	"WHERE s.source <> 'client' AND (s.name <> 'synchronous_commit' OR s.setting = 'off')";

static const char look_text[] = "SELECT pg_backend_pid(), pg_is_in_recovery(), "
				"current_setting('synchronous_commit') = 'off' OR current_setting('fsync') = 'off'";

/* ---- what a session is set to ---- */

static enum sqlb_outcome set_schema(struct sqlb_conn *conn, struct ks_err *err)
{
	char path[100];

	if (!conn->db->schema[0])
		return SQLB_OK;
	snprintf(path, sizeof(path), "SET search_path = \"%s\"", conn->db->schema);
	return sqlb_pg_exec(conn, path, NULL, err);
}

static enum sqlb_outcome set_session(struct sqlb_conn *conn, struct ks_err *err)
{
	char text[sizeof(session_text) + 32];
	enum sqlb_outcome outcome;

	snprintf(text, sizeof(text), session_text, SQLB_PG_LOCK_TIMEOUT_MS, SQLB_PG_STATEMENT_TIMEOUT_MS);
	outcome = sqlb_pg_exec(conn, text, NULL, err);
	return outcome == SQLB_OK ? set_schema(conn, err) : outcome;
}

/* Nothing to set; but a pooler that does not even keep transactions together is found out here. */
static enum sqlb_outcome try_pooler(struct sqlb_conn *conn, struct ks_err *err)
{
	enum sqlb_outcome outcome = sqlb_pg_block_begin(conn, err);

	if (outcome == SQLB_OK)
		outcome = sqlb_pg_block_end(conn, "COMMIT", err);
	if (outcome != SQLB_OK && strstr(err->text, "statement pooling mode"))
		return sqlb_pg_broken(
			conn, err,
			"the pooler works in statement mode, where there are no transactions: let it work in "
			"transaction or session mode, or go past it");
	if (outcome == SQLB_OK && conn->db->pool_mode == SQLB_PG_POOL_AUTO &&
	    !atomic_exchange_explicit(&conn->db->told_pooled, true, memory_order_relaxed))
		ks_diag(KS_INFO, "postgres",
			"a pooler stands before the server: no session is relied on, others' writes are polled for "
			"(pool_mode=session in the URL when it keeps a session for each connection)");
	return outcome;
}

/* ---- who answers ---- */

static bool is_known_engine(const char *version)
{
	/* Yugabyte says "PostgreSQL 11.2-YB-2.…". */
	return strstr(version, "CockroachDB") || strstr(version, "-YB-");
}

/* Which dialect to speak; asked once for a process. */
static enum sqlb_outcome learn_dialect(struct sqlb_conn *conn, struct ks_err *err)
{
	int dialect = atomic_load_explicit(&conn->db->dialect, memory_order_relaxed);
	enum sqlb_outcome outcome = SQLB_OK;
	PGresult *result;

	if (dialect == SQLB_PG_DIALECT_AUTO) {
		outcome = sqlb_pg_exec(conn, "SELECT version()", &result, err);
		if (outcome != SQLB_OK)
			return outcome;
		dialect = PQntuples(result) == 1 && is_known_engine(PQgetvalue(result, 0, 0))
				  ? SQLB_PG_DIALECT_PLAIN
				  : SQLB_PG_DIALECT_POSTGRES;
		if (dialect == SQLB_PG_DIALECT_PLAIN)
			ks_diag(KS_INFO, "postgres", "not PostgreSQL itself, the plain dialect it is: %s",
				PQgetvalue(result, 0, 0));
		atomic_store_explicit(&conn->db->dialect, dialect, memory_order_relaxed);
		PQclear(result);
	}
	conn->plain = dialect == SQLB_PG_DIALECT_PLAIN;
	return outcome;
}

static enum sqlb_outcome open_session(struct sqlb_conn *conn, struct ks_err *err)
{
	bool risky, standby, same_pid;
	enum sqlb_outcome outcome;
	PGresult *result;

	outcome = learn_dialect(conn, err);
	if (outcome == SQLB_OK && conn->plain)
		return set_schema(conn, err);
	if (outcome == SQLB_OK)
		outcome = sqlb_pg_exec(conn, look_text, &result, err);
	if (outcome != SQLB_OK)
		return outcome;
	same_pid = PQntuples(result) == 1 && strtol(PQgetvalue(result, 0, 0), NULL, 10) == PQbackendPID(conn->pg);
	standby = sqlb_pg_is_true(result, 1);
	risky = sqlb_pg_is_true(result, 2);
	PQclear(result);
	if (standby)
		return sqlb_pg_refuse_standby(conn, err);
	if (risky)
		KS_DIAG_LIMITED(
			KS_WARN, "postgres",
			"fsync or synchronous_commit is off: a crash of the database loses acknowledged writes");
	conn->pooled = conn->db->pool_mode == SQLB_PG_POOL_TRANSACTION ||
		       (conn->db->pool_mode == SQLB_PG_POOL_AUTO && !same_pid);
	return conn->pooled ? try_pooler(conn, err) : set_session(conn, err);
}

/* ---- connecting ---- */

static void on_notice(void *ctx, const PGresult *result)
{
	const char *text = PQresultErrorField(result, PG_DIAG_MESSAGE_PRIMARY);

	(void)ctx;
	if (text)
		KS_DIAG_LIMITED(KS_DEBUG, "postgres", "the server says: %s", text);
}

static void fail_connect(struct ks_err *err, const char *why)
{
	const char *hint = "";
	char text[KS_ERR_TEXT_MAX];

	if (strstr(why, "unsupported startup parameter"))
		hint = " (a pooler that takes no options: name the tables' schema with schema=… in the URL, and set "
		       "anything else for the role)";
	snprintf(text, sizeof(text), "cannot connect%s", hint);
	sqlb_pg_fail_away(err, text, why);
}

static enum sqlb_outcome connect_now(struct sqlb_conn *conn, struct ks_err *err)
{
	enum sqlb_outcome outcome;

	conn->pg = PQconnectdbParams((const char *const *)conn->db->keywords, (const char *const *)conn->db->values, 0);
	if (!conn->pg || PQstatus(conn->pg) != CONNECTION_OK) {
		fail_connect(err, conn->pg ? PQerrorMessage(conn->pg) : "out of memory");
		sqlb_pg_drop(conn);
		return SQLB_AWAY;
	}
	KS_COUNT(DB_CONNECTS, 1);
	PQsetNoticeReceiver(conn->pg, on_notice, NULL);
	if (PQsetnonblocking(conn->pg, 1) != 0)
		return sqlb_pg_lost(conn, err);
	outcome = open_session(conn, err);
	if (outcome != SQLB_OK)
		sqlb_pg_drop(conn);
	return outcome;
}

/* ---- how a call begins ---- */

/* Whatever came in while nobody looked: answers, notifications, or the end of the connection. */
static bool still_alive(struct sqlb_conn *conn)
{
	return sqlb_pg_read_unread(conn, conn->deadline_ms) == SQLB_PG_ARRIVED && sqlb_pg_take_arrived(conn);
}

enum sqlb_outcome sqlb_pg_begin(struct sqlb_conn *conn, int timeout_ms, struct ks_err *err)
{
	enum sqlb_outcome outcome = SQLB_OK;

	KS_ASSERT(conn->sent_count == 0);
	sqlb_pg_more_time(conn, timeout_ms);
	conn->undone = false;
	conn->state[0] = '\0';
	if (conn->pg && !still_alive(conn))
		sqlb_pg_drop(conn);
	if (!conn->pg) {
		outcome = connect_now(conn, err);
		sqlb_pg_more_time(conn, timeout_ms);
	}
	return outcome;
}

void sqlb_pg_drop(struct sqlb_conn *conn)
{
	PQfinish(conn->pg);
	conn->pg = NULL;
	conn->unread = SQLB_PG_ALL_READ;
	conn->listening = conn->pooled = conn->plain = conn->in_block = false;
	memset(conn->prepared, 0, sizeof(conn->prepared));
}
