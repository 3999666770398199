/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Reading a bbolt file that anybody may have made. A cursor goes through a tree depth first, with the page of each level in
 * memory. What keeps a walk finite: a page is entered once (a bit for each), the depth is limited, and keys ascend over the
 * whole bucket. A page must have the number under which it was asked for, and lie inside the file with all that it points to.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/buf.h"
#include "bbolt/bbolt.h"
#include "bbolt/layout.h"

#define DEPTH_MAX 32u
#define KEEP_BYTES (1u << 20) /* larger pages do not stay in memory after they were walked */

struct ks_bbolt {
	int fd;
	struct ks_bbolt_meta meta;
};

struct frame { /* a page that is being walked */
	uint8_t *bytes;
	size_t size, room;
	uint64_t id; /* 0: inline */
	bool leaf;
	uint32_t count, i; /* elements, and the next of them */
};

struct ks_bbolt_cursor {
	const struct ks_bbolt *db;
	bool names; /* of buckets, instead of keys in one */
	struct frame frames[DEPTH_MAX];
	unsigned depth; /* frames in use */
	size_t memory;  /* of all frames */
	uint8_t *entered;
	struct ks_buf last;
};

static enum ks_status no_memory(struct ks_err *err)
{
	return ks_fail(err, KS_RESOURCE_EXHAUSTED, "out of memory for reading a bbolt file");
}

static enum ks_status damaged(uint64_t page, const char *why, struct ks_err *err)
{
	return ks_fail(err, KS_DATA_LOSS, "the bbolt file is damaged: page %" PRIu64 ": %s", page, why);
}

/* KS_DATA_LOSS when the file ends before. */
static enum ks_status read_at(int fd, uint8_t *to, size_t size, uint64_t offset, struct ks_err *err)
{
	while (size > 0) {
		ssize_t got = pread(fd, to, size, (off_t)offset);

		if (got < 0 && errno == EINTR)
			continue;
		if (got < 0)
			return ks_fail(err, KS_UNAVAILABLE, "cannot read a bbolt file: %s", strerror(errno));
		if (got == 0)
			return ks_fail(err, KS_DATA_LOSS, "the bbolt file ends too early");
		to += got;
		offset += (uint64_t)got;
		size -= (size_t)got;
	}
	return KS_OK;
}

/* ---- opening ---- */

/* A sound meta page there, of the whole of which the file has all pages? */
static bool read_meta(int fd, uint64_t size, uint64_t offset, struct ks_bbolt_meta *meta)
{
	uint8_t bytes[KS_BBOLT_PAGE_HEADER + KS_BBOLT_META];
	struct ks_bbolt_page page;
	struct ks_err err;

	if (size < sizeof(bytes) || offset > size - sizeof(bytes) ||
	    read_at(fd, bytes, sizeof(bytes), offset, &err) != KS_OK)
		return false;
	ks_bbolt_page_decode(bytes, &page);
	return page.flags == KS_BBOLT_METAPAGE && ks_bbolt_meta_decode(bytes + KS_BBOLT_PAGE_HEADER, meta) &&
	       (offset == 0 || offset == meta->page_size);
}

/* As bbolt does: the newer one of the two meta pages that is whole. Where the second one is, only the page size tells. */
static bool find_meta(int fd, uint64_t size, struct ks_bbolt_meta *newest)
{
	struct ks_bbolt_meta meta;
	bool found = read_meta(fd, size, 0, newest);

	for (uint32_t at = KS_BBOLT_PAGE_SIZE_MIN; at <= KS_BBOLT_PAGE_SIZE_MAX; at *= 2) {
		if (found && at != newest->page_size)
			continue;
		if (!read_meta(fd, size, at, &meta))
			continue;
		if (!found || meta.transaction > newest->transaction)
			*newest = meta;
		return true;
	}
	return found;
}

enum ks_status ks_bbolt_open(int fd, uint64_t size, struct ks_bbolt **db, struct ks_err *err)
{
	struct ks_bbolt_meta meta;

	*db = NULL;
	if (!find_meta(fd, size, &meta))
		return ks_fail(err, KS_DATA_LOSS, "this is not a bbolt file, or both its meta pages are damaged");
	if (meta.pages <= KS_BBOLT_FIRST_PAGE || meta.root < KS_BBOLT_FIRST_PAGE || meta.root >= meta.pages)
		return ks_fail(err, KS_DATA_LOSS, "the bbolt file is damaged: its meta page has impossible numbers");
	if (meta.pages > size / meta.page_size)
		return ks_fail(err, KS_DATA_LOSS,
			       "the bbolt file is cut off: it has %" PRIu64 " bytes, and should have %" PRIu64
			       " pages of %" PRIu32,
			       size, meta.pages, meta.page_size);
	*db = malloc(sizeof(**db));
	if (!*db)
		return no_memory(err);
	**db = (struct ks_bbolt){.fd = fd, .meta = meta};
	return KS_OK;
}

void ks_bbolt_close(struct ks_bbolt *db)
{
	free(db);
}

uint32_t ks_bbolt_page_size(const struct ks_bbolt *db)
{
	return db->meta.page_size;
}

/* ---- pages ---- */

static void drop_bytes(struct ks_bbolt_cursor *cursor, struct frame *frame)
{
	free(frame->bytes);
	cursor->memory -= frame->room;
	frame->bytes = NULL;
	frame->room = 0;
}

/* Room for 'size' bytes; what was in the frame may be gone. */
static enum ks_status make_room(struct ks_bbolt_cursor *cursor, struct frame *frame, size_t size, uint64_t id,
				struct ks_err *err)
{
	if (size <= frame->room)
		return KS_OK;
	drop_bytes(cursor, frame);
	if (size > KS_BBOLT_PAGES_MEMORY || cursor->memory > KS_BBOLT_PAGES_MEMORY - size)
		return ks_fail(err, KS_RESOURCE_EXHAUSTED, "page %" PRIu64 " of the bbolt file is too large", id);
	frame->bytes = malloc(size);
	if (!frame->bytes)
		return no_memory(err);
	frame->room = size;
	cursor->memory += size;
	return KS_OK;
}

static enum ks_status check_page(const struct ks_bbolt_cursor *cursor, const struct ks_bbolt_page *page, uint64_t id,
				 struct ks_err *err)
{
	uint64_t pages = cursor->db->meta.pages;

	if (page->id != id)
		return damaged(id, "it says that it is another one", err);
	if (page->flags != KS_BBOLT_LEAF && page->flags != KS_BBOLT_BRANCH)
		return damaged(id, "it is neither branch nor leaf", err);
	if (page->overflow >= pages - id)
		return damaged(id, "it reaches beyond the end", err);
	if (page->count == 0 && cursor->depth > 0)
		return damaged(id, "it is empty", err);
	if (page->count == 0 && page->flags == KS_BBOLT_BRANCH)
		return damaged(id, "it is a branch without children", err);
	for (uint64_t i = id; i <= id + page->overflow; i++) {
		if (cursor->entered[i / 8] & (1u << (i % 8)))
			return damaged(i, "two pages lead to it", err);
		cursor->entered[i / 8] |= (uint8_t)(1u << (i % 8));
	}
	return KS_OK;
}

static void enter(struct ks_bbolt_cursor *cursor, uint64_t id, size_t size, const struct ks_bbolt_page *page)
{
	struct frame *frame = &cursor->frames[cursor->depth++];

	frame->id = id;
	frame->size = size;
	frame->leaf = page->flags == KS_BBOLT_LEAF;
	frame->count = page->count;
	frame->i = 0;
}

/* Reads the page and stands before its first element. */
static enum ks_status push_page(struct ks_bbolt_cursor *cursor, uint64_t id, struct ks_err *err)
{
	const struct ks_bbolt_meta *meta = &cursor->db->meta;
	uint8_t header[KS_BBOLT_PAGE_HEADER];
	struct ks_bbolt_page page;
	enum ks_status status;
	uint64_t offset, size;

	if (cursor->depth == DEPTH_MAX)
		return damaged(id, "the tree is too deep", err);
	if (id < KS_BBOLT_FIRST_PAGE || id >= meta->pages)
		return damaged(id, "there is no such page", err);
	offset = id * meta->page_size;
	status = read_at(cursor->db->fd, header, sizeof(header), offset, err);
	if (status != KS_OK)
		return status;
	ks_bbolt_page_decode(header, &page);
	status = check_page(cursor, &page, id, err);
	size = ((uint64_t)page.overflow + 1) * meta->page_size;
	if (status == KS_OK)
		status = make_room(cursor, &cursor->frames[cursor->depth], size, id, err);
	if (status == KS_OK)
		status = read_at(cursor->db->fd, cursor->frames[cursor->depth].bytes, size, offset, err);
	if (status == KS_OK)
		enter(cursor, id, size, &page);
	return status;
}

static enum ks_status push_inline(struct ks_bbolt_cursor *cursor, struct ks_slice bytes, struct ks_err *err)
{
	struct frame *frame = &cursor->frames[cursor->depth];
	struct ks_bbolt_page page;
	enum ks_status status;

	if (bytes.size < KS_BBOLT_PAGE_HEADER)
		return damaged(0, "an inline bucket is cut off", err);
	ks_bbolt_page_decode(bytes.data, &page);
	if (page.flags != KS_BBOLT_LEAF || page.overflow)
		return damaged(0, "an inline bucket is not one leaf", err);
	status = make_room(cursor, frame, bytes.size, 0, err);
	if (status != KS_OK)
		return status;
	memcpy(frame->bytes, bytes.data, bytes.size);
	enter(cursor, 0, bytes.size, &page);
	return KS_OK;
}

static void pop(struct ks_bbolt_cursor *cursor)
{
	struct frame *frame = &cursor->frames[--cursor->depth];

	if (frame->room > KEEP_BYTES)
		drop_bytes(cursor, frame);
}

/* The next element of the page, with its key and, in a leaf, its value. */
static enum ks_status next_element(struct frame *frame, struct ks_bbolt_element *element, struct ks_slice *key,
				   struct ks_slice *value, struct ks_err *err)
{
	size_t at = KS_BBOLT_PAGE_HEADER + (size_t)KS_BBOLT_ELEMENT * frame->i++, start;

	if (at + KS_BBOLT_ELEMENT > frame->size)
		return damaged(frame->id, "its elements do not fit into it", err);
	ks_bbolt_element_decode(frame->bytes + at, frame->leaf, element);
	start = at + element->pos;
	if (element->pos < KS_BBOLT_ELEMENT || start > frame->size || element->key_size > frame->size - start ||
	    element->value_size > frame->size - start - element->key_size)
		return damaged(frame->id, "an element points out of it", err);
	if (element->key_size > KS_BBOLT_KEY_MAX)
		return damaged(frame->id, "a key is too long", err);
	*key = ks_slice_of(frame->bytes + start, element->key_size);
	*value = ks_slice_of(frame->bytes + start + element->key_size, element->value_size);
	return KS_OK;
}

/* ---- walking ---- */

/* Down to the next leaf element, if there is one. */
static enum ks_status next_leaf(struct ks_bbolt_cursor *cursor, struct ks_bbolt_element *element, struct ks_slice *key,
				struct ks_slice *value, bool *more, struct ks_err *err)
{
	enum ks_status status = KS_OK;

	*more = false;
	while (status == KS_OK && cursor->depth > 0) {
		struct frame *frame = &cursor->frames[cursor->depth - 1];

		if (frame->i == frame->count) {
			pop(cursor);
			continue;
		}
		status = next_element(frame, element, key, value, err);
		if (status == KS_OK && frame->leaf) {
			*more = true;
			return KS_OK;
		}
		if (status == KS_OK)
			status = push_page(cursor, element->child, err);
	}
	return status;
}

/* The same, with what may be believed of the element checked; the value of a bucket is what stands for it. */
static enum ks_status next_checked(struct ks_bbolt_cursor *cursor, struct ks_slice *key, struct ks_slice *value,
				   bool *more, struct ks_err *err)
{
	struct ks_bbolt_element element;
	enum ks_status status = next_leaf(cursor, &element, key, value, more, err);
	const struct frame *frame;

	if (status != KS_OK || !*more)
		return status;
	*more = false;
	frame = &cursor->frames[cursor->depth - 1];
	if (ks_slice_cmp(*key, ks_slice_of(cursor->last.data, cursor->last.size)) <= 0)
		return damaged(frame->id, "keys are out of order", err);
	if (((element.flags & KS_BBOLT_ELEMENT_BUCKET) != 0) != cursor->names)
		return damaged(frame->id, cursor->names ? "a key belongs to no bucket" : "a bucket is in a bucket",
			       err);
	ks_buf_reset(&cursor->last);
	ks_buf_append_slice(&cursor->last, *key);
	if (cursor->last.failed)
		return no_memory(err);
	*more = true;
	return KS_OK;
}

enum ks_status ks_bbolt_cursor_next(struct ks_bbolt_cursor *cursor, struct ks_slice *key, struct ks_slice *value,
				    bool *more, struct ks_err *err)
{
	enum ks_status status = next_checked(cursor, key, value, more, err);

	if (cursor->names)
		*value = ks_slice_of(NULL, 0);
	return status;
}

/* ---- cursors ---- */

static struct ks_bbolt_cursor *new_cursor(const struct ks_bbolt *db)
{
	struct ks_bbolt_cursor *cursor = calloc(1, sizeof(*cursor));

	if (!cursor)
		return NULL;
	cursor->db = db;
	ks_buf_init(&cursor->last, KS_BBOLT_KEY_MAX);
	cursor->entered = calloc(1, (size_t)(db->meta.pages / 8 + 1));
	if (!cursor->entered) {
		ks_bbolt_cursor_close(cursor);
		return NULL;
	}
	return cursor;
}

void ks_bbolt_cursor_close(struct ks_bbolt_cursor *cursor)
{
	if (!cursor)
		return;
	for (unsigned i = 0; i < DEPTH_MAX; i++)
		free(cursor->frames[i].bytes);
	free(cursor->entered);
	ks_buf_fini(&cursor->last);
	free(cursor);
}

static enum ks_status push_bucket(struct ks_bbolt_cursor *cursor, struct ks_slice value, struct ks_err *err)
{
	uint64_t root;

	if (value.size < KS_BBOLT_BUCKET_HEADER)
		return damaged(0, "a bucket is cut off", err);
	root = ks_bbolt_get64(value.data);
	if (root)
		return push_page(cursor, root, err);
	return push_inline(cursor,
			   ks_slice_of(value.data + KS_BBOLT_BUCKET_HEADER, value.size - KS_BBOLT_BUCKET_HEADER), err);
}

/* Looks for the name among the buckets, with a cursor of its own, and enters what it finds with 'cursor'. */
static enum ks_status enter_bucket(struct ks_bbolt_cursor *names, struct ks_bbolt_cursor *cursor, struct ks_slice name,
				   struct ks_err *err)
{
	struct ks_slice key, value;
	bool more = true;

	while (more) {
		enum ks_status status = next_checked(names, &key, &value, &more, err);

		if (status != KS_OK)
			return status;
		if (more && ks_slice_eq(key, name))
			return push_bucket(cursor, value, err);
	}
	return ks_fail(err, KS_NOT_FOUND, "the bbolt file has no bucket \"%.*s\"", (int)name.size,
		       (const char *)name.data);
}

enum ks_status ks_bbolt_cursor_open(const struct ks_bbolt *db, struct ks_slice bucket, struct ks_bbolt_cursor **cursor,
				    struct ks_err *err)
{
	struct ks_bbolt_cursor *names = new_cursor(db), *keys = NULL;
	enum ks_status status = KS_OK;

	*cursor = NULL;
	if (!names)
		return no_memory(err);
	names->names = true;
	status = push_page(names, db->meta.root, err);
	if (status == KS_OK && bucket.size == 0) {
		*cursor = names;
		return KS_OK;
	}
	if (status == KS_OK) {
		keys = new_cursor(db);
		status = keys ? enter_bucket(names, keys, bucket, err) : no_memory(err);
	}
	ks_bbolt_cursor_close(names);
	if (status == KS_OK)
		*cursor = keys;
	else
		ks_bbolt_cursor_close(keys);
	return status;
}
