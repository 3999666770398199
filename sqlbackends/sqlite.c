/* SPDX-License-Identifier: Apache-2.0 */
/*
 * SQLite: the embedded default. One server process owns the file; people may read it meanwhile.
 *
 * Ownership: an open-file-description lock on "<file>.lock" keeps a second server out. So nobody else appends
 * (SQLB_EXCLUSIVE), a wait for a change is a condition variable, and this process's clock is the database's clock: it
 * begins as Unix time and then follows the monotonic clock. Deadlines of an earlier process mean nothing to it: it
 * gives every lease its whole ttl again and keeps the deadlines in memory (sqlite_leases.c). The first migrate frees the duty and
 * forgets the members, who are all dead.
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
#include "sqlite_priv.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/diag.h"
#include "base/panic.h"
#include "schema.h"
#include "url.h"

#define APPLICATION_ID 0x4b53484d /* "KSHM", in the file's header */
#define SCHEMA_VERSION 1

static const char schema[] =
#include "schema/sqlite.sql.inc"
	;

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
			return ks_fail(
				err, KS_FAILED_PRECONDITION,
				"cannot create the data folder %s: %s; --data-dir takes one that uid %ld may write to",
				data_dir, strerror(errno), (long)geteuid());
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
		return ks_fail(err, KS_FAILED_PRECONDITION,
			       "cannot open %s: %s; --data-dir or --endpoint takes a place that uid %ld may write to",
			       db->lock_path, strerror(errno), (long)geteuid());
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
	sqlb_lite_leases_fini(&db->leases);
	ks_cond_fini(&db->wal_grew);
	ks_cond_fini(&db->changed);
	ks_cond_fini(&db->turn_given);
	ks_mutex_fini(&db->mutex);
	free(db->lock_path);
	free(db->path);
	free(db);
}

/* Before SQLite's first use; later, and in a second backend of one process, it is refused, and does not matter. */
static void note_config(const char *what, int rc)
{
	if (rc != SQLITE_OK && rc != SQLITE_MISUSE)
		ks_diag(KS_DEBUG, "sqlite", "cannot set %s: %s", what, sqlite3_errstr(rc));
}

/*
 * A statement that may fail half-way (an UPDATE … RETURNING is one to SQLite) notes the pages that it changes, by default in a block of 64 KiB that
 * is there for this statement only. When that lies at the end of a thread's heap, it goes back to the system each time, which interrupts the
 * other processors: a server was seen with one madvise for each lease that was renewed, when that was such a statement. Without a limit
 * beyond which the notes go to a file they are made of blocks of 1 KiB.
 *
 * Statistics of memory, which nobody reads, cost a lock that all threads share at each malloc and free: 2 us of the 110 of one row, and 7 to 9 % of
 * an append of 1000 rows or more.
 */
static void configure(void)
{
	note_config("the size of statement journals", sqlite3_config(SQLITE_CONFIG_STMTJRNL_SPILL, -1));
	note_config("that memory is not counted", sqlite3_config(SQLITE_CONFIG_MEMSTATUS, 0));
}

static enum ks_status lite_open(const char *url, const char *data_dir, struct sqlb_db **out, struct ks_err *err)
{
	char path[PATH_MAX];
	struct sqlb_db *db;
	enum ks_status status = parse_url(url, data_dir, path, err);

	*out = NULL;
	if (status != KS_OK)
		return status;
	configure();
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
	sqlb_lite_leases_init(&db->leases);
	status = lock_file(db, err);
	if (status == KS_OK)
		status = ks_thread_start(&db->checkpointer, "ks-checkpoint", sqlb_lite_checkpointer, db, err);
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
	sqlb_lite_drop(conn);
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
		return rc == SQLITE_OK ? SQLB_OK : sqlb_lite_failed(conn, "migrate", rc, err);
	}
	if (rc == SQLITE_ROW)
		rc = ask_text(conn, "SELECT value FROM kineshim_meta WHERE name = 'program'", text, sizeof(text));
	if (rc == SQLITE_OK || rc == SQLITE_ERROR || (rc == SQLITE_ROW && strcmp(text, "kineshim") != 0))
		return not_ours(conn, err, "its table kineshim_meta is something else's");
	if (rc == SQLITE_ROW)
		rc = ask_text(conn, "SELECT value FROM kineshim_meta WHERE name = 'schema_version'", text,
			      sizeof(text));
	if (rc != SQLITE_ROW && rc != SQLITE_OK)
		return sqlb_lite_failed(conn, "migrate", rc, err);
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

static int note_meta(struct sqlb_conn *conn, const char *name, const char *value)
{
	char *sql = sqlite3_mprintf("INSERT OR REPLACE INTO kineshim_meta (name, value) VALUES (%Q, %Q)", name, value);
	int rc = sql ? sqlb_lite_exec(conn, sql) : SQLITE_NOMEM;

	sqlite3_free(sql);
	return rc;
}

static int upgrade(struct sqlb_conn *conn, int version)
{
	char text[40];
	uint64_t id = 0;
	int rc = SQLITE_OK;

	for (int next = version + 1; next <= SCHEMA_VERSION && rc == SQLITE_OK; next++) {
		char *section = sqlb_schema_upgrade(schema, next);

		rc = sqlb_lite_exec(conn, section);
		free(section);
	}
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
		rc = sqlb_lite_exec(conn,
				    "INSERT INTO kineshim_meta VALUES ('created_at', strftime('%Y-%m-%dT%H:%M:%SZ'))");
	if (rc == SQLITE_OK) {
		snprintf(text, sizeof(text), "PRAGMA application_id = %d", APPLICATION_ID);
		rc = sqlb_lite_exec(conn, text);
	}
	return rc;
}

/* Once for each process: makes the deadlines its own. All others who had the duty or were members are dead. */
static int rebase(struct sqlb_conn *conn)
{
	int rc = sqlb_lite_run(conn, LITE_LEASE_REBASE, INTS(sqlb_lite_now(conn->db)));

	if (rc == SQLITE_OK)
		rc = sqlb_lite_exec(conn,
				    "UPDATE kineshim_duty SET holder = 0, deadline = 0; DELETE FROM kineshim_member");
	return rc;
}

/* Before any change, so that a foreign file stays as it is. WAL is a property of the file and set once. */
static enum sqlb_outcome enter_wal_mode(struct sqlb_conn *conn, struct ks_err *err)
{
	char mode[20] = "";
	int version;
	enum sqlb_outcome outcome = sqlb_lite_ready(conn, "migrate", err);
	int rc;

	if (outcome == SQLB_OK)
		outcome = inspect(conn, &version, err);
	if (outcome != SQLB_OK)
		return outcome;
	rc = version == 0 ? sqlb_lite_exec(conn, "PRAGMA page_size = 8192; PRAGMA auto_vacuum = INCREMENTAL")
			  : SQLITE_OK;
	if (rc == SQLITE_OK)
		rc = ask_text(conn, "PRAGMA journal_mode = WAL", mode, sizeof(mode));
	if (rc != SQLITE_ROW)
		return sqlb_lite_failed(conn, "migrate", rc == SQLITE_OK ? SQLITE_IOERR : rc, err);
	if (strcmp(mode, "wal") == 0)
		return SQLB_OK;
	ks_fail(err, KS_UNAVAILABLE, "%s: SQLite cannot use a write-ahead log here (a network file system?)",
		conn->db->path);
	return SQLB_AWAY;
}

static enum sqlb_outcome migrate_locked(struct sqlb_conn *conn, struct ks_err *err)
{
	int64_t head[4] = {0};
	bool rebased;
	int version;
	enum sqlb_outcome outcome = sqlb_lite_begin_write(conn, LITE_DURABLE, "migrate", err);
	int rc = SQLITE_OK;

	if (outcome != SQLB_OK)
		return outcome;
	outcome = inspect(conn, &version, err);
	if (outcome != SQLB_OK) {
		sqlb_lite_roll_back(conn);
		sqlb_lite_give_turn(conn->db);
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
		rc = sqlb_lite_ask(conn, LITE_HEAD, NULL, 0, head, 4);
	if (sqlb_lite_outcome(rc) == SQLB_OK)
		sqlb_lite_make_room(conn);
	outcome = sqlb_lite_end_side(conn, rc, "migrate", err);
	if (outcome == SQLB_OK) {
		ks_mutex_lock(&conn->db->mutex);
		conn->db->rebased = true;
		ks_mutex_unlock(&conn->db->mutex);
		sqlb_lite_learn_newest(conn->db, head[0]);
	}
	return outcome;
}

static enum sqlb_outcome lite_migrate(struct sqlb_conn *conn, uint64_t *cluster_id, struct ks_err *err)
{
	char text[40] = "";
	enum sqlb_outcome outcome;
	int rc;

	sqlb_lite_take_turn(conn->db);
	outcome = enter_wal_mode(conn, err);
	sqlb_lite_give_turn(conn->db);
	if (outcome == SQLB_OK)
		outcome = migrate_locked(conn, err);
	if (outcome != SQLB_OK)
		return outcome;
	rc = ask_text(conn, "SELECT value FROM kineshim_meta WHERE name = 'cluster_id'", text, sizeof(text));
	if (sqlb_lite_outcome(rc) != SQLB_OK)
		return sqlb_lite_failed(conn, "migrate", rc, err);
	*cluster_id = strtoull(text, NULL, 16);
	return *cluster_id ? SQLB_OK : not_ours(conn, err, "kineshim_meta has no cluster_id");
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
	.append = sqlb_lite_append,
	.load = sqlb_lite_load,
	.read_head = sqlb_lite_read_head,
	.read_rows = sqlb_lite_read_rows,
	.read_at = sqlb_lite_read_at,
	.trim = sqlb_lite_trim,
	.wait_for_change = sqlb_lite_wait_for_change,
	.cancel = sqlb_lite_cancel,
	.lease_touch = sqlb_lite_lease_touch,
	.lease_ensure = sqlb_lite_lease_ensure,
	.lease_refresh_all = sqlb_lite_lease_refresh_all,
	.lease_list = sqlb_lite_lease_list,
	.lease_read = sqlb_lite_lease_read,
	.lease_drop = sqlb_lite_lease_drop,
	.duty_take = sqlb_lite_duty_take,
	.duty_pass = sqlb_lite_duty_pass,
	.member_beat = sqlb_lite_member_beat,
	.member_list = sqlb_lite_member_list,
	.size = sqlb_lite_size,
	.defragment = sqlb_lite_defragment,
};
