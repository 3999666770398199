/* SPDX-License-Identifier: Apache-2.0 */
/* What is true of every image, and writing one. */
#include "snapshot/format_priv.h"

#include <openssl/evp.h>
#include <stdlib.h>
#include <zstd.h>

#define LEVEL 1 /* configurations become no smaller with 3, which takes four times as long */
#define STAGING 65536

const char *dpa_numbers_wrong(const struct dpa_format_head *head)
{
	if (head->revision < 0 || head->up_revision < 0)
		return "a revision is negative";
	if (head->confirmed_ms < 0 || head->saved_ms < 0)
		return "a time is before 1970";
	if (head->prefix_size > DPA_FORMAT_MAX_PREFIX)
		return "the prefix is too long";
	if (head->key_count > DPA_FORMAT_MAX_KEYS)
		return "there are too many keys";
	return NULL;
}

static const char *upstream_wrong(const struct dpa_key_check *check, const struct dpa_image_key *key)
{
	if (key->up_create == 0 && key->up_mod == 0 && key->up_version == 0)
		return key->raw || key->hidden ? "a value upstream without its numbers" : NULL;
	if (key->up_create < 1 || key->up_create > key->up_mod || key->up_mod > check->up_revision)
		return "revisions upstream that contradict each other";
	return key->up_version < 1 ? "a version upstream below 1" : NULL;
}

const char *dpa_key_wrong(struct dpa_key_check *check, const struct dpa_image_key *key, const struct ks_kv *kv)
{
	struct ks_slice name = kv ? kv->key : ks_bytes_slice(key->hidden);
	const char *wrong;

	if ((key->kv == NULL) == (key->hidden == NULL) || name.size == 0)
		return "a key without a name";
	if (name.size < check->prefix.size ||
	    (check->prefix.size && memcmp(name.data, check->prefix.data, check->prefix.size) != 0))
		return "a key outside of the prefix";
	if (check->last.size && ks_slice_cmp(check->last, name) >= 0)
		return "keys that do not ascend";
	if (kv &&
	    (kv->create_revision < 1 || kv->create_revision > kv->mod_revision || kv->mod_revision > check->revision))
		return "revisions that contradict each other";
	if (kv && kv->version < 1)
		return "a version below 1";
	if (kv && kv->lease)
		return "a lease";
	wrong = upstream_wrong(check, key);
	if (!wrong)
		check->last = name;
	return wrong;
}

enum ks_status dpa_digest(const void *data, size_t size, uint8_t digest[DPA_FORMAT_DIGEST], struct ks_err *err)
{
	if (EVP_Digest(data, size, digest, NULL, EVP_sha256(), NULL) != 1)
		return ks_fail(err, KS_RESOURCE_EXHAUSTED, "cannot compute a SHA-256");
	return KS_OK;
}

/* A buffer does not tell the two apart. */
static enum ks_status no_room(struct ks_err *err)
{
	return ks_fail(err, KS_RESOURCE_EXHAUSTED, "out of memory, or the image is larger than it may be");
}

/* ---- the body ---- */

struct sink {
	struct ks_buf *out;
	ZSTD_CCtx *zstd; /* NULL: stored */
	uint64_t size;   /* of the body */
	bool broken;     /* zstd's fault: memory */
	size_t staged;
	uint8_t staging[STAGING];
};

/* What zstd says as errors is a lack of memory: the parameters are ours. */
static void compress(struct sink *sink, const void *data, size_t size, ZSTD_EndDirective how)
{
	ZSTD_inBuffer in = {.src = data, .size = size};
	size_t left;

	do {
		size_t room = sink->out->max - sink->out->size;
		ZSTD_outBuffer to = {.size = room < ZSTD_CStreamOutSize() ? room : ZSTD_CStreamOutSize()};

		if (sink->broken || room == 0 || !ks_buf_reserve(sink->out, to.size)) {
			sink->out->failed = true;
			return;
		}
		to.dst = sink->out->data + sink->out->size;
		left = ZSTD_compressStream2(sink->zstd, &to, &in, how);
		sink->broken = ZSTD_isError(left) != 0;
		sink->out->size += to.pos;
	} while (how == ZSTD_e_continue ? in.pos < in.size : left > 0);
}

static void flush(struct sink *sink, ZSTD_EndDirective how)
{
	if (sink->zstd)
		compress(sink, sink->staging, sink->staged, how);
	else
		ks_buf_append(sink->out, sink->staging, sink->staged);
	sink->staged = 0;
}

static void put(struct sink *sink, const void *data, size_t size)
{
	sink->size += size;
	if (size > STAGING - sink->staged)
		flush(sink, ZSTD_e_continue);
	if (size > STAGING) {
		if (sink->zstd)
			compress(sink, data, size, ZSTD_e_continue);
		else
			ks_buf_append(sink->out, data, size);
		return;
	}
	if (size)
		memcpy(sink->staging + sink->staged, data, size);
	sink->staged += size;
}

static void put_varint(struct sink *sink, uint64_t value)
{
	uint8_t bytes[10];
	size_t size = 0;

	for (; value >= 0x80; value >>= 7)
		bytes[size++] = (uint8_t)(value | 0x80);
	bytes[size++] = (uint8_t)value;
	put(sink, bytes, size);
}

static void put_bytes(struct sink *sink, const struct ks_bytes *bytes)
{
	put_varint(sink, bytes->size);
	put(sink, bytes->data, bytes->size);
}

static void put_key(struct sink *sink, const struct dpa_image_key *key, const struct ks_kv *kv)
{
	bool same = kv && key->up_create == kv->create_revision && key->up_mod == kv->mod_revision &&
		    key->up_version == kv->version;
	uint8_t tag = (uint8_t)((kv ? 0 : DPA_TAG_HIDDEN) | (key->raw ? DPA_TAG_RAW : 0) |
				(same          ? DPA_TAG_SAME
				 : key->up_mod ? DPA_TAG_OWN
					       : 0));

	put(sink, &tag, 1);
	put_bytes(sink, kv ? key->kv : key->hidden);
	if (key->raw)
		put_bytes(sink, key->raw);
	if (tag & DPA_TAG_OWN) {
		put_varint(sink, (uint64_t)key->up_create);
		put_varint(sink, (uint64_t)key->up_mod);
		put_varint(sink, (uint64_t)key->up_version);
	}
}

static enum ks_status put_keys(struct sink *sink, const struct dpa_image *image, struct ks_err *err)
{
	struct dpa_key_check check = {
		.prefix = ks_bytes_slice(image->prefix),
		.revision = image->revision,
		.up_revision = image->up_revision,
	};

	for (size_t i = 0; i < image->key_count; i++) {
		const struct dpa_image_key *key = &image->keys[i];
		struct ks_kv kv;
		const char *wrong = "a key that is no KeyValue";

		if (!key->kv || ks_kv_decode(ks_bytes_slice(key->kv), &kv))
			wrong = dpa_key_wrong(&check, key, key->kv ? &kv : NULL);
		if (wrong)
			return ks_fail(err, KS_INVALID_ARGUMENT, "the image has %s (key %zu of %zu)", wrong, i + 1,
				       image->key_count);
		put_key(sink, key, key->kv ? &kv : NULL);
		if (sink->out->failed || sink->size > DPA_FORMAT_MAX)
			break;
	}
	flush(sink, ZSTD_e_end);
	if (sink->broken)
		return ks_fail(err, KS_RESOURCE_EXHAUSTED, "out of memory");
	if (sink->out->failed || sink->size > DPA_FORMAT_MAX)
		return no_room(err);
	return KS_OK;
}

static enum ks_status put_body(const struct dpa_image *image, bool stored, struct ks_buf *out, uint64_t *size,
			       struct ks_err *err)
{
	struct sink *sink = calloc(1, sizeof(*sink));
	enum ks_status status;

	if (sink && !stored)
		sink->zstd = ZSTD_createCCtx();
	if (!sink || (!stored && (!sink->zstd ||
				  ZSTD_isError(ZSTD_CCtx_setParameter(sink->zstd, ZSTD_c_compressionLevel, LEVEL))))) {
		if (sink)
			(void)ZSTD_freeCCtx(sink->zstd);
		free(sink);
		return ks_fail(err, KS_RESOURCE_EXHAUSTED, "out of memory");
	}
	sink->out = out;
	status = put_keys(sink, image, err);
	*size = sink->size;
	(void)ZSTD_freeCCtx(sink->zstd);
	free(sink);
	return status;
}

/* ---- the whole ---- */

static void put_head(uint8_t *at, const struct dpa_format_head *head)
{
	memcpy(at, DPA_MAGIC, DPA_MAGIC_SIZE);
	dpa_put_number(at + 16, 8, head->cluster_id);
	dpa_put_number(at + 24, 8, (uint64_t)head->up_revision);
	dpa_put_number(at + 32, 8, (uint64_t)head->revision);
	dpa_put_number(at + 40, 8, (uint64_t)head->confirmed_ms);
	dpa_put_number(at + 48, 8, (uint64_t)head->saved_ms);
	dpa_put_number(at + 56, 4,
		       (head->final ? DPA_FLAG_FINAL : 0) | (head->is_signed ? DPA_FLAG_SIGNED : 0) |
			       (head->stored ? DPA_FLAG_STORED : 0));
	dpa_put_number(at + 60, 4, head->prefix_size);
	dpa_put_number(at + 64, 8, head->key_count);
	dpa_put_number(at + 72, 8, head->body_size);
	dpa_put_number(at + 80, 8, head->packed_size);
	memcpy(at + 88, head->key_id, DPA_KEY_ID);
}

static enum ks_status put_trailer(size_t start, const struct dpa_signer *signer, struct ks_buf *out, struct ks_err *err)
{
	uint8_t digest[DPA_FORMAT_DIGEST], signature[DPA_SIGNATURE];
	enum ks_status status = KS_OK;

	if (signer) {
		status = dpa_digest(out->data + start, out->size - start, digest, err);
		if (status == KS_OK)
			status = dpa_sign(signer, digest, signature, err);
		if (status != KS_OK)
			return status;
		ks_buf_append(out, signature, sizeof(signature));
	}
	if (!out->failed)
		status = dpa_digest(out->data + start, out->size - start, digest, err);
	if (status == KS_OK)
		ks_buf_append(out, digest, sizeof(digest));
	if (status == KS_OK && (out->failed || out->size - start > DPA_FORMAT_MAX))
		return no_room(err);
	return status;
}

enum ks_status dpa_format_write(const struct dpa_image *image, const struct dpa_signer *signer, int64_t saved_ms,
				struct ks_buf *out, struct ks_err *err)
{
	static const uint8_t blank[DPA_FORMAT_HEAD];
	struct ks_slice prefix = ks_bytes_slice(image->prefix);
	struct dpa_format_head head = {
		.cluster_id = image->cluster_id,
		.up_revision = image->up_revision,
		.revision = image->revision,
		.confirmed_ms = image->confirmed_ms,
		.saved_ms = saved_ms,
		.key_count = image->key_count,
		.prefix_size = (uint32_t)prefix.size,
		.final = image->final,
		.is_signed = signer != NULL,
	};
	const char *wrong = dpa_numbers_wrong(&head);
	size_t start = out->size, body = start + DPA_FORMAT_HEAD + prefix.size;
	enum ks_status status;

	if (wrong)
		return ks_fail(err, KS_INVALID_ARGUMENT, "the image cannot be written: %s", wrong);
	ks_buf_append(out, blank, sizeof(blank));
	ks_buf_append_slice(out, prefix);
	if (out->failed)
		return no_room(err);
	status = put_body(image, false, out, &head.body_size, err);
	if (status == KS_OK && !dpa_ratio_is_sane(head.body_size, out->size - body)) {
		out->size = body;
		head.stored = true;
		status = put_body(image, true, out, &head.body_size, err);
	}
	if (status != KS_OK)
		return status;
	head.packed_size = out->size - body;
	if (signer)
		dpa_signer_id(signer, head.key_id);
	put_head(out->data + start, &head);
	return put_trailer(start, signer, out, err);
}
