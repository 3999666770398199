/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Files of bbolt, the key-value store under etcd: a writer that makes one from sorted input, and a reader that believes
 * nothing. Both know buckets of keys and values, one level deep, as etcd has them; neither knows what etcd puts in there.
 *
 * Ownership: the caller keeps the file descriptor and closes it; slices are borrowed for the call, and what a cursor
 * shows is valid until its next call. Threads: one at a time for each object; cursors of one file are independent of each other.
 * Errors: KS_DATA_LOSS for a file that is not sound, KS_RESOURCE_EXHAUSTED for a full disk or no memory, KS_UNAVAILABLE when
 * the disk fails; always with a text for a person. Limits: see the constants.
 */
#ifndef KS_BBOLT_BBOLT_H
#define KS_BBOLT_BBOLT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/bytes.h"
#include "base/status.h"

#define KS_BBOLT_PAGE_SIZE 4096u /* of the files that we write: bbolt reads any */
#define KS_BBOLT_KEY_MAX 32768u  /* bbolt's own limit */
#define KS_BBOLT_VALUE_MAX (1u << 30)
#define KS_BBOLT_PAGES_MEMORY (256u << 20) /* what the pages under one cursor may take together */

/* ---- writing ---- */

struct ks_bbolt_writer;

/*
 * Writes to 'fd' from offset 0 on, which must be an empty file that can seek. Pages go out as they fill: memory is a few of them,
 * whatever the file's size. The same input gives the same bytes. 'page_size' is a power of two from 512 to 65536.
 */
struct ks_bbolt_writer *ks_bbolt_writer_new(int fd, uint32_t page_size, struct ks_err *err);
void ks_bbolt_writer_free(struct ks_bbolt_writer *writer); /* NULL is fine; without finish the file is no database */
/* Ends the bucket before it, if any. Names ascend. */
enum ks_status ks_bbolt_writer_bucket(struct ks_bbolt_writer *writer, struct ks_slice name,
				      struct ks_err *err) KS_MUST_CHECK;
/* Into the bucket begun last. Keys ascend and are not empty; KS_INVALID_ARGUMENT when not. */
enum ks_status ks_bbolt_writer_put(struct ks_bbolt_writer *writer, struct ks_slice key, struct ks_slice value,
				   struct ks_err *err) KS_MUST_CHECK;
/* *size: of the whole file, a multiple of the page size. After an error, nothing but free. */
enum ks_status ks_bbolt_writer_finish(struct ks_bbolt_writer *writer, uint64_t *size, struct ks_err *err) KS_MUST_CHECK;

/* ---- reading ---- */

struct ks_bbolt;
struct ks_bbolt_cursor;

/*
 * The database in the first 'size' bytes of 'fd', as of its newest sound meta page. Only what is looked at is checked, but that
 * wholly: a walk of any file ends, and needs no more memory than the limit above and a bit for each page.
 */
enum ks_status ks_bbolt_open(int fd, uint64_t size, struct ks_bbolt **db, struct ks_err *err) KS_MUST_CHECK;
void ks_bbolt_close(struct ks_bbolt *db); /* after its cursors; NULL is fine */
uint32_t ks_bbolt_page_size(const struct ks_bbolt *db);

/* In front of the first key of a bucket, or, with an empty name, of the first name of a bucket. KS_NOT_FOUND: no such bucket. */
enum ks_status ks_bbolt_cursor_open(const struct ks_bbolt *db, struct ks_slice bucket, struct ks_bbolt_cursor **cursor,
				    struct ks_err *err) KS_MUST_CHECK;
void ks_bbolt_cursor_close(struct ks_bbolt_cursor *cursor); /* NULL is fine */
/* The next key, in ascending order; *more is false behind the last one. With names of buckets 'value' is empty. */
enum ks_status ks_bbolt_cursor_next(struct ks_bbolt_cursor *cursor, struct ks_slice *key, struct ks_slice *value,
				    bool *more, struct ks_err *err) KS_MUST_CHECK;

#endif
