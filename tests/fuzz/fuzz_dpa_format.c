/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Images that somebody made. A checksum is no obstacle to an attacker, nor is the arithmetic of the head, so both are mended before the
 * image is read, unless the first byte is odd: it is not part of the image. Promises beside memory safety: what is read is an image
 * that can be written, and what is written reads the same.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/panic.h"
#include "snapshot/format_priv.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* The magic, the sizes and the digest as they have to be. */
static void mend(uint8_t *image, size_t size)
{
	uint64_t prefix, packed, tail = DPA_FORMAT_DIGEST;
	struct ks_err err;

	if (size < DPA_FORMAT_HEAD + DPA_FORMAT_DIGEST + DPA_SIGNATURE)
		return;
	memcpy(image, DPA_MAGIC, DPA_MAGIC_SIZE);
	image[59] &= 7;
	memset(image + 56, 0, 3);
	if (image[59] & DPA_FLAG_SIGNED)
		tail += DPA_SIGNATURE;
	else
		memset(image + 88, 0, DPA_KEY_ID);
	prefix = dpa_get_number(image + 60, 4) % (size - DPA_FORMAT_HEAD - tail + 1) % (DPA_FORMAT_MAX_PREFIX + 1);
	packed = size - DPA_FORMAT_HEAD - tail - prefix;
	dpa_put_number(image + 60, 4, prefix);
	dpa_put_number(image + 80, 8, packed);
	if (image[59] & DPA_FLAG_STORED)
		dpa_put_number(image + 72, 8, packed);
	KS_ASSERT(dpa_digest(image, size - DPA_FORMAT_DIGEST, image + size - DPA_FORMAT_DIGEST, &err) == KS_OK);
}

static bool same_bytes(const struct ks_bytes *a, const struct ks_bytes *b)
{
	return (a == NULL) == (b == NULL) && ks_slice_eq(ks_bytes_slice(a), ks_bytes_slice(b));
}

static void check_image(const struct dpa_image *image)
{
	struct dpa_image back = {0};
	struct ks_buf out;
	struct ks_err err;

	ks_buf_init(&out, DPA_FORMAT_MAX);
	KS_ASSERT(dpa_format_write(image, NULL, image->saved_ms, &out, &err) == KS_OK);
	KS_ASSERT(dpa_format_read(ks_slice_of(out.data, out.size), NULL, &back, &err) == KS_OK);
	KS_ASSERT(back.key_count == image->key_count && same_bytes(back.prefix, image->prefix));
	KS_ASSERT(back.revision == image->revision && back.up_revision == image->up_revision);
	for (size_t i = 0; i < back.key_count; i++) {
		KS_ASSERT(same_bytes(back.keys[i].kv, image->keys[i].kv));
		KS_ASSERT(same_bytes(back.keys[i].hidden, image->keys[i].hidden));
		KS_ASSERT(same_bytes(back.keys[i].raw, image->keys[i].raw));
		KS_ASSERT(back.keys[i].up_mod == image->keys[i].up_mod);
	}
	dpa_image_fini(&back);
	ks_buf_fini(&out);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct dpa_image image = {0};
	struct ks_err err = {0};
	uint8_t *copy;

	if (size == 0)
		return 0;
	copy = malloc(size);
	KS_ASSERT(copy);
	memcpy(copy, data + 1, size - 1);
	if (data[0] % 2 == 0)
		mend(copy, size - 1);
	if (dpa_format_read(ks_slice_of(copy, size - 1), NULL, &image, &err) == KS_OK)
		check_image(&image);
	else
		KS_ASSERT(*err.text && !image.keys && !image.prefix);
	dpa_image_fini(&image);
	free(copy);
	return 0;
}
