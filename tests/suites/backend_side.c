/* SPDX-License-Identifier: Apache-2.0 */
/* The side tables: leases, duty, members. */
#include "tests/suites/backend.h"

#include <pthread.h>
#include <stdatomic.h>

/* ---- leases ---- */

/* An entry of one row at 'position' with the lease changes of 'append'. */
static bool append_leases(struct sqlb_conn *conn, int64_t position, struct sqlb_append append)
{
	struct sqlb_row row = row_of(position, 0, 1, "l");
	bool appended = false;

	append.rows = &row;
	append.row_count = 1;
	OK(t.ops->append(conn, &append, &appended, &t.err));
	return appended;
}

static void grant(int64_t position, int64_t id, int64_t ttl_ms)
{
	struct sqlb_lease lease = {.id = id, .ttl_ms = ttl_ms};

	CU_ASSERT_TRUE(append_leases(t.a, position, (struct sqlb_append){.leases_new = &lease, .leases_new_count = 1}));
}

static struct sqlb_lease lease_of(int64_t id)
{
	struct sqlb_lease lease = {.id = id};

	OK(t.ops->lease_read(t.b, &lease, 1, &t.err));
	return lease;
}

void appends_create_overwrite_and_remove_leases(void)
{
	const struct sqlb_lease three[] = {{.id = 1, .ttl_ms = LONG_MS},
					   {.id = INT64_MAX, .ttl_ms = 2 * LONG_MS},
					   {.id = 3, .ttl_ms = 3 * LONG_MS}};
	const int64_t gone[] = {1, 3, 99};
	struct sqlb_lease lease;

	migrate();
	CU_ASSERT_TRUE(append_leases(t.a, 1, (struct sqlb_append){.leases_new = three, .leases_new_count = 3}));
	lease = lease_of(INT64_MAX);
	CU_ASSERT_TRUE(lease.found);
	CU_ASSERT_EQUAL(lease.ttl_ms, 2 * LONG_MS);
	CU_ASSERT_TRUE(lease.remaining_ms > LONG_MS && lease.remaining_ms <= 2 * LONG_MS);
	grant(2, 3, 9 * LONG_MS);
	CU_ASSERT_EQUAL(lease_of(3).ttl_ms, 9 * LONG_MS);
	CU_ASSERT_TRUE(append_leases(t.b, 3, (struct sqlb_append){.leases_gone = gone, .leases_gone_count = 3}));
	CU_ASSERT_FALSE(lease_of(1).found);
	CU_ASSERT_FALSE(lease_of(3).found);
	CU_ASSERT_TRUE(lease_of(INT64_MAX).found);
}

void expiry_before_the_deadline_appends_nothing(void)
{
	const int64_t ids[] = {1, 2};
	struct sqlb_append append = {.leases_expired = ids, .leases_expired_count = 1};

	migrate();
	grant(1, 1, LONG_MS);
	CU_ASSERT_FALSE(append_leases(t.b, 2, append));
	CU_ASSERT_EQUAL(head_position(), 1);
	CU_ASSERT_TRUE(lease_of(1).found);
	append.leases_expired = &ids[1]; /* does not exist */
	CU_ASSERT_FALSE(append_leases(t.b, 2, append));
	CU_ASSERT_EQUAL(head_position(), 1);
	OK(append_entry(t.b, 2, 1));
}

void expiry_past_the_deadline_appends_and_removes(void)
{
	const int64_t id = 1;

	migrate();
	grant(1, 1, SHORT_MS);
	pass_ms(SHORT_MS);
	CU_ASSERT_TRUE(lease_of(1).remaining_ms < 0);
	CU_ASSERT_TRUE(append_leases(t.b, 2, (struct sqlb_append){.leases_expired = &id, .leases_expired_count = 1}));
	CU_ASSERT_FALSE(lease_of(1).found);
	CU_ASSERT_EQUAL(head_position(), 2);
}

void one_lease_that_lives_keeps_all_from_expiring(void)
{
	const int64_t ids[] = {1, 2, 3};
	struct sqlb_append append = {.leases_expired = ids, .leases_expired_count = 3};

	migrate();
	grant(1, 1, SHORT_MS);
	grant(2, 2, LONG_MS);
	grant(3, 3, SHORT_MS);
	pass_ms(SHORT_MS);
	CU_ASSERT_FALSE(append_leases(t.b, 4, append));
	CU_ASSERT_TRUE(lease_of(1).found && lease_of(2).found && lease_of(3).found);
	CU_ASSERT_EQUAL(head_position(), 3);
}

void touching_renews_the_living_only(void)
{
	struct sqlb_lease leases[] = {{.id = 1}, {.id = 2}, {.id = 3}};

	migrate();
	grant(1, 1, SHORT_MS);
	grant(2, 2, LONG_MS);
	pass_ms(SHORT_MS);
	OK(t.ops->lease_touch(t.b, leases, 3, &t.err));
	CU_ASSERT_FALSE(leases[0].found);
	CU_ASSERT_TRUE(leases[1].found);
	CU_ASSERT_EQUAL(leases[1].ttl_ms, LONG_MS);
	CU_ASSERT_TRUE(leases[1].remaining_ms > LONG_MS - 5000 && leases[1].remaining_ms <= LONG_MS);
	CU_ASSERT_FALSE(leases[2].found);
	CU_ASSERT_TRUE(lease_of(1).found && lease_of(1).remaining_ms < 0); /* nothing changed */
	CU_ASSERT_TRUE(lease_of(2).remaining_ms > LONG_MS - 5000);
	OK(t.ops->lease_touch(t.b, leases, 0, &t.err));
}

void touching_moves_the_deadline(void)
{
	const int64_t id = 1;
	struct sqlb_lease lease = {.id = 1};
	int64_t before;

	migrate();
	grant(1, 1, 4000);
	pass_ms(100);
	before = lease_of(1).remaining_ms;
	CU_ASSERT_TRUE(before <= 3900);
	OK(t.ops->lease_touch(t.b, &lease, 1, &t.err));
	CU_ASSERT_TRUE(lease.found);
	CU_ASSERT_TRUE(lease_of(1).remaining_ms > before);
	CU_ASSERT_FALSE(append_leases(t.b, 2, (struct sqlb_append){.leases_expired = &id, .leases_expired_count = 1}));
}

void ensuring_adds_the_missing_only(void)
{
	const struct sqlb_lease leases[] = {{.id = 1, .ttl_ms = 3 * LONG_MS}, {.id = 2, .ttl_ms = 2 * LONG_MS}};

	migrate();
	grant(1, 1, LONG_MS);
	OK(t.ops->lease_ensure(t.b, leases, 2, &t.err));
	CU_ASSERT_EQUAL(lease_of(1).ttl_ms, LONG_MS);
	CU_ASSERT_TRUE(lease_of(1).remaining_ms <= LONG_MS);
	CU_ASSERT_EQUAL(lease_of(2).ttl_ms, 2 * LONG_MS);
	CU_ASSERT_TRUE(lease_of(2).remaining_ms > LONG_MS);
}

void refreshing_gives_all_their_whole_ttl(void)
{
	migrate();
	grant(1, 1, SHORT_MS);
	grant(2, 2, LONG_MS);
	pass_ms(SHORT_MS);
	OK(t.ops->lease_refresh_all(t.b, &t.err));
	CU_ASSERT_TRUE(lease_of(1).remaining_ms > -SHORT_MS / 2);
	CU_ASSERT_TRUE(lease_of(2).remaining_ms > LONG_MS - SHORT_MS);
}

struct leases_seen {
	int64_t ids[8];
	size_t count, stop_after;
};

static bool see_lease(void *ctx, const struct sqlb_lease *lease)
{
	struct leases_seen *seen = ctx;

	CU_ASSERT_TRUE(lease->remaining_ms <= lease->ttl_ms);
	if (seen->count < 8)
		seen->ids[seen->count] = lease->id;
	return ++seen->count != seen->stop_after;
}

void leases_are_listed_soonest_first(void)
{
	const int64_t expected[] = {4, 1, 3, 2};
	struct leases_seen seen = {0};

	migrate();
	grant(1, 1, 2 * LONG_MS);
	grant(2, 2, 9 * LONG_MS);
	grant(3, 3, 3 * LONG_MS);
	grant(4, 4, SHORT_MS);
	pass_ms(SHORT_MS);
	OK(t.ops->lease_list(t.b, 0, see_lease, &seen, &t.err));
	CU_ASSERT_EQUAL(seen.count, 4); /* those past their deadline, too */
	CU_ASSERT_EQUAL(memcmp(seen.ids, expected, sizeof(expected)), 0);
	seen = (struct leases_seen){0};
	OK(t.ops->lease_list(t.b, 2, see_lease, &seen, &t.err));
	CU_ASSERT_EQUAL(seen.count, 2);
	CU_ASSERT_EQUAL(seen.ids[1], 1);
	seen = (struct leases_seen){.stop_after = 3};
	OK(t.ops->lease_list(t.b, 0, see_lease, &seen, &t.err));
	CU_ASSERT_EQUAL(seen.count, 3);
}

void reading_and_dropping_leases(void)
{
	struct sqlb_lease leases[] = {{.id = 2}, {.id = 7}, {.id = 1}};
	const int64_t drop[] = {1, 8};

	migrate();
	grant(1, 1, LONG_MS);
	grant(2, 2, 2 * LONG_MS);
	OK(t.ops->lease_read(t.b, leases, 3, &t.err));
	CU_ASSERT_TRUE(leases[0].found && !leases[1].found && leases[2].found);
	CU_ASSERT_EQUAL(leases[0].ttl_ms, 2 * LONG_MS);
	CU_ASSERT_EQUAL(leases[2].ttl_ms, LONG_MS);
	OK(t.ops->lease_drop(t.b, drop, 2, &t.err));
	CU_ASSERT_FALSE(lease_of(1).found);
	CU_ASSERT_TRUE(lease_of(2).found);
}

/*
 * Keepalives against expiry. Both threads go over the same leases about the time they run out, from opposite ends. Whatever
 * happens to one, it cannot be both kept (found by a touch) and expired, unless its renewed time ran out again.
 */
#define RACE_LEASES 24
#define RACE_MS 250

struct keepalive {
	bool found[RACE_LEASES];
	int64_t found_at[RACE_LEASES];
	_Atomic int failures;
};

static void *keep_alive(void *arg)
{
	struct keepalive *keepalive = arg;
	struct ks_err err;

	for (int i = 0; i < RACE_LEASES; i++) {
		struct sqlb_lease lease = {.id = i + 1};

		keepalive->found_at[i] = real_ms(); /* its new time begins now or later */
		if (t.ops->lease_touch(t.b, &lease, 1, &err) != SQLB_OK)
			keepalive->failures++;
		keepalive->found[i] = lease.found;
	}
	return NULL;
}

void keepalive_and_expiry_exclude_each_other(void)
{
	int64_t position = 1;

	migrate();
	for (int round = 0; round < 4; round++) {
		struct sqlb_lease leases[RACE_LEASES];
		struct keepalive keepalive = {0};
		struct sqlb_append append = {.leases_new = leases, .leases_new_count = RACE_LEASES};
		pthread_t thread;

		for (int i = 0; i < RACE_LEASES; i++)
			leases[i] = (struct sqlb_lease){.id = i + 1, .ttl_ms = RACE_MS};
		CU_ASSERT_TRUE(append_leases(t.a, position++, append));
		if (is("memory")) /* on the memory backend expiry always comes in time: half the rounds are past it */
			ks_clock_advance(&t.clock, RACE_MS + round % 2);
		else
			pass_ms(RACE_MS - 20 + round * 2);
		CU_ASSERT_EQUAL_FATAL(pthread_create(&thread, NULL, keep_alive, &keepalive), 0);
		for (int i = RACE_LEASES - 1; i >= 0; i--) {
			const int64_t id = i + 1;
			bool expired = append_leases(
				t.a, position, (struct sqlb_append){.leases_expired = &id, .leases_expired_count = 1});
			position += expired;
			leases[i].found = expired;
			leases[i].remaining_ms = real_ms();
		}
		pthread_join(thread, NULL);
		CU_ASSERT_EQUAL(keepalive.failures, 0);
		for (int i = 0; i < RACE_LEASES; i++) {
			bool ran_out_again = leases[i].remaining_ms - keepalive.found_at[i] >= RACE_MS;

			CU_ASSERT_TRUE(!leases[i].found || !keepalive.found[i] || (ran_out_again && !is("memory")));
			CU_ASSERT_EQUAL(lease_of(i + 1).found, !leases[i].found);
		}
	}
	CU_ASSERT_EQUAL(head_position(), position - 1);
}

/* ---- duty ---- */

static struct sqlb_duty take(struct sqlb_conn *conn, int64_t self, int ttl_ms)
{
	struct sqlb_duty duty = {0};

	OK(t.ops->duty_take(conn, self, ttl_ms, &duty, &t.err));
	return duty;
}

static void check_duty(struct sqlb_duty duty, int64_t holder, int64_t term, bool taken_now, int line)
{
	bool right = duty.holder == holder && duty.term == term && duty.taken_now == taken_now;

	if (!right)
		printf("# line %d: holder %lld term %lld taken_now %d\n", line, (long long)duty.holder,
		       (long long)duty.term, duty.taken_now);
	CU_ASSERT_TRUE(right);
}

#define DUTY(duty, holder, term, taken_now) check_duty(duty, holder, term, taken_now, __LINE__)

void the_duty_has_one_holder_at_a_time(void)
{
	migrate();
	DUTY(take(t.a, -5, LONG_MS), -5, 2, true);
	DUTY(take(t.b, 6, LONG_MS), -5, 2, false);
	DUTY(take(t.a, -5, SHORT_MS), -5, 2, false);
	DUTY(take(t.b, 6, LONG_MS), -5, 2, false);
	pass_ms(SHORT_MS);
	DUTY(take(t.b, 6, SHORT_MS), 6, 3, true);
	DUTY(take(t.a, -5, LONG_MS), 6, 3, false);
	pass_ms(SHORT_MS);
	DUTY(take(t.b, 6, LONG_MS), 6, 3, false); /* late, but nobody was faster */
}

void the_duty_can_be_passed(void)
{
	migrate();
	take(t.a, 5, LONG_MS);
	OK(t.ops->duty_pass(t.b, 6, 7, LONG_MS, &t.err)); /* 6 does not have it */
	DUTY(take(t.b, 6, LONG_MS), 5, 2, false);
	OK(t.ops->duty_pass(t.a, 5, 6, SHORT_MS, &t.err));
	DUTY(take(t.a, 5, LONG_MS), 6, 3, false);
	pass_ms(SHORT_MS); /* 6 did not notice */
	DUTY(take(t.a, 5, LONG_MS), 5, 4, true);
	OK(t.ops->duty_pass(t.a, 5, 0, 0, &t.err));
	DUTY(take(t.b, 6, LONG_MS), 6, 5, true);
}

/* Only the holder's own refresh makes the remaining time grow: so whoever passed it on sees that it was taken. */
void the_time_left_of_the_duty_is_told(void)
{
	struct sqlb_duty duty;

	migrate();
	duty = take(t.a, 5, LONG_MS);
	CU_ASSERT_TRUE(duty.remaining_ms > LONG_MS / 2 && duty.remaining_ms <= LONG_MS);
	OK(t.ops->duty_pass(t.a, 5, 6, LONG_MS / 2, &t.err));
	duty = take(t.a, 5, LONG_MS);
	CU_ASSERT_TRUE(duty.remaining_ms > 0 && duty.remaining_ms <= LONG_MS / 2);
	take(t.b, 6, LONG_MS);
	duty = take(t.a, 5, LONG_MS);
	CU_ASSERT_TRUE(duty.remaining_ms > LONG_MS / 2 && duty.remaining_ms <= LONG_MS);
}

struct candidate {
	struct sqlb_conn *conn;
	int64_t self;
	struct sqlb_duty duty;
	enum sqlb_outcome outcome;
};

static void *apply_for_duty(void *arg)
{
	struct candidate *candidate = arg;
	struct ks_err err;

	candidate->outcome = t.ops->duty_take(candidate->conn, candidate->self, LONG_MS, &candidate->duty, &err);
	return NULL;
}

void of_two_candidates_one_gets_the_duty(void)
{
	migrate();
	for (int round = 0; round < 20; round++) {
		struct candidate both[2] = {{.conn = t.a, .self = 1}, {.conn = t.b, .self = 2}};
		pthread_t thread;

		CU_ASSERT_EQUAL_FATAL(pthread_create(&thread, NULL, apply_for_duty, &both[1]), 0);
		apply_for_duty(&both[0]);
		pthread_join(thread, NULL);
		OK(both[0].outcome);
		OK(both[1].outcome);
		CU_ASSERT_TRUE(both[0].duty.taken_now != both[1].duty.taken_now);
		CU_ASSERT_EQUAL(both[0].duty.holder, both[1].duty.holder);
		CU_ASSERT_EQUAL(both[0].duty.term, round + 2);
		CU_ASSERT_EQUAL(both[1].duty.term, round + 2);
		OK(t.ops->duty_pass(t.a, both[0].duty.holder, 0, 0, &t.err));
	}
}

/* ---- members ---- */

struct members_seen {
	uint64_t ids[8];
	char names[8][32];
	char urls[8][64];
	int64_t positions[8];
	size_t count;
};

static bool see_member(void *ctx, const struct sqlb_member *member)
{
	struct members_seen *seen = ctx;

	if (seen->count < 8) {
		seen->ids[seen->count] = member->id;
		seen->positions[seen->count] = member->position;
		snprintf(seen->names[seen->count], 32, "%.*s", (int)member->name.size, (const char *)member->name.data);
		snprintf(seen->urls[seen->count], 64, "%.*s", (int)member->client_urls.size,
			 (const char *)member->client_urls.data);
	}
	seen->count++;
	return true;
}

static struct members_seen members(void)
{
	struct members_seen seen = {0};

	OK(t.ops->member_list(t.b, see_member, &seen, &t.err));
	return seen;
}

static void beat(uint64_t id, const char *name, const char *urls, int64_t position, int ttl_ms)
{
	struct sqlb_member member = {
		.id = id, .name = ks_slice_str(name), .client_urls = ks_slice_str(urls), .position = position};

	OK(t.ops->member_beat(t.a, &member, ttl_ms, &t.err));
}

void members_are_listed_by_unsigned_id(void)
{
	struct members_seen seen;

	migrate();
	CU_ASSERT_EQUAL(members().count, 0);
	beat(UINT64_MAX, "last", "http://c:2379", 3, LONG_MS);
	beat(1, "first", "http://a:2379,https://b:2379", 1, LONG_MS);
	beat(0x8000000000000000u, "", "", 2, LONG_MS);
	beat(0x7fffffffffffffffu, "caf\xc3\xa9 'x'", "http://d:1", 9, LONG_MS);
	seen = members();
	CU_ASSERT_EQUAL(seen.count, 4);
	CU_ASSERT_EQUAL(seen.ids[0], 1);
	CU_ASSERT_STRING_EQUAL(seen.urls[0], "http://a:2379,https://b:2379");
	CU_ASSERT_EQUAL(seen.ids[1], 0x7fffffffffffffffu);
	/* Text of a database that is not in UTF-8 holds such a name as its bytes. */
	CU_ASSERT_STRING_EQUAL(seen.names[1], strstr(t.base, "/latin1") ? "\\x636166c3a920277827" : "caf\xc3\xa9 'x'");
	CU_ASSERT_EQUAL(seen.ids[2], 0x8000000000000000u);
	CU_ASSERT_STRING_EQUAL(seen.names[2], "");
	CU_ASSERT_EQUAL(seen.ids[3], UINT64_MAX);
	CU_ASSERT_EQUAL(seen.positions[3], 3);
	beat(1, "renamed", "http://z:1", 10, LONG_MS);
	seen = members();
	CU_ASSERT_EQUAL(seen.count, 4);
	CU_ASSERT_STRING_EQUAL(seen.names[0], "renamed");
	CU_ASSERT_STRING_EQUAL(seen.urls[0], "http://z:1");
	CU_ASSERT_EQUAL(seen.positions[0], 10);
}

void members_that_are_silent_or_leave_are_not_listed(void)
{
	struct members_seen seen;

	migrate();
	beat(1, "one", "http://a:1", 1, SHORT_MS);
	beat(2, "two", "http://b:1", 1, LONG_MS);
	beat(3, "three", "http://c:1", 1, LONG_MS);
	beat(3, "three", "http://c:1", 1, 0);
	pass_ms(SHORT_MS);
	seen = members();
	CU_ASSERT_EQUAL(seen.count, 1);
	CU_ASSERT_EQUAL(seen.ids[0], 2);
	beat(1, "one", "http://a:1", 1, LONG_MS);
	CU_ASSERT_EQUAL(members().count, 2);
}
