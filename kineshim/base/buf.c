/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The growing buffer of buf.h and the protobuf writers on it. Memory doubles, within the maximum. The maximum is
 * checked on every append, not only when memory grows, because out.c lowers it as it shares bytes.
 */
#include "base/buf.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#define FIRST_CAPACITY 256
#define VARINT_MAX_SIZE 10

enum wire_type { WIRE_VARINT = 0, WIRE_BYTES = 2 };

void ks_buf_init(struct ks_buf *buf, size_t max)
{
	*buf = (struct ks_buf){.max = max};
}

void ks_buf_fini(struct ks_buf *buf)
{
	free(buf->data);
	*buf = (struct ks_buf){.max = buf->max};
}

void ks_buf_reset(struct ks_buf *buf)
{
	buf->size = 0;
	buf->failed = false;
}

static bool grow(struct ks_buf *buf, size_t needed)
{
	size_t capacity = buf->capacity ? buf->capacity : FIRST_CAPACITY;
	uint8_t *data;

	while (capacity < needed)
		capacity = capacity > SIZE_MAX / 2 ? needed : capacity * 2;
	if (capacity > buf->max)
		capacity = buf->max;
	data = realloc(buf->data, capacity);
	if (!data)
		return false;
	buf->data = data;
	buf->capacity = capacity;
	return true;
}

bool ks_buf_reserve(struct ks_buf *buf, size_t extra)
{
	if (buf->failed)
		return false;
	if (buf->size <= buf->max && extra <= buf->max - buf->size) {
		if (extra <= buf->capacity - buf->size || grow(buf, buf->size + extra))
			return true;
	}
	buf->failed = true;
	return false;
}

void ks_buf_append(struct ks_buf *buf, const void *data, size_t size)
{
	if (size == 0 || !ks_buf_reserve(buf, size))
		return;
	memcpy(buf->data + buf->size, data, size);
	buf->size += size;
}

void ks_buf_append_slice(struct ks_buf *buf, struct ks_slice slice)
{
	ks_buf_append(buf, slice.data, slice.size);
}

void ks_buf_printf(struct ks_buf *buf, const char *fmt, ...)
{
	char small[256];
	char *large = NULL;
	va_list args;
	int size;

	va_start(args, fmt);
	size = vsnprintf(small, sizeof(small), fmt, args);
	va_end(args);
	if (size >= 0 && (size_t)size < sizeof(small)) {
		ks_buf_append(buf, small, (size_t)size);
		return;
	}
	va_start(args, fmt);
	if (size >= 0)
		size = vasprintf(&large, fmt, args);
	va_end(args);
	if (size < 0) {
		buf->failed = true;
		return;
	}
	ks_buf_append(buf, large, (size_t)size);
	free(large);
}

uint8_t *ks_buf_take(struct ks_buf *buf, size_t *size)
{
	uint8_t *data = buf->data;

	*size = buf->size;
	*buf = (struct ks_buf){.max = buf->max};
	return data;
}

/* Seven bits to a byte, and 1 for 0; 9/64 is a little less than 1/7, and exact for all 64 widths. */
size_t ks_wire_varint_size(uint64_t value)
{
	return ((size_t)(63 - __builtin_clzll(value | 1)) * 9 + 73) / 64;
}

static uint8_t *put_varint(uint8_t *at, uint64_t value)
{
	while (value >= 0x80) {
		*at++ = (uint8_t)(value | 0x80);
		value >>= 7;
	}
	*at++ = (uint8_t)value;
	return at;
}

/* With both checks: the maximum may have been lowered below the capacity. */
static bool has_room(const struct ks_buf *buf, size_t extra)
{
	return !buf->failed && buf->size <= buf->max && extra <= buf->max - buf->size &&
	       extra <= buf->capacity - buf->size;
}

void ks_wire_varint(struct ks_buf *buf, uint64_t value)
{
	uint8_t bytes[VARINT_MAX_SIZE];

	if (has_room(buf, VARINT_MAX_SIZE))
		buf->size = (size_t)(put_varint(buf->data + buf->size, value) - buf->data);
	else
		ks_buf_append(buf, bytes, (size_t)(put_varint(bytes, value) - bytes));
}

static uint64_t tag_of(uint32_t field, enum wire_type type)
{
	return (uint64_t)field << 3 | type;
}

void ks_wire_uint(struct ks_buf *buf, uint32_t field, uint64_t value)
{
	if (value == 0)
		return;
	ks_wire_varint(buf, tag_of(field, WIRE_VARINT));
	ks_wire_varint(buf, value);
}

void ks_wire_bytes(struct ks_buf *buf, uint32_t field, struct ks_slice value)
{
	if (value.size == 0)
		return;
	ks_wire_nested(buf, field, value.size);
	ks_buf_append_slice(buf, value);
}

void ks_wire_nested(struct ks_buf *buf, uint32_t field, size_t size)
{
	ks_wire_varint(buf, tag_of(field, WIRE_BYTES));
	ks_wire_varint(buf, size);
}

size_t ks_wire_uint_size(uint32_t field, uint64_t value)
{
	return value ? ks_wire_varint_size(tag_of(field, WIRE_VARINT)) + ks_wire_varint_size(value) : 0;
}

size_t ks_wire_bytes_size(uint32_t field, size_t size)
{
	return size ? ks_wire_nested_size(field, size) : 0;
}

size_t ks_wire_nested_size(uint32_t field, size_t size)
{
	return ks_wire_varint_size(tag_of(field, WIRE_BYTES)) + ks_wire_varint_size(size) + size;
}
