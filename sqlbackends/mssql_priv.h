/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the files of the SQL Server backend share.
 *
 *   mssql.c          the vtable, handles, the schema
 *   mssql_url.c      the URL → what an ODBC driver wants to be told; which driver
 *   mssql_error.c    what the server's error numbers mean
 *   mssql_sql.c      the texts of the statements
 *   mssql_conn.c     one connection: connect, run a statement, read its rows, errors → outcomes
 *   mssql_append.c, mssql_load.c, mssql_read.c   the log
 *   mssql_wait.c     waiting for change
 *   mssql_side.c     leases, duty, members, size
 *
 * A call begins with sqlb_ms_begin, which connects if need be; a statement begins with sqlb_ms_start, is written into
 * conn->text while its parameters are bound one by one, and runs with sqlb_ms_execute. Whatever goes wrong leaves the
 * connection either clean for the next call or dropped (conn->dbc NULL). One ODBC environment for each connection: what
 * they share would be a lock of the driver manager.
 */
#ifndef SQLB_MSSQL_PRIV_H
#define SQLB_MSSQL_PRIV_H

#include <sql.h>
#include <sqlext.h>

#include "base/buf.h"
#include "cancel.h"
#include "sqlb.h"

enum {
	/*
	 * The server gives up first, and says so, which is a certain answer; we give up on a server that says nothing.
	 * The driver counts whole seconds, for each time that it waits.
	 */
	SQLB_MS_LOCK_TIMEOUT_MS = 5000,
	SQLB_MS_ANSWER_TIMEOUT_S = 10,
	SQLB_MS_LONG_TIMEOUT_S = 3600, /* rebuilding an index, loads, schema changes */
	SQLB_MS_CONNECT_TIMEOUT_S = 5,
	SQLB_MS_PING_AFTER_MS = 3000, /* a connection that was idle for longer is tried before it is trusted */

	/* The server takes 2,100 (8003), of which sp_executesql needs two for itself. */
	SQLB_MS_PARAMS_MAX = 2098,
	/* Below the server's 1,000 rows of one VALUES (10738), and of parameters. */
	SQLB_MS_ROW_PARAMS = 13,
	SQLB_MS_ROWS_MAX = 160, /* of the log, in one statement */
	SQLB_MS_IDS_MAX = 512,  /* leases or places, in one statement */
};

/* A ttl of ages is cut, so that adding it to the clock cannot overflow. */
#define SQLB_MS_TTL_MAX INT64_C(9000000000000000)

/* ---- mssql_url.c ---- */

enum sqlb_ms_driver { SQLB_MS_MICROSOFT, SQLB_MS_FREETDS };
enum sqlb_ms_encrypt { SQLB_MS_ENCRYPT_NO, SQLB_MS_ENCRYPT_YES, SQLB_MS_ENCRYPT_STRICT };

struct sqlb_ms_url {
	char user[257];
	char password[257];
	char host[257];
	unsigned port;
	char database[257];
	char driver[257]; /* "": find one. A name in odbcinst.ini, or the path of a library */
	enum sqlb_ms_encrypt encrypt;
	bool trust_certificate;
	bool multi_subnet;
	char certificate_host[257];
	char certificate_file[257];
	char servername[257]; /* a section of freetds.conf */
	char application[129];
};

/* KS_INVALID_ARGUMENT, with a text that never has more of the URL in it than the name of a parameter. */
enum ks_status sqlb_ms_parse_url(const char *url, struct sqlb_ms_url *parsed, struct ks_err *err);
enum sqlb_ms_driver sqlb_ms_driver_kind(const char *driver);
/* Microsoft's newest driver if there is one, else FreeTDS. */
enum ks_status sqlb_ms_find_driver(char *out, size_t out_size, struct ks_err *err);
/* What SQLDriverConnect takes. The result has the password in it. */
enum { SQLB_MS_CONNECTION_MAX = 1000 }; /* the driver manager has fixed buffers of 1,024 */
enum ks_status sqlb_ms_connection_string(const struct sqlb_ms_url *url, const char *driver,
					 char out[SQLB_MS_CONNECTION_MAX], struct ks_err *err);

/* ---- mssql_error.c ---- */

enum sqlb_ms_class {
	SQLB_MS_UNSURE,    /* anything that is not listed: nobody knows what was done; the connection is dropped */
	SQLB_MS_TAKEN,     /* a unique key refused a row */
	SQLB_MS_AGAIN,     /* rolled back for another transaction's sake: to be tried again at once */
	SQLB_MS_BUSY,      /* nothing was done; the connection is as good as before */
	SQLB_MS_ELSEWHERE, /* nothing was done; a new connection may find a server that can */
	SQLB_MS_WRONG,     /* nothing was done, and nothing will be: somebody has to look */
	SQLB_MS_DAMAGED,   /* the same, but what was done nobody knows */
};

enum sqlb_ms_class sqlb_ms_classify(int number);
/* A text of ours for this number, or NULL. Numbers whose own text may quote data always have one. */
const char *sqlb_ms_explain(int number);

/* ---- mssql_sql.c ---- */

/* Milliseconds since 1970 by the server's clock. Constant within a statement: take it after the locks are held. */
#define SQLB_MS_NOW "DATEDIFF_BIG(millisecond, CAST('1970-01-01' AS datetime2), SYSUTCDATETIME())"
/* Numbers first: of a row that is streamed the long columns must come last. */
#define SQLB_MS_ROW_COLUMNS                                                                                     \
	"position, sub, [rows], kind, revision, create_revision, version, lease, writer, batch, [key], value, " \
	"payload"

/* An append as one statement; counts are of parameters, that is, they are steps of the ladder. */
struct sqlb_ms_shape {
	size_t expired; /* ids */
	size_t gone;    /* ids */
	size_t fresh;   /* leases */
	size_t rows;
};

enum sqlb_ms_state { SQLB_MS_COMMITTED = 1, SQLB_MS_HEAD_ELSEWHERE, SQLB_MS_NOT_EXPIRED, SQLB_MS_ROWS_MISSING };

/*
 * Statements are written for a few counts only, so that the server finds a plan that it has already made: what is
 * left over is filled with NULLs. The smallest step that is not below 'count'; 0 for 0.
 */
size_t sqlb_ms_step(size_t count, size_t max);
size_t sqlb_ms_shape_params(const struct sqlb_ms_shape *shape);

/* Each writes a statement with '?' for its parameters, in this order: */
void sqlb_ms_text_append(struct ks_buf *text, const struct sqlb_ms_shape *shape);
/*   expired ids, how many they are; gone ids; fresh ids, fresh (id, ttl_ms)…;
 *   position before, its writer twice and batch; rows…; how many they are, last position */
void sqlb_ms_text_insert(struct ks_buf *text, size_t rows);         /* rows… */
void sqlb_ms_text_expire(struct ks_buf *text, size_t ids);          /* ids → how many were */
void sqlb_ms_text_lease_drop(struct ks_buf *text, size_t ids);      /* ids */
void sqlb_ms_text_lease_put(struct ks_buf *text, size_t leases);    /* ids, (id, ttl_ms)… */
void sqlb_ms_text_lease_touch(struct ks_buf *text, size_t ids);     /* ids, ids → id, ttl_ms, remaining_ms */
void sqlb_ms_text_lease_read(struct ks_buf *text, size_t ids);      /* ids → id, ttl_ms, remaining_ms */
void sqlb_ms_text_lease_ensure(struct ks_buf *text, size_t leases); /* (id, ttl_ms)… */
void sqlb_ms_text_read_at(struct ks_buf *text, size_t places);      /* (position, sub)… → rows */
void sqlb_ms_text_trim(struct ks_buf *text, size_t places);         /* (position, sub)… */

/* ---- mssql_conn.c ---- */

struct sqlb_db {
	enum sqlb_ms_driver driver;
	char connection[SQLB_MS_CONNECTION_MAX]; /* with the password */
};

/* The last thing that went wrong on a connection. */
struct sqlb_ms_error {
	int number;    /* the server's; else 0, or one of the driver */
	char state[6]; /* SQLSTATE; only to tell the driver's own errors from the server's */
	char text[KS_ERR_TEXT_MAX];
	bool link; /* the connection is lost, or the answer did not come in time */
};

struct sqlb_ms_params {
	size_t count;
	bool failed; /* one could not be bound */
	int64_t numbers[SQLB_MS_PARAMS_MAX];
	SQLLEN sizes[SQLB_MS_PARAMS_MAX];
};

enum { SQLB_MS_NUMBERS = 10, SQLB_MS_SLICES = 3 }; /* columns of a row of the log */

struct sqlb_conn {
	struct sqlb_db *db;
	SQLHENV env; /* these three are all there or all NULL */
	SQLHDBC dbc;
	SQLHSTMT stmt;
	int64_t used_at_ms; /* monotonic */
	SQLULEN timeout_s;  /* what the statement is set to */
	struct sqlb_ms_error error;
	struct ks_buf text; /* of the statement that is made or runs */
	struct sqlb_ms_params params;
	struct ks_buf slices[SQLB_MS_SLICES]; /* of the row that was read last */
	size_t row_bytes;                     /* what a row of the log had lately, to size the next read */

	/* wait_for_change */
	struct sqlb_cancel cancel;
	int64_t probed_at_ms;  /* monotonic */
	int64_t changed_at_ms; /* when a probe last found something, monotonic */
};

int64_t sqlb_ms_now_ms(void);

/* Ready for a statement, with 'timeout_s' for each wait. AWAY when there is no connection to be had. */
enum sqlb_outcome sqlb_ms_begin(struct sqlb_conn *conn, int timeout_s, struct ks_err *err);
/* Forgets the connection, and with it whatever was not committed; the next begin makes a new one. */
void sqlb_ms_drop(struct sqlb_conn *conn);

/* A new statement: no text, no parameters, no rows of an older one. */
void sqlb_ms_start(struct sqlb_conn *conn);
void sqlb_ms_say(struct sqlb_conn *conn, const char *text);
/* Parameters, in order, when the text is complete. What a slice points to is borrowed until the statement was executed. */
void sqlb_ms_bind_int8(struct sqlb_conn *conn, int64_t value);
void sqlb_ms_bind_null(struct sqlb_conn *conn);                         /* of a number */
void sqlb_ms_bind_slice(struct sqlb_conn *conn, struct ks_slice value); /* data NULL: SQL NULL */

/*
 * False: conn->error says why. 'execute' goes to the first result set, if there is one; 'next' to its next row; 'finish'
 * reads everything to its end, so that an error that comes late is seen, and is needed after each execute that was well.
 */
bool sqlb_ms_execute(struct sqlb_conn *conn);
bool sqlb_ms_next(struct sqlb_conn *conn, bool *row);
bool sqlb_ms_finish(struct sqlb_conn *conn);
/* Column from 1, and in that order. False: NULL, or it cannot be read. */
bool sqlb_ms_get_int8(struct sqlb_conn *conn, int column, int64_t *value);
bool sqlb_ms_get_slice(struct sqlb_conn *conn, int column, struct ks_buf *buf, struct ks_slice *value);

/* Text without parameters; its rows are thrown away. */
bool sqlb_ms_run(struct sqlb_conn *conn, const char *text);
/* What was started, executed and finished, without rows. */
enum sqlb_outcome sqlb_ms_done(struct sqlb_conn *conn, struct ks_err *err);
/* The same with one row of 'count' numbers. *found false: there was none, which only 'found' NULL makes an error. */
enum sqlb_outcome sqlb_ms_numbers(struct sqlb_conn *conn, int64_t *values, int count, bool *found, struct ks_err *err);

enum sqlb_ms_class sqlb_ms_class_of(const struct sqlb_conn *conn);
/*
 * What conn->error means for a statement that changed nothing or may be repeated: AWAY or BROKEN. Undoes what
 * transaction may be open, or drops the connection unless the error is one after which it is as good as before.
 */
enum sqlb_outcome sqlb_ms_judge(struct sqlb_conn *conn, struct ks_err *err);
/* Ends whatever transaction is open, and leaves conn->error as it was. False: the connection is not worth keeping. */
bool sqlb_ms_undo(struct sqlb_conn *conn);
/* Data or schema that we cannot have written. Drops the connection. */
enum sqlb_outcome sqlb_ms_broken(struct sqlb_conn *conn, struct ks_err *err, const char *what);
/* Memory ran out while a statement was made or a row read; AWAY. */
enum sqlb_outcome sqlb_ms_no_memory(struct sqlb_conn *conn, struct ks_err *err);

/* ---- mssql_read.c, for the append too ---- */

enum sqlb_outcome sqlb_ms_head(struct sqlb_conn *conn, struct sqlb_head *head, struct ks_err *err);

/* ---- mssql_append.c, for the load too ---- */

#define SQLB_MS_ROW_BYTES_MAX ((size_t)512 << 20)

static inline size_t sqlb_ms_row_bytes(const struct sqlb_row *row)
{
	return row->key.size + row->value.size + row->payload.size;
}

/* The parameters of 'count' rows, and NULLs up to 'step'. */
void sqlb_ms_bind_rows(struct sqlb_conn *conn, const struct sqlb_row *rows, size_t count, size_t step);

/* ---- the slots of the vtable ---- */

enum sqlb_outcome sqlb_ms_append(struct sqlb_conn *conn, const struct sqlb_append *append, bool *appended,
				 struct ks_err *err);
enum sqlb_outcome sqlb_ms_load(struct sqlb_conn *conn, sqlb_next_fn *next, void *ctx, struct ks_err *err);
enum sqlb_outcome sqlb_ms_read_head(struct sqlb_conn *conn, struct sqlb_head *head, struct ks_err *err);
enum sqlb_outcome sqlb_ms_read_rows(struct sqlb_conn *conn, int64_t after, int64_t to, size_t max_bytes,
				    sqlb_row_fn *visit, void *ctx, bool *more, struct ks_err *err);
enum sqlb_outcome sqlb_ms_read_at(struct sqlb_conn *conn, const struct sqlb_loc *locs, size_t count, sqlb_row_fn *visit,
				  void *ctx, struct ks_err *err);
enum sqlb_outcome sqlb_ms_trim(struct sqlb_conn *conn, const struct sqlb_loc *locs, size_t count, struct ks_err *err);
enum sqlb_outcome sqlb_ms_wait_for_change(struct sqlb_conn *conn, int64_t after, int wait_ms, struct ks_err *err);
void sqlb_ms_cancel(struct sqlb_conn *conn);

enum sqlb_outcome sqlb_ms_lease_touch(struct sqlb_conn *conn, struct sqlb_lease *leases, size_t count,
				      struct ks_err *err);
enum sqlb_outcome sqlb_ms_lease_ensure(struct sqlb_conn *conn, const struct sqlb_lease *leases, size_t count,
				       struct ks_err *err);
enum sqlb_outcome sqlb_ms_lease_refresh_all(struct sqlb_conn *conn, struct ks_err *err);
enum sqlb_outcome sqlb_ms_lease_list(struct sqlb_conn *conn, size_t limit, sqlb_lease_fn *visit, void *ctx,
				     struct ks_err *err);
enum sqlb_outcome sqlb_ms_lease_read(struct sqlb_conn *conn, struct sqlb_lease *leases, size_t count,
				     struct ks_err *err);
enum sqlb_outcome sqlb_ms_lease_drop(struct sqlb_conn *conn, const int64_t *ids, size_t count, struct ks_err *err);
enum sqlb_outcome sqlb_ms_duty_take(struct sqlb_conn *conn, int64_t self, int ttl_ms, struct sqlb_duty *duty,
				    struct ks_err *err);
enum sqlb_outcome sqlb_ms_duty_pass(struct sqlb_conn *conn, int64_t self, int64_t to, int ttl_ms, struct ks_err *err);
enum sqlb_outcome sqlb_ms_member_beat(struct sqlb_conn *conn, const struct sqlb_member *self, int ttl_ms,
				      struct ks_err *err);
enum sqlb_outcome sqlb_ms_member_list(struct sqlb_conn *conn, sqlb_member_fn *visit, void *ctx, struct ks_err *err);
enum sqlb_outcome sqlb_ms_size(struct sqlb_conn *conn, struct sqlb_size *size, struct ks_err *err);
enum sqlb_outcome sqlb_ms_defragment(struct sqlb_conn *conn, bool all, struct ks_err *err);

/* Ascending and without doubles; how many are left. */
size_t sqlb_ms_sort_ids(int64_t *ids, size_t count);
int64_t sqlb_ms_ttl(int64_t ttl_ms);
/* Inside a transaction that is open: never connects anew. */
enum sqlb_outcome sqlb_ms_drop_leases(struct sqlb_conn *conn, const int64_t *ids, size_t count, struct ks_err *err);
/* 'count' ids, and NULLs up to 'step'. */
void sqlb_ms_bind_ids(struct sqlb_conn *conn, const int64_t *ids, size_t count, size_t step);

#endif
