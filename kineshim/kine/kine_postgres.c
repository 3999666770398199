/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Kine's table in PostgreSQL: a snapshot is a transaction at REPEATABLE READ, rows come one by one as the server has them, so that
 * memory is bounded, and what is not read is not sent.
 */
#include <libpq-fe.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/panic.h"
#include "kine/kine_priv.h"

struct pg {
	char *url;
	PGconn *handle;
	PGresult *row; /* the one given last */
	bool streaming;
};

static void drop(struct pg *pg)
{
	PQclear(pg->row);
	pg->row = NULL;
	PQfinish(pg->handle);
	pg->handle = NULL;
	pg->streaming = false;
}

/* The first line of the server's text; libpq's own about connections have the host and user, but no password. */
static enum ks_status failed(struct pg *pg, const char *what, const PGresult *result, struct ks_err *err)
{
	const char *state = result ? PQresultErrorField(result, PG_DIAG_SQLSTATE) : NULL;
	const char *text = result ? PQresultErrorMessage(result) : PQerrorMessage(pg->handle);
	enum ks_status status = KS_UNAVAILABLE;

	/* 42: no such table or column, or no right to read it; 3D: no such database. */
	if (state && (strncmp(state, "42", 2) == 0 || strncmp(state, "3D", 2) == 0))
		status = KS_FAILED_PRECONDITION;
	(void)ks_fail(err, status, "PostgreSQL: %s: %.*s", what, (int)strcspn(text, "\n"), text);
	return status;
}

static enum ks_status pg_open(const char *endpoint, const char *rest, void **state, struct ks_err *err)
{
	struct pg *pg;
	char *wrong = NULL;
	PQconninfoOption *options;

	(void)rest;
	options = PQconninfoParse(endpoint, &wrong);
	if (wrong)
		PQfreemem(wrong); /* it may quote a password */
	if (!options)
		return ks_fail(err, KS_INVALID_ARGUMENT,
			       "the endpoint is none of PostgreSQL's: postgres://USER:PASSWORD@HOST:PORT/DATABASE");
	PQconninfoFree(options);
	pg = ks_xcalloc(1, sizeof(*pg));
	pg->url = ks_xstrdup(endpoint);
	*state = pg;
	return KS_OK;
}

static void pg_close(void *state)
{
	struct pg *pg = state;

	drop(pg);
	explicit_bzero(pg->url, strlen(pg->url));
	free(pg->url);
	free(pg);
}

static enum ks_status run(struct pg *pg, const char *text, struct ks_err *err)
{
	PGresult *result = PQexec(pg->handle, text);
	ExecStatusType type = PQresultStatus(result);
	enum ks_status status =
		type == PGRES_COMMAND_OK || type == PGRES_TUPLES_OK ? KS_OK : failed(pg, "begin", result, err);

	PQclear(result);
	return status;
}

static enum ks_status connect_pg(struct pg *pg, struct ks_err *err)
{
	static const char *const names[] = {"dbname", "application_name", "client_encoding", "connect_timeout", NULL};
	const char *const values[] = {pg->url, "kineshim import", "UTF8", "10", NULL};
	enum ks_status status;

	if (pg->handle && PQstatus(pg->handle) == CONNECTION_OK)
		return KS_OK;
	drop(pg);
	/* The URL comes first and is expanded; what follows counts over it. */
	pg->handle = PQconnectdbParams(names, values, 1);
	if (pg->handle && PQstatus(pg->handle) == CONNECTION_OK)
		return KS_OK;
	status = pg->handle ? failed(pg, "connect", NULL, err) : ks_fail(err, KS_RESOURCE_EXHAUSTED, "out of memory");
	drop(pg);
	return status;
}

static int64_t number(const PGresult *result, int column)
{
	const uint8_t *bytes = (const uint8_t *)PQgetvalue(result, 0, column);
	uint64_t value = 0;

	if (PQgetisnull(result, 0, column) || PQgetlength(result, 0, column) != 8)
		return 0;
	for (int i = 0; i < 8; i++)
		value = value << 8 | bytes[i];
	return (int64_t)value;
}

static struct ks_slice bytes(const PGresult *result, int column)
{
	if (PQgetisnull(result, 0, column))
		return ks_slice_of("", 0);
	return ks_slice_of(PQgetvalue(result, 0, column), (size_t)PQgetlength(result, 0, column));
}

static enum ks_status read_head(struct pg *pg, const char *table, struct ks_kine_head *head, struct ks_err *err)
{
	char text[2 * KS_KINE_TABLE_MAX + 200];
	PGresult *result;
	enum ks_status status = KS_OK;

	(void)snprintf(text, sizeof(text),
		       "SELECT coalesce((SELECT max(id) FROM %s), 0)::int8, coalesce((SELECT max(prev_revision) FROM %s"
		       " WHERE name = 'compact_rev_key'), 0)::int8",
		       table, table);
	result = PQexecParams(pg->handle, text, 0, NULL, NULL, NULL, NULL, 1);
	if (PQresultStatus(result) == PGRES_TUPLES_OK && PQntuples(result) == 1) {
		head->newest = number(result, 0);
		head->compact_revision = number(result, 1);
	} else {
		status = failed(pg, "read", result, err);
	}
	PQclear(result);
	return status;
}

static enum ks_status pg_begin(void *state, const char *table, int64_t after, int64_t to, struct ks_kine_head *head,
			       struct ks_err *err)
{
	struct pg *pg = state;
	char text[KS_KINE_TABLE_MAX + 400], from[24], until[24];
	const char *const values[] = {from, until};
	enum ks_status status = connect_pg(pg, err);

	/* What is slow is the other database, and this one waits for it. */
	if (status == KS_OK)
		status = run(pg, "SET statement_timeout = 0", err);
	if (status == KS_OK)
		status = run(pg, "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY", err);
	if (status == KS_OK)
		status = read_head(pg, table, head, err);
	if (status != KS_OK)
		return status;
	(void)snprintf(from, sizeof(from), "%lld", (long long)after);
	(void)snprintf(until, sizeof(until), "%lld", (long long)to);
	(void)snprintf(text, sizeof(text),
		       "SELECT id::int8, name::text, created::int8, deleted::int8, create_revision::int8,"
		       " prev_revision::int8, lease::int8, value FROM %s"
		       " WHERE id > $1::int8 AND id <= $2::int8 ORDER BY id",
		       table);
	if (PQsendQueryParams(pg->handle, text, 2, NULL, values, NULL, NULL, 1) != 1 ||
	    PQsetSingleRowMode(pg->handle) != 1)
		return failed(pg, "read", NULL, err);
	pg->streaming = true;
	return KS_OK;
}

static enum ks_status pg_next(void *state, struct ks_kine_row *row, bool *more, struct ks_err *err)
{
	struct pg *pg = state;

	PQclear(pg->row);
	pg->row = PQgetResult(pg->handle);
	*more = PQresultStatus(pg->row) == PGRES_SINGLE_TUPLE;
	if (!pg->row)
		return failed(pg, "read", NULL, err);
	if (!*more && PQresultStatus(pg->row) != PGRES_TUPLES_OK)
		return failed(pg, "read", pg->row, err);
	if (!*more)
		return KS_OK;
	*row = (struct ks_kine_row){
		.id = number(pg->row, 0),
		.name = bytes(pg->row, 1),
		.created = number(pg->row, 2) != 0,
		.deleted = number(pg->row, 3) != 0,
		.create_revision = number(pg->row, 4),
		.prev_revision = number(pg->row, 5),
		.lease = number(pg->row, 6),
		.value = bytes(pg->row, 7),
	};
	return KS_OK;
}

static void pg_end(void *state)
{
	struct pg *pg = state;
	PGresult *result;

	PQclear(pg->row);
	pg->row = NULL;
	/* What is left of a large answer is not worth reading. */
	if (pg->streaming && (result = PQgetResult(pg->handle))) {
		PQclear(result);
		drop(pg);
		return;
	}
	pg->streaming = false;
	if (pg->handle) {
		result = PQexec(pg->handle, "ROLLBACK");
		if (PQresultStatus(result) != PGRES_COMMAND_OK)
			drop(pg);
		PQclear(result);
	}
}

/* Ids come from a sequence before the commit. */
const struct ks_kine_ops ks_kine_postgres = {
	.schemes = {"postgres", "postgresql", NULL},
	.quote = '"',
	.ordered = false,
	.open = pg_open,
	.close = pg_close,
	.begin = pg_begin,
	.next = pg_next,
	.end = pg_end,
};
