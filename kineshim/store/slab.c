/* SPDX-License-Identifier: Apache-2.0 */
/* Size classes in steps of 8 bytes, each with chunks of its own that double from 4 to 256 KiB. See slab.h. */
#include "store/slab.h"

#include <stdalign.h>
#include <stdlib.h>

#define LINE 64u
#define FIRST_CHUNK 4096u
#define LARGEST_CHUNK (256u << 10)

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
	return size ? (size + 7) & ~(size_t)7 : 8;
}

static int add_chunk(struct ks_slab *slab, struct ks_slab_class *class)
{
	size_t size = class->chunk_size ? class->chunk_size * 2 : FIRST_CHUNK;
	struct ks_slab_chunk *chunk;

	if (size > LARGEST_CHUNK)
		size = LARGEST_CHUNK;
	chunk = aligned_alloc(LINE, size);
	if (!chunk)
		return -1;
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
	class = &slab->classes[rounded / 8 - 1];
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
	class = &slab->classes[rounded / 8 - 1];
	*(void **)cell = class->free;
	class->free = cell;
}

#endif
