/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Making the tables, bringing older ones up to date, and telling ours from others'. When several instances start at once one
 * of them does it, the maker; the others wait and look again. Who that is says the row 'maker' of kineshim_meta: an id and
 * until when, by the database's clock. A lock by name would be known on one node of a Galera cluster only; that two nodes
 * insert or change one row is noticed at its commit. A maker that is gone is followed by another when its time is over.
 * schema/mysql.sql says why each statement there can be run again; the rows of kineshim_meta that say which tables these are
 * come last, in one statement, and whoever's came first counts.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/diag.h"
#include "mysql_priv.h"
#include "schema.h"

#define SCHEMA_VERSION 1
#define OLDEST_MARIADB 100600
#define OLDEST_MYSQL 80011 /* the first that was released */

enum {
	MAKER_MS = 15000, /* for each statement; and so long others wait for a maker that was killed */
	WAIT_MS = 3000,   /* for a maker, before the caller hears of it */
	LOOK_MS = 50,     /* at least, between two looks */
};

#define NOW_MS "(TIMESTAMPDIFF(MICROSECOND, '1970-01-01', SYSDATE(6)) DIV 1000)"

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

static const struct sqlb_schema_driver schema_driver = {.read = ask_meta, .broken = sqlb_my_broken};

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
	enum sqlb_outcome outcome;
	char text[100];
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
	outcome = sqlb_schema_version(conn, &schema_driver, SCHEMA_VERSION, version, err);
	if (outcome == SQLB_OK && *version == 0) /* it was being made when something came in between */
		return look_for_foreign(conn, err);
	return outcome;
}

/* ---- the maker ---- */

/* We as the maker, or who wants to be. */
struct maker {
	uint64_t id;  /* of this try */
	bool claimed; /* the row may be ours */
};

/* Becomes the maker, or stays it for another while. *mine false: another one is. */
static enum sqlb_outcome claim(struct sqlb_conn *conn, struct maker *maker, bool *mine, struct ks_err *err)
{
	char sql[700], text[40], own[20];
	enum sqlb_outcome outcome;
	bool found;

	snprintf(sql, sizeof(sql),
		 "INSERT INTO kineshim_meta (name, value) VALUES ('maker', CONCAT('%016" PRIx64 " ', " NOW_MS " + %d)) "
		 "ON DUPLICATE KEY UPDATE value = IF(value LIKE '%016" PRIx64 " %%' OR "
		 "CAST(SUBSTRING_INDEX(value, ' ', -1) AS SIGNED) < " NOW_MS ", VALUES(value), value)",
		 maker->id, MAKER_MS, maker->id);
	snprintf(own, sizeof(own), "%016" PRIx64 " ", maker->id);
	maker->claimed = true;
	outcome = sqlb_my_exec(conn, sql, err);
	if (outcome == SQLB_OK)
		outcome = ask_meta(conn, "maker", text, sizeof(text), &found, err);
	*mine = outcome == SQLB_OK && found && strncmp(text, own, strlen(own)) == 0;
	return outcome;
}

/* When that fails its time will end by itself. */
static void let_go(struct sqlb_conn *conn, const struct maker *maker)
{
	char sql[120];

	snprintf(sql, sizeof(sql), "DELETE FROM kineshim_meta WHERE name = 'maker' AND value LIKE '%016" PRIx64 " %%'",
		 maker->id);
	if (sqlb_my_begin(conn, SQLB_MY_ANSWER_TIMEOUT_S, NULL) == SQLB_OK)
		(void)sqlb_my_exec(conn, sql, NULL);
}

/* Not in step with others that wait too. */
static void wait_for_maker(void)
{
	uint64_t ms = LOOK_MS + sqlb_random_id() % (3 * LOOK_MS);
	struct timespec pause = {.tv_nsec = (long)ms * 1000000};

	nanosleep(&pause, NULL);
}

/* ---- making ---- */

/*
 * Runs a section of the schema (taken over), statement by statement, as the maker that we must still be (NULL: it does not
 * matter who does it); CONFLICT when we are not.
 */
static enum sqlb_outcome run_section(struct sqlb_conn *conn, char *section, struct maker *maker, struct ks_err *err)
{
	enum sqlb_outcome outcome = SQLB_OK;
	char *end, *statement = section;
	bool mine = true;

	for (; outcome == SQLB_OK && (end = strstr(statement, ";\n")) != NULL; statement = end + 2) {
		*end = '\0';
		if (maker)
			outcome = claim(conn, maker, &mine, err);
		if (outcome == SQLB_OK)
			outcome = mine ? sqlb_my_exec(conn, statement, err) : SQLB_CONFLICT;
	}
	free(section);
	return outcome;
}

/* From 'version' to ours, by the maker. */
static enum sqlb_outcome upgrade(struct sqlb_conn *conn, int version, struct maker *maker, struct ks_err *err)
{
	enum sqlb_outcome outcome = SQLB_OK;
	char sql[SQLB_SCHEMA_NOTE_BYTES];

	for (int next = version + 1; next <= SCHEMA_VERSION && outcome == SQLB_OK; next++)
		outcome = run_section(conn, sqlb_schema_upgrade(schema, next), maker, err);
	if (outcome != SQLB_OK)
		return outcome;
	sqlb_schema_note(sql, version, SCHEMA_VERSION, "DATE_FORMAT(UTC_TIMESTAMP(), '%Y-%m-%dT%H:%i:%sZ')",
			 " ON DUPLICATE KEY UPDATE name = VALUES(name)");
	return sqlb_my_exec(conn, sql, err);
}

/* One try: by us when there is no other maker. *done false: another one is at it. */
static enum sqlb_outcome upgrade_once(struct sqlb_conn *conn, struct maker *maker, bool *done, struct ks_err *err)
{
	enum sqlb_outcome outcome = sqlb_my_begin(conn, SQLB_MY_ANSWER_TIMEOUT_S, err);
	int version = 0;
	bool mine;

	*done = false;
	if (outcome == SQLB_OK)
		outcome = inspect(conn, &version, err);
	if (outcome == SQLB_OK && version == 0) /* perhaps not even the table that says who makes the others */
		outcome = run_section(conn, sqlb_schema_section(schema, "meta"), NULL, err);
	if (outcome == SQLB_OK && version < SCHEMA_VERSION) {
		outcome = claim(conn, maker, &mine, err);
		if (outcome != SQLB_OK || !mine)
			return outcome;
		outcome = inspect(conn, &version, err); /* somebody may have done it since the last look */
	}
	if (outcome == SQLB_OK && version > 0 && version < SCHEMA_VERSION) /* full tables may take their time */
		outcome = sqlb_my_begin(conn, SQLB_MY_LONG_TIMEOUT_S, err);
	if (outcome == SQLB_OK && version < SCHEMA_VERSION)
		outcome = upgrade(conn, version, maker, err);
	*done = outcome == SQLB_OK;
	return outcome;
}

/* Several instances may start at once: one of them makes the tables, the others wait and find them. */
static enum sqlb_outcome upgrade_or_wait(struct sqlb_conn *conn, struct maker *maker, struct ks_err *err)
{
	int64_t end_ms = sqlb_my_now_ms() + WAIT_MS;
	enum sqlb_outcome outcome;
	bool done, waited = false;

	for (;;) {
		outcome = upgrade_once(conn, maker, &done, err);
		if (done || (outcome != SQLB_OK && outcome != SQLB_CONFLICT))
			return outcome;
		if (sqlb_my_now_ms() > end_ms)
			break;
		if (!waited)
			ks_diag(KS_INFO, "mysql", "waiting for another instance, which makes the tables");
		waited = true;
		wait_for_maker();
	}
	ks_fail(err, KS_UNAVAILABLE,
		"MySQL: another instance is making the tables (row 'maker' of kineshim_meta); if that does not end, "
		"see what the database waits for: SHOW FULL PROCESSLIST");
	return SQLB_AWAY;
}

static enum sqlb_outcome look_for_view(struct sqlb_conn *conn, bool *found, struct ks_err *err)
{
	char text[100];

	return sqlb_my_ask(conn,
			   "SELECT table_name FROM information_schema.tables WHERE table_schema = DATABASE() AND "
			   "table_name = 'kineshim_live'",
			   text, sizeof(text), found, err);
}

/* For people, and so it may be missing where the user may not make it. Nobody waits for it. */
static enum sqlb_outcome make_view(struct sqlb_conn *conn, struct maker *maker, struct ks_err *err)
{
	enum sqlb_outcome outcome;
	struct ks_err why = {0};
	bool found, mine;

	outcome = look_for_view(conn, &found, err);
	if (outcome != SQLB_OK || found)
		return outcome;
	outcome = claim(conn, maker, &mine, &why);
	if (outcome == SQLB_OK && mine)
		outcome = look_for_view(conn, &found, &why);
	if (outcome == SQLB_OK && mine && !found)
		outcome = run_section(conn, sqlb_schema_section(schema, "view"), maker, &why);
	if (outcome == SQLB_OK)
		return SQLB_OK;
	if (outcome != SQLB_CONFLICT)
		ks_diag(KS_INFO, "mysql",
			"there is no view kineshim_live, which shows the keys to people; to have it, let the user "
			"create views: %s",
			why.text);
	return sqlb_my_begin(conn, SQLB_MY_ANSWER_TIMEOUT_S, err);
}

/* A database that is up to date is only looked at: a read-only replica can be read. */
enum sqlb_outcome sqlb_my_migrate(struct sqlb_conn *conn, uint64_t *cluster_id, struct ks_err *err)
{
	enum sqlb_outcome outcome = sqlb_my_begin(conn, SQLB_MY_ANSWER_TIMEOUT_S, err);
	struct maker maker = {.id = sqlb_random_id()};
	int version = 0;
	MYSQL_STMT *stmt;

	*cluster_id = 0;
	if (outcome != SQLB_OK)
		return outcome;
	if (conn->server.version < (conn->server.is_mariadb ? OLDEST_MARIADB : OLDEST_MYSQL))
		return sqlb_my_broken(conn, err, "the server is older than MariaDB 10.6 or MySQL 8.0");
	outcome = inspect(conn, &version, err);
	if (outcome == SQLB_OK && version < SCHEMA_VERSION) {
		outcome = upgrade_or_wait(conn, &maker, err);
		if (outcome == SQLB_OK) /* with the usual timeouts again */
			outcome = sqlb_my_begin(conn, SQLB_MY_ANSWER_TIMEOUT_S, err);
	}
	if (outcome == SQLB_OK)
		outcome = make_view(conn, &maker, err);
	if (maker.claimed && outcome != SQLB_AWAY)
		let_go(conn, &maker);
	if (outcome == SQLB_OK)
		outcome = sqlb_my_begin(conn, SQLB_MY_ANSWER_TIMEOUT_S, err);
	if (outcome == SQLB_OK)
		outcome = sqlb_schema_cluster_id(conn, &schema_driver, cluster_id, err);
	if (outcome == SQLB_OK) /* are the log's columns what they should be? */
		outcome = sqlb_my_prepare(conn, SQLB_MY_ROWS, 0, &stmt, err);
	return sqlb_my_no_conflict(outcome);
}
