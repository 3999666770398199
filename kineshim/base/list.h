/* SPDX-License-Identifier: Apache-2.0 */
/* Intrusive doubly linked list with a sentinel head. The list never owns its members; locking is the caller's. */
#ifndef KS_BASE_LIST_H
#define KS_BASE_LIST_H

#include <stdbool.h>
#include <stddef.h>

struct ks_list {
	struct ks_list *prev, *next;
};

#define ks_container_of(pointer, type, member) ((type *)(void *)((char *)(pointer)-offsetof(type, member)))

static inline void ks_list_init(struct ks_list *list)
{
	list->prev = list->next = list;
}

static inline bool ks_list_empty(const struct ks_list *list)
{
	return list->next == list;
}

static inline void ks_list_append(struct ks_list *list, struct ks_list *item)
{
	item->prev = list->prev;
	item->next = list;
	list->prev->next = item;
	list->prev = item;
}

/* Removes 'item' and leaves it a list of its own, so that removing twice is harmless. */
static inline void ks_list_remove(struct ks_list *item)
{
	item->prev->next = item->next;
	item->next->prev = item->prev;
	ks_list_init(item);
}

/* The first item, removed; NULL when empty. */
static inline struct ks_list *ks_list_pop(struct ks_list *list)
{
	struct ks_list *item = list->next;

	if (item == list)
		return NULL;
	ks_list_remove(item);
	return item;
}

/* Moves all of 'from' to the end of 'to'. */
static inline void ks_list_splice(struct ks_list *to, struct ks_list *from)
{
	if (ks_list_empty(from))
		return;
	from->next->prev = to->prev;
	to->prev->next = from->next;
	from->prev->next = to;
	to->prev = from->prev;
	ks_list_init(from);
}

/* Moves all of 'from' to the front of 'to'. */
static inline void ks_list_splice_front(struct ks_list *to, struct ks_list *from)
{
	ks_list_splice(from, to);
	ks_list_splice(to, from);
}

#endif
