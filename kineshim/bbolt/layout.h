/* SPDX-License-Identifier: Apache-2.0 */
/*
 * How bytes lie in a bbolt file; for writer.c and reader.c only. Numbers are little endian, as on every machine etcd supports.
 *
 *	file    page 0 and 1: meta; the rest: freelist, branch and leaf pages, each with as many overflow pages as it says
 *	page    id u64 | flags u16 | count u16 | overflow u32 | elements[count] | keys and values
 *	branch  element: pos u32 | key size u32 | child page u64
 *	leaf    element: flags u32 | pos u32 | key size u32 | value size u32       pos counts from the element's own start
 *	bucket  a leaf element with KS_BBOLT_ELEMENT_BUCKET; value: root page u64 | sequence u64, and when root is 0 a whole
 *	        leaf page behind it ("inline")
 *	meta    magic u32 | version u32 | page size u32 | flags u32 | root page u64 | sequence u64 | freelist page u64 |
 *	        number of pages u64 | transaction u64 | FNV-1a of all that u64
 */
#ifndef KS_BBOLT_LAYOUT_H
#define KS_BBOLT_LAYOUT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define KS_BBOLT_MAGIC 0xED0CDAEDu
#define KS_BBOLT_VERSION 2u
#define KS_BBOLT_PAGE_HEADER 16u
#define KS_BBOLT_ELEMENT 16u
#define KS_BBOLT_BUCKET_HEADER 16u
#define KS_BBOLT_META 64u
#define KS_BBOLT_FIRST_PAGE 2u /* behind the meta pages */
#define KS_BBOLT_PAGE_SIZE_MIN 512u
#define KS_BBOLT_PAGE_SIZE_MAX 65536u

enum { KS_BBOLT_BRANCH = 0x01, KS_BBOLT_LEAF = 0x02, KS_BBOLT_METAPAGE = 0x04, KS_BBOLT_FREELIST = 0x10 };
#define KS_BBOLT_ELEMENT_BUCKET 0x01u

struct ks_bbolt_page {
	uint64_t id;
	uint16_t flags;
	uint16_t count;
	uint32_t overflow;
};

struct ks_bbolt_element { /* flags and value_size of leaves, child of branches */
	uint32_t flags, pos, key_size, value_size;
	uint64_t child;
};

struct ks_bbolt_meta {
	uint32_t page_size;
	uint64_t root, freelist, pages, transaction;
};

bool ks_bbolt_page_size_sound(uint32_t page_size);
uint64_t ks_bbolt_get64(const uint8_t *from);
void ks_bbolt_put64(uint8_t *to, uint64_t value);
void ks_bbolt_page_encode(uint8_t to[KS_BBOLT_PAGE_HEADER], const struct ks_bbolt_page *page);
void ks_bbolt_page_decode(const uint8_t from[KS_BBOLT_PAGE_HEADER], struct ks_bbolt_page *page);
void ks_bbolt_element_encode(uint8_t to[KS_BBOLT_ELEMENT], bool leaf, const struct ks_bbolt_element *element);
void ks_bbolt_element_decode(const uint8_t from[KS_BBOLT_ELEMENT], bool leaf, struct ks_bbolt_element *element);
void ks_bbolt_meta_encode(uint8_t to[KS_BBOLT_META], const struct ks_bbolt_meta *meta);
/* False when magic, version, page size or checksum are wrong. */
bool ks_bbolt_meta_decode(const uint8_t from[KS_BBOLT_META], struct ks_bbolt_meta *meta);

#endif
