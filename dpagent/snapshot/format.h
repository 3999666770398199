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

#define DPA_FORMAT_MAX ((size_t)2 << 30)

/* Keys in PEM: Ed25519 private (PKCS#8) or public (SubjectPublicKeyInfo). */
struct dpa_signer;
struct dpa_verifier; /* one or several public keys: any will do, for rotation */
struct dpa_signer *dpa_signer_read(const char *path, struct ks_err *err);
void dpa_signer_free(struct dpa_signer *signer);
struct dpa_verifier *dpa_verifier_read(const char *path, struct ks_err *err); /* a file with one or more keys */
void dpa_verifier_free(struct dpa_verifier *verifier);

/* Sets the image's saved_ms in what is written. 'signer' NULL: not signed. 'out' is initialised by the caller (its maximum counts). */
enum ks_status dpa_format_write(const struct dpa_image *image, const struct dpa_signer *signer, int64_t saved_ms,
				struct ks_buf *out, struct ks_err *err) KS_MUST_CHECK;
/* 'verifier' not NULL: a valid signature is a must. 'image' is to be zeroed, and stays so on errors. */
enum ks_status dpa_format_read(struct ks_slice bytes, const struct dpa_verifier *verifier, struct dpa_image *image,
			       struct ks_err *err) KS_MUST_CHECK;

#endif
