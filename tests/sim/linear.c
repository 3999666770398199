/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The search: calls and returns in one list ordered by time. At a call, try to let the operation happen now: take it and its
 * return out of the list and start again from the front. At a return, the operation should have happened by now: undo the last
 * choice. Choices that led to the same set of operations and the same value are not tried twice.
 */
#include "linear.h"

#include <stdlib.h>
#include <string.h>

#include "base/panic.h"

struct event {
	struct event *prev, *next;
	struct event *match; /* of a call: its return, or NULL when there was none; of a return: NULL */
	int64_t time;
	size_t op;
	bool is_return;
};

struct tried {
	uint64_t hash;
	int64_t value;
	uint64_t *done;
};

struct search {
	const struct linear_op *ops;
	size_t words; /* of a set of operations */
	struct event head;
	struct event *events;
	uint64_t *done;
	struct {
		struct event *call;
		int64_t value;
	} * stack;
	size_t depth;
	struct tried *table;
	size_t table_size, table_used;
	size_t returns_left;
};

/* False when 'op' cannot have happened with the register at 'value'. */
static bool happen(const struct linear_op *op, int64_t value, int64_t *after)
{
	*after = value;
	switch (op->kind) {
	case LINEAR_READ:
		return op->ret == LINEAR_UNKNOWN || op->value == value;
	case LINEAR_WRITE:
		*after = op->value;
		return true;
	case LINEAR_CAS:
		if (value == op->expected)
			*after = op->value;
		if (op->ret == LINEAR_UNKNOWN)
			return true;
		return op->succeeded ? value == op->expected : value != op->expected && value == op->seen;
	}
	return false;
}

static uint64_t hash_of(const struct search *s, int64_t value)
{
	uint64_t hash = (uint64_t)value * 0x9e3779b97f4a7c15u;

	for (size_t i = 0; i < s->words; i++)
		hash = (hash ^ s->done[i]) * 0x100000001b3u ^ (hash >> 29);
	return hash | 1;
}

/* Notes the set and value; false when they were there. */
static bool first_time(struct search *s, int64_t value)
{
	uint64_t hash = hash_of(s, value);
	size_t slot;

	if (2 * s->table_used >= s->table_size) {
		struct tried *old = s->table;
		size_t old_size = s->table_size;

		s->table_size = old_size ? 2 * old_size : 1024;
		s->table = ks_xcalloc(s->table_size, sizeof(*s->table));
		for (size_t i = 0; i < old_size; i++) {
			if (!old[i].hash)
				continue;
			slot = old[i].hash & (s->table_size - 1);
			while (s->table[slot].hash)
				slot = (slot + 1) & (s->table_size - 1);
			s->table[slot] = old[i];
		}
		free(old);
	}
	for (slot = hash & (s->table_size - 1); s->table[slot].hash; slot = (slot + 1) & (s->table_size - 1))
		if (s->table[slot].hash == hash && s->table[slot].value == value &&
		    memcmp(s->table[slot].done, s->done, s->words * sizeof(uint64_t)) == 0)
			return false;
	s->table[slot] = (struct tried){hash, value, ks_xmalloc(s->words * sizeof(uint64_t))};
	memcpy(s->table[slot].done, s->done, s->words * sizeof(uint64_t));
	s->table_used++;
	return true;
}

static void take_out(struct event *event)
{
	event->prev->next = event->next;
	if (event->next)
		event->next->prev = event->prev;
}

static void put_back(struct event *event)
{
	event->prev->next = event;
	if (event->next)
		event->next->prev = event;
}

static int by_time(const void *a, const void *b)
{
	const struct event *left = a, *right = b;

	if (left->time != right->time)
		return left->time < right->time ? -1 : 1;
	/* What ends when another begins is before it only if it is listed so: calls first is the lenient order. */
	return (int)left->is_return - (int)right->is_return;
}

static void build(struct search *s, size_t count)
{
	size_t n = 0;
	struct event **calls = ks_xcalloc(count + 1, sizeof(*calls));
	struct event *last = &s->head;

	s->events = ks_xcalloc(2 * count + 1, sizeof(*s->events));
	for (size_t i = 0; i < count; i++) {
		s->events[n++] = (struct event){.time = s->ops[i].call, .op = i};
		if (s->ops[i].ret != LINEAR_UNKNOWN)
			s->events[n++] = (struct event){.time = s->ops[i].ret, .op = i, .is_return = true};
	}
	qsort(s->events, n, sizeof(*s->events), by_time);
	for (size_t i = 0; i < n; i++) {
		struct event *event = &s->events[i];

		event->prev = last;
		last->next = event;
		last = event;
		if (event->is_return) {
			calls[event->op]->match = event;
			s->returns_left++;
		} else {
			calls[event->op] = event;
		}
	}
	free(calls);
}

enum linear_verdict linear_check(const struct linear_op *ops, size_t count, size_t budget)
{
	struct search s = {.ops = ops, .words = count / 64 + 1};
	enum linear_verdict verdict = LINEAR_YES;
	int64_t value = 0, after;
	struct event *event;

	build(&s, count);
	s.done = ks_xcalloc(s.words, sizeof(*s.done));
	s.stack = ks_xcalloc(count + 1, sizeof(*s.stack));
	event = s.head.next;
	while (s.returns_left) {
		if (!budget--) {
			verdict = LINEAR_TOO_LARGE;
			break;
		}
		if (event && !event->is_return) {
			size_t op = event->op;

			if (happen(&ops[op], value, &after)) {
				s.done[op / 64] |= (uint64_t)1 << (op % 64);
				if (first_time(&s, after)) {
					s.stack[s.depth].call = event;
					s.stack[s.depth++].value = value;
					value = after;
					take_out(event);
					if (event->match) {
						take_out(event->match);
						s.returns_left--;
					}
					event = s.head.next;
					continue;
				}
				s.done[op / 64] &= ~((uint64_t)1 << (op % 64));
			}
			event = event->next;
			continue;
		}
		if (!s.depth) {
			verdict = LINEAR_NO;
			break;
		}
		event = s.stack[--s.depth].call;
		value = s.stack[s.depth].value;
		s.done[event->op / 64] &= ~((uint64_t)1 << (event->op % 64));
		if (event->match) {
			put_back(event->match);
			s.returns_left++;
		}
		put_back(event);
		event = event->next;
	}
	for (size_t i = 0; i < s.table_size; i++)
		if (s.table[i].hash)
			free(s.table[i].done);
	free(s.table);
	free(s.stack);
	free(s.done);
	free(s.events);
	return verdict;
}
