/* SPDX-License-Identifier: Apache-2.0 */
/* Entries to rows and back; entry.h has the contract. */
#include "log/entry.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/panic.h"

void ks_log_entry_rows(const struct ks_entry *entry, int64_t writer, int64_t batch, struct sqlb_row *rows)
{
	KS_ASSERT(entry->effect_count <= INT32_MAX);
	for (size_t i = 0; i < entry->effect_count; i++) {
		const struct ks_effect *effect = &entry->effects[i];
		bool put = effect->kind == KS_EFFECT_PUT;

		rows[i] = (struct sqlb_row){
			.position = entry->position,
			.sub = (int32_t)i,
			.rows = (int32_t)entry->effect_count,
			.kind = (int16_t)effect->kind,
			.revision = entry->revision,
			.create_revision = put ? effect->create_revision : 0,
			.version = effect->kind == KS_EFFECT_DELETE ? 0 : effect->version,
			.lease = effect->kind == KS_EFFECT_DELETE ? 0 : effect->lease,
			.writer = writer,
			.batch = batch,
		};
		if (put || effect->kind == KS_EFFECT_DELETE)
			rows[i].key = effect->key;
		if (put) /* an empty value is an empty blob, not NULL: people's queries tell the two apart */
			rows[i].value = effect->value.data ? effect->value : ks_slice_of("", 0);
		if (effect->payload.size)
			rows[i].payload = effect->payload;
	}
}

static enum ks_status bad(const struct sqlb_row *row, const char *why, struct ks_err *err)
{
	return ks_fail(err, KS_DATA_LOSS, "row (%" PRId64 ", %" PRId32 ") of the log: %s", row->position, row->sub,
		       why);
}

enum ks_status ks_log_row_check(const struct sqlb_row *row, struct ks_err *err)
{
	if (row->position < 1 || row->rows < 1 || row->sub < 0 || row->sub >= row->rows)
		return bad(row, "impossible position, sub or rows", err);
	if (row->revision < 1)
		return bad(row, "impossible revision", err);
	if (row->payload.size && row->kind != KS_EFFECT_AUTH && row->kind != KS_EFFECT_ALARM &&
	    row->kind != KS_EFFECT_IMPORT)
		return bad(row, "it has a payload: written by a newer program", err);
	if (row->key.size > UINT32_MAX / 4 || row->value.size > UINT32_MAX / 4 || row->payload.size > UINT32_MAX / 4)
		return bad(row, "impossible size", err);
	switch (row->kind) {
	case KS_EFFECT_PUT:
		if (!row->key.size)
			return bad(row, "a put without a key", err);
		if (row->create_revision < 1 || row->create_revision > row->revision || row->version < 1)
			return bad(row, "a put with an impossible create revision or version", err);
		return KS_OK;
	case KS_EFFECT_DELETE:
		return row->key.size ? KS_OK : bad(row, "a delete without a key", err);
	case KS_EFFECT_LEASE_GRANT:
		if (!row->lease || row->version < 1)
			return bad(row, "a lease grant without id or time to live", err);
		return KS_OK;
	case KS_EFFECT_LEASE_REVOKE:
		return row->lease ? KS_OK : bad(row, "a lease revoke without id", err);
	case KS_EFFECT_COMPACT:
		if (row->version < 0 || row->version > row->revision)
			return bad(row, "a compaction with an impossible revision", err);
		return KS_OK;
	case KS_EFFECT_NOOP:
		return KS_OK;
	case KS_EFFECT_AUTH:
		if (!row->payload.size || row->version < 1)
			return bad(row, "a change of users or roles without payload or revision", err);
		return KS_OK;
	case KS_EFFECT_ALARM:
		return row->payload.size ? KS_OK : bad(row, "an alarm without payload", err);
	case KS_EFFECT_IMPORT:
		if (!row->payload.size || (row->version != KS_IMPORT_BEGUN && row->version != KS_IMPORT_FINISHED))
			return bad(row, "an import without source or state", err);
		return KS_OK;
	}
	return bad(row, "unknown kind: written by a newer program", err);
}

void ks_log_builder_init(struct ks_log_builder *builder)
{
	*builder = (struct ks_log_builder){0};
	ks_arena_init(&builder->copies, SIZE_MAX);
}

void ks_log_builder_fini(struct ks_log_builder *builder)
{
	ks_arena_fini(&builder->copies);
	free(builder->effects);
	free(builder->subs);
	*builder = (struct ks_log_builder){0};
}

void ks_log_builder_reset(struct ks_log_builder *builder)
{
	if (builder->copies.used) {
		ks_arena_fini(&builder->copies);
		ks_arena_init(&builder->copies, SIZE_MAX);
	}
	builder->rows = 0;
	builder->entry.effect_count = 0;
}

static bool make_room(struct ks_log_builder *builder)
{
	size_t room = builder->room ? 2 * builder->room : 8;
	struct ks_effect *effects;
	int32_t *subs;

	if (builder->entry.effect_count < builder->room)
		return true;
	effects = realloc(builder->effects, room * sizeof(*effects));
	if (!effects)
		return false;
	builder->effects = effects;
	subs = realloc(builder->subs, room * sizeof(*subs));
	if (!subs)
		return false;
	builder->subs = subs;
	builder->room = room;
	return true;
}

static bool keep(struct ks_log_builder *builder, struct ks_slice *slice)
{
	uint8_t *copy;

	if (!slice->size)
		return true;
	copy = ks_arena_alloc(&builder->copies, slice->size);
	if (!copy)
		return false;
	memcpy(copy, slice->data, slice->size);
	slice->data = copy;
	return true;
}

enum ks_status ks_log_builder_add(struct ks_log_builder *builder, const struct sqlb_row *row, struct ks_err *err)
{
	struct ks_entry *entry = &builder->entry;
	struct ks_effect effect = {
		.kind = (enum ks_effect_kind)row->kind,
		.key = row->key,
		.value = row->value,
		.create_revision = row->create_revision,
		.version = row->version,
		.lease = row->lease,
		.payload = row->payload,
	};

	if (!ks_log_builder_open(builder)) {
		*entry = (struct ks_entry){.position = row->position, .revision = row->revision};
		builder->rows = row->rows;
		builder->writer = row->writer;
		builder->batch = row->batch;
	} else {
		KS_ASSERT(row->position == entry->position);
		if (row->rows != builder->rows || row->revision != entry->revision || row->writer != builder->writer ||
		    row->batch != builder->batch)
			return bad(row, "it contradicts the other rows of its entry", err);
		if (row->sub <= builder->subs[entry->effect_count - 1])
			return bad(row, "rows out of order", err);
	}
	if (!make_room(builder) || (row->rows > 1 && (!keep(builder, &effect.key) || !keep(builder, &effect.value) ||
						      !keep(builder, &effect.payload))))
		return ks_fail(err, KS_RESOURCE_EXHAUSTED, "out of memory for the entry at %" PRId64, row->position);
	builder->effects[entry->effect_count] = effect;
	builder->subs[entry->effect_count] = row->sub;
	entry->effect_count++;
	entry->effects = builder->effects;
	entry->subs = ks_log_builder_whole(builder) ? NULL : builder->subs;
	return KS_OK;
}

int64_t ks_log_ttl_ms(int64_t ttl)
{
	const int64_t max = (int64_t)3600 * 24 * 366 * 100000;

	return (ttl < max ? ttl : max) * 1000;
}

struct ks_bytes *ks_log_row_encode(const struct sqlb_row *row)
{
	const struct ks_kv kv = {
		.key = row->key,
		.value = row->value,
		.create_revision = row->create_revision,
		.mod_revision = row->revision,
		.version = row->version,
		.lease = row->lease,
	};

	return row->kind == KS_EFFECT_PUT ? ks_kv_encode(&kv) : NULL;
}
