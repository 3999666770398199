/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The decoder of stored key-values against protobuf-c: what both take, both read alike (protobuf-c refuses tags with needless
 * zero bytes, as no encoder writes them); and what was decoded encodes to something that decodes to the same.
 */
#include <stdint.h>

#include "base/panic.h"
#include "proto/kv.pb-c.h"
#include "store/store.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static bool same(const struct ks_kv *a, const struct ks_kv *b)
{
	return ks_slice_eq(a->key, b->key) && ks_slice_eq(a->value, b->value) &&
	       a->create_revision == b->create_revision && a->mod_revision == b->mod_revision &&
	       a->version == b->version && a->lease == b->lease;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct ks_kv kv, again, reference;
	struct ks_bytes *encoded;
	Mvccpb__KeyValue *message;

	if (!ks_kv_decode(ks_slice_of(data, size), &kv))
		return 0;
	message = mvccpb__key_value__unpack(NULL, size, data);
	if (message) {
		reference = (struct ks_kv){
			.key = ks_slice_of(message->key.data, message->key.len),
			.value = ks_slice_of(message->value.data, message->value.len),
			.create_revision = message->create_revision,
			.mod_revision = message->mod_revision,
			.version = message->version,
			.lease = message->lease,
		};
		KS_ASSERT(same(&kv, &reference));
		mvccpb__key_value__free_unpacked(message, NULL);
	}

	encoded = ks_kv_encode(&kv);
	KS_ASSERT(encoded);
	KS_ASSERT(ks_kv_decode(ks_bytes_slice(encoded), &again));
	KS_ASSERT(same(&kv, &again));
	ks_bytes_unref(encoded);
	return 0;
}
