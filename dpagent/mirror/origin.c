/* SPDX-License-Identifier: Apache-2.0 */
#include "mirror/origin.h"

#include <stdlib.h>

#define LEAST_SLOTS 64u

/* FNV-1a with a final mix. Names come from upstream, which is trusted not to attack our table. */
static size_t hash_of(struct ks_slice key)
{
	uint64_t hash = 0xcbf29ce484222325u;

	for (size_t i = 0; i < key.size; i++)
		hash = (hash ^ key.data[i]) * 0x100000001b3u;
	return (size_t)(hash ^ hash >> 29);
}

void dpa_origins_init(struct dpa_origins *origins)
{
	*origins = (struct dpa_origins){0};
}

static void free_origin(struct dpa_origin *origin)
{
	ks_bytes_unref(origin->key);
	ks_bytes_unref(origin->raw);
	free(origin);
}

void dpa_origins_fini(struct dpa_origins *origins)
{
	for (size_t i = 0; i < origins->slot_count; i++)
		if (origins->slots[i])
			free_origin(origins->slots[i]);
	free(origins->slots);
	dpa_origins_init(origins);
}

/* Where the key is, or where it would go; there is always a free slot. */
static size_t slot_of(const struct dpa_origins *origins, struct ks_slice key)
{
	size_t mask = origins->slot_count - 1, slot = hash_of(key) & mask;

	while (origins->slots[slot] && !ks_slice_eq(ks_bytes_slice(origins->slots[slot]->key), key))
		slot = (slot + 1) & mask;
	return slot;
}

struct dpa_origin *dpa_origins_find(const struct dpa_origins *origins, struct ks_slice key)
{
	return origins->count ? origins->slots[slot_of(origins, key)] : NULL;
}

bool dpa_origins_reserve(struct dpa_origins *origins, size_t extra)
{
	struct dpa_origins grown = *origins;
	size_t wanted = (origins->count + extra) * 2;

	if (wanted < origins->slot_count)
		return true;
	grown.slot_count = origins->slot_count ? origins->slot_count : LEAST_SLOTS;
	while (grown.slot_count <= wanted)
		grown.slot_count *= 2;
	grown.slots = calloc(grown.slot_count, sizeof(struct dpa_origin *));
	if (!grown.slots)
		return false;
	for (size_t i = 0; i < origins->slot_count; i++)
		if (origins->slots[i])
			grown.slots[slot_of(&grown, ks_bytes_slice(origins->slots[i]->key))] = origins->slots[i];
	free(origins->slots);
	*origins = grown;
	return true;
}

static void account(struct dpa_origins *origins, const struct dpa_origin *origin, size_t by)
{
	if (origin->up_mod == 0)
		origins->local_only += by;
	if (origin->hidden)
		origins->hidden += by;
	if (origin->overlaid)
		origins->overlaid += by;
	if (origin->transformed)
		origins->transformed += by;
}

bool dpa_origins_set(struct dpa_origins *origins, const struct dpa_origin *origin)
{
	struct dpa_origin *old = dpa_origins_find(origins, ks_bytes_slice(origin->key));

	if (old) {
		account(origins, old, (size_t)-1);
		ks_bytes_unref(old->key);
		ks_bytes_unref(old->raw);
	} else {
		if (!dpa_origins_reserve(origins, 1))
			return false;
		old = malloc(sizeof(*old));
		if (!old)
			return false;
		origins->slots[slot_of(origins, ks_bytes_slice(origin->key))] = old;
		origins->count++;
	}
	*old = *origin;
	account(origins, old, 1);
	return true;
}

void dpa_origins_remove(struct dpa_origins *origins, struct ks_slice key)
{
	size_t mask = origins->slot_count - 1, hole, slot;

	if (!origins->count)
		return;
	hole = slot_of(origins, key);
	if (!origins->slots[hole])
		return;
	account(origins, origins->slots[hole], (size_t)-1);
	free_origin(origins->slots[hole]);
	origins->slots[hole] = NULL;
	origins->count--;
	/* Those behind it move up where their own search would pass the hole. */
	for (slot = (hole + 1) & mask; origins->slots[slot]; slot = (slot + 1) & mask) {
		size_t home = hash_of(ks_bytes_slice(origins->slots[slot]->key)) & mask;

		if (((slot - home) & mask) >= ((slot - hole) & mask)) {
			origins->slots[hole] = origins->slots[slot];
			origins->slots[slot] = NULL;
			hole = slot;
		}
	}
}
