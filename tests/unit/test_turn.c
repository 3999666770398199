/* SPDX-License-Identifier: Apache-2.0 */
/* Turns among several writers: who may append, and that nobody waits for long, whoever is dead, slow or unknown. */
#include "log/turn.h"
#include "tests/lib/tap.h"

static int64_t batch;

static void entries(struct ks_turn *turn, int64_t writer, size_t count, int64_t now_ms)
{
	batch++;
	for (size_t i = 0; i < count; i++)
		ks_turn_entry(turn, writer, batch, now_ms);
}

static void lone_writer_never_waits(void)
{
	struct ks_turn turn;

	ks_turn_init(&turn, 1);
	for (int64_t now = 0; now < 5000; now++) {
		CU_ASSERT_EQUAL(ks_turn_wait(&turn, 1, false, now), 0);
		entries(&turn, 1, 1 + (size_t)now % 100, now);
	}
}

static void one_large_append_is_a_turn_and_four_small_ones_are(void)
{
	struct ks_turn turn;

	ks_turn_init(&turn, 1);
	entries(&turn, 2, 1, 99);
	entries(&turn, 2, 1, 100);
	entries(&turn, 1, KS_TURN_ENTRIES, 101);
	CU_ASSERT(ks_turn_wait(&turn, 1, true, 101) > 0);
	entries(&turn, 2, KS_TURN_ENTRIES, 102);
	for (int i = 0; i < KS_TURN_APPENDS; i++) {
		CU_ASSERT_EQUAL(ks_turn_wait(&turn, 1, true, 110), 0);
		entries(&turn, 1, 1, 110);
	}
	CU_ASSERT(ks_turn_wait(&turn, 1, true, 110) > 0);
}

static void the_run_of_another_is_waited_for_to_its_end_or_to_its_silence(void)
{
	struct ks_turn turn;

	ks_turn_init(&turn, 1);
	entries(&turn, 2, 1, 97);
	entries(&turn, 2, 1, 98);
	entries(&turn, 1, 1, 99);
	entries(&turn, 2, 1, 100);
	CU_ASSERT_EQUAL(ks_turn_wait(&turn, 1, true, 100), 4); /* not known: three times our own append, and one */
	entries(&turn, 2, KS_TURN_ENTRIES, 102);
	CU_ASSERT_EQUAL(ks_turn_wait(&turn, 1, true, 102), 0);
	entries(&turn, 1, KS_TURN_ENTRIES, 103);
	entries(&turn, 2, 1, 104);
	CU_ASSERT_EQUAL(ks_turn_wait(&turn, 1, true, 104), 4);
	CU_ASSERT_EQUAL(ks_turn_wait(&turn, 1, true, 108), 0);
}

/* All see the same log, each draws its own conclusions: at any time exactly one may append, and it is each one's turn in a circle. */
static void of_three_busy_writers_exactly_one_may_append(void)
{
	struct ks_turn turns[3];
	int64_t now = 1000, last = 0;
	size_t served[3] = {0};

	for (size_t i = 0; i < 3; i++)
		ks_turn_init(&turns[i], (int64_t)i + 1);
	for (size_t i = 0; i < 6; i++, now++) {
		batch++;
		for (size_t j = 0; j < 3; j++)
			ks_turn_entry(&turns[j], (int64_t)i % 3 + 1, batch, now);
	}
	for (int round = 0; round < 300; round++, now += 2) {
		size_t who = 3, many = 0;

		for (size_t i = 0; i < 3; i++)
			if (ks_turn_wait(&turns[i], 2, true, now) == 0) {
				who = i;
				many++;
			}
		CU_ASSERT_EQUAL_FATAL(many, 1);
		CU_ASSERT_NOT_EQUAL((int64_t)who + 1, last);
		last = (int64_t)who + 1;
		served[who]++;
		batch++;
		for (size_t j = 0; j < 3; j++)
			for (int entry = 0; entry < KS_TURN_ENTRIES; entry++)
				ks_turn_entry(&turns[j], last, batch, now);
	}
	for (size_t i = 0; i < 3; i++)
		CU_ASSERT_EQUAL(served[i], 100);
}

static void who_does_not_come_costs_its_patience_once(void)
{
	struct ks_turn turn;
	int64_t now = 1000, waited = 0, wait;

	ks_turn_init(&turn, 1);
	entries(&turn, 2, 8, now - 1);
	entries(&turn, 2, 8, now);
	for (int i = 0; i < 100; i++, now++) {
		while ((wait = ks_turn_wait(&turn, 1, true, now)) > 0) {
			waited += wait;
			now += wait;
		}
		entries(&turn, 1, 100, now);
	}
	/* Room for the unknown is left as well, and costs little. */
	CU_ASSERT(waited > 0 && waited <= 4 + 2 * (now - 1000) / KS_TURN_ROOM_MS + 2);
	for (int i = 0; i < 10; i++)
		entries(&turn, 2, 8, now); /* it lives */
	entries(&turn, 1, 100, now);
	CU_ASSERT(ks_turn_wait(&turn, 1, true, now) > 0);
}

static void patience_is_twice_what_following_took(void)
{
	struct ks_turn turn;
	int64_t now = 1000;

	ks_turn_init(&turn, 1);
	entries(&turn, 2, 1, now - 1);
	entries(&turn, 2, 1, now);
	for (int i = 0; i < 20; i++) {
		entries(&turn, 1, 100, now);
		CU_ASSERT(ks_turn_wait(&turn, 1, true, now) > 0);
		now += 10;
		entries(&turn, 2, 100, now);
		now += 1;
	}
	entries(&turn, 1, 100, now);
	CU_ASSERT_EQUAL(ks_turn_wait(&turn, 1, true, now), 20);
	for (int i = 0; i < 100; i++) {
		entries(&turn, 1, 100, now);
		CU_ASSERT(ks_turn_wait(&turn, 1, true, now) > 0);
		now += 1;
		entries(&turn, 2, 100, now);
	}
	entries(&turn, 1, 100, now);
	CU_ASSERT_EQUAL(ks_turn_wait(&turn, 1, true, now), KS_TURN_LEAST_MS);
}

/* The second of two that append now and then does not wait for the first, and that one teaches nobody to be patient. */
static void who_appends_now_and_then_is_not_waited_for(void)
{
	struct ks_turn turn;
	int64_t now = 1000;

	ks_turn_init(&turn, 1);
	for (int i = 0; i < 100; i++) {
		entries(&turn, 2, 1, now += 40);
		CU_ASSERT_EQUAL(ks_turn_wait(&turn, 1, true, now + 1), 0);
		entries(&turn, 1, 1, now += 2);
		ks_turn_idle(&turn, now);
	}
	/* One that comes seldom with much is: it may be that it never wins. */
	entries(&turn, 2, KS_TURN_ENTRIES, now += 400);
	entries(&turn, 1, 100, now);
	CU_ASSERT(ks_turn_wait(&turn, 1, true, now) > 0);
	ks_turn_idle(&turn, now);
	for (int i = 0; i < 20; i++) {
		entries(&turn, 2, 1, now += 100);
		entries(&turn, 1, 1, now);
	}
	CU_ASSERT_EQUAL(ks_turn_wait(&turn, 1, false, now), 0);
	ks_turn_idle(&turn, now);
	/* Until it is busy. */
	for (int i = 0; i < 20; i++)
		entries(&turn, 2, 1, now += 2);
	entries(&turn, 1, 100, now);
	CU_ASSERT(ks_turn_wait(&turn, 1, true, now) > 0);
	CU_ASSERT(ks_turn_wait(&turn, 1, true, now) <= 4);
}

/* Whatever comes: entries of any number of writers at any pace. */
static void nobody_waits_for_longer_than_the_most(void)
{
	struct ks_turn turn;
	int64_t now = 1000, began = now;
	uint64_t random = 1;

	ks_turn_init(&turn, 1);
	for (int i = 0; i < 200000; i++) {
		int64_t append_ms = 1 + (int64_t)(random >> 40) % 300;
		int64_t wait = ks_turn_wait(&turn, append_ms, true, now);

		random = random * 6364136223846793005u + 1442695040888963407u;
		CU_ASSERT_FATAL(wait >= 0);
		CU_ASSERT_FATAL(now - began <= KS_TURN_MOST_MS(KS_TURN_APPEND_MS) + 4);
		if (wait == 0) {
			entries(&turn, 1, 1 + (random >> 33) % 20, now);
			began = now;
		} else {
			now += 1 + (int64_t)(random >> 50) % (wait < 4 ? wait : 4);
			entries(&turn, 2 + (int64_t)((random >> 20) % 40), 1 + (random >> 33) % 20, now);
		}
	}
}

static void an_unknown_one_gets_room_from_who_appends_without_a_break(void)
{
	struct ks_turn turn;
	int64_t now = 1000, waits = 0;

	ks_turn_init(&turn, 1);
	ks_turn_idle(&turn, now);
	for (; now < 2000; now++) {
		int64_t wait;

		while ((wait = ks_turn_wait(&turn, 1, true, now)) > 0) {
			waits++;
			now += wait;
		}
		entries(&turn, 1, 100, now);
	}
	CU_ASSERT(waits >= 1000 / KS_TURN_ROOM_MS - 3 && waits <= 1000 / KS_TURN_ROOM_MS);
}

/* 2 and 3 append 5 and 10 ms after us: a look before that is of no use, and so there are few. */
static void looks_begin_shortly_before_the_turn(void)
{
	struct ks_turn turn;
	int64_t now = 1000;
	size_t looks = 0;

	ks_turn_init(&turn, 1);
	entries(&turn, 2, 100, now - 2);
	entries(&turn, 3, 100, now - 1);
	for (int round = 0; round < 50; round++) {
		int64_t own = now, seen = 0;

		entries(&turn, 1, 100, now);
		if (round > 20)
			looks = 0;
		while (seen < 2) {
			CU_ASSERT_FATAL(ks_turn_wait(&turn, 10, true, now) > 0);
			CU_ASSERT_FATAL(turn.look_ms > now);
			now = turn.look_ms;
			looks++;
			for (; seen < 2 && now >= own + 5 * (seen + 1); seen++)
				entries(&turn, 2 + seen, 100, now);
		}
		CU_ASSERT_EQUAL(ks_turn_wait(&turn, 10, true, now), 0);
		CU_ASSERT_EQUAL(turn.look_ms, 0);
		CU_ASSERT(now - own <= 11);
		if (round > 20)
			CU_ASSERT(looks <= 3);
	}
	/* They become ten times slower, and fast again at once: nobody looks much too late. */
	for (int round = 0; round < 80; round++) {
		int64_t own = now, took = round < 31 ? 10 + 3 * round : 10;

		entries(&turn, 1, 100, now);
		while (turn.owner == 1) {
			CU_ASSERT_FATAL(ks_turn_wait(&turn, 10, true, now) > 0);
			CU_ASSERT(turn.look_ms - now <= KS_TURN_LOOK_MS);
			now = turn.look_ms;
			if (now >= own + took) {
				entries(&turn, 2, 100, now);
				entries(&turn, 3, 100, now);
			}
		}
		CU_ASSERT(now - own <= took + KS_TURN_LOOK_MS);
		if (round > 60)
			CU_ASSERT(now - own <= took + 2);
	}
}

/* Beside one that appends every 5 ms and does not wait for it, it loses three races of four. */
static void lost_races_do_not_make_it_look_later(void)
{
	struct ks_turn turn;
	int64_t now = 1000;

	ks_turn_init(&turn, 1);
	entries(&turn, 2, 100, now - 5);
	for (int round = 0; round < 40; round++) {
		int64_t own = now;

		entries(&turn, 1, KS_TURN_ENTRIES, own);
		CU_ASSERT_FATAL(ks_turn_wait(&turn, 10, true, now) > 0);
		while (ks_turn_wait(&turn, 10, true, now) > 0) {
			now = turn.look_ms;
			if (now >= own + 5)
				entries(&turn, 2, 100, now);
		}
		if (round > 10)
			CU_ASSERT(now - own <= 6);
		for (int lost = 0; lost < 3; lost++) {
			entries(&turn, 2, 100, now += 5);
			(void)ks_turn_wait(&turn, 10, true, now);
		}
	}
	/* Nor does a time without anything to append. */
	ks_turn_idle(&turn, now);
	for (int i = 0; i < 20; i++)
		entries(&turn, 2, 100, now += 5);
	CU_ASSERT_EQUAL(ks_turn_wait(&turn, 10, true, now), 0);
	entries(&turn, 1, KS_TURN_ENTRIES, now);
	CU_ASSERT(ks_turn_wait(&turn, 10, true, now) > 0);
	CU_ASSERT(turn.look_ms - now <= 6);
}

static void a_lull_is_short_and_only_after_an_own_append(void)
{
	struct ks_turn turn;

	ks_turn_init(&turn, 1);
	CU_ASSERT(ks_turn_lull(&turn, 1000) <= 0);
	entries(&turn, 1, 1, 1000);
	CU_ASSERT_EQUAL(ks_turn_lull(&turn, 1001), KS_TURN_LULL_MS - 1);
	CU_ASSERT(ks_turn_lull(&turn, 1000 + KS_TURN_LULL_MS) <= 0);
	entries(&turn, 2, 1, 1001);
	CU_ASSERT(ks_turn_lull(&turn, 1001) <= 0);
	entries(&turn, 1, 1, 1002);
	CU_ASSERT(ks_turn_lull(&turn, 1002) <= 0); /* others append as well, and little */
	entries(&turn, 2, 1, 1003);
	entries(&turn, 1, KS_TURN_ENTRIES, 1004);
	CU_ASSERT_EQUAL(ks_turn_lull(&turn, 1005), KS_TURN_LULL_MS - 1);
}

static void the_end_of_a_run_of_small_appends_is_looked_for_without_a_break(void)
{
	struct ks_turn turn;
	int64_t now = 1000;

	ks_turn_init(&turn, 1);
	for (int round = 0; round < 20; round++) {
		entries(&turn, 1, KS_TURN_ENTRIES, now);
		for (int i = 0; i < KS_TURN_APPENDS; i++) {
			if (round > 1) {
				CU_ASSERT(ks_turn_wait(&turn, 10, true, now) > 0);
				CU_ASSERT_EQUAL(turn.look_ms, now + 1);
			}
			entries(&turn, 2, 1, now += 5);
		}
	}
}

static void who_has_been_silent_for_long_is_forgotten(void)
{
	struct ks_turn turn;

	ks_turn_init(&turn, 1);
	entries(&turn, 2, 100, 1000);
	entries(&turn, 1, 100, 1001 + KS_TURN_LATELY_MS);
	CU_ASSERT_EQUAL(ks_turn_wait(&turn, 1, false, 1001 + KS_TURN_LATELY_MS), 0);
}

int main(void)
{
	return tap_run(
		"turn",
		(const struct tap_test[]){
			{"lone_writer_never_waits", lone_writer_never_waits},
			{"one_large_append_is_a_turn_and_four_small_ones_are",
			 one_large_append_is_a_turn_and_four_small_ones_are},
			{"the_run_of_another_is_waited_for_to_its_end_or_to_its_silence",
			 the_run_of_another_is_waited_for_to_its_end_or_to_its_silence},
			{"of_three_busy_writers_exactly_one_may_append", of_three_busy_writers_exactly_one_may_append},
			{"who_does_not_come_costs_its_patience_once", who_does_not_come_costs_its_patience_once},
			{"patience_is_twice_what_following_took", patience_is_twice_what_following_took},
			{"who_appends_now_and_then_is_not_waited_for", who_appends_now_and_then_is_not_waited_for},
			{"nobody_waits_for_longer_than_the_most", nobody_waits_for_longer_than_the_most},
			{"an_unknown_one_gets_room_from_who_appends_without_a_break",
			 an_unknown_one_gets_room_from_who_appends_without_a_break},
			{"who_has_been_silent_for_long_is_forgotten", who_has_been_silent_for_long_is_forgotten},
			{"looks_begin_shortly_before_the_turn", looks_begin_shortly_before_the_turn},
			{"the_end_of_a_run_of_small_appends_is_looked_for_without_a_break",
			 the_end_of_a_run_of_small_appends_is_looked_for_without_a_break},
			{"lost_races_do_not_make_it_look_later", lost_races_do_not_make_it_look_later},
			{"a_lull_is_short_and_only_after_an_own_append", a_lull_is_short_and_only_after_an_own_append},
			{NULL, NULL},
		});
}
