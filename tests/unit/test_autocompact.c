/* SPDX-License-Identifier: Apache-2.0 */
/* When auto-compaction compacts, and to what; its flags; and durations as Go writes them. All with a clock of our own. */
#include <string.h>

#include "base/duration.h"
#include "log/autocompact.h"
#include "tests/lib/tap.h"

#define MINUTE INT64_C(60000)
#define HOUR (60 * MINUTE)

static struct ks_err err;

/* ---- durations and flags ---- */

static void durations_are_those_of_go(void)
{
	static const struct {
		const char *text;
		int64_t ns;
	} rows[] = {
		{"0", 0},
		{"5m", 300000 * KS_NS_PER_MS},
		{"1h30m", 90 * 60000 * KS_NS_PER_MS},
		{"1.5h", 90 * 60000 * KS_NS_PER_MS},
		{"+.5s", 500 * KS_NS_PER_MS},
		{"1.s", 1000 * KS_NS_PER_MS},
		{"-2ms", -2 * KS_NS_PER_MS},
		{"3us", 3000},
		{"3\xc2\xb5s", 3000},
		{"7ns", 7},
		{"2540400h10m10s", (INT64_C(2540400) * 3600 + 610) * 1000 * KS_NS_PER_MS},
	};
	int64_t ns;

	for (size_t i = 0; i < sizeof(rows) / sizeof(*rows); i++) {
		CU_ASSERT_EQUAL(ks_duration_parse(rows[i].text, &ns, &err), KS_OK);
		CU_ASSERT_EQUAL(ns, rows[i].ns);
	}
}

static void bad_durations_are_named_as_go_names_them(void)
{
	static const char *const rows[][2] = {
		{"", "time: invalid duration \"\""},
		{"-", "time: invalid duration \"-\""},
		{".s", "time: invalid duration \".s\""},
		{"bad", "time: invalid duration \"bad\""},
		{"1h bad", "time: unknown unit \"h bad\" in duration \"1h bad\""},
		{"5", "time: missing unit in duration \"5\""},
		{"-1", "time: missing unit in duration \"-1\""},
		{"1.2.3s", "time: missing unit in duration \"1.2.3s\""},
		{"5x", "time: unknown unit \"x\" in duration \"5x\""},
		{"9223372036854775808ns", "time: invalid duration \"9223372036854775808ns\""},
		{"2562048h", "time: invalid duration \"2562048h\""},
	};
	int64_t ns;

	for (size_t i = 0; i < sizeof(rows) / sizeof(*rows); i++) {
		CU_ASSERT_EQUAL(ks_duration_parse(rows[i][0], &ns, &err), KS_INVALID_ARGUMENT);
		CU_ASSERT_STRING_EQUAL(err.text, rows[i][1]);
	}
}

static void flags_are_read_as_etcd_reads_them(void)
{
	static const struct {
		const char *mode, *retention;
		enum ks_autocompact_mode expected;
		int64_t value;
		bool odd;
	} rows[] = {
		{"periodic", "0", KS_AUTOCOMPACT_OFF, 0, false},
		{"revision", "0", KS_AUTOCOMPACT_OFF, 0, false},
		{"periodic", "0s", KS_AUTOCOMPACT_OFF, 0, false},
		{"periodic", "1", KS_AUTOCOMPACT_PERIODIC, KS_NS_PER_HOUR, false},
		{"periodic", "+24", KS_AUTOCOMPACT_PERIODIC, 24 * KS_NS_PER_HOUR, false},
		{"periodic", "5m", KS_AUTOCOMPACT_PERIODIC, 300000 * KS_NS_PER_MS, false},
		{"revision", "1000", KS_AUTOCOMPACT_REVISION, 1000, false},
		{"revision", "1us", KS_AUTOCOMPACT_REVISION, 1000, true},
	};
	static const char *const bad[][3] = {
		{"x", "0", "unknown auto-compaction-mode \"x\""},
		{"", "0", "unknown auto-compaction-mode \"\""},
		{"periodic", "", "error parsing CompactionRetention: time: invalid duration \"\""},
		{"periodic", "bad", "error parsing CompactionRetention: time: invalid duration \"bad\""},
		{"revision", "-1", "error parsing CompactionRetention: time: missing unit in duration \"-1\""},
		{"periodic", "5x", "error parsing CompactionRetention: time: unknown unit \"x\" in duration \"5x\""},
		{"periodic", "-5m", "error parsing CompactionRetention: -5m is negative"},
		{"periodic", "9223372036854775807",
		 "error parsing CompactionRetention: 9223372036854775807 hours are too many"},
	};
	struct ks_autocompact_config config;
	bool odd;

	for (size_t i = 0; i < sizeof(rows) / sizeof(*rows); i++) {
		CU_ASSERT_EQUAL(ks_autocompact_parse(rows[i].mode, rows[i].retention, &config, &odd, &err), KS_OK);
		CU_ASSERT_EQUAL(config.mode, rows[i].expected);
		CU_ASSERT_EQUAL(config.retention, rows[i].value);
		CU_ASSERT_EQUAL(odd, rows[i].odd);
	}
	for (size_t i = 0; i < sizeof(bad) / sizeof(*bad); i++) {
		CU_ASSERT_EQUAL(ks_autocompact_parse(bad[i][0], bad[i][1], &config, &odd, &err), KS_INVALID_ARGUMENT);
		CU_ASSERT_STRING_EQUAL(err.text, bad[i][2]);
	}
}

/*
 * ---- the machine: a revision a second, the clock in steps of a second ----
 *
 * In steady state the oldest sample is one step older than the period, because a step is slept between the sample that drops
 * the one before and the look at the oldest; so does etcd.
 */

static struct ks_autocompact ac;
static int64_t now_ms;

static void begin(enum ks_autocompact_mode mode, int64_t retention)
{
	struct ks_autocompact_config config = {.mode = mode, .retention = retention};

	now_ms = 0;
	ks_autocompact_init(&ac, &config);
}

static int64_t revision_at(int64_t ms)
{
	return 1 + ms / 1000;
}

/* Runs until 'until_ms'; the revision of the first compaction, at once answered by 'succeeded', and when it came. 0: none. */
static int64_t run(int64_t until_ms, bool active, bool succeeded, int64_t *at_ms)
{
	int64_t revision = 0;

	for (; now_ms <= until_ms && !revision; now_ms += 1000) {
		*at_ms = now_ms;
		while (!revision && ks_autocompact_due_ms(&ac) <= now_ms)
			revision = ks_autocompact_step(&ac, now_ms, revision_at(now_ms), active);
	}
	if (revision) {
		ks_autocompact_done(&ac, *at_ms, succeeded);
		CU_ASSERT_EQUAL(ks_autocompact_step(&ac, *at_ms, revision_at(*at_ms), active), 0);
	}
	return revision;
}

struct expected {
	int64_t at_ms, revision;
};

static void check(const struct expected *expected, size_t count, int64_t until_ms)
{
	int64_t at_ms;

	for (size_t i = 0; i < count; i++) {
		CU_ASSERT_EQUAL(run(until_ms, true, true, &at_ms), expected[i].revision);
		CU_ASSERT_EQUAL(at_ms, expected[i].at_ms);
		if (at_ms != expected[i].at_ms)
			printf("# %zu: at %lld s\n", i, (long long)at_ms / 1000);
	}
	CU_ASSERT_EQUAL(run(until_ms, true, true, &at_ms), 0);
	ks_autocompact_fini(&ac);
}

#define CHECK(until_ms, ...)                          \
	check((const struct expected[]){__VA_ARGS__}, \
	      sizeof((const struct expected[]){__VA_ARGS__}) / sizeof(struct expected), (until_ms))

static void a_short_period_compacts_each_period_to_what_was_a_period_ago(void)
{
	begin(KS_AUTOCOMPACT_PERIODIC, 10 * 60000 * KS_NS_PER_MS);
	CHECK(35 * MINUTE, {10 * MINUTE, 1}, {20 * MINUTE, 541}, {30 * MINUTE, 1141});
}

static void a_long_period_compacts_each_hour_to_what_was_a_period_ago(void)
{
	begin(KS_AUTOCOMPACT_PERIODIC, 5 * KS_NS_PER_HOUR);
	CHECK(8 * HOUR + MINUTE, {5 * HOUR, 1}, {6 * HOUR, 3241}, {7 * HOUR, 6841}, {8 * HOUR, 10441});
}

static void revision_mode_keeps_so_many_each_five_minutes(void)
{
	begin(KS_AUTOCOMPACT_REVISION, 500);
	CHECK(16 * MINUTE, {10 * MINUTE, 101}, {15 * MINUTE, 401});
}

static void off_never_compacts(void)
{
	int64_t at_ms;

	begin(KS_AUTOCOMPACT_OFF, 0);
	CU_ASSERT_EQUAL(run(24 * HOUR, true, true, &at_ms), 0);
	CU_ASSERT_EQUAL(ks_autocompact_due_ms(&ac), INT64_MAX);
	ks_autocompact_fini(&ac);
}

static void a_failed_compaction_is_tried_again_at_the_next_sample(void)
{
	int64_t at_ms;

	begin(KS_AUTOCOMPACT_PERIODIC, 10 * 60000 * KS_NS_PER_MS);
	CU_ASSERT_EQUAL(run(HOUR, true, false, &at_ms), 1);
	CU_ASSERT_EQUAL(at_ms, 10 * MINUTE);
	CU_ASSERT_EQUAL(run(HOUR, true, false, &at_ms), 1);
	CU_ASSERT_EQUAL(at_ms, 11 * MINUTE);
	CU_ASSERT_EQUAL(run(HOUR, true, true, &at_ms), 61);
	CU_ASSERT_EQUAL(at_ms, 12 * MINUTE);
	CU_ASSERT_EQUAL(run(HOUR, true, true, &at_ms), 661);
	CU_ASSERT_EQUAL(at_ms, 22 * MINUTE);
	ks_autocompact_fini(&ac);
}

static void nothing_is_compacted_twice(void)
{
	int64_t revision = 0;

	begin(KS_AUTOCOMPACT_PERIODIC, 10 * 60000 * KS_NS_PER_MS);
	for (; now_ms < 3 * HOUR; now_ms += 1000) {
		int64_t candidate = ks_autocompact_step(&ac, now_ms, 7, true);

		if (!candidate)
			continue;
		CU_ASSERT_EQUAL(revision, 0);
		revision = candidate;
		ks_autocompact_done(&ac, now_ms, true);
	}
	CU_ASSERT_EQUAL(revision, 7);
	ks_autocompact_fini(&ac);
}

static void who_takes_over_goes_on_with_its_own_window(void)
{
	int64_t at_ms;

	begin(KS_AUTOCOMPACT_PERIODIC, 10 * 60000 * KS_NS_PER_MS);
	CU_ASSERT_EQUAL(run(25 * MINUTE + 30000, false, true, &at_ms), 0);
	CU_ASSERT_EQUAL(run(HOUR, true, true, &at_ms), 15 * 60 + 1);
	CU_ASSERT_EQUAL(at_ms, 26 * MINUTE);
	ks_autocompact_fini(&ac);
}

static void while_one_is_on_its_way_there_is_no_other(void)
{
	int64_t at_ms;

	begin(KS_AUTOCOMPACT_PERIODIC, 10 * 60000 * KS_NS_PER_MS);
	while (!ks_autocompact_step(&ac, now_ms, revision_at(now_ms), true))
		now_ms += 1000;
	for (int64_t end = now_ms + HOUR; now_ms < end; now_ms += 1000) {
		CU_ASSERT_EQUAL(ks_autocompact_due_ms(&ac), INT64_MAX);
		CU_ASSERT_EQUAL(ks_autocompact_step(&ac, now_ms, revision_at(now_ms), true), 0);
	}
	ks_autocompact_done(&ac, now_ms, true);
	CU_ASSERT_NOT_EQUAL(run(3 * HOUR, true, true, &at_ms), 0);
	ks_autocompact_fini(&ac);
}

static void a_lost_log_begins_the_window_again(void)
{
	int64_t at_ms;

	begin(KS_AUTOCOMPACT_PERIODIC, 10 * 60000 * KS_NS_PER_MS);
	CU_ASSERT_EQUAL(run(9 * MINUTE, true, true, &at_ms), 0);
	ks_autocompact_forget(&ac);
	CU_ASSERT_EQUAL(run(HOUR, true, true, &at_ms), revision_at(9 * MINUTE + 1000));
	CU_ASSERT_EQUAL(at_ms, 19 * MINUTE + 1000);
	ks_autocompact_fini(&ac);
}

static void the_window_of_a_month_stays_small(void)
{
	int64_t at_ms;

	begin(KS_AUTOCOMPACT_PERIODIC, 720 * KS_NS_PER_HOUR);
	CU_ASSERT_EQUAL(run(720 * HOUR, true, true, &at_ms), 1);
	CU_ASSERT_EQUAL(at_ms, 720 * HOUR);
	CU_ASSERT_EQUAL(ac.window, 7201);
	CU_ASSERT(ac.room <= 2 * ac.window);
	CU_ASSERT_EQUAL(run(900 * HOUR, true, true, &at_ms), 3241);
	CU_ASSERT_EQUAL(at_ms, 721 * HOUR);
	ks_autocompact_fini(&ac);
}

int main(void)
{
	return tap_run(
		"autocompact",
		(const struct tap_test[]){
			{"durations_are_those_of_go", durations_are_those_of_go},
			{"bad_durations_are_named_as_go_names_them", bad_durations_are_named_as_go_names_them},
			{"flags_are_read_as_etcd_reads_them", flags_are_read_as_etcd_reads_them},
			{"a_short_period_compacts_each_period_to_what_was_a_period_ago",
			 a_short_period_compacts_each_period_to_what_was_a_period_ago},
			{"a_long_period_compacts_each_hour_to_what_was_a_period_ago",
			 a_long_period_compacts_each_hour_to_what_was_a_period_ago},
			{"revision_mode_keeps_so_many_each_five_minutes",
			 revision_mode_keeps_so_many_each_five_minutes},
			{"off_never_compacts", off_never_compacts},
			{"a_failed_compaction_is_tried_again_at_the_next_sample",
			 a_failed_compaction_is_tried_again_at_the_next_sample},
			{"nothing_is_compacted_twice", nothing_is_compacted_twice},
			{"who_takes_over_goes_on_with_its_own_window", who_takes_over_goes_on_with_its_own_window},
			{"while_one_is_on_its_way_there_is_no_other", while_one_is_on_its_way_there_is_no_other},
			{"a_lost_log_begins_the_window_again", a_lost_log_begins_the_window_again},
			{"the_window_of_a_month_stays_small", the_window_of_a_month_stays_small},
			{NULL, NULL},
		});
}
