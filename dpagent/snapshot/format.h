/* SPDX-License-Identifier: Apache-2.0 */
/*
 * An image as bytes: the same on disk and in object storage (docs/dpagent-format.md). Compressed (zstd), with a SHA-256 over everything, optionally
 * signed with Ed25519. Reading checks all of it before it believes a number, and is bounded by DPA_FORMAT_MAX.
 *
 * Threads: any. Errors: KS_DATA_LOSS "…" for what is damaged, KS_PERMISSION_DENIED for a signature that is missing or wrong.
 */
#ifndef DPA_FORMAT_H
#define DPA_FORMAT_H

#include "base/buf.h"
#include "mirror/image.h"

#define DPA_FORMAT_MAX ((size_t)2 << 30)      /* of the whole, and of what is compressed in it */
#define DPA_FORMAT_MAX_KEYS ((size_t)1 << 24) /* as many small ones would take several times the bytes in memory */
#define DPA_FORMAT_MAX_PREFIX ((size_t)4096)
#define DPA_FORMAT_HEAD ((size_t)96)   /* bytes in front of the prefix; dpa_format_head needs no more */
#define DPA_FORMAT_DIGEST ((size_t)32) /* the last bytes: SHA-256 of all before them */
#define DPA_KEY_ID ((size_t)8)

/* Keys in PEM: Ed25519 private (PKCS#8) or public (SubjectPublicKeyInfo). */
struct dpa_signer;
struct dpa_verifier; /* one or several public keys: any will do, for rotation */
struct dpa_signer *dpa_signer_read(const char *path, struct ks_err *err);
void dpa_signer_free(struct dpa_signer *signer);
struct dpa_verifier *dpa_verifier_read(const char *path, struct ks_err *err); /* a file with one or more keys */
void dpa_verifier_free(struct dpa_verifier *verifier);
bool dpa_verifier_trusts(const struct dpa_verifier *verifier, const struct dpa_signer *signer);

/* Sets the image's saved_ms in what is written. 'signer' NULL: not signed. 'out' is initialised by the caller (its maximum counts). */
enum ks_status dpa_format_write(const struct dpa_image *image, const struct dpa_signer *signer, int64_t saved_ms,
				struct ks_buf *out, struct ks_err *err) KS_MUST_CHECK;
/* 'verifier' not NULL: a valid signature is a must. 'image' is to be zeroed, and stays so on errors. */
enum ks_status dpa_format_read(struct ks_slice bytes, const struct dpa_verifier *verifier, struct dpa_image *image,
			       struct ks_err *err) KS_MUST_CHECK;

/* What the first bytes claim. Nothing vouches for it: it tells whether the rest is worth fetching. */
struct dpa_format_head {
	uint64_t cluster_id;
	int64_t up_revision, revision, confirmed_ms, saved_ms;
	uint64_t key_count, body_size, packed_size; /* packed: as it is stored */
	uint32_t prefix_size;
	bool final, is_signed, stored; /* stored: not compressed */
	uint8_t key_id[DPA_KEY_ID];    /* the first bytes of SHA-256 of the public key in DER; zeros when not signed */
};
/* 'bytes' are the first DPA_FORMAT_HEAD or more, 'size' is that of the whole. */
enum ks_status dpa_format_head(struct ks_slice bytes, uint64_t size, struct dpa_format_head *head,
			       struct ks_err *err) KS_MUST_CHECK;

#endif
