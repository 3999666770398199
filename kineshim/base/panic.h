/* SPDX-License-Identifier: Apache-2.0 */
/*
 * For what only a bug of ours can break: always on, cheap, ends the process with file and line. Never for anything
 * that a client, a database or a disk can cause. ks_xmalloc and friends abort when a small, bounded allocation fails;
 * a size that comes from outside is bounded first and uses plain malloc with a check.
 */
#ifndef KS_BASE_PANIC_H
#define KS_BASE_PANIC_H

#include <stddef.h>

#define KS_ASSERT(condition)                                      \
	do {                                                      \
		if (__builtin_expect(!(condition), 0))            \
			ks_panic(__FILE__, __LINE__, #condition); \
	} while (0)

void ks_panic(const char *file, int line, const char *what) __attribute__((noreturn));
void *ks_xmalloc(size_t size);
void *ks_xcalloc(size_t count, size_t size);
void *ks_xrealloc(void *old, size_t size);
char *ks_xstrdup(const char *text);

#endif
