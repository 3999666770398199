/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The tail and what becomes of it: publish, rollback, entries of the log that fit or do not, reset, load, jump; and readers on
 * other threads meanwhile (meant for ThreadSanitizer).
 */
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>

#include "store/watch_hub.h"
#include "tests/lib/store_fixture.h"

static enum ks_status apply(int64_t position, int64_t revision, const struct ks_effect *effects, size_t count)
{
	struct ks_entry entry = {
		.position = position,
		.revision = revision,
		.effects = (struct ks_effect *)(uintptr_t)effects,
		.effect_count = count,
	};

	sf_err = (struct ks_err){0};
	return ks_store_apply(sf_store, &entry, &sf_err);
}

static struct ks_effect put_effect(const char *key, const char *value, int64_t create_revision, int64_t version)
{
	return (struct ks_effect){.kind = KS_EFFECT_PUT,
				  .key = sf_text(key),
				  .value = sf_text(value),
				  .create_revision = create_revision,
				  .version = version};
}

static enum ks_status apply_put(int64_t position, int64_t revision, const char *key, const char *value)
{
	struct ks_effect effect = put_effect(key, value, revision, 1);

	return apply(position, revision, &effect, 1);
}

/* ---- publish and rollback ---- */

static void tail_is_invisible_until_published(void)
{
	sf_put("a", "1");
	sf_hold = true;
	sf_put("a", "2");
	sf_put("b", "1");
	sf_delete("a", NULL);
	CU_ASSERT_STRING_EQUAL(sf_value("a", 0), "1");
	CU_ASSERT_STRING_EQUAL(sf_value("b", 0), "-");
	sf_range(&(struct ks_range_req){.interval = sf_interval(SF_ALL, SF_ALL), .count_only = true});
	CU_ASSERT_EQUAL(sf_range_result.count, 1);
	CU_ASSERT(sf_revision() == 2 && ks_store_committed(sf_store).position == 1);
	ks_store_publish(sf_store);
	CU_ASSERT(sf_revision() == 5 && ks_store_committed(sf_store).position == 4);
	CU_ASSERT_STRING_EQUAL(sf_value("a", 0), "-");
	CU_ASSERT_STRING_EQUAL(sf_value("a", 3), "2");
	CU_ASSERT_STRING_EQUAL(sf_value("b", 0), "1");
}

static void each_request_of_a_batch_has_its_own_revision_and_position(void)
{
	sf_hold = true;
	for (int64_t i = 1; i <= 5; i++) {
		sf_put("a", "1");
		CU_ASSERT(sf_effects.entry.position == i && sf_effects.entry.revision == i + 1);
		CU_ASSERT_EQUAL(sf_result.revision, i + 1);
	}
}

static void failing_request_does_not_disturb_its_neighbours(void)
{
	sf_hold = true;
	sf_put("a", "1");
	CU_ASSERT_EQUAL(sf_put_lease("a", "2", 77), KS_NOT_FOUND);
	CU_ASSERT_EQUAL(sf_put("a", "3"), KS_OK);
	CU_ASSERT(sf_effects.entry.position == 2 && sf_effects.entry.revision == 3);
	ks_store_publish(sf_store);
	CU_ASSERT_STRING_EQUAL(sf_value("a", 0), "3");
	CU_ASSERT_EQUAL(sf_kv(0).version, 2);
}

static void rollback_restores_everything(void)
{
	uint32_t before;
	struct ks_store_stats stats;
	char key[16];

	sf_grant(5);
	for (unsigned i = 0; i < 100; i++) {
		snprintf(key, sizeof(key), "k%02u", i);
		sf_put_lease(key, "v", i % 3 ? 5 : 0);
	}
	sf_delete("k50", "k60");
	before = sf_hash(sf_store, 0);
	sf_hold = true;
	for (unsigned i = 0; i < 200; i++) {
		snprintf(key, sizeof(key), "n%03u", i);
		sf_put(key, "tail");
	}
	sf_delete("k", "l");
	sf_put("k55", "tail");
	sf_grant(6);
	sf_revoke(5);
	sf_compact(50);
	ks_store_rollback(sf_store);
	sf_hold = false;
	CU_ASSERT_EQUAL(sf_hash(sf_store, 0), before);
	ks_store_stats(sf_store, &stats);
	CU_ASSERT(stats.keys == 90 && stats.records == 110 && stats.leases == 1);
	CU_ASSERT_EQUAL(ks_store_committed(sf_store).compact_revision, -1);
	sf_put("k55", "real");
	CU_ASSERT(sf_effects.entry.position == 103 && sf_effects.entry.revision == 103);
	sf_range(&(struct ks_range_req){.interval = sf_interval(SF_ALL, SF_ALL), .count_only = true});
	CU_ASSERT_EQUAL(sf_range_result.count, 91);
}

static void only_what_lies_before_a_cut_is_published(void)
{
	sf_put("a", "1");
	sf_hold = true;
	sf_put("b", "1");
	sf_delete("a", NULL);
	ks_store_cut(sf_store);
	sf_put("a", "2");
	sf_delete("b", NULL);
	sf_put("c", "1");
	ks_store_publish(sf_store);
	CU_ASSERT(sf_revision() == 4 && ks_store_committed(sf_store).position == 3);
	CU_ASSERT_STRING_EQUAL(sf_value("a", 0), "-");
	CU_ASSERT_STRING_EQUAL(sf_value("b", 0), "1");
	CU_ASSERT_STRING_EQUAL(sf_value("c", 0), "-");
	sf_range(&(struct ks_range_req){.interval = sf_interval(SF_ALL, SF_ALL), .count_only = true});
	CU_ASSERT_EQUAL(sf_range_result.count, 1);
	ks_store_publish(sf_store);
	CU_ASSERT(sf_revision() == 7 && ks_store_committed(sf_store).position == 6);
	CU_ASSERT_STRING_EQUAL(sf_value("a", 0), "2");
	CU_ASSERT_STRING_EQUAL(sf_value("b", 0), "-");
	CU_ASSERT_STRING_EQUAL(sf_value("c", 0), "1");
}

static void rollback_to_a_cut_keeps_what_lies_before_it(void)
{
	uint32_t hash;

	sf_grant(5);
	sf_hold = true;
	sf_put_lease("a", "1", 5);
	sf_grant(6);
	ks_store_cut(sf_store);
	sf_put("a", "2");
	sf_put("b", "1");
	ks_store_rollback_to_cut(sf_store);
	sf_put("c", "1");
	CU_ASSERT(sf_effects.entry.position == 4 && sf_effects.entry.revision == 3);
	ks_store_publish(sf_store);
	hash = sf_hash(sf_store, 0);
	CU_ASSERT_STRING_EQUAL(sf_value("a", 0), "1");
	CU_ASSERT_STRING_EQUAL(sf_value("b", 0), "-");
	CU_ASSERT_STRING_EQUAL(sf_value("c", 0), "1");
	sf_put("d", "1");
	ks_store_cut(sf_store);
	sf_put("e", "1");
	ks_store_rollback(sf_store);
	CU_ASSERT_EQUAL(sf_hash(sf_store, 0), hash);
}

static void cuts_are_published_from_the_first_and_rolled_back_from_the_last(void)
{
	static const char *const values[] = {"1", "2", "3", "4"};
	_Static_assert(KS_STORE_CUTS == 3, "a value for each part");

	sf_hold = true;
	for (int round = 0; round < 2; round++) {
		for (int i = 0; i <= KS_STORE_CUTS; i++) {
			if (i)
				ks_store_cut(sf_store);
			sf_put("a", values[i]);
			sf_put("b", values[i]);
		}
		ks_store_rollback_to_cut(sf_store);
		ks_store_publish(sf_store);
		CU_ASSERT_STRING_EQUAL(sf_value("b", 0), "1");
		ks_store_cut(sf_store); /* the place of the one that was published is free again */
		ks_store_cut(sf_store);
		sf_delete("a", NULL);
		ks_store_rollback_to_cut(sf_store);
		ks_store_publish(sf_store);
		CU_ASSERT_STRING_EQUAL(sf_value("b", 0), "2");
		CU_ASSERT_EQUAL(ks_store_committed(sf_store).position, 6 * round + 4);
		ks_store_publish(sf_store);
		CU_ASSERT_STRING_EQUAL(sf_value("b", 0), "3");
		ks_store_publish(sf_store);
		CU_ASSERT_EQUAL(ks_store_committed(sf_store).position, 6 * round + 6);
	}
	sf_put("a", "1");
	for (int i = 0; i < KS_STORE_CUTS; i++) {
		ks_store_cut(sf_store);
		sf_put("a", "2");
	}
	ks_store_rollback(sf_store);
	sf_put("a", "1");
	ks_store_publish(sf_store);
	CU_ASSERT(ks_store_committed(sf_store).position == 13 && sf_revision() == 14);
}

/* ---- entries of the log ---- */

static void applied_entries_make_the_same_state(void)
{
	struct ks_store_config config = {.values_kept = true};
	struct ks_store *other = ks_store_new(&config, &sf_err);
	char key[16];

	for (unsigned i = 0; i < 300; i++) {
		snprintf(key, sizeof(key), "k%u", i * 7 % 60);
		if (i % 5 == 4)
			sf_delete(key, NULL);
		else
			sf_put(key, "v");
		CU_ASSERT(sf_effects.entry.effect_count == 0 ||
			  ks_store_apply(other, &sf_effects.entry, &sf_err) == KS_OK);
		if (i % 3 == 0)
			ks_store_publish(other);
	}
	ks_store_publish(other);
	CU_ASSERT_EQUAL(sf_hash(other, 0), sf_hash(sf_store, 0));
	ks_store_free(other);
}

static void entry_that_does_not_follow_is_refused(void)
{
	struct ks_effect bad;

	CU_ASSERT_EQUAL(apply_put(1, 2, "a", "1"), KS_OK);
	CU_ASSERT_EQUAL(apply_put(1, 3, "a", "1"), KS_DATA_LOSS);
	CU_ASSERT(strlen(sf_err.text) > 20);
	CU_ASSERT_EQUAL(apply_put(3, 3, "a", "1"), KS_DATA_LOSS);
	CU_ASSERT_EQUAL(apply_put(2, 2, "a", "1"), KS_DATA_LOSS);
	CU_ASSERT_EQUAL(apply_put(2, 4, "a", "1"), KS_DATA_LOSS);
	CU_ASSERT_EQUAL(apply_put(-1, 4, "a", "1"), KS_DATA_LOSS);
	CU_ASSERT_EQUAL(apply_put(2, INT64_MAX, "a", "1"), KS_DATA_LOSS);
	CU_ASSERT_EQUAL(apply_put(2, 3, "", "1"), KS_DATA_LOSS);
	bad = put_effect("a", "1", 0, 1);
	CU_ASSERT_EQUAL(apply(2, 3, &bad, 1), KS_DATA_LOSS);
	bad = put_effect("a", "1", 4, 1);
	CU_ASSERT_EQUAL(apply(2, 3, &bad, 1), KS_DATA_LOSS);
	bad = put_effect("a", "1", 2, -5);
	CU_ASSERT_EQUAL(apply(2, 3, &bad, 1), KS_DATA_LOSS);
	bad = (struct ks_effect){.kind = (enum ks_effect_kind)99};
	CU_ASSERT_EQUAL(apply(2, 2, &bad, 1), KS_DATA_LOSS);
	bad = (struct ks_effect){.kind = KS_EFFECT_COMPACT, .version = 3};
	CU_ASSERT_EQUAL(apply(2, 2, &bad, 1), KS_DATA_LOSS);
	bad = (struct ks_effect){.kind = KS_EFFECT_LEASE_GRANT, .lease = 0, .version = 5};
	CU_ASSERT_EQUAL(apply(2, 2, &bad, 1), KS_DATA_LOSS);
	/* Nothing of all that has changed anything. */
	CU_ASSERT_EQUAL(apply_put(2, 3, "a", "2"), KS_OK);
	ks_store_publish(sf_store);
	CU_ASSERT_STRING_EQUAL(sf_value("a", 0), "2");
}

static void rows_out_of_order_are_refused(void)
{
	struct ks_effect effects[2] = {put_effect("a", "1", 2, 1), put_effect("b", "1", 2, 1)};
	int32_t subs[2] = {1, 1};
	struct ks_entry entry = {.position = 1, .revision = 2, .effects = effects, .effect_count = 2, .subs = subs};

	CU_ASSERT_EQUAL(ks_store_apply(sf_store, &entry, &sf_err), KS_DATA_LOSS);
	subs[0] = -1;
	CU_ASSERT_EQUAL(ks_store_apply(sf_store, &entry, &sf_err), KS_DATA_LOSS);
	subs[0] = 0;
	CU_ASSERT_EQUAL(ks_store_apply(sf_store, &entry, &sf_err), KS_OK);
}

static void strange_but_harmless_entries_are_believed(void)
{
	struct ks_effect effects[] = {
		{.kind = KS_EFFECT_DELETE, .key = S("never-there")},
		put_effect("a", "1", 1, 17),
		{.kind = KS_EFFECT_NOOP},
	};

	CU_ASSERT_EQUAL(apply(1, 2, effects, 3), KS_OK);
	ks_store_publish(sf_store);
	CU_ASSERT_STRING_EQUAL(sf_value("a", 0), "1");
	CU_ASSERT(sf_kv(0).version == 17 && sf_kv(0).create_revision == 1);
	CU_ASSERT_STRING_EQUAL(sf_events("never-there", NULL, 1, true), "del never-there 2;");
	sf_compact(2);
	sf_compact_all();
	sf_put("b", "");
	sf_compact(3);
	sf_compact_all();
	CU_ASSERT_STRING_EQUAL(sf_events("never-there", NULL, 3, true), "");
}

/* ---- reset, load, jump ---- */

static void reset_empties_the_store(void)
{
	sf_grant(5);
	sf_put_lease("a", "1", 5);
	sf_compact(2);
	sf_hold = true;
	sf_put("b", "1");
	ks_store_reset(sf_store);
	CU_ASSERT(sf_revision() == 1 && ks_store_committed(sf_store).position == 0);
	CU_ASSERT_EQUAL(ks_store_committed(sf_store).compact_revision, -1);
	CU_ASSERT_STRING_EQUAL(sf_value("a", 0), "-");
	CU_ASSERT_STRING_EQUAL(sf_lease_keys(5), "-");
	CU_ASSERT_EQUAL(apply_put(1, 2, "a", "new"), KS_OK);
	ks_store_publish(sf_store);
	CU_ASSERT_STRING_EQUAL(sf_value("a", 0), "new");
}

static void load_takes_a_trimmed_log(void)
{
	struct ks_effect compact = {.kind = KS_EFFECT_COMPACT, .version = 9};
	struct ks_effect later = put_effect("b", "2", 9, 2);
	struct ks_effect old = put_effect("a", "1", 3, 4);
	int32_t subs[] = {5};
	struct ks_entry holey = {.position = 7, .revision = 8, .effects = &old, .effect_count = 1, .subs = subs};

	ks_store_load_begin(sf_store);
	CU_ASSERT_EQUAL(ks_store_apply(sf_store, &holey, &sf_err), KS_OK);
	CU_ASSERT_EQUAL(apply_put(9, 9, "b", "1"), KS_OK);
	CU_ASSERT_EQUAL(apply(12, 9, &compact, 1), KS_OK);
	CU_ASSERT_EQUAL(apply(11, 10, &later, 1), KS_DATA_LOSS);
	CU_ASSERT_EQUAL(apply(13, 9, &later, 1), KS_DATA_LOSS);
	CU_ASSERT_EQUAL(apply(13, 10, &later, 1), KS_OK);
	ks_store_load_end(sf_store);
	CU_ASSERT(sf_revision() == 10 && ks_store_committed(sf_store).position == 13);
	CU_ASSERT_STRING_EQUAL(sf_value("a", 0), "1");
	CU_ASSERT(sf_kv(0).version == 4 && sf_kv(0).mod_revision == 8);
	CU_ASSERT_STRING_EQUAL(sf_value("b", 9), "1");
	/* What was trimmed nobody knows, so there is no reading below the compaction. */
	CU_ASSERT_STRING_EQUAL(sf_events("\1", SF_ALL, 8, false), "compacted");
	CU_ASSERT_STRING_EQUAL(sf_events("\1", SF_ALL, 9, false), "put b 9;put b 10;");
	sf_put("c", "1");
	CU_ASSERT(sf_effects.entry.position == 14 && sf_effects.entry.revision == 11);
}

static void jump_replaces_the_state_in_one_step(void)
{
	struct ks_effect compact = {.kind = KS_EFFECT_COMPACT, .version = 6};

	sf_put("a", "1");    /* 2 */
	sf_put("gone", "1"); /* 3 */
	sf_grant(5);
	CU_ASSERT_EQUAL(ks_store_jump_begin(sf_store, &sf_err), KS_OK);
	CU_ASSERT_EQUAL(apply_put(1, 2, "a", "1"), KS_OK);
	CU_ASSERT_EQUAL(apply_put(9, 6, "b", "2"), KS_OK);
	CU_ASSERT_EQUAL(apply(10, 6, &compact, 1), KS_OK);
	CU_ASSERT_STRING_EQUAL(sf_value("gone", 0), "1"); /* readers still have the old one */
	CU_ASSERT_EQUAL(ks_store_jump_end(sf_store, &sf_err), KS_OK);
	CU_ASSERT(sf_revision() == 6 && ks_store_committed(sf_store).position == 10);
	CU_ASSERT_STRING_EQUAL(sf_value("a", 0), "1");
	CU_ASSERT_STRING_EQUAL(sf_value("b", 0), "2");
	CU_ASSERT_STRING_EQUAL(sf_value("gone", 0), "-");
	CU_ASSERT_STRING_EQUAL(sf_lease_keys(5), "-");
	CU_ASSERT_EQUAL(sf_put("gone", "new"), KS_OK);
	CU_ASSERT(sf_effects.entry.position == 11 && sf_effects.entry.revision == 7);
}

static void jump_backwards_is_refused(void)
{
	sf_put("a", "1");
	sf_put("a", "2");
	CU_ASSERT_EQUAL(ks_store_jump_begin(sf_store, &sf_err), KS_OK);
	CU_ASSERT_EQUAL(apply_put(1, 2, "a", "1"), KS_OK);
	CU_ASSERT_EQUAL(ks_store_jump_end(sf_store, &sf_err), KS_DATA_LOSS);
	CU_ASSERT_STRING_EQUAL(sf_value("a", 0), "2");
	CU_ASSERT_EQUAL(ks_store_jump_begin(sf_store, &sf_err), KS_OK);
	ks_store_jump_abort(sf_store);
	CU_ASSERT_EQUAL(sf_put("a", "3"), KS_OK);
}

static void count_wake(struct ks_watcher *watcher)
{
	(void)watcher;
}

static void jump_compacts_watchers_that_it_overtook(void)
{
	struct ks_effect compact = {.kind = KS_EFFECT_COMPACT, .version = 6};
	struct ks_watcher watcher = {.interval = {.key = S("a")}, .wake = count_wake};
	struct ks_watch_hub *hub = ks_store_hub(sf_store);
	struct ks_watch_read read = {.max_revisions = 10, .max_events = 10, .max_bytes = 1000, .max_scanned = 100};
	int64_t current;

	sf_put("a", "1");
	CU_ASSERT_EQUAL(ks_watch_add(hub, &watcher, 0, &current), KS_OK);
	CU_ASSERT_EQUAL(ks_store_jump_begin(sf_store, &sf_err), KS_OK);
	CU_ASSERT_EQUAL(apply_put(8, 6, "a", "9"), KS_OK);
	CU_ASSERT_EQUAL(apply(10, 6, &compact, 1), KS_OK);
	CU_ASSERT_EQUAL(ks_store_jump_end(sf_store, &sf_err), KS_OK);
	CU_ASSERT_EQUAL(watcher.state, KS_WATCHER_PENDING);
	CU_ASSERT_EQUAL(ks_watch_read(hub, &watcher, &read), KS_WATCH_COMPACTED);
	CU_ASSERT_EQUAL(read.compact_revision, 6);
	ks_watch_remove(hub, &watcher);
}

/* ---- threads ---- */

#define SAME_KEYS 8
#define BATCHES 1500

static struct threads {
	_Atomic bool stop;
	_Atomic unsigned errors;
	_Atomic unsigned reads;
} threads;

static void thread_check(bool ok)
{
	if (!ok)
		atomic_fetch_add(&threads.errors, 1);
}

/* All of the keys were put by one txn each time: they have the same mod revision, at any revision. */
static void *range_thread(void *arg)
{
	struct ks_range_req req = {.interval = {.key = S("same/"), .end = S("same0")}};
	int64_t last = 0;

	(void)arg;
	while (!atomic_load(&threads.stop)) {
		struct ks_position position = ks_store_committed(sf_store);
		struct ks_range_result result;
		struct ks_err err;
		int64_t revision;
		enum ks_status status;

		req.revision = atomic_load(&threads.reads) % 3 == 0 ? position.revision : 0;
		status = ks_store_range(sf_store, &req, &result, &revision, &err);
		thread_check(status == KS_OK || status == KS_OUT_OF_RANGE);
		thread_check(revision >= last && revision >= position.revision);
		last = revision;
		for (size_t i = 0; i < result.kv_count; i++) {
			struct ks_kv kv, first;

			if (!result.kvs[i].encoded || !result.kvs[0].encoded)
				continue;
			ks_kv_decode(ks_bytes_slice(result.kvs[0].encoded), &first);
			ks_kv_decode(ks_bytes_slice(result.kvs[i].encoded), &kv);
			thread_check(kv.mod_revision == first.mod_revision && ks_slice_eq(kv.value, first.value));
		}
		thread_check(result.kv_count == 0 || result.kv_count == SAME_KEYS);
		if (result.kv_count > 0 && result.kvs[0].encoded)
			ks_store_cache_fill(sf_store, result.kvs[0].encoded, result.kvs[0].loc);
		ks_range_result_fini(&result);
		atomic_fetch_add(&threads.reads, 1);
	}
	return NULL;
}

static void see_event(void *ctx, const struct ks_event *event)
{
	*(int64_t *)ctx = event->revision;
}

static void *side_thread(void *arg)
{
	(void)arg;
	while (!atomic_load(&threads.stop)) {
		struct ks_event_scan scan = {.interval = sf_interval(SF_ALL, SF_ALL),
					     .to = INT64_MAX,
					     .prev_kv = true,
					     .max_revisions = 50,
					     .max_events = 100,
					     .max_bytes = 10000,
					     .max_scanned = 100};
		struct ks_position position = ks_store_committed(sf_store);
		struct ks_event_scanned scanned;
		struct ks_lease_info info;
		int64_t compact_revision;
		int64_t seen = 0;
		struct ks_range_req everything = {.interval = sf_interval(SF_ALL, SF_ALL)};
		struct ks_range_result result;
		int64_t revision;
		struct ks_err err;

		ks_store_compact_step(sf_store, 50, NULL, NULL);
		scan.from = position.revision > 20 ? position.revision - 20 : 1;
		if (ks_store_scan_events(sf_store, &scan, see_event, &seen, &scanned, &compact_revision) == KS_OK)
			thread_check(seen < scanned.next && scanned.current >= position.revision);
		if (ks_store_lease(sf_store, 5, true, &info))
			ks_lease_info_fini(&info);
		thread_check(ks_store_range(sf_store, &everything, &result, &revision, &err) == KS_OK);
		ks_range_result_fini(&result);
	}
	return NULL;
}

static void put_same(unsigned batch)
{
	struct ks_op ops[SAME_KEYS];
	char keys[SAME_KEYS][16], value[32];
	struct ks_txn_req txn = {.success = ops, .success_count = SAME_KEYS};

	snprintf(value, sizeof(value), "batch %u", batch);
	for (unsigned i = 0; i < SAME_KEYS; i++) {
		snprintf(keys[i], sizeof(keys[i]), "same/%u", i);
		ops[i] =
			(struct ks_op){.kind = KS_OP_PUT,
				       .put = {.key = ks_slice_str(keys[i]), .value = ks_slice_str(value), .lease = 5}};
	}
	CU_ASSERT_EQUAL_FATAL(sf_txn(&txn), KS_OK);
}

static void one_batch(unsigned batch)
{
	char key[24];

	put_same(batch);
	for (unsigned i = 0; i < 5; i++) {
		snprintf(key, sizeof(key), "other/%u", (batch * 31 + i) % 3000);
		if (batch % 4 == 3)
			sf_delete(key, NULL);
		else
			sf_put(key, "0123456789012345678901234567890123456789");
	}
	if (batch % 7 == 3) {
		ks_store_rollback(sf_store);
		return;
	}
	if (batch % 50 == 9)
		CU_ASSERT_EQUAL(sf_compact(sf_revision() > 60 ? sf_revision() - 50 : 0), KS_OK);
	ks_store_publish(sf_store);
}

static void readers_on_other_threads_see_whole_commits(void)
{
	struct ks_store_config config = {.value_cache_bytes = 20000};
	pthread_t readers[2], side;

	sf_store = ks_store_new(&config, &sf_err);
	CU_ASSERT_PTR_NOT_NULL_FATAL(sf_store);
	memset(&threads, 0, sizeof(threads));
	sf_hold = false;
	sf_grant(5);
	sf_hold = true;
	for (unsigned i = 0; i < 2; i++)
		CU_ASSERT_EQUAL_FATAL(pthread_create(&readers[i], NULL, range_thread, NULL), 0);
	CU_ASSERT_EQUAL_FATAL(pthread_create(&side, NULL, side_thread, NULL), 0);
	for (unsigned batch = 0; batch < BATCHES; batch++)
		one_batch(batch);
	while (atomic_load(&threads.reads) < 100)
		sched_yield();
	atomic_store(&threads.stop, true);
	for (unsigned i = 0; i < 2; i++)
		pthread_join(readers[i], NULL);
	pthread_join(side, NULL);
	CU_ASSERT_EQUAL(atomic_load(&threads.errors), 0);
	sf_close();
}

SF_WITH_STORE(tail_is_invisible_until_published)
SF_WITH_STORE(each_request_of_a_batch_has_its_own_revision_and_position)
SF_WITH_STORE(failing_request_does_not_disturb_its_neighbours)
SF_WITH_STORE(only_what_lies_before_a_cut_is_published)
SF_WITH_STORE(rollback_to_a_cut_keeps_what_lies_before_it)
SF_WITH_STORE(cuts_are_published_from_the_first_and_rolled_back_from_the_last)
SF_WITH_STORE(rollback_restores_everything)
SF_WITH_STORE(applied_entries_make_the_same_state)
SF_WITH_STORE(entry_that_does_not_follow_is_refused)
SF_WITH_STORE(rows_out_of_order_are_refused)
SF_WITH_STORE(strange_but_harmless_entries_are_believed)
SF_WITH_STORE(reset_empties_the_store)
SF_WITH_STORE(load_takes_a_trimmed_log)
SF_WITH_STORE(jump_replaces_the_state_in_one_step)
SF_WITH_STORE(jump_backwards_is_refused)
SF_WITH_STORE(jump_compacts_watchers_that_it_overtook)

int main(void)
{
	return tap_run("store_tail", (const struct tap_test[]){
					     SF_TEST(tail_is_invisible_until_published),
					     SF_TEST(each_request_of_a_batch_has_its_own_revision_and_position),
					     SF_TEST(failing_request_does_not_disturb_its_neighbours),
					     SF_TEST(rollback_restores_everything),
					     SF_TEST(only_what_lies_before_a_cut_is_published),
					     SF_TEST(rollback_to_a_cut_keeps_what_lies_before_it),
					     SF_TEST(cuts_are_published_from_the_first_and_rolled_back_from_the_last),
					     SF_TEST(applied_entries_make_the_same_state),
					     SF_TEST(entry_that_does_not_follow_is_refused),
					     SF_TEST(rows_out_of_order_are_refused),
					     SF_TEST(strange_but_harmless_entries_are_believed),
					     SF_TEST(reset_empties_the_store),
					     SF_TEST(load_takes_a_trimmed_log),
					     SF_TEST(jump_replaces_the_state_in_one_step),
					     SF_TEST(jump_backwards_is_refused),
					     SF_TEST(jump_compacts_watchers_that_it_overtook),
					     {"readers_on_other_threads_see_whole_commits",
					      readers_on_other_threads_see_whole_commits},
					     {NULL, NULL},
				     });
}
