/* SPDX-License-Identifier: Apache-2.0 */
/*
 * bbolt files that somebody made: the reader walks all buckets of any input, within bounds, and what it reads can be written
 * again and reads the same. A checksum is no obstacle to an attacker, so the meta pages are mended first: with the first byte
 * odd, the input is taken as it is.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/panic.h"
#include "bbolt/bbolt.h"
#include "bbolt/layout.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static int file_of(const uint8_t *data, size_t size)
{
	int fd = memfd_create("fuzz", MFD_CLOEXEC);

	KS_ASSERT(fd >= 0);
	while (size > 0) {
		ssize_t wrote = write(fd, data, size);

		KS_ASSERT(wrote > 0);
		data += wrote;
		size -= (size_t)wrote;
	}
	return fd;
}

/* Gives a meta page at 'at' its right checksum, by encoding it anew. */
static void mend(uint8_t *data, size_t size, size_t at)
{
	struct ks_bbolt_meta meta;
	uint8_t *bytes = data + at + KS_BBOLT_PAGE_HEADER;

	if (at + KS_BBOLT_PAGE_HEADER + KS_BBOLT_META > size)
		return;
	(void)ks_bbolt_meta_decode(bytes, &meta);
	ks_bbolt_meta_encode(bytes, &meta);
}

/* Copies a bucket, which was sound until its end or its first error. */
static void copy_bucket(const struct ks_bbolt *db, struct ks_slice name, struct ks_bbolt_writer *writer)
{
	struct ks_bbolt_cursor *cursor;
	struct ks_slice key, value;
	struct ks_err err;
	bool more = true;

	KS_ASSERT(ks_bbolt_writer_bucket(writer, name, &err) == KS_OK);
	if (ks_bbolt_cursor_open(db, name, &cursor, &err) != KS_OK)
		return;
	while (ks_bbolt_cursor_next(cursor, &key, &value, &more, &err) == KS_OK && more)
		KS_ASSERT(ks_bbolt_writer_put(writer, key, value, &err) == KS_OK);
	ks_bbolt_cursor_close(cursor);
}

/* The number of keys in all buckets; every one of them is copied when there is a writer. */
static size_t walk(const struct ks_bbolt *db, struct ks_bbolt_writer *writer)
{
	struct ks_bbolt_cursor *names;
	struct ks_slice name, value;
	struct ks_err err;
	size_t count = 0;
	bool more = true;

	if (ks_bbolt_cursor_open(db, ks_slice_of(NULL, 0), &names, &err) != KS_OK)
		return 0;
	/* 64 buckets will do: each is looked for among all, and a hostile file can have thousands. */
	while (count < 64 && ks_bbolt_cursor_next(names, &name, &value, &more, &err) == KS_OK && more) {
		copy_bucket(db, name, writer);
		count++;
	}
	ks_bbolt_cursor_close(names);
	return count;
}

static size_t count_buckets(int fd, uint64_t size)
{
	struct ks_bbolt_cursor *names;
	struct ks_slice name, value;
	struct ks_bbolt *db;
	struct ks_err err;
	size_t count = 0;
	bool more = true;

	KS_ASSERT(ks_bbolt_open(fd, size, &db, &err) == KS_OK);
	KS_ASSERT(ks_bbolt_cursor_open(db, ks_slice_of(NULL, 0), &names, &err) == KS_OK);
	for (;; count++) {
		KS_ASSERT(ks_bbolt_cursor_next(names, &name, &value, &more, &err) == KS_OK);
		if (!more)
			break;
	}
	ks_bbolt_cursor_close(names);
	ks_bbolt_close(db);
	return count;
}

static void read_all(int fd, uint64_t size)
{
	struct ks_bbolt *db;
	struct ks_bbolt_writer *writer;
	struct ks_err err;
	uint64_t written;
	size_t count;
	int copy;

	if (ks_bbolt_open(fd, size, &db, &err) != KS_OK)
		return;
	copy = file_of(NULL, 0);
	writer = ks_bbolt_writer_new(copy, ks_bbolt_page_size(db), &err);
	KS_ASSERT(writer);
	count = walk(db, writer);
	KS_ASSERT(ks_bbolt_writer_finish(writer, &written, &err) == KS_OK);
	ks_bbolt_writer_free(writer);
	KS_ASSERT(count_buckets(copy, written) == count);
	(void)close(copy);
	ks_bbolt_close(db);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	uint8_t *mended = malloc(size + 1);
	int fd;

	KS_ASSERT(mended);
	memcpy(mended, data, size);
	if (size > 0 && mended[0] % 2 == 0) {
		mend(mended, size, 0);
		for (size_t at = KS_BBOLT_PAGE_SIZE_MIN; at <= KS_BBOLT_PAGE_SIZE_MAX; at *= 2)
			if (at + KS_BBOLT_PAGE_HEADER < size && mended[at + 8] == KS_BBOLT_METAPAGE)
				mend(mended, size, at);
	}
	fd = file_of(mended, size);
	read_all(fd, size);
	(void)close(fd);
	free(mended);
	return 0;
}
