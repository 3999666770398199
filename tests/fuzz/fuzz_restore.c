/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Databases of etcd that somebody made, as rows of a log: nothing may end the process, and whatever is taken for sound must
 * be a log that a server loads, whole and with the totals that were promised. Checksums of meta pages are mended first, as
 * in fuzz_bbolt.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/panic.h"
#include "bbolt/layout.h"
#include "log/entry.h"
#include "store/auth.h"
#include "store/store.h"
#include "tools/restore_source.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct load {
	struct ks_store *store;
	struct ks_log_builder builder;
	int64_t last_hole, compaction; /* positions, as log/replay.c compares them */
	uint64_t rows;
};

static void flush(struct load *load)
{
	const struct ks_entry *entry = &load->builder.entry;
	struct ks_err err;

	KS_ASSERT(ks_store_apply(load->store, entry, &err) == KS_OK);
	if (entry->subs)
		load->last_hole = entry->position;
	for (size_t i = 0; i < entry->effect_count; i++)
		if (entry->effects[i].kind == KS_EFFECT_COMPACT)
			load->compaction = entry->position;
	ks_log_builder_reset(&load->builder);
}

static void add(struct load *load, const struct sqlb_row *row)
{
	struct ks_err err;

	load->rows++;
	KS_ASSERT(ks_log_row_check(row, &err) == KS_OK);
	KS_ASSERT(!ks_log_builder_open(&load->builder) || load->builder.entry.position == row->position);
	KS_ASSERT(ks_log_builder_add(&load->builder, row, &err) == KS_OK);
	if (ks_log_builder_ended(&load->builder))
		flush(load);
}

static void check(struct load *load, const struct ks_restore_totals *totals)
{
	struct ks_position at = ks_store_committed(load->store);
	struct ks_auth *auth = ks_store_auth(load->store);
	struct ks_hash_result hash;
	struct ks_store_stats stats;
	struct ks_err err;

	KS_ASSERT(!ks_log_builder_open(&load->builder));
	KS_ASSERT(load->rows == totals->rows);
	KS_ASSERT(at.revision == totals->revision && at.compact_revision == totals->compact_revision);
	KS_ASSERT(!load->last_hole || load->last_hole < load->compaction);
	ks_store_stats(load->store, &stats);
	KS_ASSERT(stats.leases == totals->leases && stats.records <= totals->records);
	KS_ASSERT(ks_auth_user_count(auth) == totals->users && ks_auth_role_count(auth) == totals->roles);
	KS_ASSERT(ks_auth_enabled(auth) == totals->auth_enabled);
	KS_ASSERT(ks_store_hash_kv(load->store, 0, NULL, NULL, &hash, &err) == KS_OK);
	ks_auth_unref(auth);
}

static void load_all(struct ks_restore_source *source)
{
	const struct ks_store_config config = {.value_cache_bytes = 1 << 20, .values_kept = true};
	const struct ks_restore_totals totals = *ks_restore_source_totals(source);
	struct load load = {0};
	enum sqlb_next what;
	struct sqlb_row row;
	struct ks_err err;

	load.store = ks_store_new(&config, &err);
	KS_ASSERT(load.store);
	ks_log_builder_init(&load.builder);
	KS_ASSERT(ks_store_jump_begin(load.store, &err) == KS_OK);
	while ((what = ks_restore_source_next(source, &row)) == SQLB_NEXT_ROW)
		add(&load, &row);
	KS_ASSERT(what == SQLB_NEXT_END);
	KS_ASSERT(ks_store_jump_end(load.store, &err) == KS_OK);
	check(&load, &totals);
	ks_log_builder_fini(&load.builder);
	ks_store_free(load.store);
}

/* Gives a meta page at 'at' its right checksum. */
static void mend(uint8_t *data, size_t size, size_t at)
{
	struct ks_bbolt_meta meta;

	if (at + KS_BBOLT_PAGE_HEADER + KS_BBOLT_META > size)
		return;
	(void)ks_bbolt_meta_decode(data + at + KS_BBOLT_PAGE_HEADER, &meta);
	ks_bbolt_meta_encode(data + at + KS_BBOLT_PAGE_HEADER, &meta);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	uint8_t *mended = malloc(size + 1);
	struct ks_restore_source *source;
	int fd = memfd_create("fuzz", MFD_CLOEXEC);
	struct ks_err err;

	KS_ASSERT(mended && fd >= 0);
	memcpy(mended, data, size);
	mend(mended, size, 0);
	for (size_t at = KS_BBOLT_PAGE_SIZE_MIN; at <= KS_BBOLT_PAGE_SIZE_MAX; at *= 2)
		if (at + KS_BBOLT_PAGE_HEADER < size && mended[at + 8] == KS_BBOLT_METAPAGE)
			mend(mended, size, at);
	KS_ASSERT(size == 0 || write(fd, mended, size) == (ssize_t)size);
	if (ks_restore_source_open(fd, size, 7, &source, &err) == KS_OK) {
		load_all(source);
		ks_restore_source_close(source);
	}
	(void)close(fd);
	free(mended);
	return 0;
}
