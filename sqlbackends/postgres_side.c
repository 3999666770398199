/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What stands beside the log in PostgreSQL: deadlines of leases, the duty, the members, and the size of it all.
 * Each call is one statement; the texts, with their locking, are in postgres_sql.c.
 */
#include <stdlib.h>
#include <string.h>

#include "base/diag.h"
#include "base/panic.h"
#include "postgres_priv.h"

enum sqlb_outcome sqlb_pg_lease_refresh_all(struct sqlb_conn *conn, struct ks_err *err)
{
	enum sqlb_outcome outcome = sqlb_pg_begin(conn, SQLB_PG_LONG_TIMEOUT_MS, err);

	if (outcome == SQLB_OK)
		outcome = sqlb_pg_block_begin(conn, err);
	if (outcome == SQLB_OK && !conn->plain)
		outcome = sqlb_pg_exec(conn, "SET LOCAL statement_timeout = 0", NULL, err);
	if (outcome == SQLB_OK)
		outcome = sqlb_pg_run(conn, SQLB_PG_LEASE_REFRESH, NULL, err);
	if (outcome == SQLB_OK)
		outcome = sqlb_pg_block_end(conn, "COMMIT", err);
	if (outcome != SQLB_OK)
		sqlb_pg_drop(conn); /* with the transaction, if it is still open */
	return outcome;
}

/* ---- leases by id ---- */

static void param_lease_ids(struct sqlb_conn *conn, struct sqlb_pg_params *params, const struct sqlb_lease *leases,
			    size_t count)
{
	ks_buf_reset(&conn->arrays);
	sqlb_pg_array_header(&conn->arrays, SQLB_PG_INT8, count, false);
	for (size_t i = 0; i < count; i++) {
		sqlb_pg_put32(&conn->arrays, 8);
		sqlb_pg_put64(&conn->arrays, (uint64_t)leases[i].id);
	}
	sqlb_pg_param_array(params, conn, 0, conn->arrays.size);
}

static int compare_leases(const void *a, const void *b)
{
	int64_t left = (*(struct sqlb_lease *const *)a)->id, right = (*(struct sqlb_lease *const *)b)->id;

	return (left > right) - (left < right);
}

/* Writes the rows (id, ttl_ms, remaining_ms) of a result into every lease of that id. */
static bool fill_leases(const PGresult *result, struct sqlb_lease *leases, size_t count)
{
	struct sqlb_lease **sorted = ks_xcalloc(count, sizeof(struct sqlb_lease *));
	int rows = PQntuples(result);
	bool ok = true;

	for (size_t i = 0; i < count; i++) {
		leases[i].found = false;
		sorted[i] = &leases[i];
	}
	qsort(sorted, count, sizeof(struct sqlb_lease *), compare_leases);
	for (int row = 0; row < rows && ok; row++) {
		struct sqlb_lease found = {.found = true};
		size_t low = 0, high = count;

		ok = sqlb_pg_get_int8(result, row, 0, &found.id) && sqlb_pg_get_int8(result, row, 1, &found.ttl_ms) &&
		     sqlb_pg_get_int8(result, row, 2, &found.remaining_ms);
		while (low < high) {
			size_t middle = low + (high - low) / 2;

			if (sorted[middle]->id < found.id)
				low = middle + 1;
			else
				high = middle;
		}
		for (; ok && low < count && sorted[low]->id == found.id; low++)
			*sorted[low] = found;
	}
	free(sorted);
	return ok;
}

static enum sqlb_outcome leases_by_id(struct sqlb_conn *conn, enum sqlb_pg_statement statement,
				      struct sqlb_lease *leases, size_t count, struct ks_err *err)
{
	struct sqlb_pg_params params = {0};
	enum sqlb_outcome outcome;
	PGresult *result;

	if (count == 0)
		return SQLB_OK;
	outcome = sqlb_pg_begin(conn, SQLB_PG_ANSWER_TIMEOUT_MS, err);
	if (outcome != SQLB_OK)
		return outcome;
	param_lease_ids(conn, &params, leases, count);
	outcome = sqlb_pg_query(conn, statement, &params, 3, &result, err);
	if (outcome == SQLB_OK && !fill_leases(result, leases, count))
		outcome = sqlb_pg_broken(conn, err, "kineshim_lease is not as this program makes it");
	PQclear(result);
	return outcome;
}

enum sqlb_outcome sqlb_pg_lease_touch(struct sqlb_conn *conn, struct sqlb_lease *leases, size_t count,
				      struct ks_err *err)
{
	return leases_by_id(conn, SQLB_PG_LEASE_TOUCH, leases, count, err);
}

enum sqlb_outcome sqlb_pg_lease_read(struct sqlb_conn *conn, struct sqlb_lease *leases, size_t count,
				     struct ks_err *err)
{
	return leases_by_id(conn, SQLB_PG_LEASE_READ, leases, count, err);
}

enum sqlb_outcome sqlb_pg_lease_ensure(struct sqlb_conn *conn, const struct sqlb_lease *leases, size_t count,
				       struct ks_err *err)
{
	struct ks_buf *buf = &conn->arrays;
	struct sqlb_pg_params params = {0};
	enum sqlb_outcome outcome;
	size_t middle;

	if (count == 0)
		return SQLB_OK;
	outcome = sqlb_pg_begin(conn, SQLB_PG_ANSWER_TIMEOUT_MS, err);
	if (outcome != SQLB_OK)
		return outcome;
	sqlb_pg_leases_arrays(buf, leases, count, &middle);
	sqlb_pg_param_array(&params, conn, 0, middle);
	sqlb_pg_param_array(&params, conn, middle, buf->size - middle);
	return sqlb_pg_run(conn, SQLB_PG_LEASE_ENSURE, &params, err);
}

enum sqlb_outcome sqlb_pg_lease_drop(struct sqlb_conn *conn, const int64_t *ids, size_t count, struct ks_err *err)
{
	struct sqlb_pg_params params = {0};
	enum sqlb_outcome outcome;

	if (count == 0)
		return SQLB_OK;
	outcome = sqlb_pg_begin(conn, SQLB_PG_ANSWER_TIMEOUT_MS, err);
	if (outcome != SQLB_OK)
		return outcome;
	ks_buf_reset(&conn->arrays);
	sqlb_pg_int8_array(&conn->arrays, ids, count, NULL, 0);
	sqlb_pg_param_array(&params, conn, 0, conn->arrays.size);
	return sqlb_pg_run(conn, SQLB_PG_LEASE_DROP, &params, err);
}

enum sqlb_outcome sqlb_pg_lease_list(struct sqlb_conn *conn, size_t limit, sqlb_lease_fn *visit, void *ctx,
				     struct ks_err *err)
{
	enum sqlb_outcome outcome = sqlb_pg_begin(conn, SQLB_PG_ANSWER_TIMEOUT_MS, err);
	struct sqlb_pg_params params = {0};
	PGresult *result;
	bool go_on = true;

	if (outcome != SQLB_OK)
		return outcome;
	sqlb_pg_param_int8(&params, limit > INT64_MAX ? 0 : (int64_t)limit);
	outcome = sqlb_pg_query(conn, SQLB_PG_LEASE_LIST, &params, 3, &result, err);
	for (int row = 0; outcome == SQLB_OK && go_on && row < PQntuples(result); row++) {
		struct sqlb_lease lease = {.found = true};

		if (sqlb_pg_get_int8(result, row, 0, &lease.id) && sqlb_pg_get_int8(result, row, 1, &lease.ttl_ms) &&
		    sqlb_pg_get_int8(result, row, 2, &lease.remaining_ms))
			go_on = visit(ctx, &lease);
		else
			outcome = sqlb_pg_broken(conn, err, "kineshim_lease is not as this program makes it");
	}
	PQclear(result);
	return outcome;
}

/* ---- the duty ---- */

static bool get_duty(const PGresult *result, struct sqlb_duty *duty)
{
	return PQntuples(result) == 1 && sqlb_pg_get_int8(result, 0, 0, &duty->holder) &&
	       sqlb_pg_get_int8(result, 0, 1, &duty->term) && sqlb_pg_get_int8(result, 0, 2, &duty->remaining_ms);
}

static enum sqlb_outcome see_duty(struct sqlb_conn *conn, struct sqlb_duty *duty, struct ks_err *err)
{
	PGresult *result;
	enum sqlb_outcome outcome = sqlb_pg_query(conn, SQLB_PG_DUTY_SEE, NULL, 3, &result, err);

	if (outcome == SQLB_OK && !get_duty(result, duty))
		outcome = sqlb_pg_broken(conn, err, "kineshim_duty has lost its row");
	PQclear(result);
	return outcome;
}

enum sqlb_outcome sqlb_pg_duty_take(struct sqlb_conn *conn, int64_t self, int ttl_ms, struct sqlb_duty *duty,
				    struct ks_err *err)
{
	enum sqlb_outcome outcome = sqlb_pg_begin(conn, SQLB_PG_ANSWER_TIMEOUT_MS, err);
	struct sqlb_pg_params params = {0};
	PGresult *result;

	*duty = (struct sqlb_duty){0};
	if (outcome == SQLB_OK)
		outcome = see_duty(conn, duty, err);
	if (outcome != SQLB_OK || (duty->holder != 0 && duty->holder != self && duty->remaining_ms > 0))
		return outcome;
	sqlb_pg_param_int8(&params, self);
	sqlb_pg_param_int8(&params, ttl_ms);
	outcome = sqlb_pg_query(conn, SQLB_PG_DUTY_TAKE, &params, 4, &result, err);
	if (outcome == SQLB_OK && (!get_duty(result, duty) || !sqlb_pg_get_bool(result, 0, 3, &duty->taken_now)))
		outcome = sqlb_pg_broken(conn, err, "kineshim_duty has lost its row");
	PQclear(result);
	return outcome;
}

enum sqlb_outcome sqlb_pg_duty_pass(struct sqlb_conn *conn, int64_t self, int64_t to, int ttl_ms, struct ks_err *err)
{
	enum sqlb_outcome outcome = sqlb_pg_begin(conn, SQLB_PG_ANSWER_TIMEOUT_MS, err);
	struct sqlb_pg_params params = {0};

	if (outcome != SQLB_OK)
		return outcome;
	sqlb_pg_param_int8(&params, self);
	sqlb_pg_param_int8(&params, to);
	sqlb_pg_param_int8(&params, ttl_ms);
	return sqlb_pg_run(conn, SQLB_PG_DUTY_PASS, &params, err);
}

/* ---- members ---- */

static enum sqlb_outcome say_hello(struct sqlb_conn *conn, struct ks_err *err)
{
	return sqlb_pg_exec(conn, "NOTIFY " SQLB_PG_CHANNEL ", '" SQLB_PG_HELLO "'", NULL, err);
}

enum sqlb_outcome sqlb_pg_member_beat(struct sqlb_conn *conn, const struct sqlb_member *self, int ttl_ms,
				      struct ks_err *err)
{
	enum sqlb_outcome outcome = sqlb_pg_begin(conn, SQLB_PG_ANSWER_TIMEOUT_MS, err);
	struct sqlb_pg_params params = {0};
	PGresult *result;
	bool is_new = false;
	int32_t others;

	if (outcome != SQLB_OK)
		return outcome;
	sqlb_pg_param_int8(&params, (int64_t)self->id);
	if (ttl_ms <= 0)
		return sqlb_pg_run(conn, SQLB_PG_MEMBER_REMOVE, &params, err);
	if (conn->plain) {
		outcome = sqlb_pg_plain_member_beat(conn, self, ttl_ms, &others, err);
		if (outcome == SQLB_OK)
			atomic_store_explicit(&conn->db->others, others, memory_order_relaxed);
		return outcome;
	}
	sqlb_pg_param_slice(&params, self->name.data ? self->name : ks_slice_str(""));
	sqlb_pg_param_slice(&params, self->client_urls.data ? self->client_urls : ks_slice_str(""));
	sqlb_pg_param_int8(&params, self->position);
	sqlb_pg_param_int8(&params, ttl_ms);
	outcome = sqlb_pg_query(conn, SQLB_PG_MEMBER_BEAT, &params, 2, &result, err);
	if (outcome == SQLB_OK) {
		if (sqlb_pg_get_bool(result, 0, 0, &is_new) && sqlb_pg_get_int4(result, 0, 1, &others))
			atomic_store_explicit(&conn->db->others, others, memory_order_relaxed);
		else
			outcome = sqlb_pg_broken(conn, err, "kineshim_member is not as this program makes it");
	}
	PQclear(result);
	if (outcome == SQLB_OK && is_new)
		outcome = say_hello(conn, err);
	return outcome;
}

enum sqlb_outcome sqlb_pg_member_list(struct sqlb_conn *conn, sqlb_member_fn *visit, void *ctx, struct ks_err *err)
{
	enum sqlb_outcome outcome = sqlb_pg_begin(conn, SQLB_PG_ANSWER_TIMEOUT_MS, err);
	PGresult *result;
	bool go_on = true;

	if (outcome != SQLB_OK)
		return outcome;
	outcome = sqlb_pg_query(conn, SQLB_PG_MEMBER_LIST, NULL, 4, &result, err);
	for (int row = 0; outcome == SQLB_OK && go_on && row < PQntuples(result); row++) {
		struct sqlb_member member = {.name = sqlb_pg_get_slice(result, row, 1),
					     .client_urls = sqlb_pg_get_slice(result, row, 2)};
		int64_t id;

		if (sqlb_pg_get_int8(result, row, 0, &id) && sqlb_pg_get_int8(result, row, 3, &member.position)) {
			member.id = (uint64_t)id;
			go_on = visit(ctx, &member);
		} else {
			outcome = sqlb_pg_broken(conn, err, "kineshim_member is not as this program makes it");
		}
	}
	PQclear(result);
	return outcome;
}

/* ---- size ---- */

enum sqlb_outcome sqlb_pg_size(struct sqlb_conn *conn, struct sqlb_size *size, struct ks_err *err)
{
	enum sqlb_outcome outcome = sqlb_pg_begin(conn, SQLB_PG_ANSWER_TIMEOUT_MS, err);
	PGresult *result;

	*size = (struct sqlb_size){0};
	if (outcome == SQLB_OK && conn->plain)
		return sqlb_pg_plain_size(conn, size, err);
	if (outcome != SQLB_OK)
		return outcome;
	outcome = sqlb_pg_query(conn, SQLB_PG_SIZE, NULL, 2, &result, err);
	if (outcome == SQLB_OK && (PQntuples(result) != 1 || !sqlb_pg_get_int8(result, 0, 0, &size->allocated) ||
				   !sqlb_pg_get_int8(result, 0, 1, &size->in_use)))
		outcome = sqlb_pg_broken(conn, err, "kineshim_log is not there");
	PQclear(result);
	return outcome;
}

/* VACUUM runs in no transaction, so that nothing can tell it the schema but its own text. */
static enum sqlb_outcome vacuum(struct sqlb_conn *conn, const char *how, const char *const *tables, struct ks_err *err)
{
	char sql[600];
	size_t size = (size_t)snprintf(sql, sizeof(sql), "VACUUM (%s)", how);

	for (size_t i = 0; tables[i]; i++)
		size += (size_t)snprintf(sql + size, sizeof(sql) - size, "%s %s%s%s%s", i ? "," : "",
					 conn->db->schema[0] ? "\"" : "", conn->db->schema,
					 conn->db->schema[0] ? "\"." : "", tables[i]);
	KS_ASSERT(size < sizeof(sql));
	sqlb_pg_more_time(conn, SQLB_PG_LONG_TIMEOUT_MS);
	return sqlb_pg_exec(conn, sql, NULL, err);
}

/* To whoever may not, VACUUM says so in a notice and succeeds. MAINTAIN is a privilege since PostgreSQL 17. */
static enum sqlb_outcome may_vacuum(struct sqlb_conn *conn, struct ks_err *err)
{
	static const char text[] = "SELECT pg_has_role(c.relowner, 'USAGE') OR pg_has_role(d.datdba, 'USAGE') "
				   "OR CASE WHEN current_setting('server_version_num')::int >= 170000 "
				   "THEN has_table_privilege(c.oid, 'MAINTAIN') ELSE false END "
				   "FROM pg_class AS c, pg_database AS d WHERE d.datname = current_database() AND "
				   "c.oid = '%s%s%skineshim_log'::regclass";
	const char *schema = conn->db->schema;
	char sql[sizeof(text) + sizeof(conn->db->schema)];
	enum sqlb_outcome outcome;
	PGresult *result;

	(void)snprintf(sql, sizeof(sql), text, *schema ? "\"" : "", schema, *schema ? "\"." : "");
	outcome = sqlb_pg_exec(conn, sql, &result, err);
	if (outcome == SQLB_OK && (PQntuples(result) != 1 || strcmp(PQgetvalue(result, 0, 0), "t") != 0))
		outcome =
			sqlb_pg_broken(conn, err, "only the owner of kineshim_log, or of the database, may vacuum it");
	PQclear(result);
	return outcome;
}

/*
 * Plain VACUUM runs beside the appends of all instances and makes free space usable again, but gives back only
 * what is free at the end. VACUUM FULL gives all back, and locks everybody out while it copies what is left:
 * done only where that is less than half of the table, or where the caller wants it all.
 */
enum sqlb_outcome sqlb_pg_defragment(struct sqlb_conn *conn, bool all, struct ks_err *err)
{
	static const char *const tables[] = {"kineshim_log", "kineshim_lease", "kineshim_duty", "kineshim_member",
					     NULL};
	static const char *const log_only[] = {"kineshim_log", NULL};
	enum sqlb_outcome outcome = sqlb_pg_begin(conn, SQLB_PG_LONG_TIMEOUT_MS, err);
	struct sqlb_size size;

	if (outcome == SQLB_OK && conn->plain) {
		/* Such engines clean up by themselves, and have no word for it. */
		atomic_store(&conn->db->sized_at_ms, 0);
		return SQLB_OK;
	}
	if (outcome == SQLB_OK)
		outcome = may_vacuum(conn, err);
	/* A pooled session is not ours to be set. */
	if (outcome == SQLB_OK && !conn->pooled)
		outcome = sqlb_pg_exec(conn, "SET statement_timeout = 0", NULL, err);
	if (outcome == SQLB_OK)
		outcome = vacuum(conn, "ANALYZE", tables, err);
	if (outcome == SQLB_OK)
		outcome = sqlb_pg_size(conn, &size, err);
	if (outcome == SQLB_OK && (all || size.in_use < size.allocated / 2))
		outcome = vacuum(conn, "FULL", log_only, err);
	sqlb_pg_drop(conn); /* with its settings */
	return outcome;
}
