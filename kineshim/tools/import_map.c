/* SPDX-License-Identifier: Apache-2.0 */
/* Open addressing, at most half full; see import_map.h. */
#include "tools/import_map.h"

#include <stdlib.h>
#include <sys/random.h>

#include "base/clock.h"

#define FIRST_CAPACITY 1024u

struct ks_import_slot {
	uint8_t *name; /* the kind, then the name; NULL: free */
	size_t size;   /* of the name alone */
	uint64_t hash;
	struct ks_import_thing thing;
};

void ks_import_map_init(struct ks_import_map *map)
{
	*map = (struct ks_import_map){0};
	/* So that no keys of a hostile source meet in one place. */
	if (getrandom(&map->seed, sizeof(map->seed), 0) != sizeof(map->seed))
		map->seed = (uint64_t)ks_clock_now(ks_clock_system());
	ks_arena_init(&map->names, SIZE_MAX);
}

void ks_import_map_fini(struct ks_import_map *map)
{
	ks_arena_fini(&map->names);
	free(map->slots);
	*map = (struct ks_import_map){0};
}

static uint64_t hash_of(const struct ks_import_map *map, enum ks_import_kind kind, struct ks_slice name)
{
	uint64_t hash = map->seed ^ (uint64_t)kind;

	for (size_t i = 0; i < name.size; i++) {
		hash = (hash ^ name.data[i]) * UINT64_C(0x9e3779b97f4a7c15);
		hash ^= hash >> 29;
	}
	hash *= UINT64_C(0xbf58476d1ce4e5b9);
	return hash ^ hash >> 32;
}

static struct ks_import_slot *slot_of(const struct ks_import_map *map, uint64_t hash, enum ks_import_kind kind,
				      struct ks_slice name)
{
	size_t i = hash & (map->capacity - 1);

	for (;; i = (i + 1) & (map->capacity - 1)) {
		struct ks_import_slot *slot = &map->slots[i];

		if (!slot->name || (slot->hash == hash && slot->name[0] == kind && slot->size == name.size &&
				    (name.size == 0 || memcmp(slot->name + 1, name.data, name.size) == 0)))
			return slot;
	}
}

static bool grow(struct ks_import_map *map)
{
	struct ks_import_map larger = *map;

	larger.capacity = map->capacity ? map->capacity * 2 : FIRST_CAPACITY;
	larger.slots = calloc(larger.capacity, sizeof(larger.slots[0]));
	if (!larger.slots)
		return false;
	for (size_t i = 0; i < map->capacity; i++) {
		const struct ks_import_slot *slot = &map->slots[i];

		if (slot->name)
			*slot_of(&larger, slot->hash, (enum ks_import_kind)slot->name[0],
				 ks_slice_of(slot->name + 1, slot->size)) = *slot;
	}
	free(map->slots);
	*map = larger;
	return true;
}

struct ks_import_thing *ks_import_map_put(struct ks_import_map *map, enum ks_import_kind kind, struct ks_slice name)
{
	uint64_t hash = hash_of(map, kind, name);
	struct ks_import_slot *slot;
	uint8_t *copy;

	/* What is there already moves nothing, so that it may be put while the map is walked. */
	slot = map->capacity ? slot_of(map, hash, kind, name) : NULL;
	if (slot && slot->name)
		return &slot->thing;
	if (map->count >= map->capacity / 2) {
		if (!grow(map))
			return NULL;
		slot = slot_of(map, hash, kind, name);
	}
	copy = ks_arena_alloc(&map->names, name.size + 1);
	if (!copy)
		return NULL;
	copy[0] = (uint8_t)kind;
	if (name.size)
		memcpy(copy + 1, name.data, name.size);
	*slot = (struct ks_import_slot){.name = copy, .size = name.size, .hash = hash};
	map->count++;
	return &slot->thing;
}

struct ks_import_thing *ks_import_map_find(const struct ks_import_map *map, enum ks_import_kind kind,
					   struct ks_slice name)
{
	struct ks_import_slot *slot;

	if (!map->capacity)
		return NULL;
	slot = slot_of(map, hash_of(map, kind, name), kind, name);
	return slot->name ? &slot->thing : NULL;
}

struct ks_import_thing *ks_import_map_next(const struct ks_import_map *map, enum ks_import_kind kind, size_t *at,
					   struct ks_slice *name)
{
	while (*at < map->capacity) {
		struct ks_import_slot *slot = &map->slots[(*at)++];

		if (slot->name && slot->name[0] == kind && slot->thing.live) {
			*name = ks_slice_of(slot->name + 1, slot->size);
			return &slot->thing;
		}
	}
	return NULL;
}
