/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The watch hub on a real store: who is woken by what, what a reader gets, and that the index of intervals finds exactly
 * the watchers that a plain look at all of them would find.
 */
#include <CUnit/CUnit.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/panic.h"
#include "store/store.h"
#include "store/watch_hub.h"
#include "tests/lib/tap.h"

static struct ks_store *store;
static struct ks_watch_hub *hub;

struct seen {
	struct ks_watcher watcher;
	unsigned wakes;
	unsigned events;
	int64_t last_revision;
	bool last_is_delete, last_has_prev;
	char key[64], end[64]; /* what the interval points to */
};

static void count_wake(struct ks_watcher *watcher)
{
	ks_container_of(watcher, struct seen, watcher)->wakes++;
}

static void count_event(void *ctx, const struct ks_event *event)
{
	struct seen *seen = ctx;

	CU_ASSERT(event->revision >= seen->last_revision);
	seen->events++;
	seen->last_revision = event->revision;
	seen->last_is_delete = event->is_delete;
	seen->last_has_prev = event->prev.encoded != NULL;
}

static void setup(void)
{
	struct ks_store_config config = {.value_cache_bytes = 64u << 20, .values_kept = true};
	struct ks_err err;

	store = ks_store_new(&config, &err);
	CU_ASSERT_PTR_NOT_NULL_FATAL(store);
	hub = ks_store_hub(store);
}

static void teardown(void)
{
	ks_store_free(store);
}

static void commit(const struct ks_request *request)
{
	struct ks_result result = {0};
	struct ks_effects effects = {0};
	struct ks_err err;

	CU_ASSERT_EQUAL_FATAL(ks_store_eval(store, request, &result, &effects, &err), KS_OK);
	ks_store_publish(store);
	ks_result_fini(&result);
	ks_effects_fini(&effects);
}

static void put(const char *key)
{
	commit(&(struct ks_request){.kind = KS_REQ_PUT, .put = {.key = ks_slice_str(key), .value = ks_slice_str("v")}});
}

static void del(const char *key)
{
	commit(&(struct ks_request){.kind = KS_REQ_DELETE, .del = {.interval = {.key = ks_slice_str(key)}}});
}

static void compact(int64_t revision)
{
	commit(&(struct ks_request){.kind = KS_REQ_COMPACT, .compact_revision = revision});
}

static void add(struct seen *seen, const char *key, const char *end, int64_t start)
{
	int64_t current;

	snprintf(seen->key, sizeof(seen->key), "%s", key);
	snprintf(seen->end, sizeof(seen->end), "%s", end ? end : "");
	seen->watcher.interval.key = ks_slice_str(seen->key);
	/* "0" stands for the single zero byte: every key from here on */
	seen->watcher.interval.end = end && strcmp(end, "0") == 0 ? ks_slice_of("\0", 1) : ks_slice_str(seen->end);
	seen->watcher.wake = count_wake;
	CU_ASSERT_EQUAL_FATAL(ks_watch_add(hub, &seen->watcher, start, &current), KS_OK);
	CU_ASSERT_EQUAL(current, ks_store_committed(store).revision);
}

static enum ks_watch_read_status read_step(struct seen *seen, size_t max_revisions, struct ks_watch_read *read)
{
	*read = (struct ks_watch_read){.max_revisions = max_revisions,
				       .max_events = 1000,
				       .max_bytes = 1u << 20,
				       .max_scanned = 1000,
				       .visit = count_event,
				       .ctx = seen};
	return ks_watch_read(hub, &seen->watcher, read);
}

/* Reads until idle again; the number of events. */
static unsigned drain(struct seen *seen)
{
	struct ks_watch_read read;
	unsigned before = seen->events;

	do {
		CU_ASSERT_EQUAL_FATAL(read_step(seen, 1000, &read), KS_WATCH_READ);
	} while (!read.caught_up);
	return seen->events - before;
}

static void watcher_sees_only_what_follows_its_registration(void)
{
	struct seen seen = {0};

	put("a");
	add(&seen, "a", NULL, 0);
	CU_ASSERT_EQUAL(seen.wakes, 0);
	put("b");
	CU_ASSERT_EQUAL(seen.wakes, 0);
	put("a");
	CU_ASSERT_EQUAL(seen.wakes, 1);
	put("a");
	CU_ASSERT_EQUAL(seen.wakes, 1); /* pending: woken once */
	CU_ASSERT_EQUAL(drain(&seen), 2);
	CU_ASSERT_EQUAL(seen.last_revision, 5);
	del("a");
	CU_ASSERT_EQUAL(seen.wakes, 2);
	CU_ASSERT_EQUAL(drain(&seen), 1);
	CU_ASSERT_TRUE(seen.last_is_delete);
	ks_watch_remove(hub, &seen.watcher);
	put("a");
	CU_ASSERT_EQUAL(seen.wakes, 2);
}

static void start_in_the_past_is_pending_at_once_and_reads_history(void)
{
	struct seen seen = {0};
	struct ks_watch_read read;

	for (int i = 0; i < 5; i++)
		put("a"); /* revisions 2 … 6 */
	add(&seen, "a", NULL, 3);
	CU_ASSERT_EQUAL(seen.watcher.state, KS_WATCHER_PENDING);
	CU_ASSERT_EQUAL(read_step(&seen, 2, &read), KS_WATCH_READ);
	CU_ASSERT_EQUAL(read.events, 2);
	CU_ASSERT_FALSE(read.caught_up);
	CU_ASSERT_EQUAL(read.current, 6);
	CU_ASSERT_EQUAL(drain(&seen), 2);
	CU_ASSERT_EQUAL(seen.last_revision, 6);
	ks_watch_remove(hub, &seen.watcher);
}

static void start_in_the_future_waits_for_its_revision(void)
{
	struct seen seen = {0};
	struct ks_watcher *watchers[] = {&seen.watcher};
	int64_t revision;

	add(&seen, "a", NULL, 4);
	put("a"); /* 2 */
	put("a"); /* 3 */
	CU_ASSERT_EQUAL(seen.wakes, 0);
	CU_ASSERT_FALSE(ks_watch_progress(hub, watchers, 1, &revision));
	put("a"); /* 4 */
	CU_ASSERT_EQUAL(seen.wakes, 1);
	CU_ASSERT_FALSE(ks_watch_progress(hub, watchers, 1, &revision)); /* not read yet */
	CU_ASSERT_EQUAL(drain(&seen), 1);
	CU_ASSERT_TRUE(ks_watch_progress(hub, watchers, 1, &revision));
	CU_ASSERT_EQUAL(revision, 4);
	ks_watch_remove(hub, &seen.watcher);
}

static void filters_neither_wake_nor_deliver(void)
{
	struct seen puts = {.watcher.no_delete = true}, deletes = {.watcher.no_put = true};

	add(&puts, "a", NULL, 0);
	add(&deletes, "a", NULL, 0);
	put("a");
	CU_ASSERT_EQUAL(puts.wakes, 1);
	CU_ASSERT_EQUAL(deletes.wakes, 0);
	del("a");
	CU_ASSERT_EQUAL(deletes.wakes, 1);
	CU_ASSERT_EQUAL(drain(&puts), 1);
	CU_ASSERT_EQUAL(drain(&deletes), 1);
	ks_watch_remove(hub, &puts.watcher);
	ks_watch_remove(hub, &deletes.watcher);
}

static void prev_kv_comes_with_changes_but_not_with_creations(void)
{
	struct seen seen = {.watcher.prev_kv = true};

	add(&seen, "a", NULL, 0);
	put("a");
	CU_ASSERT_EQUAL(drain(&seen), 1);
	CU_ASSERT_FALSE(seen.last_has_prev);
	put("a");
	CU_ASSERT_EQUAL(drain(&seen), 1);
	CU_ASSERT_TRUE(seen.last_has_prev);
	del("a");
	CU_ASSERT_EQUAL(drain(&seen), 1);
	CU_ASSERT_TRUE(seen.last_has_prev);
	ks_watch_remove(hub, &seen.watcher);
}

static void start_below_the_compaction_is_told_so(void)
{
	struct seen old = {0}, exact = {0};
	struct ks_watch_read read;

	put("a");
	put("a");
	put("a"); /* 4 */
	compact(3);
	add(&old, "a", NULL, 2);
	add(&exact, "a", NULL, 3);
	CU_ASSERT_EQUAL(read_step(&old, 1000, &read), KS_WATCH_COMPACTED);
	CU_ASSERT_EQUAL(read.compact_revision, 3);
	CU_ASSERT_EQUAL(drain(&exact), 2);
	ks_watch_remove(hub, &old.watcher);
	ks_watch_remove(hub, &exact.watcher);
}

static void drop_nothing(void *ctx, const struct ks_loc *locs, size_t count)
{
	(void)ctx;
	(void)locs;
	(void)count;
}

static void compaction_right_behind_a_write_does_not_take_the_event(void)
{
	struct seen seen = {0};

	add(&seen, "a", NULL, 0);
	put("a"); /* 2 */
	put("a"); /* 3 */
	CU_ASSERT_EQUAL(seen.wakes, 1);
	compact(3);
	CU_ASSERT_TRUE(ks_watch_hub_needs(hub, 3));
	CU_ASSERT_EQUAL(drain(&seen), 2);
	CU_ASSERT_FALSE(ks_watch_hub_needs(hub, 3));
	while (ks_store_compact_step(store, 100, drop_nothing, NULL))
		;
	ks_watch_remove(hub, &seen.watcher);
}

static void pending_watcher_that_history_left_behind_is_compacted(void)
{
	struct seen seen = {0};
	struct ks_watch_read read;

	add(&seen, "a", NULL, 0);
	put("a"); /* 2 */
	put("a"); /* 3 */
	compact(3);
	while (ks_store_compact_step(store, 100, drop_nothing, NULL))
		;
	CU_ASSERT_EQUAL(read_step(&seen, 1000, &read), KS_WATCH_COMPACTED);
	CU_ASSERT_EQUAL(read.compact_revision, 3);
	ks_watch_remove(hub, &seen.watcher);
}

static void reset_wakes_everyone_and_ends_them(void)
{
	struct seen idle = {0}, pending = {0};
	struct ks_watch_read read;

	put("a");
	add(&idle, "a", NULL, 0);
	add(&pending, "b", "c", 1);
	ks_store_reset(store);
	CU_ASSERT_EQUAL(idle.wakes, 1);
	CU_ASSERT_EQUAL(read_step(&idle, 10, &read), KS_WATCH_RESET);
	CU_ASSERT_EQUAL(read_step(&pending, 10, &read), KS_WATCH_RESET);
	ks_watch_remove(hub, &idle.watcher);
	ks_watch_remove(hub, &pending.watcher);
}

static unsigned next_random(unsigned *state)
{
	*state = *state * 1664525u + 1013904223u;
	return *state >> 8;
}

static void alike_watchers_follow_the_one_that_read(void)
{
	struct seen one = {0}, other = {0}, filtered = {0};
	struct ks_watcher *others[] = {&other.watcher};
	struct ks_watch_read read;
	bool caught_up;

	filtered.watcher.no_delete = true;
	add(&one, "a", NULL, 0);
	add(&other, "a", NULL, 0);
	add(&filtered, "a", NULL, 0);
	put("a"); /* 2 */
	CU_ASSERT_TRUE(ks_watch_alike(&other.watcher, &one.watcher));
	CU_ASSERT_FALSE(ks_watch_alike(&filtered.watcher, &one.watcher));
	CU_ASSERT_EQUAL(read_step(&one, 1000, &read), KS_WATCH_READ);
	CU_ASSERT_EQUAL(read.next, 3);
	CU_ASSERT_TRUE(ks_watch_follow(hub, others, 1, read.next, &caught_up));
	CU_ASSERT_TRUE(caught_up);
	CU_ASSERT_EQUAL(other.watcher.state, KS_WATCHER_IDLE);
	put("a"); /* 3: both are woken again, the third was not yet looked at */
	CU_ASSERT_EQUAL(one.wakes, 2);
	CU_ASSERT_EQUAL(other.wakes, 2);
	CU_ASSERT_EQUAL(filtered.wakes, 1);
	CU_ASSERT_FALSE(ks_watch_alike(&filtered.watcher, &one.watcher));
	CU_ASSERT_EQUAL(drain(&filtered), 2);
	/* A write between the read and the following. */
	CU_ASSERT_EQUAL(read_step(&one, 1000, &read), KS_WATCH_READ);
	put("a"); /* 4 */
	CU_ASSERT_TRUE(ks_watch_follow(hub, others, 1, read.next, &caught_up));
	CU_ASSERT_FALSE(caught_up);
	CU_ASSERT_EQUAL(other.watcher.state, KS_WATCHER_PENDING);
	CU_ASSERT_EQUAL(drain(&other), 1);
	CU_ASSERT_EQUAL(other.last_revision, 4);
	/* After a reset nobody is moved. */
	put("a"); /* 5 */
	ks_store_reset(store);
	CU_ASSERT_FALSE(ks_watch_follow(hub, others, 1, 6, &caught_up));
	CU_ASSERT_EQUAL(other.watcher.state, KS_WATCHER_PENDING);
	CU_ASSERT_EQUAL(read_step(&other, 1000, &read), KS_WATCH_RESET);
	ks_watch_remove(hub, &one.watcher);
	ks_watch_remove(hub, &other.watcher);
	ks_watch_remove(hub, &filtered.watcher);
}

/* Seeded: thousands of overlapping intervals come and go; each put must wake exactly those that contain the key. */
static void intervals_are_found_exactly(void)
{
	enum { COUNT = 400, ROUNDS = 3000, KEYS = 60 };
	struct seen *seen = ks_xcalloc(COUNT, sizeof(*seen));
	bool *in = ks_xcalloc(COUNT, sizeof(*in));
	unsigned seed = 42;

	for (unsigned round = 0; round < ROUNDS; round++) {
		unsigned i = next_random(&seed) % COUNT;
		unsigned from = next_random(&seed) % KEYS;
		unsigned to = from + 1 + next_random(&seed) % (KEYS - from);
		char key[16], end[16];

		if (in[i]) {
			ks_watch_remove(hub, &seen[i].watcher);
			in[i] = false;
		} else {
			unsigned kind = next_random(&seed) % 4;

			memset(&seen[i], 0, sizeof(seen[i]));
			snprintf(key, sizeof(key), "k%02u", from);
			snprintf(end, sizeof(end), "k%02u", to);
			add(&seen[i], key, kind == 0 ? NULL : kind == 1 ? "0" : end, 0);
			in[i] = true;
		}
		snprintf(key, sizeof(key), "k%02u", next_random(&seed) % KEYS);
		put(key);
		for (unsigned n = 0; n < COUNT; n++) {
			bool expected;

			if (!in[n])
				continue;
			expected = ks_interval_contains(&seen[n].watcher.interval, ks_slice_str(key));
			if (seen[n].wakes != (expected ? 1u : 0u))
				CU_FAIL("a put woke the wrong watchers");
			if (expected) {
				CU_ASSERT_EQUAL(drain(&seen[n]), 1);
				seen[n].wakes = 0;
			}
		}
	}
	for (unsigned n = 0; n < COUNT; n++) {
		if (in[n])
			ks_watch_remove(hub, &seen[n].watcher);
	}
	struct ks_watch_stats stats;
	ks_watch_hub_stats(hub, &stats);
	CU_ASSERT_EQUAL(stats.watchers, 0);
	CU_ASSERT_EQUAL(stats.groups, 0);
	free(seen);
	free(in);
}

#define IN_STORE(test)            \
	static void test##_(void) \
	{                         \
		setup();          \
		test();           \
		teardown();       \
	}
IN_STORE(watcher_sees_only_what_follows_its_registration)
IN_STORE(start_in_the_past_is_pending_at_once_and_reads_history)
IN_STORE(start_in_the_future_waits_for_its_revision)
IN_STORE(filters_neither_wake_nor_deliver)
IN_STORE(prev_kv_comes_with_changes_but_not_with_creations)
IN_STORE(start_below_the_compaction_is_told_so)
IN_STORE(compaction_right_behind_a_write_does_not_take_the_event)
IN_STORE(pending_watcher_that_history_left_behind_is_compacted)
IN_STORE(reset_wakes_everyone_and_ends_them)
IN_STORE(alike_watchers_follow_the_one_that_read)
IN_STORE(intervals_are_found_exactly)

#define TEST(test)             \
	{                      \
#test, test##_ \
	}
int main(void)
{
	static const struct tap_test tests[] = {
		TEST(watcher_sees_only_what_follows_its_registration),
		TEST(start_in_the_past_is_pending_at_once_and_reads_history),
		TEST(start_in_the_future_waits_for_its_revision),
		TEST(filters_neither_wake_nor_deliver),
		TEST(prev_kv_comes_with_changes_but_not_with_creations),
		TEST(start_below_the_compaction_is_told_so),
		TEST(compaction_right_behind_a_write_does_not_take_the_event),
		TEST(pending_watcher_that_history_left_behind_is_compacted),
		TEST(reset_wakes_everyone_and_ends_them),
		TEST(alike_watchers_follow_the_one_that_read),
		TEST(intervals_are_found_exactly),
		{NULL, NULL},
	};

	return tap_run("watch_hub", tests);
}
