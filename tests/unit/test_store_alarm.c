/* SPDX-License-Identifier: Apache-2.0 */
/* Alarms: what they refuse, that they are part of the log, and what is left of them when it is trimmed. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "store/alarm.h"
#include "tests/lib/store_fixture.h"

static enum ks_status change(bool activate, uint64_t member, int type)
{
	struct ks_request req = {.kind = KS_REQ_ALARM, .alarm = {.activate = activate, .member = member, .type = type}};

	return sf_eval(&req);
}

static enum ks_status raise(uint64_t member, int type)
{
	return change(true, member, type);
}

static enum ks_status lift(uint64_t member, int type)
{
	return change(false, member, type);
}

/* "1 NOSPACE;2 CORRUPT;" */
static const char *alarms_of(struct ks_store *store)
{
	static char text[256];
	struct ks_alarm *alarms;
	size_t count, used = 0;

	CU_ASSERT_EQUAL_FATAL(ks_store_alarms(store, &alarms, &count), KS_OK);
	text[0] = '\0';
	for (size_t i = 0; i < count; i++)
		used += (size_t)snprintf(text + used, sizeof(text) - used, "%llu %s;",
					 (unsigned long long)alarms[i].member, ks_alarm_name(alarms[i].type));
	free(alarms);
	return text;
}

static void raised_until_lifted_for_the_same_member_and_kind(void)
{
	int64_t position = ks_store_committed(sf_store).position, revision = sf_revision();

	CU_ASSERT_STRING_EQUAL(alarms_of(sf_store), "");
	CU_ASSERT_EQUAL(raise(7, KS_ALARM_NOSPACE), KS_OK);
	CU_ASSERT_FALSE(sf_result.alarm_was_active);
	CU_ASSERT_EQUAL(raise(7, KS_ALARM_NOSPACE), KS_OK);
	CU_ASSERT_TRUE(sf_result.alarm_was_active);
	CU_ASSERT_EQUAL(ks_store_committed(sf_store).position, position + 1);
	CU_ASSERT_EQUAL(sf_revision(), revision);
	CU_ASSERT_EQUAL(raise(UINT64_MAX, KS_ALARM_CORRUPT), KS_OK);
	CU_ASSERT_EQUAL(raise(0, KS_ALARM_NOSPACE), KS_OK);
	CU_ASSERT_STRING_EQUAL(alarms_of(sf_store), "0 NOSPACE;7 NOSPACE;18446744073709551615 CORRUPT;");
	CU_ASSERT_EQUAL(ks_store_alarm_types(sf_store), 1u << KS_ALARM_NOSPACE | 1u << KS_ALARM_CORRUPT);
	CU_ASSERT_EQUAL(lift(7, KS_ALARM_CORRUPT), KS_OK);
	CU_ASSERT_FALSE(sf_result.alarm_was_active);
	CU_ASSERT_EQUAL(lift(8, KS_ALARM_NOSPACE), KS_OK);
	CU_ASSERT_FALSE(sf_result.alarm_was_active);
	CU_ASSERT_EQUAL(lift(7, KS_ALARM_NONE), KS_OK);
	CU_ASSERT_EQUAL(raise(7, KS_ALARM_NONE), KS_OK);
	CU_ASSERT_EQUAL(lift(7, KS_ALARM_NOSPACE), KS_OK);
	CU_ASSERT_TRUE(sf_result.alarm_was_active);
	CU_ASSERT_TRUE(ks_store_alarm_active(sf_store, 0, KS_ALARM_NOSPACE));
	CU_ASSERT_FALSE(ks_store_alarm_active(sf_store, 7, KS_ALARM_NOSPACE));
	CU_ASSERT_EQUAL(lift(0, KS_ALARM_NOSPACE), KS_OK);
	CU_ASSERT_EQUAL(ks_store_alarm_types(sf_store), 1u << KS_ALARM_CORRUPT);
	CU_ASSERT_EQUAL(lift(UINT64_MAX, KS_ALARM_CORRUPT), KS_OK);
	CU_ASSERT_STRING_EQUAL(alarms_of(sf_store), "");
	CU_ASSERT_EQUAL(ks_store_committed(sf_store).position, position + 6);
}
SF_WITH_STORE(raised_until_lifted_for_the_same_member_and_kind)

/* ---- what they refuse ---- */

static struct ks_op put_op(void)
{
	return (struct ks_op){.kind = KS_OP_PUT, .put = {.key = S("k"), .value = S("v")}};
}

static struct ks_op delete_op(void)
{
	return (struct ks_op){.kind = KS_OP_DELETE, .del = {.interval = sf_interval("none", NULL)}};
}

static struct ks_op range_op(void)
{
	return (struct ks_op){.kind = KS_OP_RANGE, .range = {.interval = sf_interval("k", NULL)}};
}

/* A transaction that runs its success branch; the operation stands there, in the other one, or in a nested one there. */
static enum ks_status txn_with(struct ks_op op, bool taken, bool nested)
{
	struct ks_txn_req inner = {.success = &op, .success_count = 1};
	struct ks_op wrapped = {.kind = KS_OP_TXN, .txn = &inner};
	struct ks_op *chosen = nested ? &wrapped : &op;
	struct ks_txn_req txn = {.success = taken ? chosen : NULL,
				 .success_count = taken,
				 .failure = taken ? NULL : chosen,
				 .failure_count = !taken};

	return sf_txn(&txn);
}

static void no_space_refuses_what_needs_room(void)
{
	CU_ASSERT_EQUAL(sf_put("k", "1"), KS_OK);
	CU_ASSERT_EQUAL(sf_grant(5), KS_OK);
	CU_ASSERT_EQUAL(raise(99, KS_ALARM_NOSPACE), KS_OK);
	CU_ASSERT_EQUAL(sf_put("k", "2"), KS_RESOURCE_EXHAUSTED);
	CU_ASSERT_STRING_EQUAL(sf_err.text, "etcdserver: mvcc: database space exceeded");
	CU_ASSERT_EQUAL(sf_grant(6), KS_RESOURCE_EXHAUSTED);
	for (int i = 0; i < 4; i++) {
		CU_ASSERT_EQUAL(txn_with(put_op(), i & 1, i & 2), KS_RESOURCE_EXHAUSTED);
		CU_ASSERT_EQUAL(txn_with(delete_op(), i & 1, i & 2), KS_OK);
		CU_ASSERT_EQUAL(txn_with(range_op(), i & 1, i & 2), KS_OK);
	}
	CU_ASSERT_EQUAL(sf_delete("k", NULL), KS_OK);
	CU_ASSERT_EQUAL(sf_compact(sf_revision()), KS_OK);
	CU_ASSERT_EQUAL(sf_revoke(5), KS_OK);
	CU_ASSERT_EQUAL(lift(99, KS_ALARM_NOSPACE), KS_OK);
	CU_ASSERT_EQUAL(sf_put("k", "2"), KS_OK);
	CU_ASSERT_EQUAL(sf_grant(6), KS_OK);
}
SF_WITH_STORE(no_space_refuses_what_needs_room)

static void corrupt_refuses_all_changes_and_first(void)
{
	CU_ASSERT_EQUAL(sf_put("k", "1"), KS_OK);
	CU_ASSERT_EQUAL(sf_grant(5), KS_OK);
	CU_ASSERT_EQUAL(raise(1, KS_ALARM_NOSPACE), KS_OK);
	CU_ASSERT_EQUAL(raise(2, KS_ALARM_CORRUPT), KS_OK);
	CU_ASSERT_EQUAL(sf_put("k", "2"), KS_DATA_LOSS);
	CU_ASSERT_STRING_EQUAL(sf_err.text, "etcdserver: corrupt cluster");
	CU_ASSERT_EQUAL(sf_grant(6), KS_DATA_LOSS);
	CU_ASSERT_EQUAL(sf_delete("nothing", NULL), KS_DATA_LOSS);
	CU_ASSERT_EQUAL(sf_compact(sf_revision()), KS_DATA_LOSS);
	CU_ASSERT_EQUAL(sf_compact(1000), KS_DATA_LOSS);
	CU_ASSERT_EQUAL(sf_revoke(5), KS_DATA_LOSS);
	CU_ASSERT_EQUAL(sf_revoke(12345), KS_DATA_LOSS);
	for (int i = 0; i < 4; i++) {
		CU_ASSERT_EQUAL(txn_with(put_op(), i & 1, i & 2), KS_DATA_LOSS);
		CU_ASSERT_EQUAL(txn_with(delete_op(), i & 1, i & 2), KS_DATA_LOSS);
		CU_ASSERT_EQUAL(txn_with(range_op(), i & 1, i & 2), KS_OK);
	}
	CU_ASSERT_EQUAL(lift(2, KS_ALARM_CORRUPT), KS_OK);
	CU_ASSERT_EQUAL(sf_put("k", "2"), KS_RESOURCE_EXHAUSTED);
	CU_ASSERT_EQUAL(lift(1, KS_ALARM_NOSPACE), KS_OK);
	CU_ASSERT_EQUAL(sf_put("k", "2"), KS_OK);
}
SF_WITH_STORE(corrupt_refuses_all_changes_and_first)

static void the_tail_decides_and_readers_see_what_is_committed(void)
{
	sf_hold = true;
	CU_ASSERT_EQUAL(raise(1, KS_ALARM_NOSPACE), KS_OK);
	CU_ASSERT_STRING_EQUAL(alarms_of(sf_store), "");
	CU_ASSERT_EQUAL(sf_put("k", "1"), KS_RESOURCE_EXHAUSTED);
	ks_store_rollback(sf_store);
	CU_ASSERT_EQUAL(sf_put("k", "1"), KS_OK);
	CU_ASSERT_EQUAL(raise(1, KS_ALARM_NOSPACE), KS_OK);
	CU_ASSERT_EQUAL(lift(1, KS_ALARM_NOSPACE), KS_OK);
	CU_ASSERT_EQUAL(raise(2, KS_ALARM_CORRUPT), KS_OK);
	ks_store_publish(sf_store);
	sf_hold = false;
	CU_ASSERT_STRING_EQUAL(alarms_of(sf_store), "2 CORRUPT;");
	ks_store_reset(sf_store);
	CU_ASSERT_STRING_EQUAL(alarms_of(sf_store), "");
}
SF_WITH_STORE(the_tail_decides_and_readers_see_what_is_committed)

static void there_is_an_end_to_them(void)
{
	for (uint64_t member = 0; member < KS_ALARMS_MOST; member++)
		CU_ASSERT_EQUAL(raise(member * 977 % 65537, KS_ALARM_CORRUPT), KS_OK);
	CU_ASSERT_EQUAL(raise(70000, KS_ALARM_CORRUPT), KS_RESOURCE_EXHAUSTED);
	CU_ASSERT_EQUAL(raise(977, KS_ALARM_CORRUPT), KS_OK);
	CU_ASSERT_EQUAL(lift(977, KS_ALARM_CORRUPT), KS_OK);
	CU_ASSERT_EQUAL(raise(70000, KS_ALARM_CORRUPT), KS_OK);
	for (uint64_t member = 0; member < KS_ALARMS_MOST; member++)
		CU_ASSERT_EQUAL(lift(member * 977 % 65537, KS_ALARM_CORRUPT), KS_OK);
	CU_ASSERT_STRING_EQUAL(alarms_of(sf_store), "70000 CORRUPT;");
}
SF_WITH_STORE(there_is_an_end_to_them)

/* ---- the log ---- */

#define ROWS 400

static struct row {
	int64_t position, revision;
	struct ks_effect effect;
	struct ks_bytes *payload;
	bool trimmed;
} rows[ROWS];
static size_t row_count;

static void keep_row(void)
{
	struct row *row = &rows[row_count];

	if (!sf_effects.entry.effect_count)
		return;
	CU_ASSERT_FATAL(row_count++ < ROWS);
	*row = (struct row){.position = sf_effects.entry.position,
			    .revision = sf_effects.entry.revision,
			    .effect = sf_effects.entry.effects[0],
			    .payload = ks_bytes_copy(sf_effects.entry.effects[0].payload)};
	row->effect.payload = ks_bytes_slice(row->payload);
	row->effect.key = row->effect.value = ks_slice_of(NULL, 0);
}

static struct ks_store *load_rows(void)
{
	struct ks_store_config config = {.values_kept = true};
	struct ks_store *store = ks_store_new(&config, &sf_err);

	CU_ASSERT_PTR_NOT_NULL_FATAL(store);
	ks_store_load_begin(store);
	for (size_t i = 0; i < row_count; i++) {
		struct ks_entry entry = {.position = rows[i].position,
					 .revision = rows[i].revision,
					 .effects = &rows[i].effect,
					 .effect_count = 1};

		if (!rows[i].trimmed)
			CU_ASSERT_EQUAL(ks_store_apply(store, &entry, &sf_err), KS_OK);
	}
	ks_store_load_end(store);
	return store;
}

static bool loads_as(const char *expected)
{
	struct ks_store *store = load_rows();
	bool same = strcmp(alarms_of(store), expected) == 0;

	ks_store_free(store);
	return same;
}

static char expected_now[256];
static bool all_fine;

static void trim(void *ctx, const struct ks_loc *locs, size_t count)
{
	size_t *trimmed = ctx;

	for (size_t n = 0; n < count; n++)
		for (size_t i = 0; i < row_count; i++)
			if (rows[i].position == locs[n].position && !rows[i].trimmed) {
				rows[i].trimmed = true;
				++*trimmed;
				all_fine = all_fine && loads_as(expected_now);
			}
}

static void whatever_is_trimmed_the_rest_loads_the_same(void)
{
	uint32_t random = 12345;
	size_t trimmed = 0, needed = 0, left = 0;

	all_fine = true;
	row_count = 0;
	for (int round = 0; round < 8; round++) {
		for (int i = 0; i < 40; i++) {
			random = random * 1664525u + 1013904223u;
			CU_ASSERT_EQUAL(change(random >> 30 & 1, random >> 20 & 3, 1 + (int)(random >> 10 & 1)), KS_OK);
			keep_row();
		}
		for (uint64_t member = 0; member < 4; member++) {
			CU_ASSERT_EQUAL(lift(member, KS_ALARM_CORRUPT), KS_OK);
			keep_row();
		}
		CU_ASSERT_EQUAL(lift(0, KS_ALARM_NOSPACE), KS_OK);
		keep_row();
		sf_hold = true;
		CU_ASSERT_EQUAL(change(true, 9, KS_ALARM_NOSPACE), KS_OK);
		keep_row();
		ks_store_publish(sf_store);
		sf_hold = false;
		/* A compaction needs a revision: what is appended by hand gives it one. */
		struct ks_effect put = {
			.kind = KS_EFFECT_PUT, .key = S("k"), .create_revision = 2, .version = round + 1};
		struct ks_entry entry = {.position = ks_store_committed(sf_store).position + 1,
					 .revision = sf_revision() + 1,
					 .effects = &put,
					 .effect_count = 1};
		CU_ASSERT_EQUAL(ks_store_apply(sf_store, &entry, &sf_err), KS_OK);
		ks_store_publish(sf_store);
		CU_ASSERT_FATAL(row_count < ROWS);
		rows[row_count++] = (struct row){.position = entry.position, .revision = entry.revision, .effect = put};
		CU_ASSERT_EQUAL(sf_compact(sf_revision()), KS_OK);
		keep_row();
		(void)snprintf(expected_now, sizeof(expected_now), "%s", alarms_of(sf_store));
		while (ks_store_compact_step(sf_store, 3, trim, &trimmed))
			;
		CU_ASSERT_EQUAL(change(false, 9, KS_ALARM_NOSPACE), KS_OK);
		keep_row();
	}
	CU_ASSERT(all_fine);
	CU_ASSERT(trimmed > 60);
	for (size_t i = 0; i < row_count; i++) {
		bool needs =
			ks_store_row_needed(sf_store, &rows[i].effect, (struct ks_loc){.position = rows[i].position});

		if (rows[i].effect.kind != KS_EFFECT_ALARM)
			continue;
		needed += needs;
		left += !rows[i].trimmed;
		CU_ASSERT(!needs || !rows[i].trimmed);
	}
	CU_ASSERT_EQUAL(needed + 1, left); /* 9's last one was lifted after the compaction, and goes with the next */
	while (row_count)
		ks_bytes_unref(rows[--row_count].payload);
}
SF_WITH_STORE(whatever_is_trimmed_the_rest_loads_the_same)

static void rows_that_no_server_wrote_are_refused(void)
{
	static const struct ks_slice bad[] = {
		{0},
		{(const uint8_t *)"\x08", 1},
		{(const uint8_t *)"\x08\x01\x10\x01", 4},         /* neither raised nor lifted */
		{(const uint8_t *)"\x08\x01\x10\x01\x18\x03", 6}, /* both */
		{(const uint8_t *)"\x08\x01\x10\x03\x18\x01", 6}, /* of a kind to come */
		{(const uint8_t *)"\x08\x01\x18\x01", 4},         /* of none */
		{(const uint8_t *)"\x08\x01\x10\x01\x18\x01\x20\x01", 8},
		{(const uint8_t *)"\x0a\x01\x10\x01\x18\x01", 6},
		{(const uint8_t *)"\x08\xff\xff\xff\xff\xff\xff\xff\xff\xff\x7f\x10\x01\x18\x01", 15},
	};
	struct ks_effect effect = {.kind = KS_EFFECT_ALARM};
	struct ks_entry entry = {.position = ks_store_committed(sf_store).position + 1,
				 .revision = sf_revision(),
				 .effects = &effect,
				 .effect_count = 1};

	for (size_t i = 0; i < sizeof(bad) / sizeof(*bad); i++) {
		effect.payload = bad[i];
		CU_ASSERT_EQUAL(ks_store_apply(sf_store, &entry, &sf_err), KS_DATA_LOSS);
	}
	effect.payload = S("\x08\x01\x10\x01\x18\x01");
	CU_ASSERT_EQUAL(ks_store_apply(sf_store, &entry, &sf_err), KS_OK);
	ks_store_publish(sf_store);
	CU_ASSERT_STRING_EQUAL(alarms_of(sf_store), "1 NOSPACE;");
}
SF_WITH_STORE(rows_that_no_server_wrote_are_refused)

int main(void)
{
	return tap_run("alarm", (const struct tap_test[]){
					SF_TEST(raised_until_lifted_for_the_same_member_and_kind),
					SF_TEST(no_space_refuses_what_needs_room),
					SF_TEST(corrupt_refuses_all_changes_and_first),
					SF_TEST(the_tail_decides_and_readers_see_what_is_committed),
					SF_TEST(there_is_an_end_to_them),
					SF_TEST(whatever_is_trimmed_the_rest_loads_the_same),
					SF_TEST(rows_that_no_server_wrote_are_refused),
					{NULL, NULL},
				});
}
