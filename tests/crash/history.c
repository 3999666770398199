/* SPDX-License-Identifier: Apache-2.0 */
/* See history.h. All checks are sorts and one pass. */
#include "tests/crash/history.h"

#include <inttypes.h>
#include <pthread.h>
#include <stdlib.h>

#include "base/panic.h"

#define SHOWN 10

struct sequence {
	struct told *items;
	size_t count, capacity;
};

struct history {
	pthread_mutex_t lock;
	struct op *ops;
	size_t op_count, op_capacity;
	struct sequence *watchers;
	unsigned watcher_count;
};

struct history *history_new(unsigned watchers)
{
	struct history *history = ks_xcalloc(1, sizeof(*history));

	pthread_mutex_init(&history->lock, NULL);
	history->watchers = ks_xcalloc(watchers ? watchers : 1, sizeof(struct sequence));
	history->watcher_count = watchers;
	return history;
}

void history_free(struct history *history)
{
	for (unsigned i = 0; i < history->watcher_count; i++)
		free(history->watchers[i].items);
	free(history->watchers);
	free(history->ops);
	pthread_mutex_destroy(&history->lock);
	free(history);
}

void history_add(struct history *history, const struct op *op)
{
	pthread_mutex_lock(&history->lock);
	if (history->op_count == history->op_capacity) {
		history->op_capacity = history->op_capacity ? history->op_capacity * 2 : 4096;
		history->ops = ks_xrealloc(history->ops, history->op_capacity * sizeof(*op));
	}
	history->ops[history->op_count++] = *op;
	pthread_mutex_unlock(&history->lock);
}

void history_told(struct history *history, unsigned watcher, const struct told *told)
{
	struct sequence *sequence = &history->watchers[watcher];

	pthread_mutex_lock(&history->lock);
	if (sequence->count == sequence->capacity) {
		sequence->capacity = sequence->capacity ? sequence->capacity * 2 : 4096;
		sequence->items = ks_xrealloc(sequence->items, sequence->capacity * sizeof(*told));
	}
	sequence->items[sequence->count++] = *told;
	pthread_mutex_unlock(&history->lock);
}

size_t history_acknowledged(struct history *history)
{
	size_t count = 0;

	pthread_mutex_lock(&history->lock);
	for (size_t i = 0; i < history->op_count; i++)
		count += history->ops[i].kind == OP_PUT && history->ops[i].outcome == OP_OK;
	pthread_mutex_unlock(&history->lock);
	return count;
}

int64_t history_last_told(struct history *history, unsigned watcher)
{
	struct sequence *sequence = &history->watchers[watcher];
	int64_t last;

	pthread_mutex_lock(&history->lock);
	last = sequence->count ? sequence->items[sequence->count - 1].revision : 0;
	pthread_mutex_unlock(&history->lock);
	return last;
}

static void complain(FILE *out, unsigned *violations, const char *what, int64_t a, int64_t b)
{
	if (++*violations <= SHOWN)
		fprintf(out, "# %s (%" PRId64 ", %" PRId64 ")\n", what, a, b);
}

unsigned history_check_watchers(struct history *history, int64_t first, FILE *out)
{
	const struct sequence *reference = &history->watchers[0];
	unsigned violations = 0;

	for (unsigned w = 0; w < history->watcher_count; w++) {
		const struct sequence *sequence = &history->watchers[w];

		for (size_t i = 0; i < sequence->count; i++) {
			const struct told *told = &sequence->items[i];

			if (told->revision != first + 1 + (int64_t)i) {
				complain(out, &violations,
					 "a watcher was told of a revision out of turn (got, expected)", told->revision,
					 first + 1 + (int64_t)i);
				break;
			}
			if (i < reference->count &&
			    (reference->items[i].value != told->value || reference->items[i].key != told->key))
				complain(out, &violations, "two watchers were told different things of a revision",
					 told->revision, (int64_t)w);
		}
		if (sequence->count != reference->count)
			complain(out, &violations, "two watchers were told of different numbers of events",
				 (int64_t)sequence->count, (int64_t)reference->count);
	}
	return violations;
}

static const struct told *told_at(const struct sequence *sequence, int64_t revision)
{
	int64_t index = sequence->count ? revision - sequence->items[0].revision : -1;

	return index >= 0 && index < (int64_t)sequence->count ? &sequence->items[index] : NULL;
}

static int by_value(const void *a, const void *b)
{
	uint64_t x = ((const struct told *)a)->value, y = ((const struct told *)b)->value;

	return (x > y) - (x < y);
}

static bool value_was_told(const struct told *sorted, size_t count, uint64_t value)
{
	const struct told key = {.value = value};

	return count && bsearch(&key, sorted, count, sizeof(key), by_value);
}

unsigned history_check_acknowledged(struct history *history, FILE *out)
{
	const struct sequence *sequence = &history->watchers[0];
	struct told *sorted = ks_xmalloc((sequence->count + 1) * sizeof(*sorted));
	unsigned violations = 0;

	for (size_t i = 0; i < sequence->count; i++)
		sorted[i] = sequence->items[i];
	qsort(sorted, sequence->count, sizeof(*sorted), by_value);
	for (size_t i = 1; i < sequence->count; i++) {
		if (sorted[i].value == sorted[i - 1].value)
			complain(out, &violations, "one put happened twice (revisions)", sorted[i - 1].revision,
				 sorted[i].revision);
	}
	for (size_t i = 0; i < history->op_count; i++) {
		const struct op *op = &history->ops[i];
		const struct told *told = told_at(sequence, op->mod_revision);

		if (op->kind != OP_PUT)
			continue;
		if (op->outcome == OP_OK && (!told || told->value != op->value || told->key != op->key))
			complain(out, &violations, "an acknowledged put is not in the history (revision, client)",
				 op->mod_revision, (int64_t)op->client);
		if (op->outcome == OP_REFUSED && value_was_told(sorted, sequence->count, op->value))
			complain(out, &violations, "a refused put happened (client, value)", (int64_t)op->client,
				 (int64_t)op->value);
	}
	free(sorted);
	return violations;
}

static int by_start(const void *a, const void *b)
{
	int64_t x = ((const struct op *)a)->start_ns, y = ((const struct op *)b)->start_ns;

	return (x > y) - (x < y);
}

static int by_end(const void *a, const void *b)
{
	int64_t x = ((const struct op *)a)->end_ns, y = ((const struct op *)b)->end_ns;

	return (x > y) - (x < y);
}

/* The newest write of 'key' at 'revision' by what watcher 0 was told; NULL: none. One pass per key would be faster; the last
 * write of each key is kept while walking instead, see below. */
struct newest {
	int64_t revision;
	uint64_t value;
};

static int by_header(const void *a, const void *b)
{
	int64_t x = ((const struct op *)a)->header_revision, y = ((const struct op *)b)->header_revision;

	return (x > y) - (x < y);
}

/* Each read returned the newest write with a revision of at most its header's. */
static unsigned check_reads(struct history *history, struct op *reads, size_t count, FILE *out)
{
	const struct sequence *sequence = &history->watchers[0];
	unsigned violations = 0, key_count = 0;
	struct newest *newest;
	size_t next = 0;

	for (size_t i = 0; i < sequence->count; i++)
		key_count = sequence->items[i].key >= key_count ? sequence->items[i].key + 1 : key_count;
	for (size_t i = 0; i < count; i++)
		key_count = reads[i].key >= key_count ? reads[i].key + 1 : key_count;
	newest = ks_xcalloc(key_count + 1, sizeof(*newest));
	qsort(reads, count, sizeof(*reads), by_header);
	for (size_t i = 0; i < count; i++) {
		while (next < sequence->count && sequence->items[next].revision <= reads[i].header_revision) {
			const struct told *told = &sequence->items[next++];

			newest[told->key] = (struct newest){told->revision, told->value};
		}
		if (newest[reads[i].key].value != reads[i].value ||
		    (reads[i].value && newest[reads[i].key].revision != reads[i].mod_revision))
			complain(out, &violations, "a read returned another write than its revision has (header, got)",
				 reads[i].header_revision, reads[i].mod_revision);
	}
	free(newest);
	return violations;
}

unsigned history_check_linearizable(struct history *history, int64_t first, FILE *out)
{
	struct op *starts = ks_xmalloc((history->op_count + 1) * sizeof(*starts));
	struct op *ends = ks_xmalloc((history->op_count + 1) * sizeof(*ends));
	struct op *reads = ks_xmalloc((history->op_count + 1) * sizeof(*reads));
	size_t count = 0, read_count = 0, done = 0;
	int64_t floor = first; /* highest revision of anything that was complete */
	unsigned violations = 0;

	for (size_t i = 0; i < history->op_count; i++) {
		if (history->ops[i].outcome != OP_OK)
			continue;
		starts[count] = ends[count] = history->ops[i];
		count++;
		if (history->ops[i].kind == OP_GET)
			reads[read_count++] = history->ops[i];
	}
	qsort(starts, count, sizeof(*starts), by_start);
	qsort(ends, count, sizeof(*ends), by_end);
	/* Whatever ended before an operation began has a lower revision (writes), or at most its revision (reads). */
	for (size_t i = 0; i < count; i++) {
		while (done < count && ends[done].end_ns < starts[i].start_ns) {
			if (ends[done].header_revision > floor)
				floor = ends[done].header_revision;
			done++;
		}
		if (starts[i].kind == OP_PUT ? starts[i].mod_revision <= floor : starts[i].header_revision < floor)
			complain(out, &violations,
				 "an operation is older than what was complete before it (revision, complete)",
				 starts[i].header_revision, floor);
	}
	violations += check_reads(history, reads, read_count, out);
	free(starts);
	free(ends);
	free(reads);
	return violations;
}
