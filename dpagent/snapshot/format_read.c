/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Reading an image: sizes, then the checksum, then the signature, then the body, decompressed a window at a time and never beyond
 * what the head declares.
 */
#include "snapshot/format_priv.h"

#include <stdlib.h>
#include <zstd.h>

#include "store/wire.h"

#define WINDOW ((size_t)256 << 10)
#define WINDOW_LOG_MAX 23 /* of zstd: 8 MiB; writing uses less */
#define FIRST_KEYS 1024
#define VARINT_MAX 10

/* ---- the head ---- */

static enum ks_status other_magic(struct ks_slice bytes, struct ks_err *err)
{
	size_t same = sizeof("dpagent-image ") - 1;

	if (bytes.size > same && memcmp(bytes.data, DPA_MAGIC, same) == 0)
		return ks_fail(err, KS_DATA_LOSS, "an image in a format that this version does not know");
	return ks_fail(err, KS_DATA_LOSS, "not an image of dpagent");
}

static enum ks_status check_head(const struct dpa_format_head *head, uint64_t size, struct ks_err *err)
{
	const char *wrong = dpa_numbers_wrong(head);
	uint64_t wanted;

	if (wrong)
		return ks_fail(err, KS_DATA_LOSS, "%s", wrong);
	if (head->packed_size > DPA_FORMAT_MAX || head->body_size > DPA_FORMAT_MAX || size > DPA_FORMAT_MAX)
		return ks_fail(err, KS_DATA_LOSS, "larger than %zu bytes", DPA_FORMAT_MAX);
	wanted = DPA_FORMAT_HEAD + head->prefix_size + head->packed_size + DPA_FORMAT_DIGEST +
		 (head->is_signed ? DPA_SIGNATURE : 0);
	if (size != wanted)
		return ks_fail(err, KS_DATA_LOSS, "%s: %llu bytes where %llu should be",
			       size < wanted ? "cut off" : "too long", (unsigned long long)size,
			       (unsigned long long)wanted);
	if (head->key_count > head->body_size / DPA_LEAST_RECORD)
		return ks_fail(err, KS_DATA_LOSS, "more keys than its bytes can hold");
	if (head->stored ? head->body_size != head->packed_size
			 : !dpa_ratio_is_sane(head->body_size, head->packed_size))
		return ks_fail(err, KS_DATA_LOSS, "the size of its contents is not credible");
	return KS_OK;
}

enum ks_status dpa_format_head(struct ks_slice bytes, uint64_t size, struct dpa_format_head *head, struct ks_err *err)
{
	static const uint8_t no_id[DPA_KEY_ID];
	const uint8_t *at = bytes.data;
	uint64_t flags;

	*head = (struct dpa_format_head){0};
	if (bytes.size < DPA_MAGIC_SIZE || memcmp(at, DPA_MAGIC, DPA_MAGIC_SIZE) != 0)
		return other_magic(bytes, err);
	if (bytes.size < DPA_FORMAT_HEAD)
		return ks_fail(err, KS_DATA_LOSS, "cut off: %zu bytes", bytes.size);
	head->cluster_id = dpa_get_number(at + 16, 8);
	head->up_revision = (int64_t)dpa_get_number(at + 24, 8);
	head->revision = (int64_t)dpa_get_number(at + 32, 8);
	head->confirmed_ms = (int64_t)dpa_get_number(at + 40, 8);
	head->saved_ms = (int64_t)dpa_get_number(at + 48, 8);
	flags = dpa_get_number(at + 56, 4);
	head->final = flags & DPA_FLAG_FINAL;
	head->is_signed = flags & DPA_FLAG_SIGNED;
	head->stored = flags & DPA_FLAG_STORED;
	head->prefix_size = (uint32_t)dpa_get_number(at + 60, 4);
	head->key_count = dpa_get_number(at + 64, 8);
	head->body_size = dpa_get_number(at + 72, 8);
	head->packed_size = dpa_get_number(at + 80, 8);
	memcpy(head->key_id, at + 88, DPA_KEY_ID);
	if (flags & ~(uint64_t)(DPA_FLAG_FINAL | DPA_FLAG_SIGNED | DPA_FLAG_STORED))
		return ks_fail(err, KS_DATA_LOSS, "it has flags that this version does not know");
	if (!head->is_signed && memcmp(head->key_id, no_id, DPA_KEY_ID) != 0)
		return ks_fail(err, KS_DATA_LOSS, "it names a key but is not signed");
	return check_head(head, size, err);
}

/* ---- the trailer ---- */

static enum ks_status check_digest(struct ks_slice bytes, struct ks_err *err)
{
	size_t size = bytes.size - DPA_FORMAT_DIGEST;
	uint8_t digest[DPA_FORMAT_DIGEST];
	enum ks_status status = dpa_digest(bytes.data, size, digest, err);

	if (status == KS_OK && memcmp(digest, bytes.data + size, DPA_FORMAT_DIGEST) != 0)
		return ks_fail(err, KS_DATA_LOSS, "damaged: its checksum is another one");
	return status;
}

static enum ks_status check_signature(struct ks_slice bytes, const struct dpa_format_head *head,
				      const struct dpa_verifier *verifier, struct ks_err *err)
{
	size_t size = bytes.size - DPA_FORMAT_DIGEST - DPA_SIGNATURE;
	uint8_t digest[DPA_FORMAT_DIGEST];
	enum ks_status status;

	if (!head->is_signed)
		return ks_fail(err, KS_PERMISSION_DENIED, "not signed, and a signature is required");
	status = dpa_digest(bytes.data, size, digest, err);
	if (status != KS_OK)
		return status;
	return dpa_signature_check(verifier, head->key_id, digest, bytes.data + size, err);
}

/* ---- the body ---- */

struct body {
	const uint8_t *at; /* what can be read now; in 'window' unless it is stored */
	size_t have;
	uint64_t left; /* declared, and not decompressed yet */
	ZSTD_DCtx *zstd;
	ZSTD_inBuffer in;
	bool ended; /* zstd's frame */
	uint8_t *window;
	size_t room;
	enum ks_status status;
	struct ks_err *err;
};

static bool spoil(struct body *body, enum ks_status status, const char *what)
{
	if (body->status == KS_OK)
		body->status = ks_fail(body->err, status, "%s", what);
	return false;
}

/* The unread bytes go to the window's begin, and there is room for 'size'. */
static bool make_room(struct body *body, size_t size)
{
	if (body->have)
		memmove(body->window, body->at, body->have);
	if (size > body->room) {
		uint8_t *larger = realloc(body->window, size);

		if (!larger)
			return spoil(body, KS_RESOURCE_EXHAUSTED, "out of memory");
		body->window = larger;
		body->room = size;
	}
	body->at = body->window;
	return true;
}

static bool decompress(struct body *body)
{
	size_t room = body->room - body->have, before = body->in.pos, result;
	ZSTD_outBuffer out = {.dst = body->window + body->have, .size = room < body->left ? room : body->left};

	result = ZSTD_decompressStream(body->zstd, &out, &body->in);
	if (ZSTD_isError(result))
		return spoil(body, KS_DATA_LOSS, "its contents cannot be decompressed");
	body->have += out.pos;
	body->left -= out.pos;
	body->ended = result == 0;
	if (body->left && (body->ended || (out.pos == 0 && body->in.pos == before)))
		return spoil(body, KS_DATA_LOSS, "its contents are shorter than it says");
	return true;
}

/* At least 'size' bytes lie at 'at', if there are as many; true unless something failed. */
static bool fill(struct body *body, size_t size)
{
	if (body->have >= size || body->left == 0)
		return body->status == KS_OK;
	if (!make_room(body, size < body->room ? body->room : size))
		return false;
	while (body->have < size && body->left)
		if (!decompress(body))
			return false;
	return true;
}

/* Bytes that stay until the next call. */
static bool get(struct body *body, uint64_t size, struct ks_slice *bytes)
{
	if (size > body->have + body->left)
		return spoil(body, KS_DATA_LOSS, "its contents end in the middle of a key");
	if (!fill(body, (size_t)size))
		return false;
	*bytes = ks_slice_of(body->at, (size_t)size);
	body->at += size;
	body->have -= (size_t)size;
	return true;
}

static bool get_varint(struct body *body, uint64_t *value)
{
	struct ks_slice rest;
	size_t used;

	if (!fill(body, VARINT_MAX))
		return false;
	rest = ks_slice_of(body->at, body->have);
	if (!ks_wire_get_varint(&rest, value))
		return spoil(body, KS_DATA_LOSS, "its contents have a malformed number");
	used = body->have - rest.size;
	if (used != ks_wire_varint_size(*value))
		return spoil(body, KS_DATA_LOSS, "its contents have a number of another length than it needs");
	body->at += used;
	body->have -= used;
	return true;
}

static bool get_number(struct body *body, int64_t *number)
{
	uint64_t value;

	if (!get_varint(body, &value))
		return false;
	if (value > INT64_MAX)
		return spoil(body, KS_DATA_LOSS, "its contents have a number that is too large");
	*number = (int64_t)value;
	return true;
}

static bool get_bytes(struct body *body, struct ks_bytes **bytes)
{
	struct ks_slice slice;
	uint64_t size;

	if (!get_varint(body, &size) || !get(body, size, &slice))
		return false;
	*bytes = ks_bytes_copy(slice);
	return *bytes || spoil(body, KS_RESOURCE_EXHAUSTED, "out of memory");
}

/* Only the canonical encoding is the same when it is decoded and encoded again. */
static bool get_kv(struct body *body, struct dpa_image_key *key, struct ks_kv *kv)
{
	struct ks_slice slice;
	uint64_t size;

	if (!get_varint(body, &size) || !get(body, size, &slice))
		return false;
	if (!ks_kv_decode(slice, kv))
		return spoil(body, KS_DATA_LOSS, "its contents have a malformed KeyValue");
	key->kv = ks_kv_encode(kv);
	if (!key->kv)
		return spoil(body, KS_RESOURCE_EXHAUSTED, "out of memory");
	if (!ks_slice_eq(ks_bytes_slice(key->kv), slice))
		return spoil(body, KS_DATA_LOSS, "its contents have a KeyValue that is not canonical");
	return ks_kv_decode(ks_bytes_slice(key->kv), kv);
}

static bool get_numbers(struct body *body, unsigned tag, struct dpa_image_key *key, const struct ks_kv *kv)
{
	if (tag & DPA_TAG_SAME) {
		key->up_create = kv->create_revision;
		key->up_mod = kv->mod_revision;
		key->up_version = kv->version;
		return true;
	}
	if (!(tag & DPA_TAG_OWN))
		return true;
	if (!get_number(body, &key->up_create) || !get_number(body, &key->up_mod) ||
	    !get_number(body, &key->up_version))
		return false;
	if (key->up_mod == 0 || (kv && key->up_create == kv->create_revision && key->up_mod == kv->mod_revision &&
				 key->up_version == kv->version))
		return spoil(body, KS_DATA_LOSS, "its contents have numbers in another form than they should");
	return true;
}

static bool get_key(struct body *body, struct dpa_key_check *check, struct dpa_image_key *key)
{
	struct ks_slice first;
	struct ks_kv kv = {0};
	const char *wrong;
	unsigned tag;

	if (!get(body, 1, &first))
		return false;
	tag = *first.data;
	if (tag & ~(DPA_TAG_HIDDEN | DPA_TAG_RAW | DPA_TAG_SAME | DPA_TAG_OWN) ||
	    (tag & (DPA_TAG_SAME | DPA_TAG_OWN)) == (DPA_TAG_SAME | DPA_TAG_OWN) ||
	    (tag & (DPA_TAG_SAME | DPA_TAG_HIDDEN)) == (DPA_TAG_SAME | DPA_TAG_HIDDEN))
		return spoil(body, KS_DATA_LOSS, "its contents have a malformed key");
	if (tag & DPA_TAG_HIDDEN ? !get_bytes(body, &key->hidden) : !get_kv(body, key, &kv))
		return false;
	if (tag & DPA_TAG_RAW && !get_bytes(body, &key->raw))
		return false;
	if (!get_numbers(body, tag, key, key->kv ? &kv : NULL))
		return false;
	wrong = dpa_key_wrong(check, key, key->kv ? &kv : NULL);
	if (wrong && body->status == KS_OK)
		body->status = ks_fail(body->err, KS_DATA_LOSS, "it has %s", wrong);
	return !wrong;
}

/* Room grows with what was read, whatever the head declares. */
static bool grow(struct body *body, struct dpa_image *image, size_t *room, uint64_t most)
{
	size_t more = *room ? *room * 2 : FIRST_KEYS;
	struct dpa_image_key *keys;

	if (more > most)
		more = (size_t)most;
	keys = realloc(image->keys, more * sizeof(*keys));
	if (!keys)
		return spoil(body, KS_RESOURCE_EXHAUSTED, "out of memory");
	image->keys = keys;
	*room = more;
	return true;
}

/* Nothing may follow: neither in the frame nor behind it. */
static bool at_end(struct body *body)
{
	uint8_t spare;

	if (body->have || body->left)
		return spoil(body, KS_DATA_LOSS, "its contents go on behind the last key");
	while (body->zstd && !body->ended) {
		ZSTD_outBuffer out = {.dst = &spare, .size = 1};
		size_t before = body->in.pos, result = ZSTD_decompressStream(body->zstd, &out, &body->in);

		if (ZSTD_isError(result) || out.pos || (result && body->in.pos == before))
			return spoil(body, KS_DATA_LOSS, "its contents are not as long as it says");
		body->ended = result == 0;
	}
	if (body->zstd && body->in.pos != body->in.size)
		return spoil(body, KS_DATA_LOSS, "something follows its contents");
	return true;
}

static bool get_keys(struct body *body, const struct dpa_format_head *head, struct dpa_image *image)
{
	struct dpa_key_check check = {
		.prefix = ks_bytes_slice(image->prefix),
		.revision = head->revision,
		.up_revision = head->up_revision,
	};
	size_t room = 0;

	while (image->key_count < head->key_count) {
		if (image->key_count == room && !grow(body, image, &room, head->key_count))
			return false;
		image->keys[image->key_count] = (struct dpa_image_key){0};
		/* Counted at once: what it has so far is freed with the image. */
		if (!get_key(body, &check, &image->keys[image->key_count++]))
			return false;
	}
	return at_end(body);
}

static bool open_body(struct body *body, struct ks_slice packed, const struct dpa_format_head *head)
{
	if (head->stored) {
		body->at = packed.data;
		body->have = packed.size;
		return true;
	}
	body->in = (ZSTD_inBuffer){.src = packed.data, .size = packed.size};
	body->left = head->body_size;
	body->zstd = ZSTD_createDCtx();
	if (!body->zstd || ZSTD_isError(ZSTD_DCtx_setParameter(body->zstd, ZSTD_d_windowLogMax, WINDOW_LOG_MAX)))
		return spoil(body, KS_RESOURCE_EXHAUSTED, "out of memory");
	return make_room(body, WINDOW);
}

enum ks_status dpa_format_read(struct ks_slice bytes, const struct dpa_verifier *verifier, struct dpa_image *image,
			       struct ks_err *err)
{
	struct dpa_format_head head;
	struct body body = {.err = err};
	enum ks_status status = dpa_format_head(bytes, bytes.size, &head, err);

	if (status == KS_OK)
		status = check_digest(bytes, err);
	if (status == KS_OK && verifier)
		status = check_signature(bytes, &head, verifier, err);
	if (status != KS_OK)
		return status;
	*image = (struct dpa_image){
		.cluster_id = head.cluster_id,
		.up_revision = head.up_revision,
		.revision = head.revision,
		.confirmed_ms = head.confirmed_ms,
		.saved_ms = head.saved_ms,
		.final = head.final,
		.prefix = ks_bytes_copy(ks_slice_of(bytes.data + DPA_FORMAT_HEAD, head.prefix_size)),
	};
	if (!image->prefix)
		(void)spoil(&body, KS_RESOURCE_EXHAUSTED, "out of memory");
	else if (open_body(&body, ks_slice_of(bytes.data + DPA_FORMAT_HEAD + head.prefix_size, head.packed_size),
			   &head))
		(void)get_keys(&body, &head, image);
	(void)ZSTD_freeDCtx(body.zstd);
	free(body.window);
	if (body.status != KS_OK)
		dpa_image_fini(image);
	return body.status;
}
