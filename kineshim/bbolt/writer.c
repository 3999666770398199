/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A bbolt file from sorted input, bottom up: each level of a B+tree has one page under construction. A page that is full goes to
 * the file, and its first key with its number into the page of the level above. So pages are written once and in order, and
 * only the two meta pages at the front come last.
 *
 *	level 2   [ a─┐  m─┐ ]            ◄ in memory: one page for each level
 *	level 1   (…) (…)  [ m  p  t─┐ ]
 *	leaves    (….) (….) (….)  [ t u v ]      (): in the file already
 *
 * Names of buckets are the keys of a tree of their own, that is under construction all the while.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/buf.h"
#include "bbolt/bbolt.h"
#include "bbolt/layout.h"

#define LEVELS 24u /* branch pages have at least two children: enough for 2^24 of them */
#define OUT_BYTES (256u << 10)
#define FREELIST_PAGE KS_BBOLT_FIRST_PAGE

struct build { /* a page under construction */
	struct ks_bbolt_element *elements;
	size_t count, room;
	struct ks_buf bytes; /* keys and values */
};

struct tree {
	struct build levels[LEVELS]; /* 0: leaves */
	unsigned height;             /* the highest level that has anything */
	struct ks_buf last;          /* the key added last */
};

struct ks_bbolt_writer {
	int fd;
	uint32_t page_size;
	uint64_t next_page;
	uint64_t offset; /* in the file, of what is in 'out' */
	size_t out_size;
	uint8_t *out;
	struct tree buckets; /* their names and roots */
	struct tree keys;    /* of the bucket that is open */
	struct ks_buf name;  /* of that bucket; empty: none is open */
	struct ks_buf inlined;
};

static enum ks_status no_memory(struct ks_err *err)
{
	return ks_fail(err, KS_RESOURCE_EXHAUSTED, "out of memory for a bbolt file");
}

/* ---- bytes to the file ---- */

static enum ks_status write_at(int fd, const uint8_t *bytes, size_t size, uint64_t offset, struct ks_err *err)
{
	while (size > 0) {
		ssize_t wrote = pwrite(fd, bytes, size, (off_t)offset);

		if (wrote < 0 && errno == EINTR)
			continue;
		if (wrote <= 0) {
			int error = wrote < 0 ? errno : ENOSPC;
			bool full = error == ENOSPC || error == EDQUOT || error == EFBIG;

			return ks_fail(err, full ? KS_RESOURCE_EXHAUSTED : KS_UNAVAILABLE,
				       "cannot write a bbolt file: %s", strerror(error));
		}
		bytes += wrote;
		offset += (uint64_t)wrote;
		size -= (size_t)wrote;
	}
	return KS_OK;
}

static enum ks_status flush_out(struct ks_bbolt_writer *writer, struct ks_err *err)
{
	enum ks_status status = write_at(writer->fd, writer->out, writer->out_size, writer->offset, err);

	if (status == KS_OK) {
		writer->offset += writer->out_size;
		writer->out_size = 0;
	}
	return status;
}

/* Appends to the file; bytes == NULL: zeros. */
static enum ks_status emit(struct ks_bbolt_writer *writer, const uint8_t *bytes, size_t size, struct ks_err *err)
{
	while (size > 0) {
		size_t some = OUT_BYTES - writer->out_size;

		if (some > size)
			some = size;
		if (bytes) {
			memcpy(writer->out + writer->out_size, bytes, some);
			bytes += some;
		} else {
			memset(writer->out + writer->out_size, 0, some);
		}
		writer->out_size += some;
		size -= some;
		if (writer->out_size == OUT_BYTES) {
			enum ks_status status = flush_out(writer, err);

			if (status != KS_OK)
				return status;
		}
	}
	return KS_OK;
}

/* ---- pages ---- */

static size_t build_size(const struct build *build)
{
	return KS_BBOLT_PAGE_HEADER + KS_BBOLT_ELEMENT * build->count + build->bytes.size;
}

static void build_reset(struct build *build)
{
	build->count = 0;
	ks_buf_reset(&build->bytes);
}

static bool build_add(struct build *build, struct ks_bbolt_element element, struct ks_slice key, struct ks_slice value)
{
	if (build->count == build->room) {
		size_t room = build->room ? 2 * build->room : 64;
		struct ks_bbolt_element *bigger = realloc(build->elements, room * sizeof(*bigger));

		if (!bigger)
			return false;
		build->elements = bigger;
		build->room = room;
	}
	element.pos = (uint32_t)build->bytes.size; /* relative to the first one, until the page is complete */
	element.key_size = (uint32_t)key.size;
	element.value_size = (uint32_t)value.size;
	ks_buf_append_slice(&build->bytes, key);
	ks_buf_append_slice(&build->bytes, value);
	if (build->bytes.failed)
		return false;
	build->elements[build->count++] = element;
	return true;
}

static struct ks_slice first_key(const struct build *build)
{
	return ks_slice_of(build->bytes.data, build->elements[0].key_size);
}

static void encode_element(const struct build *build, size_t i, bool leaf, uint8_t to[KS_BBOLT_ELEMENT])
{
	struct ks_bbolt_element element = build->elements[i];

	element.pos += (uint32_t)(KS_BBOLT_ELEMENT * (build->count - i));
	ks_bbolt_element_encode(to, leaf, &element);
}

/* Gives the page its number and writes it. */
static enum ks_status write_page(struct ks_bbolt_writer *writer, const struct build *build, bool leaf, uint64_t *id,
				 struct ks_err *err)
{
	size_t size = build_size(build), pages = (size + writer->page_size - 1) / writer->page_size;
	struct ks_bbolt_page page = {
		.id = writer->next_page,
		.flags = leaf ? KS_BBOLT_LEAF : KS_BBOLT_BRANCH,
		.count = (uint16_t)build->count,
		.overflow = (uint32_t)(pages - 1),
	};
	uint8_t bytes[KS_BBOLT_PAGE_HEADER];
	enum ks_status status;

	*id = page.id;
	writer->next_page += pages;
	ks_bbolt_page_encode(bytes, &page);
	status = emit(writer, bytes, sizeof(bytes), err);
	for (size_t i = 0; status == KS_OK && i < build->count; i++) {
		encode_element(build, i, leaf, bytes);
		status = emit(writer, bytes, sizeof(bytes), err);
	}
	if (status == KS_OK)
		status = emit(writer, build->bytes.data, build->bytes.size, err);
	return status == KS_OK ? emit(writer, NULL, pages * writer->page_size - size, err) : status;
}

/* ---- trees ---- */

static void tree_init(struct tree *tree)
{
	for (unsigned i = 0; i < LEVELS; i++)
		ks_buf_init(&tree->levels[i].bytes, UINT32_MAX / 2);
	ks_buf_init(&tree->last, KS_BBOLT_KEY_MAX);
}

static void tree_fini(struct tree *tree)
{
	for (unsigned i = 0; i < LEVELS; i++) {
		free(tree->levels[i].elements);
		ks_buf_fini(&tree->levels[i].bytes);
	}
	ks_buf_fini(&tree->last);
}

static void tree_reset(struct tree *tree)
{
	for (unsigned i = 0; i <= tree->height; i++)
		build_reset(&tree->levels[i]);
	tree->height = 0;
	ks_buf_reset(&tree->last);
}

static bool is_full(const struct ks_bbolt_writer *writer, const struct tree *tree, unsigned level, size_t more)
{
	const struct build *build = &tree->levels[level];

	/* A branch with one child would make a tree of any height. */
	return build->count >= (level ? 2 : 1) && build_size(build) + KS_BBOLT_ELEMENT + more > writer->page_size;
}

static enum ks_status raise_page(struct ks_bbolt_writer *writer, struct tree *tree, unsigned level, struct ks_err *err);

static enum ks_status add(struct ks_bbolt_writer *writer, struct tree *tree, unsigned level,
			  struct ks_bbolt_element element, struct ks_slice key, struct ks_slice value,
			  struct ks_err *err)
{
	if (is_full(writer, tree, level, key.size + value.size)) {
		enum ks_status status = raise_page(writer, tree, level, err);

		if (status != KS_OK)
			return status;
	}
	return build_add(&tree->levels[level], element, key, value) ? KS_OK : no_memory(err);
}

/* Writes the page of the level, which has a successor, and notes it in the level above. */
static enum ks_status raise_page(struct ks_bbolt_writer *writer, struct tree *tree, unsigned level, struct ks_err *err)
{
	struct build *build = &tree->levels[level];
	struct ks_bbolt_element element = {0};
	enum ks_status status;

	if (level + 1 == LEVELS)
		return ks_fail(err, KS_RESOURCE_EXHAUSTED, "too many keys for a bbolt file");
	status = write_page(writer, build, level == 0, &element.child, err);
	if (status != KS_OK)
		return status;
	if (tree->height == level)
		tree->height = level + 1;
	status = add(writer, tree, level + 1, element, first_key(build), ks_slice_of(NULL, 0), err);
	build_reset(build);
	return status;
}

static enum ks_status tree_put(struct ks_bbolt_writer *writer, struct tree *tree, uint32_t flags, struct ks_slice key,
			       struct ks_slice value, struct ks_err *err)
{
	const struct ks_bbolt_element element = {.flags = flags};

	if (key.size == 0 || key.size > KS_BBOLT_KEY_MAX || value.size > KS_BBOLT_VALUE_MAX)
		return ks_fail(err, KS_INVALID_ARGUMENT,
			       "a key of %zu and a value of %zu bytes cannot be in a bbolt file", key.size, value.size);
	if (ks_slice_cmp(key, ks_slice_of(tree->last.data, tree->last.size)) <= 0)
		return ks_fail(err, KS_INVALID_ARGUMENT, "keys for a bbolt file are out of order");
	ks_buf_reset(&tree->last);
	ks_buf_append_slice(&tree->last, key);
	if (tree->last.failed)
		return no_memory(err);
	return add(writer, tree, 0, element, key, value, err);
}

/* Writes what is left; *root is the page of the highest level. */
static enum ks_status tree_finish(struct ks_bbolt_writer *writer, struct tree *tree, uint64_t *root, struct ks_err *err)
{
	enum ks_status status = KS_OK;

	/* The height grows while a branch page overflows here. */
	for (unsigned level = 0; status == KS_OK && level < tree->height; level++)
		status = raise_page(writer, tree, level, err);
	if (status == KS_OK)
		status = write_page(writer, &tree->levels[tree->height], tree->height == 0, root, err);
	tree_reset(tree);
	return status;
}

/* ---- buckets ---- */

/* A small bucket lies in the value that stands for it, as bbolt has it. */
static bool can_inline(const struct ks_bbolt_writer *writer)
{
	return writer->keys.height == 0 && build_size(&writer->keys.levels[0]) <= writer->page_size / 4;
}

static enum ks_status end_bucket(struct ks_bbolt_writer *writer, struct ks_err *err)
{
	struct build *leaf = &writer->keys.levels[0];
	uint8_t bytes[KS_BBOLT_PAGE_HEADER] = {0};
	enum ks_status status = KS_OK;
	uint64_t root = 0;

	if (writer->name.size == 0)
		return KS_OK;
	ks_buf_reset(&writer->inlined);
	if (!can_inline(writer)) {
		status = tree_finish(writer, &writer->keys, &root, err);
		ks_bbolt_put64(bytes, root);
		ks_buf_append(&writer->inlined, bytes, KS_BBOLT_BUCKET_HEADER);
	} else {
		const struct ks_bbolt_page page = {.flags = KS_BBOLT_LEAF, .count = (uint16_t)leaf->count};

		ks_buf_append(&writer->inlined, bytes, KS_BBOLT_BUCKET_HEADER);
		ks_bbolt_page_encode(bytes, &page);
		ks_buf_append(&writer->inlined, bytes, KS_BBOLT_PAGE_HEADER);
		for (size_t i = 0; i < leaf->count; i++) {
			encode_element(leaf, i, true, bytes);
			ks_buf_append(&writer->inlined, bytes, KS_BBOLT_ELEMENT);
		}
		ks_buf_append(&writer->inlined, leaf->bytes.data, leaf->bytes.size);
		tree_reset(&writer->keys);
	}
	if (status == KS_OK && writer->inlined.failed)
		status = no_memory(err);
	if (status == KS_OK)
		status = tree_put(writer, &writer->buckets, KS_BBOLT_ELEMENT_BUCKET,
				  ks_slice_of(writer->name.data, writer->name.size),
				  ks_slice_of(writer->inlined.data, writer->inlined.size), err);
	ks_buf_reset(&writer->name);
	return status;
}

enum ks_status ks_bbolt_writer_bucket(struct ks_bbolt_writer *writer, struct ks_slice name, struct ks_err *err)
{
	enum ks_status status = end_bucket(writer, err);

	if (status != KS_OK)
		return status;
	if (name.size == 0 || name.size > KS_BBOLT_KEY_MAX)
		return ks_fail(err, KS_INVALID_ARGUMENT, "a bucket's name of %zu bytes cannot be in a bbolt file",
			       name.size);
	ks_buf_append_slice(&writer->name, name);
	return writer->name.failed ? no_memory(err) : KS_OK;
}

enum ks_status ks_bbolt_writer_put(struct ks_bbolt_writer *writer, struct ks_slice key, struct ks_slice value,
				   struct ks_err *err)
{
	if (writer->name.size == 0)
		return ks_fail(err, KS_INVALID_ARGUMENT, "a key for a bbolt file belongs to no bucket");
	return tree_put(writer, &writer->keys, 0, key, value, err);
}

/* ---- the whole ---- */

static enum ks_status write_freelist(struct ks_bbolt_writer *writer, struct ks_err *err)
{
	const struct ks_bbolt_page page = {.id = FREELIST_PAGE, .flags = KS_BBOLT_FREELIST};
	uint8_t bytes[KS_BBOLT_PAGE_HEADER];
	enum ks_status status;

	ks_bbolt_page_encode(bytes, &page);
	status = emit(writer, bytes, sizeof(bytes), err);
	return status == KS_OK ? emit(writer, NULL, writer->page_size - sizeof(bytes), err) : status;
}

/* Both meta pages say the same; the second is the newer one. */
static enum ks_status write_metas(struct ks_bbolt_writer *writer, uint64_t root, struct ks_err *err)
{
	enum ks_status status = KS_OK;

	for (uint64_t i = 0; status == KS_OK && i < KS_BBOLT_FIRST_PAGE; i++) {
		const struct ks_bbolt_page page = {.id = i, .flags = KS_BBOLT_METAPAGE};
		const struct ks_bbolt_meta meta = {
			.page_size = writer->page_size,
			.root = root,
			.freelist = FREELIST_PAGE,
			.pages = writer->next_page,
			.transaction = i,
		};

		memset(writer->out, 0, writer->page_size);
		ks_bbolt_page_encode(writer->out, &page);
		ks_bbolt_meta_encode(writer->out + KS_BBOLT_PAGE_HEADER, &meta);
		status = write_at(writer->fd, writer->out, writer->page_size, i * writer->page_size, err);
	}
	return status;
}

enum ks_status ks_bbolt_writer_finish(struct ks_bbolt_writer *writer, uint64_t *size, struct ks_err *err)
{
	enum ks_status status = end_bucket(writer, err);
	uint64_t root = 0;

	if (status == KS_OK)
		status = tree_finish(writer, &writer->buckets, &root, err);
	if (status == KS_OK)
		status = flush_out(writer, err);
	if (status == KS_OK)
		status = write_metas(writer, root, err);
	*size = writer->next_page * writer->page_size;
	return status;
}

struct ks_bbolt_writer *ks_bbolt_writer_new(int fd, uint32_t page_size, struct ks_err *err)
{
	struct ks_bbolt_writer *writer = calloc(1, sizeof(*writer));

	if (!writer) {
		(void)no_memory(err);
		return NULL;
	}
	writer->fd = fd;
	writer->page_size = page_size;
	writer->next_page = FREELIST_PAGE + 1;
	writer->offset = (uint64_t)FREELIST_PAGE * page_size;
	writer->out = malloc(OUT_BYTES);
	tree_init(&writer->buckets);
	tree_init(&writer->keys);
	ks_buf_init(&writer->name, KS_BBOLT_KEY_MAX);
	ks_buf_init(&writer->inlined, KS_BBOLT_PAGE_SIZE_MAX);
	if (!ks_bbolt_page_size_sound(page_size))
		(void)ks_fail(err, KS_INVALID_ARGUMENT, "a bbolt file cannot have pages of %u bytes", page_size);
	else if (!writer->out)
		(void)no_memory(err);
	else if (write_freelist(writer, err) == KS_OK)
		return writer;
	ks_bbolt_writer_free(writer);
	return NULL;
}

void ks_bbolt_writer_free(struct ks_bbolt_writer *writer)
{
	if (!writer)
		return;
	tree_fini(&writer->buckets);
	tree_fini(&writer->keys);
	ks_buf_fini(&writer->name);
	ks_buf_fini(&writer->inlined);
	free(writer->out);
	free(writer);
}
