/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Reading protobuf's wire format by hand: a few fields of small messages, from bytes that nobody vouches for. Slices that come out
 * point into what went in. False: malformed. No state; any thread.
 */
#ifndef KS_STORE_WIRE_H
#define KS_STORE_WIRE_H

#include "base/bytes.h"

#define KS_WIRE_VARINT 0u
#define KS_WIRE_FIXED64 1u
#define KS_WIRE_BYTES 2u
#define KS_WIRE_FIXED32 5u

static inline bool ks_wire_get_varint(struct ks_slice *in, uint64_t *value)
{
	*value = 0;
	for (unsigned shift = 0; shift < 64 && in->size; shift += 7) {
		uint8_t byte = *in->data++;

		in->size--;
		*value |= (uint64_t)(byte & 0x7f) << shift;
		if (!(byte & 0x80))
			return shift < 63 || byte <= 1;
	}
	return false;
}

static inline bool ks_wire_get_bytes(struct ks_slice *in, struct ks_slice *value)
{
	uint64_t size;

	if (!ks_wire_get_varint(in, &size) || size > in->size)
		return false;
	*value = ks_slice_of(in->data, (size_t)size);
	in->data += size;
	in->size -= (size_t)size;
	return true;
}

static inline bool ks_wire_get_tag(struct ks_slice *in, unsigned *field, unsigned *wire)
{
	uint64_t tag;

	if (!ks_wire_get_varint(in, &tag) || tag >> 3 == 0 || tag > UINT32_MAX)
		return false;
	*wire = (unsigned)(tag & 7);
	*field = (unsigned)(tag >> 3);
	return true;
}

static inline bool ks_wire_skip(struct ks_slice *in, unsigned wire)
{
	struct ks_slice bytes;
	uint64_t value;
	size_t size = wire == KS_WIRE_FIXED64 ? 8 : 4;

	if (wire == KS_WIRE_VARINT)
		return ks_wire_get_varint(in, &value);
	if (wire == KS_WIRE_BYTES)
		return ks_wire_get_bytes(in, &bytes);
	if ((wire != KS_WIRE_FIXED64 && wire != KS_WIRE_FIXED32) || in->size < size)
		return false;
	in->data += size;
	in->size -= size;
	return true;
}

#endif
