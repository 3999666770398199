/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Segments, see history.h. Compaction leaves holes (NULL); a segment that is more than half holes is packed, and joined
 * with a neighbour when both fit into one.
 */
#include "store/history.h"

#include <stdlib.h>

#include "base/panic.h"

static int cmp_place(int64_t revision, int32_t sub, int64_t other_revision, int32_t other_sub)
{
	if (revision != other_revision)
		return revision < other_revision ? -1 : 1;
	return (sub > other_sub) - (sub < other_sub);
}

void ks_history_init(struct ks_history *history, struct ks_slab *slab)
{
	*history = (struct ks_history){.slab = slab};
}

void ks_history_fini(struct ks_history *history)
{
	for (size_t i = 0; i < history->segment_count; i++)
		ks_slab_free(history->slab, history->segments[i].segment, sizeof(struct ks_segment));
	free(history->segments);
	*history = (struct ks_history){0};
}

static bool add_segment(struct ks_history *history, const struct ks_record *first)
{
	struct ks_segment *segment;

	if (history->segment_count == history->capacity) {
		size_t capacity = history->capacity ? history->capacity * 2 : 16;
		struct ks_segment_ref *segments = realloc(history->segments, capacity * sizeof(*segments));

		if (!segments)
			return false;
		history->segments = segments;
		history->capacity = capacity;
	}
	segment = ks_slab_alloc(history->slab, sizeof(*segment));
	if (!segment)
		return false;
	segment->used = segment->live = segment->cached = 0;
	history->segments[history->segment_count++] = (struct ks_segment_ref){
		.revision = first->revision,
		.sub = first->sub,
		.segment = segment,
	};
	return true;
}

static struct ks_segment *last_segment(const struct ks_history *history)
{
	return history->segment_count ? history->segments[history->segment_count - 1].segment : NULL;
}

bool ks_history_append(struct ks_history *history, struct ks_record *record)
{
	struct ks_segment *segment = last_segment(history);

	if (!segment || segment->used == KS_SEGMENT_RECORDS) {
		if (!add_segment(history, record))
			return false;
		segment = last_segment(history);
	}
	segment->items[segment->used++] = record;
	segment->live++;
	history->records++;
	return true;
}

struct ks_record *ks_history_last(const struct ks_history *history)
{
	for (size_t i = history->segment_count; i-- > 0;) {
		const struct ks_segment *segment = history->segments[i].segment;

		for (uint32_t j = segment->used; j-- > 0;) {
			if (segment->items[j])
				return segment->items[j];
		}
	}
	return NULL;
}

static void drop_segment(struct ks_history *history, size_t i)
{
	ks_slab_free(history->slab, history->segments[i].segment, sizeof(struct ks_segment));
	memmove(history->segments + i, history->segments + i + 1,
		(history->segment_count - i - 1) * sizeof(history->segments[0]));
	history->segment_count--;
}

void ks_history_pop(struct ks_history *history)
{
	struct ks_segment *segment;

	for (;;) {
		segment = last_segment(history);
		KS_ASSERT(segment);
		while (segment->used > 0 && !segment->items[segment->used - 1])
			segment->used--;
		if (segment->used > 0)
			break;
		drop_segment(history, history->segment_count - 1);
	}
	segment->used--;
	segment->live--;
	history->records--;
	if (segment->used == 0)
		drop_segment(history, history->segment_count - 1);
}

/* The last segment whose place is not after the given one; 0 when there is none. */
static size_t find_segment(const struct ks_history *history, int64_t revision, int32_t sub)
{
	size_t low = 0, high = history->segment_count;

	if (high > 1 &&
	    cmp_place(history->segments[high - 1].revision, history->segments[high - 1].sub, revision, sub) <= 0)
		return high - 1; /* by far the most frequent one */
	while (high - low > 1) {
		size_t middle = low + (high - low) / 2;
		const struct ks_segment_ref *ref = &history->segments[middle];

		if (cmp_place(ref->revision, ref->sub, revision, sub) <= 0)
			low = middle;
		else
			high = middle;
	}
	return low;
}

static void pack(struct ks_segment *segment)
{
	uint32_t kept = 0;

	for (uint32_t i = 0; i < segment->used; i++) {
		if (segment->items[i])
			segment->items[kept++] = segment->items[i];
	}
	KS_ASSERT(kept == segment->live);
	segment->used = kept;
}

/* Moves the records of segment 'i' behind those of the one before. */
static void join(struct ks_history *history, size_t i)
{
	struct ks_segment *segment = history->segments[i].segment, *before = history->segments[i - 1].segment;

	pack(before);
	memcpy(before->items + before->used, segment->items, segment->used * sizeof(segment->items[0]));
	before->used += segment->used;
	before->live += segment->live;
	before->cached += segment->cached;
	drop_segment(history, i);
}

static void squeeze(struct ks_history *history, size_t i)
{
	const struct ks_segment_ref *ref = &history->segments[i];

	pack(ref->segment);
	if (i > 0 && ref[-1].segment->live + ref->segment->live <= KS_SEGMENT_RECORDS) {
		join(history, i);
	} else if (i + 1 < history->segment_count && ref->segment->live + ref[1].segment->live <= KS_SEGMENT_RECORDS) {
		pack(ref[1].segment);
		join(history, i + 1);
	}
}

static uint32_t find_item(const struct ks_segment *segment, const struct ks_record *record)
{
	uint32_t i = 0;

	/* A plain look at up to 2 KiB of pointers beats a search that has to read the records. */
	while (i < segment->used && segment->items[i] != record)
		i++;
	KS_ASSERT(i < segment->used);
	return i;
}

void ks_history_remove(struct ks_history *history, const struct ks_record *record)
{
	size_t at = find_segment(history, record->revision, record->sub);
	struct ks_segment *segment = history->segments[at].segment;

	segment->items[find_item(segment, record)] = NULL;
	segment->live--;
	history->records--;
	if (segment->live == 0)
		drop_segment(history, at);
	else if (segment->live < segment->used / 2)
		squeeze(history, at);
}

struct ks_segment *ks_history_segment_of(const struct ks_history *history, const struct ks_record *record)
{
	return history->segments[find_segment(history, record->revision, record->sub)].segment;
}

struct ks_history_pos ks_history_seek(const struct ks_history *history, int64_t revision, int32_t sub)
{
	struct ks_history_pos pos = {0};
	const struct ks_segment *segment;
	uint32_t low = 0, high;

	if (history->segment_count == 0)
		return pos;
	pos.segment = find_segment(history, revision, sub);
	segment = history->segments[pos.segment].segment;
	high = segment->used;
	while (low < high) {
		uint32_t middle = low + (high - low) / 2;
		uint32_t probe = middle;

		while (probe < high && !segment->items[probe])
			probe++;
		if (probe == high)
			high = middle;
		else if (cmp_place(segment->items[probe]->revision, segment->items[probe]->sub, revision, sub) < 0)
			low = probe + 1;
		else
			high = middle;
	}
	pos.i = low;
	return pos;
}

struct ks_record *ks_history_next(const struct ks_history *history, struct ks_history_pos *pos)
{
	while (pos->segment < history->segment_count) {
		const struct ks_segment *segment = history->segments[pos->segment].segment;

		while (pos->i < segment->used) {
			struct ks_record *record = segment->items[pos->i++];

			if (record)
				return record;
		}
		pos->segment++;
		pos->i = 0;
	}
	return NULL;
}

size_t ks_history_count_after(const struct ks_history *history, int64_t revision, size_t enough)
{
	size_t count = 0;
	struct ks_history_pos pos;

	for (size_t i = history->segment_count; i-- > 0;) {
		const struct ks_segment_ref *ref = &history->segments[i];

		if (ref->revision <= revision)
			break;
		count += ref->segment->live;
		if (count > enough)
			return count;
	}
	/* The segment where it begins: from the seek to its end. */
	pos = ks_history_seek(history, revision, INT32_MAX);
	if (pos.segment < history->segment_count && history->segments[pos.segment].revision <= revision) {
		const struct ks_segment *segment = history->segments[pos.segment].segment;

		for (uint32_t i = pos.i; i < segment->used; i++)
			count += segment->items[i] != NULL;
	}
	return count;
}
