/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One connection to PostgreSQL: connecting, sending, waiting with a deadline, and what errors mean.
 *
 * libpq is used without blocking, so that a peer that went silent costs a deadline and never the thread; only
 * connecting blocks, within connect_timeout, because libpq tries the hosts of a list one after the other only
 * there. Sockets that died while nobody looked are found before a statement is sent: an append that was never
 * sent is AWAY, not DOUBT.
 *
 * Behind a pooler that gives each transaction another session nothing may be left in one and nothing be expected there:
 * no prepared statement, no LISTEN, no setting. Then every statement is sent with its text, in a transaction that begins by
 * making its settings local; still one round trip, as a pipeline. Whether a pooler is there is told by the process id
 * that the connection was given for cancelling: poolers make up their own.
 */
#include <endian.h>
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/clock.h"
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

/* The same for one transaction, where there is no session to set. */
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

static const char look_text[] = "SELECT pg_backend_pid(), pg_is_in_recovery(), "
				"current_setting('synchronous_commit') = 'off' OR current_setting('fsync') = 'off'";

void sqlb_pg_block_make(struct sqlb_db *db)
{
	bool named = db->schema[0] != '\0';
	int size = snprintf(db->block_settings, sizeof(db->block_settings), block_settings_text,
			    SQLB_PG_LOCK_TIMEOUT_MS, SQLB_PG_STATEMENT_TIMEOUT_MS,
			    named ? ", set_config('search_path', '\"" : "", db->schema, named ? "\"', true)" : "");

	KS_ASSERT(size > 0 && (size_t)size < sizeof(db->block_settings));
}

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

static void fail_connect(struct ks_err *err, const char *why)
{
	const char *hint = "";
	char text[KS_ERR_TEXT_MAX];

	if (strstr(why, "unsupported startup parameter"))
		hint = " (a pooler that takes no options: name the tables' schema with schema=… in the URL, and set "
		       "anything else for the role)";
	snprintf(text, sizeof(text), "cannot connect%s", hint);
	fail_away(err, text, why);
}

void sqlb_pg_drop(struct sqlb_conn *conn)
{
	PQfinish(conn->pg);
	conn->pg = NULL;
	conn->unread = SQLB_PG_ALL_READ;
	conn->listening = conn->pooled = conn->plain = conn->in_block = false;
	memset(conn->prepared, 0, sizeof(conn->prepared));
}

static bool is_true(const PGresult *result, int column)
{
	return PQntuples(result) == 1 && column < PQnfields(result) && strcmp(PQgetvalue(result, 0, column), "t") == 0;
}

/*
 * A standby answers with a head that lies behind, and would prove reads that miss what was acknowledged. So it counts as no
 * database at all; a connection that was made to a standby and saw its promotion is not wanted back either.
 */
static enum sqlb_outcome refuse_standby(struct sqlb_conn *conn, struct ks_err *err)
{
	ks_fail(err, KS_UNAVAILABLE,
		"PostgreSQL: the server is a standby (in recovery): the URL has to name the primary, or all servers");
	sqlb_pg_drop(conn);
	return SQLB_AWAY;
}

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
	standby = is_true(result, 1);
	risky = is_true(result, 2);
	PQclear(result);
	if (standby)
		return refuse_standby(conn, err);
	if (risky)
		KS_DIAG_LIMITED(
			KS_WARN, "postgres",
			"fsync or synchronous_commit is off: a crash of the database loses acknowledged writes");
	conn->pooled = conn->db->pool_mode == SQLB_PG_POOL_TRANSACTION ||
		       (conn->db->pool_mode == SQLB_PG_POOL_AUTO && !same_pid);
	return conn->pooled ? try_pooler(conn, err) : set_session(conn, err);
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

enum sqlb_pg_arrival sqlb_pg_read_unread(struct sqlb_conn *conn, int64_t until_ms)
{
	while (conn->unread != SQLB_PG_ALL_READ) {
		enum sqlb_pg_arrival arrival = sqlb_pg_await(conn, until_ms);
		PGresult *result;
		bool synced;

		if (arrival != SQLB_PG_ARRIVED)
			return arrival;
		if (!sqlb_pg_next(conn, &result))
			return SQLB_PG_LOST;
		synced = PQresultStatus(result) == PGRES_PIPELINE_SYNC;
		if (synced || (!result && conn->unread == SQLB_PG_UNREAD_STATEMENT))
			conn->unread = SQLB_PG_ALL_READ;
		PQclear(result);
		if (synced && conn->sent_count == 0 && !PQexitPipelineMode(conn->pg))
			return SQLB_PG_LOST;
	}
	return SQLB_PG_ARRIVED;
}

static bool is_readable(const struct sqlb_conn *conn)
{
	struct pollfd poll_fd = {.fd = PQsocket(conn->pg), .events = POLLIN};

	return poll_fd.fd >= 0 && poll(&poll_fd, 1, 0) > 0;
}

bool sqlb_pg_take_arrived(struct sqlb_conn *conn)
{
	while (is_readable(conn))
		if (!PQconsumeInput(conn->pg))
			return false;
	return PQstatus(conn->pg) == CONNECTION_OK;
}

void sqlb_pg_look(struct sqlb_conn *conn)
{
	if (is_readable(conn))
		PQconsumeInput(conn->pg); /* sqlb_pg_await finds out what is wrong */
}

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

/* ---- sending and waiting ---- */

/* Waits until the socket can be read (or, when there is something to send, written). False: not by 'until_ms'. */
static bool wait_for_socket(struct sqlb_conn *conn, bool to_write, int64_t until_ms)
{
	struct pollfd poll_fd = {.fd = PQsocket(conn->pg), .events = (short)(to_write ? POLLIN | POLLOUT : POLLIN)};
	int64_t left_ms;
	int ready;

	do {
		left_ms = until_ms - sqlb_pg_now_ms();
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
		if (!wait_for_socket(conn, true, conn->deadline_ms) || !PQconsumeInput(conn->pg))
			return false;
	return left == 0;
}

enum sqlb_pg_arrival sqlb_pg_await(struct sqlb_conn *conn, int64_t until_ms)
{
	bool readable = true;

	while (PQisBusy(conn->pg)) {
		int left = PQflush(conn->pg);

		if (!readable || left < 0 || PQsocket(conn->pg) < 0)
			return SQLB_PG_LOST;
		if (!wait_for_socket(conn, left == 1, until_ms))
			return SQLB_PG_NOT_YET;
		/*
		 * The last words of a server that hangs up have been read even when this fails: look once more.
		 */
		readable = PQconsumeInput(conn->pg) == 1;
	}
	return SQLB_PG_ARRIVED;
}

bool sqlb_pg_next(struct sqlb_conn *conn, PGresult **result)
{
	*result = NULL;
	if (sqlb_pg_await(conn, conn->deadline_ms) != SQLB_PG_ARRIVED)
		return false;
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

/* ---- transactions ---- */

enum sqlb_outcome sqlb_pg_block_begin(struct sqlb_conn *conn, struct ks_err *err)
{
	char text[sizeof(block_text) + sizeof(conn->db->block_settings) + 2];
	enum sqlb_outcome outcome;
	PGresult *result;

	if (conn->pooled)
		snprintf(text, sizeof(text), "%s; %s", block_text, conn->db->block_settings);
	outcome = sqlb_pg_exec(conn, conn->plain ? plain_block_text : conn->pooled ? text : "BEGIN", &result, err);
	if (outcome == SQLB_OK && conn->pooled && is_true(result, 0))
		outcome = refuse_standby(conn, err);
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
		standby = standby || (index + 1 == wanted && status == PGRES_TUPLES_OK && is_true(result, 0));
		if (!synced && index++ == wanted && outcome == SQLB_OK)
			*kept = result;
		else
			PQclear(result);
		if (!conn->pg)
			break;
	}
	if (outcome == SQLB_OK && standby)
		outcome = refuse_standby(conn, err);
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

static enum sqlb_outcome query_in_block(struct sqlb_conn *conn, enum sqlb_pg_statement statement,
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
		outcome = query_in_block(conn, statement, params, result, err);
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
		if (!wait_for_socket(conn, false, conn->deadline_ms) || !PQconsumeInput(conn->pg))
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
