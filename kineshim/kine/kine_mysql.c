/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Kine's table in MySQL or MariaDB: a snapshot is a transaction at REPEATABLE READ, rows are fetched one by one without a
 * buffer of all of them. The URL, with TLS, is that of our own backend for these databases.
 */
#include <mysql.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/buf.h"
#include "base/panic.h"
#include "kine/kine_priv.h"
#include "sqlbackends/mysql_priv.h"

#define NAME_MAX_BYTES 4096
#define VALUE_MAX_BYTES (UINT32_MAX / 4)
#define ANSWER_TIMEOUT_S 60

enum { ID, NAME, CREATED, DELETED, CREATE_REVISION, PREV_REVISION, LEASE, VALUE, COLUMNS };

struct my {
	struct sqlb_db *url;
	MYSQL *handle;
	MYSQL_STMT *rows;
	MYSQL_BIND binds[COLUMNS];
	long long numbers[COLUMNS];
	unsigned long lengths[COLUMNS];
	my_bool nulls[COLUMNS];
	char name[NAME_MAX_BYTES];
	struct ks_buf value;
};

static void drop(struct my *my)
{
	if (my->rows)
		mysql_stmt_close(my->rows);
	my->rows = NULL;
	if (my->handle)
		mysql_close(my->handle);
	my->handle = NULL;
}

static enum ks_status failed(struct my *my, const char *what, unsigned number, const char *text, struct ks_err *err)
{
	enum ks_status status = KS_UNAVAILABLE;

	switch (number) {
	case 1044: /* no right to use the database, or the table */
	case 1045:
	case 1142:
	case 1049: /* no such database, column, table */
	case 1054:
	case 1146:
		status = KS_FAILED_PRECONDITION;
		break;
	default:
		break;
	}
	(void)ks_fail(err, status, "MySQL: %s: %s (error %u)", what, text, number);
	drop(my);
	return status;
}

static enum ks_status my_open(const char *endpoint, const char *rest, void **state, struct ks_err *err)
{
	struct my *my = ks_xcalloc(1, sizeof(*my));
	enum ks_status status;

	(void)rest;
	my->url = ks_xcalloc(1, sizeof(*my->url));
	ks_buf_init(&my->value, VALUE_MAX_BYTES);
	*state = my; /* which is closed after an error, too */
	status = sqlb_my_parse_url(endpoint, my->url, err);
	return status;
}

static void my_close(void *state)
{
	struct my *my = state;

	drop(my);
	sqlb_my_free_db(my->url);
	ks_buf_fini(&my->value);
	free(my);
}

static bool set_options(MYSQL *handle, const struct sqlb_db *url)
{
	unsigned connect_s = url->connect_timeout_s, answer_s = ANSWER_TIMEOUT_S, off = 0;
	my_bool yes = 1, verify = url->tls == SQLB_MY_TLS_VERIFIED;
	bool done = mysql_options(handle, MYSQL_OPT_CONNECT_TIMEOUT, &connect_s) == 0 &&
		    mysql_options(handle, MYSQL_OPT_READ_TIMEOUT, &answer_s) == 0 &&
		    mysql_options(handle, MYSQL_OPT_WRITE_TIMEOUT, &answer_s) == 0 &&
		    mysql_options(handle, MYSQL_OPT_LOCAL_INFILE, &off) == 0 &&
		    /* A server must not talk us into sending the password as it is. */
		    mysql_options(handle, MARIADB_OPT_RESTRICTED_AUTH,
				  "mysql_native_password,caching_sha2_password,sha256_password,client_ed25519") == 0 &&
		    mysql_options(handle, MYSQL_SET_CHARSET_NAME, "utf8mb4") == 0;

	/* "preferred" with a server without TLS is the one form that is not had here: it would be a choice of the network's. */
	if (!done || url->tls == SQLB_MY_TLS_OFF || url->tls == SQLB_MY_TLS_PREFERRED)
		return done;
	return mysql_options(handle, MYSQL_OPT_SSL_ENFORCE, &yes) == 0 &&
	       mysql_options(handle, MYSQL_OPT_SSL_VERIFY_SERVER_CERT, &verify) == 0 &&
	       (!url->ca_file || mysql_options(handle, MYSQL_OPT_SSL_CA, url->ca_file) == 0) &&
	       (!url->cert_file || mysql_options(handle, MYSQL_OPT_SSL_CERT, url->cert_file) == 0) &&
	       (!url->key_file || mysql_options(handle, MYSQL_OPT_SSL_KEY, url->key_file) == 0);
}

static enum ks_status connect_my(struct my *my, struct ks_err *err)
{
	const struct sqlb_db *url = my->url;

	if (my->handle)
		return KS_OK;
	my->handle = mysql_init(NULL);
	if (!my->handle || !set_options(my->handle, url)) {
		drop(my);
		return ks_fail(err, KS_UNAVAILABLE, "MySQL: cannot set up a connection");
	}
	if (!mysql_real_connect(my->handle, url->socket_path ? NULL : url->host, url->user, url->password,
				url->database, url->port, url->socket_path, 0))
		return failed(my, "connect", mysql_errno(my->handle), mysql_error(my->handle), err);
	return KS_OK;
}

static enum ks_status run(struct my *my, const char *text, struct ks_err *err)
{
	if (mysql_query(my->handle, text) != 0)
		return failed(my, "begin", mysql_errno(my->handle), mysql_error(my->handle), err);
	return KS_OK;
}

static enum ks_status read_head(struct my *my, const char *table, struct ks_kine_head *head, struct ks_err *err)
{
	char text[2 * KS_KINE_TABLE_MAX + 200];
	MYSQL_RES *result;
	MYSQL_ROW row;
	enum ks_status status;

	(void)snprintf(text, sizeof(text),
		       "SELECT COALESCE((SELECT MAX(id) FROM %s), 0), COALESCE((SELECT MAX(prev_revision) FROM %s"
		       " WHERE name = 'compact_rev_key'), 0)",
		       table, table);
	status = run(my, text, err);
	if (status != KS_OK)
		return status;
	result = mysql_store_result(my->handle);
	row = result ? mysql_fetch_row(result) : NULL;
	if (row && row[0] && row[1]) {
		head->newest = strtoll(row[0], NULL, 10);
		head->compact_revision = strtoll(row[1], NULL, 10);
	} else {
		status = failed(my, "read", mysql_errno(my->handle), mysql_error(my->handle), err);
	}
	if (result)
		mysql_free_result(result);
	return status;
}

static void bind_columns(struct my *my)
{
	memset(my->binds, 0, sizeof(my->binds));
	for (int i = 0; i < COLUMNS; i++) {
		bool is_number = i != NAME && i != VALUE;

		my->binds[i].buffer_type = is_number ? MYSQL_TYPE_LONGLONG : MYSQL_TYPE_BLOB;
		my->binds[i].buffer = is_number ? (void *)&my->numbers[i] : i == NAME ? (void *)my->name : NULL;
		my->binds[i].buffer_length = is_number ? sizeof(my->numbers[i]) : i == NAME ? sizeof(my->name) : 0;
		my->binds[i].length = &my->lengths[i];
		my->binds[i].is_null = &my->nulls[i];
	}
}

static enum ks_status begin_rows(struct my *my, const char *table, int64_t after, int64_t to, struct ks_err *err)
{
	char text[KS_KINE_TABLE_MAX + 200];
	long long from = after, until = to;
	MYSQL_BIND params[2];

	memset(params, 0, sizeof(params));
	params[0].buffer_type = params[1].buffer_type = MYSQL_TYPE_LONGLONG;
	params[0].buffer = &from;
	params[1].buffer = &until;
	(void)snprintf(text, sizeof(text), "SELECT " KS_KINE_COLUMNS " FROM %s WHERE id > ? AND id <= ? ORDER BY id",
		       table);
	my->rows = mysql_stmt_init(my->handle);
	if (!my->rows)
		return failed(my, "read", 0, "out of memory", err);
	bind_columns(my);
	if (mysql_stmt_prepare(my->rows, text, strlen(text)) != 0 || mysql_stmt_bind_param(my->rows, params) != 0 ||
	    mysql_stmt_execute(my->rows) != 0 || mysql_stmt_bind_result(my->rows, my->binds) != 0)
		return failed(my, "read", mysql_stmt_errno(my->rows), mysql_stmt_error(my->rows), err);
	return KS_OK;
}

static enum ks_status my_begin(void *state, const char *table, int64_t after, int64_t to, struct ks_kine_head *head,
			       struct ks_err *err)
{
	struct my *my = state;
	enum ks_status status = connect_my(my, err);

	/* The server waits for us while the other database is slow. */
	if (status == KS_OK)
		status = run(my, "SET SESSION net_write_timeout = 3600", err);
	if (status == KS_OK)
		status = run(my, "SET SESSION TRANSACTION ISOLATION LEVEL REPEATABLE READ", err);
	if (status == KS_OK)
		status = run(my, "START TRANSACTION WITH CONSISTENT SNAPSHOT, READ ONLY", err);
	if (status == KS_OK)
		status = read_head(my, table, head, err);
	return status == KS_OK ? begin_rows(my, table, after, to, err) : status;
}

static int64_t number(const struct my *my, int column)
{
	return my->nulls[column] ? 0 : my->numbers[column];
}

static enum ks_status fetch_value(struct my *my, struct ks_err *err)
{
	MYSQL_BIND bind = {.buffer_type = MYSQL_TYPE_BLOB};
	unsigned long length = 0;

	ks_buf_reset(&my->value);
	if (my->nulls[VALUE] || my->lengths[VALUE] == 0)
		return KS_OK;
	if (!ks_buf_reserve(&my->value, my->lengths[VALUE]))
		return ks_fail(err, KS_RESOURCE_EXHAUSTED, "out of memory for a value");
	bind.buffer = my->value.data;
	bind.buffer_length = my->lengths[VALUE];
	bind.length = &length;
	if (mysql_stmt_fetch_column(my->rows, &bind, VALUE, 0) != 0)
		return failed(my, "read", mysql_stmt_errno(my->rows), mysql_stmt_error(my->rows), err);
	my->value.size = my->lengths[VALUE];
	return KS_OK;
}

static enum ks_status my_next(void *state, struct ks_kine_row *row, bool *more, struct ks_err *err)
{
	struct my *my = state;
	int rc = mysql_stmt_fetch(my->rows);
	enum ks_status status;

	*more = rc == 0 || rc == MYSQL_DATA_TRUNCATED;
	if (rc == MYSQL_NO_DATA)
		return KS_OK;
	if (!*more)
		return failed(my, "read", mysql_stmt_errno(my->rows), mysql_stmt_error(my->rows), err);
	if (my->lengths[NAME] > sizeof(my->name))
		return ks_fail(err, KS_DATA_LOSS, "MySQL: a name of more than %zu bytes is none of kine's",
			       sizeof(my->name));
	status = fetch_value(my, err);
	if (status != KS_OK)
		return status;
	*row = (struct ks_kine_row){
		.id = number(my, ID),
		.name = ks_slice_of(my->name, my->nulls[NAME] ? 0 : my->lengths[NAME]),
		.created = number(my, CREATED) != 0,
		.deleted = number(my, DELETED) != 0,
		.create_revision = number(my, CREATE_REVISION),
		.prev_revision = number(my, PREV_REVISION),
		.lease = number(my, LEASE),
		.value = my->value.size ? ks_slice_of(my->value.data, my->value.size) : ks_slice_of("", 0),
	};
	return KS_OK;
}

static void my_end(void *state)
{
	struct my *my = state;

	if (my->rows) {
		bool unread = mysql_stmt_fetch(my->rows) != MYSQL_NO_DATA;

		/* What is left of a large answer is not worth reading. */
		if (unread) {
			drop(my);
			return;
		}
		mysql_stmt_close(my->rows);
		my->rows = NULL;
	}
	if (my->handle && mysql_query(my->handle, "ROLLBACK") != 0)
		drop(my);
}

/* Ids come from a counter before the commit. */
const struct ks_kine_ops ks_kine_mysql = {
	.schemes = {"mysql", "mariadb", NULL},
	.quote = '`',
	.ordered = false,
	.open = my_open,
	.close = my_close,
	.begin = my_begin,
	.next = my_next,
	.end = my_end,
};
