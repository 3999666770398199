/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What upstream says of the keys for which the store does not tell it: a hash table by key. A key that is served as upstream has it, number by
 * number, has no entry here, so an agent without overlay, discovery or a change of upstream's history keeps none.
 *
 * Threads: the replica's lock. Errors: false when memory is short; then nothing has changed.
 */
#ifndef DPA_ORIGIN_H
#define DPA_ORIGIN_H

#include <stdbool.h>
#include <stdint.h>

#include "base/bytes.h"
#include "base/status.h"

struct dpa_origin {
	struct ks_bytes *key;
	struct ks_bytes *raw;                  /* upstream's value where another one, or none, is served; else NULL */
	int64_t up_create, up_mod, up_version; /* all 0: there is no such key upstream */
	bool hidden;                           /* there upstream, not served */
	bool overlaid;                         /* an overlay sets or hides it */
	bool transformed;                      /* the served value was made by the transform */
};

struct dpa_origins {
	struct dpa_origin **slots; /* open addressing, a power of two; NULL: free */
	size_t slot_count, count;
	size_t local_only, hidden, overlaid, transformed; /* how many are */
};

void dpa_origins_init(struct dpa_origins *origins);
void dpa_origins_fini(struct dpa_origins *origins);
struct dpa_origin *dpa_origins_find(const struct dpa_origins *origins, struct ks_slice key);
/* Inserts or replaces; takes one reference of key and raw each when it succeeds. */
bool dpa_origins_set(struct dpa_origins *origins, const struct dpa_origin *origin) KS_MUST_CHECK;
void dpa_origins_remove(struct dpa_origins *origins, struct ks_slice key);
/* Room for 'extra' more, so that the next ones cannot fail. */
bool dpa_origins_reserve(struct dpa_origins *origins, size_t extra) KS_MUST_CHECK;

#endif
