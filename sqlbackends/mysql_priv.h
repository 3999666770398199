/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the files of the MySQL and MariaDB backend share.
 *
 *   mysql.c           the vtable, handles
 *   mysql_url.c       the URL
 *   mysql_schema.c    making and checking the tables
 *   mysql_conn.c      one connection: connect, prepare, execute, transactions
 *   mysql_error.c     error numbers → outcomes
 *   mysql_sql.c       the texts of the statements
 *   mysql_append.c, mysql_read.c, mysql_load.c   the log
 *   mysql_wait.c      waiting for change
 *   mysql_side.c      leases, duty, members, size
 *
 * A call begins with sqlb_my_begin, which connects if need be. Whatever then goes wrong leaves the connection
 * either clean for the next call or dropped (conn->mysql NULL). The library blocks, but never longer than the
 * timeouts that it was given.
 */
#ifndef SQLB_MYSQL_PRIV_H
#define SQLB_MYSQL_PRIV_H

#include <mysql.h>

#include "base/buf.h"
#include "cancel.h"
#include "few.h"
#include "sqlb.h"

enum {
	/* The server gives up first, and says so, which is a certain answer; we give up on a server that says nothing. */
	SQLB_MY_LOCK_TIMEOUT_S = 5,
	SQLB_MY_STATEMENT_TIMEOUT_S = 8,
	SQLB_MY_ANSWER_TIMEOUT_S = 10,
	SQLB_MY_LEASES_TIMEOUT_S = 60, /* an UPDATE of all leases */
	SQLB_MY_LONG_TIMEOUT_S = 3600, /* OPTIMIZE, schema changes, the commit of a load */
	SQLB_MY_BUCKETS = 21,
	SQLB_MY_ROWS_MAX = 1024, /* the largest bucket: of rows that are inserted */
	SQLB_MY_ITEMS_MAX = 256, /* of all else */
	SQLB_MY_ROW_COLUMNS = 13,
	SQLB_MY_RETRIES = 8, /* of a transaction that was undone for another's sake, and is harmless to repeat */
};

/*
 * Prepared on a connection when it uses them first. A text that repeats a part (rows, ids) is prepared once for each
 * size of bucket; who has fewer items fills up with harmless ones.
 */
enum sqlb_my_statement {
	SQLB_MY_INSERT, /* rows with the gate in front */
	SQLB_MY_INSERT_MORE,
	SQLB_MY_GATE_LOCK,
	SQLB_MY_GATE_SET,
	SQLB_MY_HEAD,
	SQLB_MY_POLL, /* the same without causal reads */
	SQLB_MY_ROWS,
	SQLB_MY_PAGE,
	SQLB_MY_ROWS_AT,
	SQLB_MY_TRIM,
	SQLB_MY_LEASE_PUT,
	SQLB_MY_LEASE_DROP,
	SQLB_MY_LEASE_EXPIRE,
	SQLB_MY_LEASE_TOUCH_ONE,
	SQLB_MY_LEASE_LOCK,
	SQLB_MY_LEASE_TOUCH,
	SQLB_MY_LEASE_ENSURE,
	SQLB_MY_LEASE_REFRESH,
	SQLB_MY_LEASE_LIST,
	SQLB_MY_LEASE_READ,
	SQLB_MY_DUTY_SEE,
	SQLB_MY_DUTY_TAKE,
	SQLB_MY_DUTY_PASS,
	SQLB_MY_MEMBER_BEAT,
	SQLB_MY_MEMBER_STALE,
	SQLB_MY_MEMBER_SWEEP,
	SQLB_MY_MEMBER_REMOVE,
	SQLB_MY_MEMBER_LIST,
	SQLB_MY_SIZE,
	SQLB_MY_STATEMENTS, /* how many there are */
};

struct sqlb_my_text {
	const char *before;
	const char *item; /* NULL: nothing is repeated */
	const char *between;
	const char *after;
	unsigned columns; /* of the result; 0: none */
};

extern const struct sqlb_my_text sqlb_my_texts[SQLB_MY_STATEMENTS]; /* mysql_sql.c */
extern const uint16_t sqlb_my_buckets[SQLB_MY_BUCKETS];

enum sqlb_my_tls { SQLB_MY_TLS_OFF, SQLB_MY_TLS_PREFERRED, SQLB_MY_TLS_UNVERIFIED, SQLB_MY_TLS_VERIFIED };

/* Immutable after open. Strings are NULL when the URL does not have them. */
struct sqlb_db {
	char *host;
	unsigned port;
	char *socket_path;
	char *user;
	char *password;
	char *database;
	enum sqlb_my_tls tls;
	char *ca_file;
	char *cert_file;
	char *key_file;
	unsigned connect_timeout_s;
};

/* Rows as the library reads them for a bulk execution, column by column; each array has room for 'capacity' rows. */
struct sqlb_my_bulk {
	size_t count, capacity;
	int64_t *numbers;     /* SQLB_MY_ROW_COLUMNS arrays, of which those of byte strings are not used */
	void **slices;        /* likewise, those of numbers are not used */
	unsigned long *sizes; /* of slices */
	char *nulls;          /* of slices: STMT_INDICATOR_… */
};

/* What the server said of itself when we connected. */
struct sqlb_my_server {
	bool is_mariadb;
	bool has_wsrep;   /* a node of a Galera cluster */
	bool has_bulk;    /* takes many rows for a statement of one */
	bool reads_ahead; /* takes a statement before the last one is answered, and answers them in this order */
	unsigned version; /* 100611: 10.6.11 */
	size_t max_packet;
};

/* An append that was sent, until it is received. */
struct sqlb_my_sent {
	size_t row_count;
	int64_t after; /* the head that it wants */
	bool behind;   /* another one */
	int64_t deadline_ms;
};

struct sqlb_conn {
	struct sqlb_db *db;
	MYSQL *mysql;  /* NULL: not connected */
	int timeout_s; /* how long it waits for an answer */
	struct sqlb_my_server server;
	MYSQL_STMT *statements[SQLB_MY_STATEMENTS][SQLB_MY_BUCKETS];
	bool in_transaction;

	/* Parameters of the next execution. Numbers are bound in place, so their array never moves while some are in it. */
	MYSQL_BIND *binds;
	int64_t *numbers;
	size_t param_count;
	size_t param_capacity;
	struct sqlb_my_bulk bulk; /* the same for a bulk execution */

	struct ks_buf slices[3]; /* where the byte strings of a row are fetched to */
	size_t row_bytes;        /* what a row of the log had lately, to size the next read */
	struct sqlb_few few;

	int64_t refused_after; /* the head that the last refused append wanted; the gate is looked after when it does so again */

	/* Appends on their way, a ring from 'oldest' on; the answers that come next are theirs, or the connection is lost. */
	struct sqlb_my_sent sent[SQLB_SENT_MAX];
	unsigned oldest, sent_count;

	/* wait_for_change */
	struct sqlb_cancel cancel;
	int64_t changed_at_ms; /* when a probe last found something, monotonic */
};

/* ---- mysql_url.c ---- */

enum ks_status sqlb_my_parse_url(const char *url, struct sqlb_db *db, struct ks_err *err);
void sqlb_my_free_db(struct sqlb_db *db); /* NULL is fine */

/* ---- mysql_conn.c ---- */

/*
 * Ready for a statement, each with 'timeout_s' for its answer. Another timeout than the last one takes a new connection; with a
 * long one the server does not end statements and transactions that take their time. AWAY when there is no connection to be had.
 */
enum sqlb_outcome sqlb_my_begin(struct sqlb_conn *conn, int timeout_s, struct ks_err *err);
/* Forgets the connection, and with it an open transaction; the next begin makes a new one. */
void sqlb_my_drop(struct sqlb_conn *conn);
int64_t sqlb_my_now_ms(void);

/* Parameters, in order; 'count' is how many there will be. Byte strings are borrowed until the statement was executed. */
void sqlb_my_params(struct sqlb_conn *conn, size_t count);
void sqlb_my_param(struct sqlb_conn *conn, int64_t number);
void sqlb_my_param_slice(struct sqlb_conn *conn, struct ks_slice slice); /* data NULL: SQL NULL */

/* How many items the statement for 'count' of them takes. */
size_t sqlb_my_bucket_size(size_t count);
/* Prepares the statement for 'items' (0 where nothing is repeated) if need be. */
enum sqlb_outcome sqlb_my_prepare(struct sqlb_conn *conn, enum sqlb_my_statement statement, size_t items,
				  MYSQL_STMT **stmt, struct ks_err *err);
/* Sends it with the parameters. An error is left in 'stmt' for the caller to judge. */
bool sqlb_my_execute(struct sqlb_conn *conn, MYSQL_STMT *stmt);
/* Rows for the next bulk execution; 'count' is how many there will be. Byte strings are borrowed until then. */
void sqlb_my_bulk_begin(struct sqlb_conn *conn, size_t count);
void sqlb_my_bulk_put(struct sqlb_conn *conn, const struct sqlb_row *row);
/* Sends a statement that is for one row with all of them: one statement and one transaction all the same. */
bool sqlb_my_execute_bulk(struct sqlb_conn *conn, MYSQL_STMT *stmt);
/* Only sends it; the answer is read with sqlb_my_read_sent, after those to what was sent before. An error is left in 'stmt'. */
bool sqlb_my_send_bulk(struct sqlb_conn *conn, MYSQL_STMT *stmt);
/* Is there something to read, or does it come before 'until_ms'? The end of the connection is something, too. */
bool sqlb_my_await(struct sqlb_conn *conn, int64_t until_ms);
/* The next answer; *affected rows. False: an error, left in conn->mysql. */
bool sqlb_my_read_sent(struct sqlb_conn *conn, uint64_t *affected);
void sqlb_my_bulk_fini(struct sqlb_conn *conn);

/* Both in one, errors judged as of a statement that may be repeated. *affected (may be NULL): rows matched. */
enum sqlb_outcome sqlb_my_run(struct sqlb_conn *conn, enum sqlb_my_statement statement, size_t items,
			      uint64_t *affected, struct ks_err *err);
/* Likewise for a statement whose rows are numbers, at most SQLB_MY_NUMBERS_MAX of them; visited as they arrive. */
enum { SQLB_MY_NUMBERS_MAX = 4 };
typedef bool sqlb_my_numbers_fn(void *ctx, const int64_t *numbers);
enum sqlb_outcome sqlb_my_query(struct sqlb_conn *conn, enum sqlb_my_statement statement, size_t items, size_t columns,
				sqlb_my_numbers_fn *visit, void *ctx, struct ks_err *err);
/* The first row of it; *found: there is one. */
enum sqlb_outcome sqlb_my_query_one(struct sqlb_conn *conn, enum sqlb_my_statement statement, size_t columns,
				    int64_t *numbers, bool *found, struct ks_err *err);
/* SQL text without parameters; results are thrown away, or (text not NULL) the first column of the first row is kept. */
enum sqlb_outcome sqlb_my_exec(struct sqlb_conn *conn, const char *sql, struct ks_err *err);
enum sqlb_outcome sqlb_my_ask(struct sqlb_conn *conn, const char *sql, char *text, size_t text_size, bool *found,
			      struct ks_err *err);

enum sqlb_outcome sqlb_my_start(struct sqlb_conn *conn, struct ks_err *err);
/* OK: it is durable. Errors are judged by the caller: sqlb_my_judge_commit. */
bool sqlb_my_commit(struct sqlb_conn *conn);
/* Ends a transaction that failed, if there is one; drops the connection when even that fails. */
void sqlb_my_roll_back(struct sqlb_conn *conn);

/* ---- mysql_error.c ---- */

/* Drops the connection and says BROKEN: data or schema that we cannot have written. */
enum sqlb_outcome sqlb_my_broken(struct sqlb_conn *conn, struct ks_err *err, const char *what);
/*
 * What an error means for a statement that changed nothing, or may be repeated: AWAY or BROKEN; CONFLICT when the
 * transaction was undone for the sake of another one. Drops the connection unless it is as good as before.
 */
enum sqlb_outcome sqlb_my_judge(struct sqlb_conn *conn, unsigned number, const char *text, struct ks_err *err);
enum sqlb_outcome sqlb_my_judge_stmt(struct sqlb_conn *conn, MYSQL_STMT *stmt, struct ks_err *err);
enum sqlb_outcome sqlb_my_judge_conn(struct sqlb_conn *conn, struct ks_err *err);
/* The same for what makes the server commit: DOUBT unless the error says for certain that nothing was changed. */
enum sqlb_outcome sqlb_my_judge_commit(struct sqlb_conn *conn, unsigned number, const char *text, struct ks_err *err);
/* CONFLICT is an answer to appends only: AWAY. */
enum sqlb_outcome sqlb_my_no_conflict(enum sqlb_outcome outcome);

static inline size_t sqlb_my_row_bytes(const struct sqlb_row *row)
{
	return row->key.size + row->value.size + row->payload.size;
}

/* ---- mysql_append.c ---- */

/* The parameters of one row of the log. */
void sqlb_my_param_row(struct sqlb_conn *conn, const struct sqlb_row *row);
/* How many of the rows fit into one statement; 0: the first one does not. */
size_t sqlb_my_chunk(const struct sqlb_conn *conn, const struct sqlb_row *rows, size_t count, size_t most);
enum sqlb_outcome sqlb_my_too_large(const struct sqlb_conn *conn, const struct sqlb_row *row, struct ks_err *err);

/* ---- the slots of the vtable ---- */

enum sqlb_outcome sqlb_my_migrate(struct sqlb_conn *conn, uint64_t *cluster_id, struct ks_err *err);
enum sqlb_outcome sqlb_my_append(struct sqlb_conn *conn, const struct sqlb_append *append, bool *appended,
				 struct ks_err *err);
enum sqlb_outcome sqlb_my_append_send(struct sqlb_conn *conn, const struct sqlb_append *append, struct ks_err *err);
enum sqlb_outcome sqlb_my_append_receive(struct sqlb_conn *conn, int wait_ms, bool *pending, bool *appended,
					 struct ks_err *err);
enum sqlb_outcome sqlb_my_load(struct sqlb_conn *conn, sqlb_next_fn *next, void *ctx, struct ks_err *err);
enum sqlb_outcome sqlb_my_read_head(struct sqlb_conn *conn, struct sqlb_head *head, struct ks_err *err);
enum sqlb_outcome sqlb_my_read_rows(struct sqlb_conn *conn, int64_t after, int64_t to, size_t max_bytes,
				    sqlb_row_fn *visit, void *ctx, bool *more, struct ks_err *err);
enum sqlb_outcome sqlb_my_read_at(struct sqlb_conn *conn, const struct sqlb_loc *locs, size_t count, sqlb_row_fn *visit,
				  void *ctx, struct ks_err *err);
enum sqlb_outcome sqlb_my_trim(struct sqlb_conn *conn, const struct sqlb_loc *locs, size_t count, struct ks_err *err);
enum sqlb_outcome sqlb_my_wait_for_change(struct sqlb_conn *conn, int64_t after, int wait_ms, struct ks_err *err);
void sqlb_my_cancel(struct sqlb_conn *conn);

enum sqlb_outcome sqlb_my_lease_touch(struct sqlb_conn *conn, struct sqlb_lease *leases, size_t count,
				      struct ks_err *err);
enum sqlb_outcome sqlb_my_lease_ensure(struct sqlb_conn *conn, const struct sqlb_lease *leases, size_t count,
				       struct ks_err *err);
enum sqlb_outcome sqlb_my_lease_refresh_all(struct sqlb_conn *conn, struct ks_err *err);
enum sqlb_outcome sqlb_my_lease_list(struct sqlb_conn *conn, size_t limit, sqlb_lease_fn *visit, void *ctx,
				     struct ks_err *err);
enum sqlb_outcome sqlb_my_lease_read(struct sqlb_conn *conn, struct sqlb_lease *leases, size_t count,
				     struct ks_err *err);
enum sqlb_outcome sqlb_my_lease_drop(struct sqlb_conn *conn, const int64_t *ids, size_t count, struct ks_err *err);
enum sqlb_outcome sqlb_my_duty_take(struct sqlb_conn *conn, int64_t self, int ttl_ms, struct sqlb_duty *duty,
				    struct ks_err *err);
enum sqlb_outcome sqlb_my_duty_pass(struct sqlb_conn *conn, int64_t self, int64_t to, int ttl_ms, struct ks_err *err);
enum sqlb_outcome sqlb_my_member_beat(struct sqlb_conn *conn, const struct sqlb_member *self, int ttl_ms,
				      struct ks_err *err);
enum sqlb_outcome sqlb_my_member_list(struct sqlb_conn *conn, sqlb_member_fn *visit, void *ctx, struct ks_err *err);
enum sqlb_outcome sqlb_my_size(struct sqlb_conn *conn, struct sqlb_size *size, struct ks_err *err);
enum sqlb_outcome sqlb_my_defragment(struct sqlb_conn *conn, bool all, struct ks_err *err);

/* A list of ids, filled up to the bucket with the first one. 'extra' parameters will follow. */
void sqlb_my_param_ids(struct sqlb_conn *conn, const int64_t *ids, size_t count, size_t extra);
/* The leases of an append, inside its transaction. */
enum sqlb_outcome sqlb_my_leases_put(struct sqlb_conn *conn, const struct sqlb_lease *leases, size_t count,
				     enum sqlb_my_statement statement, struct ks_err *err);
enum sqlb_outcome sqlb_my_leases_delete(struct sqlb_conn *conn, const int64_t *ids, size_t count,
					enum sqlb_my_statement statement, size_t *deleted, struct ks_err *err);

#endif
