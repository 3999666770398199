/* SPDX-License-Identifier: Apache-2.0 */
/* The end of a process that has a bug, and allocations that may not fail. */
#include "base/panic.h"

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

void ks_panic(const char *file, int line, const char *what)
{
	char text[512];
	int size = snprintf(text, sizeof(text), "kineshim: panic at %s:%d: %s\n", file, line, what);

	/* Not through diag: its state may be what is broken. */
	if (size > 0) {
		size_t length = (size_t)size < sizeof(text) ? (size_t)size : sizeof(text) - 1;

		if (write(STDERR_FILENO, text, length) < 0)
			abort();
	}
	abort();
}

void *ks_xmalloc(size_t size)
{
	void *memory = malloc(size ? size : 1);

	if (!memory)
		ks_panic(__FILE__, __LINE__, "out of memory");
	return memory;
}

void *ks_xcalloc(size_t count, size_t size)
{
	void *memory = calloc(count ? count : 1, size ? size : 1);

	if (!memory)
		ks_panic(__FILE__, __LINE__, "out of memory");
	return memory;
}

void *ks_xrealloc(void *old, size_t size)
{
	void *memory = realloc(old, size ? size : 1);

	if (!memory)
		ks_panic(__FILE__, __LINE__, "out of memory");
	return memory;
}

char *ks_xstrdup(const char *text)
{
	size_t size = strlen(text) + 1;

	return memcpy(ks_xmalloc(size), text, size);
}
