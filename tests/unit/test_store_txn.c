/* SPDX-License-Identifier: Apache-2.0 */
/* Txn: the cases of spec 14.3, what must be fetched for compares, and read-only snapshots. */
#include <stdlib.h>

#include "tests/lib/store_fixture.h"

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))
#define THEN(list) .success = (list), .success_count = COUNT(list)
#define ELSE(list) .failure = (list), .failure_count = COUNT(list)
#define IF(list) .compares = (list), .compare_count = COUNT(list)

static struct ks_op put(const char *key, const char *value)
{
	return (struct ks_op){.kind = KS_OP_PUT,
			      .put = {.key = sf_text(key), .value = sf_text(value), .prev_kv = true}};
}

static struct ks_op get(const char *key, const char *end)
{
	return (struct ks_op){.kind = KS_OP_RANGE, .range = {.interval = sf_interval(key, end)}};
}

static struct ks_op del(const char *key, const char *end)
{
	return (struct ks_op){.kind = KS_OP_DELETE, .del = {.interval = sf_interval(key, end), .prev_kv = true}};
}

static struct ks_op nested(const struct ks_txn_req *txn)
{
	return (struct ks_op){.kind = KS_OP_TXN, .txn = txn};
}

static struct ks_compare number_is(const char *key, int target, int result, int64_t number)
{
	return (struct ks_compare){
		.interval = sf_interval(key, NULL), .target = target, .result = result, .number = number};
}

static struct ks_compare value_is(const char *key, int result, const char *value)
{
	return (struct ks_compare){
		.interval = sf_interval(key, NULL), .target = KS_CMP_VALUE, .result = result, .value = sf_text(value)};
}

static bool holds(struct ks_compare compare)
{
	struct ks_txn_req txn = {.compares = &compare, .compare_count = 1};

	CU_ASSERT_EQUAL(sf_txn(&txn), KS_OK);
	return sf_result.txn.succeeded;
}

static void empty_txn_succeeds_and_costs_no_revision(void)
{
	CU_ASSERT_EQUAL(sf_txn(&(struct ks_txn_req){0}), KS_OK);
	CU_ASSERT(sf_result.txn.succeeded && sf_result.txn.op_count == 0 && sf_result.revision == 1);
}

static void create_race_is_won_once(void)
{
	struct ks_compare absent[] = {number_is("a", KS_CMP_VERSION, KS_CMP_EQUAL, 0)};
	struct ks_op then[] = {put("a", "1")}, otherwise[] = {get("a", NULL)};
	struct ks_txn_req txn = {IF(absent), THEN(then), ELSE(otherwise)};

	CU_ASSERT_EQUAL(sf_txn(&txn), KS_OK);
	CU_ASSERT(sf_result.txn.succeeded && sf_result.revision == 2 && sf_result.txn.ops[0].revision == 2);
	CU_ASSERT_EQUAL(sf_txn(&txn), KS_OK);
	CU_ASSERT(!sf_result.txn.succeeded && sf_result.revision == 2);
	CU_ASSERT(sf_result.txn.ops[0].range.count == 1 && sf_result.txn.ops[0].revision == 2);
}

static void compares_on_a_missing_key_are_on_zero_except_values(void)
{
	CU_ASSERT(holds(number_is("x", KS_CMP_VERSION, KS_CMP_EQUAL, 0)));
	CU_ASSERT(holds(number_is("x", KS_CMP_CREATE, KS_CMP_EQUAL, 0)));
	CU_ASSERT(holds(number_is("x", KS_CMP_MOD, KS_CMP_EQUAL, 0)));
	CU_ASSERT(holds(number_is("x", KS_CMP_LEASE, KS_CMP_EQUAL, 0)));
	CU_ASSERT(holds(number_is("x", KS_CMP_VERSION, KS_CMP_LESS, 1)));
	CU_ASSERT(holds(number_is("x", KS_CMP_MOD, KS_CMP_NOT_EQUAL, 7)));
	CU_ASSERT_FALSE(holds(number_is("x", KS_CMP_VERSION, KS_CMP_GREATER, 0)));
	CU_ASSERT_FALSE(holds(value_is("x", KS_CMP_EQUAL, "")));
	CU_ASSERT_FALSE(holds(value_is("x", KS_CMP_NOT_EQUAL, "zz")));
	CU_ASSERT_FALSE(holds(value_is("x", KS_CMP_GREATER, "")));
	CU_ASSERT_FALSE(holds(value_is("x", KS_CMP_LESS, "~")));
	CU_ASSERT_FALSE(holds(value_is("x", 77, "~")));
}

static void unknown_numbers_in_compares_keep_their_meaning(void)
{
	sf_put("a", "1");
	CU_ASSERT(holds(number_is("a", KS_CMP_VERSION, 77, 5)));
	CU_ASSERT(holds(number_is("a", 77, KS_CMP_EQUAL, 5)));
	CU_ASSERT_FALSE(holds(number_is("a", 77, KS_CMP_NOT_EQUAL, 5)));
	CU_ASSERT_FALSE(holds(number_is("a", 77, KS_CMP_LESS, 5)));
}

static void range_compare_asks_every_key(void)
{
	struct ks_compare same = value_is("p/", KS_CMP_EQUAL, "v");
	struct ks_compare none = number_is("q/", KS_CMP_VERSION, KS_CMP_EQUAL, 0);

	same.interval.end = S("p0");
	none.interval.end = S("q0");
	sf_put("p/1", "v");
	sf_put("p/2", "v");
	CU_ASSERT(holds(same));
	sf_put("p/2", "w");
	CU_ASSERT_FALSE(holds(same));
	CU_ASSERT(holds(none));
	none.target = KS_CMP_VALUE;
	none.value = S("v");
	CU_ASSERT_FALSE(holds(none));
}

static void later_ops_see_earlier_ones(void)
{
	struct ks_op ops[] = {put("a", "1"), get("a", NULL), put("b", "2"), get("a", "c")};
	struct ks_txn_req txn = {THEN(ops)};

	CU_ASSERT_EQUAL(sf_txn(&txn), KS_OK);
	CU_ASSERT(sf_result.txn.ops[1].range.count == 1 && sf_result.txn.ops[3].range.count == 2);
	for (size_t i = 0; i < 4; i++)
		CU_ASSERT_EQUAL(sf_result.txn.ops[i].revision, 2);
	CU_ASSERT_EQUAL(sf_result.revision, 2);
}

static void op_revision_grows_with_the_first_change(void)
{
	struct ks_op ops[] = {get("a", NULL), put("a", "1")};
	struct ks_op no_change[] = {del("nope", NULL)};

	CU_ASSERT_EQUAL(sf_txn(&(struct ks_txn_req){THEN(ops)}), KS_OK);
	CU_ASSERT(sf_result.txn.ops[0].revision == 1 && sf_result.txn.ops[1].revision == 2);
	CU_ASSERT_EQUAL(sf_txn(&(struct ks_txn_req){THEN(no_change)}), KS_OK);
	CU_ASSERT(sf_result.txn.ops[0].revision == 2 && sf_result.revision == 2);
	CU_ASSERT_EQUAL(sf_effects.entry.effect_count, 0);
}

static void failed_check_leaves_nothing_behind(void)
{
	struct ks_op future[] = {put("a", "1"), get("a", NULL)};
	struct ks_op absent[] = {put("a", "1"), put("b", NULL)};
	struct ks_op both[] = {get("a", NULL), put("a", "1")};

	future[1].range.revision = 2;
	CU_ASSERT_EQUAL(sf_txn(&(struct ks_txn_req){THEN(future)}), KS_OUT_OF_RANGE);
	CU_ASSERT_STRING_EQUAL(sf_err.text, "etcdserver: mvcc: required revision is a future revision");
	absent[1].put.ignore_value = true;
	CU_ASSERT_EQUAL(sf_txn(&(struct ks_txn_req){THEN(absent)}), KS_INVALID_ARGUMENT);
	/* Checks go by the order of the list. */
	both[0].range.revision = 99;
	both[1].put.lease = 77;
	CU_ASSERT_EQUAL(sf_txn(&(struct ks_txn_req){THEN(both)}), KS_OUT_OF_RANGE);
	CU_ASSERT_STRING_EQUAL(sf_value("a", 0), "-");
	CU_ASSERT_EQUAL(sf_revision(), 1);
}

static void missing_key_wins_over_missing_lease_in_a_txn_only(void)
{
	struct ks_op ops[] = {put("a", NULL)};

	ops[0].put.ignore_value = true;
	ops[0].put.lease = 77;
	CU_ASSERT_EQUAL(sf_txn(&(struct ks_txn_req){THEN(ops)}), KS_INVALID_ARGUMENT);
	CU_ASSERT_EQUAL(sf_eval(&(struct ks_request){.kind = KS_REQ_PUT, .put = ops[0].put}), KS_NOT_FOUND);
}

static void branch_not_taken_is_not_checked(void)
{
	struct ks_op ops[] = {put("a", "1")};
	struct ks_op bad[] = {put("a", "1")};

	bad[0].put.lease = 77;
	CU_ASSERT_EQUAL(sf_txn(&(struct ks_txn_req){THEN(ops), ELSE(bad)}), KS_OK);
	CU_ASSERT_EQUAL(sf_txn(&(struct ks_txn_req){THEN(bad), ELSE(ops)}), KS_NOT_FOUND);
}

static void nested_compares_see_the_state_before(void)
{
	struct ks_compare exists[] = {number_is("a", KS_CMP_VERSION, KS_CMP_GREATER, 0)};
	struct ks_op b[] = {put("b", "1")}, c[] = {put("c", "1")};
	struct ks_txn_req inner = {IF(exists), THEN(b), ELSE(c)};
	struct ks_op ops[] = {put("a", "1"), nested(&inner)};

	CU_ASSERT_EQUAL(sf_txn(&(struct ks_txn_req){THEN(ops)}), KS_OK);
	CU_ASSERT_FALSE(sf_result.txn.ops[1].txn->succeeded);
	CU_ASSERT(sf_result.txn.ops[1].revision == 0 && sf_result.txn.ops[1].txn->ops[0].revision == 2);
	CU_ASSERT_STRING_EQUAL(sf_value("c", 0), "1");
	CU_ASSERT_EQUAL(sf_kv(0).mod_revision, 2);
	CU_ASSERT_STRING_EQUAL(sf_value("b", 0), "-");
}

static void deletes_of_the_same_key_count_once(void)
{
	struct ks_op ops[] = {del("a", NULL), del("a", "b"), del("a", NULL)};

	sf_put("a", "1");
	CU_ASSERT_EQUAL(sf_txn(&(struct ks_txn_req){THEN(ops)}), KS_OK);
	CU_ASSERT_EQUAL(sf_result.txn.ops[0].del.deleted, 1);
	CU_ASSERT_EQUAL(sf_result.txn.ops[1].del.deleted, 0);
	CU_ASSERT_EQUAL(sf_result.txn.ops[2].del.deleted, 0);
	CU_ASSERT_EQUAL(sf_result.revision, 3);
}

static void delete_then_put_in_one_revision(void)
{
	struct ks_op ops[] = {del("a", SF_ALL), put("foo", "new")};
	struct ks_kv kv;

	sf_put("foo", "old");
	CU_ASSERT_EQUAL(sf_txn(&(struct ks_txn_req){THEN(ops)}), KS_OK);
	CU_ASSERT_FALSE(ks_kvref_present(&sf_result.txn.ops[1].prev_kv));
	sf_value("foo", 0);
	kv = sf_kv(0);
	CU_ASSERT(kv.create_revision == 3 && kv.mod_revision == 3 && kv.version == 1);
	CU_ASSERT_STRING_EQUAL(sf_events("foo", NULL, 3, false), "del foo 3;put foo 3;");
}

static void put_then_delete_in_one_revision(void)
{
	struct ks_op then_put[] = {put("k", "v")}, then_delete[] = {del("k", NULL)};
	struct ks_txn_req first = {THEN(then_put)}, second = {THEN(then_delete)};
	struct ks_op ops[] = {nested(&first), nested(&second)};

	CU_ASSERT_EQUAL(sf_txn(&(struct ks_txn_req){THEN(ops)}), KS_OK);
	CU_ASSERT_EQUAL(sf_result.revision, 2);
	CU_ASSERT_STRING_EQUAL(sf_value("k", 0), "-");
	CU_ASSERT_EQUAL(sf_effects.entry.effect_count, 2);
	sf_put("k", "again");
	sf_value("k", 0);
	CU_ASSERT(sf_kv(0).create_revision == 3 && sf_kv(0).version == 1);
}

static void kept_value_of_a_key_deleted_in_the_txn_is_an_error(void)
{
	struct ks_op ops[] = {put("z", "1"), del("a", SF_ALL), put("foo", NULL)};

	sf_put("foo", "old");
	ops[2].put.ignore_value = true;
	CU_ASSERT_EQUAL(sf_txn(&(struct ks_txn_req){THEN(ops)}), KS_INVALID_ARGUMENT);
	CU_ASSERT_STRING_EQUAL(sf_value("foo", 0), "old");
	CU_ASSERT_STRING_EQUAL(sf_value("z", 0), "-");
	CU_ASSERT_EQUAL(sf_revision(), 2);
}

static void negative_revision_in_a_txn_is_below_a_compaction(void)
{
	struct ks_op ops[] = {get("a", NULL)};
	struct ks_txn_req txn = {THEN(ops)};

	sf_put("a", "1");
	ops[0].range.revision = -1;
	CU_ASSERT_EQUAL(sf_txn(&txn), KS_OK);
	CU_ASSERT_EQUAL(sf_result.txn.ops[0].range.count, 1);
	ops[0].range.revision = -2;
	CU_ASSERT_EQUAL(sf_txn(&txn), KS_OUT_OF_RANGE);
	sf_compact(2);
	ops[0].range.revision = -1;
	CU_ASSERT_EQUAL(sf_txn(&txn), KS_OUT_OF_RANGE);
}

static void effects_say_what_the_versions_are(void)
{
	struct ks_op ops[] = {put("a", "2"), put("b", "1"), del("c", NULL)};
	const struct ks_effect *effects;

	sf_put("a", "1");
	sf_put("c", "1");
	CU_ASSERT_EQUAL(sf_txn(&(struct ks_txn_req){THEN(ops)}), KS_OK);
	effects = sf_effects.entry.effects;
	CU_ASSERT(sf_effects.entry.position == 3 && sf_effects.entry.revision == 4 && sf_effects.bytes == 5);
	CU_ASSERT_EQUAL_FATAL(sf_effects.entry.effect_count, 3);
	CU_ASSERT(effects[0].kind == KS_EFFECT_PUT && effects[0].version == 2 && effects[0].create_revision == 2);
	CU_ASSERT(effects[1].kind == KS_EFFECT_PUT && effects[1].version == 1 && effects[1].create_revision == 4);
	CU_ASSERT(effects[2].kind == KS_EFFECT_DELETE && sf_is(effects[2].key, "c"));
}

/* ---- values that are not in memory ---- */

static void writer_fetches_what_compares_and_kept_values_need(void)
{
	struct ks_compare equal[] = {value_is("a", KS_CMP_EQUAL, "1"), value_is("b", KS_CMP_LESS, "3")};
	struct ks_op ops[] = {put("b", NULL), get("a", "c")};
	struct ks_txn_req txn = {IF(equal), THEN(ops)};

	sf_open_cached(0);
	sf_put("a", "1");
	sf_put("b", "2");
	ops[0].put.ignore_value = true;
	ops[1].range.sort_target = KS_SORT_VALUE;
	ops[1].range.sort_order = KS_SORT_DESCEND;
	CU_ASSERT_EQUAL(sf_txn(&txn), KS_OK);
	CU_ASSERT(sf_result.txn.succeeded && sf_fetches() > 0);
	CU_ASSERT(sf_is(sf_effects.entry.effects[0].value, "2"));
	CU_ASSERT(sf_result.txn.ops[1].range.kv_count == 2 && !sf_result.txn.ops[1].range.unsorted);
	sf_fail_fetches(true);
	CU_ASSERT_EQUAL(sf_txn(&txn), KS_UNAVAILABLE);
	CU_ASSERT_EQUAL(sf_revision(), 4);
	sf_fail_fetches(false);
	CU_ASSERT_EQUAL(sf_txn(&txn), KS_OK);
	sf_close();
}

static void read_txn_asks_for_missing_values_once(void)
{
	struct ks_compare all = {.interval = sf_interval("k", "l"), .target = KS_CMP_VALUE, .value = S("v")};
	struct ks_op ops[] = {get("k", "l")};
	struct ks_txn_req txn = {.compares = &all, .compare_count = 1, THEN(ops)};
	struct ks_misses misses = {0};
	struct ks_txn_result result;
	int64_t revision;

	sf_open_cached(0);
	sf_put("k1", "v");
	sf_put("k2", "v");
	sf_put("k3", "v");
	CU_ASSERT_EQUAL(ks_store_read_txn(sf_store, &txn, &result, &revision, &misses, &sf_err), KS_ABORTED);
	CU_ASSERT_EQUAL_FATAL(misses.count, 3);
	for (size_t i = 0; i < misses.count; i++)
		sf_fill(NULL, &misses.refs[i]);
	CU_ASSERT_EQUAL(ks_store_read_txn(sf_store, &txn, &result, &revision, &misses, &sf_err), KS_OK);
	CU_ASSERT(result.succeeded && result.ops[0].range.count == 3 && result.ops[0].revision == 4 && revision == 4);
	ks_txn_result_fini(&result);
	ks_misses_fini(&misses);
	sf_close();
}

static void read_txn_refuses_writes(void)
{
	struct ks_op ops[] = {put("a", "1")};
	struct ks_misses misses = {0};
	struct ks_txn_result result;
	int64_t revision;

	CU_ASSERT_EQUAL(
		ks_store_read_txn(sf_store, &(struct ks_txn_req){THEN(ops)}, &result, &revision, &misses, &sf_err),
		KS_INVALID_ARGUMENT);
}

static void read_txn_does_not_see_the_tail(void)
{
	struct ks_op ops[] = {get("a", "z")};
	struct ks_misses misses = {0};
	struct ks_txn_result result;
	int64_t revision;

	sf_put("a", "1");
	sf_hold = true;
	sf_put("a", "2");
	sf_put("b", "1");
	CU_ASSERT_EQUAL(
		ks_store_read_txn(sf_store, &(struct ks_txn_req){THEN(ops)}, &result, &revision, &misses, &sf_err),
		KS_OK);
	CU_ASSERT(revision == 2 && result.ops[0].range.count == 1);
	ks_txn_result_fini(&result);
}

SF_WITH_STORE(empty_txn_succeeds_and_costs_no_revision)
SF_WITH_STORE(create_race_is_won_once)
SF_WITH_STORE(compares_on_a_missing_key_are_on_zero_except_values)
SF_WITH_STORE(unknown_numbers_in_compares_keep_their_meaning)
SF_WITH_STORE(range_compare_asks_every_key)
SF_WITH_STORE(later_ops_see_earlier_ones)
SF_WITH_STORE(op_revision_grows_with_the_first_change)
SF_WITH_STORE(failed_check_leaves_nothing_behind)
SF_WITH_STORE(missing_key_wins_over_missing_lease_in_a_txn_only)
SF_WITH_STORE(branch_not_taken_is_not_checked)
SF_WITH_STORE(nested_compares_see_the_state_before)
SF_WITH_STORE(deletes_of_the_same_key_count_once)
SF_WITH_STORE(delete_then_put_in_one_revision)
SF_WITH_STORE(put_then_delete_in_one_revision)
SF_WITH_STORE(kept_value_of_a_key_deleted_in_the_txn_is_an_error)
SF_WITH_STORE(negative_revision_in_a_txn_is_below_a_compaction)
SF_WITH_STORE(effects_say_what_the_versions_are)
SF_WITH_STORE(read_txn_refuses_writes)
SF_WITH_STORE(read_txn_does_not_see_the_tail)

int main(void)
{
	return tap_run("store_txn",
		       (const struct tap_test[]){
			       SF_TEST(empty_txn_succeeds_and_costs_no_revision),
			       SF_TEST(create_race_is_won_once),
			       SF_TEST(compares_on_a_missing_key_are_on_zero_except_values),
			       SF_TEST(unknown_numbers_in_compares_keep_their_meaning),
			       SF_TEST(range_compare_asks_every_key),
			       SF_TEST(later_ops_see_earlier_ones),
			       SF_TEST(op_revision_grows_with_the_first_change),
			       SF_TEST(failed_check_leaves_nothing_behind),
			       SF_TEST(missing_key_wins_over_missing_lease_in_a_txn_only),
			       SF_TEST(branch_not_taken_is_not_checked),
			       SF_TEST(nested_compares_see_the_state_before),
			       SF_TEST(deletes_of_the_same_key_count_once),
			       SF_TEST(delete_then_put_in_one_revision),
			       SF_TEST(put_then_delete_in_one_revision),
			       SF_TEST(kept_value_of_a_key_deleted_in_the_txn_is_an_error),
			       SF_TEST(negative_revision_in_a_txn_is_below_a_compaction),
			       SF_TEST(effects_say_what_the_versions_are),
			       {"writer_fetches_what_compares_and_kept_values_need",
				writer_fetches_what_compares_and_kept_values_need},
			       {"read_txn_asks_for_missing_values_once", read_txn_asks_for_missing_values_once},
			       SF_TEST(read_txn_refuses_writes),
			       SF_TEST(read_txn_does_not_see_the_tail),
			       {NULL, NULL},
		       });
}
