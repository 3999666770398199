/* SPDX-License-Identifier: Apache-2.0 */
/* Keys and signatures of JSON web tokens, on OpenSSL; jwt_key.h has the contract. */
#include "api/jwt_key.h"

#include <openssl/core_names.h>
#include <openssl/crypto.h>
#include <openssl/ecdsa.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/rsa.h>
#include <openssl/x509.h>
#include <stdio.h>
#include <stdlib.h>

#define FILE_MAX (64 << 10)
#define HMAC_MAX 64

enum family { HS, RS, PS, ES, ED };

static const struct method {
	const char *name;
	enum family family;
	const char *digest; /* NULL: the signature has its own */
	const char *group;  /* of ES */
	size_t half;        /* of ES: bytes of r, and of s */
} methods[] = {
	{"HS256", HS, "SHA256", NULL, 0},
	{"HS384", HS, "SHA384", NULL, 0},
	{"HS512", HS, "SHA512", NULL, 0},
	{"RS256", RS, "SHA256", NULL, 0},
	{"RS384", RS, "SHA384", NULL, 0},
	{"RS512", RS, "SHA512", NULL, 0},
	{"PS256", PS, "SHA256", NULL, 0},
	{"PS384", PS, "SHA384", NULL, 0},
	{"PS512", PS, "SHA512", NULL, 0},
	{"ES256", ES, "SHA256", "prime256v1", 32},
	{"ES384", ES, "SHA384", "secp384r1", 48},
	{"ES512", ES, "SHA512", "secp521r1", 66},
	{"EdDSA", ED, NULL, NULL, 0},
};

struct ks_jwt_key {
	const struct method *method;
	EVP_PKEY *private_key; /* NULL: verifies only */
	EVP_PKEY *public_key;  /* may be the private one */
	uint8_t *secret;       /* HS */
	size_t secret_size;
};

/* ---- loading ---- */

static uint8_t *read_file(const char *name, size_t *size, struct ks_err *err)
{
	FILE *file = fopen(name, "re");
	uint8_t *bytes = malloc(FILE_MAX);

	*size = file && bytes ? fread(bytes, 1, FILE_MAX, file) : 0;
	if (!file || !bytes || ferror(file) || *size == 0 || *size == FILE_MAX) {
		ks_fail(err, KS_INVALID_ARGUMENT, "--auth-token: cannot read a key from the file %s", name);
		free(bytes);
		bytes = NULL;
	}
	if (file)
		(void)fclose(file);
	return bytes;
}

static void wipe(uint8_t *bytes, size_t size)
{
	if (bytes)
		OPENSSL_cleanse(bytes, size);
	free(bytes);
}

/* No question for a password on the terminal of a server. */
static int no_password(char *buffer, int size, int writing, void *ctx)
{
	(void)buffer;
	(void)size;
	(void)writing;
	(void)ctx;
	return -1;
}

static EVP_PKEY *read_private(BIO *bio)
{
	return PEM_read_bio_PrivateKey(bio, NULL, no_password, NULL);
}

/* A public key, or a certificate with one. */
static EVP_PKEY *read_public(BIO *bio)
{
	EVP_PKEY *key = PEM_read_bio_PUBKEY(bio, NULL, no_password, NULL);
	X509 *certificate;

	if (key)
		return key;
	if (BIO_seek(bio, 0) != 0)
		return NULL;
	certificate = PEM_read_bio_X509(bio, NULL, no_password, NULL);
	key = certificate ? X509_get_pubkey(certificate) : NULL;
	X509_free(certificate);
	return key;
}

static bool suits(const struct method *method, EVP_PKEY *key)
{
	char group[64] = "";

	switch (method->family) {
	case RS:
	case PS:
		return EVP_PKEY_is_a(key, "RSA") && EVP_PKEY_get_size(key) <= KS_JWT_SIGNATURE_MAX;
	case ES:
		return EVP_PKEY_is_a(key, "EC") && EVP_PKEY_get_group_name(key, group, sizeof(group), NULL) == 1 &&
		       strcmp(group, method->group) == 0;
	case ED:
		return EVP_PKEY_is_a(key, "ED25519");
	case HS:
		break;
	}
	return false;
}

static EVP_PKEY *load_key(const struct method *method, const char *name, EVP_PKEY *(*read_key)(BIO *bio),
			  struct ks_err *err)
{
	size_t size;
	uint8_t *bytes = read_file(name, &size, err);
	BIO *bio = bytes ? BIO_new_mem_buf(bytes, (int)size) : NULL;
	EVP_PKEY *key = bio ? read_key(bio) : NULL;

	if (bytes && !key)
		ks_fail(err, KS_INVALID_ARGUMENT, "--auth-token: the file %s has no such key in PEM form", name);
	if (key && !suits(method, key)) {
		ks_fail(err, KS_INVALID_ARGUMENT, "--auth-token: the key in the file %s is not one for %s", name,
			method->name);
		EVP_PKEY_free(key);
		key = NULL;
	}
	BIO_free(bio);
	wipe(bytes, size);
	ERR_clear_error();
	return key;
}

static bool load_pair(struct ks_jwt_key *key, const char *private_file, const char *public_file, struct ks_err *err)
{
	if (private_file) {
		key->private_key = load_key(key->method, private_file, read_private, err);
		if (!key->private_key)
			return false;
	}
	if (public_file) {
		key->public_key = load_key(key->method, public_file, read_public, err);
		if (!key->public_key)
			return false;
	} else if (key->private_key) {
		EVP_PKEY_up_ref(key->private_key);
		key->public_key = key->private_key;
	}
	if (!key->public_key) {
		ks_fail(err, KS_INVALID_ARGUMENT, "--auth-token: jwt needs priv-key=FILE or pub-key=FILE");
		return false;
	}
	if (key->private_key && EVP_PKEY_eq(key->private_key, key->public_key) != 1) {
		ks_fail(err, KS_INVALID_ARGUMENT, "--auth-token: priv-key and pub-key do not belong together");
		return false;
	}
	return true;
}

struct ks_jwt_key *ks_jwt_key_load(const char *method, const char *private_file, const char *public_file,
				   struct ks_err *err)
{
	struct ks_jwt_key *key = calloc(1, sizeof(*key));
	bool ok = false;

	if (!key) {
		ks_fail(err, KS_RESOURCE_EXHAUSTED, "out of memory for a key");
		return NULL;
	}
	for (size_t i = 0; i < sizeof(methods) / sizeof(*methods); i++)
		if (strcmp(methods[i].name, method) == 0)
			key->method = &methods[i];
	if (!key->method) {
		ks_fail(err, KS_INVALID_ARGUMENT, "--auth-token: unknown sign-method %s", method);
	} else if (key->method->family != HS) {
		ok = load_pair(key, private_file, public_file, err);
	} else if (private_file) {
		key->secret = read_file(private_file, &key->secret_size, err);
		ok = key->secret != NULL;
	} else {
		ks_fail(err, KS_INVALID_ARGUMENT, "--auth-token: %s needs priv-key=FILE", method);
	}
	if (ok)
		return key;
	ks_jwt_key_free(key);
	return NULL;
}

void ks_jwt_key_free(struct ks_jwt_key *key)
{
	if (!key)
		return;
	EVP_PKEY_free(key->private_key);
	EVP_PKEY_free(key->public_key);
	wipe(key->secret, key->secret_size);
	free(key);
}

const char *ks_jwt_key_method(const struct ks_jwt_key *key)
{
	return key->method->name;
}

bool ks_jwt_key_can_sign(const struct ks_jwt_key *key)
{
	return key->private_key || key->secret;
}

/* ---- ES: r and s side by side (RFC 7518, 3.4), where OpenSSL has them in DER ---- */

static bool der_to_raw(const struct method *method, uint8_t *signature, size_t *size, size_t room)
{
	const unsigned char *at = signature;
	ECDSA_SIG *parts = d2i_ECDSA_SIG(NULL, &at, (long)*size);
	bool ok = parts && 2 * method->half <= room &&
		  BN_bn2binpad(ECDSA_SIG_get0_r(parts), signature, (int)method->half) >= 0 &&
		  BN_bn2binpad(ECDSA_SIG_get0_s(parts), signature + method->half, (int)method->half) >= 0;

	ECDSA_SIG_free(parts);
	*size = 2 * method->half;
	return ok;
}

/* The caller frees *der with OPENSSL_free. */
static bool raw_to_der(const struct method *method, struct ks_slice raw, uint8_t **der, size_t *size)
{
	ECDSA_SIG *parts = ECDSA_SIG_new();
	BIGNUM *r, *s;
	int length = -1;

	*der = NULL;
	if (!parts || raw.size != 2 * method->half) {
		ECDSA_SIG_free(parts);
		return false;
	}
	r = BN_bin2bn(raw.data, (int)method->half, NULL);
	s = BN_bin2bn(raw.data + method->half, (int)method->half, NULL);
	if (r && s && ECDSA_SIG_set0(parts, r, s)) {
		length = i2d_ECDSA_SIG(parts, der);
	} else {
		BN_free(r);
		BN_free(s);
	}
	ECDSA_SIG_free(parts);
	*size = length > 0 ? (size_t)length : 0;
	return length > 0;
}

/* ---- signing and verifying ---- */

static bool hmac(const struct ks_jwt_key *key, struct ks_slice message, uint8_t *mac, size_t *size)
{
	return EVP_Q_mac(NULL, "HMAC", NULL, key->method->digest, NULL, key->secret, key->secret_size, message.data,
			 message.size, mac, HMAC_MAX, size) != NULL;
}

static bool set_padding(const struct method *method, EVP_PKEY_CTX *ctx, int salt)
{
	if (method->family == RS)
		return EVP_PKEY_CTX_set_rsa_padding(ctx, RSA_PKCS1_PADDING) == 1;
	if (method->family == PS)
		return EVP_PKEY_CTX_set_rsa_padding(ctx, RSA_PKCS1_PSS_PADDING) == 1 &&
		       EVP_PKEY_CTX_set_rsa_pss_saltlen(ctx, salt) == 1;
	return true;
}

bool ks_jwt_sign(const struct ks_jwt_key *key, struct ks_slice message, uint8_t *signature, size_t *size)
{
	size_t room = *size;
	EVP_PKEY_CTX *pkey_ctx = NULL;
	EVP_MD_CTX *ctx;
	bool ok;

	if (key->method->family == HS)
		return room >= HMAC_MAX && hmac(key, message, signature, size);
	ctx = EVP_MD_CTX_new();
	ok = ctx && key->private_key &&
	     EVP_DigestSignInit_ex(ctx, &pkey_ctx, key->method->digest, NULL, NULL, key->private_key, NULL) == 1 &&
	     set_padding(key->method, pkey_ctx, RSA_PSS_SALTLEN_DIGEST) &&
	     EVP_DigestSign(ctx, signature, size, message.data, message.size) == 1;
	EVP_MD_CTX_free(ctx);
	if (ok && key->method->family == ES)
		ok = der_to_raw(key->method, signature, size, room);
	ERR_clear_error();
	return ok;
}

static bool verify_with(const struct ks_jwt_key *key, struct ks_slice message, const uint8_t *signature, size_t size)
{
	EVP_MD_CTX *ctx = EVP_MD_CTX_new();
	EVP_PKEY_CTX *pkey_ctx = NULL;
	bool ok =
		ctx &&
		EVP_DigestVerifyInit_ex(ctx, &pkey_ctx, key->method->digest, NULL, NULL, key->public_key, NULL) == 1 &&
		set_padding(key->method, pkey_ctx, RSA_PSS_SALTLEN_AUTO) &&
		EVP_DigestVerify(ctx, signature, size, message.data, message.size) == 1;

	EVP_MD_CTX_free(ctx);
	ERR_clear_error();
	return ok;
}

bool ks_jwt_verify(const struct ks_jwt_key *key, struct ks_slice message, struct ks_slice signature)
{
	uint8_t mac[HMAC_MAX], *der;
	size_t size = 0;
	bool ok;

	if (key->method->family == HS)
		return hmac(key, message, mac, &size) && signature.size == size &&
		       CRYPTO_memcmp(mac, signature.data, size) == 0;
	if (key->method->family != ES)
		return verify_with(key, message, signature.data, signature.size);
	ok = raw_to_der(key->method, signature, &der, &size) && verify_with(key, message, der, size);
	OPENSSL_free(der);
	return ok;
}
