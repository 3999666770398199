/* SPDX-License-Identifier: Apache-2.0 */
/* HashKV against the numbers of spec 6.5 and of a real etcd, and CRC-32C itself. */
#include <stdio.h>
#include <stdlib.h>

#include "store/crc32c.h"
#include "tests/lib/store_fixture.h"

static void crc_of_known_texts(void)
{
	uint8_t zeros[32] = {0};

	CU_ASSERT_EQUAL(ks_crc32c(0, "123456789", 9), 0xe3069283u);
	CU_ASSERT_EQUAL(ks_crc32c_portable(0, "123456789", 9), 0xe3069283u);
	CU_ASSERT_EQUAL(ks_crc32c(0, zeros, 32), 0x8a9136aau); /* RFC 3720 B.4 */
}

static void both_ways_of_the_crc_agree(void)
{
	uint8_t data[300];
	uint32_t a = 0, b = 0;

	for (size_t i = 0; i < sizeof(data); i++)
		data[i] = (uint8_t)(i * 37 + 11);
	for (size_t size = 0; size < 200; size++) {
		a = ks_crc32c(a, data + size % 13, size);
		b = ks_crc32c_portable(b, data + size % 13, size);
		CU_ASSERT_EQUAL(a, b);
	}
}

static void vectors_of_the_specification(void)
{
	struct ks_hash_result result;

	CU_ASSERT_EQUAL(sf_hash(sf_store, 0), 1084519789u);
	sf_put("foo", "bar");
	CU_ASSERT_EQUAL(sf_hash(sf_store, 0), 3305255506u);
	sf_put("foo", "baz");
	CU_ASSERT_EQUAL(sf_hash(sf_store, 0), 2020292994u);
	CU_ASSERT_EQUAL(sf_hash(sf_store, 2), 3305255506u);
	sf_delete("foo", NULL);
	CU_ASSERT_EQUAL(ks_store_hash_kv(sf_store, 0, NULL, NULL, &result, &sf_err), KS_OK);
	CU_ASSERT(result.hash == 3153096970u && result.compact_revision == -1 && result.hash_revision == 4 &&
		  result.revision == 4);
	CU_ASSERT_EQUAL(sf_hash(sf_store, 3), 2020292994u);
}

static void vector_after_compaction_whether_removed_or_not(void)
{
	struct ks_hash_result result;

	sf_put("foo", "bar");
	sf_put("foo", "baz");
	sf_compact(3);
	for (unsigned removed = 0; removed < 2; removed++) {
		CU_ASSERT_EQUAL(ks_store_hash_kv(sf_store, 0, NULL, NULL, &result, &sf_err), KS_OK);
		CU_ASSERT(result.hash == 536172655u && result.compact_revision == 3);
		sf_compact_all();
	}
}

/* Debian's etcd 3.4.23: put a 1, put a 2, put b 1, del b; hashkv; compact 4 --physical; hashkv. */
static void numbers_of_a_real_etcd(void)
{
	sf_put("a", "1");
	sf_put("a", "2");
	sf_put("b", "1");
	sf_delete("b", NULL);
	CU_ASSERT_EQUAL(sf_hash(sf_store, 0), 252186706u);
	sf_compact(4);
	CU_ASSERT_EQUAL(sf_hash(sf_store, 0), 1702593555u);
	sf_compact_all();
	CU_ASSERT_EQUAL(sf_hash(sf_store, 0), 1702593555u);
}

static void revisions_out_of_range_are_refused(void)
{
	struct ks_hash_result result;

	sf_put("a", "1");
	sf_put("a", "2");
	sf_compact(3);
	CU_ASSERT_EQUAL(ks_store_hash_kv(sf_store, 4, NULL, NULL, &result, &sf_err), KS_OUT_OF_RANGE);
	CU_ASSERT_STRING_EQUAL(sf_err.text, "etcdserver: mvcc: required revision is a future revision");
	CU_ASSERT_EQUAL(ks_store_hash_kv(sf_store, 2, NULL, NULL, &result, &sf_err), KS_OUT_OF_RANGE);
	CU_ASSERT_STRING_EQUAL(sf_err.text, "etcdserver: mvcc: required revision has been compacted");
}

static bool fetch_all(void *ctx, const struct ks_loc *locs, struct ks_bytes **out, size_t count)
{
	bool *down = ctx;

	for (size_t i = 0; i < count && !*down; i++)
		out[i] = sf_fetch(NULL, locs[i]);
	return !*down;
}

static void values_not_in_memory_are_fetched(void)
{
	struct ks_hash_result cached, whole;
	bool down = false;
	char key[16];

	sf_open();
	for (unsigned i = 0; i < 1200; i++) {
		snprintf(key, sizeof(key), "k%u", i);
		sf_put(key, "value");
	}
	CU_ASSERT_EQUAL(ks_store_hash_kv(sf_store, 0, NULL, NULL, &whole, &sf_err), KS_OK);
	sf_close();
	sf_open_cached(1000);
	for (unsigned i = 0; i < 1200; i++) {
		snprintf(key, sizeof(key), "k%u", i);
		sf_put(key, "value");
	}
	CU_ASSERT_EQUAL(ks_store_hash_kv(sf_store, 0, fetch_all, &down, &cached, &sf_err), KS_OK);
	CU_ASSERT_EQUAL(cached.hash, whole.hash);
	down = true;
	CU_ASSERT_EQUAL(ks_store_hash_kv(sf_store, 0, fetch_all, &down, &cached, &sf_err), KS_UNAVAILABLE);
	sf_close();
}

static void tail_is_not_hashed(void)
{
	sf_put("foo", "bar");
	sf_hold = true;
	sf_put("foo", "baz");
	CU_ASSERT_EQUAL(sf_hash(sf_store, 0), 3305255506u);
}

SF_WITH_STORE(vectors_of_the_specification)
SF_WITH_STORE(vector_after_compaction_whether_removed_or_not)
SF_WITH_STORE(numbers_of_a_real_etcd)
SF_WITH_STORE(revisions_out_of_range_are_refused)
SF_WITH_STORE(tail_is_not_hashed)

int main(void)
{
	return tap_run("store_hashkv", (const struct tap_test[]){
					       {"crc_of_known_texts", crc_of_known_texts},
					       {"both_ways_of_the_crc_agree", both_ways_of_the_crc_agree},
					       SF_TEST(vectors_of_the_specification),
					       SF_TEST(vector_after_compaction_whether_removed_or_not),
					       SF_TEST(numbers_of_a_real_etcd),
					       SF_TEST(revisions_out_of_range_are_refused),
					       {"values_not_in_memory_are_fetched", values_not_in_memory_are_fetched},
					       SF_TEST(tail_is_not_hashed),
					       {NULL, NULL},
				       });
}
