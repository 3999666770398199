/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Keys and signatures of JSON web tokens (RFC 7518, 8037): HS, RS, PS, ES with 256, 384, 512, and EdDSA. One key, one method: what a token
 * says of its own algorithm is never believed.
 *
 * Threads: any, after loading. Errors: texts for a person, without anything of the key.
 */
#ifndef KS_API_JWT_KEY_H
#define KS_API_JWT_KEY_H

#include "base/buf.h"
#include "base/status.h"

#define KS_JWT_SIGNATURE_MAX 1024 /* RSA with 8192 bits */

struct ks_jwt_key;

/* File names; NULL: not given. A public key alone can only verify. When both are given they must belong together. */
struct ks_jwt_key *ks_jwt_key_load(const char *method, const char *private_file, const char *public_file,
				   struct ks_err *err);
void ks_jwt_key_free(struct ks_jwt_key *key); /* NULL is fine */
const char *ks_jwt_key_method(const struct ks_jwt_key *key);
bool ks_jwt_key_can_sign(const struct ks_jwt_key *key);

/* 'size' goes in as the room of 'signature'. */
bool ks_jwt_sign(const struct ks_jwt_key *key, struct ks_slice message, uint8_t *signature, size_t *size) KS_MUST_CHECK;
bool ks_jwt_verify(const struct ks_jwt_key *key, struct ks_slice message, struct ks_slice signature) KS_MUST_CHECK;

#endif
