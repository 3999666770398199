/* SPDX-License-Identifier: Apache-2.0 */
/* Entries of the log to rows and back, and rows that no entry gave. */
#include <string.h>

#include "log/entry.h"
#include "tests/lib/tap.h"

static const struct ks_effect three[] = {
	{.kind = KS_EFFECT_PUT,
	 .key = {(const uint8_t *)"a", 1},
	 .value = {(const uint8_t *)"1", 1},
	 .create_revision = 4,
	 .version = 3,
	 .lease = 9},
	{.kind = KS_EFFECT_DELETE, .key = {(const uint8_t *)"b\0c", 3}},
	{.kind = KS_EFFECT_LEASE_REVOKE, .lease = 77},
};

static struct sqlb_row good_put(void)
{
	return (struct sqlb_row){.position = 5,
				 .rows = 1,
				 .kind = KS_EFFECT_PUT,
				 .revision = 7,
				 .key = ks_slice_str("k"),
				 .value = ks_slice_str("v"),
				 .create_revision = 7,
				 .version = 1,
				 .writer = 1,
				 .batch = 2};
}

static bool accepts(struct sqlb_row row)
{
	struct ks_err err = {0};
	enum ks_status status = ks_log_row_check(&row, &err);

	CU_ASSERT(status == KS_OK || (status == KS_DATA_LOSS && err.text[0]));
	return status == KS_OK;
}

static void entry_survives_its_rows(void)
{
	struct ks_entry entry = {
		.position = 12, .revision = 8, .effects = (struct ks_effect *)three, .effect_count = 3};
	struct sqlb_row rows[3];
	struct ks_log_builder builder;
	struct ks_err err;
	uint8_t key[8], value[8];

	ks_log_entry_rows(&entry, 100, 3, rows);
	ks_log_builder_init(&builder);
	for (int i = 0; i < 3; i++) {
		struct sqlb_row row = rows[i];

		CU_ASSERT_EQUAL(row.position, 12);
		CU_ASSERT_EQUAL(row.sub, i);
		CU_ASSERT_EQUAL(row.rows, 3);
		CU_ASSERT(accepts(row));
		/* A visitor's row is valid only during the visit. */
		if (row.key.size) {
			memcpy(key, row.key.data, row.key.size);
			row.key.data = key;
		}
		if (row.value.size) {
			memcpy(value, row.value.data, row.value.size);
			row.value.data = value;
		}
		CU_ASSERT_FALSE(ks_log_builder_whole(&builder));
		CU_ASSERT_EQUAL(ks_log_builder_add(&builder, &row, &err), KS_OK);
		memset(key, 'x', sizeof(key));
		memset(value, 'x', sizeof(value));
	}
	CU_ASSERT(ks_log_builder_whole(&builder));
	CU_ASSERT(ks_log_builder_ended(&builder));
	CU_ASSERT_PTR_NULL(builder.entry.subs);
	CU_ASSERT_EQUAL(builder.entry.position, 12);
	CU_ASSERT_EQUAL(builder.entry.revision, 8);
	CU_ASSERT_EQUAL(builder.writer, 100);
	CU_ASSERT_EQUAL(builder.batch, 3);
	for (size_t i = 0; i < 3 && builder.entry.effect_count == 3; i++) {
		const struct ks_effect *effect = &builder.entry.effects[i];

		CU_ASSERT_EQUAL(effect->kind, three[i].kind);
		CU_ASSERT(ks_slice_eq(effect->key, three[i].key));
		CU_ASSERT(ks_slice_eq(effect->value, three[i].value));
		CU_ASSERT_EQUAL(effect->create_revision, three[i].create_revision);
		CU_ASSERT_EQUAL(effect->version, three[i].version);
		CU_ASSERT_EQUAL(effect->lease, three[i].lease);
	}
	ks_log_builder_fini(&builder);
}

static void payloads_survive_their_rows(void)
{
	struct ks_effect effects[] = {
		{.kind = KS_EFFECT_AUTH, .version = 5, .payload = ks_slice_str("users")},
		{.kind = KS_EFFECT_ALARM, .payload = ks_slice_str("space")},
	};
	struct ks_entry entry = {.position = 3, .revision = 2, .effects = effects, .effect_count = 2};
	struct ks_log_builder builder;
	struct sqlb_row rows[2];
	struct ks_err err;
	char payload[8];

	ks_log_entry_rows(&entry, 1, 1, rows);
	CU_ASSERT_PTR_NULL(rows[0].key.data);
	CU_ASSERT_PTR_NULL(rows[0].value.data);
	ks_log_builder_init(&builder);
	for (int i = 0; i < 2; i++) {
		CU_ASSERT(accepts(rows[i]));
		memcpy(payload, rows[i].payload.data, rows[i].payload.size);
		rows[i].payload.data = (const uint8_t *)payload;
		CU_ASSERT_EQUAL(ks_log_builder_add(&builder, &rows[i], &err), KS_OK);
		memset(payload, 'x', sizeof(payload));
	}
	CU_ASSERT_FATAL(ks_log_builder_whole(&builder));
	for (int i = 0; i < 2; i++) {
		CU_ASSERT_EQUAL(builder.entry.effects[i].kind, effects[i].kind);
		CU_ASSERT_EQUAL(builder.entry.effects[i].version, effects[i].version);
		CU_ASSERT(ks_slice_eq(builder.entry.effects[i].payload, effects[i].payload));
	}
	ks_log_builder_fini(&builder);
}

static void empty_value_is_not_null(void)
{
	struct ks_effect put = {.kind = KS_EFFECT_PUT, .key = ks_slice_str("k"), .create_revision = 1, .version = 1};
	struct ks_entry entry = {.position = 1, .revision = 1, .effects = &put, .effect_count = 1};
	struct sqlb_row row;

	ks_log_entry_rows(&entry, 1, 1, &row);
	CU_ASSERT_PTR_NOT_NULL(row.value.data);
	CU_ASSERT_EQUAL(row.value.size, 0);
	CU_ASSERT_PTR_NULL(row.payload.data);
}

static void trimmed_entry_is_never_whole(void)
{
	struct ks_entry entry = {
		.position = 12, .revision = 8, .effects = (struct ks_effect *)three, .effect_count = 3};
	struct sqlb_row rows[3];
	struct ks_log_builder builder;
	struct ks_err err;

	ks_log_entry_rows(&entry, 100, 3, rows);
	ks_log_builder_init(&builder);
	CU_ASSERT_EQUAL(ks_log_builder_add(&builder, &rows[0], &err), KS_OK);
	CU_ASSERT_FALSE(ks_log_builder_ended(&builder));
	CU_ASSERT_EQUAL(ks_log_builder_add(&builder, &rows[2], &err), KS_OK);
	CU_ASSERT(ks_log_builder_ended(&builder));
	CU_ASSERT_FALSE(ks_log_builder_whole(&builder));
	CU_ASSERT_PTR_NOT_NULL_FATAL(builder.entry.subs);
	CU_ASSERT_EQUAL(builder.entry.subs[0], 0);
	CU_ASSERT_EQUAL(builder.entry.subs[1], 2);
	ks_log_builder_reset(&builder);
	CU_ASSERT_FALSE(ks_log_builder_open(&builder));
	ks_log_builder_fini(&builder);
}

static void rows_that_contradict_their_entry_are_refused(void)
{
	struct ks_entry entry = {
		.position = 12, .revision = 8, .effects = (struct ks_effect *)three, .effect_count = 3};
	struct sqlb_row rows[3];
	struct ks_log_builder builder;
	struct ks_err err;

	for (int what = 0; what < 5; what++) {
		struct sqlb_row second;

		ks_log_entry_rows(&entry, 100, 3, rows);
		second = rows[1];
		second.revision += what == 0;
		second.writer += what == 1;
		second.batch += what == 2;
		second.rows += what == 3;
		second.sub -= what == 4;
		ks_log_builder_init(&builder);
		CU_ASSERT_EQUAL(ks_log_builder_add(&builder, &rows[0], &err), KS_OK);
		CU_ASSERT_EQUAL(ks_log_builder_add(&builder, &second, &err), KS_DATA_LOSS);
		ks_log_builder_fini(&builder);
	}
}

static void edited_rows_are_refused(void)
{
	struct sqlb_row row = good_put();

	CU_ASSERT(accepts(row));
#define REFUSES(change)                        \
	do {                                   \
		row = good_put();              \
		change;                        \
		CU_ASSERT_FALSE(accepts(row)); \
	} while (0)
	REFUSES(row.position = 0);
	REFUSES(row.position = -5);
	REFUSES(row.sub = -1);
	REFUSES(row.sub = 1);
	REFUSES(row.rows = 0);
	REFUSES(row.revision = 0);
	REFUSES(row.key = ks_slice_of(NULL, 0));
	REFUSES(row.create_revision = 0);
	REFUSES(row.create_revision = 8);
	REFUSES(row.version = 0);
	REFUSES(row.kind = 0);
	REFUSES(row.kind = 99);
	REFUSES(row.kind = -1);
	REFUSES(row.payload = ks_slice_str("later"));
	REFUSES(row.kind = KS_EFFECT_DELETE; row.key.size = 0);
	REFUSES(row.kind = KS_EFFECT_LEASE_GRANT; row.lease = 0);
	REFUSES(row.kind = KS_EFFECT_LEASE_GRANT; row.lease = 1; row.version = 0);
	REFUSES(row.kind = KS_EFFECT_LEASE_REVOKE; row.lease = 0);
	REFUSES(row.kind = KS_EFFECT_COMPACT; row.version = 8);
	REFUSES(row.kind = KS_EFFECT_COMPACT; row.version = -1);
	REFUSES(row.kind = KS_EFFECT_AUTH);
	REFUSES(row.kind = KS_EFFECT_AUTH; row.payload = ks_slice_str("x"); row.version = 0);
	REFUSES(row.kind = KS_EFFECT_ALARM);
	REFUSES(row.kind = KS_EFFECT_IMPORT);
	REFUSES(row.kind = KS_EFFECT_IMPORT; row.payload = ks_slice_str("etcd:1 x"); row.version = 3);
#undef REFUSES
}

int main(void)
{
	return tap_run("entry", (const struct tap_test[]){
					{"entry_survives_its_rows", entry_survives_its_rows},
					{"payloads_survive_their_rows", payloads_survive_their_rows},
					{"empty_value_is_not_null", empty_value_is_not_null},
					{"trimmed_entry_is_never_whole", trimmed_entry_is_never_whole},
					{"rows_that_contradict_their_entry_are_refused",
					 rows_that_contradict_their_entry_are_refused},
					{"edited_rows_are_refused", edited_rows_are_refused},
					{NULL, NULL},
				});
}
