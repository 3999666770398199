/* SPDX-License-Identifier: Apache-2.0 */
/* When the next round of a watch stream waits. */
#include "api/watch_rounds.h"
#include "tests/lib/tap.h"

#define MANY 100

/* A round that began at 'now' and took so long; how long the next one waits. */
static int64_t round_of(struct ks_watch_rounds *rounds, size_t responses, size_t joined, int64_t took_us)
{
	static int64_t now = 1000000;

	ks_watch_rounds_begin(rounds, now);
	rounds->responses += responses;
	rounds->joined += joined;
	now += took_us;
	return ks_watch_rounds_end(rounds, now);
}

static void a_rest_is_as_long_as_the_round_up_to_a_limit(void)
{
	struct ks_watch_rounds rounds = {0};

	CU_ASSERT_EQUAL(round_of(&rounds, MANY, MANY, 700), 700);
	CU_ASSERT_EQUAL(round_of(&rounds, MANY, MANY, 100000), KS_WATCH_REST_MAX_US);
	CU_ASSERT_EQUAL(rounds.began_us, 0);
}

static void small_rounds_never_rest(void)
{
	struct ks_watch_rounds rounds = {0};

	for (int i = 0; i < 10 * KS_WATCH_TRIAL_ROUNDS; i++)
		CU_ASSERT_EQUAL(round_of(&rounds, KS_WATCH_ROUND_RESPONSES - 1, KS_WATCH_ROUND_RESPONSES - 1, 700), 0);
}

static void rests_go_on_for_a_while_after_the_last_that_paid(void)
{
	struct ks_watch_rounds rounds = {0};
	int rests = 0;

	CU_ASSERT_EQUAL(round_of(&rounds, MANY, MANY / 2 + 1, 700), 700);
	for (int i = 0; i < KS_WATCH_TRIAL_ROUNDS; i++)
		rests += round_of(&rounds, MANY, MANY / 2, 700) > 0;
	CU_ASSERT_EQUAL(rests, KS_WATCH_RESTS_JOINED - 1);
}

static void without_several_revisions_there_are_only_trials(void)
{
	struct ks_watch_rounds rounds = {0};
	int rests = 0;

	for (int i = 0; i < 10 * (KS_WATCH_TRIAL_ROUNDS + KS_WATCH_RESTS_TRIAL); i++)
		rests += round_of(&rounds, MANY, 0, 700) > 0;
	CU_ASSERT_TRUE(rests >= 9 * KS_WATCH_RESTS_TRIAL);
	CU_ASSERT_TRUE(rests <= 10 * KS_WATCH_RESTS_TRIAL);
}

int main(void)
{
	return tap_run("watch_rounds", (const struct tap_test[]){
#define T(name) {#name, name}
					       T(a_rest_is_as_long_as_the_round_up_to_a_limit),
					       T(small_rounds_never_rest),
					       T(rests_go_on_for_a_while_after_the_last_that_paid),
					       T(without_several_revisions_there_are_only_trials),
#undef T
					       {NULL, NULL}});
}
