/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The SQL Server backend (2016 or newer, and Azure SQL): its vtable, its handles, its schema. mssql_priv.h says what
 * is in the other files.
 *
 * ODBC is the way in: through unixODBC to Microsoft's driver or to FreeTDS'. Nothing is held exclusively: any number
 * of instances share one database.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/diag.h"
#include "base/panic.h"
#include "mssql_priv.h"
#include "schema.h"

#define SCHEMA_VERSION 1

static const char schema[] =
#include "schema/mssql.sql.inc"
	;

/* ---- handles ---- */

static void ms_close(struct sqlb_db *db)
{
	if (!db)
		return;
	explicit_bzero(db->connection, sizeof(db->connection));
	free(db);
}

static enum ks_status ms_open(const char *url, const char *data_dir, struct sqlb_db **db, struct ks_err *err)
{
	struct sqlb_db *new_db = ks_xcalloc(1, sizeof(*new_db));
	struct sqlb_ms_url *parsed = ks_xcalloc(1, sizeof(*parsed));
	enum ks_status status;

	(void)data_dir;
	*db = NULL;
	status = sqlb_ms_parse_url(url, parsed, err);
	if (status == KS_OK && !*parsed->driver)
		status = sqlb_ms_find_driver(parsed->driver, sizeof(parsed->driver), err);
	if (status == KS_OK) {
		new_db->driver = sqlb_ms_driver_kind(parsed->driver);
		status = sqlb_ms_connection_string(parsed, parsed->driver, new_db->connection, err);
	}
	explicit_bzero(parsed, sizeof(*parsed));
	free(parsed);
	if (status == KS_OK)
		*db = new_db;
	else
		ms_close(new_db);
	return status;
}

static void ms_disconnect(struct sqlb_conn *conn)
{
	if (!conn)
		return;
	sqlb_ms_drop(conn);
	sqlb_cancel_close(&conn->cancel);
	ks_buf_fini(&conn->text);
	for (int i = 0; i < SQLB_MS_SLICES; i++)
		ks_buf_fini(&conn->slices[i]);
	free(conn);
}

static enum sqlb_outcome ms_connect(struct sqlb_db *db, struct sqlb_conn **conn, struct ks_err *err)
{
	struct sqlb_conn *new_conn = calloc(1, sizeof(*new_conn));

	*conn = NULL;
	if (!new_conn) {
		ks_fail(err, KS_RESOURCE_EXHAUSTED, "out of memory");
		return SQLB_AWAY;
	}
	new_conn->db = db;
	ks_buf_init(&new_conn->text, (size_t)1 << 20);
	for (int i = 0; i < SQLB_MS_SLICES; i++)
		ks_buf_init(&new_conn->slices[i], (size_t)1 << 30);
	if (sqlb_cancel_open(&new_conn->cancel, err) != SQLB_OK) {
		free(new_conn);
		return SQLB_AWAY;
	}
	*conn = new_conn;
	return SQLB_OK;
}

/* ---- the schema ---- */

/* The one value of a statement, cast to varbinary, as text; *found false: no row. */
static enum sqlb_outcome ask(struct sqlb_conn *conn, const char *sql, char *out, size_t out_size, bool *found,
			     struct ks_err *err)
{
	struct ks_slice value = {0};
	bool whole = true;

	*found = false;
	conn->error = (struct sqlb_ms_error){0};
	sqlb_ms_start(conn);
	sqlb_ms_say(conn, sql);
	if (!sqlb_ms_execute(conn) || !sqlb_ms_next(conn, found))
		return sqlb_ms_judge(conn, err);
	if (*found)
		whole = sqlb_ms_get_slice(conn, 1, &conn->slices[0], &value);
	if (!whole)
		return conn->error.text[0] ? sqlb_ms_judge(conn, err) : sqlb_ms_no_memory(conn, err);
	if (!sqlb_ms_finish(conn))
		return sqlb_ms_judge(conn, err);
	*found = *found && value.data;
	snprintf(out, out_size, "%.*s", (int)value.size, value.data ? (const char *)value.data : "");
	return SQLB_OK;
}

static enum sqlb_outcome ask_meta(struct sqlb_conn *conn, const char *name, char *out, size_t out_size, bool *found,
				  struct ks_err *err)
{
	char sql[160];

	snprintf(sql, sizeof(sql), "SELECT CAST(value AS varbinary(max)) FROM kineshim_meta WHERE name = '%s'", name);
	return ask(conn, sql, out, out_size, found, err);
}

static const struct sqlb_schema_driver schema_driver = {.read = ask_meta, .broken = sqlb_ms_broken};

/* Whose tables are these? *version: 0 = none there, else that of our schema. */
static enum sqlb_outcome inspect(struct sqlb_conn *conn, int *version, struct ks_err *err)
{
	char text[100], why[200];
	enum sqlb_outcome outcome;
	bool found;

	*version = 0;
	outcome = ask(conn, "SELECT CAST('yes' AS varbinary(max)) WHERE OBJECT_ID('kineshim_meta') IS NOT NULL", text,
		      sizeof(text), &found, err);
	if (outcome != SQLB_OK)
		return outcome;
	if (!found) {
		outcome = ask(conn,
			      "SELECT TOP (1) CAST(CAST(w.name AS varchar(64)) AS varbinary(max)) FROM (VALUES "
			      "('kineshim_log'), ('kineshim_lease'), ('kineshim_duty'), ('kineshim_member'), "
			      "('kineshim_live')) AS w(name) WHERE OBJECT_ID(w.name) IS NOT NULL ORDER BY w.name",
			      text, sizeof(text), &found, err);
		if (outcome != SQLB_OK || !found)
			return outcome;
		snprintf(why, sizeof(why), "the database has a table \"%s\" and no kineshim_meta: it is not kineshim's",
			 text);
		return sqlb_ms_broken(conn, err, why);
	}
	outcome = sqlb_schema_version(conn, &schema_driver, SCHEMA_VERSION, version, err);
	if (outcome == SQLB_OK && *version == 0)
		return sqlb_ms_broken(conn, err, "the table kineshim_meta is not kineshim's");
	return outcome;
}

static enum sqlb_outcome run_batch(struct sqlb_conn *conn, const char *text, size_t size, struct ks_err *err)
{
	sqlb_ms_start(conn);
	ks_buf_append(&conn->text, text, size);
	return sqlb_ms_done(conn, err);
}

/* Runs the section "-- version N" of the schema, batch by batch: each ends with GO on a line of its own. */
static enum sqlb_outcome run_section(struct sqlb_conn *conn, int version, struct ks_err *err)
{
	char *section = sqlb_schema_upgrade(schema, version);
	enum sqlb_outcome outcome = SQLB_OK;

	for (const char *at = section, *go; outcome == SQLB_OK && (go = strstr(at, "\nGO\n"));
	     at = go + strlen("\nGO\n"))
		outcome = run_batch(conn, at, (size_t)(go - at), err);
	free(section);
	return outcome;
}

/* From 'version' to ours, inside the transaction that holds the lock. */
static enum sqlb_outcome upgrade(struct sqlb_conn *conn, int version, struct ks_err *err)
{
	enum sqlb_outcome outcome = SQLB_OK;
	char sql[SQLB_SCHEMA_NOTE_BYTES];

	for (int next = version + 1; next <= SCHEMA_VERSION && outcome == SQLB_OK; next++)
		outcome = run_section(conn, next, err);
	if (outcome != SQLB_OK)
		return outcome;
	sqlb_schema_note(sql, version, SCHEMA_VERSION, "CONVERT(varchar(19), SYSUTCDATETIME(), 126) + 'Z'", "");
	return run_batch(conn, sql, strlen(sql), err);
}

/* Several instances may start at once: one of them makes the tables, the others wait and find them. */
static enum sqlb_outcome upgrade_locked(struct sqlb_conn *conn, struct ks_err *err)
{
	enum sqlb_outcome outcome;
	int64_t granted = -1;
	int version;

	sqlb_ms_start(conn);
	sqlb_ms_say(conn, "SET XACT_ABORT ON; BEGIN TRANSACTION; DECLARE @granted int; EXEC @granted = sp_getapplock "
			  "@Resource = 'kineshim schema', @LockMode = 'Exclusive', @LockOwner = 'Transaction', "
			  "@LockTimeout = 60000; SELECT CAST(@granted AS bigint)");
	outcome = sqlb_ms_numbers(conn, &granted, 1, NULL, err);
	if (outcome == SQLB_OK && granted < 0) {
		ks_fail(err, KS_UNAVAILABLE, "SQL Server: another server has been changing the schema for a minute");
		outcome = SQLB_AWAY;
	}
	if (outcome == SQLB_OK)
		outcome = inspect(conn, &version, err);
	if (outcome == SQLB_OK && version < SCHEMA_VERSION)
		outcome = upgrade(conn, version, err);
	if (outcome == SQLB_OK)
		outcome = run_batch(conn, "COMMIT TRANSACTION", strlen("COMMIT TRANSACTION"), err);
	if (outcome != SQLB_OK)
		sqlb_ms_drop(conn);
	return outcome;
}

/* What an administrator should know of the database, once for each start. A server that has not these columns is fine. */
static enum sqlb_outcome look_at_database(struct sqlb_conn *conn, struct ks_err *err)
{
	int64_t values[2] = {1, 0};
	bool found;

	sqlb_ms_start(conn);
	sqlb_ms_say(conn, "SELECT CAST(is_read_committed_snapshot_on AS bigint), CAST(delayed_durability AS bigint) "
			  "FROM sys.databases WHERE database_id = DB_ID()");
	if (sqlb_ms_numbers(conn, values, 2, &found, err) != SQLB_OK)
		return sqlb_ms_begin(conn, SQLB_MS_LONG_TIMEOUT_S, err);
	if (values[0] == 0)
		KS_DIAG_LIMITED(KS_INFO, "mssql",
				"READ_COMMITTED_SNAPSHOT is off: readers wait for appends that are being committed");
	if (values[1] == 2)
		KS_DIAG_LIMITED(KS_WARN, "mssql",
				"DELAYED_DURABILITY is FORCED: a crash of the database loses acknowledged writes");
	return SQLB_OK;
}

/*
 * A database that is up to date is only looked at: a read-only replica can be read, and nobody waits for a lock.
 */
static enum sqlb_outcome ms_migrate(struct sqlb_conn *conn, uint64_t *cluster_id, struct ks_err *err)
{
	enum sqlb_outcome outcome = sqlb_ms_begin(conn, SQLB_MS_LONG_TIMEOUT_S, err);
	int version;

	*cluster_id = 0;
	if (outcome == SQLB_OK)
		outcome = look_at_database(conn, err);
	if (outcome == SQLB_OK)
		outcome = inspect(conn, &version, err);
	if (outcome == SQLB_OK && version < SCHEMA_VERSION)
		outcome = upgrade_locked(conn, err);
	if (outcome == SQLB_OK)
		outcome = sqlb_schema_cluster_id(conn, &schema_driver, cluster_id, err);
	if (outcome == SQLB_OK) { /* are the log's columns what they should be? */
		static const char text[] = "SELECT TOP (0) " SQLB_MS_ROW_COLUMNS ", " SQLB_MS_NOW " FROM kineshim_log";

		outcome = run_batch(conn, text, strlen(text), err);
	}
	return outcome;
}

const struct sqlb_ops sqlb_mssql_ops = {
	.version = SQLB_VERSION,
	.name = "mssql",
	.schemes = {"mssql", "sqlserver", NULL},
	.features = 0,
	.open = ms_open,
	.close = ms_close,
	.connect = ms_connect,
	.disconnect = ms_disconnect,
	.migrate = ms_migrate,
	.append = sqlb_ms_append,
	.load = sqlb_ms_load,
	.read_head = sqlb_ms_read_head,
	.read_rows = sqlb_ms_read_rows,
	.read_at = sqlb_ms_read_at,
	.trim = sqlb_ms_trim,
	.wait_for_change = sqlb_ms_wait_for_change,
	.cancel = sqlb_ms_cancel,
	.lease_touch = sqlb_ms_lease_touch,
	.lease_ensure = sqlb_ms_lease_ensure,
	.lease_refresh_all = sqlb_ms_lease_refresh_all,
	.lease_list = sqlb_ms_lease_list,
	.lease_read = sqlb_ms_lease_read,
	.lease_drop = sqlb_ms_lease_drop,
	.duty_take = sqlb_ms_duty_take,
	.duty_pass = sqlb_ms_duty_pass,
	.member_beat = sqlb_ms_member_beat,
	.member_list = sqlb_ms_member_list,
	.size = sqlb_ms_size,
	.defragment = sqlb_ms_defragment,
};
