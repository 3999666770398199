/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What only the SQLite backend has: the lock file, readers from outside, a disk that fails, a process that dies. The
 * suite that all backends share is tests/suites/backend.c.
 *
 * The disk fails by a VFS of ours around SQLite's own: the n-th write or sync of the database or its WAL returns an error,
 * for every n that an append has.
 */
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <pthread.h>
#include <signal.h>
#include <sqlite3.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/diag.h"
#include "sqlbackends/sqlb.h"
#include "tests/lib/tap.h"

static const struct sqlb_ops *const ops = &sqlb_sqlite_ops;
static char folder[] = "/tmp/ks-sqlite-XXXXXX";
static char path[256]; /* of the running test's database */
static char url[300];
static struct sqlb_db *db;
static struct sqlb_conn *a, *b;
static struct ks_err err;
static uint64_t cluster_id;

/* ---- a disk that fails ---- */

struct shim_file {
	sqlite3_file base;
	sqlite3_file *real; /* behind this struct */
	bool counts;
};

static sqlite3_vfs shim;
static sqlite3_vfs *real_vfs;
static sqlite3_io_methods shim_methods;
static _Atomic int fail_in; /* this many calls from now; 0: never */
static _Atomic int fail_write_code, fail_sync_code;
static _Atomic bool fail_on;           /* once it failed, all later calls do, too */
static _Thread_local bool test_thread; /* the others (the checkpointer) do not count */
static _Atomic bool background_fails;  /* all calls of the others fail */

static sqlite3_file *real_of(sqlite3_file *file)
{
	return ((struct shim_file *)file)->real;
}

static bool fails(sqlite3_file *file)
{
	int left = fail_in;

	if (!test_thread)
		return background_fails;
	if (left == 0 || !((struct shim_file *)file)->counts)
		return false;
	if (left > 1) {
		fail_in = left - 1;
		return false;
	}
	if (!fail_on)
		fail_in = 0;
	return true;
}

static int shim_close(sqlite3_file *file)
{
	return real_of(file)->pMethods->xClose(real_of(file));
}

static int shim_read(sqlite3_file *file, void *to, int size, sqlite3_int64 offset)
{
	return real_of(file)->pMethods->xRead(real_of(file), to, size, offset);
}

static int shim_write(sqlite3_file *file, const void *from, int size, sqlite3_int64 offset)
{
	if (fails(file)) {
		/* A full disk takes what fits. */
		(void)real_of(file)->pMethods->xWrite(real_of(file), from, size / 2, offset);
		return test_thread ? fail_write_code : SQLITE_FULL;
	}
	return real_of(file)->pMethods->xWrite(real_of(file), from, size, offset);
}

static int shim_truncate(sqlite3_file *file, sqlite3_int64 size)
{
	return real_of(file)->pMethods->xTruncate(real_of(file), size);
}

static int shim_sync(sqlite3_file *file, int flags)
{
	if (fails(file))
		return test_thread ? fail_sync_code : SQLITE_IOERR_FSYNC;
	return real_of(file)->pMethods->xSync(real_of(file), flags);
}

static int shim_size(sqlite3_file *file, sqlite3_int64 *size)
{
	return real_of(file)->pMethods->xFileSize(real_of(file), size);
}

static int shim_lock(sqlite3_file *file, int level)
{
	return real_of(file)->pMethods->xLock(real_of(file), level);
}

static int shim_unlock(sqlite3_file *file, int level)
{
	return real_of(file)->pMethods->xUnlock(real_of(file), level);
}

static int shim_check(sqlite3_file *file, int *out)
{
	return real_of(file)->pMethods->xCheckReservedLock(real_of(file), out);
}

static int shim_control(sqlite3_file *file, int op, void *arg)
{
	return real_of(file)->pMethods->xFileControl(real_of(file), op, arg);
}

static int shim_sector(sqlite3_file *file)
{
	return real_of(file)->pMethods->xSectorSize(real_of(file));
}

static int shim_characteristics(sqlite3_file *file)
{
	return real_of(file)->pMethods->xDeviceCharacteristics(real_of(file));
}

static int shim_shm_map(sqlite3_file *file, int page, int size, int extend, void volatile **out)
{
	return real_of(file)->pMethods->xShmMap(real_of(file), page, size, extend, out);
}

static int shim_shm_lock(sqlite3_file *file, int offset, int n, int flags)
{
	return real_of(file)->pMethods->xShmLock(real_of(file), offset, n, flags);
}

static void shim_shm_barrier(sqlite3_file *file)
{
	real_of(file)->pMethods->xShmBarrier(real_of(file));
}

static int shim_shm_unmap(sqlite3_file *file, int delete_it)
{
	return real_of(file)->pMethods->xShmUnmap(real_of(file), delete_it);
}

static int shim_open(sqlite3_vfs *vfs, const char *name, sqlite3_file *file, int flags, int *out_flags)
{
	struct shim_file *mine = (struct shim_file *)file;
	int rc;

	(void)vfs;
	mine->real = (sqlite3_file *)(mine + 1);
	mine->counts = (flags & (SQLITE_OPEN_MAIN_DB | SQLITE_OPEN_WAL)) != 0;
	rc = real_vfs->xOpen(real_vfs, name, mine->real, flags, out_flags);
	mine->base.pMethods = mine->real->pMethods ? &shim_methods : NULL;
	return rc;
}

static void install_shim(void)
{
	real_vfs = sqlite3_vfs_find(NULL);
	shim = *real_vfs;
	shim.zName = "shim";
	shim.pNext = NULL;
	shim.szOsFile = (int)sizeof(struct shim_file) + real_vfs->szOsFile;
	shim.xOpen = shim_open;
	shim_methods = (sqlite3_io_methods){
		.iVersion = 2,
		.xClose = shim_close,
		.xRead = shim_read,
		.xWrite = shim_write,
		.xTruncate = shim_truncate,
		.xSync = shim_sync,
		.xFileSize = shim_size,
		.xLock = shim_lock,
		.xUnlock = shim_unlock,
		.xCheckReservedLock = shim_check,
		.xFileControl = shim_control,
		.xSectorSize = shim_sector,
		.xDeviceCharacteristics = shim_characteristics,
		.xShmMap = shim_shm_map,
		.xShmLock = shim_shm_lock,
		.xShmBarrier = shim_shm_barrier,
		.xShmUnmap = shim_shm_unmap,
	};
	if (sqlite3_vfs_register(&shim, 1) != SQLITE_OK)
		abort();
}

static void fail_after(int calls, int write_code, int sync_code, bool go_on)
{
	fail_write_code = write_code;
	fail_sync_code = sync_code;
	fail_on = go_on;
	fail_in = calls;
}

/* ---- fixture ---- */

static void new_path(void)
{
	static unsigned serial;

	snprintf(path, sizeof(path), "%s/%u.db", folder, ++serial);
	snprintf(url, sizeof(url), "sqlite://%s", path);
}

static void set_up(void)
{
	CU_ASSERT_EQUAL(ops->open(url, folder, &db, &err), KS_OK);
	CU_ASSERT_EQUAL(ops->connect(db, &a, &err), SQLB_OK);
	CU_ASSERT_EQUAL(ops->connect(db, &b, &err), SQLB_OK);
	CU_ASSERT_EQUAL(ops->migrate(a, &cluster_id, &err), SQLB_OK);
}

static void tear_down(void)
{
	ops->disconnect(a);
	ops->disconnect(b);
	ops->close(db);
}

static const char *beside(const char *end)
{
	static char out[300];

	snprintf(out, sizeof(out), "%s%s", path, end);
	return out;
}

static enum sqlb_outcome put_kind(struct sqlb_conn *conn, int64_t position, int16_t kind, struct ks_slice key,
				  struct ks_slice value)
{
	const struct sqlb_row row = {.position = position,
				     .rows = 1,
				     .kind = kind,
				     .revision = position + 1,
				     .key = key,
				     .value = value,
				     .create_revision = 2,
				     .version = 1,
				     .writer = 7,
				     .batch = position};
	struct sqlb_append append = {.rows = &row, .row_count = 1};
	bool appended;

	return ops->append(conn, &append, &appended, &err);
}

static enum sqlb_outcome put(struct sqlb_conn *conn, int64_t position)
{
	return put_kind(conn, position, 1, ks_slice_str("key"), ks_slice_str("value"));
}

/* A batch that needs several pages: 20 entries. */
static enum sqlb_outcome put_batch(struct sqlb_conn *conn, int64_t position, int64_t writer)
{
	static const uint8_t value[3000];
	struct sqlb_row rows[20];
	struct sqlb_append append = {.rows = rows, .row_count = 20};
	bool appended;

	for (int i = 0; i < 20; i++)
		rows[i] = (struct sqlb_row){.position = position + i,
					    .rows = 1,
					    .kind = 1,
					    .revision = position + i + 1,
					    .value = ks_slice_of(value, sizeof(value)),
					    .writer = writer,
					    .batch = position};
	return ops->append(conn, &append, &appended, &err);
}

static struct sqlb_head head(void)
{
	struct sqlb_head at = {.position = -1};

	CU_ASSERT_EQUAL(ops->read_head(b, &at, &err), SQLB_OK);
	return at;
}

struct gaps {
	int64_t next;
	bool found;
};

static bool look_for_gap(void *ctx, const struct sqlb_row *row)
{
	struct gaps *gaps = ctx;

	gaps->found |= row->position != gaps->next++;
	return true;
}

static void check_no_gap(int64_t last)
{
	struct gaps gaps = {.next = 1};
	bool more;

	CU_ASSERT_EQUAL(ops->read_rows(b, 0, -1, SIZE_MAX, look_for_gap, &gaps, &more, &err), SQLB_OK);
	CU_ASSERT_FALSE(gaps.found);
	CU_ASSERT_EQUAL(gaps.next, last + 1);
}

/* One text from the database, as a person would see it with sqlite3. */
static const char *ask(const char *sql)
{
	static char out[200];
	sqlite3 *handle;
	sqlite3_stmt *statement = NULL;

	snprintf(out, sizeof(out), "(nothing)");
	if (sqlite3_open_v2(path, &handle, SQLITE_OPEN_READONLY, NULL) == SQLITE_OK &&
	    sqlite3_prepare_v2(handle, sql, -1, &statement, NULL) == SQLITE_OK &&
	    sqlite3_step(statement) == SQLITE_ROW && sqlite3_column_text(statement, 0))
		snprintf(out, sizeof(out), "%s", (const char *)sqlite3_column_text(statement, 0));
	sqlite3_finalize(statement);
	sqlite3_close(handle);
	return out;
}

static sqlite3 *outsider(const char *sql)
{
	sqlite3 *handle;

	CU_ASSERT_EQUAL(sqlite3_open(path, &handle), SQLITE_OK);
	CU_ASSERT_EQUAL(sqlite3_exec(handle, sql, NULL, NULL, NULL), SQLITE_OK);
	return handle;
}

/* ---- who may open it ---- */

static void a_second_server_gets_an_error_that_names_the_file(void)
{
	char other[320];
	struct sqlb_db *second;
	pid_t child;
	int status;

	new_path();
	set_up();
	CU_ASSERT_EQUAL(ops->open(url, folder, &second, &err), KS_FAILED_PRECONDITION);
	CU_ASSERT_PTR_NOT_NULL(strstr(err.text, path));
	CU_ASSERT_PTR_NOT_NULL(strstr(err.text, ".lock"));
	/* By another way to the same file. */
	CU_ASSERT_EQUAL(symlink(path, beside(".link")), 0);
	snprintf(other, sizeof(other), "sqlite://%s", beside(".link"));
	CU_ASSERT_EQUAL(ops->open(other, folder, &second, &err), KS_FAILED_PRECONDITION);
	snprintf(other, sizeof(other), "sqlite://%s/./../%s/%s", folder, folder + 5, strrchr(path, '/') + 1);
	CU_ASSERT_EQUAL(ops->open(other, folder, &second, &err), KS_FAILED_PRECONDITION);
	child = fork();
	if (child == 0)
		_exit(ops->open(url, folder, &second, &err) == KS_FAILED_PRECONDITION ? 0 : 1);
	CU_ASSERT_EQUAL(waitpid(child, &status, 0), child);
	CU_ASSERT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0);
	CU_ASSERT_EQUAL(put(a, 1), SQLB_OK);
	tear_down();
	set_up();
	CU_ASSERT_EQUAL(head().position, 1);
	tear_down();
}

static void urls_say_where_the_file_is(void)
{
	static const char *const wrong[] = {"sqlite:///tmp/x?mode=ro", "sqlite:///tmp/%zz", "postgres://x",
					    "sqlite:///", "sqlite:///tmp"};
	struct sqlb_db *opened;
	char data_dir[300];
	char text[400];

	snprintf(data_dir, sizeof(data_dir), "%s/data", folder);
	for (int i = 0; i < 2; i++) {
		CU_ASSERT_EQUAL(ops->open(i ? "sqlite:" : "sqlite://", data_dir, &opened, &err), KS_OK);
		ops->close(opened);
	}
	snprintf(text, sizeof(text), "%s/kineshim.db.lock", data_dir);
	CU_ASSERT_EQUAL(access(text, F_OK), 0);
	snprintf(text, sizeof(text), "sqlite://%s/with%%20space.db", folder);
	CU_ASSERT_EQUAL(ops->open(text, NULL, &opened, &err), KS_OK);
	ops->close(opened);
	snprintf(text, sizeof(text), "%s/with space.db.lock", folder);
	CU_ASSERT_EQUAL(access(text, F_OK), 0);
	for (size_t i = 0; i < sizeof(wrong) / sizeof(*wrong); i++) {
		enum ks_status status = ops->open(wrong[i], data_dir, &opened, &err);

		CU_ASSERT_TRUE(status == KS_INVALID_ARGUMENT || status == KS_FAILED_PRECONDITION);
		CU_ASSERT_PTR_NULL(opened);
	}
	snprintf(text, sizeof(text), "sqlite://%s/missing/x.db", folder);
	CU_ASSERT_EQUAL(ops->open(text, NULL, &opened, &err), KS_FAILED_PRECONDITION);
	CU_ASSERT_PTR_NOT_NULL(strstr(err.text, "missing"));
}

static void only_the_owner_may_read_the_file(void)
{
	struct stat stat_buf;

	new_path();
	set_up();
	CU_ASSERT_EQUAL(put(a, 1), SQLB_OK);
	CU_ASSERT_EQUAL(stat(path, &stat_buf), 0);
	CU_ASSERT_EQUAL(stat_buf.st_mode & 0777, 0600);
	CU_ASSERT_EQUAL(stat(beside("-wal"), &stat_buf), 0);
	CU_ASSERT_EQUAL(stat_buf.st_mode & 0777, 0600);
	tear_down();
	CU_ASSERT_NOT_EQUAL(access(beside("-wal"), F_OK), 0); /* a clean end leaves one file (and the lock's) */
}

/* ---- people and other programs ---- */

static void people_can_read_the_live_keys_while_it_runs(void)
{
	static const uint8_t odd[] = {'a', 0, 0xff};

	new_path();
	set_up();
	CU_ASSERT_EQUAL(put_kind(a, 1, 1, ks_slice_str("/one"), ks_slice_str("old")), SQLB_OK);
	CU_ASSERT_EQUAL(put_kind(a, 2, 1, ks_slice_str("/two"), ks_slice_str("2")), SQLB_OK);
	CU_ASSERT_EQUAL(put_kind(a, 3, 1, ks_slice_of(odd, sizeof(odd)), ks_slice_str("3")), SQLB_OK);
	CU_ASSERT_EQUAL(put_kind(a, 4, 2, ks_slice_str("/two"), ks_slice_of(NULL, 0)), SQLB_OK);
	CU_ASSERT_EQUAL(put_kind(a, 5, 1, ks_slice_str("/one"), ks_slice_str("new")), SQLB_OK);
	CU_ASSERT_EQUAL(put_kind(a, 6, 5, ks_slice_str("/two"), ks_slice_str("no key write")), SQLB_OK);
	CU_ASSERT_STRING_EQUAL(ask("SELECT count(*) FROM kineshim_live"), "2");
	CU_ASSERT_STRING_EQUAL(ask("SELECT value FROM kineshim_live WHERE key = '/one'"), "new");
	CU_ASSERT_STRING_EQUAL(ask("SELECT mod_revision FROM kineshim_live WHERE key = '/one'"), "6");
	CU_ASSERT_STRING_EQUAL(ask("SELECT value FROM kineshim_live WHERE key = 'x''6100FF'''"), "3");
	CU_ASSERT_STRING_EQUAL(ask("SELECT substr(written_at, 1, 2) FROM kineshim_live"), "20");
	CU_ASSERT_STRING_EQUAL(ask("SELECT value FROM kineshim_meta WHERE name = 'program'"), "kineshim");
	CU_ASSERT_STRING_EQUAL(ask("PRAGMA journal_mode"), "wal");
	tear_down();
}

static void a_lock_from_outside_is_away_until_it_is_gone(void)
{
	sqlite3 *other;

	new_path();
	set_up();
	other = outsider("BEGIN IMMEDIATE");
	CU_ASSERT_EQUAL(put(a, 1), SQLB_AWAY);
	CU_ASSERT_PTR_NOT_NULL(strstr(err.text, "locked"));
	CU_ASSERT_EQUAL(head().position, 0); /* reading goes on */
	sqlite3_close(other);
	CU_ASSERT_EQUAL(put(a, 1), SQLB_OK);
	tear_down();
}

static void a_row_that_an_outsider_wrote_conflicts(void)
{
	new_path();
	set_up();
	CU_ASSERT_EQUAL(put(a, 1), SQLB_OK);
	sqlite3_close(outsider("INSERT INTO kineshim_log VALUES (2,0,1,1,3,NULL,NULL,0,0,0,NULL,9,9,0)"));
	CU_ASSERT_EQUAL(put(a, 2), SQLB_CONFLICT);
	CU_ASSERT_EQUAL(head().writer, 9);
	tear_down();
}

static void another_programs_file_is_broken_and_stays_as_it_is(void)
{
	int fd;

	new_path();
	sqlite3_close(outsider("CREATE TABLE songs (title)"));
	CU_ASSERT_EQUAL(ops->open(url, folder, &db, &err), KS_OK);
	CU_ASSERT_EQUAL(ops->connect(db, &a, &err), SQLB_OK);
	CU_ASSERT_EQUAL(ops->connect(db, &b, &err), SQLB_OK);
	CU_ASSERT_EQUAL(ops->migrate(a, &cluster_id, &err), SQLB_BROKEN);
	CU_ASSERT_PTR_NOT_NULL(strstr(err.text, "songs"));
	CU_ASSERT_EQUAL(put(a, 1), SQLB_BROKEN);
	tear_down();
	CU_ASSERT_STRING_EQUAL(ask("PRAGMA journal_mode"), "delete");
	CU_ASSERT_STRING_EQUAL(ask("SELECT count(*) FROM sqlite_master"), "1");

	new_path();
	fd = open(path, O_WRONLY | O_CREAT, 0600);
	for (int i = 0; i < 500; i++)
		CU_ASSERT_EQUAL(write(fd, "this is no database ", 20), 20);
	close(fd);
	CU_ASSERT_EQUAL(ops->open(url, folder, &db, &err), KS_OK);
	CU_ASSERT_EQUAL(ops->connect(db, &a, &err), SQLB_OK);
	CU_ASSERT_EQUAL(ops->connect(db, &b, &err), SQLB_OK);
	CU_ASSERT_EQUAL(ops->migrate(a, &cluster_id, &err), SQLB_BROKEN);
	CU_ASSERT_PTR_NOT_NULL(strstr(err.text, path));
	tear_down();
}

static void a_file_that_was_deleted_is_broken_and_comes_back(void)
{
	char kept[300];

	new_path();
	set_up();
	CU_ASSERT_EQUAL(put(a, 1), SQLB_OK);
	snprintf(kept, sizeof(kept), "%s", beside(".kept"));
	CU_ASSERT_EQUAL(rename(path, kept), 0);
	CU_ASSERT_EQUAL(put(a, 2), SQLB_BROKEN);
	CU_ASSERT_PTR_NOT_NULL(strstr(err.text, "deleted"));
	CU_ASSERT_NOT_EQUAL(put(b, 2), SQLB_OK); /* a connection that opens only now makes no new file */
	CU_ASSERT_NOT_EQUAL(access(path, F_OK), 0);
	CU_ASSERT_EQUAL(rename(kept, path), 0);
	CU_ASSERT_EQUAL(put(a, 2), SQLB_OK);
	CU_ASSERT_EQUAL(put(b, 3), SQLB_OK);
	tear_down();
}

/* ---- time ---- */

static bool count_members(void *ctx, const struct sqlb_member *member)
{
	(void)member;
	++*(int *)ctx;
	return true;
}

static void deadlines_of_an_earlier_process_mean_nothing(void)
{
	const struct sqlb_lease ensure[] = {{.id = 1, .ttl_ms = 60000}};
	const struct sqlb_member self = {.id = 5};
	struct sqlb_lease lease = {.id = 1};
	struct sqlb_duty duty;
	int count = 0;

	new_path();
	set_up();
	CU_ASSERT_EQUAL(ops->lease_ensure(a, ensure, 1, &err), SQLB_OK);
	CU_ASSERT_EQUAL(ops->duty_take(a, 5, 60000, &duty, &err), SQLB_OK);
	CU_ASSERT_EQUAL(ops->member_beat(a, &self, 60000, &err), SQLB_OK);
	CU_ASSERT_EQUAL(ops->migrate(b, &cluster_id, &err), SQLB_OK); /* the same process: nothing is lost */
	CU_ASSERT_EQUAL(ops->member_list(a, count_members, &count, &err), SQLB_OK);
	CU_ASSERT_EQUAL(count, 1);
	tear_down();
	/* As a machine whose clock was set back, or that slept for a year, would leave it. */
	sqlite3_close(outsider("UPDATE kineshim_lease SET deadline = 12; UPDATE kineshim_duty SET deadline = 1e17"));
	set_up();
	CU_ASSERT_EQUAL(ops->lease_read(a, &lease, 1, &err), SQLB_OK);
	CU_ASSERT_TRUE(lease.found && lease.remaining_ms > 50000 && lease.remaining_ms <= 60000);
	CU_ASSERT_EQUAL(ops->duty_take(a, 6, 60000, &duty, &err), SQLB_OK);
	CU_ASSERT_TRUE(duty.taken_now && duty.term == 3);
	count = 0;
	CU_ASSERT_EQUAL(ops->member_list(a, count_members, &count, &err), SQLB_OK);
	CU_ASSERT_EQUAL(count, 0);
	tear_down();
}

struct listed {
	struct sqlb_lease leases[4000];
	size_t count;
};

static bool list_one(void *ctx, const struct sqlb_lease *lease)
{
	struct listed *listed = ctx;

	listed->leases[listed->count++] = *lease;
	return listed->count < sizeof(listed->leases) / sizeof(*listed->leases);
}

static void list(size_t limit, struct listed *listed)
{
	listed->count = 0;
	CU_ASSERT_EQUAL(ops->lease_list(b, limit, list_one, listed, &err), SQLB_OK);
}

static void keepalives_write_nothing(void)
{
	struct sqlb_lease lease = {.id = 1, .ttl_ms = 60000};
	int64_t deadline;
	struct stat before, after;

	new_path();
	set_up();
	CU_ASSERT_EQUAL(ops->lease_ensure(a, &lease, 1, &err), SQLB_OK);
	deadline = strtoll(ask("SELECT deadline FROM kineshim_lease"), NULL, 10);
	CU_ASSERT_EQUAL(stat(beside("-wal"), &before), 0);
	(void)usleep(20000);
	for (int i = 0; i < 1000; i++) {
		lease.found = false;
		CU_ASSERT_EQUAL(ops->lease_touch(a, &lease, 1, &err), SQLB_OK);
		CU_ASSERT_TRUE(lease.found && lease.remaining_ms == 60000);
	}
	CU_ASSERT_EQUAL(stat(beside("-wal"), &after), 0);
	CU_ASSERT_EQUAL(before.st_size, after.st_size);
	CU_ASSERT_EQUAL(before.st_mtim.tv_sec, after.st_mtim.tv_sec);
	CU_ASSERT_EQUAL(before.st_mtim.tv_nsec, after.st_mtim.tv_nsec);
	CU_ASSERT_EQUAL(strtoll(ask("SELECT deadline FROM kineshim_lease"), NULL, 10), deadline);
	/* And were kept all the same. */
	(void)usleep(1000);
	CU_ASSERT_EQUAL(ops->lease_read(b, &lease, 1, &err), SQLB_OK);
	CU_ASSERT_TRUE(lease.found && lease.remaining_ms > 50000);
	tear_down();
}

static void the_soonest_of_many_come_first(void)
{
	static const size_t limits[] = {1, 2, 7, 500, 1499, 1500, 1501};
	static struct listed all, some;
	struct sqlb_lease leases[100];
	int64_t ids[1500];
	uint64_t random = 1;

	new_path();
	set_up();
	for (int64_t i = 0; i < 3000; i++) {
		random = random * 6364136223846793005u + 1442695040888963407u;
		/* Ids with a step, so that they meet in the table. */
		leases[i % 100] = (struct sqlb_lease){.id = (i + 1) << 20, .ttl_ms = 60000 + (int64_t)(random >> 50)};
		if (i % 100 == 99)
			CU_ASSERT_EQUAL(ops->lease_ensure(a, leases, 100, &err), SQLB_OK);
	}
	for (int64_t i = 0; i < 1500; i++)
		ids[i] = (2 * i + 1) << 20;
	CU_ASSERT_EQUAL(ops->lease_drop(a, ids, 1000, &err), SQLB_OK);
	CU_ASSERT_EQUAL(ops->lease_drop(a, ids + 1000, 500, &err), SQLB_OK);
	list(0, &all);
	CU_ASSERT_EQUAL(all.count, 1500);
	for (size_t i = 0; i < all.count; i++) {
		CU_ASSERT_EQUAL((all.leases[i].id >> 20) % 2, 0);
		if (i > 0)
			CU_ASSERT_TRUE(all.leases[i - 1].remaining_ms <= all.leases[i].remaining_ms);
	}
	for (size_t n = 0; n < sizeof(limits) / sizeof(*limits); n++) {
		list(limits[n], &some);
		CU_ASSERT_EQUAL(some.count, limits[n] < 1500 ? limits[n] : 1500);
		for (size_t i = 0; i < some.count; i++)
			CU_ASSERT_EQUAL(some.leases[i].id, all.leases[i].id);
	}
	tear_down();
}

/* A grant, a revoke and an id that is granted again, with the n-th call failing. False when nothing failed any more. */
static bool leases_with_failure(int n, int64_t *position)
{
	const struct sqlb_row row = {.position = *position + 1, .rows = 1, .kind = 3, .writer = 7, .batch = n};
	const struct sqlb_lease granted[] = {{.id = 10 + n, .ttl_ms = 60000}, {.id = 1, .ttl_ms = 60000}};
	const int64_t gone[] = {10 + n - 1};
	struct sqlb_append append = {.rows = &row,
				     .row_count = 1,
				     .leases_new = granted,
				     .leases_new_count = 2,
				     .leases_gone = gone,
				     .leases_gone_count = 1};
	char known[200] = "", id[24];
	static struct listed listed;
	bool appended, failed;

	fail_after(n, SQLITE_IOERR_WRITE, SQLITE_IOERR_FSYNC, false);
	(void)ops->append(a, &append, &appended, &err);
	failed = fail_in == 0;
	fail_after(0, 0, 0, false);
	*position = head().position;
	list(0, &listed);
	for (size_t i = 0; i < listed.count; i++) {
		CU_ASSERT_TRUE(listed.leases[i].remaining_ms > 50000);
		(void)snprintf(id, sizeof(id), "%lld,", (long long)listed.leases[i].id);
		(void)strncat(known, id, sizeof(known) - strlen(known) - 1);
	}
	/* The same ones as in the file, in whatever order. */
	CU_ASSERT_EQUAL(strlen(known),
			strlen(ask("SELECT coalesce(group_concat(id || ',', ''), '') FROM kineshim_lease")));
	for (char *at = known; *at; at = strchr(at, ',') + 1) {
		char sql[120];

		(void)snprintf(sql, sizeof(sql), "SELECT count(*) FROM kineshim_lease WHERE id = %lld",
			       strtoll(at, NULL, 10));
		CU_ASSERT_STRING_EQUAL(ask(sql), "1");
	}
	return failed;
}

static void after_a_failing_write_the_leases_are_those_of_the_file(void)
{
	int64_t position = 0;
	int n = 1;

	new_path();
	set_up();
	while (leases_with_failure(n, &position) && n < 1000)
		n++;
	CU_ASSERT_TRUE(n > 3 && n < 1000);
	tear_down();
}

/* ---- load ---- */

static _Atomic bool writer_stop;

static void *write_all_the_time(void *arg)
{
	struct ks_err mine;
	struct sqlb_row row = {.position = 1, .rows = 1, .kind = 1};
	struct sqlb_append append = {.rows = &row, .row_count = 1};
	bool appended;

	(void)arg;
	while (!writer_stop && ops->append(a, &append, &appended, &mine) == SQLB_OK)
		row.position++;
	return NULL;
}

static void a_busy_writer_does_not_starve_keepalives(void)
{
	struct sqlb_lease lease = {.id = 1, .ttl_ms = 60000};
	struct ks_clock *clock = ks_clock_system();
	pthread_t thread;
	int64_t start;

	new_path();
	set_up();
	CU_ASSERT_EQUAL(ops->lease_ensure(b, &lease, 1, &err), SQLB_OK);
	writer_stop = false;
	CU_ASSERT_EQUAL_FATAL(pthread_create(&thread, NULL, write_all_the_time, NULL), 0);
	start = ks_clock_now(clock);
	for (int i = 0; i < 100; i++) {
		CU_ASSERT_EQUAL(ops->lease_touch(b, &lease, 1, &err), SQLB_OK);
		CU_ASSERT_TRUE(lease.found);
	}
	CU_ASSERT_TRUE(ks_clock_now(clock) - start < 20000); /* each waits for one commit at most */
	writer_stop = true;
	pthread_join(thread, NULL);
	tear_down();
}

static void the_wal_stays_bounded_under_steady_load(void)
{
	uint8_t *value = calloc(1, 1000000);
	struct stat wal;
	off_t longest = 0;

	new_path();
	set_up();
	for (int64_t position = 1; position <= 200; position++) {
		CU_ASSERT_EQUAL(put_kind(a, position, 1, ks_slice_str("k"), ks_slice_of(value, 1000000)), SQLB_OK);
		CU_ASSERT_EQUAL(stat(beside("-wal"), &wal), 0);
		longest = wal.st_size > longest ? wal.st_size : longest;
	}
	CU_ASSERT_TRUE(longest < 120 * 1000 * 1000);
	if (longest >= 120 * 1000 * 1000)
		printf("# %lld bytes\n", (long long)longest);
	check_no_gap(200);
	tear_down();
	free(value);
}

static void a_reader_from_outside_delays_the_wal_but_no_writer(void)
{
	uint8_t *value = calloc(1, 1000000);
	struct stat wal = {0};
	sqlite3 *reader;

	new_path();
	set_up();
	CU_ASSERT_EQUAL(put(a, 1), SQLB_OK);
	reader = outsider("BEGIN; SELECT count(*) FROM kineshim_log");
	for (int64_t position = 2; position <= 40; position++)
		CU_ASSERT_EQUAL(put_kind(a, position, 1, ks_slice_str("k"), ks_slice_of(value, 1000000)), SQLB_OK);
	sqlite3_close(reader);
	for (int64_t position = 41; position <= 140; position++)
		CU_ASSERT_EQUAL(put_kind(a, position, 1, ks_slice_str("k"), ks_slice_of(value, 1000000)), SQLB_OK);
	CU_ASSERT_EQUAL(stat(beside("-wal"), &wal), 0);
	CU_ASSERT_TRUE(wal.st_size < 120 * 1000 * 1000);
	check_no_gap(140);
	tear_down();
	free(value);
}

/* ---- disks that fail ---- */

/* One append with the n-th call failing, and what must be true then. False when nothing failed any more. */
static bool append_with_failure(int n, int write_code, int sync_code, int64_t *position)
{
	enum sqlb_outcome outcome;
	bool failed;

	fail_after(n, write_code, sync_code, false);
	outcome = put_batch(a, *position + 1, n);
	failed = fail_in == 0;
	fail_after(0, 0, 0, false);
	CU_ASSERT_EQUAL(failed, outcome != SQLB_OK);
	CU_ASSERT_TRUE(outcome == SQLB_OK || outcome == SQLB_AWAY || outcome == SQLB_DOUBT);
	CU_ASSERT_TRUE(write_code != SQLITE_FULL || sync_code != SQLITE_FULL || outcome != SQLB_DOUBT);
	if (outcome == SQLB_AWAY)
		CU_ASSERT_EQUAL(head().position, *position);
	if (outcome != SQLB_OK) {
		/* Settle it by taking the position, as the log does. */
		outcome = put_batch(a, *position + 1, n);
		CU_ASSERT_TRUE(outcome == SQLB_OK || outcome == SQLB_CONFLICT);
		CU_ASSERT_EQUAL(head().writer, n);
	}
	*position += 20;
	CU_ASSERT_EQUAL(head().position, *position);
	return failed;
}

static void every_failing_write_leaves_all_or_nothing(void)
{
	static const int codes[][2] = {{SQLITE_FULL, SQLITE_FULL},
				       {SQLITE_IOERR_WRITE, SQLITE_IOERR_FSYNC},
				       {SQLITE_FULL, SQLITE_IOERR_FSYNC}};
	int64_t position = 0;

	new_path();
	set_up();
	for (size_t c = 0; c < sizeof(codes) / sizeof(*codes); c++) {
		int n = 1;

		while (append_with_failure(n, codes[c][0], codes[c][1], &position) && n < 1000)
			n++;
		CU_ASSERT_TRUE(n > 10 && n < 1000);
	}
	check_no_gap(position);
	tear_down();
	set_up();
	check_no_gap(position);
	CU_ASSERT_STRING_EQUAL(ask("PRAGMA integrity_check"), "ok");
	tear_down();
}

/*
 * The process dies right after the outcome. AWAY: nothing may come back from the WAL; DOUBT: all or nothing; OK: all.
 * Each runs in a child, because only a death leaves the WAL as it is.
 */
static void outcomes_stay_true_after_a_crash(void)
{
	int64_t position = 0;
	bool all_done = false;
	int n;

	new_path();
	set_up();
	tear_down();
	for (n = 1; n < 1000 && !all_done; n++) {
		pid_t child = fork();
		int status;

		if (child == 0) {
			set_up();
			fail_after(n, SQLITE_FULL, SQLITE_IOERR_FSYNC, true);
			_exit((int)put_batch(a, position + 1, n) | (fail_in > 1 ? 16 : 0));
		}
		CU_ASSERT_EQUAL(waitpid(child, &status, 0), child);
		CU_ASSERT_TRUE_FATAL(WIFEXITED(status));
		status = WEXITSTATUS(status);
		all_done = status & 16;
		set_up();
		switch ((enum sqlb_outcome)(status & 15)) {
		case SQLB_OK:
			CU_ASSERT_EQUAL(head().position, position + 20);
			break;
		case SQLB_AWAY:
			CU_ASSERT_EQUAL(head().position, position);
			break;
		case SQLB_DOUBT:
			CU_ASSERT_TRUE(head().position == position || head().position == position + 20);
			break;
		case SQLB_CONFLICT:
		case SQLB_BROKEN:
			CU_FAIL("neither the position nor the schema is wrong");
			break;
		}
		position = head().position;
		check_no_gap(position);
		tear_down();
	}
	CU_ASSERT_TRUE(all_done && n > 5);
}

static void a_full_disk_is_away_until_there_is_room(void)
{
	struct sqlb_lease lease = {.id = 1, .ttl_ms = 1000};

	new_path();
	set_up();
	CU_ASSERT_EQUAL(put(a, 1), SQLB_OK);
	fail_after(1, SQLITE_FULL, SQLITE_FULL, true);
	for (int i = 0; i < 3; i++) {
		CU_ASSERT_EQUAL(put(a, 2), SQLB_AWAY);
		CU_ASSERT_PTR_NOT_NULL(strstr(err.text, "full"));
		CU_ASSERT_EQUAL(ops->lease_ensure(b, &lease, 1, &err), SQLB_AWAY);
		CU_ASSERT_EQUAL(head().position, 1);
	}
	fail_after(0, 0, 0, false);
	CU_ASSERT_EQUAL(put(a, 2), SQLB_OK);
	CU_ASSERT_EQUAL(ops->lease_ensure(b, &lease, 1, &err), SQLB_OK);
	check_no_gap(2);
	tear_down();
}

static void defragment_without_room_for_a_copy_gives_back_what_is_free(void)
{
	static const uint8_t value[1000000];
	struct sqlb_loc locs[19];
	struct sqlb_size before, after;

	new_path();
	set_up();
	for (int64_t position = 1; position <= 20; position++)
		CU_ASSERT_EQUAL(put_kind(a, position, 1, ks_slice_str("k"), ks_slice_of(value, 1000000)), SQLB_OK);
	for (int i = 0; i < 19; i++)
		locs[i] = (struct sqlb_loc){i + 1, 0};
	CU_ASSERT_EQUAL(ops->trim(a, locs, 19, &err), SQLB_OK);
	CU_ASSERT_EQUAL(ops->size(a, &before, &err), SQLB_OK);
	CU_ASSERT_TRUE(before.in_use < 3000000 && before.allocated > 19000000);
	fail_after(1, SQLITE_FULL, SQLITE_FULL, false);
	CU_ASSERT_EQUAL(ops->defragment(a, false, &err), SQLB_OK);
	CU_ASSERT_EQUAL(fail_in, 0);
	CU_ASSERT_EQUAL(ops->size(a, &after, &err), SQLB_OK);
	CU_ASSERT_TRUE(after.allocated < 3000000);
	CU_ASSERT_EQUAL(head().position, 20);
	CU_ASSERT_STRING_EQUAL(ask("PRAGMA integrity_check"), "ok");
	tear_down();
}

static void a_checkpoint_that_fails_stops_nothing(void)
{
	uint8_t *value = calloc(1, 1000000);
	struct stat wal = {0};

	new_path();
	set_up();
	background_fails = true;
	for (int64_t position = 1; position <= 40; position++)
		CU_ASSERT_EQUAL(put_kind(a, position, 1, ks_slice_str("k"), ks_slice_of(value, 1000000)), SQLB_OK);
	CU_ASSERT_EQUAL(stat(beside("-wal"), &wal), 0);
	CU_ASSERT_TRUE(wal.st_size > 40 * 1000 * 1000);
	background_fails = false;
	for (int64_t position = 41; position <= 140; position++)
		CU_ASSERT_EQUAL(put_kind(a, position, 1, ks_slice_str("k"), ks_slice_of(value, 1000000)), SQLB_OK);
	CU_ASSERT_EQUAL(stat(beside("-wal"), &wal), 0);
	CU_ASSERT_TRUE(wal.st_size < 120 * 1000 * 1000); /* it began anew */
	check_no_gap(140);
	tear_down();
	free(value);
}

/* ---- the log's room ---- */

static off_t wal_size(void)
{
	struct stat wal = {0};

	CU_ASSERT_EQUAL(stat(beside("-wal"), &wal), 0);
	return wal.st_size;
}

static void no_commit_of_the_first_round_makes_the_wal_longer(void)
{
	off_t room;

	new_path();
	set_up();
	room = wal_size();
	CU_ASSERT_TRUE(room > 1000 * 8192);
	for (int64_t position = 1; position <= 600; position++)
		CU_ASSERT_EQUAL(put(a, position), SQLB_OK);
	CU_ASSERT_EQUAL(wal_size(), room);
	tear_down();
	set_up(); /* the end removed it */
	CU_ASSERT_EQUAL(wal_size(), room);
	check_no_gap(600);
	tear_down();
}

/* Commits make it as long as they need it, as they always did. */
static void without_the_wals_room_all_goes_on(void)
{
	new_path();
	set_up();
	tear_down();
	CU_ASSERT_EQUAL(ops->open(url, folder, &db, &err), KS_OK);
	CU_ASSERT_EQUAL(ops->connect(db, &a, &err), SQLB_OK);
	CU_ASSERT_EQUAL(ops->connect(db, &b, &err), SQLB_OK);
	CU_ASSERT_EQUAL(put(a, 1), SQLB_OK);
	fail_after(20, SQLITE_FULL, SQLITE_FULL, false);
	CU_ASSERT_EQUAL(ops->migrate(a, &cluster_id, &err), SQLB_OK);
	CU_ASSERT_EQUAL(fail_in, 0);
	CU_ASSERT_TRUE(wal_size() > 0 && wal_size() < 20 * 8192); /* others may need what it could have had */
	fail_after(0, 0, 0, false);
	for (int64_t position = 2; position <= 200; position++)
		CU_ASSERT_EQUAL(put(a, position), SQLB_OK);
	check_no_gap(200);
	tear_down();
	set_up();
	check_no_gap(200);
	CU_ASSERT_STRING_EQUAL(ask("PRAGMA integrity_check"), "ok");
	tear_down();
}

/* ---- kill -9 ---- */

static void acknowledged_appends_survive_a_kill(void)
{
	int64_t position = 0;

	new_path();
	set_up();
	tear_down();
	for (int round = 0; round < 5; round++) {
		int64_t acknowledged = position;
		int pipes[2];
		pid_t child;

		CU_ASSERT_EQUAL_FATAL(pipe(pipes), 0);
		child = fork();
		if (child == 0) {
			close(pipes[0]);
			set_up();
			for (int64_t next = position + 1;; next += 20) {
				int64_t done = next + 19;

				if (put_batch(a, next, 1) != SQLB_OK || write(pipes[1], &done, sizeof(done)) < 0)
					_exit(1);
			}
		}
		close(pipes[1]);
		for (int i = 0; i < 20 + round * 37; i++)
			if (read(pipes[0], &acknowledged, sizeof(acknowledged)) != sizeof(acknowledged))
				break;
		CU_ASSERT_EQUAL(kill(child, SIGKILL), 0);
		while (read(pipes[0], &acknowledged, sizeof(acknowledged)) == sizeof(acknowledged))
			; /* those that were still in the pipe count */
		CU_ASSERT_EQUAL(waitpid(child, NULL, 0), child);
		close(pipes[0]);
		CU_ASSERT_TRUE(acknowledged > position);
		set_up(); /* the kernel gave the lock back */
		position = head().position;
		CU_ASSERT_TRUE(position >= acknowledged);
		CU_ASSERT_EQUAL(position % 20, 0);
		check_no_gap(position);
		tear_down();
	}
}

static int remove_one(const char *name, const struct stat *stat_buf, int type, struct FTW *ftw)
{
	(void)stat_buf;
	(void)type;
	(void)ftw;
	return remove(name);
}

int main(void)
{
	int status;

	if (!mkdtemp(folder)) {
		printf("Bail out! %s: cannot create\n", folder);
		return 99;
	}
	ks_diag_setup(KS_ERROR, KS_DIAG_TEXT);
	test_thread = true;
	install_shim();
	status = tap_run(
		"sqlite",
		(const struct tap_test[]){
			{"a_second_server_gets_an_error_that_names_the_file",
			 a_second_server_gets_an_error_that_names_the_file},
			{"urls_say_where_the_file_is", urls_say_where_the_file_is},
			{"only_the_owner_may_read_the_file", only_the_owner_may_read_the_file},
			{"people_can_read_the_live_keys_while_it_runs", people_can_read_the_live_keys_while_it_runs},
			{"a_lock_from_outside_is_away_until_it_is_gone", a_lock_from_outside_is_away_until_it_is_gone},
			{"a_row_that_an_outsider_wrote_conflicts", a_row_that_an_outsider_wrote_conflicts},
			{"another_programs_file_is_broken_and_stays_as_it_is",
			 another_programs_file_is_broken_and_stays_as_it_is},
			{"a_file_that_was_deleted_is_broken_and_comes_back",
			 a_file_that_was_deleted_is_broken_and_comes_back},
			{"deadlines_of_an_earlier_process_mean_nothing", deadlines_of_an_earlier_process_mean_nothing},
			{"keepalives_write_nothing", keepalives_write_nothing},
			{"the_soonest_of_many_come_first", the_soonest_of_many_come_first},
			{"after_a_failing_write_the_leases_are_those_of_the_file",
			 after_a_failing_write_the_leases_are_those_of_the_file},
			{"a_busy_writer_does_not_starve_keepalives", a_busy_writer_does_not_starve_keepalives},
			{"the_wal_stays_bounded_under_steady_load", the_wal_stays_bounded_under_steady_load},
			{"a_reader_from_outside_delays_the_wal_but_no_writer",
			 a_reader_from_outside_delays_the_wal_but_no_writer},
			{"every_failing_write_leaves_all_or_nothing", every_failing_write_leaves_all_or_nothing},
			{"outcomes_stay_true_after_a_crash", outcomes_stay_true_after_a_crash},
			{"a_full_disk_is_away_until_there_is_room", a_full_disk_is_away_until_there_is_room},
			{"defragment_without_room_for_a_copy_gives_back_what_is_free",
			 defragment_without_room_for_a_copy_gives_back_what_is_free},
			{"a_checkpoint_that_fails_stops_nothing", a_checkpoint_that_fails_stops_nothing},
			{"no_commit_of_the_first_round_makes_the_wal_longer",
			 no_commit_of_the_first_round_makes_the_wal_longer},
			{"without_the_wals_room_all_goes_on", without_the_wals_room_all_goes_on},
			{"acknowledged_appends_survive_a_kill", acknowledged_appends_survive_a_kill},
			{NULL, NULL},
		});
	nftw(folder, remove_one, 16, FTW_DEPTH | FTW_PHYS);
	return status;
}
