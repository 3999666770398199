/* SPDX-License-Identifier: Apache-2.0 */
/*
 * bbolt files: what is written reads the same, whatever the sizes; files that lie are refused, and every walk ends. That the
 * real bbolt and etcdutl take our files is shown by tests/snapshot, where a real etcd is.
 */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "bbolt/bbolt.h"
#include "bbolt/layout.h"
#include "tests/lib/tap.h"

static int new_file(void)
{
	int fd = memfd_create("test", MFD_CLOEXEC);

	CU_ASSERT_FATAL(fd >= 0);
	return fd;
}

/* What the tests write: 'count' keys of which key i and its value have sizes that depend on i alone. */
struct shape {
	size_t count, key_size, value_size;
};

static char big[1u << 20];

static struct ks_slice key_of(const struct shape *shape, size_t i, char *room)
{
	size_t size = shape->key_size > 8 ? shape->key_size : 8;

	memset(room, 'k', size);
	for (size_t at = 8; at-- > 0; i /= 10)
		room[at] = (char)('0' + i % 10);
	return ks_slice_of(room, size);
}

static struct ks_slice value_of(const struct shape *shape, size_t i)
{
	/* Sizes go through all of 0 … value_size, and contents differ. */
	size_t size = shape->value_size ? (i * 2654435761u) % (shape->value_size + 1) : 0;

	if (i % 7 == 3)
		size = shape->value_size;
	return ks_slice_of(big + i % 251, size);
}

static void write_bucket(struct ks_bbolt_writer *writer, const char *name, const struct shape *shape)
{
	static char room[KS_BBOLT_KEY_MAX];
	struct ks_err err = {0};

	CU_ASSERT_EQUAL_FATAL(ks_bbolt_writer_bucket(writer, ks_slice_str(name), &err), KS_OK);
	for (size_t i = 0; i < shape->count; i++)
		CU_ASSERT_EQUAL_FATAL(ks_bbolt_writer_put(writer, key_of(shape, i, room), value_of(shape, i), &err),
				      KS_OK);
}

static void check_bucket(const struct ks_bbolt *db, const char *name, const struct shape *shape)
{
	static char room[KS_BBOLT_KEY_MAX];
	struct ks_bbolt_cursor *cursor;
	struct ks_slice key, value;
	struct ks_err err = {0};
	bool more;

	CU_ASSERT_EQUAL_FATAL(ks_bbolt_cursor_open(db, ks_slice_str(name), &cursor, &err), KS_OK);
	for (size_t i = 0; i < shape->count; i++) {
		CU_ASSERT_EQUAL_FATAL(ks_bbolt_cursor_next(cursor, &key, &value, &more, &err), KS_OK);
		CU_ASSERT_FATAL(more);
		CU_ASSERT_FATAL(ks_slice_eq(key, key_of(shape, i, room)));
		CU_ASSERT_FATAL(ks_slice_eq(value, value_of(shape, i)));
	}
	CU_ASSERT_EQUAL(ks_bbolt_cursor_next(cursor, &key, &value, &more, &err), KS_OK);
	CU_ASSERT_FALSE(more);
	CU_ASSERT_EQUAL(ks_bbolt_cursor_next(cursor, &key, &value, &more, &err), KS_OK);
	CU_ASSERT_FALSE(more);
	ks_bbolt_cursor_close(cursor);
}

static uint64_t write_one(int fd, uint32_t page_size, const char *name, const struct shape *shape)
{
	struct ks_err err = {0};
	struct ks_bbolt_writer *writer = ks_bbolt_writer_new(fd, page_size, &err);
	uint64_t size;

	CU_ASSERT_FATAL(writer != NULL);
	write_bucket(writer, name, shape);
	CU_ASSERT_EQUAL_FATAL(ks_bbolt_writer_finish(writer, &size, &err), KS_OK);
	ks_bbolt_writer_free(writer);
	CU_ASSERT_EQUAL(size % page_size, 0);
	CU_ASSERT_EQUAL((uint64_t)lseek(fd, 0, SEEK_END), size);
	return size;
}

static const uint32_t page_sizes[] = {512, 4096, 65536};

static void what_is_written_reads_the_same(void)
{
	static const struct shape shapes[] = {
		{0, 8, 0},      {1, 8, 0},      {1, 8, 5},       {3, 20, 100},     {40, 17, 30},
		{1000, 17, 90}, {300, 600, 40}, {20, 30000, 10}, {50, 17, 100000}, {20000, 18, 60},
	};

	for (size_t p = 0; p < sizeof(page_sizes) / sizeof(*page_sizes); p++) {
		for (size_t i = 0; i < sizeof(shapes) / sizeof(*shapes); i++) {
			int fd = new_file();
			uint64_t size = write_one(fd, page_sizes[p], "key", &shapes[i]);
			struct ks_bbolt *db;
			struct ks_err err = {0};

			CU_ASSERT_EQUAL_FATAL(ks_bbolt_open(fd, size, &db, &err), KS_OK);
			CU_ASSERT_EQUAL(ks_bbolt_page_size(db), page_sizes[p]);
			check_bucket(db, "key", &shapes[i]);
			ks_bbolt_close(db);
			(void)close(fd);
		}
	}
}

static void many_buckets_of_all_sizes(void)
{
	struct shape shape = {.key_size = 12, .value_size = 40};
	struct ks_bbolt_cursor *names;
	struct ks_slice key, value;
	struct ks_err err = {0};
	char name[16];
	struct ks_bbolt *db;
	uint64_t size;
	int fd = new_file();
	struct ks_bbolt_writer *writer = ks_bbolt_writer_new(fd, 512, &err);
	bool more;

	CU_ASSERT_FATAL(writer != NULL);
	for (unsigned i = 0; i < 500; i++) {
		(void)snprintf(name, sizeof(name), "b%05u", i);
		shape.count = i % 50;
		write_bucket(writer, name, &shape);
	}
	CU_ASSERT_EQUAL(ks_bbolt_writer_finish(writer, &size, &err), KS_OK);
	ks_bbolt_writer_free(writer);
	CU_ASSERT_EQUAL_FATAL(ks_bbolt_open(fd, size, &db, &err), KS_OK);
	CU_ASSERT_EQUAL(ks_bbolt_cursor_open(db, ks_slice_of(NULL, 0), &names, &err), KS_OK);
	for (unsigned i = 0; i < 500; i++) {
		(void)snprintf(name, sizeof(name), "b%05u", i);
		CU_ASSERT_EQUAL_FATAL(ks_bbolt_cursor_next(names, &key, &value, &more, &err), KS_OK);
		CU_ASSERT_FATAL(more && ks_slice_eq(key, ks_slice_str(name)) && value.size == 0);
		shape.count = i % 50;
		check_bucket(db, name, &shape);
	}
	CU_ASSERT_EQUAL(ks_bbolt_cursor_next(names, &key, &value, &more, &err), KS_OK);
	CU_ASSERT_FALSE(more);
	ks_bbolt_cursor_close(names);
	CU_ASSERT_EQUAL(ks_bbolt_cursor_open(db, ks_slice_str("none"), &names, &err), KS_NOT_FOUND);
	ks_bbolt_close(db);
	(void)close(fd);
}

static void a_file_without_buckets(void)
{
	struct ks_err err = {0};
	int fd = new_file();
	struct ks_bbolt_writer *writer = ks_bbolt_writer_new(fd, 4096, &err);
	struct ks_bbolt_cursor *names;
	struct ks_slice key, value;
	struct ks_bbolt *db;
	uint64_t size;
	bool more;

	CU_ASSERT_FATAL(writer != NULL);
	CU_ASSERT_EQUAL(ks_bbolt_writer_finish(writer, &size, &err), KS_OK);
	ks_bbolt_writer_free(writer);
	CU_ASSERT_EQUAL_FATAL(ks_bbolt_open(fd, size, &db, &err), KS_OK);
	CU_ASSERT_EQUAL_FATAL(ks_bbolt_cursor_open(db, ks_slice_of(NULL, 0), &names, &err), KS_OK);
	CU_ASSERT_EQUAL(ks_bbolt_cursor_next(names, &key, &value, &more, &err), KS_OK);
	CU_ASSERT_FALSE(more);
	ks_bbolt_cursor_close(names);
	ks_bbolt_close(db);
	(void)close(fd);
}

static void same_input_gives_same_bytes(void)
{
	const struct shape shape = {3000, 17, 200};
	int a = new_file(), b = new_file();
	uint64_t size = write_one(a, 4096, "key", &shape);
	void *one, *other;

	CU_ASSERT_EQUAL_FATAL(write_one(b, 4096, "key", &shape), size);
	one = mmap(NULL, size, PROT_READ, MAP_SHARED, a, 0);
	other = mmap(NULL, size, PROT_READ, MAP_SHARED, b, 0);
	CU_ASSERT_FATAL(one != MAP_FAILED && other != MAP_FAILED);
	CU_ASSERT_EQUAL(memcmp(one, other, size), 0);
	(void)munmap(one, size);
	(void)munmap(other, size);
	(void)close(a);
	(void)close(b);
}

static void input_out_of_order_is_refused(void)
{
	struct ks_err err = {0};
	struct ks_slice b = ks_slice_str("b"), a = ks_slice_str("a"), none = ks_slice_of(NULL, 0);
	int fd = new_file();
	struct ks_bbolt_writer *writer = ks_bbolt_writer_new(fd, 4096, &err);
	uint64_t size;

	CU_ASSERT_FATAL(writer != NULL);
	CU_ASSERT_EQUAL(ks_bbolt_writer_put(writer, a, a, &err), KS_INVALID_ARGUMENT);
	CU_ASSERT_EQUAL(ks_bbolt_writer_bucket(writer, none, &err), KS_INVALID_ARGUMENT);
	CU_ASSERT_EQUAL(ks_bbolt_writer_bucket(writer, b, &err), KS_OK);
	CU_ASSERT_EQUAL(ks_bbolt_writer_put(writer, none, a, &err), KS_INVALID_ARGUMENT);
	CU_ASSERT_EQUAL(ks_bbolt_writer_put(writer, b, a, &err), KS_OK);
	CU_ASSERT_EQUAL(ks_bbolt_writer_put(writer, b, a, &err), KS_INVALID_ARGUMENT);
	CU_ASSERT_EQUAL(ks_bbolt_writer_put(writer, a, a, &err), KS_INVALID_ARGUMENT);
	CU_ASSERT_EQUAL(ks_bbolt_writer_put(writer, ks_slice_of(big, KS_BBOLT_KEY_MAX + 1), a, &err),
			KS_INVALID_ARGUMENT);
	CU_ASSERT_EQUAL(ks_bbolt_writer_bucket(writer, a, &err), KS_OK);
	CU_ASSERT_EQUAL(ks_bbolt_writer_finish(writer, &size, &err), KS_INVALID_ARGUMENT);
	ks_bbolt_writer_free(writer);
	CU_ASSERT_PTR_NULL(ks_bbolt_writer_new(fd, 1000, &err));
	CU_ASSERT_EQUAL(err.status, KS_INVALID_ARGUMENT);
	(void)close(fd);
}

/* In a child, because the limit is the process's. */
static void a_full_disk_is_an_error(void)
{
	const struct shape shape = {20000, 17, 200};
	char path[] = "/tmp/kineshim-test-bbolt-XXXXXX";
	int status, fd = mkstemp(path);
	pid_t child;

	CU_ASSERT_FATAL(fd >= 0);
	(void)unlink(path);
	child = fork();
	CU_ASSERT_FATAL(child >= 0);
	if (child == 0) {
		const struct rlimit limit = {1u << 20, 1u << 20};
		static char room[64];
		struct ks_err err = {0};
		struct ks_bbolt_writer *writer;
		enum ks_status result = KS_OK;

		(void)signal(SIGXFSZ, SIG_IGN);
		if (setrlimit(RLIMIT_FSIZE, &limit) != 0)
			_exit(2);
		writer = ks_bbolt_writer_new(fd, 4096, &err);
		if (!writer || ks_bbolt_writer_bucket(writer, ks_slice_str("key"), &err) != KS_OK)
			_exit(3);
		for (size_t i = 0; result == KS_OK && i < shape.count; i++)
			result = ks_bbolt_writer_put(writer, key_of(&shape, i, room), value_of(&shape, i), &err);
		ks_bbolt_writer_free(writer);
		_exit(result == KS_RESOURCE_EXHAUSTED && strstr(err.text, "too large") ? 0 : 4);
	}
	CU_ASSERT_EQUAL(waitpid(child, &status, 0), child);
	CU_ASSERT(WIFEXITED(status) && WEXITSTATUS(status) == 0);
	(void)close(fd);
}

/* ---- files that lie ---- */

struct image {
	uint8_t bytes[64 * 512];
	uint64_t size;
};

/* 60 keys on pages of 512 bytes: a root branch at the end, leaves before it. */
static void make_image(struct image *image)
{
	const struct shape shape = {60, 17, 60};
	int fd = new_file();

	image->size = write_one(fd, 512, "key", &shape);
	CU_ASSERT_FATAL(image->size <= sizeof(image->bytes));
	CU_ASSERT_FATAL(pread(fd, image->bytes, image->size, 0) == (ssize_t)image->size);
	(void)close(fd);
}

/* Walks bucket "key" to its end or first error; *count gets its keys. */
static enum ks_status walk(const struct image *image, uint64_t size, size_t *count, struct ks_err *err)
{
	struct ks_bbolt_cursor *cursor = NULL;
	struct ks_slice key, value;
	struct ks_bbolt *db;
	enum ks_status status;
	int fd = new_file();
	bool more = true;

	*count = 0;
	CU_ASSERT_FATAL(write(fd, image->bytes, size) == (ssize_t)size);
	status = ks_bbolt_open(fd, size, &db, err);
	if (status == KS_OK)
		status = ks_bbolt_cursor_open(db, ks_slice_str("key"), &cursor, err);
	while (status == KS_OK && more) {
		status = ks_bbolt_cursor_next(cursor, &key, &value, &more, err);
		if (status == KS_OK && more)
			(*count)++;
	}
	ks_bbolt_cursor_close(cursor);
	ks_bbolt_close(db);
	(void)close(fd);
	return status;
}

static void refuses(struct image *image, const char *text)
{
	struct ks_err err = {0};
	size_t count;

	CU_ASSERT_EQUAL(walk(image, image->size, &count, &err), KS_DATA_LOSS);
	CU_ASSERT(strstr(err.text, text) != NULL);
	if (!strstr(err.text, text))
		printf("# expected \"%s\", got \"%s\"\n", text, err.text);
}

static uint8_t *page_at(struct image *image, uint64_t id)
{
	return image->bytes + id * 512;
}

/* The number of the branch page over the leaves: the one that was written last before the names of buckets. */
static uint64_t branch_of(struct image *image)
{
	for (uint64_t id = image->size / 512 - 1; id >= 2; id--) {
		struct ks_bbolt_page page;

		ks_bbolt_page_decode(page_at(image, id), &page);
		if (page.flags == KS_BBOLT_BRANCH && page.id == id)
			return id;
	}
	CU_FAIL_FATAL("no branch page");
	return 0;
}

static void set_child(struct image *image, uint64_t branch, unsigned i, uint64_t child)
{
	ks_bbolt_put64(page_at(image, branch) + KS_BBOLT_PAGE_HEADER + KS_BBOLT_ELEMENT * (size_t)i + 8, child);
}

static void pages_that_lie_are_refused(void)
{
	struct image good, bad;
	struct ks_err err = {0};
	uint64_t branch, leaf;
	size_t count;

	make_image(&good);
	CU_ASSERT_EQUAL(walk(&good, good.size, &count, &err), KS_OK);
	CU_ASSERT_EQUAL(count, 60);
	branch = branch_of(&good);
	leaf = ks_bbolt_get64(page_at(&good, branch) + KS_BBOLT_PAGE_HEADER + 8);

	bad = good;
	set_child(&bad, branch, 1, branch); /* a cycle */
	refuses(&bad, "two pages lead to it");
	bad = good;
	set_child(&bad, branch, 1, leaf);
	refuses(&bad, "two pages lead to it");
	bad = good;
	set_child(&bad, branch, 0, good.size / 512);
	refuses(&bad, "there is no such page");
	set_child(&bad, branch, 0, UINT64_MAX);
	refuses(&bad, "there is no such page");
	set_child(&bad, branch, 0, 0);
	refuses(&bad, "there is no such page");
	set_child(&bad, branch, 0, 2); /* the freelist */
	refuses(&bad, "neither branch nor leaf");
	bad = good;
	ks_bbolt_put64(page_at(&bad, leaf), leaf + 1);
	refuses(&bad, "another one");
	bad = good;
	memset(page_at(&bad, leaf) + 12, 0xff, 4); /* overflow */
	refuses(&bad, "beyond the end");
	bad = good;
	memset(page_at(&bad, leaf) + 10, 0xff, 2); /* count: what follows is no element */
	CU_ASSERT_EQUAL(walk(&bad, bad.size, &count, &err), KS_DATA_LOSS);
	bad = good;
	memset(page_at(&bad, leaf) + 10, 0, 2);
	refuses(&bad, "it is empty");
	bad = good;
	memset(page_at(&bad, leaf) + KS_BBOLT_PAGE_HEADER + 8, 0xff, 4); /* key size */
	refuses(&bad, "points out of it");
	bad = good;
	memset(page_at(&bad, leaf) + KS_BBOLT_PAGE_HEADER + 4, 0xff, 4); /* pos */
	refuses(&bad, "points out of it");
	bad = good;
	page_at(&bad, leaf)[KS_BBOLT_PAGE_HEADER] = 1; /* flags */
	refuses(&bad, "a bucket is in a bucket");
	bad = good;
	/* The second element shows the first one's key. */
	memcpy(page_at(&bad, leaf) + KS_BBOLT_PAGE_HEADER + KS_BBOLT_ELEMENT,
	       page_at(&bad, leaf) + KS_BBOLT_PAGE_HEADER, KS_BBOLT_ELEMENT);
	page_at(&bad, leaf)[KS_BBOLT_PAGE_HEADER + KS_BBOLT_ELEMENT + 4] ^= KS_BBOLT_ELEMENT;
	refuses(&bad, "out of order");
}

static void the_newest_sound_meta_page_counts(void)
{
	struct image good, bad;
	struct ks_err err = {0};
	struct ks_bbolt_meta meta;
	size_t count;

	make_image(&good);
	for (unsigned i = 0; i < 2; i++) {
		bad = good;
		page_at(&bad, i)[KS_BBOLT_PAGE_HEADER + 20] ^= 1; /* so that its checksum is wrong */
		CU_ASSERT_EQUAL(walk(&bad, bad.size, &count, &err), KS_OK);
		CU_ASSERT_EQUAL(count, 60);
	}
	page_at(&bad, 0)[KS_BBOLT_PAGE_HEADER + 20] ^= 1;
	refuses(&bad, "not a bbolt file");
	/* A newer one that leads nowhere. */
	bad = good;
	CU_ASSERT(ks_bbolt_meta_decode(page_at(&bad, 0) + KS_BBOLT_PAGE_HEADER, &meta));
	meta.transaction = 7;
	meta.root = 1;
	ks_bbolt_meta_encode(page_at(&bad, 0) + KS_BBOLT_PAGE_HEADER, &meta);
	refuses(&bad, "impossible numbers");
	meta.root = 3;
	meta.pages = UINT64_MAX;
	ks_bbolt_meta_encode(page_at(&bad, 0) + KS_BBOLT_PAGE_HEADER, &meta);
	refuses(&bad, "cut off");
}

static void files_that_are_cut_off_are_refused(void)
{
	struct image image;
	struct ks_err err = {0};
	size_t count;

	make_image(&image);
	for (uint64_t size = 0; size < image.size; size += size < 1200 ? 1 : 37) {
		CU_ASSERT_EQUAL_FATAL(walk(&image, size, &count, &err), KS_DATA_LOSS);
		CU_ASSERT(err.text[0] != 0);
	}
}

static void any_changed_byte_is_survived(void)
{
	struct image image;
	struct ks_err err = {0};
	size_t count;

	make_image(&image);
	for (uint64_t i = 0; i < image.size; i++) {
		uint8_t was = image.bytes[i];

		for (unsigned change = 1; change < 256; change = change * 2 + 1) {
			image.bytes[i] = was ^ (uint8_t)change;
			(void)walk(&image, image.size, &count, &err);
			CU_ASSERT_FATAL(count <= 60);
		}
		image.bytes[i] = was;
	}
}

int main(void)
{
	for (size_t i = 0; i < sizeof(big); i++)
		big[i] = (char)(i * 131 >> 3);
	return tap_run("bbolt", (const struct tap_test[]){
					{"what_is_written_reads_the_same", what_is_written_reads_the_same},
					{"many_buckets_of_all_sizes", many_buckets_of_all_sizes},
					{"a_file_without_buckets", a_file_without_buckets},
					{"same_input_gives_same_bytes", same_input_gives_same_bytes},
					{"input_out_of_order_is_refused", input_out_of_order_is_refused},
					{"a_full_disk_is_an_error", a_full_disk_is_an_error},
					{"pages_that_lie_are_refused", pages_that_lie_are_refused},
					{"the_newest_sound_meta_page_counts", the_newest_sound_meta_page_counts},
					{"files_that_are_cut_off_are_refused", files_that_are_cut_off_are_refused},
					{"any_changed_byte_is_survived", any_changed_byte_is_survived},
					{NULL, NULL},
				});
}
