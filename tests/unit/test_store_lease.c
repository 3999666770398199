/* SPDX-License-Identifier: Apache-2.0 */
/* Leases: spec 14.5 as far as the store knows them (deadlines are the log's), and what the tail does to them. */
#include <stdio.h>
#include <stdlib.h>

#include "store/lease.h"
#include "store/store_priv.h"
#include "tests/lib/store_fixture.h"

static size_t lease_count(void)
{
	struct ks_lease_info *infos;
	size_t count;

	CU_ASSERT_EQUAL(ks_store_leases(sf_store, &infos, &count), KS_OK);
	free(infos);
	return count;
}

static void grant_twice_fails_and_costs_no_revision(void)
{
	struct ks_lease_info info;

	CU_ASSERT_EQUAL(sf_grant(5), KS_OK);
	CU_ASSERT_EQUAL(sf_effects.entry.effect_count, 1);
	CU_ASSERT_EQUAL(sf_effects.entry.effects[0].version, 60);
	CU_ASSERT_EQUAL(sf_grant(5), KS_FAILED_PRECONDITION);
	CU_ASSERT_STRING_EQUAL(sf_err.text, "etcdserver: lease already exists");
	CU_ASSERT_EQUAL(sf_grant(-1), KS_OK);
	CU_ASSERT(sf_revision() == 1 && ks_store_committed(sf_store).position == 2);
	CU_ASSERT(ks_store_lease(sf_store, 5, false, &info) && info.ttl == 60);
	CU_ASSERT_EQUAL(lease_count(), 2);
}

static void revoke_of_nothing_is_not_found(void)
{
	CU_ASSERT_EQUAL(sf_revoke(404), KS_NOT_FOUND);
	CU_ASSERT_STRING_EQUAL(sf_err.text, "etcdserver: requested lease not found");
	CU_ASSERT_STRING_EQUAL(sf_lease_keys(404), "-");
}

static void put_moves_and_detaches(void)
{
	struct ks_request touch = {.kind = KS_REQ_PUT, .put = {.key = S("a"), .ignore_lease = true}};

	sf_grant(5);
	sf_grant(6);
	sf_put_lease("a", "1", 5);
	CU_ASSERT_STRING_EQUAL(sf_lease_keys(5), "a");
	sf_put_lease("a", "1", 6);
	CU_ASSERT_STRING_EQUAL(sf_lease_keys(5), "");
	CU_ASSERT_STRING_EQUAL(sf_lease_keys(6), "a");
	sf_eval(&touch);
	CU_ASSERT_STRING_EQUAL(sf_lease_keys(6), "a");
	sf_put("a", "2");
	CU_ASSERT_STRING_EQUAL(sf_lease_keys(6), "");
	sf_revoke(6);
	CU_ASSERT_STRING_EQUAL(sf_value("a", 0), "2");
	sf_put_lease("a", "3", 5);
	sf_delete("a", NULL);
	CU_ASSERT_STRING_EQUAL(sf_lease_keys(5), "");
}

static void revoke_without_keys_costs_no_revision(void)
{
	sf_grant(5);
	CU_ASSERT_EQUAL(sf_revoke(5), KS_OK);
	CU_ASSERT(sf_result.revision == 1 && sf_effects.entry.effect_count == 1);
	CU_ASSERT_EQUAL(sf_effects.entry.effects[0].kind, KS_EFFECT_LEASE_REVOKE);
	CU_ASSERT_STRING_EQUAL(sf_lease_keys(5), "-");
}

static void revoke_deletes_its_keys_in_order_at_one_revision(void)
{
	sf_grant(5);
	sf_put_lease("c", "", 5);
	sf_put_lease("a", "", 5);
	sf_put_lease("b", "", 5);
	sf_put("other", "");
	CU_ASSERT_EQUAL(sf_revoke(5), KS_OK);
	CU_ASSERT_EQUAL(sf_result.revision, 6);
	CU_ASSERT_EQUAL(sf_effects.entry.effect_count, 4);
	CU_ASSERT_STRING_EQUAL(sf_events("\1", SF_ALL, 6, false), "del a 6;del b 6;del c 6;");
	CU_ASSERT_STRING_EQUAL(sf_value("other", 0), "");
}

static void tail_is_seen_by_the_writer_only(void)
{
	sf_grant(5);
	sf_put_lease("a", "", 5);
	sf_hold = true;
	CU_ASSERT_EQUAL(sf_revoke(5), KS_OK);
	CU_ASSERT_EQUAL(sf_revoke(5), KS_NOT_FOUND);
	CU_ASSERT_EQUAL(sf_put_lease("b", "", 5), KS_NOT_FOUND);
	CU_ASSERT_STRING_EQUAL(sf_lease_keys(5), "a");
	CU_ASSERT_EQUAL(sf_grant(6), KS_OK);
	CU_ASSERT_STRING_EQUAL(sf_lease_keys(6), "-");
	ks_store_publish(sf_store);
	CU_ASSERT_STRING_EQUAL(sf_lease_keys(5), "-");
	CU_ASSERT_STRING_EQUAL(sf_lease_keys(6), "");
}

static void same_id_granted_again_in_one_tail(void)
{
	sf_grant(5);
	sf_put_lease("old", "", 5);
	sf_hold = true;
	CU_ASSERT_EQUAL(sf_revoke(5), KS_OK);
	CU_ASSERT_EQUAL(sf_grant(5), KS_OK);
	CU_ASSERT_EQUAL(sf_put_lease("new", "", 5), KS_OK);
	CU_ASSERT_STRING_EQUAL(sf_lease_keys(5), "old");
	CU_ASSERT_EQUAL(lease_count(), 1);
	ks_store_rollback(sf_store);
	CU_ASSERT_STRING_EQUAL(sf_lease_keys(5), "old");
	CU_ASSERT_EQUAL(sf_revoke(5), KS_OK);
	CU_ASSERT_EQUAL(sf_grant(5), KS_OK);
	CU_ASSERT_EQUAL(sf_put_lease("new", "", 5), KS_OK);
	ks_store_publish(sf_store);
	CU_ASSERT_STRING_EQUAL(sf_lease_keys(5), "new");
	CU_ASSERT_EQUAL(lease_count(), 1);
}

static void rollback_gives_keys_back(void)
{
	sf_grant(5);
	sf_grant(6);
	sf_put_lease("a", "", 5);
	sf_hold = true;
	sf_put_lease("a", "", 6);
	sf_put_lease("b", "", 6);
	sf_delete("a", NULL);
	ks_store_rollback(sf_store);
	CU_ASSERT_STRING_EQUAL(sf_lease_keys(5), "a");
	CU_ASSERT_STRING_EQUAL(sf_lease_keys(6), "");
	CU_ASSERT_EQUAL(sf_revoke(5), KS_OK);
	CU_ASSERT_EQUAL(sf_effects.entry.effect_count, 2);
}

static void set_does_not_grow_under_puts_that_come_and_go(void)
{
	const struct ks_lease *lease;
	char key[16];

	sf_grant(5);
	sf_grant(6);
	/* Keys that move to and fro, and keys that are there for a moment only. */
	for (unsigned i = 0; i < 5000; i++) {
		sf_put_lease("a", "", i % 2 ? 5 : 6);
		snprintf(key, sizeof(key), "k%u", i);
		sf_put_lease(key, "", 5);
		sf_delete(key, NULL);
		if (i % 100 == 99) {
			sf_compact(sf_revision());
			sf_compact_all();
		}
	}
	lease = ks_leases_find_tail(&sf_store->state->leases, 5);
	CU_ASSERT(lease->capacity <= 16);
	CU_ASSERT_STRING_EQUAL(sf_lease_keys(5), "a");
	CU_ASSERT_STRING_EQUAL(sf_lease_keys(6), "");
}

static void lease_of_many_keys_is_revoked_whole(void)
{
	char key[16];

	sf_grant(5);
	sf_hold = true;
	for (unsigned i = 0; i < 10000; i++) {
		snprintf(key, sizeof(key), "k%u", i * 7919 % 10000);
		sf_put_lease(key, "", 5);
	}
	ks_store_publish(sf_store);
	CU_ASSERT_EQUAL(sf_revoke(5), KS_OK);
	CU_ASSERT_EQUAL(sf_effects.entry.effect_count, 10001);
	for (size_t i = 1; i < 10000; i++)
		CU_ASSERT(ks_slice_cmp(sf_effects.entry.effects[i - 1].key, sf_effects.entry.effects[i].key) < 0);
	ks_store_publish(sf_store);
	sf_range(&(struct ks_range_req){.interval = sf_interval(SF_ALL, SF_ALL)});
	CU_ASSERT_EQUAL(sf_range_result.count, 0);
}

static void put_of_an_unknown_lease_in_the_log_is_harmless(void)
{
	struct ks_effect effect = {
		.kind = KS_EFFECT_PUT, .key = S("a"), .create_revision = 2, .version = 1, .lease = 404};
	struct ks_entry entry = {.position = 1, .revision = 2, .effects = &effect, .effect_count = 1};

	CU_ASSERT_EQUAL(ks_store_apply(sf_store, &entry, &sf_err), KS_OK);
	effect = (struct ks_effect){.kind = KS_EFFECT_LEASE_REVOKE, .lease = 404};
	entry.position = 2;
	CU_ASSERT_EQUAL(ks_store_apply(sf_store, &entry, &sf_err), KS_OK);
	ks_store_publish(sf_store);
	CU_ASSERT_STRING_EQUAL(sf_value("a", 0), "");
	CU_ASSERT_STRING_EQUAL(sf_lease_keys(404), "-");
}

SF_WITH_STORE(grant_twice_fails_and_costs_no_revision)
SF_WITH_STORE(revoke_of_nothing_is_not_found)
SF_WITH_STORE(put_moves_and_detaches)
SF_WITH_STORE(revoke_without_keys_costs_no_revision)
SF_WITH_STORE(revoke_deletes_its_keys_in_order_at_one_revision)
SF_WITH_STORE(tail_is_seen_by_the_writer_only)
SF_WITH_STORE(same_id_granted_again_in_one_tail)
SF_WITH_STORE(rollback_gives_keys_back)
SF_WITH_STORE(set_does_not_grow_under_puts_that_come_and_go)
SF_WITH_STORE(lease_of_many_keys_is_revoked_whole)
SF_WITH_STORE(put_of_an_unknown_lease_in_the_log_is_harmless)

int main(void)
{
	return tap_run("store_lease", (const struct tap_test[]){
					      SF_TEST(grant_twice_fails_and_costs_no_revision),
					      SF_TEST(revoke_of_nothing_is_not_found),
					      SF_TEST(put_moves_and_detaches),
					      SF_TEST(revoke_without_keys_costs_no_revision),
					      SF_TEST(revoke_deletes_its_keys_in_order_at_one_revision),
					      SF_TEST(tail_is_seen_by_the_writer_only),
					      SF_TEST(same_id_granted_again_in_one_tail),
					      SF_TEST(rollback_gives_keys_back),
					      SF_TEST(set_does_not_grow_under_puts_that_come_and_go),
					      SF_TEST(lease_of_many_keys_is_revoked_whole),
					      SF_TEST(put_of_an_unknown_lease_in_the_log_is_harmless),
					      {NULL, NULL},
				      });
}
