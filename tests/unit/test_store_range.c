/* SPDX-License-Identifier: Apache-2.0 */
/* Range: the cases of spec 14.1 and 14.2, values that are not in memory, and long ranges beside a writer. */
#include <stdio.h>
#include <stdlib.h>

#include "tests/lib/store_fixture.h"

static struct ks_range_req all(void)
{
	return (struct ks_range_req){.interval = sf_interval(SF_ALL, SF_ALL)};
}

static void five_keys(void)
{
	const char *keys[] = {"k1", "k2", "k3", "k4", "k5"};

	for (size_t i = 0; i < 5; i++)
		CU_ASSERT_EQUAL(sf_put(keys[i], "v"), KS_OK);
}

static void new_store_has_revision_1_and_nothing(void)
{
	struct ks_range_req req = all();

	CU_ASSERT_EQUAL(sf_range(&req), KS_OK);
	CU_ASSERT_EQUAL(sf_range_result.count, 0);
	CU_ASSERT_EQUAL(sf_revision(), 1);
	CU_ASSERT_EQUAL(ks_store_committed(sf_store).compact_revision, -1);
	CU_ASSERT_EQUAL(ks_store_committed(sf_store).position, 0);
	req.revision = 2;
	CU_ASSERT_EQUAL(sf_range(&req), KS_OUT_OF_RANGE);
	CU_ASSERT_STRING_EQUAL(sf_err.text, "etcdserver: mvcc: required revision is a future revision");
	req.revision = 1;
	CU_ASSERT_EQUAL(sf_range(&req), KS_OK);
	req.revision = -7;
	CU_ASSERT_EQUAL(sf_range(&req), KS_OK);
}

static void old_revision_shows_the_old_value(void)
{
	struct ks_kv kv;

	sf_put("a", "1");
	sf_put("a", "2");
	CU_ASSERT_STRING_EQUAL(sf_value("a", 2), "1");
	kv = sf_kv(0);
	CU_ASSERT(kv.version == 1 && kv.create_revision == 2 && kv.mod_revision == 2 && kv.lease == 0);
	CU_ASSERT_STRING_EQUAL(sf_value("a", 0), "2");
	kv = sf_kv(0);
	CU_ASSERT(kv.version == 2 && kv.create_revision == 2 && kv.mod_revision == 3);
}

static void limit_cuts_and_says_more_but_counts_all(void)
{
	struct ks_range_req req = {.interval = sf_interval("k1", "k6"), .limit = 2};

	five_keys();
	CU_ASSERT_EQUAL(sf_range(&req), KS_OK);
	CU_ASSERT_STRING_EQUAL(sf_keys(), "k1 k2");
	CU_ASSERT(sf_range_result.more && sf_range_result.count == 5);
	req.limit = 5;
	CU_ASSERT_EQUAL(sf_range(&req), KS_OK);
	CU_ASSERT(!sf_range_result.more && sf_range_result.kv_count == 5);
	req.limit = -1;
	CU_ASSERT_EQUAL(sf_range(&req), KS_OK);
	CU_ASSERT(!sf_range_result.more && sf_range_result.kv_count == 5);
	req = (struct ks_range_req){.interval = sf_interval("k3", "k6"), .limit = 2};
	CU_ASSERT_EQUAL(sf_range(&req), KS_OK);
	CU_ASSERT_EQUAL(sf_range_result.count, 3);
}

static void inverted_interval_is_empty(void)
{
	struct ks_range_req req = {.interval = sf_interval("k5", "k1")};

	five_keys();
	CU_ASSERT_EQUAL(sf_range(&req), KS_OK);
	CU_ASSERT(sf_range_result.count == 0 && sf_range_result.kv_count == 0);
	req.interval = sf_interval("k1", "k1");
	CU_ASSERT_EQUAL(sf_range(&req), KS_OK);
	CU_ASSERT_EQUAL(sf_range_result.count, 0);
}

static void zero_byte_end_means_everything_from_the_key(void)
{
	struct ks_range_req req = all();

	five_keys();
	CU_ASSERT_EQUAL(sf_range(&req), KS_OK);
	CU_ASSERT_EQUAL(sf_range_result.kv_count, 5);
	req.interval = sf_interval("k3", SF_ALL);
	CU_ASSERT_EQUAL(sf_range(&req), KS_OK);
	CU_ASSERT_STRING_EQUAL(sf_keys(), "k3 k4 k5");
}

static void count_only_returns_no_keys(void)
{
	struct ks_range_req req = all();

	five_keys();
	req.count_only = true;
	req.limit = 1;
	CU_ASSERT_EQUAL(sf_range(&req), KS_OK);
	CU_ASSERT(sf_range_result.count == 5 && sf_range_result.kv_count == 0 && !sf_range_result.more);
	req.revision = 3;
	CU_ASSERT_EQUAL(sf_range(&req), KS_OK);
	CU_ASSERT_EQUAL(sf_range_result.count, 2);
}

static void filters_do_not_change_the_count(void)
{
	struct ks_range_req req = all();

	five_keys();
	req.min_mod_revision = 4;
	CU_ASSERT_EQUAL(sf_range(&req), KS_OK);
	CU_ASSERT_STRING_EQUAL(sf_keys(), "k3 k4 k5");
	CU_ASSERT_EQUAL(sf_range_result.count, 5);
	req.limit = 1;
	CU_ASSERT_EQUAL(sf_range(&req), KS_OK);
	CU_ASSERT_STRING_EQUAL(sf_keys(), "k3");
	CU_ASSERT(sf_range_result.more && sf_range_result.count == 5);
	req.limit = 0;
	req.min_mod_revision = 3;
	req.max_mod_revision = 4;
	CU_ASSERT_EQUAL(sf_range(&req), KS_OK);
	CU_ASSERT_STRING_EQUAL(sf_keys(), "k2 k3");
	req.max_mod_revision = -1;
	CU_ASSERT_EQUAL(sf_range(&req), KS_OK);
	CU_ASSERT(sf_range_result.kv_count == 0 && sf_range_result.count == 5);
}

static void sort_order_and_its_quirk(void)
{
	struct ks_range_req req = all();

	five_keys();
	req.sort_order = KS_SORT_DESCEND;
	req.limit = 1;
	CU_ASSERT_EQUAL(sf_range(&req), KS_OK);
	CU_ASSERT_STRING_EQUAL(sf_keys(), "k5");
	CU_ASSERT(sf_range_result.more);
	sf_put("k1", "x");
	/* Without an order the window is taken first: k1, k2; of those the one with the smaller version. */
	req.sort_target = KS_SORT_VERSION;
	req.sort_order = KS_SORT_NONE;
	CU_ASSERT_EQUAL(sf_range(&req), KS_OK);
	CU_ASSERT_STRING_EQUAL(sf_keys(), "k2");
	req.sort_order = KS_SORT_DESCEND;
	CU_ASSERT_EQUAL(sf_range(&req), KS_OK);
	CU_ASSERT_STRING_EQUAL(sf_keys(), "k1");
	req.limit = 0;
	req.sort_order = KS_SORT_ASCEND;
	CU_ASSERT_EQUAL(sf_range(&req), KS_OK);
	CU_ASSERT_STRING_EQUAL(sf_keys(), "k2 k3 k4 k5 k1");
	req.sort_target = KS_SORT_MOD;
	req.sort_order = KS_SORT_DESCEND;
	CU_ASSERT_EQUAL(sf_range(&req), KS_OK);
	CU_ASSERT_STRING_EQUAL(sf_keys(), "k1 k5 k4 k3 k2");
	req.sort_target = KS_SORT_CREATE;
	CU_ASSERT_EQUAL(sf_range(&req), KS_OK);
	CU_ASSERT_STRING_EQUAL(sf_keys(), "k5 k4 k3 k2 k1");
}

static void keys_only_keeps_everything_but_the_value(void)
{
	struct ks_range_req req = all();
	struct ks_kv kv;

	sf_grant(5);
	sf_put_lease("a", "value", 5);
	req.keys_only = true;
	CU_ASSERT_EQUAL(sf_range(&req), KS_OK);
	kv = sf_kv(0);
	CU_ASSERT(kv.value.size == 0 && kv.lease == 5 && kv.version == 1 && kv.mod_revision == 2);
}

static void binary_keys_and_prefixes(void)
{
	struct ks_request put = {.kind = KS_REQ_PUT};
	struct ks_range_req req = {0};

	sf_put("a", "");
	put.put.key = S("a\0");
	sf_eval(&put);
	sf_put("b", "");
	put.put.key = S("\xff\xff");
	sf_eval(&put);
	req.interval.key = S("a");
	CU_ASSERT_EQUAL(sf_range(&req), KS_OK);
	CU_ASSERT_EQUAL(sf_range_result.count, 1);
	req.interval.end = S("a\0");
	CU_ASSERT_EQUAL(sf_range(&req), KS_OK);
	CU_ASSERT_EQUAL(sf_range_result.count, 1);
	req.interval.end = S("b");
	CU_ASSERT_EQUAL(sf_range(&req), KS_OK);
	CU_ASSERT_EQUAL(sf_range_result.count, 2);
	req.interval = (struct ks_interval){.key = S("\xff\xff"), .end = S("\0")};
	CU_ASSERT_EQUAL(sf_range(&req), KS_OK);
	CU_ASSERT_EQUAL(sf_range_result.count, 1);
}

static void puts_and_deletes_number_versions_and_revisions(void)
{
	struct ks_kv kv;

	CU_ASSERT_EQUAL(sf_delete("nope", NULL), KS_OK);
	CU_ASSERT(sf_result.op.del.deleted == 0 && sf_result.revision == 1 && sf_effects.entry.effect_count == 0);
	sf_put("a", "1");
	CU_ASSERT(sf_result.revision == 2 && !ks_kvref_present(&sf_result.op.prev_kv));
	sf_put("a", "1");
	CU_ASSERT(sf_result.revision == 3 && ks_kvref_present(&sf_result.op.prev_kv));
	sf_value("a", 0);
	kv = sf_kv(0);
	CU_ASSERT(kv.version == 2 && kv.create_revision == 2);
	sf_delete("a", NULL);
	CU_ASSERT(sf_result.op.del.deleted == 1 && sf_result.revision == 4);
	sf_delete("a", NULL);
	CU_ASSERT(sf_result.op.del.deleted == 0 && sf_result.revision == 4);
	sf_put("a", "2");
	sf_value("a", 0);
	kv = sf_kv(0);
	CU_ASSERT(kv.version == 1 && kv.create_revision == 5);
	sf_put("b", "");
	CU_ASSERT_STRING_EQUAL(sf_value("b", 0), "");
	sf_delete("a", "c");
	CU_ASSERT(sf_result.op.del.deleted == 2 && sf_result.revision == 7 && sf_result.op.del.prev_kvs != NULL);
	sf_delete("c", "a");
	CU_ASSERT(sf_result.op.del.deleted == 0 && sf_revision() == 7);
}

static void ignored_parts_need_the_key(void)
{
	struct ks_request put = {.kind = KS_REQ_PUT, .put = {.key = S("b"), .ignore_value = true}};

	CU_ASSERT_EQUAL(sf_eval(&put), KS_INVALID_ARGUMENT);
	CU_ASSERT_STRING_EQUAL(sf_err.text, "etcdserver: key not found");
	CU_ASSERT_EQUAL(sf_put_lease("a", "", 99), KS_NOT_FOUND);
	CU_ASSERT_STRING_EQUAL(sf_err.text, "etcdserver: requested lease not found");
	put.put.lease = 99;
	CU_ASSERT_EQUAL(sf_eval(&put), KS_NOT_FOUND); /* the lease is looked at first */
	CU_ASSERT_EQUAL(sf_revision(), 1);
	sf_grant(5);
	sf_put_lease("b", "kept", 5);
	put.put.lease = 0;
	put.put.ignore_lease = true;
	CU_ASSERT_EQUAL(sf_eval(&put), KS_OK);
	CU_ASSERT_STRING_EQUAL(sf_value("b", 0), "kept");
	CU_ASSERT(sf_kv(0).lease == 5 && sf_kv(0).version == 2);
}

/* ---- values that are not in memory ---- */

static void values_over_the_limit_are_let_go_and_come_back(void)
{
	struct ks_store_stats stats;
	char key[16], value[101];
	struct ks_range_req req = all();

	sf_open_cached(10000);
	memset(value, 'x', 100);
	value[100] = 0;
	for (unsigned i = 0; i < 500; i++) {
		snprintf(key, sizeof(key), "k%03u", i);
		sf_put(key, value);
	}
	ks_store_stats(sf_store, &stats);
	CU_ASSERT(stats.cached_bytes <= 10000);
	CU_ASSERT(stats.records == 500 && stats.keys == 500);
	CU_ASSERT_EQUAL(sf_range(&req), KS_OK);
	CU_ASSERT(sf_range_result.kv_count == 500 && sf_fetches() > 400);
	for (size_t i = 0; i < 500; i++)
		CU_ASSERT(sf_is(sf_kv(i).value, value));
	sf_close();
}

static void filled_value_stays_when_it_is_used(void)
{
	struct ks_range_req req = {.interval = sf_interval("hot", NULL)};
	struct ks_bytes *encoded;
	struct ks_range_result result;
	int64_t revision;
	char key[16];
	unsigned misses = 0;

	sf_open_cached(3000);
	sf_put("hot", "value");
	for (unsigned i = 0; i < 300; i++) {
		snprintf(key, sizeof(key), "k%03u", i);
		sf_put(key, "0123456789012345678901234567890123456789");
		CU_ASSERT_EQUAL_FATAL(ks_store_range(sf_store, &req, &result, &revision, &sf_err), KS_OK);
		if (ks_kvref_missing(&result.kvs[0])) {
			misses++;
			encoded = sf_fetch(NULL, result.kvs[0].loc);
			ks_store_cache_fill(sf_store, encoded, result.kvs[0].loc);
			ks_bytes_unref(encoded);
		}
		ks_range_result_fini(&result);
	}
	CU_ASSERT(misses <= 3);
	sf_close();
}

static void wrong_bytes_are_not_put_into_the_cache(void)
{
	struct ks_kv kv = {.key = S("a"), .value = S("forged"), .create_revision = 2, .mod_revision = 2, .version = 7};
	struct ks_loc loc = {.position = 1};
	struct ks_store_stats stats;
	struct ks_bytes *encoded;

	sf_open_cached(60);
	sf_put("a", "a value that is too long for the cache of this test, so that it is let go at once");
	ks_store_stats(sf_store, &stats);
	CU_ASSERT_EQUAL(stats.cached_bytes, 0);
	encoded = ks_kv_encode(&kv);
	ks_store_cache_fill(sf_store, encoded, loc);
	ks_bytes_unref(encoded);
	kv.version = 1;
	kv.key = S("b");
	encoded = ks_kv_encode(&kv);
	ks_store_cache_fill(sf_store, encoded, loc);
	ks_bytes_unref(encoded);
	encoded = ks_bytes_copy(S("\xff\xff\xff"));
	ks_store_cache_fill(sf_store, encoded, loc);
	ks_bytes_unref(encoded);
	ks_store_stats(sf_store, &stats);
	CU_ASSERT_EQUAL(stats.cached_bytes, 0);
	sf_close();
}

static void sort_by_value_waits_for_missing_values(void)
{
	struct ks_range_req req = all();
	struct ks_range_result result;
	int64_t revision;

	sf_open_cached(0);
	sf_put("a", "3");
	sf_put("b", "1");
	sf_put("c", "2");
	req.sort_target = KS_SORT_VALUE;
	req.sort_order = KS_SORT_ASCEND;
	req.limit = 2;
	req.keys_only = true;
	CU_ASSERT_EQUAL(ks_store_range(sf_store, &req, &result, &revision, &sf_err), KS_OK);
	CU_ASSERT(result.unsorted && result.kv_count == 3);
	CU_ASSERT_EQUAL(ks_range_result_finish(&result, &sf_err), KS_UNAVAILABLE);
	ks_range_result_fini(&result);
	CU_ASSERT_EQUAL(sf_range(&req), KS_OK);
	CU_ASSERT_STRING_EQUAL(sf_keys(), "b c");
	CU_ASSERT(sf_range_result.more && sf_kv(0).value.size == 0);
	sf_close();
}

static void keys_only_needs_no_values(void)
{
	struct ks_range_req req = all();

	sf_open_cached(0);
	sf_put("a", "value");
	req.keys_only = true;
	CU_ASSERT_EQUAL(sf_range(&req), KS_OK);
	CU_ASSERT(sf_kv(0).mod_revision == 2 && sf_kv(0).value.size == 0);
	CU_ASSERT_EQUAL(sf_fetches(), 0);
	sf_close();
}

/* ---- long ones ---- */

#define MANY 20000

static void load_many(void)
{
	char key[16];

	sf_hold = true;
	for (unsigned i = 0; i < MANY; i++) {
		snprintf(key, sizeof(key), "m%06u", i);
		sf_put(key, "v");
	}
	ks_store_publish(sf_store);
	sf_hold = false;
}

static void long_range_is_complete_and_in_order(void)
{
	struct ks_range_req req = all();

	load_many();
	CU_ASSERT_EQUAL(sf_range(&req), KS_OK);
	CU_ASSERT_EQUAL(sf_range_result.kv_count, MANY);
	for (size_t i = 1; i < sf_range_result.kv_count; i++)
		CU_ASSERT(ks_slice_cmp(sf_kv(i - 1).key, sf_kv(i).key) < 0);
	/* An older revision is counted by walking when the history since is too long. */
	req.revision = 1001;
	req.limit = 10;
	CU_ASSERT_EQUAL(sf_range(&req), KS_OK);
	CU_ASSERT(sf_range_result.count == 1000 && sf_range_result.kv_count == 10 && sf_range_result.more);
	req.revision = MANY - 100;
	CU_ASSERT_EQUAL(sf_range(&req), KS_OK);
	CU_ASSERT_EQUAL(sf_range_result.count, MANY - 101);
}

static void delete_of_many_keys_is_one_revision(void)
{
	struct ks_range_req req = all();

	load_many();
	CU_ASSERT_EQUAL(sf_delete("m", "n"), KS_OK);
	CU_ASSERT(sf_result.op.del.deleted == MANY && sf_revision() == MANY + 2);
	CU_ASSERT_EQUAL(sf_effects.entry.effect_count, MANY);
	CU_ASSERT_EQUAL(sf_range(&req), KS_OK);
	CU_ASSERT_EQUAL(sf_range_result.count, 0);
	req.revision = MANY + 1;
	req.count_only = true;
	CU_ASSERT_EQUAL(sf_range(&req), KS_OK);
	CU_ASSERT_EQUAL(sf_range_result.count, MANY);
}

SF_WITH_STORE(new_store_has_revision_1_and_nothing)
SF_WITH_STORE(old_revision_shows_the_old_value)
SF_WITH_STORE(limit_cuts_and_says_more_but_counts_all)
SF_WITH_STORE(inverted_interval_is_empty)
SF_WITH_STORE(zero_byte_end_means_everything_from_the_key)
SF_WITH_STORE(count_only_returns_no_keys)
SF_WITH_STORE(filters_do_not_change_the_count)
SF_WITH_STORE(sort_order_and_its_quirk)
SF_WITH_STORE(keys_only_keeps_everything_but_the_value)
SF_WITH_STORE(binary_keys_and_prefixes)
SF_WITH_STORE(puts_and_deletes_number_versions_and_revisions)
SF_WITH_STORE(ignored_parts_need_the_key)
SF_WITH_STORE(long_range_is_complete_and_in_order)
SF_WITH_STORE(delete_of_many_keys_is_one_revision)

int main(void)
{
	return tap_run("store_range",
		       (const struct tap_test[]){
			       SF_TEST(new_store_has_revision_1_and_nothing),
			       SF_TEST(old_revision_shows_the_old_value),
			       SF_TEST(limit_cuts_and_says_more_but_counts_all),
			       SF_TEST(inverted_interval_is_empty),
			       SF_TEST(zero_byte_end_means_everything_from_the_key),
			       SF_TEST(count_only_returns_no_keys),
			       SF_TEST(filters_do_not_change_the_count),
			       SF_TEST(sort_order_and_its_quirk),
			       SF_TEST(keys_only_keeps_everything_but_the_value),
			       SF_TEST(binary_keys_and_prefixes),
			       SF_TEST(puts_and_deletes_number_versions_and_revisions),
			       SF_TEST(ignored_parts_need_the_key),
			       SF_TEST(long_range_is_complete_and_in_order),
			       SF_TEST(delete_of_many_keys_is_one_revision),
			       {"values_over_the_limit_are_let_go_and_come_back",
				values_over_the_limit_are_let_go_and_come_back},
			       {"filled_value_stays_when_it_is_used", filled_value_stays_when_it_is_used},
			       {"wrong_bytes_are_not_put_into_the_cache", wrong_bytes_are_not_put_into_the_cache},
			       {"sort_by_value_waits_for_missing_values", sort_by_value_waits_for_missing_values},
			       {"keys_only_needs_no_values", keys_only_needs_no_values},
			       {NULL, NULL},
		       });
}
