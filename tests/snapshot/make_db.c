/* SPDX-License-Identifier: Apache-2.0 */
/*
 * make_db FILE RECORDS VALUE_SIZE: an etcd snapshot with so many keys, one for each revision, and the checksum at its end. Much
 * faster than putting them all, for tests that need something large.
 */
#include <fcntl.h>
#include <openssl/evp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/panic.h"
#include "bbolt/bbolt.h"
#include "store/store.h"

static void must(bool ok, const char *what)
{
	if (ok)
		return;
	(void)fprintf(stderr, "make_db: %s\n", what);
	exit(1);
}

static void put_record(struct ks_bbolt_writer *writer, int64_t revision, struct ks_slice value)
{
	uint8_t name[17] = {[8] = '_'};
	struct ks_bytes *encoded;
	struct ks_err err;
	char key[32];

	for (unsigned i = 0; i < 8; i++)
		name[i] = (uint8_t)((uint64_t)revision >> (56 - 8 * i));
	(void)snprintf(key, sizeof(key), "key-%010lld", (long long)revision * 7919 % 1000000007);
	encoded = ks_kv_encode(&(struct ks_kv){.key = ks_slice_str(key),
					       .value = value,
					       .create_revision = revision,
					       .mod_revision = revision,
					       .version = 1});
	must(encoded != NULL, "out of memory");
	must(ks_bbolt_writer_put(writer, ks_slice_of(name, sizeof(name)), ks_bytes_slice(encoded), &err) == KS_OK,
	     err.text);
	ks_bytes_unref(encoded);
}

static void append_sum(int fd, uint64_t size)
{
	unsigned char sum[32];
	void *bytes = mmap(NULL, size, PROT_READ, MAP_SHARED, fd, 0);

	must(bytes != MAP_FAILED, "cannot map the file");
	must(EVP_Digest(bytes, size, sum, NULL, EVP_sha256(), NULL) == 1, "SHA-256 failed");
	must(pwrite(fd, sum, sizeof(sum), (off_t)size) == sizeof(sum), "cannot write");
	(void)munmap(bytes, size);
}

int main(int argc, char **argv)
{
	struct ks_bbolt_writer *writer;
	struct ks_err err = {0};
	int64_t records;
	size_t value_size;
	uint64_t size;
	char *value;
	int fd;

	must(argc == 4, "usage: make_db FILE RECORDS VALUE_SIZE");
	records = strtoll(argv[2], NULL, 10);
	value_size = strtoul(argv[3], NULL, 10);
	value = ks_xcalloc(1, value_size + 1);
	memset(value, 'v', value_size);
	fd = open(argv[1], O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	must(fd >= 0, "cannot make the file");
	writer = ks_bbolt_writer_new(fd, KS_BBOLT_PAGE_SIZE, &err);
	must(writer && ks_bbolt_writer_bucket(writer, ks_slice_str("key"), &err) == KS_OK, err.text);
	for (int64_t i = 0; i < records; i++)
		put_record(writer, i + 2, ks_slice_of(value, value_size));
	must(ks_bbolt_writer_finish(writer, &size, &err) == KS_OK, err.text);
	ks_bbolt_writer_free(writer);
	append_sum(fd, size);
	free(value);
	return close(fd) == 0 ? 0 : 1;
}
