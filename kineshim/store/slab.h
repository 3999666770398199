/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Small objects in great numbers: keys, records, nodes. Cells of one size class lie side by side without a header, so a
 * million of them cost what they hold; freed cells are used again, memory goes back only with the whole slab. What has
 * grown large lies in huge pages where the system has them: walking a large index otherwise misses the TLB at each step.
 *
 * Cells are 8-byte aligned, those whose size is a multiple of 64 are aligned to cache lines. Sizes above KS_SLAB_LARGEST
 * come from malloc. With KS_ARENA_DEBUG everything does, so that a sanitizer sees misuse.
 * Threads: the caller's lock. Errors: NULL when memory is short. The size given back must be the size asked for.
 */
#ifndef KS_STORE_SLAB_H
#define KS_STORE_SLAB_H

#include <stddef.h>

#define KS_SLAB_FINE 256u     /* classes in steps of 8 bytes up to here */
#define KS_SLAB_LARGEST 2304u /* in steps of 64 from there */
#define KS_SLAB_CLASSES (KS_SLAB_FINE / 8 + (KS_SLAB_LARGEST - KS_SLAB_FINE) / 64)

struct ks_slab_chunk;

struct ks_slab {
	struct ks_slab_chunk *chunks;
	struct ks_slab_class {
		void *free; /* list through the cells themselves */
		char *next; /* unused rest of the newest chunk */
		char *end;
		size_t chunk_size;
	} classes[KS_SLAB_CLASSES];
};

void ks_slab_init(struct ks_slab *slab);
void ks_slab_fini(struct ks_slab *slab); /* also what was not freed, except cells of malloc */
void *ks_slab_alloc(struct ks_slab *slab, size_t size);
void ks_slab_free(struct ks_slab *slab, void *cell, size_t size); /* NULL is fine */

#endif
