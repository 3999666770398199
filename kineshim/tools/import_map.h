/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What an import must remember of the log that it writes: leases, users and roles, and, where the source has no versions, keys.
 * A table by kind and name, with what was last said of each. Things that are gone stay in it: a name is met again as often as not.
 *
 * Owner: the map owns its copies of names; values stay where they are until the next put. One thread. Errors: NULL without memory.
 */
#ifndef KS_TOOLS_IMPORT_MAP_H
#define KS_TOOLS_IMPORT_MAP_H

#include "base/arena.h"

enum ks_import_kind { KS_IMPORT_KEY = 'K', KS_IMPORT_LEASE = 'L', KS_IMPORT_USER = 'U', KS_IMPORT_ROLE = 'R' };

struct ks_import_thing {
	bool live;
	bool marked;             /* for whoever compares the map with another list */
	int64_t create_revision; /* of a key */
	int64_t version;         /* of a key; a lease's time to live */
};

struct ks_import_slot;

struct ks_import_map {
	struct ks_import_slot *slots;
	size_t count, capacity;
	uint64_t seed;
	struct ks_arena names;
};

void ks_import_map_init(struct ks_import_map *map);
void ks_import_map_fini(struct ks_import_map *map);
/* Finds or adds; a new one is zeroed. */
struct ks_import_thing *ks_import_map_put(struct ks_import_map *map, enum ks_import_kind kind, struct ks_slice name);
/* NULL: never put. */
struct ks_import_thing *ks_import_map_find(const struct ks_import_map *map, enum ks_import_kind kind,
					   struct ks_slice name);
/* Gives the live things of a kind, one after the other; *at begins with 0. NULL: no more. Nothing new may be put meanwhile. */
struct ks_import_thing *ks_import_map_next(const struct ks_import_map *map, enum ks_import_kind kind, size_t *at,
					   struct ks_slice *name);

#endif
