/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Byte strings: ks_slice borrows, ks_bytes owns and is counted.
 *
 * A slice is valid as long as whoever lent it says so; a const ks_slice argument is borrowed for the call.
 * ks_bytes is immutable after it was filled by its creator, so any thread may read it while it holds a reference.
 */
#ifndef KS_BASE_BYTES_H
#define KS_BASE_BYTES_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

struct ks_slice {
	const uint8_t *data;
	size_t size;
};

struct ks_bytes {
	_Atomic uint32_t refs;
	uint32_t size;
	uint8_t data[];
};

static inline struct ks_slice ks_slice_of(const void *data, size_t size)
{
	return (struct ks_slice){.data = data, .size = size};
}

static inline struct ks_slice ks_slice_str(const char *text)
{
	return (struct ks_slice){.data = (const uint8_t *)text, .size = strlen(text)};
}

/* Unsigned bytewise order, the shorter first when one is a prefix of the other (spec/etcd.md 0.1). */
static inline int ks_slice_cmp(struct ks_slice a, struct ks_slice b)
{
	size_t common = a.size < b.size ? a.size : b.size;
	int order = common ? memcmp(a.data, b.data, common) : 0;

	if (order)
		return order;
	return (a.size > b.size) - (a.size < b.size);
}

static inline bool ks_slice_eq(struct ks_slice a, struct ks_slice b)
{
	return a.size == b.size && (a.size == 0 || memcmp(a.data, b.data, a.size) == 0);
}

/*
 * New bytes of 'size' (at most UINT32_MAX) with one reference; contents undefined until the creator fills data[].
 * Returns NULL when memory is short, so that callers whose size comes from outside can refuse.
 */
struct ks_bytes *ks_bytes_new(size_t size);
struct ks_bytes *ks_bytes_copy(struct ks_slice from);

static inline struct ks_bytes *ks_bytes_ref(struct ks_bytes *bytes)
{
	if (bytes)
		atomic_fetch_add_explicit(&bytes->refs, 1, memory_order_relaxed);
	return bytes;
}

/* Gives a reference back; the last one frees. NULL is fine. */
void ks_bytes_unref(struct ks_bytes *bytes);

static inline struct ks_slice ks_bytes_slice(const struct ks_bytes *bytes)
{
	return bytes ? ks_slice_of(bytes->data, bytes->size) : ks_slice_of(NULL, 0);
}

#endif
