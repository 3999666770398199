/* SPDX-License-Identifier: Apache-2.0 */
/* Gathering keepalives: the many share a wait, the few and those who wait for an answer before they send do not wait. */
#include "log/gather.h"
#include "tests/lib/tap.h"

/* 'per_second' come evenly, whatever is answered. Steps of a tenth of a millisecond. Returns how many batches took them. */
static int open_loop(struct ks_gather *gather, int64_t *now_ms, int per_second, int ms, int64_t *longest_ms)
{
	size_t arrived = 0;
	int64_t first_ms = *now_ms, end_ms = *now_ms + ms;
	int batches = 0, credit = 0;

	*longest_ms = 0;
	for (int tenth = 0; *now_ms < end_ms; tenth++) {
		*now_ms += tenth % 10 == 9;
		credit += per_second;
		if (credit >= 10000) {
			credit -= 10000;
			if (arrived++ == 0)
				first_ms = *now_ms;
		}
		if (arrived && !ks_gather_waits(gather, arrived, *now_ms)) {
			if (*now_ms - first_ms > *longest_ms)
				*longest_ms = *now_ms - first_ms;
			ks_gather_take(gather, arrived, *now_ms);
			arrived = 0;
			batches++;
			ks_gather_begin(gather, *now_ms);
		}
	}
	return batches;
}

/* 'clients' send the next one when the last was answered, which takes a millisecond. Returns how many were answered. */
static int closed_loop(struct ks_gather *gather, int64_t *now_ms, size_t clients, int ms)
{
	int64_t end_ms = *now_ms + ms;
	int answered = 0;

	while (*now_ms < end_ms) {
		while (ks_gather_waits(gather, clients, *now_ms))
			++*now_ms;
		ks_gather_take(gather, clients, *now_ms);
		++*now_ms;
		ks_gather_begin(gather, *now_ms);
		answered += (int)clients;
	}
	return answered;
}

static void many_share_a_batch_and_none_waits_longer_than_the_limit(void)
{
	struct ks_gather gather = {0};
	int64_t now_ms = 1000, longest_ms;
	int batches;

	open_loop(&gather, &now_ms, 5000, 1000, &longest_ms);
	batches = open_loop(&gather, &now_ms, 5000, 1000, &longest_ms);
	CU_ASSERT(batches <= 250);
	CU_ASSERT(longest_ms <= KS_GATHER_MS);
}

static void few_do_not_wait(void)
{
	struct ks_gather gather = {0};
	int64_t now_ms = 1000, longest_ms;

	for (int per_second = 1; per_second < 700; per_second *= 3) {
		CU_ASSERT(open_loop(&gather, &now_ms, per_second, 5000, &longest_ms) >= per_second * 5 - 1);
		CU_ASSERT_EQUAL(longest_ms, 0);
	}
}

static void few_after_many_do_not_wait_for_long(void)
{
	struct ks_gather gather = {0};
	int64_t now_ms = 1000, longest_ms;

	open_loop(&gather, &now_ms, 20000, 2000, &longest_ms);
	open_loop(&gather, &now_ms, 100, 2 * KS_GATHER_TRY_MS, &longest_ms);
	CU_ASSERT(longest_ms <= KS_GATHER_MS);
	open_loop(&gather, &now_ms, 100, 1000, &longest_ms);
	CU_ASSERT_EQUAL(longest_ms, 0);
}

static void a_long_silence_is_no_rush(void)
{
	struct ks_gather gather = {0};
	int64_t now_ms = 1000, longest_ms;

	open_loop(&gather, &now_ms, 500, 2000, &longest_ms);
	now_ms += 3600 * 1000;
	open_loop(&gather, &now_ms, 10, 2000, &longest_ms);
	CU_ASSERT_EQUAL(longest_ms, 0);
}

static void who_waits_for_answers_is_not_made_to_wait(void)
{
	for (size_t clients = 1; clients <= 1000; clients *= 2) {
		struct ks_gather gather = {0};
		int64_t now_ms = 1000;
		int answered = closed_loop(&gather, &now_ms, clients, 5000);

		/* But for one trial every quarter of a second. */
		CU_ASSERT(answered >= (int)clients * 5000 * 9 / 10);
	}
}

static void a_wait_that_is_stopped_teaches_nothing(void)
{
	struct ks_gather gather = {0};
	int64_t now_ms = 1000, longest_ms;
	size_t enough;

	open_loop(&gather, &now_ms, 5000, 600, &longest_ms);
	ks_gather_begin(&gather, now_ms);
	enough = gather.enough;
	CU_ASSERT(enough >= KS_GATHER_WORTH);
	CU_ASSERT(ks_gather_waits(&gather, 0, now_ms));
	ks_gather_stop(&gather);
	CU_ASSERT(!ks_gather_waits(&gather, 0, now_ms));
	ks_gather_take(&gather, 1, now_ms + KS_GATHER_MS);
	CU_ASSERT_EQUAL(gather.enough, enough);
}

int main(void)
{
	return tap_run("gather",
		       (const struct tap_test[]){
			       {"many_share_a_batch_and_none_waits_longer_than_the_limit",
				many_share_a_batch_and_none_waits_longer_than_the_limit},
			       {"few_do_not_wait", few_do_not_wait},
			       {"few_after_many_do_not_wait_for_long", few_after_many_do_not_wait_for_long},
			       {"a_long_silence_is_no_rush", a_long_silence_is_no_rush},
			       {"who_waits_for_answers_is_not_made_to_wait", who_waits_for_answers_is_not_made_to_wait},
			       {"a_wait_that_is_stopped_teaches_nothing", a_wait_that_is_stopped_teaches_nothing},
			       {NULL, NULL},
		       });
}
