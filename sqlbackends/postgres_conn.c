/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One connection to PostgreSQL: connecting, sending, waiting with a deadline, and what errors mean.
 *
 * libpq is used without blocking, so that a peer that went silent costs a deadline and never the thread; only connecting
 * blocks, within connect_timeout, because libpq tries the hosts of a list one after the other only there. Sockets that
 * died while nobody looked are found before a statement is sent: an append that was never sent is AWAY, not DOUBT.
 */
#include <endian.h>
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/diag.h"
#include "base/panic.h"
#include "postgres_priv.h"

/*
 * Deadlines are made and judged with clock_timestamp(): now() is when the transaction began, which may be long before
 * the row's lock was granted. A ttl of ages is cut to what a timestamp can hold.
 */
#define DEADLINE(ttl) "clock_timestamp() + greatest(least(" ttl ", 9000000000000000), 0) * interval '1 millisecond'"
#define REMAINING(deadline) "floor(extract(epoch FROM " deadline " - clock_timestamp()) * 1000)::int8"

/*
 * Rows that several transactions may want are locked in the order of their ids first: two keepalives of the same
 * leases cannot deadlock. A row that was changed while its lock was waited for is looked at again in its new form
 * (READ COMMITTED), with the clock of that moment.
 */
#define LOCKED_LEASES "SELECT id FROM kineshim_lease WHERE id = ANY($1::int8[]) ORDER BY id FOR UPDATE"

/*
 * The primary key refuses a position that is taken, but not one that was taken and then trimmed, nor one behind a gap (a
 * log that lost its tail). So an append also says what the head must be, and it must not be possible that its position is
 * taken and trimmed after its snapshot of the head was made and before its rows meet the index: trimming waits for the appends
 * that run (GATE below). They hold a weak lock on kineshim_meta, which costs next to nothing and is granted before the
 * snapshot is made. Nothing else ever waits for it: pg_dump and VACUUM take locks that go together with both.
 */
#define HEAD_IS(position)                                                                                              \
	"coalesce((SELECT position FROM kineshim_log ORDER BY position DESC, sub DESC LIMIT 1), 0) = " position " "    \
	"AND NOT EXISTS (SELECT FROM (SELECT FROM kineshim_meta WHERE name = '' FOR KEY SHARE) AS gate)"

#define INSERT_ARRAYS                                                                                                  \
	"INSERT INTO kineshim_log (" SQLB_PG_ROW_COLUMNS ") SELECT unnest($1::int8[]), unnest($2::int4[]), "           \
	"unnest($3::int4[]), unnest($4::int2[]), unnest($5::int8[]), unnest($6::bytea[]), unnest($7::bytea[]), "       \
	"unnest($8::int8[]), unnest($9::int8[]), unnest($10::int8[]), unnest($11::bytea[]), $12::int8, $13::int8"

static const char *const statement_texts[SQLB_PG_STATEMENTS] = {
	/*
	 * One plan for any number of rows. Measured for 500 rows of 32+100 bytes: unnest() in the SELECT list 1.5 ms
	 * (it streams), COPY in binary 1.6 ms, unnest() in FROM 2.2 ms (it fills a tuplestore for each array). For one row
	 * plain parameters take 160 us, arrays 200 us.
	 */
	[SQLB_PG_INSERT_ONE] = "INSERT INTO kineshim_log (" SQLB_PG_ROW_COLUMNS ") SELECT $1::int8, $2::int4, $3::int4, "
			       "$4::int2, $5::int8, $6::bytea, $7::bytea, $8::int8, $9::int8, $10::int8, $11::bytea, "
			       "$12::int8, $13::int8 WHERE " HEAD_IS("$14::int8"),
	[SQLB_PG_INSERT_MANY] = INSERT_ARRAYS " WHERE " HEAD_IS("$14::int8"),
	[SQLB_PG_INSERT_MORE] = INSERT_ARRAYS,
	/* Raises 22P02 with a text for the server's log: what else is in the transaction must not be committed. */
	[SQLB_PG_CHECK_HEAD] = "SELECT CASE WHEN " HEAD_IS("$1::int8") " THEN 0 ELSE "
			       "('kineshim: the position after ' || $1::int8 || ' is taken')::int8 END",
	[SQLB_PG_NOTIFY] = "SELECT pg_notify('" SQLB_PG_CHANNEL "', $1::text)",
	/* FOR UPDATE waits for a keepalive that came first and then judges the deadline that it made. */
	[SQLB_PG_GUARD] = "SELECT count(*) = (SELECT count(DISTINCT id) FROM unnest($1::int8[]) AS wanted(id)) FROM ("
			  "SELECT 1 FROM kineshim_lease WHERE id = ANY($1::int8[]) AND deadline <= clock_timestamp() "
			  "ORDER BY id FOR UPDATE) AS due",
	[SQLB_PG_HEAD] = "SELECT position, revision, writer, batch FROM kineshim_log "
			 "ORDER BY position DESC, sub DESC LIMIT 1",
	[SQLB_PG_ROWS] = "SELECT " SQLB_PG_ROW_COLUMNS " FROM kineshim_log WHERE position > $1::int8 "
			 "AND position <= $2::int8 ORDER BY position, sub LIMIT $3::int8",
	[SQLB_PG_ROW_AT] = "SELECT " SQLB_PG_ROW_COLUMNS " FROM kineshim_log WHERE position = $1::int8 AND sub = $2::int4",
	[SQLB_PG_ROWS_AT] = "SELECT " SQLB_PG_ROW_COLUMNS " FROM unnest($1::int8[], $2::int4[]) AS wanted(p, s) "
			    "JOIN kineshim_log ON position = p AND sub = s",
	[SQLB_PG_TRIM] = "DELETE FROM kineshim_log USING unnest($1::int8[], $2::int4[]) AS gone(p, s) "
			 "WHERE position = p AND sub = s",
	[SQLB_PG_LEASE_PUT] = "INSERT INTO kineshim_lease (id, ttl_ms, deadline) SELECT DISTINCT ON (id) id, ttl, "
			      DEADLINE("ttl") " FROM unnest($1::int8[], $2::int8[]) WITH ORDINALITY AS new(id, ttl, nth) "
			      "ORDER BY id, nth DESC "
			      "ON CONFLICT (id) DO UPDATE SET ttl_ms = excluded.ttl_ms, deadline = excluded.deadline",
	[SQLB_PG_LEASE_DROP] = "WITH locked AS (" LOCKED_LEASES ") DELETE FROM kineshim_lease AS l USING locked "
			       "WHERE l.id = locked.id",
	[SQLB_PG_LEASE_TOUCH] = "WITH locked AS (" LOCKED_LEASES ") UPDATE kineshim_lease AS l "
				"SET deadline = " DEADLINE("l.ttl_ms") " FROM locked "
				"WHERE l.id = locked.id AND l.deadline > clock_timestamp() "
				"RETURNING l.id, l.ttl_ms, " REMAINING("l.deadline"),
	[SQLB_PG_LEASE_ENSURE] = "INSERT INTO kineshim_lease (id, ttl_ms, deadline) SELECT DISTINCT ON (id) id, ttl, "
				 DEADLINE("ttl") " FROM unnest($1::int8[], $2::int8[]) AS new(id, ttl) ORDER BY id "
				 "ON CONFLICT (id) DO NOTHING",
	[SQLB_PG_LEASE_REFRESH] = "WITH locked AS (SELECT id FROM kineshim_lease ORDER BY id FOR UPDATE) "
				  "UPDATE kineshim_lease AS l SET deadline = " DEADLINE("l.ttl_ms") " FROM locked "
				  "WHERE l.id = locked.id",
	[SQLB_PG_LEASE_LIST] = "SELECT id, ttl_ms, " REMAINING("deadline") " FROM kineshim_lease "
			       "ORDER BY deadline, id LIMIT nullif($1::int8, 0)",
	[SQLB_PG_LEASE_READ] = "SELECT id, ttl_ms, " REMAINING("deadline") " FROM kineshim_lease "
			       "WHERE id = ANY($1::int8[])",
	/* "was" is the row after its lock was granted; RETURNING cannot tell what it was before. */
	[SQLB_PG_DUTY_TAKE] = "WITH was AS (SELECT holder, term, deadline FROM kineshim_duty WHERE one FOR UPDATE), "
			      "taken AS (UPDATE kineshim_duty AS d SET holder = $1::int8, "
			      "term = was.term + (was.holder <> $1::int8)::int, deadline = " DEADLINE("$2::int8") " "
			      "FROM was WHERE d.one AND (was.holder IN ($1::int8, 0) OR was.deadline <= clock_timestamp()) "
			      "RETURNING d.holder, d.term) "
			      "SELECT coalesce(taken.holder, was.holder), coalesce(taken.term, was.term), "
			      "taken.holder IS NOT NULL AND was.holder <> $1::int8 FROM was LEFT JOIN taken ON true",
	[SQLB_PG_DUTY_PASS] = "UPDATE kineshim_duty SET holder = $2::int8, "
			      "term = term + ($2::int8 NOT IN ($1::int8, 0))::int, deadline = " DEADLINE("$3::int8") " "
			      "WHERE one AND holder = $1::int8",
	/* The SELECT at the end sees the table as it was before the statement: was 'self' alive, who else is? */
	[SQLB_PG_MEMBER_BEAT] = "WITH gone AS (DELETE FROM kineshim_member WHERE id IN (SELECT id FROM kineshim_member "
				"WHERE deadline < clock_timestamp() - interval '1 hour' AND id <> $1::int8 "
				"ORDER BY id FOR UPDATE SKIP LOCKED)), "
				"self AS (INSERT INTO kineshim_member (id, name, client_urls, position, deadline) "
				"VALUES ($1::int8, kineshim_text($2::bytea), kineshim_text($3::bytea), $4::int8, "
				DEADLINE("$5::int8") ") "
				"ON CONFLICT (id) DO UPDATE SET name = excluded.name, client_urls = excluded.client_urls, "
				"position = excluded.position, deadline = excluded.deadline) "
				"SELECT count(*) FILTER (WHERE id = $1::int8) = 0, "
				"(count(*) FILTER (WHERE id <> $1::int8))::int4 "
				"FROM kineshim_member WHERE deadline > clock_timestamp()",
	[SQLB_PG_MEMBER_REMOVE] = "DELETE FROM kineshim_member WHERE id = $1::int8",
	[SQLB_PG_MEMBER_LIST] = "SELECT id, name, client_urls, position FROM kineshim_member "
				"WHERE deadline > clock_timestamp() ORDER BY id < 0, id",
	/*
	 * What is free inside the table cannot be asked without an extension. Rows times their average width, as the
	 * last ANALYZE saw it, over the heap's size is the share in use; without statistics, live over all rows. Large
	 * values lie in the TOAST table in chunks of 2 KB.
	 */
	[SQLB_PG_SIZE] = "SELECT total, total - floor((heap + indexes) * (1 - least(1, CASE "
			 "WHEN live + dead = 0 OR heap = 0 THEN 1 WHEN width IS NULL THEN live / (live + dead) "
			 "ELSE live * (width + 32) / heap END)) "
			 "+ toast * (1 - least(1, CASE WHEN toast = 0 OR toast_live + toast_dead = 0 THEN 1 "
			 "ELSE toast_live * 2050 / toast END)))::int8 "
			 "FROM (SELECT pg_total_relation_size(c.oid) AS total, pg_relation_size(c.oid)::float8 AS heap, "
			 "pg_indexes_size(c.oid) AS indexes, "
			 "coalesce(pg_relation_size(nullif(c.reltoastrelid, 0)), 0)::float8 AS toast, "
			 "coalesce(s.n_live_tup, 0)::float8 AS live, coalesce(s.n_dead_tup, 0)::float8 AS dead, "
			 "coalesce(t.n_live_tup, 0)::float8 AS toast_live, coalesce(t.n_dead_tup, 0)::float8 AS toast_dead, "
			 "(SELECT sum(avg_width * (1 - null_frac)) FROM pg_stats WHERE schemaname = n.nspname "
			 "AND tablename = c.relname) AS width "
			 "FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace "
			 "LEFT JOIN pg_stat_all_tables AS s ON s.relid = c.oid "
			 "LEFT JOIN pg_stat_all_tables AS t ON t.relid = c.reltoastrelid "
			 "WHERE c.oid = 'kineshim_log'::regclass) AS sizes",
};

/*
 * What a session must be set to, as far as the server knows the setting and the URL does not set it ("options").
 * Plans are made once and go by primary key: tables that grow from nothing mislead the planner, and a plan that scans or
 * sorts the log would never do. A lost commit must not count as durable: "off" becomes "on", anything stricter stays.
 * Server-side keepalives and the check of the client free the locks of a kineshim whose machine went away.
 */
static const char session_text[] =
	"SELECT set_config(s.name, w.value, false) FROM (VALUES ('default_transaction_isolation', 'read committed'), "
	"('synchronous_commit', 'on'), ('lock_timeout', '%d'), ('statement_timeout', '%d'), "
	"('idle_in_transaction_session_timeout', '10000'), ('idle_session_timeout', '0'), "
	"('client_connection_check_interval', '2000'), "
	"('tcp_keepalives_idle', '10'), ('tcp_keepalives_interval', '5'), ('tcp_keepalives_count', '3'), "
	"('plan_cache_mode', 'force_generic_plan'), ('jit', 'off'), ('enable_seqscan', 'off'), "
	"('enable_bitmapscan', 'off'), ('enable_sort', 'off'), ('max_parallel_workers_per_gather', '0')) "
	"AS w(name, value) JOIN pg_settings AS s USING (name) "
	"WHERE s.source <> 'client' AND (s.name <> 'synchronous_commit' OR s.setting = 'off');"
	"SELECT current_setting('synchronous_commit') = 'off' OR current_setting('fsync') = 'off'";

int64_t sqlb_pg_now_ms(void)
{
	return ks_clock_now(ks_clock_system());
}

void sqlb_pg_more_time(struct sqlb_conn *conn, int timeout_ms)
{
	conn->deadline_ms = sqlb_pg_now_ms() + timeout_ms;
}

/* ---- connecting ---- */

static void on_notice(void *ctx, const PGresult *result)
{
	const char *text = PQresultErrorField(result, PG_DIAG_MESSAGE_PRIMARY);

	(void)ctx;
	if (text)
		KS_DIAG_LIMITED(KS_DEBUG, "postgres", "the server says: %s", text);
}

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

static void fail_away(struct ks_err *err, const char *what, const char *why)
{
	char text[KS_ERR_TEXT_MAX];

	one_line(why, text, sizeof(text));
	ks_fail(err, KS_UNAVAILABLE, "PostgreSQL: %s: %s", what, text);
}

void sqlb_pg_drop(struct sqlb_conn *conn)
{
	PQfinish(conn->pg);
	conn->pg = NULL;
	conn->unread = SQLB_PG_ALL_READ;
	conn->listening = false;
	memset(conn->prepared, 0, sizeof(conn->prepared));
}

static enum sqlb_outcome open_session(struct sqlb_conn *conn, struct ks_err *err)
{
	char text[sizeof(session_text) + 32];
	enum sqlb_outcome outcome;
	PGresult *result;

	snprintf(text, sizeof(text), session_text, SQLB_PG_LOCK_TIMEOUT_MS, SQLB_PG_STATEMENT_TIMEOUT_MS);
	outcome = sqlb_pg_exec(conn, text, &result, err);
	if (outcome != SQLB_OK)
		return outcome;
	if (PQntuples(result) == 1 && strcmp(PQgetvalue(result, 0, 0), "t") == 0)
		KS_DIAG_LIMITED(KS_WARN, "postgres",
				"fsync or synchronous_commit is off: a crash of the database loses acknowledged writes");
	PQclear(result);
	return SQLB_OK;
}

static enum sqlb_outcome connect_now(struct sqlb_conn *conn, struct ks_err *err)
{
	enum sqlb_outcome outcome;

	conn->pg = PQconnectdbParams((const char *const *)conn->db->keywords, (const char *const *)conn->db->values, 0);
	if (!conn->pg || PQstatus(conn->pg) != CONNECTION_OK) {
		fail_away(err, "cannot connect", conn->pg ? PQerrorMessage(conn->pg) : "out of memory");
		sqlb_pg_drop(conn);
		return SQLB_AWAY;
	}
	PQsetNoticeReceiver(conn->pg, on_notice, NULL);
	if (PQsetnonblocking(conn->pg, 1) != 0)
		return sqlb_pg_lost(conn, err);
	outcome = open_session(conn, err);
	if (outcome != SQLB_OK)
		sqlb_pg_drop(conn);
	return outcome;
}

static bool read_unread(struct sqlb_conn *conn)
{
	PGresult *result;

	while (conn->unread != SQLB_PG_ALL_READ) {
		bool synced;

		if (!sqlb_pg_next(conn, &result))
			return false;
		synced = PQresultStatus(result) == PGRES_PIPELINE_SYNC;
		if (synced && !PQexitPipelineMode(conn->pg))
			return false;
		if (synced || (!result && conn->unread == SQLB_PG_UNREAD_STATEMENT))
			conn->unread = SQLB_PG_ALL_READ;
		PQclear(result);
	}
	return true;
}

/* Whatever came in while nobody looked: answers, notifications, or the end of the connection. */
static bool still_alive(struct sqlb_conn *conn)
{
	struct pollfd poll_fd = {.fd = PQsocket(conn->pg), .events = POLLIN};

	if (!read_unread(conn))
		return false;
	if (poll_fd.fd < 0)
		return false;
	while (poll(&poll_fd, 1, 0) > 0)
		if (!PQconsumeInput(conn->pg))
			return false;
	return PQstatus(conn->pg) == CONNECTION_OK;
}

enum sqlb_outcome sqlb_pg_begin(struct sqlb_conn *conn, int timeout_ms, struct ks_err *err)
{
	enum sqlb_outcome outcome = SQLB_OK;

	sqlb_pg_more_time(conn, timeout_ms);
	if (conn->pg && !still_alive(conn))
		sqlb_pg_drop(conn);
	if (!conn->pg) {
		outcome = connect_now(conn, err);
		sqlb_pg_more_time(conn, timeout_ms);
	}
	return outcome;
}

/* ---- errors ---- */

enum sqlb_outcome sqlb_pg_lost(struct sqlb_conn *conn, struct ks_err *err)
{
	const char *why = conn->pg ? PQerrorMessage(conn->pg) : "";

	if (*why == '\0')
		why = sqlb_pg_now_ms() >= conn->deadline_ms ? "no answer in time" : "the server closed the connection";
	fail_away(err, "connection lost", why);
	sqlb_pg_drop(conn);
	return SQLB_AWAY;
}

enum sqlb_outcome sqlb_pg_broken(struct sqlb_conn *conn, struct ks_err *err, const char *what)
{
	ks_fail(err, KS_FAILED_PRECONDITION, "PostgreSQL: %s", what);
	sqlb_pg_drop(conn);
	return SQLB_BROKEN;
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
	"21", "22", "23", /* our values do not fit, or somebody's constraint or trigger refuses them */
	"2B", "38", "39", "P0", "44",
	"3F", "42",       /* tables, columns, functions that are not there or not as ours; no right to use them (42501) */
	"54",             /* too large, too many: it will be the next time */
	"XX001", "XX002", /* data or index corrupted */
	NULL,
};

/*
 * A transaction that ended thus says nothing against the connection: rolled back for somebody else's sake (40), no
 * resources (53), a lock or statement timeout (55P03, 57014). After others a new connection may find what this one cannot:
 * the new primary (25006 read-only, 57P0x), its statements (26000), new plans (0A000).
 */
static const char *const harmless_states[] = {"40", "53", "55P03", "57014", NULL};

enum sqlb_outcome sqlb_pg_judge(struct sqlb_conn *conn, const PGresult *result, struct ks_err *err)
{
	const char *state = PQresultErrorField(result, PG_DIAG_SQLSTATE);
	const char *text = PQresultErrorField(result, PG_DIAG_MESSAGE_PRIMARY);
	bool broken;

	if (!state) /* libpq's own: there is no answer */
		return sqlb_pg_lost(conn, err);
	/* Never the detail: it may quote rows. */
	broken = has_any_state(result, broken_states);
	ks_fail(err, broken ? KS_FAILED_PRECONDITION : KS_UNAVAILABLE, "PostgreSQL: %s (SQLSTATE %s)", text ? text : "error",
		state);
	if (!has_any_state(result, harmless_states))
		sqlb_pg_drop(conn);
	return broken ? SQLB_BROKEN : SQLB_AWAY;
}

/* ---- sending and waiting ---- */

/* Waits until the socket can be read (or, when there is something to send, written). False: the deadline passed. */
static bool wait_for_socket(struct sqlb_conn *conn, bool to_write)
{
	struct pollfd poll_fd = {.fd = PQsocket(conn->pg), .events = (short)(to_write ? POLLIN | POLLOUT : POLLIN)};
	int64_t left_ms;
	int ready;

	do {
		left_ms = conn->deadline_ms - sqlb_pg_now_ms();
		if (left_ms <= 0 || poll_fd.fd < 0)
			return false;
		ready = poll(&poll_fd, 1, left_ms > INT32_MAX ? INT32_MAX : (int)left_ms);
	} while (ready < 0 && errno == EINTR);
	return ready > 0;
}

bool sqlb_pg_flush(struct sqlb_conn *conn)
{
	int left;

	while ((left = PQflush(conn->pg)) == 1)
		if (!wait_for_socket(conn, true) || !PQconsumeInput(conn->pg))
			return false;
	return left == 0;
}

bool sqlb_pg_next(struct sqlb_conn *conn, PGresult **result)
{
	bool readable = true;

	*result = NULL;
	while (PQisBusy(conn->pg)) {
		int left = PQflush(conn->pg);

		if (!readable || left < 0 || !wait_for_socket(conn, left == 1))
			return false;
		/* The last words of a server that hangs up have been read even when this fails: look once more. */
		readable = PQconsumeInput(conn->pg) == 1;
	}
	*result = PQgetResult(conn->pg);
	return *result || PQstatus(conn->pg) == CONNECTION_OK;
}

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

	if (conn->prepared[statement])
		return SQLB_OK;
	statement_name(statement, name);
	if (!PQsendPrepare(conn->pg, name, statement_texts[statement], 0, NULL))
		return sqlb_pg_lost(conn, err);
	outcome = collect(conn, &result, err);
	PQclear(result);
	conn->prepared[statement] = outcome == SQLB_OK;
	return outcome;
}

bool sqlb_pg_send(struct sqlb_conn *conn, enum sqlb_pg_statement statement, const struct sqlb_pg_params *params)
{
	static const int binary[SQLB_PG_PARAMS_MAX] = {1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1};
	char name[16];

	KS_ASSERT(conn->prepared[statement]);
	statement_name(statement, name);
	return PQsendQueryPrepared(conn->pg, name, params ? params->count : 0, params ? params->values : NULL,
				   params ? params->sizes : NULL, binary, 1) == 1;
}

enum sqlb_outcome sqlb_pg_query(struct sqlb_conn *conn, enum sqlb_pg_statement statement,
				const struct sqlb_pg_params *params, int columns, PGresult **result, struct ks_err *err)
{
	enum sqlb_outcome outcome = sqlb_pg_prepare(conn, statement, err);

	*result = NULL;
	if (outcome != SQLB_OK)
		return outcome;
	if (!sqlb_pg_send(conn, statement, params))
		return sqlb_pg_lost(conn, err);
	outcome = collect(conn, result, err);
	if (outcome == SQLB_OK && PQnfields(*result) != columns) {
		PQclear(*result);
		*result = NULL;
		return sqlb_pg_broken(conn, err, "a result has not the columns that were asked for");
	}
	return outcome;
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

/* ---- parameters ---- */

static void param_number(struct sqlb_pg_params *params, uint64_t left_aligned, int size)
{
	KS_ASSERT(params->count < SQLB_PG_PARAMS_MAX);
	params->numbers[params->count] = left_aligned;
	params->values[params->count] = (const char *)&params->numbers[params->count];
	params->sizes[params->count++] = size;
}

void sqlb_pg_param_int8(struct sqlb_pg_params *params, int64_t value)
{
	param_number(params, htobe64((uint64_t)value), 8);
}

void sqlb_pg_param_int4(struct sqlb_pg_params *params, int32_t value)
{
	param_number(params, htobe64((uint64_t)(uint32_t)value << 32), 4);
}

void sqlb_pg_param_int2(struct sqlb_pg_params *params, int16_t value)
{
	param_number(params, htobe64((uint64_t)(uint16_t)value << 48), 2);
}

void sqlb_pg_param_slice(struct sqlb_pg_params *params, struct ks_slice value)
{
	KS_ASSERT(params->count < SQLB_PG_PARAMS_MAX && value.size <= INT32_MAX);
	params->values[params->count] = (const char *)value.data;
	params->sizes[params->count++] = (int)value.size;
}

void sqlb_pg_param_array(struct sqlb_pg_params *params, const struct sqlb_conn *conn, size_t start, size_t size)
{
	sqlb_pg_param_slice(params, ks_slice_of(conn->arrays.data + start, size));
}

void sqlb_pg_put32(struct ks_buf *buf, uint32_t value)
{
	uint32_t big = htobe32(value);

	ks_buf_append(buf, &big, sizeof(big));
}

void sqlb_pg_put64(struct ks_buf *buf, uint64_t value)
{
	uint64_t big = htobe64(value);

	ks_buf_append(buf, &big, sizeof(big));
}

/* Dimensions, whether there are NULLs, type; then for each dimension its size and lower bound. */
void sqlb_pg_array_header(struct ks_buf *buf, Oid element, size_t count, bool with_nulls)
{
	sqlb_pg_put32(buf, count ? 1 : 0);
	sqlb_pg_put32(buf, with_nulls);
	sqlb_pg_put32(buf, element);
	if (count) {
		sqlb_pg_put32(buf, (uint32_t)count);
		sqlb_pg_put32(buf, 1);
	}
}

void sqlb_pg_int8_array(struct ks_buf *buf, const int64_t *a, size_t a_count, const int64_t *b, size_t b_count)
{
	sqlb_pg_array_header(buf, SQLB_PG_INT8, a_count + b_count, false);
	for (size_t i = 0; i < a_count + b_count; i++) {
		sqlb_pg_put32(buf, 8);
		sqlb_pg_put64(buf, (uint64_t)(i < a_count ? a[i] : b[i - a_count]));
	}
}

void sqlb_pg_leases_arrays(struct ks_buf *buf, const struct sqlb_lease *leases, size_t count, size_t *middle)
{
	ks_buf_reset(buf);
	sqlb_pg_array_header(buf, SQLB_PG_INT8, count, false);
	for (size_t i = 0; i < count; i++) {
		sqlb_pg_put32(buf, 8);
		sqlb_pg_put64(buf, (uint64_t)leases[i].id);
	}
	*middle = buf->size;
	sqlb_pg_array_header(buf, SQLB_PG_INT8, count, false);
	for (size_t i = 0; i < count; i++) {
		sqlb_pg_put32(buf, 8);
		sqlb_pg_put64(buf, (uint64_t)leases[i].ttl_ms);
	}
}

/* ---- results ---- */

static const char *value_of_size(const PGresult *result, int row, int column, int size)
{
	return PQgetlength(result, row, column) == size ? PQgetvalue(result, row, column) : NULL;
}

bool sqlb_pg_get_int8(const PGresult *result, int row, int column, int64_t *value)
{
	const char *bytes = value_of_size(result, row, column, 8);
	uint64_t big = 0;

	if (bytes)
		memcpy(&big, bytes, sizeof(big));
	*value = (int64_t)be64toh(big);
	return bytes != NULL;
}

bool sqlb_pg_get_int4(const PGresult *result, int row, int column, int32_t *value)
{
	const char *bytes = value_of_size(result, row, column, 4);
	uint32_t big = 0;

	if (bytes)
		memcpy(&big, bytes, sizeof(big));
	*value = (int32_t)be32toh(big);
	return bytes != NULL;
}

bool sqlb_pg_get_int2(const PGresult *result, int row, int column, int16_t *value)
{
	const char *bytes = value_of_size(result, row, column, 2);
	uint16_t big = 0;

	if (bytes)
		memcpy(&big, bytes, sizeof(big));
	*value = (int16_t)be16toh(big);
	return bytes != NULL;
}

bool sqlb_pg_get_bool(const PGresult *result, int row, int column, bool *value)
{
	const char *bytes = value_of_size(result, row, column, 1);

	*value = bytes && *bytes;
	return bytes != NULL;
}

struct ks_slice sqlb_pg_get_slice(const PGresult *result, int row, int column)
{
	if (PQgetisnull(result, row, column))
		return ks_slice_of(NULL, 0);
	return ks_slice_of(PQgetvalue(result, row, column), (size_t)PQgetlength(result, row, column));
}
