/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One connection to MySQL or MariaDB through MariaDB Connector/C: connecting, preparing, executing, transactions.
 *
 * The library blocks, within the timeouts of the socket, which are for each wait and so bound a server that went silent and
 * not one that sends a lot. Sockets that died while nobody looked (wait_timeout, a restart) are found before a statement is
 * sent: an append that was never sent is AWAY, not DOUBT, and mostly is not even that, for a new connection is made quietly.
 */
#include <errmsg.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>

#include "base/clock.h"
#include "base/diag.h"
#include "base/metrics.h"
#include "base/panic.h"
#include "mysql_priv.h"

#include <ma_pvio.h> /* needs mysql.h */

int64_t sqlb_my_now_ms(void)
{
	return ks_clock_now(ks_clock_system());
}

/* ---- connecting ---- */

void sqlb_my_drop(struct sqlb_conn *conn)
{
	if (!conn->mysql)
		return;
	/* First, so that closing the statements is not said to the server, one by one, nor waits for rows still on their way. */
	mysql_close(conn->mysql);
	conn->mysql = NULL;
	for (size_t s = 0; s < SQLB_MY_STATEMENTS; s++)
		for (size_t b = 0; b < SQLB_MY_BUCKETS; b++)
			if (conn->statements[s][b])
				mysql_stmt_close(conn->statements[s][b]);
	memset(conn->statements, 0, sizeof(conn->statements));
	conn->in_transaction = false;
}

/* What every connection has, whatever the URL says. The library looks at timeouts only while it connects. */
static bool set_options(MYSQL *mysql, const struct sqlb_db *db, enum sqlb_my_tls tls, int timeout_s)
{
	unsigned connect_s = db->connect_timeout_s, answer_s = (unsigned)timeout_s, off = 0;
	unsigned send_s = SQLB_MY_ANSWER_TIMEOUT_S;
	my_bool yes = 1, verify = tls == SQLB_MY_TLS_VERIFIED;
	/* A server must not talk us into sending the password as it is: only one whose certificate was verified may ask. */
	const char *plugins = verify ? "mysql_native_password,caching_sha2_password,sha256_password,client_ed25519,"
				       "mysql_clear_password,dialog"
				     : "mysql_native_password,caching_sha2_password,sha256_password,client_ed25519";
	bool done = mysql_options(mysql, MYSQL_OPT_CONNECT_TIMEOUT, &connect_s) == 0 &&
		    mysql_options(mysql, MYSQL_OPT_READ_TIMEOUT, &answer_s) == 0 &&
		    mysql_options(mysql, MYSQL_OPT_WRITE_TIMEOUT, &send_s) == 0 &&
		    /* Or any server could ask for any file of ours. */
		    mysql_options(mysql, MYSQL_OPT_LOCAL_INFILE, &off) == 0 &&
		    mysql_options(mysql, MARIADB_OPT_RESTRICTED_AUTH, plugins) == 0 &&
		    mysql_options(mysql, MYSQL_SET_CHARSET_NAME, "utf8mb4") == 0 &&
		    mysql_options4(mysql, MYSQL_OPT_CONNECT_ATTR_ADD, "program_name", "kineshim") == 0;

	if (tls == SQLB_MY_TLS_OFF || !done)
		return done;
	return mysql_options(mysql, MYSQL_OPT_SSL_ENFORCE, &yes) == 0 &&
	       mysql_options(mysql, MYSQL_OPT_SSL_VERIFY_SERVER_CERT, &verify) == 0 &&
	       (!db->ca_file || mysql_options(mysql, MYSQL_OPT_SSL_CA, db->ca_file) == 0) &&
	       (!db->cert_file || mysql_options(mysql, MYSQL_OPT_SSL_CERT, db->cert_file) == 0) &&
	       (!db->key_file || mysql_options(mysql, MYSQL_OPT_SSL_KEY, db->key_file) == 0);
}

/* A dead network is noticed within seconds, not in the kernel's two hours; also while the server says nothing for good. */
static void set_keepalive(MYSQL *mysql)
{
	static const struct {
		int level, option, value;
	} settings[] = {{SOL_SOCKET, SO_KEEPALIVE, 1},
			{IPPROTO_TCP, TCP_KEEPIDLE, 10},
			{IPPROTO_TCP, TCP_KEEPINTVL, 5},
			{IPPROTO_TCP, TCP_KEEPCNT, 3},
			{IPPROTO_TCP, TCP_USER_TIMEOUT, 15000}};
	int fd = (int)mysql_get_socket(mysql);

	for (size_t i = 0; i < sizeof(settings) / sizeof(settings[0]); i++)
		if (setsockopt(fd, settings[i].level, settings[i].option, &settings[i].value, sizeof(int)) != 0)
			return; /* a UNIX socket */
}

static enum sqlb_outcome connect_with(struct sqlb_conn *conn, enum sqlb_my_tls tls, struct ks_err *err)
{
	const struct sqlb_db *db = conn->db;
	MYSQL *mysql = mysql_init(NULL);

	if (!mysql || !set_options(mysql, db, tls, conn->timeout_s)) {
		ks_fail(err, KS_UNAVAILABLE, "MySQL: cannot set up a connection: %s",
			mysql ? mysql_error(mysql) : "out of memory");
		if (mysql)
			mysql_close(mysql);
		return SQLB_AWAY;
	}
	/* CLIENT_FOUND_ROWS: an UPDATE tells how many rows it matched, whether or not they had that value already. */
	if (!mysql_real_connect(mysql, db->socket_path ? NULL : db->host, db->user, db->password, db->database,
				db->port, db->socket_path, CLIENT_FOUND_ROWS)) {
		unsigned number = mysql_errno(mysql);

		ks_fail(err, KS_UNAVAILABLE, "MySQL: cannot connect: %s (error %u)", mysql_error(mysql), number);
		mysql_close(mysql);
		if (tls == SQLB_MY_TLS_PREFERRED && number == CR_SSL_CONNECTION_ERROR)
			return connect_with(conn, SQLB_MY_TLS_OFF, err);
		return SQLB_AWAY;
	}
	set_keepalive(mysql);
	conn->mysql = mysql;
	return SQLB_OK;
}

static void learn_variable(struct sqlb_conn *conn, const char *name, const char *value)
{
	struct sqlb_my_server *server = &conn->server;
	unsigned major = 0, minor = 0, patch = 0;

	if (strcmp(name, "version") == 0) {
		server->is_mariadb = strstr(value, "MariaDB") != NULL;
		if (sscanf(value, "%3u.%3u.%3u", &major, &minor, &patch) < 2)
			major = 0;
		server->version = major * 10000 + minor * 100 + patch;
	} else if (strcmp(name, "max_allowed_packet") == 0) {
		server->max_packet = (size_t)strtoull(value, NULL, 10);
	} else if (strcmp(name, "pseudo_thread_id") == 0) {
		server->reads_ahead = strtoull(value, NULL, 10) == mysql_thread_id(conn->mysql);
	} else if (strcmp(name, "wsrep_on") == 0) {
		server->has_wsrep = strcasecmp(value, "ON") == 0 || strcmp(value, "1") == 0;
	} else if (strcmp(name, "innodb_flush_log_at_trx_commit") == 0 && strcmp(value, "1") != 0) {
		KS_DIAG_LIMITED(
			KS_WARN, "mysql",
			"innodb_flush_log_at_trx_commit is not 1: a crash of the database%s loses acknowledged writes",
			server->has_wsrep ? " on all nodes at once" : "");
	}
}

/*
 * The server reads its statements one after the other from its socket, so it does not mind when they come early. A proxy may, and not every server
 * was tried: so only a MariaDB that greeted us by the number that it has for this session itself; proxies make up their own. Of the library
 * a field is looked at (sqlb_my_await) that another one may have elsewhere.
 */
static bool reads_ahead(const struct sqlb_my_server *server)
{
	return server->reads_ahead && server->has_bulk &&
	       mysql_get_client_version() / 100 == MARIADB_PACKAGE_VERSION_ID / 100;
}

/* SHOW, because it leaves out what a server does not have, where SELECT @@name is an error. */
static enum sqlb_outcome learn_server(struct sqlb_conn *conn, struct ks_err *err)
{
	unsigned long capabilities = 0;
	enum sqlb_outcome outcome;
	MYSQL_RES *result;
	MYSQL_ROW row;

	conn->server = (struct sqlb_my_server){0};
	/* Which counts for SHOW, too: some of the rows would be missing. */
	outcome = sqlb_my_exec(conn, "SET SESSION sql_select_limit = 18446744073709551615", err);
	if (outcome != SQLB_OK)
		return sqlb_my_no_conflict(outcome);
	if (mysql_query(conn->mysql,
			"SHOW VARIABLES WHERE Variable_name IN ('version', 'max_allowed_packet', 'wsrep_on', "
			"'pseudo_thread_id', 'innodb_flush_log_at_trx_commit')") != 0 ||
	    !(result = mysql_store_result(conn->mysql)))
		return sqlb_my_no_conflict(sqlb_my_judge_conn(conn, err));
	while (mysql_num_fields(result) == 2 && (row = mysql_fetch_row(result)) != NULL)
		if (row[0] && row[1])
			learn_variable(conn, row[0], row[1]);
	mysql_free_result(result);
	if (conn->server.max_packet < 1024)
		conn->server.max_packet = 1024; /* the least there is */
	/* Not tried on a cluster. A proxy may speak for a MariaDB and not know of it: the connection's own word counts. */
	conn->server.has_bulk =
		conn->server.is_mariadb && !conn->server.has_wsrep &&
		mariadb_get_infov(conn->mysql, MARIADB_CONNECTION_EXTENDED_SERVER_CAPABILITIES, &capabilities) == 0 &&
		capabilities & (unsigned long)(MARIADB_CLIENT_STMT_BULK_OPERATIONS >> 32);
	conn->server.reads_ahead = reads_ahead(&conn->server);
	return SQLB_OK;
}

/*
 * What a session must be set to, whatever the server's defaults are. No LIMIT that we did not write, arithmetic errors that
 * are errors, UTC, updates without a key. READ COMMITTED locks no gaps; each of our statements looks at rows it then changes
 * with the lock it has on them, so nothing more is needed. A transaction whose client is gone frees its locks soon. Where
 * we wait for long, so does the server.
 */
static enum sqlb_outcome open_session(struct sqlb_conn *conn, struct ks_err *err)
{
	enum sqlb_outcome outcome = learn_server(conn, err);
	bool patient = conn->timeout_s > SQLB_MY_ANSWER_TIMEOUT_S;
	const char *limits;
	char sql[600];

	if (conn->server.is_mariadb)
		limits = patient ? ", SESSION max_statement_time = 0, SESSION idle_transaction_timeout = 0"
				 : ", SESSION max_statement_time = 8, SESSION idle_transaction_timeout = 10";
	else
		limits = patient ? ", SESSION information_schema_stats_expiry = 0"
				 : ", SESSION wait_timeout = 120, SESSION information_schema_stats_expiry = 0";
	snprintf(sql, sizeof(sql),
		 "SET SESSION sql_mode = 'STRICT_ALL_TABLES,NO_ENGINE_SUBSTITUTION', SESSION time_zone = '+00:00', "
		 "SESSION autocommit = 1, SESSION completion_type = 0, SESSION sql_big_selects = 1, SESSION "
		 "sql_safe_updates = 0, SESSION innodb_lock_wait_timeout = %d, "
		 "SESSION lock_wait_timeout = %d%s%s",
		 SQLB_MY_LOCK_TIMEOUT_S, SQLB_MY_STATEMENT_TIMEOUT_S, limits,
		 conn->server.has_wsrep ? ", SESSION wsrep_sync_wait = 1" : "");
	if (outcome == SQLB_OK)
		outcome = sqlb_my_exec(conn, sql, err);
	if (outcome == SQLB_OK)
		outcome = sqlb_my_exec(conn, "SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED", err);
	return outcome;
}

static enum sqlb_outcome connect_now(struct sqlb_conn *conn, struct ks_err *err)
{
	enum sqlb_outcome outcome = connect_with(conn, conn->db->tls, err);

	if (outcome != SQLB_OK)
		return outcome;
	KS_COUNT(DB_CONNECTS, 1);
	outcome = open_session(conn, err);
	if (outcome != SQLB_OK)
		sqlb_my_drop(conn);
	return outcome;
}

/* Between calls a server says nothing, but that it has ended the session. */
static bool still_alive(struct sqlb_conn *conn)
{
	struct pollfd poll_fd = {.fd = (int)mysql_get_socket(conn->mysql), .events = POLLIN};

	return poll_fd.fd >= 0 && poll(&poll_fd, 1, 0) == 0;
}

enum sqlb_outcome sqlb_my_begin(struct sqlb_conn *conn, int timeout_s, struct ks_err *err)
{
	enum sqlb_outcome outcome = SQLB_OK;

	KS_ASSERT(conn->sent_count == 0);
	if (conn->mysql && (conn->in_transaction || conn->timeout_s != timeout_s || !still_alive(conn)))
		sqlb_my_drop(conn);
	conn->timeout_s = timeout_s;
	if (!conn->mysql)
		outcome = connect_now(conn, err);
	return outcome;
}

/* ---- parameters ---- */

void sqlb_my_params(struct sqlb_conn *conn, size_t count)
{
	if (count > conn->param_capacity) {
		conn->param_capacity = count < 64 ? 64 : count;
		conn->binds = ks_xrealloc(conn->binds, conn->param_capacity * sizeof(*conn->binds));
		conn->numbers = ks_xrealloc(conn->numbers, conn->param_capacity * sizeof(*conn->numbers));
	}
	conn->param_count = 0;
}

void sqlb_my_param(struct sqlb_conn *conn, int64_t number)
{
	size_t i = conn->param_count++;

	KS_ASSERT(i < conn->param_capacity);
	conn->numbers[i] = number;
	conn->binds[i] = (MYSQL_BIND){.buffer_type = MYSQL_TYPE_LONGLONG, .buffer = &conn->numbers[i]};
}

void sqlb_my_param_slice(struct sqlb_conn *conn, struct ks_slice slice)
{
	static my_bool is_null = 1;
	size_t i = conn->param_count++;

	KS_ASSERT(i < conn->param_capacity);
	conn->binds[i] = (MYSQL_BIND){.buffer_type = MYSQL_TYPE_LONG_BLOB,
				      .buffer = (void *)(uintptr_t)slice.data, /* only read */
				      .buffer_length = slice.size,
				      .is_null = slice.data ? NULL : &is_null};
}

void sqlb_my_param_ids(struct sqlb_conn *conn, const int64_t *ids, size_t count, size_t extra)
{
	size_t size = sqlb_my_bucket_size(count);

	sqlb_my_params(conn, size + extra);
	for (size_t i = 0; i < size; i++)
		sqlb_my_param(conn, ids[i < count ? i : 0]);
}

/* ---- statements ---- */

static size_t bucket_of(size_t count)
{
	size_t bucket = 0;

	while (sqlb_my_buckets[bucket] < count) {
		bucket++;
		KS_ASSERT(bucket < SQLB_MY_BUCKETS);
	}
	return bucket;
}

size_t sqlb_my_bucket_size(size_t count)
{
	return sqlb_my_buckets[bucket_of(count)];
}

/* Parameters and result columns are ours to know; a server (or what says to be one) that thinks otherwise is none. */
static bool is_as_written(MYSQL_STMT *stmt, const struct ks_buf *sql, unsigned columns)
{
	size_t params = 0;

	for (size_t i = 0; i < sql->size; i++)
		params += sql->data[i] == '?';
	return mysql_stmt_param_count(stmt) == params && mysql_stmt_field_count(stmt) == columns;
}

enum sqlb_outcome sqlb_my_prepare(struct sqlb_conn *conn, enum sqlb_my_statement statement, size_t items,
				  MYSQL_STMT **stmt, struct ks_err *err)
{
	const struct sqlb_my_text *text = &sqlb_my_texts[statement];
	size_t bucket = text->item ? bucket_of(items) : 0;
	MYSQL_STMT **slot = &conn->statements[statement][bucket];
	enum sqlb_outcome outcome = SQLB_OK;
	struct ks_buf sql;

	*stmt = *slot;
	if (*stmt)
		return SQLB_OK;
	ks_buf_init(&sql, 256 << 10);
	ks_buf_append_slice(&sql, ks_slice_str(text->before));
	for (size_t i = 0; text->item && i < sqlb_my_buckets[bucket]; i++) {
		if (i > 0)
			ks_buf_append_slice(&sql, ks_slice_str(text->between));
		ks_buf_append_slice(&sql, ks_slice_str(text->item));
	}
	ks_buf_append_slice(&sql, ks_slice_str(text->after));
	*stmt = sql.failed ? NULL : mysql_stmt_init(conn->mysql);
	if (!*stmt) {
		ks_fail(err, KS_RESOURCE_EXHAUSTED, "MySQL: no memory for a statement");
		outcome = SQLB_AWAY;
	} else if (mysql_stmt_prepare(*stmt, (const char *)sql.data, sql.size) != 0) {
		unsigned number = mysql_stmt_errno(*stmt);
		char why[KS_ERR_TEXT_MAX];

		snprintf(why, sizeof(why), "%s", mysql_stmt_error(*stmt));
		mysql_stmt_close(*stmt);
		*stmt = NULL;
		outcome = sqlb_my_judge(conn, number, why, err);
	} else if (!is_as_written(*stmt, &sql, text->columns)) {
		mysql_stmt_close(*stmt);
		*stmt = NULL;
		outcome = sqlb_my_broken(conn, err, "the server has another idea of our statements");
	}
	ks_buf_fini(&sql);
	*slot = *stmt;
	return outcome;
}

bool sqlb_my_execute(struct sqlb_conn *conn, MYSQL_STMT *stmt)
{
	KS_ASSERT(mysql_stmt_param_count(stmt) == conn->param_count);
	return (conn->param_count == 0 || !mysql_stmt_bind_param(stmt, conn->binds)) && mysql_stmt_execute(stmt) == 0;
}

/* ---- bulk execution ---- */

void sqlb_my_bulk_begin(struct sqlb_conn *conn, size_t count)
{
	struct sqlb_my_bulk *bulk = &conn->bulk;

	if (count > bulk->capacity) {
		size_t cells;

		bulk->capacity = count + count / 2;
		cells = bulk->capacity * SQLB_MY_ROW_COLUMNS;
		bulk->numbers = ks_xrealloc(bulk->numbers, cells * sizeof(*bulk->numbers));
		bulk->slices = ks_xrealloc(bulk->slices, cells * sizeof(*bulk->slices));
		bulk->sizes = ks_xrealloc(bulk->sizes, cells * sizeof(*bulk->sizes));
		bulk->nulls = ks_xrealloc(bulk->nulls, cells);
	}
	bulk->count = 0;
}

void sqlb_my_bulk_fini(struct sqlb_conn *conn)
{
	free(conn->bulk.numbers);
	free(conn->bulk.slices);
	free(conn->bulk.sizes);
	free(conn->bulk.nulls);
	conn->bulk = (struct sqlb_my_bulk){0};
}

/* In the order of sqlb_my_param_row. */
enum { KEY_COLUMN = 5, VALUE_COLUMN = 6, PAYLOAD_COLUMN = 10 };

static bool is_slice(size_t column)
{
	return column == KEY_COLUMN || column == VALUE_COLUMN || column == PAYLOAD_COLUMN;
}

void sqlb_my_bulk_put(struct sqlb_conn *conn, const struct sqlb_row *row)
{
	const int64_t numbers[SQLB_MY_ROW_COLUMNS] = {
		row->position,        row->sub,     row->rows,  row->kind, row->revision, 0,         0,
		row->create_revision, row->version, row->lease, 0,         row->writer,   row->batch};
	const struct ks_slice slices[SQLB_MY_ROW_COLUMNS] = {
		[KEY_COLUMN] = row->key, [VALUE_COLUMN] = row->value, [PAYLOAD_COLUMN] = row->payload};
	struct sqlb_my_bulk *bulk = &conn->bulk;

	KS_ASSERT(bulk->count < bulk->capacity);
	for (size_t i = 0; i < SQLB_MY_ROW_COLUMNS; i++) {
		size_t cell = i * bulk->capacity + bulk->count;

		if (!is_slice(i)) {
			bulk->numbers[cell] = numbers[i];
			continue;
		}
		bulk->slices[cell] = (void *)(uintptr_t)slices[i].data; /* only read */
		bulk->sizes[cell] = slices[i].size;
		bulk->nulls[cell] = slices[i].data ? STMT_INDICATOR_NONE : STMT_INDICATOR_NULL;
	}
	bulk->count++;
}

bool sqlb_my_execute_bulk(struct sqlb_conn *conn, MYSQL_STMT *stmt)
{
	struct sqlb_my_bulk *bulk = &conn->bulk;
	MYSQL_BIND binds[SQLB_MY_ROW_COLUMNS] = {0};
	unsigned count = (unsigned)bulk->count;

	KS_ASSERT(mysql_stmt_param_count(stmt) == SQLB_MY_ROW_COLUMNS);
	for (size_t i = 0; i < SQLB_MY_ROW_COLUMNS; i++) {
		size_t cell = i * bulk->capacity;

		if (!is_slice(i)) {
			binds[i].buffer_type = MYSQL_TYPE_LONGLONG;
			binds[i].buffer = &bulk->numbers[cell];
			continue;
		}
		binds[i].buffer_type = MYSQL_TYPE_LONG_BLOB;
		binds[i].buffer = &bulk->slices[cell];
		binds[i].length = &bulk->sizes[cell];
		binds[i].u.indicator = &bulk->nulls[cell];
	}
	return !mysql_stmt_attr_set(stmt, STMT_ATTR_ARRAY_SIZE, &count) && !mysql_stmt_bind_param(stmt, binds) &&
	       mysql_stmt_execute(stmt) == 0;
}

bool sqlb_my_send_bulk(struct sqlb_conn *conn, MYSQL_STMT *stmt)
{
	my_bool yes = 1, no = 0;
	bool sent;

	if (mysql_options(conn->mysql, MARIADB_OPT_SKIP_READ_RESPONSE, &yes))
		return false;
	sent = sqlb_my_execute_bulk(conn, stmt);
	(void)mysql_options(conn->mysql, MARIADB_OPT_SKIP_READ_RESPONSE, &no);
	return sent;
}

/* The library reads more than it was asked for: the next answer may have come with the last one. */
static bool has_read_more(const MYSQL *mysql)
{
	const MARIADB_PVIO *pvio = mysql->net.pvio;

	return pvio && pvio->cache && pvio->cache + pvio->cache_size > pvio->cache_pos;
}

bool sqlb_my_await(struct sqlb_conn *conn, int64_t until_ms)
{
	struct pollfd poll_fd = {.fd = (int)mysql_get_socket(conn->mysql), .events = POLLIN};
	int ready;

	if (poll_fd.fd < 0 || has_read_more(conn->mysql))
		return true;
	do {
		int64_t left_ms = until_ms - sqlb_my_now_ms();

		ready = poll(&poll_fd, 1, left_ms > 0 ? (int)left_ms : 0);
	} while (ready < 0 && errno == EINTR);
	return ready != 0;
}

bool sqlb_my_read_sent(struct sqlb_conn *conn, uint64_t *affected)
{
	if (mysql_read_query_result(conn->mysql))
		return false;
	*affected = mysql_affected_rows(conn->mysql);
	return true;
}

enum sqlb_outcome sqlb_my_run(struct sqlb_conn *conn, enum sqlb_my_statement statement, size_t items,
			      uint64_t *affected, struct ks_err *err)
{
	MYSQL_STMT *stmt;
	enum sqlb_outcome outcome = sqlb_my_prepare(conn, statement, items, &stmt, err);

	if (outcome != SQLB_OK)
		return outcome;
	if (!sqlb_my_execute(conn, stmt))
		return sqlb_my_judge_stmt(conn, stmt, err);
	if (affected)
		*affected = mysql_stmt_affected_rows(stmt);
	return SQLB_OK;
}

enum sqlb_outcome sqlb_my_query(struct sqlb_conn *conn, enum sqlb_my_statement statement, size_t items, size_t columns,
				sqlb_my_numbers_fn *visit, void *ctx, struct ks_err *err)
{
	int64_t numbers[SQLB_MY_NUMBERS_MAX];
	my_bool nulls[SQLB_MY_NUMBERS_MAX] = {0};
	MYSQL_BIND results[SQLB_MY_NUMBERS_MAX];
	MYSQL_STMT *stmt;
	enum sqlb_outcome outcome = sqlb_my_prepare(conn, statement, items, &stmt, err);
	bool go_on = true;
	int rc;

	if (outcome != SQLB_OK)
		return outcome;
	KS_ASSERT(columns <= SQLB_MY_NUMBERS_MAX && columns == sqlb_my_texts[statement].columns);
	for (size_t i = 0; i < columns; i++)
		results[i] =
			(MYSQL_BIND){.buffer_type = MYSQL_TYPE_LONGLONG, .buffer = &numbers[i], .is_null = &nulls[i]};
	if (!sqlb_my_execute(conn, stmt) || mysql_stmt_bind_result(stmt, results))
		return sqlb_my_judge_stmt(conn, stmt, err);
	while ((rc = mysql_stmt_fetch(stmt)) == 0 && go_on) {
		for (size_t i = 0; i < columns; i++)
			if (nulls[i])
				return sqlb_my_broken(conn, err, "a column is NULL that this program never makes so");
		go_on = visit(ctx, numbers);
	}
	if (rc != 0 && rc != MYSQL_NO_DATA)
		return sqlb_my_judge_stmt(conn, stmt, err);
	if (mysql_stmt_free_result(stmt))
		return sqlb_my_judge_stmt(conn, stmt, err);
	return SQLB_OK;
}

struct first_row {
	int64_t *numbers;
	size_t columns;
	bool found;
};

static bool keep_first(void *ctx, const int64_t *numbers)
{
	struct first_row *first = ctx;

	if (!first->found)
		memcpy(first->numbers, numbers, first->columns * sizeof(*numbers));
	first->found = true;
	return true;
}

enum sqlb_outcome sqlb_my_query_one(struct sqlb_conn *conn, enum sqlb_my_statement statement, size_t columns,
				    int64_t *numbers, bool *found, struct ks_err *err)
{
	struct first_row first = {.numbers = numbers, .columns = columns};
	enum sqlb_outcome outcome = sqlb_my_query(conn, statement, 0, columns, keep_first, &first, err);

	*found = first.found;
	return outcome;
}

enum sqlb_outcome sqlb_my_ask(struct sqlb_conn *conn, const char *sql, char *text, size_t text_size, bool *found,
			      struct ks_err *err)
{
	MYSQL_RES *result;
	MYSQL_ROW row;

	*found = false;
	if (mysql_query(conn->mysql, sql) != 0)
		return sqlb_my_judge_conn(conn, err);
	result = mysql_store_result(conn->mysql);
	if (!result)
		return mysql_errno(conn->mysql) ? sqlb_my_judge_conn(conn, err) : SQLB_OK;
	row = mysql_fetch_row(result);
	if (row && row[0] && text) {
		snprintf(text, text_size, "%s", row[0]);
		*found = true;
	}
	mysql_free_result(result);
	return SQLB_OK;
}

enum sqlb_outcome sqlb_my_exec(struct sqlb_conn *conn, const char *sql, struct ks_err *err)
{
	bool found;

	return sqlb_my_ask(conn, sql, NULL, 0, &found, err);
}

/* ---- transactions ---- */

enum sqlb_outcome sqlb_my_start(struct sqlb_conn *conn, struct ks_err *err)
{
	enum sqlb_outcome outcome = sqlb_my_exec(conn, "START TRANSACTION", err);

	conn->in_transaction = outcome == SQLB_OK;
	return outcome;
}

bool sqlb_my_commit(struct sqlb_conn *conn)
{
	conn->in_transaction = false;
	return mysql_query(conn->mysql, "COMMIT") == 0;
}

void sqlb_my_roll_back(struct sqlb_conn *conn)
{
	if (!conn->mysql || !conn->in_transaction)
		return;
	conn->in_transaction = false;
	if (mysql_query(conn->mysql, "ROLLBACK") != 0)
		sqlb_my_drop(conn);
}
