/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Bump allocator for what lives as long as one request.
 *
 * Everything is freed at once by ks_arena_fini. One thread at a time. Allocations are 16-byte aligned. With
 * KS_ARENA_DEBUG (set by --enable-asan) every allocation is a malloc of its own, so that a sanitizer sees overruns.
 * Errors: NULL when memory is short or when the arena would grow past the limit given at init.
 */
#ifndef KS_BASE_ARENA_H
#define KS_BASE_ARENA_H

#include <stddef.h>

#include "base/bytes.h"

struct ks_arena_chunk;

struct ks_arena {
	struct ks_arena_chunk *chunks; /* newest first */
	char *next;                    /* free space in the newest chunk */
	char *end;
	size_t used;  /* bytes handed out */
	size_t limit; /* refuses to hand out more */
};

void ks_arena_init(struct ks_arena *arena, size_t limit);
void ks_arena_fini(struct ks_arena *arena);
void *ks_arena_alloc(struct ks_arena *arena, size_t size);               /* contents undefined */
void *ks_arena_zalloc(struct ks_arena *arena, size_t size);              /* zeroed */
void *ks_arena_array(struct ks_arena *arena, size_t count, size_t size); /* zeroed, overflow-checked */

#endif
