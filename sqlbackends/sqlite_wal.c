/* SPDX-License-Identifier: Apache-2.0 */
/*
 * SQLite's write-ahead log as a file: its room on the disk, and the checkpointer, a thread with a connection of its own.
 *
 * A commit that makes the file longer waits for the file system's journal, too, which takes twice as long as the commit itself and sometimes
 * milliseconds. Once the log has started over, commits overwrite what is there. So it gets the room of its first round at the start, as bytes that
 * are zero: to SQLite the log ends with the last frame whose salts and checksum are right, and whatever is behind that is left from before.
 */
#include "sqlite_priv.h"

#include "base/diag.h"

#define PIECE (64 * 1024)
/* its header, and a page as migrate makes it; with other pages there is less room, or more */
#define FRAME_BYTES (24 + 8192)
/* what comes while the checkpointer is at work is behind it */
#define ROUND_PAGES (CHECKPOINT_PAGES + CHECKPOINT_PAGES / 4)

/* ---- room ---- */

static int write_zeros(sqlite3_file *file, sqlite3_int64 from, sqlite3_int64 to)
{
	static const char zeros[PIECE];
	int rc = SQLITE_OK;

	for (sqlite3_int64 at = from; at < to && rc == SQLITE_OK; at += PIECE)
		rc = file->pMethods->xWrite(file, zeros, to - at < PIECE ? (int)(to - at) : PIECE, at);
	return rc == SQLITE_OK ? file->pMethods->xSync(file, SQLITE_SYNC_NORMAL) : rc;
}

void sqlb_lite_make_room(struct sqlb_conn *conn)
{
	const sqlite3_int64 room = (sqlite3_int64)ROUND_PAGES * FRAME_BYTES;
	sqlite3_file *file = NULL;
	sqlite3_int64 size;
	int rc = sqlite3_file_control(conn->handle, "main", SQLITE_FCNTL_JOURNAL_POINTER, &file);

	if (rc != SQLITE_OK || !file || !file->pMethods)
		return;
	rc = file->pMethods->xFileSize(file, &size);
	if (rc != SQLITE_OK || size >= room)
		return;
	rc = write_zeros(file, size, room);
	if (rc == SQLITE_OK)
		return;
	/* What there is of room others may need; commits will be slower, or meet the same and say so. */
	if (file->pMethods->xTruncate(file, size) == SQLITE_OK)
		ks_diag(KS_DEBUG, "sqlite", "no room could be made for the write-ahead log: %s", sqlite3_errstr(rc));
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
	int rc = sqlb_lite_ask(conn, LITE_HEAD, NULL, 0, head, 4);

	if (sqlb_lite_outcome(rc) == SQLB_OK)
		rc = checkpoint(conn, pages, done);
	if (rc != SQLITE_OK)
		return rc;
	sqlb_lite_take_turn(conn->db);
	rc = checkpoint(conn, pages, done);
	sqlb_lite_give_turn(conn->db);
	return rc;
}

void *sqlb_lite_checkpointer(void *arg)
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
		if (sqlb_lite_ready(&conn, "checkpoint", &err) == SQLB_OK) {
			rc = checkpoint_twice(&conn, &pages, &done);
			if (rc != SQLITE_OK)
				sqlb_lite_failed(&conn, "checkpoint", rc, &err);
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
	sqlb_lite_drop(&conn);
	return NULL;
}
