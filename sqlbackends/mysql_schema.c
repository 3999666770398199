/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Making the tables, bringing older ones up to date, and telling ours from others'. schema/mysql.sql says why each
 * statement there can be run again; the rows of kineshim_meta come last, in one statement, and whoever's came first
 * counts. A lock by name keeps two instances on one server from doing the same work; nothing depends on it.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/diag.h"
#include "base/panic.h"
#include "mysql_priv.h"

#define SCHEMA_VERSION 1
#define OLDEST_MARIADB 100600
#define OLDEST_MYSQL 80011 /* the first that was released */

static const char schema[] =
#include "schema/mysql.sql.inc"
	;

static enum sqlb_outcome ask_meta(struct sqlb_conn *conn, const char *name, char *out, size_t out_size, bool *found,
				  struct ks_err *err)
{
	char sql[100];

	snprintf(sql, sizeof(sql), "SELECT value FROM kineshim_meta WHERE name = '%s'", name);
	return sqlb_my_ask(conn, sql, out, out_size, found, err);
}

/* A table of one of our names that was not made by this program: its comment does not say so. */
static enum sqlb_outcome look_for_foreign(struct sqlb_conn *conn, struct ks_err *err)
{
	char text[100], why[200];
	enum sqlb_outcome outcome;
	bool found;

	outcome =
		sqlb_my_ask(conn,
			    "SELECT MIN(table_name) FROM information_schema.tables WHERE table_schema = DATABASE() AND "
			    "table_name IN ('kineshim_meta', 'kineshim_log', 'kineshim_lease', 'kineshim_duty', "
			    "'kineshim_member') AND table_comment NOT LIKE 'kineshim:%'",
			    text, sizeof(text), &found, err);
	if (outcome != SQLB_OK || !found)
		return outcome;
	snprintf(why, sizeof(why), "the database has a table \"%s\" that is not kineshim's", text);
	return sqlb_my_broken(conn, err, why);
}

/* *version: 0 = none there, or not all of it, else that of our schema. */
static enum sqlb_outcome inspect(struct sqlb_conn *conn, int *version, struct ks_err *err)
{
	char text[100], why[200];
	enum sqlb_outcome outcome;
	bool found;

	*version = 0;
	outcome = sqlb_my_ask(conn,
			      "SELECT table_name FROM information_schema.columns WHERE table_schema = DATABASE() AND "
			      "table_name = 'kineshim_meta' AND column_name = 'name'",
			      text, sizeof(text), &found, err);
	if (outcome != SQLB_OK)
		return outcome;
	if (!found)
		return look_for_foreign(conn, err);
	outcome = ask_meta(conn, "program", text, sizeof(text), &found, err);
	if (outcome == SQLB_OK && found && strcmp(text, "kineshim") != 0)
		return sqlb_my_broken(conn, err, "the table kineshim_meta is not kineshim's");
	if (outcome == SQLB_OK && !found) /* it was being made when something came in between */
		return look_for_foreign(conn, err);
	if (outcome == SQLB_OK)
		outcome = ask_meta(conn, "schema_version", text, sizeof(text), &found, err);
	if (outcome != SQLB_OK)
		return outcome;
	*version = found ? (int)strtol(text, NULL, 10) : 0;
	if (*version < 1)
		return sqlb_my_broken(conn, err, "kineshim_meta has no schema_version");
	if (*version > SCHEMA_VERSION) {
		snprintf(why, sizeof(why),
			 "schema version %d is newer than this program's %d: it needs a newer kineshim", *version,
			 SCHEMA_VERSION);
		return sqlb_my_broken(conn, err, why);
	}
	return SQLB_OK;
}

/* Runs the section "-- NAME" of the schema, statement by statement. */
static enum sqlb_outcome run_section(struct sqlb_conn *conn, const char *name, struct ks_err *err)
{
	enum sqlb_outcome outcome = SQLB_OK;
	const char *begin, *end, *next;
	char marker[40];

	snprintf(marker, sizeof(marker), "\n-- %s\n", name);
	begin = strstr(schema, marker);
	KS_ASSERT(begin);
	begin += strlen(marker);
	end = strstr(begin, "\n-- version ");
	if (!end)
		end = strstr(begin, "\n-- view\n");
	if (!end)
		end = begin + strlen(begin);
	for (; outcome == SQLB_OK && (next = strstr(begin, ";\n")) != NULL && next < end; begin = next + 2) {
		size_t size = (size_t)(next - begin);
		char *statement = ks_xcalloc(1, size + 1);

		memcpy(statement, begin, size);
		outcome = sqlb_my_exec(conn, statement, err);
		free(statement);
	}
	return outcome;
}

/* From 'version' to ours. */
static enum sqlb_outcome upgrade(struct sqlb_conn *conn, int version, struct ks_err *err)
{
	enum sqlb_outcome outcome = SQLB_OK;
	char sql[500], name[30];

	for (int next = version + 1; next <= SCHEMA_VERSION && outcome == SQLB_OK; next++) {
		snprintf(name, sizeof(name), "version %d", next);
		outcome = run_section(conn, name, err);
	}
	if (outcome != SQLB_OK)
		return outcome;
	if (version == 0)
		snprintf(sql, sizeof(sql),
			 "INSERT INTO kineshim_meta (name, value) VALUES ('program', 'kineshim'), ('schema_version', "
			 "'%d'), "
			 "('cluster_id', '%016" PRIx64 "'), "
			 "('created_at', DATE_FORMAT(UTC_TIMESTAMP(), '%%Y-%%m-%%dT%%H:%%i:%%sZ')) "
			 "ON DUPLICATE KEY UPDATE name = VALUES(name)",
			 SCHEMA_VERSION, sqlb_random_id());
	else
		snprintf(sql, sizeof(sql), "UPDATE kineshim_meta SET value = '%d' WHERE name = 'schema_version'",
			 SCHEMA_VERSION);
	return sqlb_my_exec(conn, sql, err);
}

/* Several instances may start at once: one of them makes the tables, the others wait and find them, or make them too. */
static enum sqlb_outcome upgrade_alone(struct sqlb_conn *conn, struct ks_err *err)
{
	enum sqlb_outcome outcome = SQLB_CONFLICT;

	for (int tries = 0; outcome == SQLB_CONFLICT && tries < SQLB_MY_RETRIES; tries++) {
		int version = 0;

		outcome = sqlb_my_begin(conn, SQLB_MY_LONG_TIMEOUT_S, err);
		/* Refused on some clusters, which is all right. */
		if (outcome == SQLB_OK &&
		    sqlb_my_exec(conn, "DO GET_LOCK(CONCAT('kineshim.', MD5(DATABASE())), 60)", NULL) != SQLB_OK)
			outcome = sqlb_my_begin(conn, SQLB_MY_LONG_TIMEOUT_S, err);
		if (outcome == SQLB_OK)
			outcome = inspect(conn, &version, err);
		if (outcome == SQLB_OK && version < SCHEMA_VERSION)
			outcome = upgrade(conn, version, err);
	}
	sqlb_my_drop(conn); /* with the lock */
	return outcome;
}

/* For people, and so it may be missing where the user may not make it. */
static enum sqlb_outcome make_view(struct sqlb_conn *conn, struct ks_err *err)
{
	struct ks_err why;
	enum sqlb_outcome outcome;
	char text[100];
	bool found;

	outcome = sqlb_my_ask(conn,
			      "SELECT table_name FROM information_schema.tables WHERE table_schema = DATABASE() AND "
			      "table_name = 'kineshim_live'",
			      text, sizeof(text), &found, err);
	if (outcome != SQLB_OK || found)
		return outcome;
	if (run_section(conn, "view", &why) != SQLB_OK) {
		/* Another instance may have been faster; then this is not worth a word. */
		outcome = sqlb_my_begin(conn, SQLB_MY_LONG_TIMEOUT_S, err);
		if (outcome == SQLB_OK)
			outcome = sqlb_my_ask(conn,
					      "SELECT table_name FROM information_schema.tables WHERE table_schema = "
					      "DATABASE() AND table_name = 'kineshim_live'",
					      text, sizeof(text), &found, err);
		if (outcome == SQLB_OK && !found)
			ks_diag(KS_INFO, "mysql",
				"there is no view kineshim_live, which shows the keys to people; to have it, let the "
				"user "
				"create views: %s",
				why.text);
	}
	return outcome;
}

static enum sqlb_outcome read_cluster_id(struct sqlb_conn *conn, uint64_t *cluster_id, struct ks_err *err)
{
	enum sqlb_outcome outcome;
	char text[40];
	bool found;

	outcome = ask_meta(conn, "cluster_id", text, sizeof(text), &found, err);
	if (outcome != SQLB_OK)
		return outcome;
	*cluster_id = found ? strtoull(text, NULL, 16) : 0;
	if (*cluster_id == 0)
		return sqlb_my_broken(conn, err, "kineshim_meta has no cluster_id");
	return SQLB_OK;
}

/* A database that is up to date is only looked at: a read-only replica can be read. */
enum sqlb_outcome sqlb_my_migrate(struct sqlb_conn *conn, uint64_t *cluster_id, struct ks_err *err)
{
	enum sqlb_outcome outcome = sqlb_my_begin(conn, SQLB_MY_LONG_TIMEOUT_S, err);
	int version = 0;
	MYSQL_STMT *stmt;

	*cluster_id = 0;
	if (outcome != SQLB_OK)
		return outcome;
	if (conn->server.version < (conn->server.is_mariadb ? OLDEST_MARIADB : OLDEST_MYSQL))
		return sqlb_my_broken(conn, err, "the server is older than MariaDB 10.6 or MySQL 8.0");
	outcome = inspect(conn, &version, err);
	if (outcome == SQLB_OK && version < SCHEMA_VERSION) {
		outcome = upgrade_alone(conn, err);
		if (outcome == SQLB_OK)
			outcome = sqlb_my_begin(conn, SQLB_MY_LONG_TIMEOUT_S, err);
	}
	if (outcome == SQLB_OK)
		outcome = make_view(conn, err);
	if (outcome == SQLB_OK)
		outcome = read_cluster_id(conn, cluster_id, err);
	if (outcome == SQLB_OK) /* are the log's columns what they should be? */
		outcome = sqlb_my_prepare(conn, SQLB_MY_ROWS, 0, &stmt, err);
	return sqlb_my_no_conflict(outcome);
}
