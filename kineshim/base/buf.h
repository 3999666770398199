/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A growing byte buffer with a maximum given at init, and the few protobuf wire writers that hot paths use.
 *
 * Owner: the buffer owns its memory until ks_buf_fini or ks_buf_take. One thread at a time.
 * Errors are sticky: after a failed append (maximum reached or no memory) 'failed' is true, the contents
 * are to be thrown away, and every later append does nothing. So a chain of appends is checked once, at its end.
 */
#ifndef KS_BASE_BUF_H
#define KS_BASE_BUF_H

#include <stdbool.h>

#include "base/bytes.h"

struct ks_buf {
	uint8_t *data;
	size_t size;
	size_t capacity;
	size_t max;
	bool failed;
};

void ks_buf_init(struct ks_buf *buf, size_t max);
void ks_buf_fini(struct ks_buf *buf);
void ks_buf_reset(struct ks_buf *buf); /* size 0, not failed, memory kept */
/* Makes room for 'extra' bytes; false (and sticky failure) when that is impossible. */
bool ks_buf_reserve(struct ks_buf *buf, size_t extra);
void ks_buf_append(struct ks_buf *buf, const void *data, size_t size);
void ks_buf_append_slice(struct ks_buf *buf, struct ks_slice slice);
void ks_buf_printf(struct ks_buf *buf, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* Moves the malloc-ed memory out (the caller frees it) and leaves an empty buffer. */
uint8_t *ks_buf_take(struct ks_buf *buf, size_t *size);

/* Protobuf wire format: fields are written as proto3 does, that is, zero and empty ones are left out. */
size_t ks_wire_varint_size(uint64_t value);
void ks_wire_varint(struct ks_buf *buf, uint64_t value);
void ks_wire_uint(struct ks_buf *buf, uint32_t field, uint64_t value); /* also int64, bool, enum */
void ks_wire_bytes(struct ks_buf *buf, uint32_t field, struct ks_slice value);
/* Tag and length of a nested message whose 'size' bytes the caller appends next; written even for size 0. */
void ks_wire_nested(struct ks_buf *buf, uint32_t field, size_t size);
size_t ks_wire_uint_size(uint32_t field, uint64_t value);
size_t ks_wire_bytes_size(uint32_t field, size_t size);  /* 0 for an empty value */
size_t ks_wire_nested_size(uint32_t field, size_t size); /* tag + length + size */

#endif
