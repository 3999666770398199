/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What errors mean: outcomes, and whether the connection is as good as before.
 */
#include <stdio.h>
#include <string.h>

#include "postgres_priv.h"

/* libpq's texts have several lines and end with one: one line for the log. */
static void one_line(const char *text, char *out, size_t out_size)
{
	size_t size = 0;

	for (; *text && size + 1 < out_size; text++)
		out[size++] = *text == '\n' || *text == '\t' ? ' ' : *text;
	while (size > 0 && out[size - 1] == ' ')
		size--;
	out[size] = '\0';
}

void sqlb_pg_fail_away(struct ks_err *err, const char *what, const char *why)
{
	char text[KS_ERR_TEXT_MAX];

	one_line(why, text, sizeof(text));
	ks_fail(err, KS_UNAVAILABLE, "PostgreSQL: %s: %s", what, text);
}

enum sqlb_outcome sqlb_pg_lost(struct sqlb_conn *conn, struct ks_err *err)
{
	const char *why = conn->pg ? PQerrorMessage(conn->pg) : "";

	if (*why == '\0')
		why = sqlb_pg_now_ms() >= conn->deadline_ms ? "no answer in time" : "the server closed the connection";
	sqlb_pg_fail_away(err, "connection lost", why);
	sqlb_pg_drop(conn);
	return SQLB_AWAY;
}

enum sqlb_outcome sqlb_pg_broken(struct sqlb_conn *conn, struct ks_err *err, const char *what)
{
	ks_fail(err, KS_FAILED_PRECONDITION, "PostgreSQL: %s", what);
	sqlb_pg_drop(conn);
	return SQLB_BROKEN;
}

enum sqlb_outcome sqlb_pg_refuse_standby(struct sqlb_conn *conn, struct ks_err *err)
{
	ks_fail(err, KS_UNAVAILABLE,
		"PostgreSQL: the server is a standby (in recovery): the URL has to name the primary, or all servers");
	sqlb_pg_drop(conn);
	return SQLB_AWAY;
}

bool sqlb_pg_has_state(const PGresult *result, const char *sqlstate)
{
	const char *have = PQresultErrorField(result, PG_DIAG_SQLSTATE);

	return have && strncmp(have, sqlstate, strlen(sqlstate)) == 0;
}

static bool has_any_state(const PGresult *result, const char *const *states)
{
	while (*states && !sqlb_pg_has_state(result, *states))
		states++;
	return *states != NULL;
}

/* Classes (two characters) and single codes that trying again cannot mend: somebody has to look. */
static const char *const broken_states[] = {
	/* Our values do not fit, or somebody's constraint, trigger or rule refuses them. */
	"21",
	"22",
	"23",
	"2B",
	"38",
	"39",
	"44",
	"P0",
	/* Tables, columns, functions that are not there, or not as ours, or that we have no right to use (42501). */
	"3F",
	"42",
	/* Too large, too many: it will be the next time. */
	"54",
	/* Data or index corrupted. */
	"XX001",
	"XX002",
	NULL,
};

/*
 * A transaction that ended thus says nothing against the connection: rolled back for somebody else's sake (40),
 * no resources (53), a lock or statement timeout (55P03, 57014). After others a new connection may find what
 * this one cannot: the new primary (25006 read-only, 57P0x), its statements (26000), new plans (0A000).
 */
static const char *const harmless_states[] = {"40", "53", "55P03", "57014", NULL};

enum sqlb_outcome sqlb_pg_judge(struct sqlb_conn *conn, const PGresult *result, struct ks_err *err)
{
	const char *state = PQresultErrorField(result, PG_DIAG_SQLSTATE);
	const char *text = PQresultErrorField(result, PG_DIAG_MESSAGE_PRIMARY);
	bool broken;

	if (!state) /* libpq's own: there is no answer */
		return sqlb_pg_lost(conn, err);
	snprintf(conn->state, sizeof(conn->state), "%s", state);
	conn->undone = strcmp(state, "40001") == 0 || strcmp(state, "40P01") == 0;
	/* Never the detail: it may quote rows. */
	broken = has_any_state(result, broken_states);
	ks_fail(err, broken ? KS_FAILED_PRECONDITION : KS_UNAVAILABLE, "PostgreSQL: %s (SQLSTATE %s)",
		text ? text : "error", state);
	if (!has_any_state(result, harmless_states))
		sqlb_pg_drop(conn);
	return broken ? SQLB_BROKEN : SQLB_AWAY;
}
