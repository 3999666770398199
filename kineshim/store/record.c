/* SPDX-License-Identifier: Apache-2.0 */
/* The list of a key's records: none at all for the usual one, a ring-less deque for more. See record.h. */
#include "store/record.h"

#include <stdlib.h>

#include "base/panic.h"

#define FIRST_CAPACITY 4u

_Static_assert(sizeof(struct ks_record) == 64, "a record is one cache line");

uint32_t ks_key_count_at(const struct ks_key *key, int64_t revision)
{
	struct ks_record *const *records = ks_key_records(key);
	uint32_t low = 0, high = key->count;

	while (low < high) {
		uint32_t middle = low + (high - low) / 2;

		if (records[middle]->revision <= revision)
			low = middle + 1;
		else
			high = middle;
	}
	return low;
}

static size_t list_size(uint32_t capacity)
{
	return sizeof(struct ks_record_list) + (size_t)capacity * sizeof(struct ks_record *);
}

/* Moves the records to the front of a list of the given capacity. */
static bool set_capacity(struct ks_key *key, uint32_t capacity)
{
	struct ks_record_list *list = key->list;

	if (list->start) {
		memmove(list->items, list->items + list->start, key->count * sizeof(list->items[0]));
		list->start = 0;
	}
	if (capacity == list->capacity)
		return true;
	list = realloc(list, list_size(capacity));
	if (!list)
		return capacity < key->list->capacity;
	list->capacity = capacity;
	key->list = list;
	return true;
}

bool ks_key_push(struct ks_key *key, struct ks_record *record)
{
	struct ks_record_list *list;

	if (key->count == 0) {
		key->only = record;
	} else if (key->count == 1) {
		list = malloc(list_size(FIRST_CAPACITY));
		if (!list)
			return false;
		list->start = 0;
		list->capacity = FIRST_CAPACITY;
		list->items[0] = key->only;
		list->items[1] = record;
		key->list = list;
	} else {
		list = key->list;
		if (list->start + key->count == list->capacity) {
			/* Move down only when that frees half of the room, else a key of many records moves them for ever. */
			uint32_t capacity = list->start >= list->capacity / 2 ? list->capacity : list->capacity * 2;

			if (list->capacity > UINT32_MAX / 4 || !set_capacity(key, capacity))
				return false;
			list = key->list;
		}
		list->items[list->start + key->count] = record;
	}
	key->count++;
	return true;
}

/* After a pop: back to the single record, or to a smaller list. */
static void shrink(struct ks_key *key)
{
	if (key->count == 1) {
		struct ks_record_list *list = key->list;

		key->only = list->items[list->start];
		free(list);
	} else if (key->count > 1 && key->list->capacity > 2 * FIRST_CAPACITY && key->count < key->list->capacity / 4) {
		/* Without memory the list stays as large as it is. */
		(void)set_capacity(key, key->list->capacity / 2);
	}
}

void ks_key_pop_newest(struct ks_key *key)
{
	KS_ASSERT(key->count > 0);
	key->count--;
	shrink(key);
}

void ks_key_pop_oldest(struct ks_key *key)
{
	KS_ASSERT(key->count > 0);
	if (key->count > 1)
		key->list->start++;
	key->count--;
	shrink(key);
}

struct ks_kvref ks_record_kvref(struct ks_record *record)
{
	ks_record_touch(record);
	return (struct ks_kvref){
		.encoded = ks_bytes_ref(record->encoded),
		.loc = {.position = record->position, .sub = record->sub},
	};
}
