/* SPDX-License-Identifier: Apache-2.0 */
/* `dpagent keygen`: a pair of Ed25519 keys for signing images. Nothing is overwritten. */
#include "snapshot/tool.h"

#include <errno.h>
#include <fcntl.h>
#include <openssl/crypto.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/status.h"

#define USAGE 2
#define PATH_ROOM 4096

static const char usage[] =
	"Usage: dpagent keygen --out=PREFIX\n"
	"\n"
	"Makes a pair of Ed25519 keys: PREFIX.key signs images (mode 0600, keep it where images are written), and "
	"PREFIX.pub\n"
	"is what others verify them with. To rotate, put the old and the new public key into one file.\n";

/* False with errno; then there is no file. */
static bool write_file(const char *path, mode_t mode, struct ks_slice text)
{
	int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, mode);
	int number = 0;

	if (fd < 0)
		return false;
	if (write(fd, text.data, text.size) != (ssize_t)text.size)
		number = errno ? errno : ENOSPC;
	if (!number && fsync(fd) != 0)
		number = errno;
	if (close(fd) != 0 && !number)
		number = errno;
	if (!number)
		return true;
	(void)unlink(path);
	errno = number;
	return false;
}

/* The memory behind 'text' is wiped with the BIO. NULL without memory. */
static BIO *pem_of(EVP_PKEY *key, bool private, struct ks_slice *text)
{
	BIO *bio = BIO_new(private ? BIO_s_secmem() : BIO_s_mem());
	char *data;
	long size;

	if (!bio || (private ? PEM_write_bio_PKCS8PrivateKey(bio, key, NULL, NULL, 0, NULL, NULL)
			     : PEM_write_bio_PUBKEY(bio, key)) != 1) {
		BIO_free(bio);
		return NULL;
	}
	size = BIO_get_mem_data(bio, &data);
	*text = ks_slice_of(data, (size_t)size);
	return bio;
}

static enum ks_status write_key(EVP_PKEY *key, bool private, const char *path, struct ks_err *err)
{
	struct ks_slice text;
	BIO *bio = pem_of(key, private, &text);
	enum ks_status status = KS_OK;

	if (!bio)
		return ks_fail(err, KS_RESOURCE_EXHAUSTED, "out of memory");
	errno = 0;
	if (!write_file(path, private ? 0600 : 0644, text))
		status = ks_fail(err, errno == EEXIST ? KS_ALREADY_EXISTS : KS_UNAVAILABLE, "cannot make %s: %s", path,
				 strerrordesc_np(errno));
	BIO_free(bio);
	return status;
}

static enum ks_status make_pair(const char *out, struct ks_err *err)
{
	char private[PATH_ROOM], public[PATH_ROOM];
	EVP_PKEY *key;
	enum ks_status status;

	if (snprintf(private, sizeof(private), "%s.key", out) >= PATH_ROOM ||
	    snprintf(public, sizeof(public), "%s.pub", out) >= PATH_ROOM)
		return ks_fail(err, KS_INVALID_ARGUMENT, "the name is too long");
	key = EVP_PKEY_Q_keygen(NULL, NULL, "ED25519");
	if (!key)
		return ks_fail(err, KS_UNAVAILABLE, "OpenSSL cannot make an Ed25519 key");
	status = write_key(key, true, private, err);
	if (status == KS_OK) {
		status = write_key(key, false, public, err);
		if (status != KS_OK)
			(void)unlink(private);
	}
	EVP_PKEY_free(key);
	if (status == KS_OK)
		(void)printf("%s\n%s\n", private, public);
	return status;
}

int dpa_keygen_tool(int argc, char *argv[])
{
	const char *out = NULL;
	struct ks_err err;

	for (int i = 1; i < argc; i++) {
		if (strcmp(argv[i], "--help") == 0 || strcmp(argv[i], "-h") == 0) {
			(void)fputs(usage, stdout);
			return EXIT_SUCCESS;
		}
		if (strncmp(argv[i], "--out=", 6) == 0)
			out = argv[i] + 6;
		else if (strcmp(argv[i], "--out") == 0 && i + 1 < argc)
			out = argv[++i];
		else
			out = "";
		if (!*out)
			break;
	}
	if (!out || !*out) {
		(void)fputs(usage, stderr);
		return USAGE;
	}
	if (make_pair(out, &err) == KS_OK)
		return EXIT_SUCCESS;
	(void)fprintf(stderr, "dpagent keygen: %s\n", err.text);
	ERR_clear_error();
	return EXIT_FAILURE;
}
