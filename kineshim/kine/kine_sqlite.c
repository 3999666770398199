/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Kine's table in a SQLite file. Kine has it in WAL mode, so a reader neither waits nor is waited for; but the WAL can only
 * grow while a long snapshot is read.
 */
#include <sqlite3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/panic.h"
#include "kine/kine_priv.h"

#define BUSY_TIMEOUT_MS 10000

struct lite {
	char *path;
	sqlite3 *handle;
	sqlite3_stmt *rows;
};

static void drop(struct lite *lite)
{
	sqlite3_finalize(lite->rows);
	lite->rows = NULL;
	(void)sqlite3_close(lite->handle);
	lite->handle = NULL;
}

static enum ks_status failed(struct lite *lite, const char *what, int rc, struct ks_err *err)
{
	enum ks_status status = KS_UNAVAILABLE;
	int code = rc & 0xff;

	if (code == SQLITE_CORRUPT || code == SQLITE_NOTADB)
		status = KS_DATA_LOSS;
	else if (code == SQLITE_ERROR || code == SQLITE_CANTOPEN || code == SQLITE_PERM || code == SQLITE_AUTH)
		status = KS_FAILED_PRECONDITION; /* no such table, no such file */
	(void)ks_fail(err, status, "%s: %s: %s", lite->path, what,
		      lite->handle ? sqlite3_errmsg(lite->handle) : sqlite3_errstr(rc));
	drop(lite);
	return status;
}

/* Kine's forms: a path, "file:" in front, parameters behind. */
static enum ks_status lite_open(const char *endpoint, const char *rest, void **state, struct ks_err *err)
{
	struct lite *lite;
	size_t size;

	(void)endpoint;
	if (strncmp(rest, "file:", 5) == 0)
		rest += 5;
	size = strcspn(rest, "?");
	if (size == 0)
		return ks_fail(err, KS_INVALID_ARGUMENT, "kine://sqlite:// lacks the path of the file");
	lite = ks_xcalloc(1, sizeof(*lite));
	lite->path = ks_xmalloc(size + 1);
	memcpy(lite->path, rest, size);
	lite->path[size] = '\0';
	*state = lite;
	return KS_OK;
}

static void lite_close(void *state)
{
	struct lite *lite = state;

	drop(lite);
	free(lite->path);
	free(lite);
}

/* A reader of a WAL writes into its index, so a connection that may write comes first; query_only keeps it from the rest. */
static int connect_lite(struct lite *lite)
{
	int rc;

	if (lite->handle)
		return SQLITE_OK;
	rc = sqlite3_open_v2(lite->path, &lite->handle,
			     SQLITE_OPEN_READWRITE | SQLITE_OPEN_NOMUTEX | SQLITE_OPEN_EXRESCODE, NULL);
	if (rc == SQLITE_CANTOPEN || rc == SQLITE_READONLY || rc == SQLITE_PERM) {
		(void)sqlite3_close(lite->handle);
		rc = sqlite3_open_v2(lite->path, &lite->handle,
				     SQLITE_OPEN_READONLY | SQLITE_OPEN_NOMUTEX | SQLITE_OPEN_EXRESCODE, NULL);
	}
	if (rc == SQLITE_OK)
		rc = sqlite3_busy_timeout(lite->handle, BUSY_TIMEOUT_MS);
	if (rc == SQLITE_OK)
		rc = sqlite3_exec(lite->handle, "PRAGMA query_only = ON; PRAGMA trusted_schema = OFF", NULL, NULL,
				  NULL);
	return rc;
}

static int read_head(struct lite *lite, const char *table, struct ks_kine_head *head)
{
	sqlite3_stmt *statement = NULL;
	char text[2 * KS_KINE_TABLE_MAX + 200];
	int rc;

	(void)snprintf(text, sizeof(text),
		       "SELECT coalesce((SELECT max(id) FROM %s), 0), coalesce((SELECT max(prev_revision) FROM %s"
		       " WHERE name = 'compact_rev_key'), 0)",
		       table, table);
	rc = sqlite3_prepare_v2(lite->handle, text, -1, &statement, NULL);
	if (rc == SQLITE_OK)
		rc = sqlite3_step(statement);
	if (rc == SQLITE_ROW) {
		head->newest = sqlite3_column_int64(statement, 0);
		head->compact_revision = sqlite3_column_int64(statement, 1);
		rc = SQLITE_OK;
	}
	sqlite3_finalize(statement);
	return rc;
}

static enum ks_status lite_begin(void *state, const char *table, int64_t after, int64_t to, struct ks_kine_head *head,
				 struct ks_err *err)
{
	struct lite *lite = state;
	char text[KS_KINE_TABLE_MAX + 200];
	int rc = connect_lite(lite);

	if (rc != SQLITE_OK)
		return failed(lite, "open", rc, err);
	(void)snprintf(text, sizeof(text), "SELECT " KS_KINE_COLUMNS " FROM %s WHERE id > ?1 AND id <= ?2 ORDER BY id",
		       table);
	rc = sqlite3_exec(lite->handle, "BEGIN", NULL, NULL, NULL);
	if (rc == SQLITE_OK)
		rc = read_head(lite, table, head);
	if (rc == SQLITE_OK)
		rc = sqlite3_prepare_v2(lite->handle, text, -1, &lite->rows, NULL);
	if (rc == SQLITE_OK)
		rc = sqlite3_bind_int64(lite->rows, 1, after);
	if (rc == SQLITE_OK)
		rc = sqlite3_bind_int64(lite->rows, 2, to);
	return rc == SQLITE_OK ? KS_OK : failed(lite, "read", rc, err);
}

static struct ks_slice column(sqlite3_stmt *statement, int i)
{
	/* The bytes as they are; a number, which older tables made of some names, as its text. */
	const void *data = sqlite3_column_type(statement, i) == SQLITE_BLOB ? sqlite3_column_blob(statement, i)
									    : sqlite3_column_text(statement, i);

	return data ? ks_slice_of(data, (size_t)sqlite3_column_bytes(statement, i)) : ks_slice_of("", 0);
}

static enum ks_status lite_next(void *state, struct ks_kine_row *row, bool *more, struct ks_err *err)
{
	struct lite *lite = state;
	int rc = sqlite3_step(lite->rows);

	*more = rc == SQLITE_ROW;
	if (rc == SQLITE_DONE)
		return KS_OK;
	if (rc != SQLITE_ROW)
		return failed(lite, "read", rc, err);
	*row = (struct ks_kine_row){
		.id = sqlite3_column_int64(lite->rows, 0),
		.name = column(lite->rows, 1),
		.created = sqlite3_column_int64(lite->rows, 2) != 0,
		.deleted = sqlite3_column_int64(lite->rows, 3) != 0,
		.create_revision = sqlite3_column_int64(lite->rows, 4),
		.prev_revision = sqlite3_column_int64(lite->rows, 5),
		.lease = sqlite3_column_int64(lite->rows, 6),
		.value = column(lite->rows, 7),
	};
	return KS_OK;
}

static void lite_end(void *state)
{
	struct lite *lite = state;

	sqlite3_finalize(lite->rows);
	lite->rows = NULL;
	if (lite->handle && sqlite3_exec(lite->handle, "ROLLBACK", NULL, NULL, NULL) != SQLITE_OK)
		drop(lite);
}

/* One writer at a time takes ids and commits: a missing one never comes. */
const struct ks_kine_ops ks_kine_sqlite = {
	.schemes = {"sqlite", "litestream", NULL},
	.quote = '"',
	.ordered = true,
	.open = lite_open,
	.close = lite_close,
	.begin = lite_begin,
	.next = lite_next,
	.end = lite_end,
};
