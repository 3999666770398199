/* SPDX-License-Identifier: Apache-2.0 */
/* Compaction: spec 5.1, 5.2 and 14.6, physical removal in steps beside everything else, and which rows may be trimmed. */
#include <stdio.h>
#include <stdlib.h>

#include "tests/lib/store_fixture.h"

static struct ks_loc dropped[1000];
static size_t dropped_count;

static void note_dropped(void *ctx, const struct ks_loc *locs, size_t count)
{
	(void)ctx;
	for (size_t i = 0; i < count && dropped_count < 1000; i++)
		dropped[dropped_count++] = locs[i];
}

static void compact_all_noting(void)
{
	dropped_count = 0;
	while (ks_store_compact_step(sf_store, 3, note_dropped, NULL))
		;
}

static bool was_dropped(int64_t position, int32_t sub)
{
	for (size_t i = 0; i < dropped_count; i++) {
		if (dropped[i].position == position && dropped[i].sub == sub)
			return true;
	}
	return false;
}

static size_t records(void)
{
	struct ks_store_stats stats;

	ks_store_stats(sf_store, &stats);
	return stats.records;
}

static void compact_of_a_new_store_works_once(void)
{
	CU_ASSERT_EQUAL(sf_compact(-1), KS_OUT_OF_RANGE);
	CU_ASSERT_EQUAL(sf_compact(2), KS_OUT_OF_RANGE);
	CU_ASSERT_STRING_EQUAL(sf_err.text, "etcdserver: mvcc: required revision is a future revision");
	CU_ASSERT_EQUAL(sf_compact(0), KS_OK);
	CU_ASSERT_EQUAL(sf_compact(0), KS_OUT_OF_RANGE);
	CU_ASSERT_STRING_EQUAL(sf_err.text, "etcdserver: mvcc: required revision has been compacted");
	CU_ASSERT_EQUAL(ks_store_committed(sf_store).compact_revision, 0);
	CU_ASSERT_EQUAL(sf_revision(), 1);
}

static void compaction_refuses_what_is_older(void)
{
	struct ks_range_req req = {.interval = sf_interval("a", NULL), .revision = 4};

	sf_put("a", "1");
	sf_put("a", "2");
	sf_put("b", "");
	sf_delete("b", NULL);
	CU_ASSERT_EQUAL(sf_compact(5), KS_OK);
	CU_ASSERT(sf_result.revision == 5 && sf_effects.entry.effects[0].version == 5);
	for (unsigned physically = 0; physically < 2; physically++) {
		CU_ASSERT_EQUAL(sf_range(&req), KS_OUT_OF_RANGE);
		CU_ASSERT_STRING_EQUAL(sf_value("a", 5), "2");
		CU_ASSERT_STRING_EQUAL(sf_events("\1", SF_ALL, 5, false), "del b 5;");
		sf_compact_all();
	}
	CU_ASSERT_EQUAL(sf_compact(5), KS_OUT_OF_RANGE);
	CU_ASSERT_EQUAL(sf_compact(4), KS_OUT_OF_RANGE);
	sf_put("b", "");
	sf_value("b", 0);
	CU_ASSERT(sf_kv(0).create_revision == 6 && sf_kv(0).version == 1);
	sf_value("a", 0);
	CU_ASSERT(sf_kv(0).create_revision == 2 && sf_kv(0).version == 2);
}

static void delete_at_the_compact_revision_stays_until_the_next(void)
{
	sf_put("a", "1");     /* 2, position 1 */
	sf_delete("a", NULL); /* 3, position 2 */
	sf_put("b", "1");     /* 4, position 3 */
	sf_compact(3);        /*    position 4 */
	compact_all_noting();
	CU_ASSERT(was_dropped(1, 0) && dropped_count == 1 && records() == 2);
	sf_compact(4);
	compact_all_noting();
	CU_ASSERT(was_dropped(2, 0) && records() == 1);
	CU_ASSERT(was_dropped(4, 0)); /* the older compaction's own row */
	CU_ASSERT_EQUAL(dropped_count, 2);
}

static void superseded_subs_of_one_revision_go(void)
{
	struct ks_op first[] = {{.kind = KS_OP_PUT, .put = {.key = S("a"), .value = S("1")}},
				{.kind = KS_OP_DELETE, .del = {.interval = {.key = S("a")}}},
				{.kind = KS_OP_PUT, .put = {.key = S("a"), .value = S("2")}}};
	struct ks_txn_req txn = {.success = first, .success_count = 3};

	sf_txn(&txn);
	sf_compact(2);
	compact_all_noting();
	CU_ASSERT(records() == 1 && was_dropped(1, 0) && was_dropped(1, 1));
	CU_ASSERT_STRING_EQUAL(sf_value("a", 0), "2");
	CU_ASSERT_STRING_EQUAL(sf_events("a", NULL, 3, false), "");
}

static void rows_are_reported_oldest_first_for_each_key(void)
{
	for (unsigned i = 0; i < 20; i++)
		sf_put("a", "1");
	sf_delete("a", NULL);
	sf_put("b", "");
	sf_compact(sf_revision());
	compact_all_noting();
	CU_ASSERT_EQUAL(dropped_count, 21);
	for (size_t i = 1; i < dropped_count; i++)
		CU_ASSERT(dropped[i - 1].position < dropped[i].position);
}

static bool needed(enum ks_effect_kind kind, const char *key, int64_t lease, int64_t position, int32_t sub)
{
	struct ks_effect effect = {.kind = kind, .key = ks_slice_str(key), .lease = lease};

	return ks_store_row_needed(sf_store, &effect, (struct ks_loc){.position = position, .sub = sub});
}

static void rows_of_dead_leases_go_with_the_next_compaction(void)
{
	sf_grant(5);  /* position 1 */
	sf_grant(6);  /* position 2 */
	sf_revoke(5); /* position 3 */
	compact_all_noting();
	CU_ASSERT_EQUAL(dropped_count, 0); /* no compaction behind them: a hole there would puzzle a reader */
	CU_ASSERT(needed(KS_EFFECT_LEASE_GRANT, "", 5, 1, 0));
	sf_compact(1); /* position 4 */
	CU_ASSERT_FALSE(needed(KS_EFFECT_LEASE_GRANT, "", 5, 1, 0));
	CU_ASSERT(needed(KS_EFFECT_LEASE_GRANT, "", 6, 2, 0));
	CU_ASSERT_FALSE(needed(KS_EFFECT_LEASE_REVOKE, "", 5, 3, 0));
	CU_ASSERT(needed(KS_EFFECT_COMPACT, "", 0, 4, 0));
	compact_all_noting();
	CU_ASSERT(dropped_count == 2 && dropped[0].position == 1 && dropped[1].position == 3);
}

static void rows_that_are_needed_are_known(void)
{
	sf_put("a", "1");     /* position 1 */
	sf_put("a", "2");     /* position 2 */
	sf_delete("b", NULL); /* nothing */
	sf_compact(3);        /* position 3 */
	sf_put("a", "3");     /* position 4 */
	sf_compact_all();
	CU_ASSERT_FALSE(needed(KS_EFFECT_PUT, "a", 0, 1, 0));
	CU_ASSERT(needed(KS_EFFECT_PUT, "a", 0, 2, 0));
	CU_ASSERT_FALSE(needed(KS_EFFECT_PUT, "a", 0, 2, 1));
	CU_ASSERT_FALSE(needed(KS_EFFECT_PUT, "x", 0, 2, 0));
	CU_ASSERT(needed(KS_EFFECT_PUT, "a", 0, 4, 0));
	CU_ASSERT(needed(KS_EFFECT_NOOP, "", 0, 99, 0));
}

static void removal_does_not_touch_the_tail(void)
{
	sf_put("a", "1");
	sf_delete("a", NULL);
	sf_put("b", "1");
	sf_compact(4);
	sf_hold = true;
	sf_put("a", "tail");
	sf_put("b", "tail");
	sf_compact_all();
	ks_store_rollback(sf_store);
	CU_ASSERT_STRING_EQUAL(sf_value("a", 0), "-");
	CU_ASSERT_STRING_EQUAL(sf_value("b", 0), "1");
	CU_ASSERT_EQUAL(records(), 1);
	sf_put("a", "tail");
	sf_compact_all();
	ks_store_publish(sf_store);
	CU_ASSERT_STRING_EQUAL(sf_value("a", 0), "tail");
	CU_ASSERT_EQUAL(sf_kv(0).create_revision, 5);
}

static void rolled_back_compaction_is_gone(void)
{
	sf_put("a", "1");
	sf_put("a", "2");
	sf_hold = true;
	CU_ASSERT_EQUAL(sf_compact(3), KS_OK);
	CU_ASSERT_EQUAL(sf_compact(3), KS_OUT_OF_RANGE);
	CU_ASSERT_EQUAL(ks_store_committed(sf_store).compact_revision, -1);
	sf_compact_all();
	ks_store_rollback(sf_store);
	CU_ASSERT_STRING_EQUAL(sf_value("a", 2), "1");
	CU_ASSERT_EQUAL(sf_compact(2), KS_OK);
}

static void later_compaction_overtakes_one_under_way(void)
{
	char key[16];

	for (unsigned i = 0; i < 300; i++) {
		snprintf(key, sizeof(key), "k%u", i % 50);
		if (i % 7 == 3)
			sf_delete(key, NULL);
		else
			sf_put(key, "v");
	}
	for (int64_t revision = 20; revision <= sf_revision(); revision += 20) {
		sf_compact(revision);
		ks_store_compact_step(sf_store, 3, NULL, NULL);
	}
	sf_compact(sf_revision());
	sf_compact_all();
	sf_range(&(struct ks_range_req){.interval = sf_interval(SF_ALL, SF_ALL)});
	/* The last operation was a put, so no delete lies at the compact revision itself. */
	CU_ASSERT_EQUAL(records(), (size_t)sf_range_result.count);
}

static void events_before_the_removal_can_still_be_read(void)
{
	sf_put("a", "1"); /* 2 */
	sf_put("b", "1"); /* 3 */
	sf_put("a", "2"); /* 4 */
	sf_put("b", "2"); /* 5 */
	sf_compact(5);
	CU_ASSERT_STRING_EQUAL(sf_events("\1", SF_ALL, 4, true), "put a(prev) 4;put b(prev) 5;");
	sf_compact_all();
	CU_ASSERT_STRING_EQUAL(sf_events("\1", SF_ALL, 2, false), "compacted");
	CU_ASSERT_STRING_EQUAL(sf_events("\1", SF_ALL, 3, false), "compacted");
	/* Only 2 and 3 were removed. */
	CU_ASSERT_STRING_EQUAL(sf_events("\1", SF_ALL, 4, false), "put a 4;put b 5;");
	CU_ASSERT_STRING_EQUAL(sf_events("\1", SF_ALL, 5, true), "put b 5;");
}

static void hot_key_loses_its_past_in_steps(void)
{
	unsigned steps = 0;

	sf_hold = true;
	for (unsigned i = 0; i < 20000; i++)
		sf_put("hot", "v");
	ks_store_publish(sf_store);
	sf_compact(sf_revision());
	ks_store_publish(sf_store);
	while (ks_store_compact_step(sf_store, 1000, NULL, NULL))
		steps++;
	CU_ASSERT(records() == 1 && steps >= 19);
	sf_value("hot", 0);
	CU_ASSERT_EQUAL(sf_kv(0).version, 20000);
}

SF_WITH_STORE(compact_of_a_new_store_works_once)
SF_WITH_STORE(compaction_refuses_what_is_older)
SF_WITH_STORE(delete_at_the_compact_revision_stays_until_the_next)
SF_WITH_STORE(superseded_subs_of_one_revision_go)
SF_WITH_STORE(rows_are_reported_oldest_first_for_each_key)
SF_WITH_STORE(rows_of_dead_leases_go_with_the_next_compaction)
SF_WITH_STORE(rows_that_are_needed_are_known)
SF_WITH_STORE(removal_does_not_touch_the_tail)
SF_WITH_STORE(rolled_back_compaction_is_gone)
SF_WITH_STORE(later_compaction_overtakes_one_under_way)
SF_WITH_STORE(events_before_the_removal_can_still_be_read)
SF_WITH_STORE(hot_key_loses_its_past_in_steps)

int main(void)
{
	return tap_run("store_compact", (const struct tap_test[]){
						SF_TEST(compact_of_a_new_store_works_once),
						SF_TEST(compaction_refuses_what_is_older),
						SF_TEST(delete_at_the_compact_revision_stays_until_the_next),
						SF_TEST(superseded_subs_of_one_revision_go),
						SF_TEST(rows_are_reported_oldest_first_for_each_key),
						SF_TEST(rows_of_dead_leases_go_with_the_next_compaction),
						SF_TEST(rows_that_are_needed_are_known),
						SF_TEST(removal_does_not_touch_the_tail),
						SF_TEST(rolled_back_compaction_is_gone),
						SF_TEST(later_compaction_overtakes_one_under_way),
						SF_TEST(events_before_the_removal_can_still_be_read),
						SF_TEST(hot_key_loses_its_past_in_steps),
						{NULL, NULL},
					});
}
