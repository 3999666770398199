/* SPDX-License-Identifier: Apache-2.0 */
/* Copies of the store: everything of one revision, whatever is written or compacted meanwhile. */
#include <stdio.h>

#include "tests/lib/store_fixture.h"

/* What a copy gives from here on, as "2.0 put a;3.0 del a;", read 'room' records at a time; ends with "!" when aborted. */
static const char *read_on(struct ks_store_copy *copy, size_t room)
{
	static char text[4096];
	struct ks_store_record records[16];
	size_t count = 1, at = 0;

	text[0] = 0;
	while (count > 0) {
		if (ks_store_copy_next(sf_store, copy, records, room, &count, &sf_err) != KS_OK) {
			CU_ASSERT_EQUAL(sf_err.status, KS_ABORTED);
			(void)snprintf(text + at, sizeof(text) - at, "!");
			return text;
		}
		CU_ASSERT(count <= room);
		for (size_t i = 0; i < count; i++) {
			struct ks_bytes *encoded = records[i].ref.encoded;
			struct ks_kv kv = {0};

			CU_ASSERT(encoded && ks_kv_decode(ks_bytes_slice(encoded), &kv));
			at += (size_t)snprintf(text + at, sizeof(text) - at, "%d.%d %s %.*s;", (int)records[i].revision,
					       records[i].sub, records[i].is_delete ? "del" : "put", (int)kv.key.size,
					       (const char *)kv.key.data);
			ks_bytes_unref(encoded);
		}
	}
	return text;
}

static void copy_has_everything_of_its_revision_and_nothing_newer(void)
{
	struct ks_store_copy copy;

	sf_put("a", "1");
	sf_put("b", "1");
	sf_put("a", "2");
	sf_grant(7);
	sf_grant(8);
	sf_revoke(8);
	sf_delete("a", SF_ALL);
	sf_hold = true;
	sf_put("tail", "1");
	CU_ASSERT_EQUAL(ks_store_copy_begin(sf_store, &copy, &sf_err), KS_OK);
	ks_store_publish(sf_store);
	sf_hold = false;
	sf_put("late", "1");
	sf_grant(9);
	CU_ASSERT_EQUAL(copy.point.revision, 5);
	CU_ASSERT_EQUAL(copy.point.compact_revision, -1);
	CU_ASSERT_EQUAL(copy.compact_done, -1);
	CU_ASSERT(copy.lease_count == 1 && copy.leases[0].id == 7 && copy.leases[0].ttl > 0);
	CU_ASSERT_STRING_EQUAL(read_on(&copy, 2), "2.0 put a;3.0 put b;4.0 put a;5.0 del a;5.1 del b;");
	CU_ASSERT_STRING_EQUAL(read_on(&copy, 2), "");
	ks_store_copy_end(sf_store, &copy);
}

static void compaction_removes_nothing_before_the_end(void)
{
	struct ks_store_copy copy, other;
	struct ks_store_record record;
	size_t count;

	sf_put("a", "1");
	sf_put("a", "2");
	sf_delete("a", NULL);
	sf_put("b", "1");
	CU_ASSERT_EQUAL(ks_store_copy_begin(sf_store, &copy, &sf_err), KS_OK);
	CU_ASSERT_EQUAL(ks_store_copy_next(sf_store, &copy, &record, 1, &count, &sf_err), KS_OK);
	CU_ASSERT(count == 1 && record.revision == 2);
	ks_bytes_unref(record.ref.encoded);
	CU_ASSERT_EQUAL(sf_compact(5), KS_OK);
	CU_ASSERT(ks_store_copying(sf_store));
	CU_ASSERT_TRUE(ks_store_compact_step(sf_store, 100, NULL, NULL)); /* there is more to do, but not now */
	/* It counts all the same. */
	CU_ASSERT_EQUAL(sf_range(&(struct ks_range_req){.interval = sf_interval("a", NULL), .revision = 3}),
			KS_OUT_OF_RANGE);
	CU_ASSERT_EQUAL(ks_store_copy_begin(sf_store, &other, &sf_err), KS_OK);
	CU_ASSERT_EQUAL(other.point.compact_revision, 5);
	CU_ASSERT_EQUAL(other.compact_done, -1);
	CU_ASSERT_STRING_EQUAL(read_on(&copy, 16), "3.0 put a;4.0 del a;5.0 put b;");
	ks_store_copy_end(sf_store, &copy);
	CU_ASSERT(ks_store_copying(sf_store)); /* the other one */
	CU_ASSERT_TRUE(ks_store_compact_step(sf_store, 100, NULL, NULL));
	CU_ASSERT_STRING_EQUAL(read_on(&other, 3), "2.0 put a;3.0 put a;4.0 del a;5.0 put b;");
	ks_store_copy_end(sf_store, &other);
	CU_ASSERT_FALSE(ks_store_copying(sf_store));
	sf_compact_all();
	CU_ASSERT_EQUAL(ks_store_copy_begin(sf_store, &copy, &sf_err), KS_OK);
	CU_ASSERT_EQUAL(copy.compact_done, 5);
	CU_ASSERT_STRING_EQUAL(read_on(&copy, 16), "5.0 put b;");
	ks_store_copy_end(sf_store, &copy);
}

static void copy_ends_when_the_state_is_replaced(void)
{
	struct ks_store_copy copy;

	sf_put("a", "1");
	CU_ASSERT_EQUAL(ks_store_copy_begin(sf_store, &copy, &sf_err), KS_OK);
	ks_store_reset(sf_store);
	CU_ASSERT_STRING_EQUAL(read_on(&copy, 4), "!");
	ks_store_copy_end(sf_store, &copy);
	CU_ASSERT_FALSE(ks_store_copying(sf_store));
}

SF_WITH_STORE(copy_has_everything_of_its_revision_and_nothing_newer)
SF_WITH_STORE(compaction_removes_nothing_before_the_end)
SF_WITH_STORE(copy_ends_when_the_state_is_replaced)

int main(void)
{
	return tap_run("store_copy", (const struct tap_test[]){
					     SF_TEST(copy_has_everything_of_its_revision_and_nothing_newer),
					     SF_TEST(compaction_removes_nothing_before_the_end),
					     SF_TEST(copy_ends_when_the_state_is_replaced),
					     {NULL, NULL},
				     });
}
