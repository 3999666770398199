/* SPDX-License-Identifier: Apache-2.0 */
/* Ed25519 by OpenSSL: keys from PEM files, signatures over the SHA-256 of an image's head and body. */
#include "snapshot/format_priv.h"

#include <errno.h>
#include <fcntl.h>
#include <openssl/crypto.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/diag.h"

#define FILE_MAX ((size_t)65536)
#define KEYS_MAX 64

struct dpa_signer {
	EVP_PKEY *key;
	uint8_t id[DPA_KEY_ID];
};

struct dpa_verifier {
	size_t count;
	struct {
		EVP_PKEY *key;
		uint8_t id[DPA_KEY_ID];
	} keys[KEYS_MAX];
};

/* ---- files ---- */

static enum ks_status read_all(int fd, const char *path, bool secret, uint8_t *data, size_t *size, struct ks_err *err)
{
	struct stat state;

	if (fstat(fd, &state) != 0)
		return ks_fail(err, KS_INVALID_ARGUMENT, "cannot read %s: %s", path, strerrordesc_np(errno));
	if (!S_ISREG(state.st_mode))
		return ks_fail(err, KS_INVALID_ARGUMENT, "%s is not a file", path);
	if (secret && state.st_mode & 007)
		ks_diag(KS_WARN, "sign", "everybody on this machine may read the private key file=%s", path);
	for (*size = 0; *size <= FILE_MAX;) {
		ssize_t got = read(fd, data + *size, FILE_MAX + 1 - *size);

		if (got == 0)
			return KS_OK;
		if (got < 0 && errno != EINTR)
			return ks_fail(err, KS_INVALID_ARGUMENT, "cannot read %s: %s", path, strerrordesc_np(errno));
		*size += got > 0 ? (size_t)got : 0;
	}
	return ks_fail(err, KS_INVALID_ARGUMENT, "%s is larger than a key", path);
}

/* The whole file, to be given to wipe; NULL with 'err'. */
static uint8_t *read_file(const char *path, bool secret, size_t *size, struct ks_err *err)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	uint8_t *data = malloc(FILE_MAX + 1);
	enum ks_status status;

	if (fd < 0)
		status = ks_fail(err, KS_INVALID_ARGUMENT, "cannot read %s: %s", path, strerrordesc_np(errno));
	else if (!data)
		status = ks_fail(err, KS_RESOURCE_EXHAUSTED, "out of memory");
	else
		status = read_all(fd, path, secret, data, size, err);
	if (fd >= 0)
		(void)close(fd);
	if (status == KS_OK)
		return data;
	if (data)
		OPENSSL_cleanse(data, FILE_MAX + 1);
	free(data);
	return NULL;
}

static void wipe(uint8_t *data)
{
	OPENSSL_cleanse(data, FILE_MAX + 1);
	free(data);
}

/* A key with a passphrase fails instead of asking the terminal. */
static int no_passphrase(char *into, int size, int writing, void *ctx)
{
	(void)into;
	(void)size;
	(void)writing;
	(void)ctx;
	return -1;
}

/* The first bytes of SHA-256 of SubjectPublicKeyInfo in DER. */
static enum ks_status id_of(EVP_PKEY *key, uint8_t id[DPA_KEY_ID], struct ks_err *err)
{
	uint8_t digest[DPA_FORMAT_DIGEST];
	unsigned char *der = NULL;
	int size = i2d_PUBKEY(key, &der);
	enum ks_status status = KS_RESOURCE_EXHAUSTED;

	if (size > 0)
		status = dpa_digest(der, (size_t)size, digest, err);
	else
		(void)ks_fail(err, status, "out of memory");
	OPENSSL_free(der);
	if (status == KS_OK)
		memcpy(id, digest, DPA_KEY_ID);
	return status;
}

/* ---- signing ---- */

struct dpa_signer *dpa_signer_read(const char *path, struct ks_err *err)
{
	struct dpa_signer *signer = calloc(1, sizeof(*signer));
	size_t size = 0;
	uint8_t *data = read_file(path, true, &size, err);
	BIO *bio = data ? BIO_new_mem_buf(data, (int)size) : NULL;
	enum ks_status status = KS_OK;

	if (signer && bio)
		signer->key = PEM_read_bio_PrivateKey(bio, NULL, no_passphrase, NULL);
	BIO_free(bio);
	if (!data)
		status = KS_INVALID_ARGUMENT;
	else if (!signer || !bio)
		status = ks_fail(err, KS_RESOURCE_EXHAUSTED, "out of memory");
	else if (!signer->key || !EVP_PKEY_is_a(signer->key, "ED25519"))
		status = ks_fail(
			err, KS_INVALID_ARGUMENT,
			"%s has no Ed25519 private key in PEM (without a passphrase); dpagent keygen makes one", path);
	else
		status = id_of(signer->key, signer->id, err);
	ERR_clear_error();
	if (data)
		wipe(data);
	if (status == KS_OK)
		return signer;
	dpa_signer_free(signer);
	return NULL;
}

void dpa_signer_free(struct dpa_signer *signer)
{
	if (!signer)
		return;
	EVP_PKEY_free(signer->key);
	free(signer);
}

void dpa_signer_id(const struct dpa_signer *signer, uint8_t id[DPA_KEY_ID])
{
	memcpy(id, signer->id, DPA_KEY_ID);
}

enum ks_status dpa_sign(const struct dpa_signer *signer, const uint8_t digest[DPA_FORMAT_DIGEST],
			uint8_t signature[DPA_SIGNATURE], struct ks_err *err)
{
	EVP_MD_CTX *ctx = EVP_MD_CTX_new();
	size_t size = DPA_SIGNATURE;
	bool fine = ctx && EVP_DigestSignInit(ctx, NULL, NULL, NULL, signer->key) == 1 &&
		    EVP_DigestSign(ctx, signature, &size, digest, DPA_FORMAT_DIGEST) == 1 && size == DPA_SIGNATURE;

	EVP_MD_CTX_free(ctx);
	ERR_clear_error();
	return fine ? KS_OK : ks_fail(err, KS_RESOURCE_EXHAUSTED, "cannot sign an image");
}

/* ---- verifying ---- */

/* One block of a PEM file. */
static enum ks_status take_key(struct dpa_verifier *verifier, const char *path, const char *name,
			       const unsigned char *data, long size, struct ks_err *err)
{
	const unsigned char *at = data;
	EVP_PKEY *key;

	if (strcmp(name, PEM_STRING_PUBLIC) != 0)
		return ks_fail(err, KS_INVALID_ARGUMENT, "%s has a \"%.64s\" where public keys are expected", path,
			       name);
	if (verifier->count == KEYS_MAX)
		return ks_fail(err, KS_INVALID_ARGUMENT, "%s has more than %d keys", path, KEYS_MAX);
	key = d2i_PUBKEY(NULL, &at, size);
	if (!key || at != data + size || !EVP_PKEY_is_a(key, "ED25519")) {
		EVP_PKEY_free(key);
		return ks_fail(err, KS_INVALID_ARGUMENT, "%s: public key %zu is no Ed25519 key", path,
			       verifier->count + 1);
	}
	verifier->keys[verifier->count].key = key;
	return id_of(key, verifier->keys[verifier->count++].id, err);
}

static enum ks_status take_keys(struct dpa_verifier *verifier, const char *path, BIO *bio, struct ks_err *err)
{
	enum ks_status status = KS_OK;
	unsigned char *data = NULL;
	char *name = NULL, *header = NULL;
	long size;

	while (status == KS_OK && PEM_read_bio(bio, &name, &header, &data, &size) == 1) {
		status = take_key(verifier, path, name, data, size, err);
		OPENSSL_free(name);
		OPENSSL_free(header);
		OPENSSL_clear_free(data, (size_t)size);
		name = header = NULL;
		data = NULL;
	}
	if (status != KS_OK)
		return status;
	/* The end looks like a file without a block. */
	if (ERR_GET_REASON(ERR_peek_last_error()) != PEM_R_NO_START_LINE)
		return ks_fail(err, KS_INVALID_ARGUMENT, "%s is not PEM behind its key %zu", path, verifier->count);
	if (verifier->count == 0)
		return ks_fail(err, KS_INVALID_ARGUMENT, "%s has no Ed25519 public key in PEM", path);
	return KS_OK;
}

struct dpa_verifier *dpa_verifier_read(const char *path, struct ks_err *err)
{
	struct dpa_verifier *verifier = calloc(1, sizeof(*verifier));
	size_t size = 0;
	uint8_t *data = read_file(path, false, &size, err);
	BIO *bio = data ? BIO_new_mem_buf(data, (int)size) : NULL;
	enum ks_status status = KS_INVALID_ARGUMENT;

	ERR_clear_error();
	if (data && verifier && bio)
		status = take_keys(verifier, path, bio, err);
	else if (data)
		(void)ks_fail(err, KS_RESOURCE_EXHAUSTED, "out of memory");
	ERR_clear_error();
	BIO_free(bio);
	if (data)
		wipe(data);
	if (status == KS_OK)
		return verifier;
	dpa_verifier_free(verifier);
	return NULL;
}

void dpa_verifier_free(struct dpa_verifier *verifier)
{
	if (!verifier)
		return;
	for (size_t i = 0; i < verifier->count; i++)
		EVP_PKEY_free(verifier->keys[i].key);
	free(verifier);
}

bool dpa_verifier_trusts(const struct dpa_verifier *verifier, const struct dpa_signer *signer)
{
	for (size_t i = 0; i < verifier->count; i++)
		if (EVP_PKEY_eq(verifier->keys[i].key, signer->key) == 1)
			return true;
	return false;
}

enum ks_status dpa_signature_check(const struct dpa_verifier *verifier, const uint8_t id[DPA_KEY_ID],
				   const uint8_t digest[DPA_FORMAT_DIGEST], const uint8_t signature[DPA_SIGNATURE],
				   struct ks_err *err)
{
	bool known = false, fine = false;

	for (size_t i = 0; i < verifier->count && !fine; i++) {
		EVP_MD_CTX *ctx;

		if (memcmp(verifier->keys[i].id, id, DPA_KEY_ID) != 0)
			continue;
		known = true;
		ctx = EVP_MD_CTX_new();
		fine = ctx && EVP_DigestVerifyInit(ctx, NULL, NULL, NULL, verifier->keys[i].key) == 1 &&
		       EVP_DigestVerify(ctx, signature, DPA_SIGNATURE, digest, DPA_FORMAT_DIGEST) == 1;
		EVP_MD_CTX_free(ctx);
	}
	ERR_clear_error();
	if (fine)
		return KS_OK;
	return ks_fail(err, KS_PERMISSION_DENIED,
		       known ? "its signature is wrong (key %016llx)"
			     : "it is signed with key %016llx, which is not trusted",
		       (unsigned long long)dpa_get_number(id, DPA_KEY_ID));
}
