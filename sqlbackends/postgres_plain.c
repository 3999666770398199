/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What is done in another way on engines that speak PostgreSQL's protocol over another storage (CockroachDB, YugabyteDB),
 * and on any with dialect=plain: making the tables, filling the log, members, the size. Everything else is the usual code
 * with the texts of sqlb_pg_plain_texts.
 *
 * There is nothing that locks: a transaction that looks and then writes is SERIALIZABLE, and when two are in each other's
 * way one is undone (40001) and tries again; an append says CONFLICT, and the log looks afresh. Nothing is left in a
 * session. What such an engine says of a COMMIT is doubted unless it is known to be certain (postgres_append.c).
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/panic.h"
#include "postgres_priv.h"

#define LOAD_ROWS 512
#define LOAD_BYTES (1u << 20)
#define MIGRATE_ATTEMPTS 12
#define SIZE_SHARE 50 /* measuring may take one of so many milliseconds */

static const char schema[] =
#include "schema/postgres-plain.sql.inc"
	;

/* ---- the tables ---- */

static enum sqlb_outcome ask(struct sqlb_conn *conn, const char *sql, char *out, size_t out_size, struct ks_err *err)
{
	PGresult *result;
	enum sqlb_outcome outcome = sqlb_pg_exec(conn, sql, &result, err);

	out[0] = '\0';
	if (outcome == SQLB_OK && PQntuples(result) > 0 && !PQgetisnull(result, 0, 0))
		snprintf(out, out_size, "%s", PQgetvalue(result, 0, 0));
	PQclear(result);
	return outcome;
}

static enum sqlb_outcome ask_meta(struct sqlb_conn *conn, const char *name, char *out, size_t out_size,
				  struct ks_err *err)
{
	char sql[100];

	snprintf(sql, sizeof(sql), "SELECT value FROM kineshim_meta WHERE name = '%s'", name);
	return ask(conn, sql, out, out_size, err);
}

/* *version: 0 = the tables are not there, or not all of them yet. Between two statements another instance may make them. */
static enum sqlb_outcome inspect(struct sqlb_conn *conn, int ours, int *version, struct ks_err *err)
{
	char text[100], why[200];
	enum sqlb_outcome outcome;

	*version = 0;
	outcome = ask(conn,
		      "SELECT table_name FROM information_schema.tables WHERE table_schema = current_schema() AND "
		      "table_name IN ('kineshim_meta', 'kineshim_log', 'kineshim_lease', 'kineshim_duty', "
		      "'kineshim_member') ORDER BY CASE WHEN table_name = 'kineshim_meta' THEN 0 ELSE 1 END, "
		      "table_name LIMIT 1",
		      text, sizeof(text), err);
	if (outcome != SQLB_OK || !text[0])
		return outcome;
	if (strcmp(text, "kineshim_meta") != 0) {
		snprintf(why, sizeof(why), "the database has a table \"%s\" and no kineshim_meta: it is not kineshim's",
			 text);
		return sqlb_pg_broken(conn, err, why);
	}
	/* Whose rows are there, if any. */
	outcome = ask(conn,
		      "SELECT coalesce((SELECT value FROM kineshim_meta WHERE name = 'program'), min(name)) "
		      "FROM kineshim_meta",
		      text, sizeof(text), err);
	if (outcome != SQLB_OK || !text[0])
		return outcome;
	if (strcmp(text, "kineshim") != 0)
		return sqlb_pg_broken(conn, err, "the table kineshim_meta is not kineshim's");
	outcome = ask_meta(conn, "schema_version", text, sizeof(text), err);
	if (outcome != SQLB_OK)
		return outcome;
	*version = (int)strtol(text, NULL, 10);
	if (*version <= ours)
		return SQLB_OK;
	snprintf(why, sizeof(why), "schema version %d is newer than this program's %d: it needs a newer kineshim",
		 *version, ours);
	return sqlb_pg_broken(conn, err, why);
}

/* Each statement of the schema by itself. */
static enum sqlb_outcome run_schema(struct sqlb_conn *conn, struct ks_err *err)
{
	enum sqlb_outcome outcome = SQLB_OK;
	const char *next = strstr(schema, "\n-- version 1\n");

	KS_ASSERT(next);
	while (outcome == SQLB_OK && (next = strstr(next, "\n\n")) != NULL) {
		const char *end = strstr(next += 2, ";\n");
		char *statement;

		if (!end)
			break;
		statement = ks_xcalloc(1, (size_t)(end - next) + 1);
		memcpy(statement, next, (size_t)(end - next));
		outcome = sqlb_pg_exec(conn, statement, NULL, err);
		free(statement);
		next = end;
	}
	return outcome;
}

/* The version comes last: it says that all else is there. Of two who do this the first one's numbers stay. */
static enum sqlb_outcome make_tables(struct sqlb_conn *conn, int ours, uint64_t cluster_id, struct ks_err *err)
{
	enum sqlb_outcome outcome = run_schema(conn, err);
	char sql[400];

	if (outcome != SQLB_OK)
		return outcome;
	snprintf(sql, sizeof(sql),
		 "INSERT INTO kineshim_meta (name, value) VALUES ('program', 'kineshim'), ('cluster_id', '%016" PRIx64
		 "'), ('created_at', now()::text) ON CONFLICT (name) DO NOTHING",
		 cluster_id);
	outcome = sqlb_pg_exec(conn, sql, NULL, err);
	if (outcome != SQLB_OK)
		return outcome;
	snprintf(
		sql, sizeof(sql),
		"INSERT INTO kineshim_meta (name, value) VALUES ('schema_version', '%d') ON CONFLICT (name) DO NOTHING",
		ours);
	return sqlb_pg_exec(conn, sql, NULL, err);
}

/* Somebody else makes the same tables at this moment. */
static bool was_race(const struct sqlb_conn *conn)
{
	static const char *const states[] = {"40001", "40P01", "42P07", "42710", "23505", "XX000"};

	for (size_t i = 0; i < sizeof(states) / sizeof(states[0]); i++)
		if (strcmp(conn->state, states[i]) == 0)
			return true;
	return false;
}

enum sqlb_outcome sqlb_pg_plain_migrate(struct sqlb_conn *conn, int schema_version, uint64_t new_cluster_id,
					struct ks_err *err)
{
	enum sqlb_outcome outcome = SQLB_OK;

	for (int attempt = 0; attempt < MIGRATE_ATTEMPTS; attempt++) {
		struct timespec pause = {0, 20000000L + 20000000L * attempt};
		int version;

		if (attempt > 0) {
			nanosleep(&pause, NULL);
			outcome = sqlb_pg_begin(conn, SQLB_PG_LONG_TIMEOUT_MS, err);
		}
		if (outcome == SQLB_OK)
			outcome = inspect(conn, schema_version, &version, err);
		if (outcome == SQLB_OK && version < schema_version)
			outcome = make_tables(conn, schema_version, new_cluster_id, err);
		if (outcome == SQLB_OK || !was_race(conn))
			return outcome;
	}
	return outcome;
}

/* ---- filling an empty log ---- */

/* Rows are borrowed from 'next' until it is called again: those of one INSERT are kept. */
struct kept_rows {
	struct sqlb_row rows[LOAD_ROWS];
	size_t count;
	size_t bytes;
};

static struct ks_slice keep(struct ks_slice slice)
{
	uint8_t *copy;

	if (!slice.data)
		return slice;
	copy = ks_xmalloc(slice.size ? slice.size : 1);
	memcpy(copy, slice.data, slice.size);
	return ks_slice_of(copy, slice.size);
}

static void keep_row(struct kept_rows *kept, const struct sqlb_row *row)
{
	struct sqlb_row *copy = &kept->rows[kept->count++];

	*copy = *row;
	copy->key = keep(row->key);
	copy->value = keep(row->value);
	copy->payload = keep(row->payload);
	kept->bytes += sqlb_pg_row_bytes(row);
}

static void let_go(struct kept_rows *kept)
{
	for (size_t i = 0; i < kept->count; i++) {
		free((void *)kept->rows[i].key.data);
		free((void *)kept->rows[i].value.data);
		free((void *)kept->rows[i].payload.data);
	}
	kept->count = kept->bytes = 0;
}

static enum sqlb_outcome insert_kept(struct sqlb_conn *conn, struct kept_rows *kept, struct ks_err *err)
{
	struct sqlb_pg_params params = {0};
	enum sqlb_outcome outcome = SQLB_OK;

	sqlb_pg_more_time(conn, SQLB_PG_LONG_TIMEOUT_MS);
	if (kept->count > 0 && !sqlb_pg_param_rows(conn, &params, kept->rows, kept->count, true)) {
		ks_fail(err, KS_RESOURCE_EXHAUSTED, "PostgreSQL: rows are too large");
		outcome = SQLB_BROKEN;
	} else if (kept->count > 0) {
		outcome = sqlb_pg_run(conn, SQLB_PG_INSERT_LOAD, &params, err);
	}
	let_go(kept);
	return outcome;
}

static enum sqlb_outcome insert_all(struct sqlb_conn *conn, struct kept_rows *kept, sqlb_next_fn *next, void *ctx,
				    struct ks_err *err)
{
	enum sqlb_outcome outcome = SQLB_OK;
	enum sqlb_next what = SQLB_NEXT_END;
	struct sqlb_row row;

	while (outcome == SQLB_OK && (what = next(ctx, &row)) == SQLB_NEXT_ROW) {
		if (kept->count == LOAD_ROWS || kept->bytes >= LOAD_BYTES)
			outcome = insert_kept(conn, kept, err);
		if (outcome == SQLB_OK)
			keep_row(kept, &row);
	}
	if (outcome == SQLB_OK && what == SQLB_NEXT_FAILED)
		return SQLB_AWAY;
	return outcome == SQLB_OK ? insert_kept(conn, kept, err) : outcome;
}

/* A server that starts meanwhile appends its first entry: then one of the two is undone. */
enum sqlb_outcome sqlb_pg_plain_load(struct sqlb_conn *conn, sqlb_next_fn *next, void *ctx, struct ks_err *err)
{
	struct kept_rows *kept = ks_xcalloc(1, sizeof(*kept));
	enum sqlb_outcome outcome = sqlb_pg_block_begin(conn, err);
	char text[32] = "";

	if (outcome == SQLB_OK)
		outcome = ask(conn, "SELECT position FROM kineshim_log LIMIT 1", text, sizeof(text), err);
	if (outcome == SQLB_OK && text[0])
		outcome = SQLB_CONFLICT;
	if (outcome == SQLB_OK)
		outcome = insert_all(conn, kept, next, ctx, err);
	let_go(kept);
	free(kept);
	if (outcome != SQLB_OK) {
		sqlb_pg_drop(conn); /* which rolls back */
		return outcome == SQLB_BROKEN && strcmp(conn->state, "23505") == 0 ? SQLB_CONFLICT : outcome;
	}
	sqlb_pg_more_time(conn, SQLB_PG_LONG_TIMEOUT_MS);
	outcome = sqlb_pg_block_end(conn, "COMMIT", err);
	if (outcome == SQLB_OK)
		return SQLB_OK;
	sqlb_pg_drop(conn);
	return SQLB_DOUBT;
}

/* ---- members ---- */

/* How many bytes the character at 'at' has; 0: it is none, or one that no text may hold. */
static size_t character(struct ks_slice text, size_t at)
{
	static const uint32_t least[] = {0, 0x20, 0x80, 0x800, 0x10000};
	uint8_t first = text.data[at];
	size_t size = first < 0x80 ? 1 : first >> 5 == 6 ? 2 : first >> 4 == 14 ? 3 : first >> 3 == 30 ? 4 : 0;
	uint32_t code = size == 1 ? first : size ? first & (0x7fu >> size) : 0;

	if (size == 0 || at + size > text.size)
		return 0;
	for (size_t i = 1; i < size; i++) {
		if (text.data[at + i] >> 6 != 2)
			return 0;
		code = code << 6 | (text.data[at + i] & 0x3f);
	}
	return code < least[size] || code > 0x10ffff || (code >= 0xd800 && code < 0xe000) ? 0 : size;
}

/* Text that any engine takes: what is not UTF-8 becomes a question mark. */
static struct ks_slice as_text(struct ks_slice text, char *out, size_t out_size)
{
	size_t used = 0, size;

	for (size_t at = 0; at < text.size; at += size ? size : 1) {
		size = character(text, at);
		if (used + (size ? size : 1) > out_size)
			break;
		if (size)
			memcpy(out + used, text.data + at, size);
		else
			out[used] = '?';
		used += size ? size : 1;
	}
	return ks_slice_of(out, used);
}

enum sqlb_outcome sqlb_pg_plain_member_beat(struct sqlb_conn *conn, const struct sqlb_member *self, int ttl_ms,
					    int32_t *others, struct ks_err *err)
{
	char name[256], urls[4096];
	struct sqlb_pg_params params = {0}, id = {0};
	enum sqlb_outcome outcome;
	PGresult *result;

	sqlb_pg_param_int8(&id, (int64_t)self->id);
	outcome = sqlb_pg_run(conn, SQLB_PG_MEMBER_SILENT, &id, err);
	if (outcome != SQLB_OK)
		return outcome;
	sqlb_pg_param_int8(&params, (int64_t)self->id);
	sqlb_pg_param_slice(&params, as_text(self->name, name, sizeof(name)));
	sqlb_pg_param_slice(&params, as_text(self->client_urls, urls, sizeof(urls)));
	sqlb_pg_param_int8(&params, self->position);
	sqlb_pg_param_int8(&params, ttl_ms);
	outcome = sqlb_pg_run(conn, SQLB_PG_MEMBER_PUT, &params, err);
	if (outcome != SQLB_OK)
		return outcome;
	outcome = sqlb_pg_query(conn, SQLB_PG_MEMBER_OTHERS, &id, 1, &result, err);
	if (outcome == SQLB_OK && (PQntuples(result) != 1 || !sqlb_pg_get_int4(result, 0, 0, others)))
		outcome = sqlb_pg_broken(conn, err, "kineshim_member is not as this program makes it");
	PQclear(result);
	return outcome;
}

/* ---- size ---- */

/* Reads the whole table: the larger that is, the longer the answer stays good. */
enum sqlb_outcome sqlb_pg_plain_size(struct sqlb_conn *conn, struct sqlb_size *size, struct ks_err *err)
{
	struct sqlb_db *db = conn->db;
	int64_t began = sqlb_pg_now_ms(), at = atomic_load(&db->sized_at_ms), bytes = atomic_load(&db->sized_bytes);
	enum sqlb_outcome outcome = SQLB_OK;
	PGresult *result;

	if (at == 0 || began - at >= SIZE_SHARE * atomic_load(&db->sizing_ms)) {
		sqlb_pg_more_time(conn, SQLB_PG_LONG_TIMEOUT_MS);
		outcome = sqlb_pg_query(conn, SQLB_PG_SIZE, NULL, 1, &result, err);
		if (outcome == SQLB_OK && (PQntuples(result) != 1 || !sqlb_pg_get_int8(result, 0, 0, &bytes)))
			outcome = sqlb_pg_broken(conn, err, "kineshim_log is not as this program makes it");
		PQclear(result);
		if (outcome != SQLB_OK)
			return outcome;
		atomic_store(&db->sizing_ms, sqlb_pg_now_ms() - began);
		atomic_store(&db->sized_bytes, bytes);
		atomic_store(&db->sized_at_ms, sqlb_pg_now_ms());
	}
	size->allocated = size->in_use = bytes;
	return outcome;
}
