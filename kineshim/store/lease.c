/* SPDX-License-Identifier: Apache-2.0 */
/* The table of leases (chained, by id) and their sets of keys (open addressing, by address). See lease.h. */
#include "store/lease.h"

#include <stdlib.h>

#include "base/panic.h"

#define FIRST_BUCKETS 16u
#define FIRST_KEYS 4u

static uint64_t mix(uint64_t x)
{
	x ^= x >> 32;
	x *= 0xe9846af9b1a615d5u;
	x ^= x >> 29;
	x *= 0x94d049bb133111ebu;
	return x ^ x >> 32;
}

static struct ks_lease **bucket_of(const struct ks_leases *leases, int64_t id)
{
	return &leases->buckets[mix((uint64_t)id) & (leases->bucket_count - 1)];
}

bool ks_leases_init(struct ks_leases *leases, struct ks_index *index)
{
	*leases = (struct ks_leases){
		.index = index,
		.buckets = calloc(FIRST_BUCKETS, sizeof(struct ks_lease *)),
		.bucket_count = FIRST_BUCKETS,
	};
	return leases->buckets != NULL;
}

void ks_leases_fini(struct ks_leases *leases)
{
	for (size_t i = 0; leases->buckets && i < leases->bucket_count; i++) {
		while (leases->buckets[i])
			ks_leases_remove(leases, leases->buckets[i]);
	}
	free(leases->buckets);
	*leases = (struct ks_leases){0};
}

struct ks_lease *ks_leases_find_tail(const struct ks_leases *leases, int64_t id)
{
	struct ks_lease *lease = *bucket_of(leases, id);

	while (lease && (lease->id != id || !ks_lease_in_tail(lease)))
		lease = lease->next;
	return lease;
}

struct ks_lease *ks_leases_find_committed(const struct ks_leases *leases, int64_t id, int64_t position)
{
	struct ks_lease *lease = *bucket_of(leases, id);

	while (lease && (lease->id != id || !ks_lease_committed(lease, position)))
		lease = lease->next;
	return lease;
}

/* Keeps the chains short; without memory they just get longer. */
static void grow(struct ks_leases *leases)
{
	size_t count = leases->bucket_count;
	struct ks_lease **old = leases->buckets;
	struct ks_lease **buckets;

	if (leases->count < count)
		return;
	buckets = calloc(count * 2, sizeof(*buckets));
	if (!buckets)
		return;
	leases->buckets = buckets;
	leases->bucket_count = count * 2;
	for (size_t i = 0; i < count; i++) {
		while (old[i]) {
			struct ks_lease *lease = old[i];
			struct ks_lease **bucket = bucket_of(leases, lease->id);

			old[i] = lease->next;
			lease->next = *bucket;
			*bucket = lease;
		}
	}
	free(old);
}

struct ks_lease *ks_leases_add(struct ks_leases *leases, int64_t id, int64_t ttl, struct ks_loc granted)
{
	struct ks_lease *lease = malloc(sizeof(*lease));
	struct ks_lease **bucket;

	if (!lease)
		return NULL;
	grow(leases);
	bucket = bucket_of(leases, id);
	*lease = (struct ks_lease){.next = *bucket, .id = id, .ttl = ttl, .granted = granted};
	*bucket = lease;
	leases->count++;
	return lease;
}

static void release_key(struct ks_leases *leases, struct ks_key *key)
{
	if (--key->lease_refs == 0 && key->count == 0)
		ks_index_free_key(leases->index, key);
}

void ks_leases_remove(struct ks_leases *leases, struct ks_lease *lease)
{
	struct ks_lease **link = bucket_of(leases, lease->id);

	while (*link != lease)
		link = &(*link)->next;
	*link = lease->next;
	leases->count--;
	for (uint32_t i = 0; i < lease->capacity; i++) {
		if (lease->keys[i])
			release_key(leases, lease->keys[i]);
	}
	free(lease->keys);
	free(lease);
}

bool ks_lease_has(const struct ks_lease *lease, const struct ks_key *key, int64_t revision)
{
	const struct ks_record *newest = ks_key_at(key, revision);

	return ks_record_live(newest) && newest->lease == lease->id;
}

static struct ks_key **slot_of(struct ks_key **keys, uint32_t capacity, const struct ks_key *key)
{
	uint32_t i = (uint32_t)mix((uint64_t)(uintptr_t)key) & (capacity - 1);

	while (keys[i] && keys[i] != key)
		i = (i + 1) & (capacity - 1);
	return &keys[i];
}

/* Does the key hang on the lease in any state that is still possible: the committed one, and each step of the tail? */
static bool may_have(const struct ks_lease *lease, const struct ks_key *key, int64_t committed)
{
	struct ks_record *const *records = ks_key_records(key);

	for (uint32_t i = key->count; i-- > 0;) {
		if (records[i]->create_revision != 0 && records[i]->lease == lease->id)
			return true;
		if (records[i]->revision <= committed)
			return false;
	}
	return false;
}

/* Throws out what is out of date and makes room for at least one more. */
static bool renew(struct ks_leases *leases, struct ks_lease *lease, int64_t committed)
{
	uint32_t kept = 0, capacity = FIRST_KEYS;
	struct ks_key **keys;

	for (uint32_t i = 0; i < lease->capacity; i++) {
		const struct ks_key *key = lease->keys[i];

		kept += key && may_have(lease, key, committed);
	}
	while (capacity / 2 <= kept) {
		if (capacity > UINT32_MAX / 4)
			return false;
		capacity *= 2;
	}
	keys = calloc(capacity, sizeof(*keys));
	if (!keys)
		return false;
	for (uint32_t i = 0; i < lease->capacity; i++) {
		struct ks_key *key = lease->keys[i];

		if (!key)
			continue;
		if (may_have(lease, key, committed))
			*slot_of(keys, capacity, key) = key;
		else
			release_key(leases, key);
	}
	free(lease->keys);
	lease->keys = keys;
	lease->capacity = capacity;
	lease->used = kept;
	return true;
}

bool ks_lease_attach(struct ks_leases *leases, struct ks_lease *lease, struct ks_key *key, int64_t committed)
{
	struct ks_key **slot;

	if (lease->capacity) {
		slot = slot_of(lease->keys, lease->capacity, key);
		if (*slot)
			return true;
	}
	/* At most three quarters full; new after that, at most half. */
	if (lease->used >= lease->capacity / 4 * 3 && !renew(leases, lease, committed))
		return false;
	slot = slot_of(lease->keys, lease->capacity, key);
	*slot = key;
	lease->used++;
	key->lease_refs++;
	return true;
}
