/* SPDX-License-Identifier: Apache-2.0 */
/* The watches of a stream: by id, and all in a row; and the ids of those that a compaction ended. */
#include <stdlib.h>

#include "api/watch_priv.h"

#define COMPACTED_IDS 1024 /* remembered; clients that cancel such a watch do so at once */

static struct watch **bucket_of(struct stream *stream, int64_t id)
{
	uint64_t hash = (uint64_t)id * 0x9e3779b97f4a7c15u;

	return &stream->buckets[(hash >> 32) & (stream->bucket_count - 1)];
}

struct watch *ks_api_watch_find(struct stream *stream, int64_t id)
{
	struct watch *watch = stream->bucket_count ? *bucket_of(stream, id) : NULL;

	while (watch && watch->id != id)
		watch = watch->next;
	return watch;
}

bool ks_api_watch_reserve(struct stream *stream)
{
	size_t count = stream->bucket_count ? stream->bucket_count * 2 : 8;
	struct ks_watcher **watches;
	struct watch **buckets;

	if (stream->watch_count < stream->watch_capacity)
		return true;
	watches = realloc(stream->watches, count * sizeof(struct ks_watcher *));
	if (!watches)
		return false;
	stream->watches = watches;
	buckets = calloc(count, sizeof(*buckets));
	if (!buckets)
		return false;
	free(stream->buckets);
	stream->buckets = buckets;
	stream->bucket_count = stream->watch_capacity = count;
	for (size_t i = 0; i < stream->watch_count; i++) {
		struct watch *watch = ks_container_of(watches[i], struct watch, watcher);

		watch->next = *bucket_of(stream, watch->id);
		*bucket_of(stream, watch->id) = watch;
	}
	return true;
}

void ks_api_watch_link(struct stream *stream, struct watch *watch)
{
	watch->slot = stream->watch_count;
	stream->watches[stream->watch_count++] = &watch->watcher;
	watch->next = *bucket_of(stream, watch->id);
	*bucket_of(stream, watch->id) = watch;
}

void ks_api_watch_remove(struct stream *stream, struct watch *watch)
{
	struct watch **chain = bucket_of(stream, watch->id);
	struct watch *last;

	ks_watch_remove(stream->hub, &watch->watcher);
	ks_mutex_lock(&stream->ready_lock);
	ks_list_remove(&watch->link);
	watch->woken = false;
	ks_mutex_unlock(&stream->ready_lock);
	while (*chain != watch)
		chain = &(*chain)->next;
	*chain = watch->next;
	last = ks_container_of(stream->watches[--stream->watch_count], struct watch, watcher);
	stream->watches[watch->slot] = &last->watcher;
	last->slot = watch->slot;
	if (watch->parked)
		watch->removed = true;
	else
		free(watch);
}

bool ks_api_watch_forget_compacted(struct stream *stream, int64_t id)
{
	for (size_t i = 0; i < stream->compacted_count; i++) {
		if (stream->compacted_ids[i] == id) {
			stream->compacted_ids[i] = stream->compacted_ids[--stream->compacted_count];
			return true;
		}
	}
	return false;
}

void ks_api_watch_remember_compacted(struct stream *stream, int64_t id)
{
	if (!stream->compacted_ids)
		stream->compacted_ids = calloc(COMPACTED_IDS, sizeof(stream->compacted_ids[0]));
	if (stream->compacted_ids && stream->compacted_count < COMPACTED_IDS)
		stream->compacted_ids[stream->compacted_count++] = id;
}
