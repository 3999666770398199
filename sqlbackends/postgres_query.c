/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Statements and their answers: prepared ones, SQL text, COPY.
 */
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "base/panic.h"
#include "postgres_priv.h"

/* The results up to the end; keeps the last one. */
static enum sqlb_outcome collect(struct sqlb_conn *conn, PGresult **last, struct ks_err *err)
{
	enum sqlb_outcome outcome = SQLB_OK;
	PGresult *result;

	*last = NULL;
	for (;;) {
		if (!sqlb_pg_next(conn, &result)) {
			if (outcome == SQLB_OK)
				outcome = sqlb_pg_lost(conn, err);
			break;
		}
		if (!result)
			break;
		if (PQresultStatus(result) != PGRES_COMMAND_OK && PQresultStatus(result) != PGRES_TUPLES_OK &&
		    outcome == SQLB_OK)
			outcome = sqlb_pg_judge(conn, result, err);
		PQclear(*last);
		*last = result;
		if (!conn->pg)
			break;
	}
	if (outcome == SQLB_OK && *last)
		return SQLB_OK;
	PQclear(*last);
	*last = NULL;
	return outcome == SQLB_OK ? sqlb_pg_lost(conn, err) : outcome;
}

static void statement_name(enum sqlb_pg_statement statement, char name[16])
{
	snprintf(name, 16, "kineshim_%d", (int)statement);
}

enum sqlb_outcome sqlb_pg_prepare(struct sqlb_conn *conn, enum sqlb_pg_statement statement, struct ks_err *err)
{
	enum sqlb_outcome outcome;
	PGresult *result;
	char name[16];

	if (conn->prepared[statement] || conn->pooled || conn->plain)
		return SQLB_OK;
	statement_name(statement, name);
	if (!PQsendPrepare(conn->pg, name, sqlb_pg_statement_texts[statement], 0, NULL))
		return sqlb_pg_lost(conn, err);
	outcome = collect(conn, &result, err);
	PQclear(result);
	conn->prepared[statement] = outcome == SQLB_OK;
	return outcome;
}

static const char *text_of(const struct sqlb_conn *conn, enum sqlb_pg_statement statement)
{
	const char *plain = conn->plain ? sqlb_pg_plain_texts[statement] : NULL;

	return plain ? plain : sqlb_pg_statement_texts[statement];
}

bool sqlb_pg_send(struct sqlb_conn *conn, enum sqlb_pg_statement statement, const struct sqlb_pg_params *params)
{
	static const int binary[SQLB_PG_PARAMS_MAX] = {1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1};
	char name[16];

	if (conn->pooled || conn->plain)
		return PQsendQueryParams(conn->pg, text_of(conn, statement), params ? params->count : 0, NULL,
					 params ? params->values : NULL, params ? params->sizes : NULL, binary, 1) == 1;
	KS_ASSERT(conn->prepared[statement]);
	statement_name(statement, name);
	return PQsendQueryPrepared(conn->pg, name, params ? params->count : 0, params ? params->values : NULL,
				   params ? params->sizes : NULL, binary, 1) == 1;
}

/* Engines without sessions to set run single statements as such, but for those whose look and change must be one. */
static bool needs_block(const struct sqlb_conn *conn, enum sqlb_pg_statement statement)
{
	if (conn->in_block)
		return false;
	return conn->plain ? statement == SQLB_PG_TRIM || statement == SQLB_PG_DUTY_TAKE : conn->pooled;
}

static enum sqlb_outcome query_once(struct sqlb_conn *conn, enum sqlb_pg_statement statement,
				    const struct sqlb_pg_params *params, int columns, PGresult **result,
				    struct ks_err *err)
{
	enum sqlb_outcome outcome = sqlb_pg_prepare(conn, statement, err);

	*result = NULL;
	if (outcome != SQLB_OK)
		return outcome;
	if (needs_block(conn, statement)) {
		outcome = sqlb_pg_query_in_block(conn, statement, params, result, err);
	} else {
		if (!sqlb_pg_send(conn, statement, params))
			return sqlb_pg_lost(conn, err);
		outcome = collect(conn, result, err);
	}
	if (outcome == SQLB_OK && PQnfields(*result) != columns) {
		PQclear(*result);
		*result = NULL;
		return sqlb_pg_broken(conn, err, "a result has not the columns that were asked for");
	}
	return outcome;
}

/* Who was undone for the sake of another transaction tries again: under SERIALIZABLE that is part of the deal. */
enum sqlb_outcome sqlb_pg_query(struct sqlb_conn *conn, enum sqlb_pg_statement statement,
				const struct sqlb_pg_params *params, int columns, PGresult **result, struct ks_err *err)
{
	enum sqlb_outcome outcome;

	for (int attempt = 0;; attempt++) {
		struct timespec pause = {0, 1000000L << attempt};

		conn->undone = false;
		outcome = query_once(conn, statement, params, columns, result, err);
		if (outcome != SQLB_AWAY || !conn->undone || !conn->pg || conn->in_block || attempt == 6)
			return outcome;
		nanosleep(&pause, NULL);
	}
}

enum sqlb_outcome sqlb_pg_run(struct sqlb_conn *conn, enum sqlb_pg_statement statement,
			      const struct sqlb_pg_params *params, struct ks_err *err)
{
	PGresult *result;
	enum sqlb_outcome outcome = sqlb_pg_query(conn, statement, params, 0, &result, err);

	PQclear(result);
	return outcome;
}

enum sqlb_outcome sqlb_pg_exec(struct sqlb_conn *conn, const char *sql, PGresult **result, struct ks_err *err)
{
	enum sqlb_outcome outcome;
	PGresult *last = NULL;

	if (!PQsendQuery(conn->pg, sql))
		outcome = sqlb_pg_lost(conn, err);
	else
		outcome = collect(conn, &last, err);
	if (result)
		*result = last;
	else
		PQclear(last);
	return outcome;
}

bool sqlb_pg_is_true(const PGresult *result, int column)
{
	return PQntuples(result) == 1 && column < PQnfields(result) && strcmp(PQgetvalue(result, 0, column), "t") == 0;
}

/* ---- COPY ---- */

enum sqlb_outcome sqlb_pg_begin_copy(struct sqlb_conn *conn, const char *sql, ExecStatusType status, struct ks_err *err)
{
	enum sqlb_outcome outcome = SQLB_OK;
	PGresult *result;

	if (!PQsendQuery(conn->pg, sql) || !sqlb_pg_next(conn, &result))
		return sqlb_pg_lost(conn, err);
	if (!result || PQresultStatus(result) != status)
		outcome = result ? sqlb_pg_judge(conn, result, err) : sqlb_pg_lost(conn, err);
	PQclear(result);
	return outcome;
}

int sqlb_pg_get_copied(struct sqlb_conn *conn, char **data)
{
	int size;

	while ((size = PQgetCopyData(conn->pg, data, 1)) == 0)
		if (!sqlb_pg_wait_for_socket(conn, false, conn->deadline_ms) || !PQconsumeInput(conn->pg))
			return -2;
	return size;
}

enum sqlb_outcome sqlb_pg_end_copy(struct sqlb_conn *conn, struct ks_err *err)
{
	enum sqlb_outcome outcome = SQLB_OK;
	PGresult *result;

	for (;;) {
		if (!sqlb_pg_next(conn, &result))
			return sqlb_pg_lost(conn, err);
		if (!result)
			return outcome;
		if (PQresultStatus(result) != PGRES_COMMAND_OK && outcome == SQLB_OK)
			outcome = sqlb_pg_judge(conn, result, err);
		PQclear(result);
		if (!conn->pg)
			return outcome;
	}
}
