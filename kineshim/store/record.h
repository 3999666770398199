/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A key and its records: what the index leads to and the history lists.
 *
 *	index ─► ks_key ─► one ks_record, or a list of them, oldest first ◄─ history (all keys, in revision order)
 *	                        └─► encoded KeyValue, counted, shared with whoever sends it
 *
 * A record is one cache line and has everything but the value, so that comparing, filtering and sorting never need a
 * value that the cache let go. Records are added at the end (the tail) and leave at the end (rollback) or at the front
 * (compaction), never in the middle.
 * Threads: under the store's lock; 'touched' alone is written by readers.
 */
#ifndef KS_STORE_RECORD_H
#define KS_STORE_RECORD_H

#include "store/slab.h"
#include "store/store.h"

struct ks_key;

struct ks_record {
	struct ks_bytes *encoded; /* KeyValue, of a delete {key, mod_revision}; NULL: the cache let it go */
	struct ks_key *key;
	int64_t revision;
	int64_t create_revision; /* 0: a delete */
	int64_t version;
	int64_t lease;
	int64_t position;        /* of its entry in the log */
	int32_t sub;             /* in the revision, and in the entry: changes of keys come first there */
	_Atomic uint8_t touched; /* used since the cache's hand passed last */
	bool toggles;            /* the key was born or died with it, and that is not published yet */
	uint16_t size_units;     /* size of the encoding in SIZE_UNIT bytes, rounded up, at most UINT16_MAX */
};

#define KS_RECORD_SIZE_UNIT 256u

struct ks_record_list {
	uint32_t start; /* of the records in items[]; their number is the key's */
	uint32_t capacity;
	struct ks_record *items[];
};

struct ks_key {
	union {
		struct ks_record *only;      /* count == 1 */
		struct ks_record_list *list; /* count > 1 */
	};
	uint32_t count;      /* 0: not in the index, kept for a lease's set only */
	uint32_t lease_refs; /* sets of leases that point here */
	uint32_t size;
	uint8_t bytes[];
};

static inline struct ks_slice ks_key_slice(const struct ks_key *key)
{
	return ks_slice_of(key->bytes, key->size);
}

static inline struct ks_record *const *ks_key_records(const struct ks_key *key)
{
	return key->count > 1 ? key->list->items + key->list->start : &key->only;
}

static inline struct ks_record *ks_key_newest(const struct ks_key *key)
{
	return key->count ? ks_key_records(key)[key->count - 1] : NULL;
}

static inline bool ks_record_live(const struct ks_record *record)
{
	return record && record->create_revision != 0;
}

/* The number of the key's records with revision <= 'revision'. */
uint32_t ks_key_count_at(const struct ks_key *key, int64_t revision);

/* The newest record with revision <= 'revision', or NULL. */
static inline struct ks_record *ks_key_at(const struct ks_key *key, int64_t revision)
{
	struct ks_record *newest = ks_key_newest(key);
	uint32_t count;

	if (!newest || newest->revision <= revision)
		return newest;
	count = ks_key_count_at(key, revision);
	return count ? ks_key_records(key)[count - 1] : NULL;
}

/* False without memory. */
bool ks_key_push(struct ks_key *key, struct ks_record *record) KS_MUST_CHECK;
void ks_key_pop_newest(struct ks_key *key);
void ks_key_pop_oldest(struct ks_key *key);

/* As a result: takes a reference of the encoding. */
struct ks_kvref ks_record_kvref(struct ks_record *record);

static inline void ks_record_touch(struct ks_record *record)
{
	/* Relaxed: a hint for the cache. Read first, so that readers do not fight for the line. */
	if (!atomic_load_explicit(&record->touched, memory_order_relaxed))
		atomic_store_explicit(&record->touched, 1, memory_order_relaxed);
}

#endif
