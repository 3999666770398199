/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What stands beside the log in SQL Server: deadlines of leases, the duty, the members, and the size of it all.
 *
 * Deadlines are milliseconds since 1970 by the server's UTC clock, as numbers: a ttl of ages fits into them, and what is left
 * of one is a subtraction. A deadline is past when it is below the clock.
 */
#include <stdlib.h>
#include <string.h>

#include "base/panic.h"
#include "mssql_priv.h"

static size_t part_of(size_t count, size_t from)
{
	return count - from < SQLB_MS_IDS_MAX ? count - from : SQLB_MS_IDS_MAX;
}

/* ---- leases by id ---- */

typedef void text_fn(struct ks_buf *text, size_t ids);

static struct sqlb_lease *find_lease(struct sqlb_lease *leases, size_t count, int64_t id)
{
	size_t low = 0, high = count;

	while (low < high) {
		size_t middle = low + (high - low) / 2;

		if (leases[middle].id < id)
			low = middle + 1;
		else
			high = middle;
	}
	return low < count && leases[low].id == id ? &leases[low] : NULL;
}

/* One statement for some of the ids; its rows are (id, ttl_ms, remaining_ms). */
static enum sqlb_outcome lease_rows(struct sqlb_conn *conn, struct sqlb_lease *found, size_t count, struct ks_err *err)
{
	bool row, whole = true;

	if (!sqlb_ms_execute(conn))
		return sqlb_ms_judge(conn, err);
	for (;;) {
		int64_t values[3];
		struct sqlb_lease *lease;

		if (!sqlb_ms_next(conn, &row))
			return sqlb_ms_judge(conn, err);
		if (!row)
			break;
		for (int i = 0; i < 3; i++)
			whole = sqlb_ms_get_int8(conn, i + 1, &values[i]) && whole;
		lease = whole ? find_lease(found, count, values[0]) : NULL;
		if (lease)
			*lease = (struct sqlb_lease){values[0], values[1], values[2], true};
	}
	/* What was kept alive is so only after the COMMIT, whose answer comes last. */
	if (!sqlb_ms_finish(conn))
		return sqlb_ms_judge(conn, err);
	return whole ? SQLB_OK : sqlb_ms_broken(conn, err, "kineshim_lease is not as this program makes it");
}

static enum sqlb_outcome leases_by_id(struct sqlb_conn *conn, text_fn *say, bool ids_twice, struct sqlb_lease *leases,
				      size_t count, struct ks_err *err)
{
	enum sqlb_outcome outcome = SQLB_OK;
	struct sqlb_lease *found;
	size_t distinct = count;
	int64_t *ids;

	if (count == 0)
		return SQLB_OK;
	outcome = sqlb_ms_begin(conn, SQLB_MS_ANSWER_TIMEOUT_S, err);
	if (outcome != SQLB_OK)
		return outcome;
	ids = ks_xcalloc(count, sizeof(*ids));
	found = ks_xcalloc(count, sizeof(*found));
	for (size_t i = 0; i < count; i++)
		ids[i] = leases[i].id;
	distinct = sqlb_ms_sort_ids(ids, count);
	for (size_t i = 0; i < distinct; i++)
		found[i].id = ids[i];
	for (size_t i = 0; i < distinct && outcome == SQLB_OK; i += SQLB_MS_IDS_MAX) {
		size_t some = part_of(distinct, i), step = sqlb_ms_step(some, SQLB_MS_IDS_MAX);

		sqlb_ms_start(conn);
		say(&conn->text, step);
		for (int times = ids_twice ? 2 : 1; times > 0; times--)
			sqlb_ms_bind_ids(conn, ids + i, some, step);
		outcome = lease_rows(conn, found + i, some, err);
	}
	for (size_t i = 0; i < count && outcome == SQLB_OK; i++) {
		const struct sqlb_lease *lease = find_lease(found, distinct, leases[i].id);

		if (lease->found)
			leases[i] = *lease;
		else
			leases[i].found = false;
	}
	free(ids);
	free(found);
	return outcome;
}

enum sqlb_outcome sqlb_ms_lease_touch(struct sqlb_conn *conn, struct sqlb_lease *leases, size_t count,
				      struct ks_err *err)
{
	return leases_by_id(conn, sqlb_ms_text_lease_touch, true, leases, count, err);
}

enum sqlb_outcome sqlb_ms_lease_read(struct sqlb_conn *conn, struct sqlb_lease *leases, size_t count,
				     struct ks_err *err)
{
	return leases_by_id(conn, sqlb_ms_text_lease_read, false, leases, count, err);
}

/* Two of these at once may both find a lease missing: the key refuses the second, which then finds it. */
static enum sqlb_outcome ensure_some(struct sqlb_conn *conn, const struct sqlb_lease *leases, size_t count,
				     struct ks_err *err)
{
	enum { TRIES = 3 };
	size_t step = sqlb_ms_step(count, SQLB_MS_IDS_MAX);
	enum sqlb_outcome outcome = SQLB_OK;

	for (int i = 0; i < TRIES; i++) {
		sqlb_ms_start(conn);
		sqlb_ms_text_lease_ensure(&conn->text, step);
		for (size_t k = 0; k < step; k++) {
			if (k < count) {
				sqlb_ms_bind_int8(conn, leases[k].id);
				sqlb_ms_bind_int8(conn, sqlb_ms_ttl(leases[k].ttl_ms));
			} else {
				sqlb_ms_bind_null(conn);
				sqlb_ms_bind_null(conn);
			}
		}
		outcome = sqlb_ms_done(conn, err);
		if (outcome != SQLB_AWAY || sqlb_ms_class_of(conn) != SQLB_MS_TAKEN || !conn->dbc)
			break;
	}
	return outcome;
}

static int compare_leases(const void *a, const void *b)
{
	int64_t left = ((const struct sqlb_lease *)a)->id, right = ((const struct sqlb_lease *)b)->id;

	return (left > right) - (left < right);
}

enum sqlb_outcome sqlb_ms_lease_ensure(struct sqlb_conn *conn, const struct sqlb_lease *leases, size_t count,
				       struct ks_err *err)
{
	enum sqlb_outcome outcome;
	struct sqlb_lease *sorted;
	size_t kept = 0;

	if (count == 0)
		return SQLB_OK;
	outcome = sqlb_ms_begin(conn, SQLB_MS_ANSWER_TIMEOUT_S, err);
	if (outcome != SQLB_OK)
		return outcome;
	sorted = ks_xcalloc(count, sizeof(*sorted));
	memcpy(sorted, leases, count * sizeof(*sorted));
	qsort(sorted, count, sizeof(*sorted), compare_leases);
	for (size_t i = 0; i < count; i++)
		if (kept == 0 || sorted[kept - 1].id != sorted[i].id)
			sorted[kept++] = sorted[i];
	for (size_t i = 0; i < kept && outcome == SQLB_OK; i += SQLB_MS_IDS_MAX)
		outcome = ensure_some(conn, sorted + i, part_of(kept, i), err);
	free(sorted);
	return outcome;
}

enum sqlb_outcome sqlb_ms_drop_leases(struct sqlb_conn *conn, const int64_t *ids, size_t count, struct ks_err *err)
{
	enum sqlb_outcome outcome = SQLB_OK;

	for (size_t i = 0; i < count && outcome == SQLB_OK; i += SQLB_MS_IDS_MAX) {
		size_t some = part_of(count, i), step = sqlb_ms_step(some, SQLB_MS_IDS_MAX);

		sqlb_ms_start(conn);
		sqlb_ms_text_lease_drop(&conn->text, step);
		sqlb_ms_bind_ids(conn, ids + i, some, step);
		outcome = sqlb_ms_done(conn, err);
	}
	return outcome;
}

enum sqlb_outcome sqlb_ms_lease_drop(struct sqlb_conn *conn, const int64_t *ids, size_t count, struct ks_err *err)
{
	enum sqlb_outcome outcome = SQLB_OK;

	if (count == 0)
		return SQLB_OK;
	outcome = sqlb_ms_begin(conn, SQLB_MS_ANSWER_TIMEOUT_S, err);
	return outcome == SQLB_OK ? sqlb_ms_drop_leases(conn, ids, count, err) : outcome;
}

enum sqlb_outcome sqlb_ms_lease_refresh_all(struct sqlb_conn *conn, struct ks_err *err)
{
	enum sqlb_outcome outcome = sqlb_ms_begin(conn, SQLB_MS_LONG_TIMEOUT_S, err);

	if (outcome != SQLB_OK)
		return outcome;
	sqlb_ms_start(conn);
	sqlb_ms_say(conn, "UPDATE kineshim_lease SET deadline = " SQLB_MS_NOW " + ttl_ms");
	return sqlb_ms_done(conn, err);
}

enum sqlb_outcome sqlb_ms_lease_list(struct sqlb_conn *conn, size_t limit, sqlb_lease_fn *visit, void *ctx,
				     struct ks_err *err)
{
	enum sqlb_outcome outcome = sqlb_ms_begin(conn, SQLB_MS_ANSWER_TIMEOUT_S, err);
	bool row = false, whole = true, go_on = true;

	if (outcome != SQLB_OK)
		return outcome;
	sqlb_ms_start(conn);
	sqlb_ms_say(conn,
		    "SELECT TOP (?) id, ttl_ms, deadline - " SQLB_MS_NOW " FROM kineshim_lease ORDER BY deadline, id");
	sqlb_ms_bind_int8(conn, limit == 0 || limit > INT64_MAX ? INT64_MAX : (int64_t)limit);
	if (!sqlb_ms_execute(conn))
		return sqlb_ms_judge(conn, err);
	while (whole) {
		struct sqlb_lease lease = {.found = true};

		if (!sqlb_ms_next(conn, &row))
			return sqlb_ms_judge(conn, err);
		if (!row)
			break;
		whole = sqlb_ms_get_int8(conn, 1, &lease.id) && sqlb_ms_get_int8(conn, 2, &lease.ttl_ms) &&
			sqlb_ms_get_int8(conn, 3, &lease.remaining_ms);
		/* After a stop the rest is read and not shown: it is small. */
		go_on = go_on && whole && visit(ctx, &lease);
	}
	if (!whole)
		return sqlb_ms_broken(conn, err, "kineshim_lease is not as this program makes it");
	return sqlb_ms_finish(conn) ? SQLB_OK : sqlb_ms_judge(conn, err);
}

/* ---- the duty ---- */

static enum sqlb_outcome see_duty(struct sqlb_conn *conn, struct sqlb_duty *duty, struct ks_err *err)
{
	enum sqlb_outcome outcome;
	int64_t values[3] = {0};
	bool found;

	sqlb_ms_start(conn);
	sqlb_ms_say(conn, "SELECT holder, term, deadline - " SQLB_MS_NOW " FROM kineshim_duty WHERE one = 1");
	outcome = sqlb_ms_numbers(conn, values, 3, &found, err);
	if (outcome == SQLB_OK && !found)
		return sqlb_ms_broken(conn, err, "kineshim_duty has lost its row");
	*duty = (struct sqlb_duty){.holder = values[0], .term = values[1], .remaining_ms = values[2]};
	return outcome;
}

/*
 * Who has no duty asks often and mostly in vain: without a lock that costs no commit. An UPDATE that waited for another
 * candidate's judges the row as that one left it.
 */
enum sqlb_outcome sqlb_ms_duty_take(struct sqlb_conn *conn, int64_t self, int ttl_ms, struct sqlb_duty *duty,
				    struct ks_err *err)
{
	enum sqlb_outcome outcome = sqlb_ms_begin(conn, SQLB_MS_ANSWER_TIMEOUT_S, err);
	int64_t values[4] = {0};
	bool found;

	*duty = (struct sqlb_duty){0};
	if (outcome == SQLB_OK)
		outcome = see_duty(conn, duty, err);
	if (outcome != SQLB_OK || (duty->holder != 0 && duty->holder != self && duty->remaining_ms >= 0))
		return outcome;
	sqlb_ms_start(conn);
	sqlb_ms_say(conn, "UPDATE kineshim_duty SET holder = ?, term = term + CASE WHEN holder <> ? THEN 1 ELSE 0 END, "
			  "deadline = " SQLB_MS_NOW " + ? "
			  "OUTPUT inserted.holder, inserted.term, inserted.deadline - " SQLB_MS_NOW ", "
			  "CAST(CASE WHEN deleted.holder <> inserted.holder THEN 1 ELSE 0 END AS bigint) "
			  "WHERE one = 1 AND (holder = ? OR holder = 0 OR deadline < " SQLB_MS_NOW ")");
	sqlb_ms_bind_int8(conn, self);
	sqlb_ms_bind_int8(conn, self);
	sqlb_ms_bind_int8(conn, sqlb_ms_ttl(ttl_ms));
	sqlb_ms_bind_int8(conn, self);
	outcome = sqlb_ms_numbers(conn, values, 4, &found, err);
	if (outcome != SQLB_OK)
		return outcome;
	if (!found) /* somebody was faster */
		return see_duty(conn, duty, err);
	*duty = (struct sqlb_duty){
		.holder = values[0], .term = values[1], .remaining_ms = values[2], .taken_now = values[3] != 0};
	return SQLB_OK;
}

enum sqlb_outcome sqlb_ms_duty_pass(struct sqlb_conn *conn, int64_t self, int64_t to, int ttl_ms, struct ks_err *err)
{
	enum sqlb_outcome outcome = sqlb_ms_begin(conn, SQLB_MS_ANSWER_TIMEOUT_S, err);

	if (outcome != SQLB_OK)
		return outcome;
	sqlb_ms_start(conn);
	sqlb_ms_say(conn, "UPDATE kineshim_duty SET holder = ?, term = term + ?, deadline = " SQLB_MS_NOW " + ? "
			  "WHERE one = 1 AND holder = ?");
	sqlb_ms_bind_int8(conn, to);
	sqlb_ms_bind_int8(conn, to != self && to != 0);
	sqlb_ms_bind_int8(conn, sqlb_ms_ttl(ttl_ms));
	sqlb_ms_bind_int8(conn, self);
	return sqlb_ms_done(conn, err);
}

/* ---- members ---- */

static struct ks_slice text_or_empty(struct ks_slice text)
{
	return text.data ? text : ks_slice_str("");
}

enum sqlb_outcome sqlb_ms_member_beat(struct sqlb_conn *conn, const struct sqlb_member *self, int ttl_ms,
				      struct ks_err *err)
{
	enum sqlb_outcome outcome = sqlb_ms_begin(conn, SQLB_MS_ANSWER_TIMEOUT_S, err);

	if (outcome != SQLB_OK)
		return outcome;
	sqlb_ms_start(conn);
	if (ttl_ms <= 0) {
		sqlb_ms_say(conn, "DELETE FROM kineshim_member WHERE id = ?");
		sqlb_ms_bind_int8(conn, (int64_t)self->id);
		return sqlb_ms_done(conn, err);
	}
	/* Each of the three is fine alone, so they are no transaction: no lock is kept while another is waited for. */
	sqlb_ms_say(conn, "DELETE FROM kineshim_member WHERE id <> ? AND deadline < " SQLB_MS_NOW " - 3600000; "
			  "UPDATE kineshim_member SET name = ?, client_urls = ?, position = ?, "
			  "deadline = " SQLB_MS_NOW " + ? WHERE id = ?; "
			  "IF @@ROWCOUNT = 0 INSERT INTO kineshim_member (id, name, client_urls, position, deadline) "
			  "VALUES (?, ?, ?, ?, " SQLB_MS_NOW " + ?)");
	sqlb_ms_bind_int8(conn, (int64_t)self->id);
	sqlb_ms_bind_slice(conn, text_or_empty(self->name));
	sqlb_ms_bind_slice(conn, text_or_empty(self->client_urls));
	sqlb_ms_bind_int8(conn, self->position);
	sqlb_ms_bind_int8(conn, sqlb_ms_ttl(ttl_ms));
	sqlb_ms_bind_int8(conn, (int64_t)self->id);
	sqlb_ms_bind_int8(conn, (int64_t)self->id);
	sqlb_ms_bind_slice(conn, text_or_empty(self->name));
	sqlb_ms_bind_slice(conn, text_or_empty(self->client_urls));
	sqlb_ms_bind_int8(conn, self->position);
	sqlb_ms_bind_int8(conn, sqlb_ms_ttl(ttl_ms));
	return sqlb_ms_done(conn, err);
}

enum sqlb_outcome sqlb_ms_member_list(struct sqlb_conn *conn, sqlb_member_fn *visit, void *ctx, struct ks_err *err)
{
	enum sqlb_outcome outcome = sqlb_ms_begin(conn, SQLB_MS_ANSWER_TIMEOUT_S, err);
	bool row = false, whole = true, go_on = true;

	if (outcome != SQLB_OK)
		return outcome;
	sqlb_ms_start(conn);
	sqlb_ms_say(conn, "SELECT id, position, name, client_urls FROM kineshim_member WHERE deadline >= " SQLB_MS_NOW
			  " ORDER BY CASE WHEN id < 0 THEN 1 ELSE 0 END, id");
	if (!sqlb_ms_execute(conn))
		return sqlb_ms_judge(conn, err);
	while (whole) {
		struct sqlb_member member = {0};
		int64_t id = 0;

		if (!sqlb_ms_next(conn, &row))
			return sqlb_ms_judge(conn, err);
		if (!row)
			break;
		whole = sqlb_ms_get_int8(conn, 1, &id) && sqlb_ms_get_int8(conn, 2, &member.position) &&
			sqlb_ms_get_slice(conn, 3, &conn->slices[0], &member.name) &&
			sqlb_ms_get_slice(conn, 4, &conn->slices[1], &member.client_urls);
		member.id = (uint64_t)id;
		go_on = go_on && whole && visit(ctx, &member);
	}
	if (!whole)
		return sqlb_ms_broken(conn, err, "kineshim_member is not as this program makes it");
	return sqlb_ms_finish(conn) ? SQLB_OK : sqlb_ms_judge(conn, err);
}

/* ---- size ---- */

/*
 * The catalogue tells those who may read a table how many pages it has, and how many of them are in use;
 * sys.dm_db_partition_stats says the same to those who may also see the state of the whole database. Pages are 8 KiB. Rows
 * are in containers of their partition (types 1 and 3), long values in those of its LOBs (2).
 */
enum sqlb_outcome sqlb_ms_size(struct sqlb_conn *conn, struct sqlb_size *size, struct ks_err *err)
{
	enum sqlb_outcome outcome = sqlb_ms_begin(conn, SQLB_MS_ANSWER_TIMEOUT_S, err);
	int64_t values[2] = {0};

	*size = (struct sqlb_size){0};
	if (outcome != SQLB_OK)
		return outcome;
	sqlb_ms_start(conn);
	sqlb_ms_say(conn, "SELECT COALESCE(SUM(CAST(a.total_pages AS bigint)), 0) * 8192, "
			  "COALESCE(SUM(CAST(a.used_pages AS bigint)), 0) * 8192 "
			  "FROM sys.partitions AS p JOIN sys.allocation_units AS a "
			  "ON (a.type IN (1, 3) AND a.container_id = p.hobt_id) OR (a.type = 2 AND a.container_id = "
			  "p.partition_id) "
			  "WHERE p.object_id = OBJECT_ID('kineshim_log')");
	outcome = sqlb_ms_numbers(conn, values, 2, NULL, err);
	size->allocated = values[0];
	size->in_use = values[1] < values[0] ? values[1] : values[0];
	return outcome;
}

/*
 * REORGANIZE moves rows together beside the appends of all instances, and gives back pages that become free. REBUILD gives
 * back all, and locks everybody out while it copies what is left: done only where the caller wants it all. Neither may be
 * part of a transaction.
 */
enum sqlb_outcome sqlb_ms_defragment(struct sqlb_conn *conn, bool all, struct ks_err *err)
{
	enum sqlb_outcome outcome = sqlb_ms_begin(conn, SQLB_MS_LONG_TIMEOUT_S, err);

	if (outcome != SQLB_OK)
		return outcome;
	sqlb_ms_start(conn);
	sqlb_ms_say(conn, "SET LOCK_TIMEOUT -1; ");
	sqlb_ms_say(conn, all ? "ALTER INDEX ALL ON kineshim_log REBUILD"
			      : "ALTER INDEX ALL ON kineshim_log REORGANIZE WITH (LOB_COMPACTION = ON)");
	outcome = sqlb_ms_done(conn, err);
	sqlb_ms_drop(conn); /* with its settings */
	return outcome;
}
