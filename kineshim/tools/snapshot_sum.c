/* SPDX-License-Identifier: Apache-2.0 */
/* See snapshot_sum.h. */
#include "tools/snapshot_sum.h"

#include <errno.h>
#include <openssl/evp.h>
#include <string.h>
#include <unistd.h>

#define SHA256_BYTES 32u

static enum ks_status sum_file(int fd, const char *name, uint64_t file_size, uint8_t sum[SHA256_BYTES],
			       struct ks_err *err)
{
	static uint8_t bytes[1u << 20];
	EVP_MD_CTX *sha = EVP_MD_CTX_new();
	enum ks_status status = KS_OK;
	uint64_t done = 0;
	unsigned size = 0;

	if (!sha || EVP_DigestInit_ex(sha, EVP_sha256(), NULL) != 1)
		status = ks_fail(err, KS_INTERNAL, "SHA-256 is not to be had");
	while (status == KS_OK && done < file_size) {
		size_t want = file_size - done < sizeof(bytes) ? (size_t)(file_size - done) : sizeof(bytes);
		ssize_t got = pread(fd, bytes, want, (off_t)done);

		if (got < 0 && errno == EINTR)
			continue;
		if (got <= 0)
			status = ks_fail(err, KS_UNAVAILABLE, "cannot read %s: %s", name,
					 got < 0 ? strerror(errno) : "it became shorter");
		else if (EVP_DigestUpdate(sha, bytes, (size_t)got) != 1)
			status = ks_fail(err, KS_INTERNAL, "SHA-256 failed");
		else
			done += (uint64_t)got;
	}
	if (status == KS_OK && (EVP_DigestFinal_ex(sha, sum, &size) != 1 || size != SHA256_BYTES))
		status = ks_fail(err, KS_INTERNAL, "SHA-256 failed");
	EVP_MD_CTX_free(sha);
	return status;
}

/* A snapshot has its checksum behind the database, whose size is a multiple of 512; a member's own file has none. */
enum ks_status ks_snapshot_sum_check(int fd, const char *name, bool skip, uint64_t *size, bool *summed,
				     struct ks_err *err)
{
	uint8_t wanted[SHA256_BYTES], sum[SHA256_BYTES];
	enum ks_status status;

	*summed = *size % 512 != 0;
	if (!*summed)
		return KS_OK;
	if (*size % 512 != SHA256_BYTES)
		return ks_fail(err, KS_DATA_LOSS, "%s is no snapshot of etcd, or it is cut off", name);
	*size -= SHA256_BYTES;
	if (skip)
		return KS_OK;
	if (pread(fd, wanted, sizeof(wanted), (off_t)*size) != sizeof(wanted))
		return ks_fail(err, KS_UNAVAILABLE, "cannot read %s: %s", name, strerror(errno));
	status = sum_file(fd, name, *size, sum, err);
	if (status == KS_OK && memcmp(sum, wanted, sizeof(sum)) != 0)
		return ks_fail(err, KS_DATA_LOSS, "%s is damaged: its SHA-256 is not the one at its end", name);
	return status;
}
