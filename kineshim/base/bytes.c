/* SPDX-License-Identifier: Apache-2.0 */
/* The counted half of bytes.h: allocation, copy, and giving the last reference back. */
#include "base/bytes.h"

#include <stdlib.h>

struct ks_bytes *ks_bytes_new(size_t size)
{
	struct ks_bytes *bytes;

	if (size > UINT32_MAX)
		return NULL;
	bytes = malloc(sizeof(*bytes) + size);
	if (!bytes)
		return NULL;
	atomic_init(&bytes->refs, 1);
	bytes->size = (uint32_t)size;
	return bytes;
}

struct ks_bytes *ks_bytes_copy(struct ks_slice from)
{
	struct ks_bytes *bytes = ks_bytes_new(from.size);

	if (bytes && from.size)
		memcpy(bytes->data, from.data, from.size);
	return bytes;
}

void ks_bytes_unref(struct ks_bytes *bytes)
{
	/* Release: our reads come before the free. Acquire, in the last one: so do everybody else's. */
	if (bytes && atomic_fetch_sub_explicit(&bytes->refs, 1, memory_order_acq_rel) == 1)
		free(bytes);
}
