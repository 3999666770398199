/* SPDX-License-Identifier: Apache-2.0 */
/*
 * SQLite: the embedded default. One server process owns the file; people may read it meanwhile.
 *
 * Ownership: an open-file-description lock on "<file>.lock" keeps a second server out. So nobody else appends
 * (SQLB_EXCLUSIVE), a wait for a change is a condition variable, and this process's clock is the database's clock: it
 * begins as Unix time and then follows the monotonic clock. Deadlines of an earlier process mean nothing to it; the first
 * migrate gives every lease its whole ttl again, frees the duty and forgets the members, who are all dead.
 *
 * Writing: WAL with synchronous=FULL, one transaction at a time in the order of arrival (a turn), so that our threads
 * never meet SQLITE_BUSY and a busy writer cannot starve keepalives; only another program's lock can, and after
 * BUSY_TIMEOUT_MS that is AWAY. The side tables need not survive a power cut (see above), so their transactions do not
 * wait for the disk. A checkpointer thread copies the WAL back beside the writer and takes a turn only for what
 * is left at the end; without that turn a WAL under steady load would never start over.
 *
 * Layout, measured: a rowid table with the primary key as its index. WITHOUT ROWID has one tree less and the same speed
 * for small rows, but it is an index to SQLite, keeps little of a row in its page, and was 3 times slower with
 * values of 2 kB. Pages of 8 kB are the middle between a single small commit and large values.
 */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <sqlite3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/diag.h"
#include "base/panic.h"
#include "base/thread.h"
#include "sqlb.h"
#include "url.h"

#define BUSY_TIMEOUT_MS 2000
#define MEMBER_LINGER_MS (3600 * 1000)
#define CHECKPOINT_PAGES 1000 /* 8 MB of WAL: 32 MB is no faster and makes single commits wait 30 ms instead of 10 */
#define APPLICATION_ID 0x4b53484d /* "KSHM", in the file's header */
#define SCHEMA_VERSION 1

static const char schema[] =
#include "schema/sqlite.sql.inc"
	;

enum statement {
	BEGIN_WRITE,
	BEGIN_READ,
	COMMIT,
	ROLLBACK,
	INSERT_ROW,
	HEAD,
	ROWS,
	ROW_AT,
	TRIM,
	LEASE_PUT,
	LEASE_ENSURE,
	LEASE_DROP,
	LEASE_EXPIRED,
	LEASE_TOUCH,
	LEASE_REFRESH_ALL,
	LEASE_LIST,
	LEASE_READ,
	DUTY_TAKE,
	DUTY_REFRESH,
	DUTY_READ,
	DUTY_PASS,
	MEMBER_PUT,
	MEMBER_DROP,
	MEMBER_LIST,
	SIZE,
	STATEMENT_COUNT
};

#define ROW_COLUMNS \
	"position, sub, rows, kind, revision, key, value, create_revision, version, lease, payload, writer, batch"

static const char *const statement_texts[STATEMENT_COUNT] = {
	[BEGIN_WRITE] = "BEGIN IMMEDIATE",
	[BEGIN_READ] = "BEGIN",
	[COMMIT] = "COMMIT",
	[ROLLBACK] = "ROLLBACK",
	[INSERT_ROW] = "INSERT INTO kineshim_log (" ROW_COLUMNS ", created_at)"
		       " VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14)",
	[HEAD] = "SELECT position, revision, writer, batch FROM kineshim_log ORDER BY position DESC, sub DESC LIMIT 1",
	[ROWS] = "SELECT " ROW_COLUMNS " FROM kineshim_log WHERE position > ?1 AND position <= ?2"
		 " ORDER BY position, sub",
	[ROW_AT] = "SELECT " ROW_COLUMNS " FROM kineshim_log WHERE position = ?1 AND sub = ?2",
	[TRIM] = "DELETE FROM kineshim_log WHERE position = ?1 AND sub = ?2",
	[LEASE_PUT] = "INSERT OR REPLACE INTO kineshim_lease (id, ttl_ms, deadline) VALUES (?1, ?2, ?3 + ?2)",
	[LEASE_ENSURE] = "INSERT OR IGNORE INTO kineshim_lease (id, ttl_ms, deadline) VALUES (?1, ?2, ?3 + ?2)",
	[LEASE_DROP] = "DELETE FROM kineshim_lease WHERE id = ?1",
	[LEASE_EXPIRED] = "DELETE FROM kineshim_lease WHERE id = ?1 AND deadline < ?2",
	[LEASE_TOUCH] = "UPDATE kineshim_lease SET deadline = ?2 + ttl_ms WHERE id = ?1 AND deadline >= ?2"
			" RETURNING ttl_ms",
	[LEASE_REFRESH_ALL] = "UPDATE kineshim_lease SET deadline = ?1 + ttl_ms",
	[LEASE_LIST] = "SELECT id, ttl_ms, deadline FROM kineshim_lease ORDER BY deadline, id LIMIT ?1",
	[LEASE_READ] = "SELECT ttl_ms, deadline FROM kineshim_lease WHERE id = ?1",
	[DUTY_TAKE] = "UPDATE kineshim_duty SET holder = ?1, term = term + 1"
		      " WHERE holder <> ?1 AND (holder = 0 OR deadline < ?2)",
	[DUTY_REFRESH] = "UPDATE kineshim_duty SET deadline = ?2 WHERE holder = ?1",
	[DUTY_READ] = "SELECT holder, term FROM kineshim_duty",
	[DUTY_PASS] = "UPDATE kineshim_duty SET holder = ?2, term = term + (?2 <> 0 AND ?2 <> ?1), deadline = ?3"
		      " WHERE holder = ?1",
	[MEMBER_PUT] = "INSERT OR REPLACE INTO kineshim_member (id, name, client_urls, position, deadline)"
		       " VALUES (?1, ?2, ?3, ?4, ?5)",
	[MEMBER_DROP] = "DELETE FROM kineshim_member WHERE id = ?1 OR deadline < ?2",
	[MEMBER_LIST] = "SELECT id, name, client_urls, position FROM kineshim_member WHERE deadline >= ?1"
			" ORDER BY id < 0, id", /* unsigned: those that look negative come last */
	[SIZE] = "SELECT page_count * page_size, (page_count - freelist_count) * page_size"
		 " FROM pragma_page_count(), pragma_page_size(), pragma_freelist_count()",
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
};

struct sqlb_conn {
	struct sqlb_db *db;
	sqlite3 *handle; /* NULL: not connected */
	sqlite3_stmt *statements[STATEMENT_COUNT];
	bool relaxed;   /* synchronous=NORMAL */
	bool cancelled; /* under db->mutex */
};

static int64_t now_ms(const struct sqlb_db *db)
{
	return ks_clock_now(ks_clock_system()) + db->clock_offset_ms;
}

/* ---- errors ---- */

static enum sqlb_outcome outcome_of(int rc)
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

static void conn_close(struct sqlb_conn *conn)
{
	for (size_t i = 0; i < STATEMENT_COUNT; i++) {
		sqlite3_finalize(conn->statements[i]);
		conn->statements[i] = NULL;
	}
	if (conn->handle && sqlite3_close(conn->handle) != SQLITE_OK)
		ks_panic(__FILE__, __LINE__, "sqlite3_close: a statement was left");
	conn->handle = NULL;
}

/* Says what went wrong. After most errors the connection starts afresh, which is cheap and forgets any odd state. */
static enum sqlb_outcome failed(struct sqlb_conn *conn, const char *op, int rc, struct ks_err *err)
{
	enum sqlb_outcome outcome = outcome_of(rc);
	int code = rc & 0xff;

	ks_fail(err, outcome == SQLB_BROKEN ? KS_DATA_LOSS : KS_UNAVAILABLE, "%s: %s: %s (SQLite %d)", conn->db->path,
		op,
		code == SQLITE_BUSY   ? "another program has locked the database"
		: code == SQLITE_FULL ? "the disk is full"
		: conn->handle        ? sqlite3_errmsg(conn->handle)
				      : sqlite3_errstr(rc),
		rc);
	if (code != SQLITE_BUSY && code != SQLITE_FULL && code != SQLITE_LOCKED && code != SQLITE_CONSTRAINT)
		conn_close(conn);
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

static int exec(struct sqlb_conn *conn, const char *sql)
{
	return sqlite3_exec(conn->handle, sql, NULL, NULL, NULL);
}

/*
 * A file that was deleted or replaced still takes the writes of those who have it open, and loses them with the last close;
 * a new file beside the old WAL would be a mixture. So the database is the file that was there first.
 */
static enum sqlb_outcome moved(struct sqlb_conn *conn, struct ks_err *err)
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

static enum sqlb_outcome ready(struct sqlb_conn *conn, const char *op, struct ks_err *err)
{
	enum sqlb_outcome outcome;
	int rc;

	if (conn->handle)
		return SQLB_OK;
	create_file(conn->db);
	rc = sqlite3_open_v2(conn->db->path, &conn->handle,
			     SQLITE_OPEN_READWRITE | SQLITE_OPEN_NOMUTEX | SQLITE_OPEN_EXRESCODE, NULL);
	if (rc == SQLITE_OK && !same_file(conn->db)) {
		conn_close(conn);
		return moved(conn, err);
	}
	if (rc == SQLITE_OK)
		rc = sqlite3_busy_timeout(conn->handle, BUSY_TIMEOUT_MS);
	if (rc == SQLITE_OK)
		rc = exec(conn, "PRAGMA synchronous = FULL; PRAGMA cache_size = -8192; PRAGMA trusted_schema = OFF;"
				"PRAGMA journal_size_limit = 67108864");
	if (rc != SQLITE_OK) {
		outcome = failed(conn, op, rc, err);
		conn_close(conn);
		return outcome;
	}
	conn->relaxed = false;
	sqlite3_wal_hook(conn->handle, wal_hook, conn->db); /* instead of a checkpoint in the commit */
	return SQLB_OK;
}

static int prepare(struct sqlb_conn *conn, enum statement which, sqlite3_stmt **statement)
{
	int rc = SQLITE_OK;

	if (!conn->statements[which])
		rc = sqlite3_prepare_v3(conn->handle, statement_texts[which], -1, SQLITE_PREPARE_PERSISTENT,
					&conn->statements[which], NULL);
	*statement = conn->statements[which];
	return rc;
}

static int bind_ints(sqlite3_stmt *statement, const int64_t *values, int count)
{
	int rc = SQLITE_OK;

	for (int i = 0; i < count && rc == SQLITE_OK; i++)
		rc = sqlite3_bind_int64(statement, i + 1, values[i]);
	return rc;
}

/* Runs a statement to its end. SQLITE_ROW: it gave a row, of which the first 'columns' integers are in 'out'. */
static int run_ints(struct sqlb_conn *conn, enum statement which, const int64_t *in, int in_count, int64_t *out,
		    int columns)
{
	sqlite3_stmt *statement;
	bool row = false;
	int rc = prepare(conn, which, &statement);

	if (rc != SQLITE_OK)
		return rc;
	rc = bind_ints(statement, in, in_count);
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

#define INTS(...) ((const int64_t[]){__VA_ARGS__}), (int)(sizeof((const int64_t[]){__VA_ARGS__}) / sizeof(int64_t))

static int run(struct sqlb_conn *conn, enum statement which, const int64_t *in, int in_count)
{
	return run_ints(conn, which, in, in_count, NULL, 0);
}

/* ---- transactions ---- */

static void take_turn(struct sqlb_db *db)
{
	uint64_t ticket;

	ks_mutex_lock(&db->mutex);
	ticket = db->next_ticket++;
	while (db->serving != ticket)
		ks_cond_wait(&db->turn_given, &db->mutex, -1);
	ks_mutex_unlock(&db->mutex);
}

static void give_turn(struct sqlb_db *db)
{
	ks_mutex_lock(&db->mutex);
	if (++db->serving != db->next_ticket)
		ks_cond_broadcast(&db->turn_given);
	ks_mutex_unlock(&db->mutex);
}

enum durability { DURABLE, RELAXED };

static bool file_moved(struct sqlb_conn *conn)
{
	int has_moved = 0;

	return sqlite3_file_control(conn->handle, "main", SQLITE_FCNTL_HAS_MOVED, &has_moved) == SQLITE_OK && has_moved;
}

/* With OK the caller has the turn and an open transaction, and ends with write_end. */
static enum sqlb_outcome write_begin(struct sqlb_conn *conn, enum durability durability, const char *op,
				     struct ks_err *err)
{
	enum sqlb_outcome outcome;
	int rc = SQLITE_OK;

	take_turn(conn->db);
	outcome = ready(conn, op, err);
	if (outcome != SQLB_OK) {
		give_turn(conn->db);
		return outcome;
	}
	if (file_moved(conn)) {
		give_turn(conn->db);
		return moved(conn, err);
	}
	if (conn->relaxed != (durability == RELAXED)) {
		rc = exec(conn, durability == RELAXED ? "PRAGMA synchronous = NORMAL" : "PRAGMA synchronous = FULL");
		if (rc == SQLITE_OK)
			conn->relaxed = durability == RELAXED;
	}
	if (rc == SQLITE_OK)
		rc = run(conn, BEGIN_WRITE, NULL, 0);
	if (rc == SQLITE_OK)
		return SQLB_OK;
	outcome = failed(conn, op, rc, err);
	give_turn(conn->db);
	return outcome;
}

static void roll_back(struct sqlb_conn *conn)
{
	if (conn->handle && !sqlite3_get_autocommit(conn->handle) && run(conn, ROLLBACK, NULL, 0) != SQLITE_OK)
		conn_close(conn); /* which rolls back, too */
}

/*
 * Commits when 'rc' is good, else rolls back, and gives the turn away.
 *
 * A COMMIT that failed is not always undone for good: when all was written and the sync of the WAL or the update of
 * its index failed, SQLite goes on without the transaction and its frames will be overwritten by the next one; but a
 * crash before that lets the recovery find them complete. SQLITE_FULL means that the last frame was not written, and
 * SQLITE_BUSY that nothing was.
 */
static enum sqlb_outcome write_end(struct sqlb_conn *conn, int rc, const char *op, struct ks_err *err)
{
	enum sqlb_outcome outcome = SQLB_OK;
	bool committing = outcome_of(rc) == SQLB_OK;

	if (committing)
		rc = run(conn, COMMIT, NULL, 0);
	if (rc != SQLITE_OK) {
		outcome = failed(conn, op, rc, err);
		roll_back(conn);
		if (committing && (rc & 0xff) != SQLITE_BUSY && (rc & 0xff) != SQLITE_FULL)
			outcome = SQLB_DOUBT;
	}
	give_turn(conn->db);
	return outcome;
}

/* The end of a transaction that may be repeated at will. */
static enum sqlb_outcome side_end(struct sqlb_conn *conn, int rc, const char *op, struct ks_err *err)
{
	enum sqlb_outcome outcome = write_end(conn, rc, op, err);

	return outcome == SQLB_DOUBT ? SQLB_AWAY : outcome;
}

/* The end of a single reading statement or of a transaction of several. */
static enum sqlb_outcome read_end(struct sqlb_conn *conn, int rc, const char *op, struct ks_err *err)
{
	enum sqlb_outcome outcome = SQLB_OK;

	if (outcome_of(rc) == SQLB_OK && !sqlite3_get_autocommit(conn->handle))
		rc = run(conn, COMMIT, NULL, 0);
	if (outcome_of(rc) != SQLB_OK) {
		outcome = failed(conn, op, rc, err);
		roll_back(conn);
	}
	return outcome;
}

/* ---- the checkpointer ---- */

static int checkpoint(struct sqlb_conn *conn, int *pages, int *done)
{
	return sqlite3_wal_checkpoint_v2(conn->handle, NULL, SQLITE_CHECKPOINT_PASSIVE, pages, done);
}

/*
 * First without the turn, then with it for the little that was appended meanwhile. A connection that has read nothing yet
 * does not know that there is a WAL, and its checkpoint does nothing without a word: so it reads.
 */
static int checkpoint_twice(struct sqlb_conn *conn, int *pages, int *done)
{
	int64_t head[4];
	int rc = run_ints(conn, HEAD, NULL, 0, head, 4);

	if (outcome_of(rc) == SQLB_OK)
		rc = checkpoint(conn, pages, done);
	if (rc != SQLITE_OK)
		return rc;
	take_turn(conn->db);
	rc = checkpoint(conn, pages, done);
	give_turn(conn->db);
	return rc;
}

static void *checkpointer(void *arg)
{
	struct sqlb_db *db = arg;
	struct sqlb_conn conn = {.db = db};
	struct ks_err err;

	for (;;) {
		int pages = 0, done = 0, rc;
		bool stop;

		ks_mutex_lock(&db->mutex);
		while (!db->stop && db->wal_pages < db->checkpoint_at)
			ks_cond_wait(&db->wal_grew, &db->mutex, -1);
		stop = db->stop;
		ks_mutex_unlock(&db->mutex);
		if (stop)
			break;
		rc = SQLITE_ERROR;
		if (ready(&conn, "checkpoint", &err) == SQLB_OK) {
			rc = checkpoint_twice(&conn, &pages, &done);
			if (rc != SQLITE_OK)
				failed(&conn, "checkpoint", rc, &err);
		}
		if (rc != SQLITE_OK && (rc & 0xff) != SQLITE_BUSY)
			KS_DIAG_LIMITED(KS_WARN, "sqlite", "%s", err.text);
		ks_mutex_lock(&db->mutex);
		/* A reader in the way, or an error: again when the WAL is half as long once more. */
		if (rc == SQLITE_OK && pages >= 0 && done == pages) {
			db->wal_pages = 0;
			db->checkpoint_at = CHECKPOINT_PAGES;
		} else {
			db->checkpoint_at = db->wal_pages + CHECKPOINT_PAGES / 2;
		}
		ks_mutex_unlock(&db->mutex);
	}
	conn_close(&conn);
	return NULL;
}

/* ---- open and close ---- */

/* The one name of a file, however it was reached, so that two servers meet at the same lock. */
static enum ks_status real_path(const char *path, char out[PATH_MAX], struct ks_err *err)
{
	struct stat now;
	char folder[PATH_MAX];
	const char *slash = strrchr(path, '/');
	const char *name = slash ? slash + 1 : path;
	size_t size = slash == path ? 1 : slash ? (size_t)(slash - path) : 0;

	if (*name == '\0' || size >= sizeof(folder))
		return ks_fail(err, KS_INVALID_ARGUMENT, "%s is not the name of a file", path);
	if (realpath(path, out))
		return stat(out, &now) == 0 && S_ISREG(now.st_mode)
			       ? KS_OK
			       : ks_fail(err, KS_INVALID_ARGUMENT, "%s is not a file", path);
	memcpy(folder, path, size);
	folder[size] = '\0';
	if (!realpath(size ? folder : ".", out))
		return ks_fail(err, KS_FAILED_PRECONDITION, "%s: %s", path, strerror(errno));
	size = strlen(out);
	if (snprintf(out + size, PATH_MAX - size, "%s%s", size > 1 ? "/" : "", name) >= (int)(PATH_MAX - size))
		return ks_fail(err, KS_INVALID_ARGUMENT, "%s: the path is too long", path);
	return KS_OK;
}

static enum ks_status parse_url(const char *url, const char *data_dir, char out[PATH_MAX], struct ks_err *err)
{
	char scheme[16];
	char path[PATH_MAX];
	const char *rest;

	if (!sqlb_url_scheme(url, scheme, sizeof(scheme), &rest) || strcmp(scheme, "sqlite") != 0 ||
	    strchr(rest, '?') || !sqlb_url_decode(rest, path, sizeof(path)))
		return ks_fail(err, KS_INVALID_ARGUMENT,
			       "this endpoint must look like sqlite:///absolute/path.db, sqlite://relative/path.db or "
			       "sqlite://"
			       " (kineshim.db in the data folder)");
	if (path[0] == '\0') {
		if (mkdir(data_dir, 0700) != 0 && errno != EEXIST)
			return ks_fail(err, KS_FAILED_PRECONDITION, "data folder %s: %s", data_dir, strerror(errno));
		if (snprintf(path, sizeof(path), "%s/kineshim.db", data_dir) >= (int)sizeof(path))
			return ks_fail(err, KS_INVALID_ARGUMENT, "%s: the path is too long", data_dir);
	}
	return real_path(path, out, err);
}

static enum ks_status lock_file(struct sqlb_db *db, struct ks_err *err)
{
	struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
	char pid[24] = "";
	ssize_t size;

	db->lock_fd = open(db->lock_path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	if (db->lock_fd < 0)
		return ks_fail(err, KS_FAILED_PRECONDITION, "%s: %s", db->lock_path, strerror(errno));
	if (fcntl(db->lock_fd, F_OFD_SETLK, &lock) == 0) {
		size = snprintf(pid, sizeof(pid), "%ld\n", (long)getpid());
		if (ftruncate(db->lock_fd, 0) != 0 || pwrite(db->lock_fd, pid, (size_t)size, 0) != size)
			ks_diag(KS_DEBUG, "sqlite", "%s: cannot note the process id", db->lock_path);
		return KS_OK;
	}
	if (errno != EAGAIN && errno != EACCES)
		return ks_fail(err, KS_FAILED_PRECONDITION, "%s: cannot lock: %s", db->lock_path, strerror(errno));
	size = pread(db->lock_fd, pid, sizeof(pid) - 1, 0);
	pid[size > 0 ? size : 0] = '\0';
	pid[strspn(pid, "0123456789")] = '\0';
	return ks_fail(err, KS_FAILED_PRECONDITION, "%s is in use by another kineshim%s%s (lock file %s)", db->path,
		       pid[0] ? ", process " : "", pid, db->lock_path);
}

static int64_t unix_ms(void)
{
	struct timespec now;

	clock_gettime(CLOCK_REALTIME, &now);
	return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

static void db_free(struct sqlb_db *db)
{
	if (db->lock_fd >= 0)
		close(db->lock_fd);
	ks_cond_fini(&db->wal_grew);
	ks_cond_fini(&db->changed);
	ks_cond_fini(&db->turn_given);
	ks_mutex_fini(&db->mutex);
	free(db->lock_path);
	free(db->path);
	free(db);
}

static enum ks_status lite_open(const char *url, const char *data_dir, struct sqlb_db **out, struct ks_err *err)
{
	char path[PATH_MAX];
	struct sqlb_db *db;
	enum ks_status status = parse_url(url, data_dir, path, err);

	*out = NULL;
	if (status != KS_OK)
		return status;
	db = ks_xcalloc(1, sizeof(*db));
	db->path = ks_xstrdup(path);
	db->lock_path = ks_xmalloc(strlen(path) + sizeof(".lock"));
	memcpy(db->lock_path, path, strlen(path));
	memcpy(db->lock_path + strlen(path), ".lock", sizeof(".lock"));
	db->lock_fd = -1;
	db->clock_offset_ms = unix_ms() - ks_clock_now(ks_clock_system());
	db->newest = -1;
	db->checkpoint_at = CHECKPOINT_PAGES;
	ks_mutex_init(&db->mutex);
	ks_cond_init(&db->turn_given);
	ks_cond_init(&db->changed);
	ks_cond_init(&db->wal_grew);
	status = lock_file(db, err);
	if (status == KS_OK)
		status = ks_thread_start(&db->checkpointer, "ks-checkpoint", checkpointer, db, err);
	if (status != KS_OK) {
		db_free(db);
		return status;
	}
	*out = db;
	return KS_OK;
}

static void lite_close(struct sqlb_db *db)
{
	if (!db)
		return;
	ks_mutex_lock(&db->mutex);
	db->stop = true;
	ks_cond_signal(&db->wal_grew);
	ks_mutex_unlock(&db->mutex);
	ks_thread_join(db->checkpointer);
	db_free(db);
}

static enum sqlb_outcome lite_connect(struct sqlb_db *db, struct sqlb_conn **conn, struct ks_err *err)
{
	*conn = calloc(1, sizeof(**conn));
	if (!*conn) {
		ks_fail(err, KS_RESOURCE_EXHAUSTED, "out of memory");
		return SQLB_AWAY;
	}
	(*conn)->db = db;
	return SQLB_OK;
}

static void lite_disconnect(struct sqlb_conn *conn)
{
	if (!conn)
		return;
	conn_close(conn);
	free(conn);
}

/* ---- migrate ---- */

/* One value from a statement made of constants; SQLITE_ROW when there is one. */
static int ask_text(struct sqlb_conn *conn, const char *sql, char *out, size_t size)
{
	sqlite3_stmt *statement;
	int rc = sqlite3_prepare_v2(conn->handle, sql, -1, &statement, NULL);

	if (rc != SQLITE_OK)
		return rc;
	rc = sqlite3_step(statement);
	if (rc == SQLITE_ROW) {
		const unsigned char *text = sqlite3_column_text(statement, 0);

		snprintf(out, size, "%s", text ? (const char *)text : "");
	}
	sqlite3_finalize(statement);
	return rc == SQLITE_DONE ? SQLITE_OK : rc;
}

static enum sqlb_outcome not_ours(struct sqlb_conn *conn, struct ks_err *err, const char *why)
{
	ks_fail(err, KS_DATA_LOSS, "%s: %s; kineshim needs a file of its own", conn->db->path, why);
	return SQLB_BROKEN;
}

/*
 * Whose file is it? *version: 0 = nobody's (empty), else of our schema. A file with any table of somebody else's and none of
 * ours is refused, too: it is another program's file.
 */
static enum sqlb_outcome inspect(struct sqlb_conn *conn, int *version, struct ks_err *err)
{
	char text[80] = "";
	char why[200];
	int rc = ask_text(conn, "SELECT name FROM sqlite_master WHERE name = 'kineshim_meta'", text, sizeof(text));

	*version = 0;
	if (rc == SQLITE_OK) {
		rc = ask_text(conn, "SELECT name FROM sqlite_master ORDER BY name NOT LIKE 'kineshim%' LIMIT 1", text,
			      sizeof(text));
		if (rc == SQLITE_ROW) {
			snprintf(why, sizeof(why), "has a table or view \"%s\" and no kineshim_meta", text);
			return not_ours(conn, err, why);
		}
		return rc == SQLITE_OK ? SQLB_OK : failed(conn, "migrate", rc, err);
	}
	if (rc == SQLITE_ROW)
		rc = ask_text(conn, "SELECT value FROM kineshim_meta WHERE name = 'program'", text, sizeof(text));
	if (rc == SQLITE_OK || rc == SQLITE_ERROR || (rc == SQLITE_ROW && strcmp(text, "kineshim") != 0))
		return not_ours(conn, err, "its table kineshim_meta is something else's");
	if (rc == SQLITE_ROW)
		rc = ask_text(conn, "SELECT value FROM kineshim_meta WHERE name = 'schema_version'", text,
			      sizeof(text));
	if (rc != SQLITE_ROW && rc != SQLITE_OK)
		return failed(conn, "migrate", rc, err);
	*version = (int)strtol(text, NULL, 10);
	if (rc == SQLITE_OK || *version < 1)
		return not_ours(conn, err, "kineshim_meta has no schema_version");
	if (*version > SCHEMA_VERSION) {
		ks_fail(err, KS_FAILED_PRECONDITION,
			"%s: schema version %d is newer than this program's %d: it needs a newer kineshim",
			conn->db->path, *version, SCHEMA_VERSION);
		return SQLB_BROKEN;
	}
	return SQLB_OK;
}

/* Runs the section "-- version N" of the schema. */
static int run_section(struct sqlb_conn *conn, int version)
{
	char marker[40];
	const char *begin, *end;
	char *section;
	int rc;

	snprintf(marker, sizeof(marker), "\n-- version %d\n", version);
	begin = strstr(schema, marker);
	KS_ASSERT(begin);
	begin += strlen(marker);
	end = strstr(begin, "\n-- version ");
	section = ks_xcalloc(1, (end ? (size_t)(end - begin) : strlen(begin)) + 1);
	memcpy(section, begin, end ? (size_t)(end - begin) : strlen(begin));
	rc = exec(conn, section);
	free(section);
	return rc;
}

static int note_meta(struct sqlb_conn *conn, const char *name, const char *value)
{
	char *sql = sqlite3_mprintf("INSERT OR REPLACE INTO kineshim_meta (name, value) VALUES (%Q, %Q)", name, value);
	int rc = sql ? exec(conn, sql) : SQLITE_NOMEM;

	sqlite3_free(sql);
	return rc;
}

static int upgrade(struct sqlb_conn *conn, int version)
{
	char text[40];
	uint64_t id = 0;
	int rc = SQLITE_OK;

	for (int next = version + 1; next <= SCHEMA_VERSION && rc == SQLITE_OK; next++)
		rc = run_section(conn, next);
	snprintf(text, sizeof(text), "%d", SCHEMA_VERSION);
	if (rc == SQLITE_OK)
		rc = note_meta(conn, "schema_version", text);
	if (version > 0 || rc != SQLITE_OK)
		return rc;
	while (id == 0)
		sqlite3_randomness(sizeof(id), &id);
	snprintf(text, sizeof(text), "%016llx", (unsigned long long)id);
	rc = note_meta(conn, "cluster_id", text);
	if (rc == SQLITE_OK)
		rc = note_meta(conn, "program", "kineshim");
	if (rc == SQLITE_OK)
		rc = exec(conn, "INSERT INTO kineshim_meta VALUES ('created_at', strftime('%Y-%m-%dT%H:%M:%SZ'))");
	if (rc == SQLITE_OK) {
		snprintf(text, sizeof(text), "PRAGMA application_id = %d", APPLICATION_ID);
		rc = exec(conn, text);
	}
	return rc;
}

/* Once for each process: makes the deadlines its own. All others who had the duty or were members are dead. */
static int rebase(struct sqlb_conn *conn)
{
	int rc = run(conn, LEASE_REFRESH_ALL, INTS(now_ms(conn->db)));

	if (rc == SQLITE_OK)
		rc = exec(conn, "UPDATE kineshim_duty SET holder = 0, deadline = 0; DELETE FROM kineshim_member");
	return rc;
}

/* Before any change, so that a foreign file stays as it is. WAL is a property of the file and set once. */
static enum sqlb_outcome enter_wal_mode(struct sqlb_conn *conn, struct ks_err *err)
{
	char mode[20] = "";
	int version;
	enum sqlb_outcome outcome = ready(conn, "migrate", err);
	int rc;

	if (outcome == SQLB_OK)
		outcome = inspect(conn, &version, err);
	if (outcome != SQLB_OK)
		return outcome;
	rc = version == 0 ? exec(conn, "PRAGMA page_size = 8192; PRAGMA auto_vacuum = INCREMENTAL") : SQLITE_OK;
	if (rc == SQLITE_OK)
		rc = ask_text(conn, "PRAGMA journal_mode = WAL", mode, sizeof(mode));
	if (rc != SQLITE_ROW)
		return failed(conn, "migrate", rc == SQLITE_OK ? SQLITE_IOERR : rc, err);
	if (strcmp(mode, "wal") == 0)
		return SQLB_OK;
	ks_fail(err, KS_UNAVAILABLE, "%s: SQLite cannot use a write-ahead log here (a network file system?)",
		conn->db->path);
	return SQLB_AWAY;
}

static void learn_newest(struct sqlb_db *db, int64_t position)
{
	ks_mutex_lock(&db->mutex);
	if (db->newest < position) {
		db->newest = position;
		ks_cond_broadcast(&db->changed);
	}
	ks_mutex_unlock(&db->mutex);
}

static enum sqlb_outcome migrate_locked(struct sqlb_conn *conn, struct ks_err *err)
{
	int64_t head[4] = {0};
	bool rebased;
	int version;
	enum sqlb_outcome outcome = write_begin(conn, DURABLE, "migrate", err);
	int rc = SQLITE_OK;

	if (outcome != SQLB_OK)
		return outcome;
	outcome = inspect(conn, &version, err);
	if (outcome != SQLB_OK) {
		roll_back(conn);
		give_turn(conn->db);
		return outcome;
	}
	if (version < SCHEMA_VERSION)
		rc = upgrade(conn, version);
	ks_mutex_lock(&conn->db->mutex);
	rebased = conn->db->rebased;
	ks_mutex_unlock(&conn->db->mutex);
	if (rc == SQLITE_OK && !rebased)
		rc = rebase(conn);
	if (rc == SQLITE_OK)
		rc = run_ints(conn, HEAD, NULL, 0, head, 4);
	outcome = side_end(conn, rc, "migrate", err);
	if (outcome == SQLB_OK) {
		ks_mutex_lock(&conn->db->mutex);
		conn->db->rebased = true;
		ks_mutex_unlock(&conn->db->mutex);
		learn_newest(conn->db, head[0]);
	}
	return outcome;
}

static enum sqlb_outcome lite_migrate(struct sqlb_conn *conn, uint64_t *cluster_id, struct ks_err *err)
{
	char text[40] = "";
	enum sqlb_outcome outcome;
	int rc;

	take_turn(conn->db);
	outcome = enter_wal_mode(conn, err);
	give_turn(conn->db);
	if (outcome == SQLB_OK)
		outcome = migrate_locked(conn, err);
	if (outcome != SQLB_OK)
		return outcome;
	rc = ask_text(conn, "SELECT value FROM kineshim_meta WHERE name = 'cluster_id'", text, sizeof(text));
	if (outcome_of(rc) != SQLB_OK)
		return failed(conn, "migrate", rc, err);
	*cluster_id = strtoull(text, NULL, 16);
	return *cluster_id ? SQLB_OK : not_ours(conn, err, "kineshim_meta has no cluster_id");
}

/* ---- append ---- */

static int bind_slice(sqlite3_stmt *statement, int index, struct ks_slice slice)
{
	if (!slice.data)
		return sqlite3_bind_null(statement, index);
	return sqlite3_bind_blob64(statement, index, slice.data, slice.size, SQLITE_STATIC);
}

static int insert_row(sqlite3_stmt *statement, const struct sqlb_row *row, int64_t created_at)
{
	int rc = sqlite3_bind_int64(statement, 1, row->position);

	rc |= sqlite3_bind_int(statement, 2, row->sub);
	rc |= sqlite3_bind_int(statement, 3, row->rows);
	rc |= sqlite3_bind_int(statement, 4, row->kind);
	rc |= sqlite3_bind_int64(statement, 5, row->revision);
	rc |= bind_slice(statement, 6, row->key);
	rc |= bind_slice(statement, 7, row->value);
	rc |= sqlite3_bind_int64(statement, 8, row->create_revision);
	rc |= sqlite3_bind_int64(statement, 9, row->version);
	rc |= sqlite3_bind_int64(statement, 10, row->lease);
	rc |= bind_slice(statement, 11, row->payload);
	rc |= sqlite3_bind_int64(statement, 12, row->writer);
	rc |= sqlite3_bind_int64(statement, 13, row->batch);
	rc |= sqlite3_bind_int64(statement, 14, created_at);
	if (rc != SQLITE_OK)
		return SQLITE_NOMEM; /* TOOBIG or NOMEM: no other way to fail */
	rc = sqlite3_step(statement);
	sqlite3_reset(statement);
	return rc == SQLITE_DONE ? SQLITE_OK : rc;
}

static int insert_rows(struct sqlb_conn *conn, const struct sqlb_append *append, int64_t now)
{
	sqlite3_stmt *statement;
	int rc = prepare(conn, INSERT_ROW, &statement);

	for (size_t i = 0; i < append->row_count && rc == SQLITE_OK; i++)
		rc = insert_row(statement, &append->rows[i], now);
	return rc;
}

/* Removes the leases that must be past their deadline; false in *all when one is not (or is not there). */
static int expire(struct sqlb_conn *conn, const struct sqlb_append *append, int64_t now, bool *all)
{
	int rc = SQLITE_OK;

	*all = true;
	for (size_t i = 0; i < append->leases_expired_count && *all && rc == SQLITE_OK; i++) {
		rc = run(conn, LEASE_EXPIRED, INTS(append->leases_expired[i], now));
		*all = sqlite3_changes(conn->handle) == 1;
	}
	return rc;
}

static int change_leases(struct sqlb_conn *conn, const struct sqlb_append *append, int64_t now)
{
	int rc = SQLITE_OK;

	for (size_t i = 0; i < append->leases_gone_count && rc == SQLITE_OK; i++)
		rc = run(conn, LEASE_DROP, INTS(append->leases_gone[i]));
	for (size_t i = 0; i < append->leases_new_count && rc == SQLITE_OK; i++)
		rc = run(conn, LEASE_PUT, INTS(append->leases_new[i].id, append->leases_new[i].ttl_ms, now));
	return rc;
}

static enum sqlb_outcome lite_append(struct sqlb_conn *conn, const struct sqlb_append *append, bool *appended,
				     struct ks_err *err)
{
	enum sqlb_outcome outcome = write_begin(conn, DURABLE, "append", err);
	int64_t head[4] = {0};
	int64_t now = now_ms(conn->db);
	bool taken = false, expired = true;
	int rc;

	*appended = false;
	if (outcome != SQLB_OK)
		return outcome;
	rc = run_ints(conn, HEAD, NULL, 0, head, 4);
	if (outcome_of(rc) == SQLB_OK) {
		rc = SQLITE_OK;
		taken = append->row_count && append->rows[0].position != head[0] + 1;
	}
	if (rc == SQLITE_OK && !taken)
		rc = expire(conn, append, now, &expired);
	if (rc == SQLITE_OK && (taken || !expired)) {
		roll_back(conn);
		give_turn(conn->db);
		learn_newest(conn->db, head[0]);
		return taken ? SQLB_CONFLICT : SQLB_OK;
	}
	if (rc == SQLITE_OK)
		rc = insert_rows(conn, append, now);
	if (rc == SQLITE_OK)
		rc = change_leases(conn, append, now);
	outcome = write_end(conn, rc, "append", err);
	*appended = outcome == SQLB_OK;
	if (outcome == SQLB_OK && append->row_count)
		learn_newest(conn->db, append->rows[append->row_count - 1].position);
	return outcome;
}

/* ---- reading the log ---- */

static enum sqlb_outcome lite_read_head(struct sqlb_conn *conn, struct sqlb_head *head, struct ks_err *err)
{
	enum sqlb_outcome outcome = ready(conn, "read_head", err);
	int64_t columns[4] = {0};
	int rc;

	if (outcome != SQLB_OK)
		return outcome;
	rc = run_ints(conn, HEAD, NULL, 0, columns, 4);
	*head = (struct sqlb_head){
		.position = columns[0], .revision = columns[1], .writer = columns[2], .batch = columns[3]};
	return read_end(conn, rc, "read_head", err);
}

static struct ks_slice column_slice(sqlite3_stmt *statement, int column)
{
	const void *data;

	if (sqlite3_column_type(statement, column) == SQLITE_NULL)
		return ks_slice_of(NULL, 0);
	data = sqlite3_column_blob(statement, column); /* NULL when it is empty */
	return ks_slice_of(data ? data : "", (size_t)sqlite3_column_bytes(statement, column));
}

static void column_row(sqlite3_stmt *statement, struct sqlb_row *row)
{
	row->position = sqlite3_column_int64(statement, 0);
	row->sub = sqlite3_column_int(statement, 1);
	row->rows = sqlite3_column_int(statement, 2);
	row->kind = (int16_t)sqlite3_column_int(statement, 3);
	row->revision = sqlite3_column_int64(statement, 4);
	row->key = column_slice(statement, 5);
	row->value = column_slice(statement, 6);
	row->create_revision = sqlite3_column_int64(statement, 7);
	row->version = sqlite3_column_int64(statement, 8);
	row->lease = sqlite3_column_int64(statement, 9);
	row->payload = column_slice(statement, 10);
	row->writer = sqlite3_column_int64(statement, 11);
	row->batch = sqlite3_column_int64(statement, 12);
}

static enum sqlb_outcome lite_read_rows(struct sqlb_conn *conn, int64_t after, int64_t to, size_t max_bytes,
					sqlb_row_fn *visit, void *ctx, bool *more, struct ks_err *err)
{
	enum sqlb_outcome outcome = ready(conn, "read_rows", err);
	struct sqlb_row row = {0};
	int64_t position = 0; /* of the entry being visited */
	size_t bytes = 0;
	sqlite3_stmt *statement;
	int rc;

	*more = false;
	if (outcome != SQLB_OK)
		return outcome;
	rc = prepare(conn, ROWS, &statement);
	if (rc == SQLITE_OK)
		rc = bind_ints(statement, INTS(after, to < 0 ? INT64_MAX : to));
	while (rc == SQLITE_OK && (rc = sqlite3_step(statement)) == SQLITE_ROW) {
		rc = SQLITE_OK;
		column_row(statement, &row);
		*more = position != 0 && bytes >= max_bytes && row.position != position;
		if (*more)
			break;
		position = row.position;
		bytes += row.key.size + row.value.size + row.payload.size;
		*more = !visit(ctx, &row);
		if (*more)
			break;
	}
	if (statement)
		sqlite3_reset(statement);
	return read_end(conn, rc, "read_rows", err);
}

static enum sqlb_outcome lite_read_at(struct sqlb_conn *conn, const struct sqlb_loc *locs, size_t count,
				      sqlb_row_fn *visit, void *ctx, struct ks_err *err)
{
	enum sqlb_outcome outcome = ready(conn, "read_at", err);
	struct sqlb_row row = {0};
	sqlite3_stmt *statement = NULL;
	bool go_on = true;
	int rc = SQLITE_OK;

	if (outcome != SQLB_OK)
		return outcome;
	if (count > 1)
		rc = run(conn, BEGIN_READ, NULL, 0);
	if (rc == SQLITE_OK)
		rc = prepare(conn, ROW_AT, &statement);
	for (size_t i = 0; i < count && rc == SQLITE_OK && go_on; i++) {
		rc = bind_ints(statement, INTS(locs[i].position, locs[i].sub));
		if (rc == SQLITE_OK)
			rc = sqlite3_step(statement);
		if (rc == SQLITE_ROW) {
			column_row(statement, &row);
			go_on = visit(ctx, &row);
		}
		sqlite3_reset(statement);
		if (outcome_of(rc) == SQLB_OK)
			rc = SQLITE_OK;
	}
	return read_end(conn, rc, "read_at", err);
}

static enum sqlb_outcome lite_trim(struct sqlb_conn *conn, const struct sqlb_loc *locs, size_t count,
				   struct ks_err *err)
{
	/* Trimming again after a power cut is fine, so it need not wait for the disk. */
	enum sqlb_outcome outcome = write_begin(conn, RELAXED, "trim", err);
	int rc = SQLITE_OK;

	if (outcome != SQLB_OK)
		return outcome;
	for (size_t i = 0; i < count && rc == SQLITE_OK; i++)
		rc = run(conn, TRIM, INTS(locs[i].position, locs[i].sub));
	return side_end(conn, rc, "trim", err);
}

static enum sqlb_outcome lite_wait_for_change(struct sqlb_conn *conn, int64_t after, int wait_ms, struct ks_err *err)
{
	struct sqlb_db *db = conn->db;
	int64_t until = ks_clock_now(ks_clock_system()) + wait_ms;
	int64_t left;

	(void)err;
	ks_mutex_lock(&db->mutex);
	while (!conn->cancelled && db->newest <= after && (left = until - ks_clock_now(ks_clock_system())) > 0)
		ks_cond_wait(&db->changed, &db->mutex, left);
	conn->cancelled = false;
	ks_mutex_unlock(&db->mutex);
	return SQLB_OK;
}

static void lite_cancel(struct sqlb_conn *conn)
{
	ks_mutex_lock(&conn->db->mutex);
	conn->cancelled = true;
	ks_cond_broadcast(&conn->db->changed);
	ks_mutex_unlock(&conn->db->mutex);
}

/* ---- leases ---- */

static enum sqlb_outcome lite_lease_touch(struct sqlb_conn *conn, struct sqlb_lease *leases, size_t count,
					  struct ks_err *err)
{
	enum sqlb_outcome outcome = write_begin(conn, RELAXED, "lease_touch", err);
	int64_t now = now_ms(conn->db);
	int rc = SQLITE_OK;

	if (outcome != SQLB_OK)
		return outcome;
	for (size_t i = 0; i < count && outcome_of(rc) == SQLB_OK; i++) {
		int64_t ttl_ms;

		rc = run_ints(conn, LEASE_TOUCH, INTS(leases[i].id, now), &ttl_ms, 1);
		leases[i].found = rc == SQLITE_ROW;
		if (leases[i].found)
			leases[i].ttl_ms = leases[i].remaining_ms = ttl_ms;
	}
	return side_end(conn, rc, "lease_touch", err);
}

static enum sqlb_outcome lite_lease_ensure(struct sqlb_conn *conn, const struct sqlb_lease *leases, size_t count,
					   struct ks_err *err)
{
	enum sqlb_outcome outcome = write_begin(conn, RELAXED, "lease_ensure", err);
	int rc = SQLITE_OK;

	if (outcome != SQLB_OK)
		return outcome;
	for (size_t i = 0; i < count && rc == SQLITE_OK; i++)
		rc = run(conn, LEASE_ENSURE, INTS(leases[i].id, leases[i].ttl_ms, now_ms(conn->db)));
	return side_end(conn, rc, "lease_ensure", err);
}

static enum sqlb_outcome lite_lease_refresh_all(struct sqlb_conn *conn, struct ks_err *err)
{
	enum sqlb_outcome outcome = write_begin(conn, RELAXED, "lease_refresh_all", err);

	if (outcome != SQLB_OK)
		return outcome;
	return side_end(conn, run(conn, LEASE_REFRESH_ALL, INTS(now_ms(conn->db))), "lease_refresh_all", err);
}

static enum sqlb_outcome lite_lease_list(struct sqlb_conn *conn, size_t limit, sqlb_lease_fn *visit, void *ctx,
					 struct ks_err *err)
{
	enum sqlb_outcome outcome = ready(conn, "lease_list", err);
	int64_t now = now_ms(conn->db);
	sqlite3_stmt *statement;
	int rc;

	if (outcome != SQLB_OK)
		return outcome;
	rc = prepare(conn, LEASE_LIST, &statement);
	if (rc == SQLITE_OK)
		rc = bind_ints(statement, INTS(limit ? (int64_t)limit : -1));
	while (rc == SQLITE_OK && (rc = sqlite3_step(statement)) == SQLITE_ROW) {
		struct sqlb_lease lease = {.id = sqlite3_column_int64(statement, 0),
					   .ttl_ms = sqlite3_column_int64(statement, 1),
					   .remaining_ms = sqlite3_column_int64(statement, 2) - now,
					   .found = true};

		rc = SQLITE_OK;
		if (!visit(ctx, &lease))
			break;
	}
	if (statement)
		sqlite3_reset(statement);
	return read_end(conn, rc, "lease_list", err);
}

static enum sqlb_outcome lite_lease_read(struct sqlb_conn *conn, struct sqlb_lease *leases, size_t count,
					 struct ks_err *err)
{
	enum sqlb_outcome outcome = ready(conn, "lease_read", err);
	int rc = SQLITE_OK;

	if (outcome != SQLB_OK)
		return outcome;
	if (count > 1)
		rc = run(conn, BEGIN_READ, NULL, 0);
	for (size_t i = 0; i < count && outcome_of(rc) == SQLB_OK; i++) {
		int64_t columns[2];

		rc = run_ints(conn, LEASE_READ, INTS(leases[i].id), columns, 2);
		leases[i].found = rc == SQLITE_ROW;
		if (!leases[i].found)
			continue;
		leases[i].ttl_ms = columns[0];
		leases[i].remaining_ms = columns[1] - now_ms(conn->db);
	}
	return read_end(conn, rc, "lease_read", err);
}

static enum sqlb_outcome lite_lease_drop(struct sqlb_conn *conn, const int64_t *ids, size_t count, struct ks_err *err)
{
	enum sqlb_outcome outcome = write_begin(conn, RELAXED, "lease_drop", err);
	int rc = SQLITE_OK;

	if (outcome != SQLB_OK)
		return outcome;
	for (size_t i = 0; i < count && rc == SQLITE_OK; i++)
		rc = run(conn, LEASE_DROP, INTS(ids[i]));
	return side_end(conn, rc, "lease_drop", err);
}

/* ---- duty and members ---- */

static enum sqlb_outcome lite_duty_take(struct sqlb_conn *conn, int64_t self, int ttl_ms, struct sqlb_duty *duty,
					struct ks_err *err)
{
	enum sqlb_outcome outcome = write_begin(conn, RELAXED, "duty_take", err);
	int64_t now = now_ms(conn->db);
	int64_t columns[2] = {0};
	int rc;

	if (outcome != SQLB_OK)
		return outcome;
	rc = run(conn, DUTY_TAKE, INTS(self, now));
	duty->taken_now = rc == SQLITE_OK && sqlite3_changes(conn->handle) == 1;
	if (rc == SQLITE_OK)
		rc = run(conn, DUTY_REFRESH, INTS(self, now + ttl_ms));
	if (rc == SQLITE_OK)
		rc = run_ints(conn, DUTY_READ, NULL, 0, columns, 2);
	duty->holder = columns[0];
	duty->term = columns[1];
	return side_end(conn, rc, "duty_take", err);
}

static enum sqlb_outcome lite_duty_pass(struct sqlb_conn *conn, int64_t self, int64_t to, int ttl_ms,
					struct ks_err *err)
{
	enum sqlb_outcome outcome = write_begin(conn, RELAXED, "duty_pass", err);

	if (outcome != SQLB_OK)
		return outcome;
	return side_end(conn, run(conn, DUTY_PASS, INTS(self, to, now_ms(conn->db) + ttl_ms)), "duty_pass", err);
}

static int put_member(struct sqlb_conn *conn, const struct sqlb_member *self, int64_t deadline)
{
	sqlite3_stmt *statement;
	int rc = prepare(conn, MEMBER_PUT, &statement);

	if (rc != SQLITE_OK)
		return rc;
	rc = sqlite3_bind_int64(statement, 1, (int64_t)self->id);
	rc |= sqlite3_bind_text(statement, 2, self->name.size ? (const char *)self->name.data : "",
				(int)self->name.size, SQLITE_STATIC);
	rc |= sqlite3_bind_text(statement, 3, self->client_urls.size ? (const char *)self->client_urls.data : "",
				(int)self->client_urls.size, SQLITE_STATIC);
	rc |= sqlite3_bind_int64(statement, 4, self->position);
	rc |= sqlite3_bind_int64(statement, 5, deadline);
	if (rc != SQLITE_OK)
		return SQLITE_NOMEM;
	rc = sqlite3_step(statement);
	sqlite3_reset(statement);
	return rc == SQLITE_DONE ? SQLITE_OK : rc;
}

static enum sqlb_outcome lite_member_beat(struct sqlb_conn *conn, const struct sqlb_member *self, int ttl_ms,
					  struct ks_err *err)
{
	enum sqlb_outcome outcome = write_begin(conn, RELAXED, "member_beat", err);
	int64_t now = now_ms(conn->db);
	int rc;

	if (outcome != SQLB_OK)
		return outcome;
	rc = run(conn, MEMBER_DROP, INTS((int64_t)self->id, now - MEMBER_LINGER_MS));
	if (rc == SQLITE_OK && ttl_ms > 0)
		rc = put_member(conn, self, now + ttl_ms);
	return side_end(conn, rc, "member_beat", err);
}

static enum sqlb_outcome lite_member_list(struct sqlb_conn *conn, sqlb_member_fn *visit, void *ctx, struct ks_err *err)
{
	enum sqlb_outcome outcome = ready(conn, "member_list", err);
	sqlite3_stmt *statement;
	int rc;

	if (outcome != SQLB_OK)
		return outcome;
	rc = prepare(conn, MEMBER_LIST, &statement);
	if (rc == SQLITE_OK)
		rc = bind_ints(statement, INTS(now_ms(conn->db)));
	while (rc == SQLITE_OK && (rc = sqlite3_step(statement)) == SQLITE_ROW) {
		struct sqlb_member member = {.id = (uint64_t)sqlite3_column_int64(statement, 0),
					     .name = column_slice(statement, 1),
					     .client_urls = column_slice(statement, 2),
					     .position = sqlite3_column_int64(statement, 3)};

		rc = SQLITE_OK;
		if (!visit(ctx, &member))
			break;
	}
	if (statement)
		sqlite3_reset(statement);
	return read_end(conn, rc, "member_list", err);
}

/* ---- size ---- */

static enum sqlb_outcome lite_size(struct sqlb_conn *conn, struct sqlb_size *size, struct ks_err *err)
{
	enum sqlb_outcome outcome = ready(conn, "size", err);
	int64_t columns[2] = {0};
	int rc;

	if (outcome != SQLB_OK)
		return outcome;
	rc = run_ints(conn, SIZE, NULL, 0, columns, 2);
	size->allocated = columns[0];
	size->in_use = columns[1];
	return read_end(conn, rc, "size", err);
}

/*
 * VACUUM writes the database anew, which is what also closes the gaps inside pages; writers wait for it. It needs room for a copy:
 * on a full disk only the pages that are free as a whole are given back.
 */
static enum sqlb_outcome lite_defragment(struct sqlb_conn *conn, struct ks_err *err)
{
	enum sqlb_outcome outcome;
	int rc;

	take_turn(conn->db);
	outcome = ready(conn, "defragment", err);
	if (outcome == SQLB_OK) {
		rc = exec(conn, "VACUUM");
		if ((rc & 0xff) == SQLITE_FULL)
			rc = exec(conn, "PRAGMA incremental_vacuum");
		outcome = read_end(conn, rc, "defragment", err);
	}
	give_turn(conn->db);
	return outcome;
}

const struct sqlb_ops sqlb_sqlite_ops = {
	.version = SQLB_VERSION,
	.name = "sqlite",
	.schemes = {"sqlite"},
	.features = SQLB_EXCLUSIVE | SQLB_NOTIFIES,
	.open = lite_open,
	.close = lite_close,
	.connect = lite_connect,
	.disconnect = lite_disconnect,
	.migrate = lite_migrate,
	.append = lite_append,
	.read_head = lite_read_head,
	.read_rows = lite_read_rows,
	.read_at = lite_read_at,
	.trim = lite_trim,
	.wait_for_change = lite_wait_for_change,
	.cancel = lite_cancel,
	.lease_touch = lite_lease_touch,
	.lease_ensure = lite_lease_ensure,
	.lease_refresh_all = lite_lease_refresh_all,
	.lease_list = lite_lease_list,
	.lease_read = lite_lease_read,
	.lease_drop = lite_lease_drop,
	.duty_take = lite_duty_take,
	.duty_pass = lite_duty_pass,
	.member_beat = lite_member_beat,
	.member_list = lite_member_list,
	.size = lite_size,
	.defragment = lite_defragment,
};
