/* SPDX-License-Identifier: Apache-2.0 */
/*
 * mvccpb.KeyValue by hand: this encoding is what the store keeps and what goes to clients as it is, and it is written once
 * for each record, so it is worth its own few lines. Fields: 1 key, 2 create_revision, 3 mod_revision, 4 version, 5 value,
 * 6 lease; ascending, zero ones left out.
 */
#include "store/store.h"

#define WIRE_VARINT 0u
#define WIRE_FIXED64 1u
#define WIRE_BYTES 2u
#define WIRE_FIXED32 5u

static size_t varint_size(uint64_t value)
{
	unsigned bits = 64 - (unsigned)__builtin_clzll(value | 1);

	return (bits + 6) / 7;
}

static uint8_t *put_varint(uint8_t *out, uint64_t value)
{
	while (value >= 0x80) {
		*out++ = (uint8_t)(value | 0x80);
		value >>= 7;
	}
	*out++ = (uint8_t)value;
	return out;
}

static size_t number_size(int64_t value)
{
	return value ? 1 + varint_size((uint64_t)value) : 0;
}

static size_t bytes_size(size_t size)
{
	return size ? 1 + varint_size(size) + size : 0;
}

static uint8_t *put_number(uint8_t *out, unsigned field, int64_t value)
{
	if (!value)
		return out;
	*out++ = (uint8_t)(field << 3 | WIRE_VARINT);
	return put_varint(out, (uint64_t)value);
}

static uint8_t *put_bytes(uint8_t *out, unsigned field, struct ks_slice value)
{
	if (!value.size)
		return out;
	*out++ = (uint8_t)(field << 3 | WIRE_BYTES);
	out = put_varint(out, value.size);
	memcpy(out, value.data, value.size);
	return out + value.size;
}

struct ks_bytes *ks_kv_encode(const struct ks_kv *kv)
{
	struct ks_bytes *bytes;
	uint8_t *out;

	if (kv->key.size > UINT32_MAX / 4 || kv->value.size > UINT32_MAX / 4)
		return NULL;
	bytes = ks_bytes_new(bytes_size(kv->key.size) + number_size(kv->create_revision) +
			     number_size(kv->mod_revision) + number_size(kv->version) + bytes_size(kv->value.size) +
			     number_size(kv->lease));
	if (!bytes)
		return NULL;
	out = put_bytes(bytes->data, 1, kv->key);
	out = put_number(out, 2, kv->create_revision);
	out = put_number(out, 3, kv->mod_revision);
	out = put_number(out, 4, kv->version);
	out = put_bytes(out, 5, kv->value);
	put_number(out, 6, kv->lease);
	return bytes;
}

static bool get_varint(struct ks_slice *in, uint64_t *value)
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

static bool get_bytes(struct ks_slice *in, struct ks_slice *value)
{
	uint64_t size;

	if (!get_varint(in, &size) || size > in->size)
		return false;
	*value = ks_slice_of(in->data, (size_t)size);
	in->data += size;
	in->size -= (size_t)size;
	return true;
}

static bool skip(struct ks_slice *in, unsigned wire)
{
	struct ks_slice bytes;
	uint64_t value;
	size_t size = wire == WIRE_FIXED64 ? 8 : 4;

	if (wire == WIRE_VARINT)
		return get_varint(in, &value);
	if (wire == WIRE_BYTES)
		return get_bytes(in, &bytes);
	if ((wire != WIRE_FIXED64 && wire != WIRE_FIXED32) || in->size < size)
		return false;
	in->data += size;
	in->size -= size;
	return true;
}

bool ks_kv_decode(struct ks_slice encoded, struct ks_kv *kv)
{
	*kv = (struct ks_kv){0};
	while (encoded.size) {
		struct ks_slice bytes = {0};
		uint64_t tag, value = 0;
		unsigned wire, field;

		if (!get_varint(&encoded, &tag) || tag >> 3 == 0 || tag > UINT32_MAX)
			return false;
		wire = (unsigned)(tag & 7);
		field = (unsigned)(tag >> 3);
		if (field > 6) {
			if (!skip(&encoded, wire))
				return false;
			continue;
		}
		if (wire != (field == 1 || field == 5 ? WIRE_BYTES : WIRE_VARINT))
			return false;
		if (wire == WIRE_BYTES ? !get_bytes(&encoded, &bytes) : !get_varint(&encoded, &value))
			return false;
		if (field == 1)
			kv->key = bytes;
		else if (field == 2)
			kv->create_revision = (int64_t)value;
		else if (field == 3)
			kv->mod_revision = (int64_t)value;
		else if (field == 4)
			kv->version = (int64_t)value;
		else if (field == 5)
			kv->value = bytes;
		else
			kv->lease = (int64_t)value;
	}
	return true;
}
