/* SPDX-License-Identifier: Apache-2.0 */
/* When the reader of a stream rests: among many messages, and never for somebody who sends few or waits for the answer. */
#include "net/rest.h"
#include "tests/lib/tap.h"

#define LONG_US (KS_REST_SOON_US + 1)

/* Messages come evenly and are not waited for by anybody. Returns how many had to be waited for. */
static int open_loop(struct ks_rest *rest, int64_t apart_us, int count, int64_t *latest_us)
{
	int64_t asked_us = 0;
	int waited = 0;

	*latest_us = 0;
	for (int i = 1; i <= count; i++) {
		int64_t sent_us = i * apart_us, read_us = sent_us > asked_us ? sent_us : asked_us;
		bool rests = ks_rest_begins(rest, read_us - asked_us);

		waited += read_us - asked_us > KS_REST_SOON_US;
		if (read_us - sent_us > *latest_us)
			*latest_us = read_us - sent_us;
		asked_us = read_us + (rests ? KS_REST_MS * 1000 : 0);
	}
	return waited;
}

static void of_many_few_are_waited_for(void)
{
	struct ks_rest rest = {0};
	int64_t latest_us;

	CU_ASSERT_EQUAL(open_loop(&rest, 800, KS_REST_TRY, &latest_us), KS_REST_TRY);
	CU_ASSERT(open_loop(&rest, 800, 10000, &latest_us) < 1200);
	CU_ASSERT(latest_us <= KS_REST_MS * 1000);
}

static void few_are_read_at_once(void)
{
	struct ks_rest rest = {0};
	int64_t latest_us;
	int count = 10 * KS_REST_TRY;

	/* But for one in each trial. */
	CU_ASSERT(open_loop(&rest, 8000, count, &latest_us) >= count - 10);
}

static void the_one_after_an_answer_is_read_at_once(void)
{
	struct ks_rest rest = {0};
	int rests = 0;

	for (int i = 0; i < 10 * KS_REST_TRY; i++) {
		if (ks_rest_begins(&rest, LONG_US)) {
			rests++;
			CU_ASSERT_FALSE(ks_rest_begins(&rest, 0)); /* the answer's successor came during the rest */
		}
	}
	CU_ASSERT_EQUAL(rests, 9);
}

static void without_what_was_found_there_is_no_further_rest(void)
{
	struct ks_rest rest = {.pays = true, .found = KS_REST_WORTH};

	CU_ASSERT(ks_rest_begins(&rest, LONG_US));
	for (int i = 0; i < KS_REST_WORTH - 1; i++)
		CU_ASSERT_FALSE(ks_rest_begins(&rest, 0));
	CU_ASSERT_FALSE(ks_rest_begins(&rest, LONG_US));
	for (int i = 1; i < KS_REST_TRY; i++)
		CU_ASSERT_FALSE(ks_rest_begins(&rest, LONG_US));
	CU_ASSERT(ks_rest_begins(&rest, LONG_US));
}

int main(void)
{
	return tap_run("rest",
		       (const struct tap_test[]){
			       {"of_many_few_are_waited_for", of_many_few_are_waited_for},
			       {"few_are_read_at_once", few_are_read_at_once},
			       {"the_one_after_an_answer_is_read_at_once", the_one_after_an_answer_is_read_at_once},
			       {"without_what_was_found_there_is_no_further_rest",
				without_what_was_found_there_is_no_further_rest},
			       {NULL, NULL},
		       });
}
