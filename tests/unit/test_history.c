/* SPDX-License-Identifier: Apache-2.0 */
/* The checker of the crash runs must be able to fail: each kind of violation, and a history without one. */
#include "tests/crash/history.h"
#include "tests/lib/tap.h"

static struct history *history;
static FILE *out;

static void begin(void)
{
	out = fopen("/dev/null", "w");
	CU_ASSERT_PTR_NOT_NULL_FATAL(out);
	history = history_new(2);
}

static void end(void)
{
	history_free(history);
	fclose(out);
}

static void told(unsigned watcher, int64_t revision, unsigned key, uint64_t value)
{
	history_told(history, watcher, &(struct told){.revision = revision, .key = key, .value = value});
}

static void both_told(int64_t revision, unsigned key, uint64_t value)
{
	told(0, revision, key, value);
	told(1, revision, key, value);
}

static void put(unsigned key, uint64_t value, int64_t revision, int64_t start, int64_t stop, enum op_outcome outcome)
{
	history_add(history, &(struct op){.kind = OP_PUT,
					  .outcome = outcome,
					  .key = key,
					  .value = value,
					  .mod_revision = revision,
					  .header_revision = revision,
					  .start_ns = start,
					  .end_ns = stop});
}

static void get(unsigned key, uint64_t value, int64_t mod, int64_t header, int64_t start, int64_t stop)
{
	history_add(history, &(struct op){.kind = OP_GET,
					  .key = key,
					  .value = value,
					  .mod_revision = mod,
					  .header_revision = header,
					  .start_ns = start,
					  .end_ns = stop});
}

static unsigned all_checks(void)
{
	return history_check_watchers(history, 1, out) + history_check_acknowledged(history, out) +
	       history_check_linearizable(history, 1, out);
}

static void clean_history_passes(void)
{
	begin();
	both_told(2, 1, 10);
	both_told(3, 1, 11);
	both_told(4, 2, 12);
	put(1, 10, 2, 0, 10, OP_OK);
	put(1, 11, 3, 5, 15, OP_OK);
	put(2, 12, 0, 5, 15, OP_UNKNOWN); /* happened, but nobody was told */
	put(2, 13, 0, 5, 15, OP_UNKNOWN); /* did not happen */
	put(2, 14, 0, 5, 15, OP_REFUSED);
	get(1, 11, 3, 3, 16, 20);
	get(2, 0, 0, 3, 16, 20);
	CU_ASSERT_EQUAL(history_acknowledged(history), 2);
	CU_ASSERT_EQUAL(all_checks(), 0);
	end();
}

static void gap_in_what_a_watcher_was_told_fails(void)
{
	begin();
	both_told(2, 1, 10);
	both_told(4, 1, 11);
	CU_ASSERT(history_check_watchers(history, 1, out) > 0);
	end();
}

static void event_told_twice_fails(void)
{
	begin();
	both_told(2, 1, 10);
	both_told(3, 1, 11);
	told(1, 3, 1, 11);
	CU_ASSERT(history_check_watchers(history, 1, out) > 0);
	end();
}

static void watchers_that_disagree_fail(void)
{
	begin();
	told(0, 2, 1, 10);
	told(1, 2, 1, 11);
	CU_ASSERT(history_check_watchers(history, 1, out) > 0);
	end();
}

static void lost_acknowledged_write_fails(void)
{
	begin();
	both_told(2, 1, 10);
	put(1, 10, 2, 0, 10, OP_OK);
	put(1, 11, 3, 11, 12, OP_OK);
	CU_ASSERT(history_check_acknowledged(history, out) > 0);
	end();
}

static void put_that_happened_twice_fails(void)
{
	begin();
	both_told(2, 1, 10);
	both_told(3, 1, 10);
	put(1, 10, 2, 0, 10, OP_OK);
	CU_ASSERT(history_check_acknowledged(history, out) > 0);
	end();
}

static void refused_put_that_happened_fails(void)
{
	begin();
	both_told(2, 1, 10);
	put(1, 10, 0, 0, 10, OP_REFUSED);
	CU_ASSERT(history_check_acknowledged(history, out) > 0);
	end();
}

static void stale_read_fails(void)
{
	begin();
	both_told(2, 1, 10);
	both_told(3, 1, 11);
	put(1, 10, 2, 0, 10, OP_OK);
	put(1, 11, 3, 11, 20, OP_OK);
	get(1, 10, 2, 2, 21, 30);
	CU_ASSERT(history_check_linearizable(history, 1, out) > 0);
	end();
}

static void read_that_disagrees_with_its_revision_fails(void)
{
	begin();
	both_told(2, 1, 10);
	both_told(3, 1, 11);
	put(1, 10, 2, 0, 10, OP_OK);
	put(1, 11, 3, 0, 20, OP_OK);
	get(1, 10, 2, 3, 15, 30);
	CU_ASSERT(history_check_linearizable(history, 1, out) > 0);
	end();
}

static void writes_against_real_time_fail(void)
{
	begin();
	both_told(2, 1, 11);
	both_told(3, 1, 10);
	put(1, 10, 3, 0, 10, OP_OK);
	put(1, 11, 2, 11, 20, OP_OK);
	CU_ASSERT(history_check_linearizable(history, 1, out) > 0);
	end();
}

int main(void)
{
	static const struct tap_test tests[] = {
		{"clean_history_passes", clean_history_passes},
		{"gap_in_what_a_watcher_was_told_fails", gap_in_what_a_watcher_was_told_fails},
		{"event_told_twice_fails", event_told_twice_fails},
		{"watchers_that_disagree_fail", watchers_that_disagree_fail},
		{"lost_acknowledged_write_fails", lost_acknowledged_write_fails},
		{"put_that_happened_twice_fails", put_that_happened_twice_fails},
		{"refused_put_that_happened_fails", refused_put_that_happened_fails},
		{"stale_read_fails", stale_read_fails},
		{"read_that_disagrees_with_its_revision_fails", read_that_disagrees_with_its_revision_fails},
		{"writes_against_real_time_fail", writes_against_real_time_fail},
		{NULL, NULL},
	};

	return tap_run("history", tests);
}
