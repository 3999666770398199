/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Rows of a log that somebody edited, against the log's checks, its builder and the store: nothing may end the process, and a
 * store takes an entry whole or not at all.
 *
 * An input is a list of rows: a byte of flags, then as many of the fields as the flags say, one byte each, signed.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/panic.h"
#include "log/entry.h"
#include "store/store.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct input {
	const uint8_t *data;
	size_t size;
};

static int8_t next(struct input *input)
{
	if (input->size == 0)
		return 0;
	input->size--;
	return (int8_t)*input->data++;
}

/* Small numbers stay as they are, the outermost become those of the type. */
static int64_t number(struct input *input)
{
	int8_t small = next(input);

	if (small == INT8_MAX)
		return INT64_MAX;
	return small == INT8_MIN ? INT64_MIN : small;
}

static struct ks_slice text(struct input *input)
{
	size_t size = (size_t)(uint8_t)next(input) % 8;
	struct ks_slice slice;

	if (size > input->size)
		size = input->size;
	slice = ks_slice_of(size ? input->data : NULL, size);
	input->data += size;
	input->size -= size;
	return slice;
}

static struct sqlb_row next_row(struct input *input)
{
	uint8_t flags = (uint8_t)next(input);
	struct sqlb_row row = {
		.position = number(input),
		.sub = next(input),
		.rows = 1,
		.kind = next(input),
		.revision = number(input),
		.writer = 1,
		.batch = 1,
	};

	if (flags & 1)
		row.rows = next(input);
	if (flags & 2)
		row.key = text(input);
	if (flags & 4)
		row.value = text(input);
	if (flags & 8)
		row.create_revision = number(input);
	if (flags & 16)
		row.version = number(input);
	if (flags & 32)
		row.lease = number(input);
	if (flags & 64)
		row.payload = text(input);
	return row;
}

static void apply(struct ks_store *store, const struct ks_entry *entry)
{
	struct ks_position before = ks_store_committed(store), after;
	struct ks_err err;

	if (ks_store_apply(store, entry, &err) == KS_OK) {
		ks_store_publish(store);
		after = ks_store_committed(store);
		KS_ASSERT(after.position == before.position + 1);
		KS_ASSERT(after.revision == entry->revision);
	} else {
		ks_store_publish(store);
		after = ks_store_committed(store);
		KS_ASSERT(after.position == before.position && after.revision == before.revision);
	}
}

static void read_all(struct ks_store *store)
{
	const struct ks_range_req all = {.interval = {ks_slice_of("\0", 1), ks_slice_of("\0", 1)}};
	struct ks_range_result result = {0};
	struct ks_err err;
	int64_t revision;

	if (ks_store_range(store, &all, &result, &revision, &err) == KS_OK)
		ks_range_result_fini(&result);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct input input = {data, size};
	struct ks_log_builder builder;
	struct ks_store *store;
	struct ks_err err;

	store = ks_store_new(&(struct ks_store_config){.value_cache_bytes = 1 << 20, .values_kept = true}, &err);
	KS_ASSERT(store);
	ks_log_builder_init(&builder);
	while (input.size > 0) {
		struct sqlb_row row = next_row(&input);

		if (ks_log_row_check(&row, &err) != KS_OK)
			continue;
		if (ks_log_builder_open(&builder) && builder.entry.position != row.position)
			ks_log_builder_reset(&builder);
		if (ks_log_builder_add(&builder, &row, &err) != KS_OK) {
			ks_log_builder_reset(&builder);
			continue;
		}
		if (ks_log_builder_whole(&builder)) {
			apply(store, &builder.entry);
			ks_log_builder_reset(&builder);
		}
	}
	read_all(store);
	while (ks_store_compact_step(store, 10, NULL, NULL))
		;
	ks_log_builder_fini(&builder);
	ks_store_free(store);
	return 0;
}
