/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The duty, and the members.
 */
#include <stdlib.h>

#include "memory_priv.h"

#define MEMBER_LINGER_MS (3600 * 1000)

/* ---- duty ---- */

enum sqlb_outcome sqlb_mem_duty_take(struct sqlb_conn *conn, int64_t self, int ttl_ms, struct sqlb_duty *duty,
				     struct ks_err *err)
{
	struct mem_database *database = conn->database;
	enum sqlb_memory_fault fault;
	enum sqlb_outcome outcome = sqlb_mem_begin(conn, "duty_take", &fault, err);
	int64_t now;

	if (outcome != SQLB_OK)
		return outcome;
	now = sqlb_mem_now_ms(database);
	*duty = (struct sqlb_duty){0};
	if (!sqlb_mem_lost_before(fault)) {
		if (database->duty_holder != self && (database->duty_holder == 0 || database->duty_deadline_ms < now)) {
			database->duty_holder = self;
			database->duty_term++;
			duty->taken_now = true;
		}
		if (database->duty_holder == self)
			database->duty_deadline_ms = now + ttl_ms;
		duty->holder = database->duty_holder;
		duty->term = database->duty_term;
		duty->remaining_ms = database->duty_deadline_ms - now;
	}
	return sqlb_mem_end(conn, "duty_take", fault, err);
}

enum sqlb_outcome sqlb_mem_duty_pass(struct sqlb_conn *conn, int64_t self, int64_t to, int ttl_ms, struct ks_err *err)
{
	struct mem_database *database = conn->database;
	enum sqlb_memory_fault fault;
	enum sqlb_outcome outcome = sqlb_mem_begin(conn, "duty_pass", &fault, err);

	if (outcome != SQLB_OK)
		return outcome;
	if (!sqlb_mem_lost_before(fault) && database->duty_holder == self) {
		database->duty_holder = to;
		database->duty_term += to != 0 && to != self;
		database->duty_deadline_ms = sqlb_mem_now_ms(database) + ttl_ms;
	}
	return sqlb_mem_end(conn, "duty_pass", fault, err);
}

/* ---- members ---- */

static struct ks_slice text_copy(struct ks_slice from)
{
	return ks_slice_of(sqlb_mem_array_copy(from.data, from.size, 1), from.size);
}

void sqlb_mem_member_clear(struct mem_member *member)
{
	free((void *)member->member.name.data);
	free((void *)member->member.client_urls.data);
}

static void member_remove(struct mem_database *database, size_t slot)
{
	sqlb_mem_member_clear(&database->members[slot]);
	database->member_count--;
	memmove(&database->members[slot], &database->members[slot + 1],
		(database->member_count - slot) * sizeof(*database->members));
}

enum sqlb_outcome sqlb_mem_member_beat(struct sqlb_conn *conn, const struct sqlb_member *self, int ttl_ms,
				       struct ks_err *err)
{
	struct mem_database *database = conn->database;
	enum sqlb_memory_fault fault;
	enum sqlb_outcome outcome = sqlb_mem_begin(conn, "member_beat", &fault, err);
	size_t slot = 0;
	int64_t now;

	if (outcome != SQLB_OK)
		return outcome;
	if (sqlb_mem_lost_before(fault))
		return sqlb_mem_end(conn, "member_beat", fault, err);
	now = sqlb_mem_now_ms(database);
	for (size_t i = database->member_count; i-- > 0;)
		if (database->members[i].member.id == self->id ||
		    database->members[i].deadline_ms + MEMBER_LINGER_MS < now)
			member_remove(database, i);
	if (ttl_ms > 0) {
		database->members =
			ks_xrealloc(database->members, (database->member_count + 1) * sizeof(*database->members));
		while (slot < database->member_count && database->members[slot].member.id < self->id)
			slot++;
		memmove(&database->members[slot + 1], &database->members[slot],
			(database->member_count - slot) * sizeof(*database->members));
		database->members[slot] = (struct mem_member){.member = *self, .deadline_ms = now + ttl_ms};
		database->members[slot].member.name = text_copy(self->name);
		database->members[slot].member.client_urls = text_copy(self->client_urls);
		database->member_count++;
	}
	return sqlb_mem_end(conn, "member_beat", fault, err);
}

enum sqlb_outcome sqlb_mem_member_list(struct sqlb_conn *conn, sqlb_member_fn *visit, void *ctx, struct ks_err *err)
{
	struct mem_database *database = conn->database;
	enum sqlb_memory_fault fault;
	enum sqlb_outcome outcome = sqlb_mem_begin(conn, "member_list", &fault, err);
	struct mem_member *alive;
	size_t count = 0;
	bool go_on = true;

	if (outcome != SQLB_OK)
		return outcome;
	alive = ks_xcalloc(database->member_count + 1, sizeof(*alive));
	for (size_t i = 0; i < database->member_count; i++) {
		if (database->members[i].deadline_ms < sqlb_mem_now_ms(database))
			continue;
		alive[count] = database->members[i];
		alive[count].member.name = text_copy(alive[count].member.name);
		alive[count].member.client_urls = text_copy(alive[count].member.client_urls);
		count++;
	}
	outcome = sqlb_mem_end(conn, "member_list", fault, err);
	for (size_t i = 0; i < count; i++) {
		if (go_on && (outcome == SQLB_OK || i < count / 2))
			go_on = visit(ctx, &alive[i].member);
		sqlb_mem_member_clear(&alive[i]);
	}
	free(alive);
	return go_on ? outcome : SQLB_OK;
}
