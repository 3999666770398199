/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Error numbers of MySQL, MariaDB and their client library as outcomes. Numbers below 2000 and from 3000 on are the
 * server's, those between are the library's own: the connection is gone, or the answer was not one.
 */
#include <errmsg.h>
#include <mysqld_error.h>
#include <stdio.h>
#include <string.h>

#include "mysql_priv.h"

/* Of MySQL, or of one server only: not in the header. */
enum {
	READ_ONLY_MODE = 1836,
	IN_READ_ONLY_TRANSACTION = 1792,
	STATEMENT_TIMEOUT = 1969,         /* MariaDB: max_statement_time */
	LOG_IS_STATEMENTS = 1665,         /* binlog_format=STATEMENT and READ COMMITTED do not go together */
	ROLLED_BACK_DURING_COMMIT = 3101, /* group replication's certification */
	CHECK_FAILED_MARIADB = 4025,
	CHECK_FAILED_MYSQL = 3819,
	RECORD_CHANGED = 1020, /* innodb_snapshot_isolation */
	WSREP_NOT_READY = 1047,
	MISSING_DEFAULT = 1364,
	SIGNALLED = 1644,
};

static bool is_one_of(unsigned number, const unsigned *numbers)
{
	while (*numbers && *numbers != number)
		numbers++;
	return *numbers != 0;
}

/* What trying again cannot mend: somebody has to look. */
static const unsigned broken_numbers[] = {
	/* Our values do not fit, or somebody's constraint or trigger refuses them. */
	ER_BAD_NULL_ERROR, ER_DATA_TOO_LONG, ER_WARN_DATA_OUT_OF_RANGE, ER_TRUNCATED_WRONG_VALUE_FOR_FIELD,
	MISSING_DEFAULT, ER_NO_REFERENCED_ROW, ER_NO_REFERENCED_ROW_2, ER_ROW_IS_REFERENCED_2, CHECK_FAILED_MARIADB,
	CHECK_FAILED_MYSQL, SIGNALLED, ER_DATA_OUT_OF_RANGE,
	/* Tables and columns that are not there, or not as ours, or that we have no right to use. */
	ER_NO_SUCH_TABLE, ER_BAD_FIELD_ERROR, ER_WRONG_VALUE_COUNT_ON_ROW, ER_PARSE_ERROR, ER_TABLEACCESS_DENIED_ERROR,
	ER_COLUMNACCESS_DENIED_ERROR, ER_DBACCESS_DENIED_ERROR, ER_SPECIFIC_ACCESS_DENIED_ERROR, ER_NON_UPDATABLE_TABLE,
	ER_WRONG_OBJECT, ER_VIEW_INVALID, ER_TABLE_EXISTS_ERROR, ER_KEY_DOES_NOT_EXISTS,
	/* Too large: it will be the next time. */
	ER_NET_PACKET_TOO_LARGE, ER_TOO_BIG_ROWSIZE,
	/* Tables that are damaged. */
	ER_NOT_KEYFILE, ER_OLD_KEYFILE, ER_CRASHED_ON_USAGE, ER_CRASHED_ON_REPAIR, ER_NO_SUCH_TABLE_IN_ENGINE, 1712,
	LOG_IS_STATEMENTS, 0};

/* The transaction was undone for the sake of another one. At once again. */
static const unsigned undone_numbers[] = {ER_LOCK_DEADLOCK, RECORD_CHANGED, ROLLED_BACK_DURING_COMMIT, 0};

/* The statement failed, and the connection is as good as before. */
static const unsigned harmless_numbers[] = {ER_LOCK_DEADLOCK,
					    RECORD_CHANGED,
					    ROLLED_BACK_DURING_COMMIT,
					    ER_LOCK_WAIT_TIMEOUT,
					    STATEMENT_TIMEOUT,
					    ER_DISK_FULL,
					    ER_RECORD_FILE_FULL,
					    ER_OUTOFMEMORY,
					    ER_OUT_OF_RESOURCES,
					    WSREP_NOT_READY,
					    ER_DUP_ENTRY,
					    ER_DATA_OUT_OF_RANGE,
					    0};

/* An answer to a commit that is certain: the server had not come to it. */
static const unsigned certain_numbers[] = {ER_LOCK_WAIT_TIMEOUT,    ER_DISK_FULL,
					   ER_RECORD_FILE_FULL,     ER_OUTOFMEMORY,
					   ER_OUT_OF_RESOURCES,     ER_OPTION_PREVENTS_STATEMENT,
					   READ_ONLY_MODE,          IN_READ_ONLY_TRANSACTION,
					   ER_UNKNOWN_STMT_HANDLER, 0};

static bool is_clients(unsigned number)
{
	return number >= CR_MIN_ERROR && number < 3000;
}

static const char *hint_of(unsigned number)
{
	switch (number) {
	case ER_NET_PACKET_TOO_LARGE:
		return "; raise max_allowed_packet on the server";
	case LOG_IS_STATEMENTS:
		return "; set binlog_format to ROW or MIXED";
	case ER_OPTION_PREVENTS_STATEMENT:
	case READ_ONLY_MODE:
		return "; is this a replica?";
	default:
		return "";
	}
}

enum sqlb_outcome sqlb_my_no_conflict(enum sqlb_outcome outcome)
{
	return outcome == SQLB_CONFLICT ? SQLB_AWAY : outcome;
}

enum sqlb_outcome sqlb_my_broken(struct sqlb_conn *conn, struct ks_err *err, const char *what)
{
	ks_fail(err, KS_FAILED_PRECONDITION, "MySQL: %s", what);
	sqlb_my_drop(conn);
	return SQLB_BROKEN;
}

enum sqlb_outcome sqlb_my_judge(struct sqlb_conn *conn, unsigned number, const char *text, struct ks_err *err)
{
	bool broken = is_one_of(number, broken_numbers);

	/* Only rows that are not text are quoted in such texts, and never values of ours: those are byte strings. */
	ks_fail(err, broken ? KS_FAILED_PRECONDITION : KS_UNAVAILABLE, "MySQL: %s (error %u)%s",
		text && *text ? text : "error", number, hint_of(number));
	if (!is_one_of(number, harmless_numbers))
		sqlb_my_drop(conn);
	if (is_one_of(number, undone_numbers)) {
		conn->in_transaction = false;
		return SQLB_CONFLICT;
	}
	return broken ? SQLB_BROKEN : SQLB_AWAY;
}

enum sqlb_outcome sqlb_my_judge_stmt(struct sqlb_conn *conn, MYSQL_STMT *stmt, struct ks_err *err)
{
	char text[KS_ERR_TEXT_MAX];

	/* While rows are fetched the library tells errors of the connection, and of the server, only there. */
	if (mysql_stmt_errno(stmt) == 0)
		return sqlb_my_judge_conn(conn, err);
	/* A dropped connection takes the text with it. */
	snprintf(text, sizeof(text), "%s", mysql_stmt_error(stmt));
	return sqlb_my_judge(conn, mysql_stmt_errno(stmt), text, err);
}

enum sqlb_outcome sqlb_my_judge_conn(struct sqlb_conn *conn, struct ks_err *err)
{
	char text[KS_ERR_TEXT_MAX];

	snprintf(text, sizeof(text), "%s", mysql_error(conn->mysql));
	return sqlb_my_judge(conn, mysql_errno(conn->mysql), text, err);
}

enum sqlb_outcome sqlb_my_judge_commit(struct sqlb_conn *conn, unsigned number, const char *text, struct ks_err *err)
{
	bool certain = is_one_of(number, undone_numbers) || is_one_of(number, certain_numbers) ||
		       is_one_of(number, broken_numbers);
	enum sqlb_outcome outcome = sqlb_my_judge(conn, number, text, err);

	if (certain && !is_clients(number))
		return outcome;
	sqlb_my_drop(conn);
	return SQLB_DOUBT;
}
