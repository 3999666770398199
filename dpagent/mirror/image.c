/* SPDX-License-Identifier: Apache-2.0 */
#include "mirror/image.h"

#include <stdlib.h>

#include "store/store.h"

void dpa_image_fini(struct dpa_image *image)
{
	for (size_t i = 0; i < image->key_count; i++) {
		ks_bytes_unref(image->keys[i].kv);
		ks_bytes_unref(image->keys[i].hidden);
		ks_bytes_unref(image->keys[i].raw);
	}
	free(image->keys);
	ks_bytes_unref(image->prefix);
	*image = (struct dpa_image){0};
}

bool dpa_image_key_name(const struct dpa_image_key *key, struct ks_slice *name)
{
	struct ks_kv kv;

	if (!key->kv) {
		*name = ks_bytes_slice(key->hidden);
		return name->size > 0;
	}
	if (!ks_kv_decode(ks_bytes_slice(key->kv), &kv) || kv.key.size == 0)
		return false;
	*name = kv.key;
	return true;
}

/* NULL without memory. */
static struct ks_bytes *plain_kv(const struct dpa_image_key *key, struct ks_slice name)
{
	struct ks_kv kv = {0};

	if (key->kv && !ks_kv_decode(ks_bytes_slice(key->kv), &kv))
		return NULL;
	kv.key = name;
	if (key->raw)
		kv.value = ks_bytes_slice(key->raw);
	kv.create_revision = key->up_create;
	kv.mod_revision = key->up_mod;
	kv.version = key->up_version;
	kv.lease = 0;
	return ks_kv_encode(&kv);
}

enum ks_status dpa_image_plain(const struct dpa_image *image, struct dpa_image *plain, struct ks_err *err)
{
	*plain = (struct dpa_image){
		.cluster_id = image->cluster_id,
		.up_revision = image->up_revision,
		.revision = image->up_revision,
		.confirmed_ms = image->confirmed_ms,
		.final = image->final,
		.prefix = ks_bytes_ref(image->prefix),
		.keys = calloc(image->key_count ? image->key_count : 1, sizeof(*plain->keys)),
	};
	for (size_t i = 0; plain->keys && i < image->key_count; i++) {
		const struct dpa_image_key *key = &image->keys[i];
		struct dpa_image_key *copy = &plain->keys[plain->key_count];
		struct ks_slice name;

		if (key->up_mod == 0)
			continue;
		*copy = (struct dpa_image_key){
			.kv = dpa_image_key_name(key, &name) ? plain_kv(key, name) : NULL,
			.up_create = key->up_create,
			.up_mod = key->up_mod,
			.up_version = key->up_version,
		};
		plain->key_count++;
		if (!copy->kv) {
			dpa_image_fini(plain);
			return ks_fail(err, KS_RESOURCE_EXHAUSTED, "out of memory");
		}
	}
	if (plain->keys)
		return KS_OK;
	dpa_image_fini(plain);
	return ks_fail(err, KS_RESOURCE_EXHAUSTED, "out of memory");
}
