/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Transactions.
 *
 * Behind a pooler that gives each transaction another session nothing may be left in one and nothing be expected there:
 * no prepared statement, no LISTEN, no setting. Then every statement is sent with its text, in a transaction that begins by
 * making its settings local; still one round trip, as a pipeline.
 */
#include <stdio.h>

#include "base/panic.h"
#include "postgres_priv.h"

/* What a session would have been set to (postgres_conn.c), for one transaction where there is no session to set. */
static const char block_text[] = "BEGIN ISOLATION LEVEL READ COMMITTED";
static const char block_settings_text[] =
	"SELECT pg_is_in_recovery(), set_config('synchronous_commit', coalesce("
	"nullif(current_setting('synchronous_commit'), 'off'), 'on'), true), set_config('lock_timeout', '%d', true), "
	"set_config('statement_timeout', '%d', true), set_config('idle_in_transaction_session_timeout', '10000', "
	"true), "
	"set_config('standard_conforming_strings', 'on', true), set_config('bytea_output', 'hex', true), "
	"set_config('jit', 'off', true), set_config('enable_seqscan', 'off', true), "
	"set_config('enable_bitmapscan', 'off', true), set_config('enable_sort', 'off', true), "
	"set_config('max_parallel_workers_per_gather', '0', true)%s%s%s";

/* The plain dialect sets nothing: all it needs of a session is that a transaction is one. */
static const char plain_block_text[] = "BEGIN ISOLATION LEVEL SERIALIZABLE";

void sqlb_pg_block_make(struct sqlb_db *db)
{
	bool named = db->schema[0] != '\0';
	int size = snprintf(db->block_settings, sizeof(db->block_settings), block_settings_text,
			    SQLB_PG_LOCK_TIMEOUT_MS, SQLB_PG_STATEMENT_TIMEOUT_MS,
			    named ? ", set_config('search_path', '\"" : "", db->schema, named ? "\"', true)" : "");

	KS_ASSERT(size > 0 && (size_t)size < sizeof(db->block_settings));
}

enum sqlb_outcome sqlb_pg_block_begin(struct sqlb_conn *conn, struct ks_err *err)
{
	char text[sizeof(block_text) + sizeof(conn->db->block_settings) + 2];
	enum sqlb_outcome outcome;
	PGresult *result;

	if (conn->pooled)
		snprintf(text, sizeof(text), "%s; %s", block_text, conn->db->block_settings);
	outcome = sqlb_pg_exec(conn, conn->plain ? plain_block_text : conn->pooled ? text : "BEGIN", &result, err);
	if (outcome == SQLB_OK && conn->pooled && sqlb_pg_is_true(result, 0))
		outcome = sqlb_pg_refuse_standby(conn, err);
	conn->in_block = outcome == SQLB_OK;
	PQclear(result);
	return outcome;
}

enum sqlb_outcome sqlb_pg_block_end(struct sqlb_conn *conn, const char *sql, struct ks_err *err)
{
	conn->in_block = false;
	return sqlb_pg_exec(conn, sql, NULL, err);
}

size_t sqlb_pg_block_send(struct sqlb_conn *conn)
{
	if (conn->plain)
		return PQsendQueryParams(conn->pg, plain_block_text, 0, NULL, NULL, NULL, NULL, 1) ? 1 : 0;
	bool sent = PQsendQueryParams(conn->pg, block_text, 0, NULL, NULL, NULL, NULL, 1) &&
		    PQsendQueryParams(conn->pg, conn->db->block_settings, 0, NULL, NULL, NULL, NULL, 0);

	return sent ? 2 : 0;
}

enum sqlb_outcome sqlb_pg_exec_block(struct sqlb_conn *conn, const char *sql, PGresult **result, struct ks_err *err)
{
	enum sqlb_outcome outcome = sqlb_pg_block_begin(conn, err);
	PGresult *kept = NULL;

	if (outcome == SQLB_OK)
		outcome = sqlb_pg_exec(conn, sql, &kept, err);
	if (outcome == SQLB_OK)
		outcome = sqlb_pg_block_end(conn, "COMMIT", err);
	if (outcome != SQLB_OK)
		sqlb_pg_drop(conn); /* with the transaction, if it is still open */
	if (result && outcome == SQLB_OK) {
		*result = kept;
		return outcome;
	}
	if (result)
		*result = NULL;
	PQclear(kept);
	return outcome;
}

/* ---- one statement ---- */

/* The answers to a transaction of one statement, sent as one pipeline. */
static enum sqlb_outcome collect_block(struct sqlb_conn *conn, size_t wanted, PGresult **kept, struct ks_err *err)
{
	enum sqlb_outcome outcome = SQLB_OK;
	bool synced = false, standby = false;
	PGresult *result;

	for (size_t index = 0; !synced;) {
		ExecStatusType status;

		if (!sqlb_pg_next(conn, &result)) {
			if (outcome == SQLB_OK)
				outcome = sqlb_pg_lost(conn, err);
			break;
		}
		if (!result)
			continue;
		status = PQresultStatus(result);
		synced = status == PGRES_PIPELINE_SYNC;
		if (!synced && status != PGRES_COMMAND_OK && status != PGRES_TUPLES_OK &&
		    status != PGRES_PIPELINE_ABORTED && outcome == SQLB_OK)
			outcome = sqlb_pg_judge(conn, result, err);
		standby = standby || (index + 1 == wanted && status == PGRES_TUPLES_OK && sqlb_pg_is_true(result, 0));
		if (!synced && index++ == wanted && outcome == SQLB_OK)
			*kept = result;
		else
			PQclear(result);
		if (!conn->pg)
			break;
	}
	if (outcome == SQLB_OK && standby)
		outcome = sqlb_pg_refuse_standby(conn, err);
	if (conn->pg && (!synced || !PQexitPipelineMode(conn->pg)))
		sqlb_pg_drop(conn);
	/* The COMMIT was passed over with all the rest. */
	if (outcome != SQLB_OK && conn->pg && sqlb_pg_exec(conn, "ROLLBACK", NULL, NULL) != SQLB_OK)
		sqlb_pg_drop(conn);
	if (outcome == SQLB_OK && *kept)
		return SQLB_OK;
	PQclear(*kept);
	*kept = NULL;
	return outcome == SQLB_OK ? sqlb_pg_lost(conn, err) : outcome;
}

enum sqlb_outcome sqlb_pg_query_in_block(struct sqlb_conn *conn, enum sqlb_pg_statement statement,
					 const struct sqlb_pg_params *params, PGresult **result, struct ks_err *err)
{
	size_t before = 0;

	if (!PQenterPipelineMode(conn->pg) || (before = sqlb_pg_block_send(conn)) == 0 ||
	    !sqlb_pg_send(conn, statement, params) ||
	    !PQsendQueryParams(conn->pg, "COMMIT", 0, NULL, NULL, NULL, NULL, 1) || !PQpipelineSync(conn->pg) ||
	    !sqlb_pg_flush(conn))
		return sqlb_pg_lost(conn, err);
	return collect_block(conn, before, result, err);
}
