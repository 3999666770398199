/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One SQLite connection: connect, prepared statements, transactions in turn, and what SQLite's codes mean. See sqlite.c for the why.
 */
#include "sqlite_priv.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/metrics.h"
#include "base/panic.h"

#define BUSY_TIMEOUT_MS 2000

#define ROW_COLUMNS \
	"position, sub, rows, kind, revision, key, value, create_revision, version, lease, payload, writer, batch"

static const char *const statement_texts[LITE_STATEMENT_COUNT] = {
	[LITE_BEGIN_WRITE] = "BEGIN IMMEDIATE",
	[LITE_BEGIN_READ] = "BEGIN",
	[LITE_COMMIT] = "COMMIT",
	[LITE_ROLLBACK] = "ROLLBACK",
	[LITE_INSERT_ROW] = "INSERT INTO kineshim_log (" ROW_COLUMNS ", created_at)"
			    " VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14)",
	[LITE_HEAD] =
		"SELECT position, revision, writer, batch FROM kineshim_log ORDER BY position DESC, sub DESC LIMIT 1",
	[LITE_ROWS] = "SELECT " ROW_COLUMNS " FROM kineshim_log WHERE position > ?1 AND position <= ?2"
		      " ORDER BY position, sub",
	[LITE_ROW_AT] = "SELECT " ROW_COLUMNS " FROM kineshim_log WHERE position = ?1 AND sub = ?2",
	[LITE_TRIM] = "DELETE FROM kineshim_log WHERE position = ?1 AND sub = ?2",
	[LITE_LEASE_PUT] = "INSERT OR REPLACE INTO kineshim_lease (id, ttl_ms, deadline) VALUES (?1, ?2, ?3 + ?2)",
	[LITE_LEASE_ENSURE] = "INSERT OR IGNORE INTO kineshim_lease (id, ttl_ms, deadline) VALUES (?1, ?2, ?3 + ?2)",
	[LITE_LEASE_DROP] = "DELETE FROM kineshim_lease WHERE id = ?1",
	[LITE_LEASE_IDS] = "SELECT id, ttl_ms FROM kineshim_lease",
	[LITE_LEASE_REBASE] = "UPDATE kineshim_lease SET deadline = ?1 + ttl_ms",
	[LITE_DUTY_TAKE] = "UPDATE kineshim_duty SET holder = ?1, term = term + 1"
			   " WHERE holder <> ?1 AND (holder = 0 OR deadline < ?2)",
	[LITE_DUTY_REFRESH] = "UPDATE kineshim_duty SET deadline = ?2 WHERE holder = ?1",
	[LITE_DUTY_READ] = "SELECT holder, term, deadline FROM kineshim_duty",
	[LITE_DUTY_PASS] = "UPDATE kineshim_duty SET holder = ?2, term = term + (?2 <> 0 AND ?2 <> ?1), deadline = ?3"
			   " WHERE holder = ?1",
	[LITE_MEMBER_PUT] = "INSERT OR REPLACE INTO kineshim_member (id, name, client_urls, position, deadline)"
			    " VALUES (?1, ?2, ?3, ?4, ?5)",
	[LITE_MEMBER_DROP] = "DELETE FROM kineshim_member WHERE id = ?1 OR deadline < ?2",
	[LITE_MEMBER_LIST] = "SELECT id, name, client_urls, position FROM kineshim_member WHERE deadline >= ?1"
			     " ORDER BY id < 0, id", /* unsigned: those that look negative come last */
	[LITE_SIZE] = "SELECT page_count * page_size, (page_count - freelist_count) * page_size"
		      " FROM pragma_page_count(), pragma_page_size(), pragma_freelist_count()",
};

int64_t sqlb_lite_now(const struct sqlb_db *db)
{
	return ks_clock_now(ks_clock_system()) + db->clock_offset_ms;
}

/* ---- errors ---- */

enum sqlb_outcome sqlb_lite_outcome(int rc)
{
	if (rc == SQLITE_IOERR_CORRUPTFS)
		return SQLB_BROKEN;
	switch (rc & 0xff) {
	case SQLITE_OK:
	case SQLITE_ROW:
	case SQLITE_DONE:
		return SQLB_OK;
	case SQLITE_CORRUPT:
	case SQLITE_NOTADB:
	case SQLITE_FORMAT:
	case SQLITE_SCHEMA:
	case SQLITE_ERROR: /* no such table or column */
	case SQLITE_MISMATCH:
	case SQLITE_CONSTRAINT:
	case SQLITE_RANGE:
	case SQLITE_MISUSE:
		return SQLB_BROKEN;
	default: /* disk, memory, locks, permissions */
		return SQLB_AWAY;
	}
}

void sqlb_lite_drop(struct sqlb_conn *conn)
{
	for (size_t i = 0; i < LITE_STATEMENT_COUNT; i++) {
		sqlite3_finalize(conn->statements[i]);
		conn->statements[i] = NULL;
	}
	if (conn->handle && sqlite3_close(conn->handle) != SQLITE_OK)
		ks_panic(__FILE__, __LINE__, "sqlite3_close: a statement was left");
	conn->handle = NULL;
}

/* Says what went wrong. After most errors the connection starts afresh, which is cheap and forgets any odd state. */
enum sqlb_outcome sqlb_lite_failed(struct sqlb_conn *conn, const char *op, int rc, struct ks_err *err)
{
	enum sqlb_outcome outcome = sqlb_lite_outcome(rc);
	int code = rc & 0xff;

	ks_fail(err, outcome == SQLB_BROKEN ? KS_DATA_LOSS : KS_UNAVAILABLE, "%s: %s: %s (SQLite %d)", conn->db->path,
		op,
		code == SQLITE_BUSY   ? "another program has locked the database"
		: code == SQLITE_FULL ? "the disk is full"
		: conn->handle        ? sqlite3_errmsg(conn->handle)
				      : sqlite3_errstr(rc),
		rc);
	if (code != SQLITE_BUSY && code != SQLITE_FULL && code != SQLITE_LOCKED && code != SQLITE_CONSTRAINT)
		sqlb_lite_drop(conn);
	return outcome;
}

/* ---- connections and statements ---- */

static int wal_hook(void *ctx, sqlite3 *handle, const char *name, int pages)
{
	struct sqlb_db *db = ctx;

	(void)handle;
	(void)name;
	ks_mutex_lock(&db->mutex);
	db->wal_pages = pages;
	if (pages >= db->checkpoint_at)
		ks_cond_signal(&db->wal_grew);
	ks_mutex_unlock(&db->mutex);
	return SQLITE_OK;
}

int sqlb_lite_exec(struct sqlb_conn *conn, const char *sql)
{
	return sqlite3_exec(conn->handle, sql, NULL, NULL, NULL);
}

/*
 * A file that was deleted or replaced still takes the writes of those who have it open, and loses them with the last close;
 * a new file beside the old WAL would be a mixture. So the database is the file that was there first.
 */
enum sqlb_outcome sqlb_lite_moved(struct sqlb_conn *conn, struct ks_err *err)
{
	ks_fail(err, KS_DATA_LOSS, "%s was deleted or replaced while in use: put the same file back, or restart",
		conn->db->path);
	return SQLB_BROKEN;
}

/* Creates the file ourselves when it is missing at first, because SQLite would let everybody read it. */
static void create_file(struct sqlb_db *db)
{
	int fd = -1;

	ks_mutex_lock(&db->mutex);
	if (!db->opened)
		fd = open(db->path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	ks_mutex_unlock(&db->mutex);
	if (fd >= 0)
		close(fd); /* it is ours and new: no lock of SQLite's goes with this */
}

/* After a connection was opened: is it the same file as before? */
static bool same_file(struct sqlb_db *db)
{
	struct stat now;
	bool same = stat(db->path, &now) == 0;

	ks_mutex_lock(&db->mutex);
	if (same && !db->opened) {
		db->device = now.st_dev;
		db->inode = now.st_ino;
		db->opened = true;
	}
	same = same && db->device == now.st_dev && db->inode == now.st_ino;
	ks_mutex_unlock(&db->mutex);
	return same;
}

enum sqlb_outcome sqlb_lite_ready(struct sqlb_conn *conn, const char *op, struct ks_err *err)
{
	enum sqlb_outcome outcome;
	int rc;

	if (conn->handle)
		return SQLB_OK;
	create_file(conn->db);
	rc = sqlite3_open_v2(conn->db->path, &conn->handle,
			     SQLITE_OPEN_READWRITE | SQLITE_OPEN_NOMUTEX | SQLITE_OPEN_EXRESCODE, NULL);
	if (rc == SQLITE_OK && !same_file(conn->db)) {
		sqlb_lite_drop(conn);
		return sqlb_lite_moved(conn, err);
	}
	if (rc == SQLITE_OK)
		rc = sqlite3_busy_timeout(conn->handle, BUSY_TIMEOUT_MS);
	if (rc == SQLITE_OK)
		rc = sqlb_lite_exec(conn,
				    "PRAGMA synchronous = FULL; PRAGMA cache_size = -8192; PRAGMA trusted_schema = OFF;"
				    "PRAGMA journal_size_limit = 67108864");
	if (rc != SQLITE_OK) {
		outcome = sqlb_lite_failed(conn, op, rc, err);
		sqlb_lite_drop(conn);
		return outcome;
	}
	KS_COUNT(DB_CONNECTS, 1);
	conn->relaxed = false;
	sqlite3_wal_hook(conn->handle, wal_hook, conn->db); /* instead of a checkpoint in the commit */
	return SQLB_OK;
}

int sqlb_lite_prepare(struct sqlb_conn *conn, enum sqlb_lite_statement which, sqlite3_stmt **statement)
{
	int rc = SQLITE_OK;

	if (!conn->statements[which])
		rc = sqlite3_prepare_v3(conn->handle, statement_texts[which], -1, SQLITE_PREPARE_PERSISTENT,
					&conn->statements[which], NULL);
	*statement = conn->statements[which];
	return rc;
}

int sqlb_lite_bind(sqlite3_stmt *statement, const int64_t *values, int count)
{
	int rc = SQLITE_OK;

	for (int i = 0; i < count && rc == SQLITE_OK; i++)
		rc = sqlite3_bind_int64(statement, i + 1, values[i]);
	return rc;
}

/* Runs a statement to its end. SQLITE_ROW: it gave a row, of which the first 'columns' integers are in 'out'. */
int sqlb_lite_ask(struct sqlb_conn *conn, enum sqlb_lite_statement which, const int64_t *in, int in_count, int64_t *out,
		  int columns)
{
	sqlite3_stmt *statement;
	bool row = false;
	int rc = sqlb_lite_prepare(conn, which, &statement);

	if (rc != SQLITE_OK)
		return rc;
	rc = sqlb_lite_bind(statement, in, in_count);
	if (rc == SQLITE_OK) {
		while ((rc = sqlite3_step(statement)) == SQLITE_ROW) {
			for (int i = 0; i < columns; i++)
				out[i] = sqlite3_column_int64(statement, i);
			row = true;
		}
	}
	sqlite3_reset(statement);
	if (rc != SQLITE_DONE)
		return rc;
	return row ? SQLITE_ROW : SQLITE_OK;
}

int sqlb_lite_run(struct sqlb_conn *conn, enum sqlb_lite_statement which, const int64_t *in, int in_count)
{
	return sqlb_lite_ask(conn, which, in, in_count, NULL, 0);
}

struct ks_slice sqlb_lite_slice(sqlite3_stmt *statement, int column)
{
	const void *data;

	if (sqlite3_column_type(statement, column) == SQLITE_NULL)
		return ks_slice_of(NULL, 0);
	data = sqlite3_column_blob(statement, column); /* NULL when it is empty */
	return ks_slice_of(data ? data : "", (size_t)sqlite3_column_bytes(statement, column));
}

/* ---- transactions ---- */

void sqlb_lite_take_turn(struct sqlb_db *db)
{
	uint64_t ticket;

	ks_mutex_lock(&db->mutex);
	ticket = db->next_ticket++;
	while (db->serving != ticket)
		ks_cond_wait(&db->turn_given, &db->mutex, -1);
	ks_mutex_unlock(&db->mutex);
}

void sqlb_lite_give_turn(struct sqlb_db *db)
{
	ks_mutex_lock(&db->mutex);
	if (++db->serving != db->next_ticket)
		ks_cond_broadcast(&db->turn_given);
	ks_mutex_unlock(&db->mutex);
}

bool sqlb_lite_file_moved(struct sqlb_conn *conn)
{
	int has_moved = 0;

	return sqlite3_file_control(conn->handle, "main", SQLITE_FCNTL_HAS_MOVED, &has_moved) == SQLITE_OK && has_moved;
}

/* With OK the caller has the turn and an open transaction, and ends with write_end. */
enum sqlb_outcome sqlb_lite_begin_write(struct sqlb_conn *conn, enum sqlb_lite_durability durability, const char *op,
					struct ks_err *err)
{
	enum sqlb_outcome outcome;
	int rc = SQLITE_OK;

	sqlb_lite_take_turn(conn->db);
	outcome = sqlb_lite_ready(conn, op, err);
	if (outcome != SQLB_OK) {
		sqlb_lite_give_turn(conn->db);
		return outcome;
	}
	if (sqlb_lite_file_moved(conn)) {
		sqlb_lite_give_turn(conn->db);
		return sqlb_lite_moved(conn, err);
	}
	if (conn->relaxed != (durability == LITE_RELAXED)) {
		rc = sqlb_lite_exec(conn, durability == LITE_RELAXED ? "PRAGMA synchronous = NORMAL"
								     : "PRAGMA synchronous = FULL");
		if (rc == SQLITE_OK)
			conn->relaxed = durability == LITE_RELAXED;
	}
	if (rc == SQLITE_OK)
		rc = sqlb_lite_run(conn, LITE_BEGIN_WRITE, NULL, 0);
	if (rc == SQLITE_OK)
		return SQLB_OK;
	outcome = sqlb_lite_failed(conn, op, rc, err);
	sqlb_lite_give_turn(conn->db);
	return outcome;
}

void sqlb_lite_roll_back(struct sqlb_conn *conn)
{
	if (conn->handle && !sqlite3_get_autocommit(conn->handle) &&
	    sqlb_lite_run(conn, LITE_ROLLBACK, NULL, 0) != SQLITE_OK)
		sqlb_lite_drop(conn); /* which rolls back, too */
}

/*
 * Commits when 'rc' is good, else rolls back.
 *
 * A COMMIT that failed is not always undone for good: when all was written and the sync of the WAL or the update of
 * its index failed, SQLite goes on without the transaction and its frames will be overwritten by the next one; but a
 * crash before that lets the recovery find them complete. SQLITE_FULL means that the last frame was not written, and
 * SQLITE_BUSY that nothing was.
 */
enum sqlb_outcome sqlb_lite_commit(struct sqlb_conn *conn, int rc, const char *op, struct ks_err *err)
{
	enum sqlb_outcome outcome = SQLB_OK;
	bool committing = sqlb_lite_outcome(rc) == SQLB_OK;

	if (committing)
		rc = sqlb_lite_run(conn, LITE_COMMIT, NULL, 0);
	if (rc != SQLITE_OK) {
		outcome = sqlb_lite_failed(conn, op, rc, err);
		sqlb_lite_roll_back(conn);
		if (committing && (rc & 0xff) != SQLITE_BUSY && (rc & 0xff) != SQLITE_FULL)
			outcome = SQLB_DOUBT;
	}
	return outcome;
}

enum sqlb_outcome sqlb_lite_end_write(struct sqlb_conn *conn, int rc, const char *op, struct ks_err *err)
{
	enum sqlb_outcome outcome = sqlb_lite_commit(conn, rc, op, err);

	sqlb_lite_give_turn(conn->db);
	return outcome;
}

enum sqlb_outcome sqlb_lite_end_side_turn(struct sqlb_conn *conn, enum sqlb_outcome outcome)
{
	sqlb_lite_give_turn(conn->db);
	return outcome == SQLB_DOUBT ? SQLB_AWAY : outcome;
}

enum sqlb_outcome sqlb_lite_end_side(struct sqlb_conn *conn, int rc, const char *op, struct ks_err *err)
{
	return sqlb_lite_end_side_turn(conn, sqlb_lite_commit(conn, rc, op, err));
}

/* The end of a single reading statement or of a transaction of several. */
enum sqlb_outcome sqlb_lite_end_read(struct sqlb_conn *conn, int rc, const char *op, struct ks_err *err)
{
	enum sqlb_outcome outcome = SQLB_OK;

	if (sqlb_lite_outcome(rc) == SQLB_OK && !sqlite3_get_autocommit(conn->handle))
		rc = sqlb_lite_run(conn, LITE_COMMIT, NULL, 0);
	if (sqlb_lite_outcome(rc) != SQLB_OK) {
		outcome = sqlb_lite_failed(conn, op, rc, err);
		sqlb_lite_roll_back(conn);
	}
	return outcome;
}
