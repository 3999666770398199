/* SPDX-License-Identifier: Apache-2.0 */
/* The fixed parts of a bbolt file to bytes and back; layout.h draws them. */
#include "bbolt/layout.h"

#define META_CHECKSUM 56u /* where it is: over everything before it */

static uint64_t get(const uint8_t *from, unsigned bytes)
{
	uint64_t value = 0;

	for (unsigned i = 0; i < bytes; i++)
		value |= (uint64_t)from[i] << (8 * i);
	return value;
}

static void put(uint8_t *to, unsigned bytes, uint64_t value)
{
	for (unsigned i = 0; i < bytes; i++)
		to[i] = (uint8_t)(value >> (8 * i));
}

static uint64_t fnv1a(const uint8_t *bytes, size_t size)
{
	uint64_t hash = 0xcbf29ce484222325u;

	for (size_t i = 0; i < size; i++)
		hash = (hash ^ bytes[i]) * 0x100000001b3u;
	return hash;
}

bool ks_bbolt_page_size_sound(uint32_t page_size)
{
	return page_size >= KS_BBOLT_PAGE_SIZE_MIN && page_size <= KS_BBOLT_PAGE_SIZE_MAX &&
	       (page_size & (page_size - 1)) == 0;
}

uint64_t ks_bbolt_get64(const uint8_t *from)
{
	return get(from, 8);
}

void ks_bbolt_put64(uint8_t *to, uint64_t value)
{
	put(to, 8, value);
}

void ks_bbolt_page_encode(uint8_t to[KS_BBOLT_PAGE_HEADER], const struct ks_bbolt_page *page)
{
	put(to, 8, page->id);
	put(to + 8, 2, page->flags);
	put(to + 10, 2, page->count);
	put(to + 12, 4, page->overflow);
}

void ks_bbolt_page_decode(const uint8_t from[KS_BBOLT_PAGE_HEADER], struct ks_bbolt_page *page)
{
	page->id = get(from, 8);
	page->flags = (uint16_t)get(from + 8, 2);
	page->count = (uint16_t)get(from + 10, 2);
	page->overflow = (uint32_t)get(from + 12, 4);
}

void ks_bbolt_element_encode(uint8_t to[KS_BBOLT_ELEMENT], bool leaf, const struct ks_bbolt_element *element)
{
	if (leaf) {
		put(to, 4, element->flags);
		put(to + 4, 4, element->pos);
		put(to + 8, 4, element->key_size);
		put(to + 12, 4, element->value_size);
	} else {
		put(to, 4, element->pos);
		put(to + 4, 4, element->key_size);
		put(to + 8, 8, element->child);
	}
}

void ks_bbolt_element_decode(const uint8_t from[KS_BBOLT_ELEMENT], bool leaf, struct ks_bbolt_element *element)
{
	*element = (struct ks_bbolt_element){0};
	if (leaf) {
		element->flags = (uint32_t)get(from, 4);
		element->pos = (uint32_t)get(from + 4, 4);
		element->key_size = (uint32_t)get(from + 8, 4);
		element->value_size = (uint32_t)get(from + 12, 4);
	} else {
		element->pos = (uint32_t)get(from, 4);
		element->key_size = (uint32_t)get(from + 4, 4);
		element->child = get(from + 8, 8);
	}
}

void ks_bbolt_meta_encode(uint8_t to[KS_BBOLT_META], const struct ks_bbolt_meta *meta)
{
	put(to, 4, KS_BBOLT_MAGIC);
	put(to + 4, 4, KS_BBOLT_VERSION);
	put(to + 8, 4, meta->page_size);
	put(to + 12, 4, 0);
	put(to + 16, 8, meta->root);
	put(to + 24, 8, 0); /* the root bucket's sequence: nobody uses it */
	put(to + 32, 8, meta->freelist);
	put(to + 40, 8, meta->pages);
	put(to + 48, 8, meta->transaction);
	put(to + META_CHECKSUM, 8, fnv1a(to, META_CHECKSUM));
}

bool ks_bbolt_meta_decode(const uint8_t from[KS_BBOLT_META], struct ks_bbolt_meta *meta)
{
	*meta = (struct ks_bbolt_meta){
		.page_size = (uint32_t)get(from + 8, 4),
		.root = get(from + 16, 8),
		.freelist = get(from + 32, 8),
		.pages = get(from + 40, 8),
		.transaction = get(from + 48, 8),
	};
	return get(from, 4) == KS_BBOLT_MAGIC && get(from + 4, 4) == KS_BBOLT_VERSION &&
	       ks_bbolt_page_size_sound(meta->page_size) && get(from + META_CHECKSUM, 8) == fnv1a(from, META_CHECKSUM);
}
