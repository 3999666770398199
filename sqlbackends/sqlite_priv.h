/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the files of the SQLite backend share.
 *
 *   sqlite.c        the vtable, the URL, the lock file, the schema
 *   sqlite_conn.c   one connection, transactions, error codes
 *   sqlite_wal.c    the write-ahead log's room, the checkpointer
 *   sqlite_log.c    append, reading, trimming, waiting for change
 *   sqlite_side.c   leases, duty, members, size
 *   sqlite_leases.c the deadlines of leases, in memory
 *
 * A writing call is begin_write … end_write (or end_side), a reading one is ready … end_read. Functions in between return
 * SQLite's codes; the end turns them into an outcome.
 */
#ifndef SQLB_SQLITE_PRIV_H
#define SQLB_SQLITE_PRIV_H

#include <pthread.h>
#include <sqlite3.h>
#include <sys/types.h>

#include "base/thread.h"
#include "sqlb.h"

#define CHECKPOINT_PAGES 1000 /* 8 MB of WAL: 32 MB is no faster and makes single commits wait 30 ms instead of 10 */

/* Prepared on a connection when it uses them first; the texts are in sqlite_conn.c. */
enum sqlb_lite_statement {
	LITE_BEGIN_WRITE,
	LITE_BEGIN_READ,
	LITE_COMMIT,
	LITE_ROLLBACK,
	LITE_INSERT_ROW,
	LITE_HEAD,
	LITE_ROWS,
	LITE_ROW_AT,
	LITE_TRIM,
	LITE_LEASE_PUT,
	LITE_LEASE_ENSURE,
	LITE_LEASE_DROP,
	LITE_LEASE_IDS,
	LITE_LEASE_REBASE,
	LITE_DUTY_TAKE,
	LITE_DUTY_REFRESH,
	LITE_DUTY_READ,
	LITE_DUTY_PASS,
	LITE_MEMBER_PUT,
	LITE_MEMBER_DROP,
	LITE_MEMBER_LIST,
	LITE_SIZE,
	LITE_STATEMENT_COUNT
};

/* Deadlines: sqlite_leases.c. */
struct sqlb_lite_leases {
	struct ks_mutex mutex; /* guards the rest; a leaf */
	struct sqlb_lite_lease *slots;
	size_t room, count;
	bool known; /* has the leases of the file's table, no more and no less */
};

struct sqlb_db {
	char *path;
	char *lock_path;
	int lock_fd;
	int64_t clock_offset_ms; /* Unix time less monotonic time when it was opened */

	struct ks_mutex mutex; /* guards the rest; a leaf: nothing is locked and no SQL runs while it is held */
	struct ks_cond turn_given;
	uint64_t next_ticket, serving; /* who may write: tickets in the order of arrival */
	bool rebased;                  /* the deadlines are this process's */
	int64_t newest;                /* position of the log's end; -1: not known yet */
	struct ks_cond changed;        /* newest grew, or a connection was cancelled */

	pthread_t checkpointer;
	bool stop;
	int wal_pages, checkpoint_at;
	struct ks_cond wal_grew;

	dev_t device; /* which file it is, known with the first connection: it must stay the same one */
	ino_t inode;
	bool opened;

	struct sqlb_lite_leases leases;
};

struct sqlb_conn {
	struct sqlb_db *db;
	sqlite3 *handle; /* NULL: not connected */
	sqlite3_stmt *statements[LITE_STATEMENT_COUNT];
	bool relaxed;   /* synchronous=NORMAL */
	bool cancelled; /* under db->mutex */
};

/* An array of integers and its length, as two arguments. */
#define INTS(...) ((const int64_t[]){__VA_ARGS__}), (int)(sizeof((const int64_t[]){__VA_ARGS__}) / sizeof(int64_t))

enum sqlb_lite_durability { LITE_DURABLE, LITE_RELAXED };

/* ---- sqlite_conn.c ---- */

/* The database's clock, milliseconds. */
int64_t sqlb_lite_now(const struct sqlb_db *db);
/* What a code means to the log; OK for SQLITE_ROW and SQLITE_DONE. */
enum sqlb_outcome sqlb_lite_outcome(int rc);
/* Closes the connection; the next use opens it again. */
void sqlb_lite_drop(struct sqlb_conn *conn);
/* The outcome of a failed call and its text; drops the connection where that helps. */
enum sqlb_outcome sqlb_lite_failed(struct sqlb_conn *conn, const char *op, int rc, struct ks_err *err);
int sqlb_lite_exec(struct sqlb_conn *conn, const char *sql);
/* Connects when it is not. */
enum sqlb_outcome sqlb_lite_ready(struct sqlb_conn *conn, const char *op, struct ks_err *err);
int sqlb_lite_prepare(struct sqlb_conn *conn, enum sqlb_lite_statement which, sqlite3_stmt **statement);
int sqlb_lite_bind(sqlite3_stmt *statement, const int64_t *values, int count);
/* Runs a statement to its end. SQLITE_ROW: it gave a row, whose first integers are in 'out'; SQLITE_OK: none. */
int sqlb_lite_ask(struct sqlb_conn *conn, enum sqlb_lite_statement which, const int64_t *in, int in_count, int64_t *out,
		  int columns);
int sqlb_lite_run(struct sqlb_conn *conn, enum sqlb_lite_statement which, const int64_t *in, int in_count);
/* A column as bytes, until the next step: data is NULL for SQL NULL only. */
struct ks_slice sqlb_lite_slice(sqlite3_stmt *statement, int column);
/* One writer at a time, in the order of arrival. */
void sqlb_lite_take_turn(struct sqlb_db *db);
void sqlb_lite_give_turn(struct sqlb_db *db);
/* OK: the caller has the turn and a transaction, which one of the ends ends. */
enum sqlb_outcome sqlb_lite_begin_write(struct sqlb_conn *conn, enum sqlb_lite_durability durability, const char *op,
					struct ks_err *err);
void sqlb_lite_roll_back(struct sqlb_conn *conn);
/* Commits when 'rc' is good and rolls back when not. DOUBT: SQLite itself cannot know. The caller still has the turn. */
enum sqlb_outcome sqlb_lite_commit(struct sqlb_conn *conn, int rc, const char *op, struct ks_err *err);
/* The same, and gives the turn away. */
enum sqlb_outcome sqlb_lite_end_write(struct sqlb_conn *conn, int rc, const char *op, struct ks_err *err);
/* The same for what may be repeated at will: no DOUBT. */
enum sqlb_outcome sqlb_lite_end_side(struct sqlb_conn *conn, int rc, const char *op, struct ks_err *err);
/* The second half of that, behind sqlb_lite_commit. */
enum sqlb_outcome sqlb_lite_end_side_turn(struct sqlb_conn *conn, enum sqlb_outcome outcome) KS_MUST_CHECK;
/* Whether the file is still the one that was there first; not when it is not known. */
bool sqlb_lite_file_moved(struct sqlb_conn *conn);
enum sqlb_outcome sqlb_lite_moved(struct sqlb_conn *conn, struct ks_err *err);
/* The end of a reading statement, or of a transaction of several. */
enum sqlb_outcome sqlb_lite_end_read(struct sqlb_conn *conn, int rc, const char *op, struct ks_err *err);

/* ---- sqlite_wal.c ---- */

/*
 * Makes the write-ahead log as long as it gets before it starts over, if it is shorter. In a transaction that writes: nobody else, no other program
 * either, adds to the log then, or takes something away.
 */
void sqlb_lite_make_room(struct sqlb_conn *conn);
/* The thread: runs until db->stop. */
void *sqlb_lite_checkpointer(void *arg);

/* ---- sqlite_log.c ---- */

/* The log ends at 'position' at least: wakes those who wait for that. */
void sqlb_lite_learn_newest(struct sqlb_db *db, int64_t position);
enum sqlb_outcome sqlb_lite_append(struct sqlb_conn *conn, const struct sqlb_append *append, bool *appended,
				   struct ks_err *err);
enum sqlb_outcome sqlb_lite_load(struct sqlb_conn *conn, sqlb_next_fn *next, void *ctx, struct ks_err *err);
enum sqlb_outcome sqlb_lite_read_head(struct sqlb_conn *conn, struct sqlb_head *head, struct ks_err *err);
enum sqlb_outcome sqlb_lite_read_rows(struct sqlb_conn *conn, int64_t after, int64_t to, size_t max_bytes,
				      sqlb_row_fn *visit, void *ctx, bool *more, struct ks_err *err);
enum sqlb_outcome sqlb_lite_read_at(struct sqlb_conn *conn, const struct sqlb_loc *locs, size_t count,
				    sqlb_row_fn *visit, void *ctx, struct ks_err *err);
enum sqlb_outcome sqlb_lite_trim(struct sqlb_conn *conn, const struct sqlb_loc *locs, size_t count, struct ks_err *err);
enum sqlb_outcome sqlb_lite_wait_for_change(struct sqlb_conn *conn, int64_t after, int wait_ms, struct ks_err *err);
void sqlb_lite_cancel(struct sqlb_conn *conn);

/* ---- sqlite_leases.c ---- */

void sqlb_lite_leases_init(struct sqlb_lite_leases *leases);
void sqlb_lite_leases_fini(struct sqlb_lite_leases *leases);
bool sqlb_lite_leases_known(struct sqlb_db *db);
/* With the turn, before any other of these: reads the table of the file when it is not known. SQLite's code. */
int sqlb_lite_leases_know(struct sqlb_conn *conn);
/* With the turn, before the transaction: room for what is to be put after it. False: no memory. */
bool sqlb_lite_leases_reserve(struct sqlb_db *db, size_t more);
/* Are all of these there, and past their deadlines? That stays so as long as the caller has the turn. */
bool sqlb_lite_leases_past(struct sqlb_db *db, const int64_t *ids, size_t count, int64_t now);
/* With the turn, after the commit. Ensure leaves alone those that there are. */
void sqlb_lite_leases_put(struct sqlb_db *db, const struct sqlb_lease *added, size_t count, int64_t now);
void sqlb_lite_leases_ensure(struct sqlb_db *db, const struct sqlb_lease *added, size_t count, int64_t now);
void sqlb_lite_leases_drop(struct sqlb_db *db, const int64_t *ids, size_t count);
void sqlb_lite_leases_refresh(struct sqlb_db *db);
/* With the turn: which there are is not known any more. Drop first whatever a commit in doubt was about. */
void sqlb_lite_leases_doubt(struct sqlb_db *db);
/* Any time after sqlb_lite_leases_know. As lease_touch and lease_read (sqlb.h). */
void sqlb_lite_leases_touch(struct sqlb_db *db, struct sqlb_lease *touched, size_t count);
void sqlb_lite_leases_read(struct sqlb_db *db, struct sqlb_lease *wanted, size_t count);
/* Those with the soonest deadlines, in their order; limit 0: all. The caller frees. False: no memory. */
bool sqlb_lite_leases_soonest(struct sqlb_db *db, size_t limit, struct sqlb_lease **soonest, size_t *count);

/* ---- sqlite_side.c ---- */

enum sqlb_outcome sqlb_lite_lease_touch(struct sqlb_conn *conn, struct sqlb_lease *leases, size_t count,
					struct ks_err *err);
enum sqlb_outcome sqlb_lite_lease_ensure(struct sqlb_conn *conn, const struct sqlb_lease *leases, size_t count,
					 struct ks_err *err);
enum sqlb_outcome sqlb_lite_lease_refresh_all(struct sqlb_conn *conn, struct ks_err *err);
enum sqlb_outcome sqlb_lite_lease_list(struct sqlb_conn *conn, size_t limit, sqlb_lease_fn *visit, void *ctx,
				       struct ks_err *err);
enum sqlb_outcome sqlb_lite_lease_read(struct sqlb_conn *conn, struct sqlb_lease *leases, size_t count,
				       struct ks_err *err);
enum sqlb_outcome sqlb_lite_lease_drop(struct sqlb_conn *conn, const int64_t *ids, size_t count, struct ks_err *err);
enum sqlb_outcome sqlb_lite_duty_take(struct sqlb_conn *conn, int64_t self, int ttl_ms, struct sqlb_duty *duty,
				      struct ks_err *err);
enum sqlb_outcome sqlb_lite_duty_pass(struct sqlb_conn *conn, int64_t self, int64_t to, int ttl_ms, struct ks_err *err);
enum sqlb_outcome sqlb_lite_member_beat(struct sqlb_conn *conn, const struct sqlb_member *self, int ttl_ms,
					struct ks_err *err);
enum sqlb_outcome sqlb_lite_member_list(struct sqlb_conn *conn, sqlb_member_fn *visit, void *ctx, struct ks_err *err);
enum sqlb_outcome sqlb_lite_size(struct sqlb_conn *conn, struct sqlb_size *size, struct ks_err *err);
enum sqlb_outcome sqlb_lite_defragment(struct sqlb_conn *conn, bool all, struct ks_err *err);

#endif
