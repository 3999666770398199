/* SPDX-License-Identifier: Apache-2.0 */
/*
 * mvccpb.KeyValue by hand: this encoding is what the store keeps and what goes to clients as it is, and it is written once
 * for each record, so it is worth its own few lines. Fields: 1 key, 2 create_revision, 3 mod_revision, 4 version, 5 value,
 * 6 lease; ascending, zero ones left out.
 */
#include "store/store.h"
#include "store/wire.h"

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
	*out++ = (uint8_t)(field << 3 | KS_WIRE_VARINT);
	return put_varint(out, (uint64_t)value);
}

static uint8_t *put_bytes(uint8_t *out, unsigned field, struct ks_slice value)
{
	if (!value.size)
		return out;
	*out++ = (uint8_t)(field << 3 | KS_WIRE_BYTES);
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

bool ks_kv_decode(struct ks_slice encoded, struct ks_kv *kv)
{
	*kv = (struct ks_kv){0};
	while (encoded.size) {
		struct ks_slice bytes = {0};
		unsigned wire, field;
		uint64_t value = 0;

		if (!ks_wire_get_tag(&encoded, &field, &wire))
			return false;
		if (field > 6) {
			if (!ks_wire_skip(&encoded, wire))
				return false;
			continue;
		}
		if (wire != (field == 1 || field == 5 ? KS_WIRE_BYTES : KS_WIRE_VARINT))
			return false;
		if (wire == KS_WIRE_BYTES ? !ks_wire_get_bytes(&encoded, &bytes)
					  : !ks_wire_get_varint(&encoded, &value))
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
