/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The PostgreSQL backend (13 or newer): its vtable, its URL, its schema. postgres_priv.h says what is in the
 * other files, docs/internals/postgres.md why things are as they are.
 *
 * The URL is libpq's own, with all its options: several hosts, target_session_attrs, TLS, a socket's folder as
 * host. Nothing is held exclusively: any number of instances share one database.
 */
#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/panic.h"
#include "postgres_priv.h"
#include "schema.h"
#include "url.h"

#define SCHEMA_VERSION 1
#define OLDEST_SERVER 130000

static const char schema[] =
#include "schema/postgres.sql.inc"
	;

/* ---- the URL ---- */

/*
 * What a URL that does not say otherwise gets. A dead network is noticed within seconds, not in the kernel's
 * two hours.
 */
static const struct setting {
	const char *keyword;
	const char *value;
} defaults[] = {
	{"fallback_application_name", "kineshim"},
	{"connect_timeout", "5"},
	{"keepalives_idle", "10"},
	{"keepalives_interval", "5"},
	{"keepalives_count", "3"},
	{"tcp_user_timeout", "15000"},
};

enum { DEFAULTS = sizeof(defaults) / sizeof(defaults[0]) };

static bool is_number_list(const char *text)
{
	return text[strspn(text, "0123456789,")] == '\0';
}

/*
 * libpq ends "user:password" at the first '@', and not behind a slash: the rest of a password with one of these would become the name of
 * a host or a database, and stand in errors.
 */
static bool user_part_is_clear(const char *url)
{
	const char *rest = strstr(url, "://") + 3, *end = rest + strcspn(rest, "?");
	const char *at = memchr(rest, '@', (size_t)(end - rest));

	return !at || (!memchr(rest, '/', (size_t)(at - rest)) && !memchr(at + 1, '@', (size_t)(end - at - 1)));
}

static enum ks_status bad_url(struct ks_err *err, const char *why)
{
	return ks_fail(err, KS_INVALID_ARGUMENT,
		       "not a PostgreSQL URL%s%s: it should look like "
		       "postgres://user:password@host:5432/database?sslmode=require",
		       why ? ": " : "", why ? why : "");
}

/* libpq's own complaint may quote the URL with its password: only a harmless one is passed on. */
static enum ks_status explain_url(const char *complaint, struct ks_err *err)
{
	char text[120];

	if (!complaint || strstr(complaint, "://") || strchr(complaint, '@') ||
	    strncmp(complaint, "invalid URI query parameter", 27) != 0)
		return bad_url(err, NULL);
	snprintf(text, sizeof(text), "%.*s", (int)strcspn(complaint, "\n"), complaint);
	return bad_url(err, text);
}

static void db_free(struct sqlb_db *db)
{
	if (!db)
		return;
	for (size_t i = 0; db->keywords && db->keywords[i]; i++) {
		free(db->keywords[i]);
		explicit_bzero(db->values[i], strlen(db->values[i]));
		free(db->values[i]);
	}
	free(db->keywords);
	free(db->values);
	free(db);
}

static void db_set(struct sqlb_db *db, size_t *count, const char *keyword, const char *value)
{
	db->keywords[*count] = ks_xstrdup(keyword);
	db->values[(*count)++] = ks_xstrdup(value);
}

/* A standby is no database for us (postgres_error.c), and of several hosts the next one may be the primary. */
static bool wants_primary(const struct sqlb_db *db, const PQconninfoOption *options)
{
	bool several = false;

	for (; options->keyword; options++)
		several |= strncmp(options->keyword, "host", 4) == 0 && options->val && strchr(options->val, ',');
	return several && atomic_load(&db->dialect) != SQLB_PG_DIALECT_PLAIN;
}

static void db_fill(struct sqlb_db *db, const PQconninfoOption *options)
{
	size_t size = DEFAULTS + 3, count = 0;

	for (const PQconninfoOption *option = options; option->keyword; option++)
		size++;
	db->keywords = ks_xcalloc(size, sizeof(char *));
	db->values = ks_xcalloc(size, sizeof(char *));
	/* libpq takes the last of several: ours come first, and those that must be come last. */
	for (size_t i = 0; i < DEFAULTS; i++)
		db_set(db, &count, defaults[i].keyword, defaults[i].value);
	if (wants_primary(db, options))
		db_set(db, &count, "target_session_attrs", "primary");
	for (const PQconninfoOption *option = options; option->keyword; option++)
		if (option->val)
			db_set(db, &count, option->keyword, option->val);
	db_set(db, &count, "client_encoding", "UTF8");
}

/* ---- our own parameters, which libpq does not know ---- */

static bool is_name(const char *text, size_t max)
{
	size_t size = strlen(text);

	return size > 0 && size < max && !isdigit((unsigned char)*text) &&
	       text[strspn(text, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_")] == '\0';
}

static enum ks_status take_pool_mode(struct sqlb_db *db, const char *value, struct ks_err *err)
{
	if (strcmp(value, "auto") == 0)
		db->pool_mode = SQLB_PG_POOL_AUTO;
	else if (strcmp(value, "session") == 0)
		db->pool_mode = SQLB_PG_POOL_SESSION;
	else if (strcmp(value, "transaction") == 0)
		db->pool_mode = SQLB_PG_POOL_TRANSACTION;
	else
		return bad_url(err, "pool_mode is auto, session or transaction");
	return KS_OK;
}

static enum ks_status take_dialect(struct sqlb_db *db, const char *value, struct ks_err *err)
{
	if (strcmp(value, "auto") == 0)
		atomic_store(&db->dialect, SQLB_PG_DIALECT_AUTO);
	else if (strcmp(value, "postgres") == 0)
		atomic_store(&db->dialect, SQLB_PG_DIALECT_POSTGRES);
	else if (strcmp(value, "plain") == 0)
		atomic_store(&db->dialect, SQLB_PG_DIALECT_PLAIN);
	else
		return bad_url(err, "dialect is auto, postgres or plain");
	return KS_OK;
}

static enum ks_status take_schema(struct sqlb_db *db, const char *value, struct ks_err *err)
{
	if (!is_name(value, sizeof(db->schema)))
		return bad_url(err, "schema is a name of letters, digits and underscores");
	snprintf(db->schema, sizeof(db->schema), "%s", value);
	return KS_OK;
}

static const struct own_parameter {
	const char *name; /* with its "=" */
	enum ks_status (*take)(struct sqlb_db *db, const char *value, struct ks_err *err);
} own_parameters[] = {
	{"dialect=", take_dialect},
	{"pool_mode=", take_pool_mode},
	{"schema=", take_schema},
};

/* Takes one parameter if it is ours. */
static enum ks_status take_own(struct sqlb_db *db, const char *text, size_t size, bool *ours, struct ks_err *err)
{
	*ours = false;
	for (size_t i = 0; i < sizeof(own_parameters) / sizeof(own_parameters[0]); i++) {
		size_t name = strlen(own_parameters[i].name);
		char raw[200], value[200];

		if (strncmp(text, own_parameters[i].name, name) != 0)
			continue;
		*ours = true;
		if (size - name >= sizeof(raw))
			return bad_url(err, "a parameter is too long");
		memcpy(raw, text + name, size - name);
		raw[size - name] = '\0';
		if (!sqlb_url_decode(raw, value, sizeof(value)))
			return bad_url(err, "a parameter has a bad %XX");
		return own_parameters[i].take(db, value, err);
	}
	return KS_OK;
}

/* Moves our parameters out of 'url', which then is libpq's. The query begins behind the user's name and password. */
static enum ks_status take_all_own(struct sqlb_db *db, char *url, struct ks_err *err)
{
	char *in = strstr(url, "://") + 3, *out;
	size_t host = strcspn(in, "@/");
	char separator = '?';

	if (in[host] == '@')
		in += host + 1;
	in += strcspn(in, "?");
	for (out = in; *in;) {
		size_t size = strcspn(++in, "&");
		enum ks_status status;
		bool ours;

		status = take_own(db, in, size, &ours, err);
		if (status != KS_OK)
			return status;
		if (!ours) {
			*out++ = separator;
			memmove(out, in, size);
			out += size;
			separator = '&';
		}
		in += size;
	}
	*out = '\0';
	return KS_OK;
}

static enum ks_status check_option(const PQconninfoOption *option, struct ks_err *err)
{
	/* A slash in a password ends the host: what follows it must not show up in a later error as "port". */
	if (strcmp(option->keyword, "port") == 0 && !is_number_list(option->val))
		return bad_url(err, "the port is not a number (special characters in a password are written %XX)");
	if (strcmp(option->keyword, "replication") == 0)
		return bad_url(err, "replication connections run no statements");
	return KS_OK;
}

static enum ks_status parse_url(struct sqlb_db *db, char *url, struct ks_err *err)
{
	enum ks_status status = take_all_own(db, url, err);
	PQconninfoOption *options;
	char *complaint = NULL;

	if (status != KS_OK)
		return status;
	options = PQconninfoParse(url, &complaint);
	if (!options) {
		status = explain_url(complaint, err);
		PQfreemem(complaint);
		return status;
	}
	for (PQconninfoOption *option = options; option->keyword && status == KS_OK; option++)
		if (option->val)
			status = check_option(option, err);
	if (status == KS_OK)
		db_fill(db, options);
	PQconninfoFree(options);
	return status;
}

static enum ks_status pg_open(const char *url, const char *data_dir, struct sqlb_db **db, struct ks_err *err)
{
	enum ks_status status;
	char *copy;

	(void)data_dir;
	*db = NULL;
	if (strncmp(url, "postgres://", 11) != 0 && strncmp(url, "postgresql://", 13) != 0)
		return bad_url(err, NULL);
	if (!user_part_is_clear(url))
		return bad_url(err, "'@' is written %40 and '/' %2F in a user or password");
	copy = ks_xstrdup(url);
	*db = ks_xcalloc(1, sizeof(**db));
	atomic_init(&(*db)->others, -1);
	status = parse_url(*db, copy, err);
	explicit_bzero(copy, strlen(url));
	free(copy);
	if (status == KS_OK) {
		sqlb_pg_block_make(*db);
	} else {
		db_free(*db);
		*db = NULL;
	}
	return status;
}

/* ---- handles ---- */

static void pg_disconnect(struct sqlb_conn *conn)
{
	if (!conn)
		return;
	sqlb_pg_drop(conn);
	sqlb_cancel_close(&conn->cancel);
	ks_buf_fini(&conn->arrays);
	free(conn);
}

static enum sqlb_outcome pg_connect(struct sqlb_db *db, struct sqlb_conn **conn, struct ks_err *err)
{
	struct sqlb_conn *new_conn = calloc(1, sizeof(*new_conn));

	*conn = NULL;
	if (!new_conn) {
		ks_fail(err, KS_RESOURCE_EXHAUSTED, "out of memory");
		return SQLB_AWAY;
	}
	new_conn->db = db;
	ks_buf_init(&new_conn->arrays, (size_t)1 << 30);
	if (sqlb_cancel_open(&new_conn->cancel, err) != SQLB_OK) {
		free(new_conn);
		return SQLB_AWAY;
	}
	*conn = new_conn;
	return SQLB_OK;
}

/* ---- the schema ---- */

/* The one value of a result in text; false when there is none. */
static bool text_of(const PGresult *result, char *out, size_t out_size)
{
	if (PQntuples(result) != 1 || PQgetisnull(result, 0, 0))
		return false;
	snprintf(out, out_size, "%s", PQgetvalue(result, 0, 0));
	return true;
}

static enum sqlb_outcome ask(struct sqlb_conn *conn, const char *sql, char *out, size_t out_size, bool *found,
			     struct ks_err *err)
{
	PGresult *result;
	enum sqlb_outcome outcome = conn->pooled && !conn->in_block ? sqlb_pg_exec_block(conn, sql, &result, err)
								    : sqlb_pg_exec(conn, sql, &result, err);

	*found = outcome == SQLB_OK && text_of(result, out, out_size);
	PQclear(result);
	return outcome;
}

static enum sqlb_outcome ask_meta(struct sqlb_conn *conn, const char *name, char *out, size_t out_size, bool *found,
				  struct ks_err *err)
{
	char sql[100];

	snprintf(sql, sizeof(sql), "SELECT value FROM kineshim_meta WHERE name = '%s'", name);
	return ask(conn, sql, out, out_size, found, err);
}

static const struct sqlb_schema_driver schema_driver = {.read = ask_meta, .broken = sqlb_pg_broken};

/* Whose tables are these? *version: 0 = none there, else that of our schema. */
static enum sqlb_outcome inspect(struct sqlb_conn *conn, int *version, struct ks_err *err)
{
	char text[100], why[200];
	enum sqlb_outcome outcome;
	bool found;

	*version = 0;
	/*
	 * Not to_regclass(): what it remembers of the catalogue may be older than the lock that we have just
	 * got. And one statement: between two, another instance may make all the tables.
	 */
	outcome = ask(conn,
		      "SELECT relname FROM pg_class WHERE relname IN ('kineshim_meta', 'kineshim_log', "
		      "'kineshim_lease', 'kineshim_duty', 'kineshim_member', 'kineshim_live') AND "
		      "pg_table_is_visible(oid) ORDER BY relname <> 'kineshim_meta', relname LIMIT 1",
		      text, sizeof(text), &found, err);
	if (outcome != SQLB_OK || !found)
		return outcome;
	if (strcmp(text, "kineshim_meta") != 0) {
		snprintf(why, sizeof(why), "the database has a table \"%s\" and no kineshim_meta: it is not kineshim's",
			 text);
		return sqlb_pg_broken(conn, err, why);
	}
	outcome = sqlb_schema_version(conn, &schema_driver, SCHEMA_VERSION, version, err);
	if (outcome == SQLB_OK && *version == 0)
		return sqlb_pg_broken(conn, err, "the table kineshim_meta is not kineshim's");
	return outcome;
}

/* From 'version' to ours, inside the transaction that holds the lock. */
static enum sqlb_outcome upgrade(struct sqlb_conn *conn, int version, struct ks_err *err)
{
	enum sqlb_outcome outcome = SQLB_OK;
	char sql[SQLB_SCHEMA_NOTE_BYTES];

	for (int next = version + 1; next <= SCHEMA_VERSION && outcome == SQLB_OK; next++) {
		char *section = sqlb_schema_upgrade(schema, next);

		outcome = sqlb_pg_exec(conn, section, NULL, err);
		free(section);
	}
	if (outcome != SQLB_OK)
		return outcome;
	sqlb_schema_note(sql, version, SCHEMA_VERSION,
			 "to_char(now() AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS\"Z\"')", "");
	return sqlb_pg_exec(conn, sql, NULL, err);
}

/* Several instances may start at once: one of them makes the tables, the others wait and find them. */
static enum sqlb_outcome upgrade_locked(struct sqlb_conn *conn, struct ks_err *err)
{
	enum sqlb_outcome outcome;
	int version;

	outcome = sqlb_pg_block_begin(conn, err);
	if (outcome == SQLB_OK)
		outcome = sqlb_pg_exec(conn,
				       "SET LOCAL statement_timeout = 0; SET LOCAL lock_timeout = 0; "
				       "SELECT pg_advisory_xact_lock(1802071653, 1936222573)" /* "kine", "shim" */,
				       NULL, err);
	if (outcome == SQLB_OK)
		outcome = inspect(conn, &version, err);
	if (outcome == SQLB_OK && version < SCHEMA_VERSION)
		outcome = upgrade(conn, version, err);
	if (outcome == SQLB_OK)
		outcome = sqlb_pg_block_end(conn, "COMMIT", err);
	if (outcome != SQLB_OK)
		sqlb_pg_drop(conn);
	return outcome;
}

/*
 * A database that is up to date is only looked at: a read-only standby can be read, and nobody waits for a
 * lock.
 */
static enum sqlb_outcome pg_migrate(struct sqlb_conn *conn, uint64_t *cluster_id, struct ks_err *err)
{
	enum sqlb_outcome outcome = sqlb_pg_begin(conn, SQLB_PG_LONG_TIMEOUT_MS, err);
	int version;

	*cluster_id = 0;
	if (outcome != SQLB_OK)
		return outcome;
	if (conn->plain) {
		outcome = sqlb_pg_plain_migrate(conn, SCHEMA_VERSION, sqlb_random_id(), err);
		return outcome == SQLB_OK ? sqlb_schema_cluster_id(conn, &schema_driver, cluster_id, err) : outcome;
	}
	if (PQserverVersion(conn->pg) < OLDEST_SERVER)
		return sqlb_pg_broken(conn, err, "the server is older than PostgreSQL 13");
	outcome = inspect(conn, &version, err);
	if (outcome == SQLB_OK && version < SCHEMA_VERSION)
		outcome = upgrade_locked(conn, err);
	if (outcome == SQLB_OK)
		outcome = sqlb_schema_cluster_id(conn, &schema_driver, cluster_id, err);
	if (outcome == SQLB_OK)
		outcome = sqlb_pg_prepare(conn, SQLB_PG_ROWS, err); /* are the log's columns what they should be? */
	return outcome;
}

const struct sqlb_ops sqlb_postgres_ops = {
	.version = SQLB_VERSION,
	.name = "postgres",
	.schemes = {"postgres", "postgresql", NULL},
	.features = SQLB_NOTIFIES,
	.open = pg_open,
	.close = db_free,
	.connect = pg_connect,
	.disconnect = pg_disconnect,
	.migrate = pg_migrate,
	.append = sqlb_pg_append,
	.append_send = sqlb_pg_append_send,
	.append_receive = sqlb_pg_append_receive,
	.load = sqlb_pg_load,
	.read_head = sqlb_pg_read_head,
	.read_rows = sqlb_pg_read_rows,
	.read_at = sqlb_pg_read_at,
	.trim = sqlb_pg_trim,
	.wait_for_change = sqlb_pg_wait_for_change,
	.cancel = sqlb_pg_cancel,
	.lease_touch = sqlb_pg_lease_touch,
	.lease_ensure = sqlb_pg_lease_ensure,
	.lease_refresh_all = sqlb_pg_lease_refresh_all,
	.lease_list = sqlb_pg_lease_list,
	.lease_read = sqlb_pg_lease_read,
	.lease_drop = sqlb_pg_lease_drop,
	.duty_take = sqlb_pg_duty_take,
	.duty_pass = sqlb_pg_duty_pass,
	.member_beat = sqlb_pg_member_beat,
	.member_list = sqlb_pg_member_list,
	.size = sqlb_pg_size,
	.defragment = sqlb_pg_defragment,
};
