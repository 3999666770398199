/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Bump allocator, see arena.h. Chunks form a list, newest first:
 *
 *	arena->chunks ─► [ header | used … next ─► free … end ] ─► [ header | used ] ─► NULL
 *
 * The first chunk is small, later ones double up to LARGEST_CHUNK; what does not fit that gets a chunk of its own. With
 * KS_ARENA_DEBUG each allocation is its own exact chunk.
 */
#include "base/arena.h"

#include <stdalign.h>
#include <stdlib.h>

#define ALIGNMENT 16u
#define FIRST_CHUNK 2048u
#define LARGEST_CHUNK 65536u

struct ks_arena_chunk {
	struct ks_arena_chunk *older;
	size_t size; /* of data[] */
	alignas(ALIGNMENT) char data[];
};

_Static_assert(sizeof(struct ks_arena_chunk) % ALIGNMENT == 0, "data[] must start aligned");

void ks_arena_init(struct ks_arena *arena, size_t limit)
{
	*arena = (struct ks_arena){.limit = limit};
}

void ks_arena_fini(struct ks_arena *arena)
{
	struct ks_arena_chunk *chunk = arena->chunks;

	while (chunk) {
		struct ks_arena_chunk *older = chunk->older;

		free(chunk);
		chunk = older;
	}
	ks_arena_init(arena, arena->limit);
}

static struct ks_arena_chunk *add_chunk(struct ks_arena *arena, size_t size)
{
	struct ks_arena_chunk *chunk = malloc(sizeof(*chunk) + size);

	if (!chunk)
		return NULL;
	chunk->older = arena->chunks;
	chunk->size = size;
	arena->chunks = chunk;
	return chunk;
}

#ifdef KS_ARENA_DEBUG

static void *take(struct ks_arena *arena, size_t size, size_t rounded)
{
	struct ks_arena_chunk *chunk = add_chunk(arena, size);

	(void)rounded;
	return chunk ? chunk->data : NULL;
}

#else

static size_t next_chunk_size(const struct ks_arena *arena)
{
	if (!arena->chunks)
		return FIRST_CHUNK;
	return arena->chunks->size < LARGEST_CHUNK / 2 ? arena->chunks->size * 2 : LARGEST_CHUNK;
}

static void *take(struct ks_arena *arena, size_t size, size_t rounded)
{
	size_t chunk_size = next_chunk_size(arena);
	struct ks_arena_chunk *chunk;
	char *memory;

	(void)size;
	if (rounded > (size_t)(arena->end - arena->next)) {
		chunk = add_chunk(arena, rounded > chunk_size ? rounded : chunk_size);
		if (!chunk)
			return NULL;
		arena->next = chunk->data;
		arena->end = chunk->data + chunk->size;
	}
	memory = arena->next;
	arena->next += rounded;
	return memory;
}

#endif

void *ks_arena_alloc(struct ks_arena *arena, size_t size)
{
	size_t rounded;
	void *memory;

	if (size > arena->limit - arena->used)
		return NULL;
	rounded = size ? (size + ALIGNMENT - 1) & ~(size_t)(ALIGNMENT - 1) : ALIGNMENT;
	if (rounded < size || rounded > arena->limit - arena->used)
		return NULL;
	memory = take(arena, size, rounded);
	if (memory)
		arena->used += rounded;
	return memory;
}

void *ks_arena_zalloc(struct ks_arena *arena, size_t size)
{
	void *memory = ks_arena_alloc(arena, size);

	return memory ? memset(memory, 0, size) : NULL;
}

void *ks_arena_array(struct ks_arena *arena, size_t count, size_t size)
{
	size_t total;

	if (__builtin_mul_overflow(count, size, &total))
		return NULL;
	return ks_arena_zalloc(arena, total);
}
