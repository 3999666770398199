/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the files of the PostgreSQL backend share.
 *
 *   postgres.c        the vtable, the URL, the schema
 *   postgres_conn.c   connecting, and what a session is set to
 *   postgres_error.c  errors → outcomes
 *   postgres_io.c     sending, and waiting with a deadline
 *   postgres_binary.c parameters and results
 *   postgres_query.c  a statement and its answer, COPY
 *   postgres_block.c  transactions
 *   postgres_sql.c    the texts of the statements
 *   postgres_append.c, postgres_read.c   the log
 *   postgres_wait.c   waiting for change
 *   postgres_side.c   leases, duty, members, size
 *   postgres_plain.c  what engines that only resemble PostgreSQL need done in another way
 *
 * A call begins with sqlb_pg_begin, which connects if need be. Whatever then goes wrong leaves the connection
 * either clean for the next call or dropped (conn->pg NULL). Every wait has a deadline: conn->deadline_ms.
 */
#ifndef SQLB_POSTGRES_PRIV_H
#define SQLB_POSTGRES_PRIV_H

#include <libpq-fe.h>
#include <stdatomic.h>

#include "base/buf.h"
#include "cancel.h"
#include "few.h"
#include "sqlb.h"

/* Payloads: the position that was appended, or the greeting of a member that was not there before. */
#define SQLB_PG_CHANNEL "kineshim"
#define SQLB_PG_HELLO "hello"

enum {
	/*
	 * The server gives up first, and says so, which is a certain answer; we give up on a server that says
	 * nothing.
	 */
	SQLB_PG_LOCK_TIMEOUT_MS = 5000,
	SQLB_PG_STATEMENT_TIMEOUT_MS = 8000,
	SQLB_PG_ANSWER_TIMEOUT_MS = 10000,
	SQLB_PG_LONG_TIMEOUT_MS = 3600 * 1000, /* VACUUM, schema changes */
	SQLB_PG_PARAMS_MAX = 16,
};

/* Prepared on a connection when it uses them first. */
enum sqlb_pg_statement {
	SQLB_PG_INSERT_ONE,
	SQLB_PG_INSERT_MANY,
	SQLB_PG_INSERT_MORE,
	SQLB_PG_INSERT_LOAD, /* plain only */
	SQLB_PG_CHECK_HEAD,
	SQLB_PG_NOTIFY,
	SQLB_PG_GUARD,
	SQLB_PG_HEAD,
	SQLB_PG_ROWS,
	SQLB_PG_ROW_AT,
	SQLB_PG_ROWS_AT,
	SQLB_PG_TRIM,
	SQLB_PG_LEASE_PUT,
	SQLB_PG_LEASE_DROP,
	SQLB_PG_LEASE_TOUCH,
	SQLB_PG_LEASE_ENSURE,
	SQLB_PG_LEASE_REFRESH,
	SQLB_PG_LEASE_LIST,
	SQLB_PG_LEASE_READ,
	SQLB_PG_DUTY_SEE,
	SQLB_PG_DUTY_TAKE,
	SQLB_PG_DUTY_PASS,
	SQLB_PG_MEMBER_BEAT,
	SQLB_PG_MEMBER_SILENT, /* plain only, as the next two */
	SQLB_PG_MEMBER_PUT,
	SQLB_PG_MEMBER_OTHERS,
	SQLB_PG_MEMBER_REMOVE,
	SQLB_PG_MEMBER_LIST,
	SQLB_PG_SIZE,
	SQLB_PG_STATEMENTS, /* how many there are */
};

extern const char *const sqlb_pg_statement_texts[SQLB_PG_STATEMENTS]; /* postgres_sql.c */
extern const char *const sqlb_pg_plain_texts[SQLB_PG_STATEMENTS];     /* where plain differs; else NULL */

#define SQLB_PG_ROW_COLUMNS \
	"position, sub, rows, kind, revision, key, value, create_revision, version, lease, payload, writer, batch"

/* Does a session last from one transaction to the next? AUTO: unless somebody else answers for the server. */
enum sqlb_pg_pool_mode { SQLB_PG_POOL_AUTO, SQLB_PG_POOL_SESSION, SQLB_PG_POOL_TRANSACTION };

/* PLAIN: only what engines that speak PostgreSQL's protocol over another storage have too. AUTO: as version() says. */
enum sqlb_pg_dialect { SQLB_PG_DIALECT_AUTO, SQLB_PG_DIALECT_POSTGRES, SQLB_PG_DIALECT_PLAIN };

struct sqlb_db {
	/* What libpq needs to connect; both end with NULL. Immutable after open, as all but the atomics. */
	char **keywords;
	char **values;
	enum sqlb_pg_pool_mode pool_mode;
	_Atomic int dialect; /* enum sqlb_pg_dialect; AUTO until the first connection */
	/* plain: when the log was measured last, how long that took, and what came of it */
	_Atomic int64_t sized_at_ms, sizing_ms, sized_bytes;
	char schema
		[64]; /* "" or where the tables are, a name that needs no escapes; else the role's search_path says it */
	/* Begins a transaction that needs nothing from its session. */
	char block_settings[1400];
	_Atomic bool told_pooled; /* on the log */
	/*
	 * How many other members were alive at our last beat; -1: unknown. Appends notify nobody when there is
	 * nobody. A member that joins says so on the channel, which makes this unknown again.
	 */
	_Atomic int others;
};

/* An answer that nobody waited for, because it does not matter: the next call reads it first. */
enum sqlb_pg_unread {
	SQLB_PG_ALL_READ,
	SQLB_PG_UNREAD_STATEMENT, /* up to its end */
	SQLB_PG_UNREAD_PIPELINE,  /* up to its Sync; the connection is in pipeline mode until then */
};

/* An append from its sending to its outcome. */
struct sqlb_pg_append_run {
	struct sqlb_conn *conn;
	const struct sqlb_append *append; /* only while it is sent */
	size_t row_count;
	int64_t deadline_ms; /* of its answer, monotonic */
	bool in_block;       /* BEGIN was sent: ends with COMMIT or ROLLBACK */
	bool may_commit;     /* what makes the server commit was handed to libpq */
	bool compound;       /* more than one statement in the pipeline */
	size_t insert_index; /* of the first INSERT of rows among the statements of the pipeline */
	size_t statements;   /* of the pipeline up to its Sync, as sent */
	bool notifies;       /* another pipeline was sent behind it */

	/* What has been answered. */
	size_t answered; /* statements */
	bool synced;
	int64_t rows_taken;
	enum sqlb_outcome outcome; /* what the first error means, with its text; OK: there was none */
	struct ks_err err;
};

struct sqlb_conn {
	struct sqlb_db *db;
	PGconn *pg;          /* NULL: not connected */
	int64_t deadline_ms; /* of the call that runs, monotonic */
	bool prepared[SQLB_PG_STATEMENTS];
	enum sqlb_pg_unread unread;
	/*
	 * Appends on their way, a ring from 'oldest' on. While there are any the connection is in pipeline mode, or lost
	 * ('pg' is NULL), and what is unread comes before their answers.
	 */
	struct sqlb_pg_append_run sent[SQLB_SENT_MAX];
	unsigned oldest, sent_count;
	bool pooled;          /* nothing of the session lasts beyond a transaction */
	bool plain;           /* the engine is not PostgreSQL itself: nothing lasts there either */
	bool in_block;        /* inside BEGIN … COMMIT */
	bool undone;          /* the last error was a transaction undone for the sake of another one */
	char state[6];        /* SQLSTATE of the last error of this call; "": none */
	struct ks_buf arrays; /* scratch for array parameters */
	size_t row_bytes;     /* what a row of the log had lately, to size the next read */
	struct sqlb_few few;

	/* wait_for_change */
	struct sqlb_cancel cancel;
	bool listening;
	int64_t announced;      /* highest position that a notification told of */
	int64_t found_by_probe; /* a probe found this one first; was it announced afterwards? */
	int silent;             /* how often in a row it was not */
	int64_t probed_at_ms;   /* monotonic */
	int64_t changed_at_ms;  /* when a probe last found something, monotonic */
};

/* ---- postgres_conn.c ---- */

/* Ready for a statement, with 'timeout_ms' for it. AWAY when there is no connection to be had. */
enum sqlb_outcome sqlb_pg_begin(struct sqlb_conn *conn, int timeout_ms, struct ks_err *err);
/* Forgets the connection; the next begin makes a new one. */
void sqlb_pg_drop(struct sqlb_conn *conn);

/* ---- postgres_error.c ---- */

/* Drops the connection and says AWAY, with libpq's reason. */
enum sqlb_outcome sqlb_pg_lost(struct sqlb_conn *conn, struct ks_err *err);
/* Data or schema that we cannot have written. Drops the connection: a mended schema needs new plans. */
enum sqlb_outcome sqlb_pg_broken(struct sqlb_conn *conn, struct ks_err *err, const char *what);
/* No database to be had: AWAY is the caller's to say. 'why' may have several lines. */
void sqlb_pg_fail_away(struct ks_err *err, const char *what, const char *why);
/*
 * A standby answers with a head that lies behind, and would prove reads that miss what was acknowledged. So it counts as no
 * database at all; a connection that was made to a standby and saw its promotion is not wanted back either.
 */
enum sqlb_outcome sqlb_pg_refuse_standby(struct sqlb_conn *conn, struct ks_err *err);
/*
 * What an error result means for a statement that changed nothing: AWAY or BROKEN. Drops the connection unless
 * the error is one after which it is as good as before. 'result' stays the caller's.
 */
enum sqlb_outcome sqlb_pg_judge(struct sqlb_conn *conn, const PGresult *result, struct ks_err *err);
bool sqlb_pg_has_state(const PGresult *result, const char *sqlstate);

/* ---- postgres_io.c ---- */

int64_t sqlb_pg_now_ms(void);
/* There was progress: the deadline moves. */
void sqlb_pg_more_time(struct sqlb_conn *conn, int timeout_ms);
/* Waits until the socket can be read (or, when there is something to send, written). False: not by 'until_ms'. */
bool sqlb_pg_wait_for_socket(struct sqlb_conn *conn, bool to_write, int64_t until_ms);
/* Hands everything that is queued to the kernel; reads meanwhile, so that neither side waits for the other. */
bool sqlb_pg_flush(struct sqlb_conn *conn);
/* The next result, NULL between statements; false: the connection is lost or the deadline passed. */
bool sqlb_pg_next(struct sqlb_conn *conn, PGresult **result);
/*
 * Waits until sqlb_pg_next need not wait; at 'until_ms' (monotonic) it gives up with NOT_YET. LOST: nothing more will come.
 * Sends meanwhile what is still to be sent.
 */
enum sqlb_pg_arrival { SQLB_PG_ARRIVED, SQLB_PG_NOT_YET, SQLB_PG_LOST };
enum sqlb_pg_arrival sqlb_pg_await(struct sqlb_conn *conn, int64_t until_ms);
/* Reads what nobody waited for, and leaves pipeline mode after it when no append is on its way. */
enum sqlb_pg_arrival sqlb_pg_read_unread(struct sqlb_conn *conn, int64_t until_ms);
/* Takes all that has come in already; false: the connection has ended (and libpq forgot what it was waiting for). */
bool sqlb_pg_take_arrived(struct sqlb_conn *conn);
/* Takes what can be read at once, so that sqlb_pg_await need not wait for it; not the end behind it. */
void sqlb_pg_look(struct sqlb_conn *conn);

/* ---- postgres_binary.c ---- */

/* Parameters of a prepared statement, all in binary. What 'value' points to is borrowed until it was sent. */
struct sqlb_pg_params {
	int count;
	const char *values[SQLB_PG_PARAMS_MAX];
	int sizes[SQLB_PG_PARAMS_MAX];
	uint64_t numbers[SQLB_PG_PARAMS_MAX]; /* big-endian, left-aligned */
};
void sqlb_pg_param_int8(struct sqlb_pg_params *params, int64_t value);
void sqlb_pg_param_int4(struct sqlb_pg_params *params, int32_t value);
void sqlb_pg_param_int2(struct sqlb_pg_params *params, int16_t value);
void sqlb_pg_param_slice(struct sqlb_pg_params *params, struct ks_slice value); /* data NULL: SQL NULL */
/* The bytes of conn->arrays from 'start' on. */
void sqlb_pg_param_array(struct sqlb_pg_params *params, const struct sqlb_conn *conn, size_t start, size_t size);

/* Array parameters are written into conn->arrays by hand: header, then each element with its size. */
void sqlb_pg_put32(struct ks_buf *buf, uint32_t value);
void sqlb_pg_put64(struct ks_buf *buf, uint64_t value);
void sqlb_pg_array_header(struct ks_buf *buf, Oid element, size_t count, bool with_nulls);
/* 'a' and then 'b' as one array. */
void sqlb_pg_int8_array(struct ks_buf *buf, const int64_t *a, size_t a_count, const int64_t *b, size_t b_count);
/* Empties 'buf' and writes two arrays, ids and ttls; the second one starts at *middle. */
void sqlb_pg_leases_arrays(struct ks_buf *buf, const struct sqlb_lease *leases, size_t count, size_t *middle);
enum { SQLB_PG_BYTEA = 17, SQLB_PG_INT8 = 20, SQLB_PG_INT2 = 21, SQLB_PG_INT4 = 23 };

/* Binary results. False: NULL, or not of that size, which only a changed schema can cause. */
bool sqlb_pg_get_int8(const PGresult *result, int row, int column, int64_t *value);
bool sqlb_pg_get_int4(const PGresult *result, int row, int column, int32_t *value);
bool sqlb_pg_get_int2(const PGresult *result, int row, int column, int16_t *value);
bool sqlb_pg_get_bool(const PGresult *result, int row, int column, bool *value);
struct ks_slice sqlb_pg_get_slice(const PGresult *result, int row, int column);

/* ---- postgres_query.c ---- */

enum sqlb_outcome sqlb_pg_prepare(struct sqlb_conn *conn, enum sqlb_pg_statement statement, struct ks_err *err);
/* Queues a prepared statement (its text, where nothing can be prepared). False: the connection is lost. */
bool sqlb_pg_send(struct sqlb_conn *conn, enum sqlb_pg_statement statement, const struct sqlb_pg_params *params);

/* One prepared statement and its result, of the given number of columns. Only OK leaves a *result to clear. */
enum sqlb_outcome sqlb_pg_query(struct sqlb_conn *conn, enum sqlb_pg_statement statement,
				const struct sqlb_pg_params *params, int columns, PGresult **result,
				struct ks_err *err);
/* The same without a result. */
enum sqlb_outcome sqlb_pg_run(struct sqlb_conn *conn, enum sqlb_pg_statement statement,
			      const struct sqlb_pg_params *params, struct ks_err *err);
/*
 * SQL text without parameters, one statement or several; the result is the last one's, in text. 'result' may be
 * NULL.
 */
enum sqlb_outcome sqlb_pg_exec(struct sqlb_conn *conn, const char *sql, PGresult **result, struct ks_err *err);
/* Does the one row of such a result say true there? */
bool sqlb_pg_is_true(const PGresult *result, int column);

/* What a COPY in binary begins with; the zero is part of it. */
#define SQLB_PG_COPY_SIGNATURE "PGCOPY\n\377\r\n"
enum { SQLB_PG_COPY_SIGNATURE_BYTES = 11 };
/* Sends a COPY, and waits until the server is ready for it: 'status' is PGRES_COPY_IN or PGRES_COPY_OUT. */
enum sqlb_outcome sqlb_pg_begin_copy(struct sqlb_conn *conn, const char *sql, ExecStatusType status,
				     struct ks_err *err);
/* The next message of a COPY to us, to be freed with PQfreemem; -1: that was all, -2: the connection is lost or the deadline passed. */
int sqlb_pg_get_copied(struct sqlb_conn *conn, char **data);
/* What the server says of a COPY once all of it was sent or came. */
enum sqlb_outcome sqlb_pg_end_copy(struct sqlb_conn *conn, struct ks_err *err);

/* ---- postgres_block.c ---- */

void sqlb_pg_block_make(struct sqlb_db *db); /* of open */
/*
 * A transaction of several calls. Where a session lasts this is BEGIN; elsewhere it also brings what the session would
 * have been set to. Who fails inside drops the connection or says ROLLBACK.
 */
enum sqlb_outcome sqlb_pg_block_begin(struct sqlb_conn *conn, struct ks_err *err);
enum sqlb_outcome sqlb_pg_block_end(struct sqlb_conn *conn, const char *sql, struct ks_err *err); /* COMMIT, ROLLBACK */
/* The same as the first statements of a pipeline: as many as that. 0: the connection is lost. */
size_t sqlb_pg_block_send(struct sqlb_conn *conn);
/* 'sql' in a transaction of its own, with the schema that the URL names. */
enum sqlb_outcome sqlb_pg_exec_block(struct sqlb_conn *conn, const char *sql, PGresult **result, struct ks_err *err);
/* One statement in a transaction of its own, as one pipeline; as sqlb_pg_query, but tried once. *result is NULL before. */
enum sqlb_outcome sqlb_pg_query_in_block(struct sqlb_conn *conn, enum sqlb_pg_statement statement,
					 const struct sqlb_pg_params *params, PGresult **result, struct ks_err *err);

static inline size_t sqlb_pg_row_bytes(const struct sqlb_row *row)
{
	return row->key.size + row->value.size + row->payload.size;
}

/* ---- postgres_plain.c: the same calls where conn->plain, after sqlb_pg_begin ---- */

enum sqlb_outcome sqlb_pg_plain_migrate(struct sqlb_conn *conn, int schema_version, uint64_t new_cluster_id,
					struct ks_err *err);
enum sqlb_outcome sqlb_pg_plain_load(struct sqlb_conn *conn, sqlb_next_fn *next, void *ctx, struct ks_err *err);
enum sqlb_outcome sqlb_pg_plain_member_beat(struct sqlb_conn *conn, const struct sqlb_member *self, int ttl_ms,
					    int32_t *others, struct ks_err *err);
enum sqlb_outcome sqlb_pg_plain_size(struct sqlb_conn *conn, struct sqlb_size *size, struct ks_err *err);

/* postgres_append.c: rows as parameters of SQLB_PG_INSERT_MORE; of many writers and batches, of _LOAD. False: too large. */
bool sqlb_pg_param_rows(struct sqlb_conn *conn, struct sqlb_pg_params *params, const struct sqlb_row *rows,
			size_t count, bool of_many);

/* ---- the slots of the vtable ---- */

enum sqlb_outcome sqlb_pg_append(struct sqlb_conn *conn, const struct sqlb_append *append, bool *appended,
				 struct ks_err *err);
enum sqlb_outcome sqlb_pg_append_send(struct sqlb_conn *conn, const struct sqlb_append *append, struct ks_err *err);
enum sqlb_outcome sqlb_pg_append_receive(struct sqlb_conn *conn, int wait_ms, bool *pending, bool *appended,
					 struct ks_err *err);
enum sqlb_outcome sqlb_pg_load(struct sqlb_conn *conn, sqlb_next_fn *next, void *ctx, struct ks_err *err);
enum sqlb_outcome sqlb_pg_read_head(struct sqlb_conn *conn, struct sqlb_head *head, struct ks_err *err);
enum sqlb_outcome sqlb_pg_read_rows(struct sqlb_conn *conn, int64_t after, int64_t to, size_t max_bytes,
				    sqlb_row_fn *visit, void *ctx, bool *more, struct ks_err *err);
enum sqlb_outcome sqlb_pg_read_at(struct sqlb_conn *conn, const struct sqlb_loc *locs, size_t count, sqlb_row_fn *visit,
				  void *ctx, struct ks_err *err);
enum sqlb_outcome sqlb_pg_trim(struct sqlb_conn *conn, const struct sqlb_loc *locs, size_t count, struct ks_err *err);
enum sqlb_outcome sqlb_pg_wait_for_change(struct sqlb_conn *conn, int64_t after, int wait_ms, struct ks_err *err);
void sqlb_pg_cancel(struct sqlb_conn *conn);

enum sqlb_outcome sqlb_pg_lease_touch(struct sqlb_conn *conn, struct sqlb_lease *leases, size_t count,
				      struct ks_err *err);
enum sqlb_outcome sqlb_pg_lease_ensure(struct sqlb_conn *conn, const struct sqlb_lease *leases, size_t count,
				       struct ks_err *err);
enum sqlb_outcome sqlb_pg_lease_refresh_all(struct sqlb_conn *conn, struct ks_err *err);
enum sqlb_outcome sqlb_pg_lease_list(struct sqlb_conn *conn, size_t limit, sqlb_lease_fn *visit, void *ctx,
				     struct ks_err *err);
enum sqlb_outcome sqlb_pg_lease_read(struct sqlb_conn *conn, struct sqlb_lease *leases, size_t count,
				     struct ks_err *err);
enum sqlb_outcome sqlb_pg_lease_drop(struct sqlb_conn *conn, const int64_t *ids, size_t count, struct ks_err *err);
enum sqlb_outcome sqlb_pg_duty_take(struct sqlb_conn *conn, int64_t self, int ttl_ms, struct sqlb_duty *duty,
				    struct ks_err *err);
enum sqlb_outcome sqlb_pg_duty_pass(struct sqlb_conn *conn, int64_t self, int64_t to, int ttl_ms, struct ks_err *err);
enum sqlb_outcome sqlb_pg_member_beat(struct sqlb_conn *conn, const struct sqlb_member *self, int ttl_ms,
				      struct ks_err *err);
enum sqlb_outcome sqlb_pg_member_list(struct sqlb_conn *conn, sqlb_member_fn *visit, void *ctx, struct ks_err *err);
enum sqlb_outcome sqlb_pg_size(struct sqlb_conn *conn, struct sqlb_size *size, struct ks_err *err);
enum sqlb_outcome sqlb_pg_defragment(struct sqlb_conn *conn, bool all, struct ks_err *err);

#endif
