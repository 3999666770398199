/* SPDX-License-Identifier: Apache-2.0 */
/* SQLite: the side tables (leases, duty, members) and the size of the file. */
#include "sqlite_priv.h"

#include <stdlib.h>

#define MEMBER_LINGER_MS (3600 * 1000)

/* ---- leases ---- */

/* For those that write nothing: is the file there, and are its leases known? */
static enum sqlb_outcome leases_ready(struct sqlb_conn *conn, const char *op, struct ks_err *err)
{
	enum sqlb_outcome outcome = sqlb_lite_ready(conn, op, err);
	int rc;

	if (outcome != SQLB_OK)
		return outcome;
	if (sqlb_lite_file_moved(conn))
		return sqlb_lite_moved(conn, err);
	if (sqlb_lite_leases_known(conn->db))
		return SQLB_OK;
	sqlb_lite_take_turn(conn->db);
	rc = sqlb_lite_leases_know(conn);
	sqlb_lite_give_turn(conn->db);
	return rc == SQLITE_OK ? SQLB_OK : sqlb_lite_failed(conn, op, rc, err);
}

enum sqlb_outcome sqlb_lite_lease_touch(struct sqlb_conn *conn, struct sqlb_lease *leases, size_t count,
					struct ks_err *err)
{
	enum sqlb_outcome outcome = leases_ready(conn, "lease_touch", err);

	if (outcome == SQLB_OK)
		sqlb_lite_leases_touch(conn->db, leases, count);
	return outcome;
}

static enum sqlb_outcome end_leases(struct sqlb_conn *conn, enum sqlb_outcome outcome)
{
	if (outcome == SQLB_DOUBT)
		sqlb_lite_leases_doubt(conn->db);
	return sqlb_lite_end_side_turn(conn, outcome);
}

enum sqlb_outcome sqlb_lite_lease_ensure(struct sqlb_conn *conn, const struct sqlb_lease *leases, size_t count,
					 struct ks_err *err)
{
	enum sqlb_outcome outcome = sqlb_lite_begin_write(conn, LITE_RELAXED, "lease_ensure", err);
	int64_t now = sqlb_lite_now(conn->db);
	int rc;

	if (outcome != SQLB_OK)
		return outcome;
	rc = sqlb_lite_leases_know(conn);
	if (rc == SQLITE_OK && !sqlb_lite_leases_reserve(conn->db, count))
		rc = SQLITE_NOMEM;
	for (size_t i = 0; i < count && rc == SQLITE_OK; i++)
		rc = sqlb_lite_run(conn, LITE_LEASE_ENSURE, INTS(leases[i].id, leases[i].ttl_ms, now));
	outcome = sqlb_lite_commit(conn, rc, "lease_ensure", err);
	if (outcome == SQLB_OK)
		sqlb_lite_leases_ensure(conn->db, leases, count, now);
	return end_leases(conn, outcome);
}

enum sqlb_outcome sqlb_lite_lease_refresh_all(struct sqlb_conn *conn, struct ks_err *err)
{
	enum sqlb_outcome outcome = leases_ready(conn, "lease_refresh_all", err);

	if (outcome != SQLB_OK)
		return outcome;
	sqlb_lite_take_turn(conn->db); /* a lease that is past its deadline must stay so while its end is committed */
	sqlb_lite_leases_refresh(conn->db);
	sqlb_lite_give_turn(conn->db);
	return SQLB_OK;
}

enum sqlb_outcome sqlb_lite_lease_list(struct sqlb_conn *conn, size_t limit, sqlb_lease_fn *visit, void *ctx,
				       struct ks_err *err)
{
	enum sqlb_outcome outcome = leases_ready(conn, "lease_list", err);
	struct sqlb_lease *soonest;
	size_t count;

	if (outcome != SQLB_OK)
		return outcome;
	if (!sqlb_lite_leases_soonest(conn->db, limit, &soonest, &count)) {
		ks_fail(err, KS_RESOURCE_EXHAUSTED, "out of memory");
		return SQLB_AWAY;
	}
	for (size_t i = 0; i < count; i++) {
		if (!visit(ctx, &soonest[i]))
			break;
	}
	free(soonest);
	return SQLB_OK;
}

enum sqlb_outcome sqlb_lite_lease_read(struct sqlb_conn *conn, struct sqlb_lease *leases, size_t count,
				       struct ks_err *err)
{
	enum sqlb_outcome outcome = leases_ready(conn, "lease_read", err);

	if (outcome == SQLB_OK)
		sqlb_lite_leases_read(conn->db, leases, count);
	return outcome;
}

enum sqlb_outcome sqlb_lite_lease_drop(struct sqlb_conn *conn, const int64_t *ids, size_t count, struct ks_err *err)
{
	enum sqlb_outcome outcome = sqlb_lite_begin_write(conn, LITE_RELAXED, "lease_drop", err);
	int rc;

	if (outcome != SQLB_OK)
		return outcome;
	rc = sqlb_lite_leases_know(conn);
	for (size_t i = 0; i < count && rc == SQLITE_OK; i++)
		rc = sqlb_lite_run(conn, LITE_LEASE_DROP, INTS(ids[i]));
	outcome = sqlb_lite_commit(conn, rc, "lease_drop", err);
	if (outcome == SQLB_OK)
		sqlb_lite_leases_drop(conn->db, ids, count);
	return end_leases(conn, outcome);
}

/* ---- duty and members ---- */

enum sqlb_outcome sqlb_lite_duty_take(struct sqlb_conn *conn, int64_t self, int ttl_ms, struct sqlb_duty *duty,
				      struct ks_err *err)
{
	enum sqlb_outcome outcome = sqlb_lite_begin_write(conn, LITE_RELAXED, "duty_take", err);
	int64_t now = sqlb_lite_now(conn->db);
	int64_t columns[3] = {0};
	int rc;

	if (outcome != SQLB_OK)
		return outcome;
	rc = sqlb_lite_run(conn, LITE_DUTY_TAKE, INTS(self, now));
	duty->taken_now = rc == SQLITE_OK && sqlite3_changes(conn->handle) == 1;
	if (rc == SQLITE_OK)
		rc = sqlb_lite_run(conn, LITE_DUTY_REFRESH, INTS(self, now + ttl_ms));
	if (rc == SQLITE_OK)
		rc = sqlb_lite_ask(conn, LITE_DUTY_READ, NULL, 0, columns, 3);
	duty->holder = columns[0];
	duty->term = columns[1];
	duty->remaining_ms = columns[2] - now;
	return sqlb_lite_end_side(conn, rc, "duty_take", err);
}

enum sqlb_outcome sqlb_lite_duty_pass(struct sqlb_conn *conn, int64_t self, int64_t to, int ttl_ms, struct ks_err *err)
{
	enum sqlb_outcome outcome = sqlb_lite_begin_write(conn, LITE_RELAXED, "duty_pass", err);

	if (outcome != SQLB_OK)
		return outcome;
	return sqlb_lite_end_side(conn,
				  sqlb_lite_run(conn, LITE_DUTY_PASS, INTS(self, to, sqlb_lite_now(conn->db) + ttl_ms)),
				  "duty_pass", err);
}

static int put_member(struct sqlb_conn *conn, const struct sqlb_member *self, int64_t deadline)
{
	sqlite3_stmt *statement;
	int rc = sqlb_lite_prepare(conn, LITE_MEMBER_PUT, &statement);

	if (rc != SQLITE_OK)
		return rc;
	rc = sqlite3_bind_int64(statement, 1, (int64_t)self->id);
	rc |= sqlite3_bind_text(statement, 2, self->name.size ? (const char *)self->name.data : "",
				(int)self->name.size, SQLITE_STATIC);
	rc |= sqlite3_bind_text(statement, 3, self->client_urls.size ? (const char *)self->client_urls.data : "",
				(int)self->client_urls.size, SQLITE_STATIC);
	rc |= sqlite3_bind_int64(statement, 4, self->position);
	rc |= sqlite3_bind_int64(statement, 5, deadline);
	if (rc != SQLITE_OK)
		return SQLITE_NOMEM;
	rc = sqlite3_step(statement);
	sqlite3_reset(statement);
	return rc == SQLITE_DONE ? SQLITE_OK : rc;
}

enum sqlb_outcome sqlb_lite_member_beat(struct sqlb_conn *conn, const struct sqlb_member *self, int ttl_ms,
					struct ks_err *err)
{
	enum sqlb_outcome outcome = sqlb_lite_begin_write(conn, LITE_RELAXED, "member_beat", err);
	int64_t now = sqlb_lite_now(conn->db);
	int rc;

	if (outcome != SQLB_OK)
		return outcome;
	rc = sqlb_lite_run(conn, LITE_MEMBER_DROP, INTS((int64_t)self->id, now - MEMBER_LINGER_MS));
	if (rc == SQLITE_OK && ttl_ms > 0)
		rc = put_member(conn, self, now + ttl_ms);
	return sqlb_lite_end_side(conn, rc, "member_beat", err);
}

enum sqlb_outcome sqlb_lite_member_list(struct sqlb_conn *conn, sqlb_member_fn *visit, void *ctx, struct ks_err *err)
{
	enum sqlb_outcome outcome = sqlb_lite_ready(conn, "member_list", err);
	sqlite3_stmt *statement;
	int rc;

	if (outcome != SQLB_OK)
		return outcome;
	rc = sqlb_lite_prepare(conn, LITE_MEMBER_LIST, &statement);
	if (rc == SQLITE_OK)
		rc = sqlb_lite_bind(statement, INTS(sqlb_lite_now(conn->db)));
	while (rc == SQLITE_OK && (rc = sqlite3_step(statement)) == SQLITE_ROW) {
		struct sqlb_member member = {.id = (uint64_t)sqlite3_column_int64(statement, 0),
					     .name = sqlb_lite_slice(statement, 1),
					     .client_urls = sqlb_lite_slice(statement, 2),
					     .position = sqlite3_column_int64(statement, 3)};

		rc = SQLITE_OK;
		if (!visit(ctx, &member))
			break;
	}
	if (statement)
		sqlite3_reset(statement);
	return sqlb_lite_end_read(conn, rc, "member_list", err);
}

/* ---- size ---- */

enum sqlb_outcome sqlb_lite_size(struct sqlb_conn *conn, struct sqlb_size *size, struct ks_err *err)
{
	enum sqlb_outcome outcome = sqlb_lite_ready(conn, "size", err);
	int64_t columns[2] = {0};
	int rc;

	if (outcome != SQLB_OK)
		return outcome;
	rc = sqlb_lite_ask(conn, LITE_SIZE, NULL, 0, columns, 2);
	size->allocated = columns[0];
	size->in_use = columns[1];
	return sqlb_lite_end_read(conn, rc, "size", err);
}

/*
 * VACUUM writes the database anew, which is what also closes the gaps inside pages; writers wait for it. It needs room for a copy:
 * on a full disk only the pages that are free as a whole are given back.
 */
enum sqlb_outcome sqlb_lite_defragment(struct sqlb_conn *conn, bool all, struct ks_err *err)
{
	enum sqlb_outcome outcome;
	int rc;

	(void)all; /* it always does */
	sqlb_lite_take_turn(conn->db);
	outcome = sqlb_lite_ready(conn, "defragment", err);
	if (outcome == SQLB_OK) {
		rc = sqlb_lite_exec(conn, "VACUUM");
		if ((rc & 0xff) == SQLITE_FULL)
			rc = sqlb_lite_exec(conn, "PRAGMA incremental_vacuum");
		outcome = sqlb_lite_end_read(conn, rc, "defragment", err);
	}
	sqlb_lite_give_turn(conn->db);
	return outcome;
}
