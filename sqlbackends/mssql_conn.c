/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One connection to SQL Server through ODBC: connecting, running a statement, reading rows, and what errors mean.
 *
 * ODBC blocks, so each call has a timeout that the driver keeps: a peer that went silent costs a deadline and never the
 * thread. After a timeout the driver cancels, and what the server has done by then nobody knows: the connection is
 * dropped. ODBC shows no socket either: whether a connection that was idle has died meanwhile is asked with a round trip
 * of its own, so that an append that was never sent is AWAY and not DOUBT.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/metrics.h"
#include "base/panic.h"
#include "mssql_priv.h"

/*
 * What a session must be set to. An error undoes the transaction it comes up in, whole: without XACT_ABORT some errors
 * would only skip a statement. Deadlines and rows are read as they are (READ COMMITTED), and a session that waits for a
 * lock ends its wait itself.
 */
static const char session_text[] =
	"SET NOCOUNT ON; SET XACT_ABORT ON; SET IMPLICIT_TRANSACTIONS OFF; SET ROWCOUNT 0; SET TEXTSIZE 2147483647; "
	"SET TRANSACTION ISOLATION LEVEL READ COMMITTED; SET LOCK_TIMEOUT %d";

int64_t sqlb_ms_now_ms(void)
{
	return ks_clock_now(ks_clock_system());
}

/* ---- errors ---- */

/* The text without what the drivers put in front: [FreeTDS][SQL Server]. One line. */
static void plain_text(const char *text, char *out, size_t out_size)
{
	size_t size = 0;

	while (*text == '[') {
		const char *end = strchr(text, ']');

		if (!end)
			break;
		text = end + 1;
	}
	for (; *text && size + 1 < out_size; text++)
		out[size++] = (unsigned char)*text < ' ' ? ' ' : *text;
	out[size] = '\0';
}

static bool is_link_state(const char *state)
{
	return strncmp(state, "08", 2) == 0 || strncmp(state, "HYT", 3) == 0;
}

/* 2: we know what it means; 1: an error; 0: said beside it (3621: the statement was terminated). */
static int message_rank(const char *state, SQLINTEGER number)
{
	if (sqlb_ms_classify((int)number) != SQLB_MS_UNSURE)
		return 2;
	return strncmp(state, "01", 2) != 0;
}

/* Several messages may come, also that the connection ended afterwards. The first of the highest rank says what happened. */
static void note_error(struct sqlb_conn *conn, SQLSMALLINT type, SQLHANDLE handle)
{
	int highest = -1;

	conn->error = (struct sqlb_ms_error){.state = "HY000", .text = "the ODBC driver gave no reason"};
	for (SQLSMALLINT i = 1; i <= 20; i++) {
		char state[6] = "", text[512] = "";
		SQLINTEGER number = 0;
		SQLSMALLINT size = 0;

		if (!SQL_SUCCEEDED(SQLGetDiagRec(type, handle, i, (SQLCHAR *)state, &number, (SQLCHAR *)text,
						 sizeof(text), &size)))
			break;
		conn->error.link |= is_link_state(state);
		if (message_rank(state, number) <= highest)
			continue;
		highest = message_rank(state, number);
		conn->error.number = (int)number;
		snprintf(conn->error.state, sizeof(conn->error.state), "%s", state);
		plain_text(text, conn->error.text, sizeof(conn->error.text));
	}
}

enum sqlb_ms_class sqlb_ms_class_of(const struct sqlb_conn *conn)
{
	return sqlb_ms_classify(conn->error.number);
}

static void explain(const struct sqlb_conn *conn, enum ks_status status, struct ks_err *err)
{
	const char *text = sqlb_ms_explain(conn->error.number);

	if (conn->error.link && sqlb_ms_class_of(conn) == SQLB_MS_UNSURE)
		ks_fail(err, status, "SQL Server: connection lost: %s (SQLSTATE %s)", conn->error.text,
			conn->error.state);
	else
		ks_fail(err, status, "SQL Server: %s (error %d)", text ? text : conn->error.text, conn->error.number);
}

/* Rolled back it usually is already; 3903 says just that. */
bool sqlb_ms_undo(struct sqlb_conn *conn)
{
	struct sqlb_ms_error before = conn->error;
	bool clean = sqlb_ms_run(conn, "IF @@TRANCOUNT > 0 ROLLBACK TRANSACTION") || conn->error.number == 3903;

	conn->error = before;
	return clean;
}

enum sqlb_outcome sqlb_ms_judge(struct sqlb_conn *conn, struct ks_err *err)
{
	bool keep = false, broken = false;

	switch (sqlb_ms_class_of(conn)) {
	case SQLB_MS_TAKEN:
	case SQLB_MS_AGAIN:
	case SQLB_MS_BUSY:
		keep = !conn->error.link;
		break;
	case SQLB_MS_WRONG:
	case SQLB_MS_DAMAGED:
		broken = true;
		break;
	case SQLB_MS_ELSEWHERE:
	case SQLB_MS_UNSURE:
		break;
	}
	explain(conn, broken ? KS_FAILED_PRECONDITION : KS_UNAVAILABLE, err);
	if (!keep || !sqlb_ms_undo(conn))
		sqlb_ms_drop(conn);
	return broken ? SQLB_BROKEN : SQLB_AWAY;
}

enum sqlb_outcome sqlb_ms_broken(struct sqlb_conn *conn, struct ks_err *err, const char *what)
{
	ks_fail(err, KS_FAILED_PRECONDITION, "SQL Server: %s", what);
	sqlb_ms_drop(conn);
	return SQLB_BROKEN;
}

enum sqlb_outcome sqlb_ms_no_memory(struct sqlb_conn *conn, struct ks_err *err)
{
	ks_fail(err, KS_RESOURCE_EXHAUSTED, "SQL Server: out of memory");
	sqlb_ms_drop(conn);
	return SQLB_AWAY;
}

/* ---- connecting ---- */

void sqlb_ms_drop(struct sqlb_conn *conn)
{
	if (conn->stmt)
		SQLFreeHandle(SQL_HANDLE_STMT, conn->stmt);
	if (conn->dbc) {
		/* Refused (25000) where a transaction is open: freeing the handle hangs up all the same. */
		SQLDisconnect(conn->dbc);
		SQLFreeHandle(SQL_HANDLE_DBC, conn->dbc);
	}
	if (conn->env)
		SQLFreeHandle(SQL_HANDLE_ENV, conn->env);
	conn->stmt = conn->dbc = conn->env = NULL;
	conn->params.count = 0;
}

/* ODBC passes numbers as pointers. */
static SQLPOINTER as_pointer(uintptr_t number)
{
	return (SQLPOINTER)number; /* NOLINT(performance-no-int-to-ptr) */
}

static bool open_handles(struct sqlb_conn *conn)
{
	SQLRETURN result;

	if (SQLAllocHandle(SQL_HANDLE_ENV, SQL_NULL_HANDLE, &conn->env) != SQL_SUCCESS) {
		conn->env = NULL;
		snprintf(conn->error.text, sizeof(conn->error.text), "out of memory");
		return false;
	}
	if (SQLSetEnvAttr(conn->env, SQL_ATTR_ODBC_VERSION, as_pointer(SQL_OV_ODBC3), 0) != SQL_SUCCESS ||
	    SQLAllocHandle(SQL_HANDLE_DBC, conn->env, &conn->dbc) != SQL_SUCCESS) {
		note_error(conn, SQL_HANDLE_ENV, conn->env);
		conn->dbc = NULL;
		return false;
	}
	SQLSetConnectAttr(conn->dbc, SQL_ATTR_LOGIN_TIMEOUT, as_pointer(SQLB_MS_CONNECT_TIMEOUT_S), 0);
	result = SQLDriverConnect(conn->dbc, NULL, (SQLCHAR *)conn->db->connection, SQL_NTS, NULL, 0, NULL,
				  SQL_DRIVER_NOPROMPT);
	if (!SQL_SUCCEEDED(result) || SQLAllocHandle(SQL_HANDLE_STMT, conn->dbc, &conn->stmt) != SQL_SUCCESS) {
		note_error(conn, SQL_HANDLE_DBC, conn->dbc);
		conn->stmt = NULL;
		return false;
	}
	return true;
}

static enum sqlb_outcome connect_now(struct sqlb_conn *conn, struct ks_err *err)
{
	char text[sizeof(session_text) + 16];

	conn->error = (struct sqlb_ms_error){0};
	conn->timeout_s = 0;
	snprintf(text, sizeof(text), session_text, SQLB_MS_LOCK_TIMEOUT_MS);
	if (open_handles(conn) && sqlb_ms_run(conn, text)) {
		KS_COUNT(DB_CONNECTS, 1);
		return SQLB_OK;
	}
	if (sqlb_ms_explain(conn->error.number))
		ks_fail(err, KS_UNAVAILABLE, "SQL Server: cannot connect: %s (error %d)",
			sqlb_ms_explain(conn->error.number), conn->error.number);
	else
		ks_fail(err, KS_UNAVAILABLE, "SQL Server: cannot connect: %s (SQLSTATE %s)", conn->error.text,
			conn->error.state);
	sqlb_ms_drop(conn);
	return SQLB_AWAY;
}

static void set_timeout(struct sqlb_conn *conn, int timeout_s)
{
	if (conn->timeout_s == (SQLULEN)timeout_s)
		return;
	if (SQL_SUCCEEDED(SQLSetStmtAttr(conn->stmt, SQL_ATTR_QUERY_TIMEOUT, as_pointer((uintptr_t)timeout_s), 0)))
		conn->timeout_s = (SQLULEN)timeout_s;
}

enum sqlb_outcome sqlb_ms_begin(struct sqlb_conn *conn, int timeout_s, struct ks_err *err)
{
	enum sqlb_outcome outcome = SQLB_OK;
	int64_t now_ms = sqlb_ms_now_ms();

	if (conn->dbc) {
		set_timeout(conn, SQLB_MS_ANSWER_TIMEOUT_S);
		if (now_ms - conn->used_at_ms >= SQLB_MS_PING_AFTER_MS && !sqlb_ms_run(conn, "SET NOCOUNT ON"))
			sqlb_ms_drop(conn);
	}
	if (!conn->dbc)
		outcome = connect_now(conn, err);
	if (outcome == SQLB_OK)
		set_timeout(conn, timeout_s);
	conn->used_at_ms = sqlb_ms_now_ms();
	return outcome;
}

/* ---- statements ---- */

void sqlb_ms_start(struct sqlb_conn *conn)
{
	ks_buf_reset(&conn->text);
	if (conn->params.count > 0)
		SQLFreeStmt(conn->stmt, SQL_RESET_PARAMS);
	conn->params.count = 0;
	conn->params.failed = false;
}

void sqlb_ms_say(struct sqlb_conn *conn, const char *text)
{
	ks_buf_append(&conn->text, text, strlen(text));
}

/* The place of the next parameter, or NULL. */
static SQLLEN *next_param(struct sqlb_conn *conn)
{
	KS_ASSERT(conn->params.count < SQLB_MS_PARAMS_MAX);
	return &conn->params.sizes[conn->params.count];
}

/*
 * FreeTDS moves what it knows of all parameters whenever one is bound that is beyond them: the last one first makes
 * room for all at once. No literal of ours has a question mark in it.
 */
static void bind_last_first(struct sqlb_conn *conn)
{
	static SQLLEN null = SQL_NULL_DATA;
	size_t last = 0;

	for (size_t i = 0; i < conn->text.size; i++)
		last += conn->text.data[i] == '?';
	if (last > 1 && last <= SQLB_MS_PARAMS_MAX)
		conn->params.failed |=
			!SQL_SUCCEEDED(SQLBindParameter(conn->stmt, (SQLUSMALLINT)last, SQL_PARAM_INPUT, SQL_C_SBIGINT,
							SQL_BIGINT, 0, 0, &conn->params.numbers[0], 0, &null));
}

static void bind(struct sqlb_conn *conn, SQLSMALLINT c_type, SQLSMALLINT sql_type, SQLULEN column_size, void *value,
		 SQLLEN size)
{
	SQLLEN *place = next_param(conn);
	SQLRETURN result;

	if (conn->params.count == 0)
		bind_last_first(conn);
	*place = size;
	conn->params.count++;
	result = SQLBindParameter(conn->stmt, (SQLUSMALLINT)conn->params.count, SQL_PARAM_INPUT, c_type, sql_type,
				  column_size, 0, value, size > 0 ? size : 0, place);
	conn->params.failed |= !SQL_SUCCEEDED(result);
}

void sqlb_ms_bind_int8(struct sqlb_conn *conn, int64_t value)
{
	int64_t *number = &conn->params.numbers[conn->params.count];

	(void)next_param(conn);
	*number = value;
	bind(conn, SQL_C_SBIGINT, SQL_BIGINT, 0, number, sizeof(*number));
}

void sqlb_ms_bind_null(struct sqlb_conn *conn)
{
	bind(conn, SQL_C_SBIGINT, SQL_BIGINT, 0, &conn->params.numbers[0], SQL_NULL_DATA);
}

/*
 * Always as varbinary(max), whatever the size: a type with the size in it would make a plan of its own for each. The two
 * drivers have different names for that type. To FreeTDS a size that is too small means to cut the value, silently.
 */
void sqlb_ms_bind_slice(struct sqlb_conn *conn, struct ks_slice value)
{
	bool freetds = conn->db->driver == SQLB_MS_FREETDS;

	bind(conn, SQL_C_BINARY, freetds ? SQL_LONGVARBINARY : SQL_VARBINARY, freetds ? INT32_MAX : 0,
	     (void *)(uintptr_t)(value.data ? value.data : (const uint8_t *)""),
	     value.data ? (SQLLEN)value.size : SQL_NULL_DATA);
}

/* To the first result that has columns. */
static SQLRETURN skip_to_rows(struct sqlb_conn *conn, SQLRETURN result)
{
	SQLSMALLINT columns = 0;

	while (SQL_SUCCEEDED(result)) {
		if (!SQL_SUCCEEDED(SQLNumResultCols(conn->stmt, &columns)))
			return SQL_ERROR;
		if (columns > 0)
			break;
		result = SQLMoreResults(conn->stmt);
	}
	return result;
}

static bool note_unless(struct sqlb_conn *conn, bool good)
{
	if (!good)
		note_error(conn, SQL_HANDLE_STMT, conn->stmt);
	return good;
}

/* After an error the rest of the answer is thrown away, so that the connection can be used again. */
static void close_rows(struct sqlb_conn *conn)
{
	SQLFreeStmt(conn->stmt, SQL_CLOSE);
}

bool sqlb_ms_execute(struct sqlb_conn *conn)
{
	SQLRETURN result;
	bool good;

	if (conn->params.failed || conn->text.failed) {
		conn->error = (struct sqlb_ms_error){.state = "HY001", .text = "out of memory"};
		return false;
	}
	result = SQLExecDirect(conn->stmt, conn->text.data, (SQLINTEGER)conn->text.size);
	good = note_unless(conn, SQL_SUCCEEDED(result) || result == SQL_NO_DATA);
	if (good) {
		result = skip_to_rows(conn, result);
		good = note_unless(conn, SQL_SUCCEEDED(result) || result == SQL_NO_DATA);
	}
	if (!good)
		close_rows(conn);
	return good;
}

bool sqlb_ms_next(struct sqlb_conn *conn, bool *row)
{
	SQLRETURN result = SQLFetch(conn->stmt);
	bool good = note_unless(conn, SQL_SUCCEEDED(result) || result == SQL_NO_DATA);

	*row = SQL_SUCCEEDED(result);
	if (!good)
		close_rows(conn);
	return good;
}

bool sqlb_ms_finish(struct sqlb_conn *conn)
{
	SQLRETURN result = SQL_SUCCESS;
	bool good;

	while (SQL_SUCCEEDED(result))
		result = SQLMoreResults(conn->stmt);
	good = note_unless(conn, result == SQL_NO_DATA);
	close_rows(conn);
	conn->used_at_ms = sqlb_ms_now_ms();
	return good;
}

bool sqlb_ms_get_int8(struct sqlb_conn *conn, int column, int64_t *value)
{
	SQLLEN size = SQL_NULL_DATA;

	*value = 0;
	return note_unless(conn, SQL_SUCCEEDED(SQLGetData(conn->stmt, (SQLUSMALLINT)column, SQL_C_SBIGINT, value,
							  sizeof(*value), &size))) &&
	       size != SQL_NULL_DATA;
}

bool sqlb_ms_get_slice(struct sqlb_conn *conn, int column, struct ks_buf *buf, struct ks_slice *value)
{
	enum { FIRST_PIECE = 16 << 10 };

	*value = ks_slice_of(NULL, 0);
	ks_buf_reset(buf);
	if (!ks_buf_reserve(buf, FIRST_PIECE))
		return false;
	for (;;) {
		SQLLEN room = (SQLLEN)(buf->capacity - buf->size), size = 0;
		SQLRETURN result =
			SQLGetData(conn->stmt, (SQLUSMALLINT)column, SQL_C_BINARY, buf->data + buf->size, room, &size);

		/* SQL_NO_DATA: the last piece filled the room to the brim. */
		if (result == SQL_NO_DATA)
			break;
		if (!note_unless(conn, SQL_SUCCEEDED(result)))
			return false;
		if (size == SQL_NULL_DATA)
			return true;
		if (size != SQL_NO_TOTAL && size <= room) {
			buf->size += (size_t)size;
			break;
		}
		buf->size += (size_t)room;
		/* What is left, where the driver knows. */
		if (!ks_buf_reserve(buf, size == SQL_NO_TOTAL ? buf->size : (size_t)(size - room)))
			return false;
	}
	*value = ks_slice_of(buf->data, buf->size);
	return true;
}

bool sqlb_ms_run(struct sqlb_conn *conn, const char *text)
{
	sqlb_ms_start(conn);
	sqlb_ms_say(conn, text);
	return sqlb_ms_execute(conn) && sqlb_ms_finish(conn);
}

enum sqlb_outcome sqlb_ms_done(struct sqlb_conn *conn, struct ks_err *err)
{
	if (sqlb_ms_execute(conn) && sqlb_ms_finish(conn))
		return SQLB_OK;
	return sqlb_ms_judge(conn, err);
}

enum sqlb_outcome sqlb_ms_numbers(struct sqlb_conn *conn, int64_t *values, int count, bool *found, struct ks_err *err)
{
	bool row, whole = true;

	if (!sqlb_ms_execute(conn) || !sqlb_ms_next(conn, &row))
		return sqlb_ms_judge(conn, err);
	for (int i = 0; row && i < count; i++)
		whole = sqlb_ms_get_int8(conn, i + 1, &values[i]) && whole;
	if (!sqlb_ms_finish(conn))
		return sqlb_ms_judge(conn, err);
	if (found)
		*found = row;
	if (!whole || (!row && !found))
		return sqlb_ms_broken(conn, err, "a statement has not the answer that it should have");
	return SQLB_OK;
}
