/* SPDX-License-Identifier: Apache-2.0 */
/* Each size class has chunks of its own, which double from 4 KiB to one huge page. See slab.h. */
#include "store/slab.h"

#include <stdalign.h>
#include <stdlib.h>
#include <sys/mman.h>

#define LINE 64u
#define FIRST_CHUNK 4096u
#define LARGEST_CHUNK (2u << 20) /* a huge page */

struct ks_slab_chunk {
	alignas(LINE) struct ks_slab_chunk *older;
	alignas(LINE) char cells[];
};

void ks_slab_init(struct ks_slab *slab)
{
	*slab = (struct ks_slab){0};
}

void ks_slab_fini(struct ks_slab *slab)
{
	while (slab->chunks) {
		struct ks_slab_chunk *older = slab->chunks->older;

		free(slab->chunks);
		slab->chunks = older;
	}
	ks_slab_init(slab);
}

#ifdef KS_ARENA_DEBUG

void *ks_slab_alloc(struct ks_slab *slab, size_t size)
{
	(void)slab;
	return malloc(size);
}

void ks_slab_free(struct ks_slab *slab, void *cell, size_t size)
{
	(void)slab;
	(void)size;
	free(cell);
}

#else

static size_t round_up(size_t size)
{
	if (size > KS_SLAB_FINE)
		return (size + 63) & ~(size_t)63;
	return size ? (size + 7) & ~(size_t)7 : 8;
}

static struct ks_slab_class *class_of(struct ks_slab *slab, size_t rounded)
{
	if (rounded > KS_SLAB_FINE)
		return &slab->classes[KS_SLAB_FINE / 8 + (rounded - KS_SLAB_FINE) / 64 - 1];
	return &slab->classes[rounded / 8 - 1];
}

static int add_chunk(struct ks_slab *slab, struct ks_slab_class *class)
{
	size_t size = class->chunk_size ? class->chunk_size * 2 : FIRST_CHUNK;
	struct ks_slab_chunk *chunk;

	if (size > LARGEST_CHUNK)
		size = LARGEST_CHUNK;
	chunk = aligned_alloc(size == LARGEST_CHUNK ? size : LINE, size);
	if (!chunk)
		return -1;
	if (size == LARGEST_CHUNK)
		(void)madvise(chunk, size, MADV_HUGEPAGE); /* a wish only */
	chunk->older = slab->chunks;
	slab->chunks = chunk;
	class->chunk_size = size;
	class->next = chunk->cells;
	class->end = (char *)chunk + size;
	return 0;
}

void *ks_slab_alloc(struct ks_slab *slab, size_t size)
{
	size_t rounded = round_up(size);
	struct ks_slab_class *class;
	void *cell;

	if (rounded > KS_SLAB_LARGEST)
		return malloc(size);
	class = class_of(slab, rounded);
	if (class->free) {
		cell = class->free;
		class->free = *(void **)cell;
		return cell;
	}
	if ((size_t)(class->end - class->next) < rounded && add_chunk(slab, class) < 0)
		return NULL;
	cell = class->next;
	class->next += rounded;
	return cell;
}

void ks_slab_free(struct ks_slab *slab, void *cell, size_t size)
{
	size_t rounded = round_up(size);
	struct ks_slab_class *class;

	if (!cell)
		return;
	if (rounded > KS_SLAB_LARGEST) {
		free(cell);
		return;
	}
	class = class_of(slab, rounded);
	*(void **)cell = class->free;
	class->free = cell;
}

#endif
