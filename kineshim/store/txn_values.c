/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Values that are not in memory: compares and checks note what they miss; the writer fetches it without the lock and
 * starts again, for nothing has changed yet. Who reads is told what to fetch.
 */
#include <stdlib.h>

#include "store/txn_priv.h"

static int cmp_loc(const struct ks_loc *a, const struct ks_loc *b)
{
	if (a->position != b->position)
		return a->position < b->position ? -1 : 1;
	return (a->sub > b->sub) - (a->sub < b->sub);
}

static int cmp_miss(const void *a, const void *b)
{
	return cmp_loc(&((const struct ks_kvref *)a)->loc, &((const struct ks_kvref *)b)->loc);
}

/* Sorts and throws out what is there twice; of those the one that has its value stays. */
void ks_misses_sort(struct ks_misses *misses)
{
	size_t kept = 0;

	if (misses->count < 2)
		return;
	qsort(misses->refs, misses->count, sizeof(*misses->refs), cmp_miss);
	for (size_t i = 1; i < misses->count; i++) {
		struct ks_kvref *last = &misses->refs[kept], *next = &misses->refs[i];

		if (cmp_miss(last, next) != 0) {
			misses->refs[++kept] = *next;
		} else if (!last->encoded) {
			last->encoded = next->encoded;
		} else {
			ks_bytes_unref(next->encoded);
		}
	}
	misses->count = kept + 1;
}

static struct ks_bytes *find_fetched(const struct ks_eval *e, struct ks_loc loc)
{
	struct ks_kvref wanted = {.loc = loc};
	const struct ks_kvref *found = NULL;

	if (e->known)
		found = bsearch(&wanted, e->misses->refs, e->known, sizeof(wanted), cmp_miss);
	return found ? found->encoded : NULL;
}

struct ks_bytes *ks_eval_encoding(struct ks_eval *e, struct ks_record *record, enum ks_status *status)
{
	struct ks_loc loc = {.position = record->position, .sub = record->sub};
	struct ks_bytes *encoded = record->encoded;

	ks_record_touch(record);
	if (!encoded)
		encoded = find_fetched(e, loc);
	if (encoded)
		return encoded;
	e->missed = true;
	if (e->miss_capacity < e->misses->count)
		e->miss_capacity = e->misses->count;
	if (!ks_grow((void **)&e->misses->refs, &e->miss_capacity, e->misses->count, sizeof(*e->misses->refs)))
		*status = KS_RESOURCE_EXHAUSTED;
	else
		e->misses->refs[e->misses->count++] = (struct ks_kvref){.loc = loc};
	return NULL;
}

enum ks_status ks_eval_fetch(struct ks_eval *e)
{
	const struct ks_store_config *config = &e->store->config;

	ks_misses_sort(e->misses);
	for (size_t i = 0; i < e->misses->count; i++) {
		struct ks_kvref *ref = &e->misses->refs[i];

		if (ref->encoded)
			continue;
		ref->encoded = config->fetch ? config->fetch(config->fetch_ctx, ref->loc) : NULL;
		if (!ref->encoded)
			return ks_fail(e->err, KS_UNAVAILABLE, "etcdserver: no leader");
		ks_store_cache_fill(e->store, ref->encoded, ref->loc);
	}
	e->known = e->misses->count;
	e->missed = false;
	return KS_OK;
}
