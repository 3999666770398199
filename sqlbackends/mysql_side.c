/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What stands beside the log in MySQL and MariaDB: deadlines of leases, the duty, the members, and the size of it all. The texts
 * are in mysql_sql.c. Lease rows are locked in the order of their ids. In a Galera cluster a change may be undone because
 * another node's came first; all of these are harmless to repeat, so they are.
 */
#include <mysqld_error.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "base/panic.h"
#include "mysql_priv.h"

/* ---- leases by id ---- */

static int compare_leases(const void *a, const void *b)
{
	int64_t left = (*(struct sqlb_lease *const *)a)->id, right = (*(struct sqlb_lease *const *)b)->id;

	return (left > right) - (left < right);
}

/* The leases in the order of their ids; of equal ones the order stays, for the last one counts. */
static int compare_stably(const void *a, const void *b)
{
	const struct sqlb_lease *left = *(const struct sqlb_lease *const *)a,
				*right = *(const struct sqlb_lease *const *)b;

	if (left->id != right->id)
		return left->id < right->id ? -1 : 1;
	return (left > right) - (left < right);
}

enum sqlb_outcome sqlb_my_leases_put(struct sqlb_conn *conn, const struct sqlb_lease *leases, size_t count,
				     enum sqlb_my_statement statement, struct ks_err *err)
{
	const struct sqlb_lease **sorted = ks_xcalloc(count, sizeof(struct sqlb_lease *));
	enum sqlb_outcome outcome = SQLB_OK;

	for (size_t i = 0; i < count; i++)
		sorted[i] = &leases[i];
	qsort(sorted, count, sizeof(struct sqlb_lease *), compare_stably);
	for (size_t done = 0, some; done < count && outcome == SQLB_OK; done += some) {
		size_t size;

		some = count - done < SQLB_MY_ITEMS_MAX ? count - done : SQLB_MY_ITEMS_MAX;
		size = sqlb_my_bucket_size(some);
		sqlb_my_params(conn, 3 * size);
		for (size_t i = 0; i < size; i++) {
			const struct sqlb_lease *lease = sorted[done + (i < some ? i : some - 1)];

			sqlb_my_param(conn, lease->id);
			sqlb_my_param(conn, lease->ttl_ms);
			sqlb_my_param(conn, lease->ttl_ms);
		}
		outcome = sqlb_my_run(conn, statement, some, NULL, err);
	}
	free(sorted);
	return outcome;
}

enum sqlb_outcome sqlb_my_leases_delete(struct sqlb_conn *conn, const int64_t *ids, size_t count,
					enum sqlb_my_statement statement, size_t *deleted, struct ks_err *err)
{
	enum sqlb_outcome outcome = SQLB_OK;
	uint64_t affected;

	for (size_t done = 0, some; done < count && outcome == SQLB_OK; done += some) {
		some = count - done < SQLB_MY_ITEMS_MAX ? count - done : SQLB_MY_ITEMS_MAX;
		sqlb_my_param_ids(conn, ids + done, some, 0);
		outcome = sqlb_my_run(conn, statement, some, &affected, err);
		if (outcome == SQLB_OK && deleted)
			*deleted += (size_t)affected;
	}
	return outcome;
}

/* Leases sorted by id, and what has been found of them. */
struct lease_set {
	struct sqlb_lease **sorted;
	size_t count;
	int64_t *found; /* ids, as they came */
	size_t found_count;
};

static void set_init(struct lease_set *set, struct sqlb_lease *leases, size_t count)
{
	*set = (struct lease_set){.sorted = ks_xcalloc(count, sizeof(struct sqlb_lease *)),
				  .count = count,
				  .found = ks_xcalloc(count, sizeof(int64_t))};
	for (size_t i = 0; i < count; i++) {
		leases[i].found = false;
		set->sorted[i] = &leases[i];
	}
	qsort(set->sorted, count, sizeof(struct sqlb_lease *), compare_leases);
}

static void set_fini(struct lease_set *set)
{
	free(set->sorted);
	free(set->found);
}

/* Writes a row (id, ttl_ms, remaining_ms) into every lease of that id. */
static bool set_fill(void *ctx, const int64_t *numbers)
{
	struct lease_set *set = ctx;
	size_t low = 0, high = set->count;

	while (low < high) {
		size_t middle = low + (high - low) / 2;

		if (set->sorted[middle]->id < numbers[0])
			low = middle + 1;
		else
			high = middle;
	}
	if (set->found_count < set->count)
		set->found[set->found_count++] = numbers[0];
	for (; low < set->count && set->sorted[low]->id == numbers[0]; low++)
		*set->sorted[low] = (struct sqlb_lease){
			.id = numbers[0], .ttl_ms = numbers[1], .remaining_ms = numbers[2], .found = true};
	return true;
}

/* Asks for the leases from 'first' on; *some: how many of them. */
static enum sqlb_outcome query_leases(struct sqlb_conn *conn, enum sqlb_my_statement statement, struct lease_set *set,
				      size_t first, size_t *some, struct ks_err *err)
{
	int64_t ids[SQLB_MY_ITEMS_MAX];

	*some = set->count - first < SQLB_MY_ITEMS_MAX ? set->count - first : SQLB_MY_ITEMS_MAX;
	for (size_t i = 0; i < *some; i++)
		ids[i] = set->sorted[first + i]->id;
	sqlb_my_param_ids(conn, ids, *some, 0);
	return sqlb_my_query(conn, statement, *some, 3, set_fill, set, err);
}

enum sqlb_outcome sqlb_my_lease_read(struct sqlb_conn *conn, struct sqlb_lease *leases, size_t count,
				     struct ks_err *err)
{
	enum sqlb_outcome outcome;
	struct lease_set set;

	if (count == 0)
		return SQLB_OK;
	set_init(&set, leases, count);
	outcome = sqlb_my_begin(conn, SQLB_MY_ANSWER_TIMEOUT_S, err);
	for (size_t done = 0, some; done < count && outcome == SQLB_OK; done += some)
		outcome = query_leases(conn, SQLB_MY_LEASE_READ, &set, done, &some, err);
	set_fini(&set);
	return sqlb_my_no_conflict(outcome);
}

static int64_t deadline_ttl(int64_t ttl_ms)
{
	return ttl_ms < 0 ? 0 : ttl_ms > INT64_C(9000000000000000) ? INT64_C(9000000000000000) : ttl_ms;
}

static enum sqlb_outcome touch_one(struct sqlb_conn *conn, struct sqlb_lease *lease, struct ks_err *err)
{
	enum sqlb_outcome outcome;
	MYSQL_STMT *stmt;

	lease->found = false;
	outcome = sqlb_my_prepare(conn, SQLB_MY_LEASE_TOUCH_ONE, 0, &stmt, err);
	if (outcome != SQLB_OK)
		return outcome;
	sqlb_my_params(conn, 1);
	sqlb_my_param(conn, lease->id);
	if (!sqlb_my_execute(conn, stmt))
		return sqlb_my_judge_stmt(conn, stmt, err);
	if (mysql_stmt_affected_rows(stmt) == 1) {
		lease->found = true;
		lease->ttl_ms = (int64_t)mysql_stmt_insert_id(stmt);
		lease->remaining_ms = deadline_ttl(lease->ttl_ms);
	}
	return SQLB_OK;
}

/* Locks those that live, renews them, and lets go. */
static enum sqlb_outcome touch_many(struct sqlb_conn *conn, struct sqlb_lease *leases, size_t count, struct ks_err *err)
{
	enum sqlb_outcome outcome = sqlb_my_start(conn, err);
	struct lease_set set;

	set_init(&set, leases, count);
	for (size_t done = 0, some; done < count && outcome == SQLB_OK; done += some) {
		size_t before = set.found_count;

		outcome = query_leases(conn, SQLB_MY_LEASE_LOCK, &set, done, &some, err);
		if (outcome != SQLB_OK || set.found_count == before)
			continue;
		sqlb_my_param_ids(conn, set.found + before, set.found_count - before, 0);
		outcome = sqlb_my_run(conn, SQLB_MY_LEASE_TOUCH, set.found_count - before, NULL, err);
	}
	set_fini(&set);
	if (outcome == SQLB_OK && !sqlb_my_commit(conn))
		outcome = sqlb_my_judge_conn(conn, err);
	sqlb_my_roll_back(conn);
	return outcome;
}

enum sqlb_outcome sqlb_my_lease_touch(struct sqlb_conn *conn, struct sqlb_lease *leases, size_t count,
				      struct ks_err *err)
{
	enum sqlb_outcome outcome = SQLB_OK;

	for (int tries = 0; count > 0 && tries < SQLB_MY_RETRIES; tries++) {
		outcome = sqlb_my_begin(conn, SQLB_MY_ANSWER_TIMEOUT_S, err);
		if (outcome == SQLB_OK)
			outcome = count == 1 ? touch_one(conn, leases, err) : touch_many(conn, leases, count, err);
		if (outcome != SQLB_CONFLICT)
			break;
	}
	return sqlb_my_no_conflict(outcome);
}

enum sqlb_outcome sqlb_my_lease_ensure(struct sqlb_conn *conn, const struct sqlb_lease *leases, size_t count,
				       struct ks_err *err)
{
	enum sqlb_outcome outcome = SQLB_OK;

	for (int tries = 0; count > 0 && tries < SQLB_MY_RETRIES; tries++) {
		outcome = sqlb_my_begin(conn, SQLB_MY_ANSWER_TIMEOUT_S, err);
		if (outcome == SQLB_OK)
			outcome = sqlb_my_leases_put(conn, leases, count, SQLB_MY_LEASE_ENSURE, err);
		if (outcome != SQLB_CONFLICT)
			break;
	}
	return sqlb_my_no_conflict(outcome);
}

enum sqlb_outcome sqlb_my_lease_drop(struct sqlb_conn *conn, const int64_t *ids, size_t count, struct ks_err *err)
{
	enum sqlb_outcome outcome = SQLB_OK;

	for (int tries = 0; count > 0 && tries < SQLB_MY_RETRIES; tries++) {
		outcome = sqlb_my_begin(conn, SQLB_MY_ANSWER_TIMEOUT_S, err);
		if (outcome == SQLB_OK)
			outcome = sqlb_my_leases_delete(conn, ids, count, SQLB_MY_LEASE_DROP, NULL, err);
		if (outcome != SQLB_CONFLICT)
			break;
	}
	return sqlb_my_no_conflict(outcome);
}

enum sqlb_outcome sqlb_my_lease_refresh_all(struct sqlb_conn *conn, struct ks_err *err)
{
	enum sqlb_outcome outcome = SQLB_OK;

	for (int tries = 0; tries < SQLB_MY_RETRIES; tries++) {
		outcome = sqlb_my_begin(conn, SQLB_MY_LEASES_TIMEOUT_S, err);
		sqlb_my_params(conn, 0);
		if (outcome == SQLB_OK)
			outcome = sqlb_my_run(conn, SQLB_MY_LEASE_REFRESH, 0, NULL, err);
		if (outcome != SQLB_CONFLICT)
			break;
	}
	return sqlb_my_no_conflict(outcome);
}

struct lease_visit {
	sqlb_lease_fn *visit;
	void *ctx;
};

static bool visit_lease(void *ctx, const int64_t *numbers)
{
	const struct lease_visit *visitor = ctx;
	const struct sqlb_lease lease = {
		.id = numbers[0], .ttl_ms = numbers[1], .remaining_ms = numbers[2], .found = true};

	return visitor->visit(visitor->ctx, &lease);
}

enum sqlb_outcome sqlb_my_lease_list(struct sqlb_conn *conn, size_t limit, sqlb_lease_fn *visit, void *ctx,
				     struct ks_err *err)
{
	enum sqlb_outcome outcome = sqlb_my_begin(conn, SQLB_MY_ANSWER_TIMEOUT_S, err);
	struct lease_visit visitor = {.visit = visit, .ctx = ctx};

	if (outcome != SQLB_OK)
		return outcome;
	sqlb_my_params(conn, 1);
	sqlb_my_param(conn, limit == 0 || limit > INT64_MAX ? INT64_MAX : (int64_t)limit);
	return sqlb_my_no_conflict(sqlb_my_query(conn, SQLB_MY_LEASE_LIST, 0, 3, visit_lease, &visitor, err));
}

/* ---- the duty ---- */

static enum sqlb_outcome see_duty(struct sqlb_conn *conn, struct sqlb_duty *duty, struct ks_err *err)
{
	int64_t numbers[3] = {0};
	bool found;
	enum sqlb_outcome outcome;

	sqlb_my_params(conn, 0);
	outcome = sqlb_my_query_one(conn, SQLB_MY_DUTY_SEE, 3, numbers, &found, err);
	if (outcome == SQLB_OK && !found)
		return sqlb_my_broken(conn, err, "kineshim_duty has lost its row");
	*duty = (struct sqlb_duty){.holder = numbers[0], .term = numbers[1], .remaining_ms = numbers[2]};
	return outcome;
}

/* From what was seen to us; *taken: nobody else was faster. */
static enum sqlb_outcome take_duty(struct sqlb_conn *conn, int64_t self, int ttl_ms, struct sqlb_duty *duty,
				   bool *taken, struct ks_err *err)
{
	const struct sqlb_duty seen = *duty;
	const struct sqlb_duty ours = {.holder = self,
				       .term = seen.term + (seen.holder != self),
				       .remaining_ms = deadline_ttl(ttl_ms),
				       .taken_now = seen.holder != self};
	enum sqlb_outcome outcome;
	uint64_t matched = 0;

	sqlb_my_params(conn, 6);
	sqlb_my_param(conn, self);
	sqlb_my_param(conn, ours.term);
	sqlb_my_param(conn, ttl_ms);
	sqlb_my_param(conn, seen.holder);
	sqlb_my_param(conn, seen.term);
	sqlb_my_param(conn, self);
	outcome = sqlb_my_run(conn, SQLB_MY_DUTY_TAKE, 0, &matched, err);
	*taken = matched == 1;
	if (outcome == SQLB_OK && *taken)
		*duty = ours;
	return outcome;
}

enum sqlb_outcome sqlb_my_duty_take(struct sqlb_conn *conn, int64_t self, int ttl_ms, struct sqlb_duty *duty,
				    struct ks_err *err)
{
	enum sqlb_outcome outcome = SQLB_OK;

	for (int tries = 0; tries < SQLB_MY_RETRIES; tries++) {
		bool taken = false;

		*duty = (struct sqlb_duty){0};
		outcome = sqlb_my_begin(conn, SQLB_MY_ANSWER_TIMEOUT_S, err);
		if (outcome == SQLB_OK)
			outcome = see_duty(conn, duty, err);
		if (outcome == SQLB_OK && duty->holder != 0 && duty->holder != self && duty->remaining_ms >= 0)
			return outcome;
		if (outcome == SQLB_OK)
			outcome = take_duty(conn, self, ttl_ms, duty, &taken, err);
		if ((outcome != SQLB_OK && outcome != SQLB_CONFLICT) || taken)
			return outcome;
	}
	if (outcome == SQLB_OK)
		ks_fail(err, KS_UNAVAILABLE, "MySQL: kineshim_duty changes all the time");
	return SQLB_AWAY;
}

enum sqlb_outcome sqlb_my_duty_pass(struct sqlb_conn *conn, int64_t self, int64_t to, int ttl_ms, struct ks_err *err)
{
	enum sqlb_outcome outcome = SQLB_OK;

	for (int tries = 0; tries < SQLB_MY_RETRIES; tries++) {
		outcome = sqlb_my_begin(conn, SQLB_MY_ANSWER_TIMEOUT_S, err);
		sqlb_my_params(conn, 4);
		sqlb_my_param(conn, to);
		sqlb_my_param(conn, to != self && to != 0);
		sqlb_my_param(conn, ttl_ms);
		sqlb_my_param(conn, self);
		if (outcome == SQLB_OK)
			outcome = sqlb_my_run(conn, SQLB_MY_DUTY_PASS, 0, NULL, err);
		if (outcome != SQLB_CONFLICT)
			break;
	}
	return sqlb_my_no_conflict(outcome);
}

/* ---- members ---- */

static enum sqlb_outcome beat_once(struct sqlb_conn *conn, const struct sqlb_member *self, int ttl_ms,
				   struct ks_err *err)
{
	enum sqlb_outcome outcome;
	int64_t stale[1];
	bool found;

	sqlb_my_params(conn, 5);
	sqlb_my_param(conn, (int64_t)self->id);
	if (ttl_ms <= 0)
		return sqlb_my_run(conn, SQLB_MY_MEMBER_REMOVE, 0, NULL, err);
	sqlb_my_param_slice(conn, self->name.data ? self->name : ks_slice_str(""));
	sqlb_my_param_slice(conn, self->client_urls.data ? self->client_urls : ks_slice_str(""));
	sqlb_my_param(conn, self->position);
	sqlb_my_param(conn, ttl_ms);
	outcome = sqlb_my_run(conn, SQLB_MY_MEMBER_BEAT, 0, NULL, err);
	if (outcome != SQLB_OK)
		return outcome;
	sqlb_my_params(conn, 0);
	outcome = sqlb_my_query_one(conn, SQLB_MY_MEMBER_STALE, 1, stale, &found, err);
	if (outcome != SQLB_OK || !found)
		return outcome;
	sqlb_my_params(conn, 1);
	sqlb_my_param(conn, (int64_t)self->id);
	return sqlb_my_run(conn, SQLB_MY_MEMBER_SWEEP, 0, NULL, err);
}

enum sqlb_outcome sqlb_my_member_beat(struct sqlb_conn *conn, const struct sqlb_member *self, int ttl_ms,
				      struct ks_err *err)
{
	enum sqlb_outcome outcome = SQLB_OK;

	for (int tries = 0; tries < SQLB_MY_RETRIES; tries++) {
		outcome = sqlb_my_begin(conn, SQLB_MY_ANSWER_TIMEOUT_S, err);
		if (outcome == SQLB_OK)
			outcome = beat_once(conn, self, ttl_ms, err);
		if (outcome != SQLB_CONFLICT)
			break;
	}
	return sqlb_my_no_conflict(outcome);
}

#define MEMBER_TEXT_MAX 65536 /* BLOB */

struct member_row {
	int64_t id, position;
	unsigned long name_size, urls_size;
	my_bool nulls[4];
	char name[MEMBER_TEXT_MAX], urls[MEMBER_TEXT_MAX];
};

static enum sqlb_outcome fetch_members(struct sqlb_conn *conn, MYSQL_STMT *stmt, sqlb_member_fn *visit, void *ctx,
				       struct ks_err *err)
{
	struct member_row *row = ks_xcalloc(1, sizeof(*row));
	MYSQL_BIND results[] = {
		{.buffer_type = MYSQL_TYPE_LONGLONG, .buffer = &row->id, .is_null = &row->nulls[0]},
		{.buffer_type = MYSQL_TYPE_LONGLONG, .buffer = &row->position, .is_null = &row->nulls[1]},
		{.buffer_type = MYSQL_TYPE_BLOB,
		 .buffer = row->name,
		 .buffer_length = sizeof(row->name),
		 .length = &row->name_size,
		 .is_null = &row->nulls[2]},
		{.buffer_type = MYSQL_TYPE_BLOB,
		 .buffer = row->urls,
		 .buffer_length = sizeof(row->urls),
		 .length = &row->urls_size,
		 .is_null = &row->nulls[3]},
	};
	enum sqlb_outcome outcome = SQLB_OK;
	bool go_on = true;
	int rc = 0;

	if (mysql_stmt_bind_result(stmt, results))
		outcome = sqlb_my_judge_stmt(conn, stmt, err);
	while (outcome == SQLB_OK && go_on && (rc = mysql_stmt_fetch(stmt)) == 0) {
		struct sqlb_member member = {.id = (uint64_t)row->id,
					     .position = row->position,
					     .name = ks_slice_of(row->name, row->name_size),
					     .client_urls = ks_slice_of(row->urls, row->urls_size)};

		if (row->nulls[0] || row->nulls[1] || row->nulls[2] || row->nulls[3])
			outcome = sqlb_my_broken(conn, err, "kineshim_member is not as this program makes it");
		else
			go_on = visit(ctx, &member);
	}
	if (outcome == SQLB_OK && go_on && rc == MYSQL_DATA_TRUNCATED)
		outcome = sqlb_my_broken(conn, err, "kineshim_member is not as this program makes it");
	else if (outcome == SQLB_OK && ((go_on && rc != MYSQL_NO_DATA) || mysql_stmt_free_result(stmt)))
		outcome = sqlb_my_judge_stmt(conn, stmt, err);
	free(row);
	return outcome;
}

enum sqlb_outcome sqlb_my_member_list(struct sqlb_conn *conn, sqlb_member_fn *visit, void *ctx, struct ks_err *err)
{
	enum sqlb_outcome outcome = sqlb_my_begin(conn, SQLB_MY_ANSWER_TIMEOUT_S, err);
	MYSQL_STMT *stmt;

	sqlb_my_params(conn, 0);
	if (outcome == SQLB_OK)
		outcome = sqlb_my_prepare(conn, SQLB_MY_MEMBER_LIST, 0, &stmt, err);
	if (outcome == SQLB_OK && !sqlb_my_execute(conn, stmt))
		outcome = sqlb_my_judge_stmt(conn, stmt, err);
	else if (outcome == SQLB_OK)
		outcome = fetch_members(conn, stmt, visit, ctx, err);
	return sqlb_my_no_conflict(outcome);
}

/* ---- size ---- */

/*
 * The statistics that the sizes come from follow on their own, but late. ANALYZE looks at a few pages; a server whose
 * ANALYZE makes others wait for long readers (before 8.0.24) is not asked to. A user who may not keeps the old ones.
 */
static enum sqlb_outcome refresh_statistics(struct sqlb_conn *conn, struct ks_err *err)
{
	enum sqlb_outcome outcome;

	if (!conn->server.is_mariadb && conn->server.version < 80024)
		return SQLB_OK;
	outcome = sqlb_my_exec(conn, "ANALYZE NO_WRITE_TO_BINLOG TABLE kineshim_log", err);
	if (outcome != SQLB_OK && !conn->mysql)
		outcome = sqlb_my_begin(conn, SQLB_MY_ANSWER_TIMEOUT_S, err);
	else
		outcome = SQLB_OK;
	return outcome;
}

enum sqlb_outcome sqlb_my_size(struct sqlb_conn *conn, struct sqlb_size *size, struct ks_err *err)
{
	enum sqlb_outcome outcome = sqlb_my_begin(conn, SQLB_MY_ANSWER_TIMEOUT_S, err);
	int64_t numbers[2] = {0};
	bool found = false;

	*size = (struct sqlb_size){0};
	if (outcome == SQLB_OK)
		outcome = refresh_statistics(conn, err);
	sqlb_my_params(conn, 0);
	if (outcome == SQLB_OK)
		outcome = sqlb_my_query_one(conn, SQLB_MY_SIZE, 2, numbers, &found, err);
	if (outcome == SQLB_OK && !found)
		return sqlb_my_broken(conn, err, "kineshim_log is not there");
	size->in_use = numbers[0];
	size->allocated = numbers[0] + numbers[1];
	return sqlb_my_no_conflict(outcome);
}

/*
 * InnoDB reuses free space by itself; OPTIMIZE builds the table anew to give it back, beside the appends of all instances but
 * for a moment at its end. A Galera cluster would do it everywhere at once, and wait: NO_WRITE_TO_BINLOG keeps it to this node.
 */
enum sqlb_outcome sqlb_my_defragment(struct sqlb_conn *conn, bool all, struct ks_err *err)
{
	enum sqlb_outcome outcome = sqlb_my_begin(conn, SQLB_MY_LONG_TIMEOUT_S, err);
	MYSQL_RES *result;
	MYSQL_ROW row;

	(void)all;
	if (outcome != SQLB_OK)
		return sqlb_my_no_conflict(outcome);
	if (mysql_query(conn->mysql, "OPTIMIZE NO_WRITE_TO_BINLOG TABLE kineshim_log") != 0 ||
	    !(result = mysql_store_result(conn->mysql)))
		return sqlb_my_no_conflict(sqlb_my_judge_conn(conn, err));
	/* Table, Op, Msg_type, Msg_text: errors come as rows. */
	while (mysql_num_fields(result) == 4 && (row = mysql_fetch_row(result)) != NULL)
		if (row[2] && row[3] && strcasecmp(row[2], "error") == 0) {
			ks_fail(err, KS_UNAVAILABLE, "MySQL: OPTIMIZE TABLE: %s", row[3]);
			outcome = SQLB_AWAY;
		}
	mysql_free_result(result);
	sqlb_my_drop(conn); /* one that waits for so long is seldom wanted */
	return outcome;
}
