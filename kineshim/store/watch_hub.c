/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The index behind the watch hub: watchers of the same interval share a group; groups of one key are found through a hash
 * table, groups of a range through an interval treap (ordered by key and end, with the greatest end of each
 * subtree). A publish looks up each new event once and wakes the idle watchers of the groups it hits; pending watchers
 * are not in the idle lists, so they cost a publish nothing.
 */
#include "store/watch_hub.h"

#include <stdlib.h>
#include <time.h>

#include "base/panic.h"
#include "base/thread.h"

struct ks_watch_group {
	struct ks_interval interval; /* points into bytes[] */
	struct ks_list idle;
	size_t members;                       /* idle and pending */
	uint64_t hash;                        /* of a single key; a treap priority for ranges */
	struct ks_watch_group *next;          /* hash chain */
	struct ks_watch_group *left, *right;  /* treap */
	const struct ks_watch_group *max_end; /* the group of this subtree whose end is greatest */
	uint8_t bytes[];
};

struct ks_watch_hub {
	struct ks_store *store;
	struct ks_mutex lock;   /* guards everything below, and watchers as the header says */
	int64_t revision;       /* = the store's committed revision whenever the lock can be taken */
	_Atomic uint64_t epoch; /* changed under the lock */
	uint64_t seed;          /* of the hash */
	uint64_t random;        /* state of the treap's priorities */
	struct ks_list all;
	size_t watcher_count, idle_count, group_count;
	struct ks_watch_group **buckets; /* single keys */
	size_t bucket_count, single_count;
	struct ks_watch_group *root; /* ranges */
};

#define MIN_BUCKETS 64
/* A publish lets readers of the store in after this many history entries. */
#define PUBLISH_SCAN 8192

static uint64_t mix(uint64_t x)
{
	x ^= x >> 31;
	x *= 0x7fb5d329728ea185u;
	x ^= x >> 27;
	x *= 0x81dadef4bc2dd44du;
	x ^= x >> 33;
	return x;
}

static uint64_t hash_key(const struct ks_watch_hub *hub, struct ks_slice key)
{
	uint64_t hash = hub->seed;

	for (size_t i = 0; i < key.size; i++)
		hash = (hash ^ key.data[i]) * 0x100000001b3u;
	return mix(hash);
}

struct ks_watch_hub *ks_watch_hub_new(struct ks_store *store, struct ks_err *err)
{
	struct ks_watch_hub *hub = calloc(1, sizeof(*hub));
	struct timespec now;

	if (hub)
		hub->buckets = calloc(MIN_BUCKETS, sizeof(struct ks_watch_group *));
	if (!hub || !hub->buckets) {
		free(hub);
		ks_fail(err, KS_RESOURCE_EXHAUSTED, "out of memory for the watch hub");
		return NULL;
	}
	clock_gettime(CLOCK_REALTIME, &now);
	/* Not a secret, only different in each process, so that no client can aim at one bucket. */
	hub->seed = mix((uint64_t)now.tv_nsec ^ (uint64_t)now.tv_sec << 30 ^ (uint64_t)(uintptr_t)hub);
	hub->store = store;
	hub->bucket_count = MIN_BUCKETS;
	hub->revision = 1;
	hub->epoch = 1;
	ks_mutex_init(&hub->lock);
	ks_list_init(&hub->all);
	return hub;
}

void ks_watch_hub_free(struct ks_watch_hub *hub)
{
	if (!hub)
		return;
	KS_ASSERT(hub->watcher_count == 0);
	ks_mutex_fini(&hub->lock);
	free(hub->buckets);
	free(hub);
}

/* ---- the interval treap ---- */

static bool unbounded(struct ks_slice end)
{
	return end.size == 1 && end.data[0] == 0;
}

static int cmp_end(struct ks_slice a, struct ks_slice b)
{
	if (unbounded(a) || unbounded(b))
		return (int)unbounded(a) - (int)unbounded(b);
	return ks_slice_cmp(a, b);
}

static int cmp_interval(const struct ks_interval *a, const struct ks_interval *b)
{
	int order = ks_slice_cmp(a->key, b->key);

	return order ? order : cmp_end(a->end, b->end);
}

static void update_max(struct ks_watch_group *node)
{
	node->max_end = node;
	if (node->left && cmp_end(node->left->max_end->interval.end, node->max_end->interval.end) > 0)
		node->max_end = node->left->max_end;
	if (node->right && cmp_end(node->right->max_end->interval.end, node->max_end->interval.end) > 0)
		node->max_end = node->right->max_end;
}

/* Splits 'tree' into what is ordered before 'at' and what is not. */
static void treap_split(struct ks_watch_group *tree, const struct ks_interval *at, struct ks_watch_group **before,
			struct ks_watch_group **after)
{
	if (!tree) {
		*before = *after = NULL;
	} else if (cmp_interval(&tree->interval, at) < 0) {
		treap_split(tree->right, at, &tree->right, after);
		*before = tree;
		update_max(tree);
	} else {
		treap_split(tree->left, at, before, &tree->left);
		*after = tree;
		update_max(tree);
	}
}

static struct ks_watch_group *treap_join(struct ks_watch_group *a, struct ks_watch_group *b)
{
	if (!a || !b)
		return a ? a : b;
	if (a->hash > b->hash) {
		a->right = treap_join(a->right, b);
		update_max(a);
		return a;
	}
	b->left = treap_join(a, b->left);
	update_max(b);
	return b;
}

static void treap_insert(struct ks_watch_group **root, struct ks_watch_group *group)
{
	struct ks_watch_group *tree = *root;

	if (!tree || group->hash > tree->hash) {
		treap_split(tree, &group->interval, &group->left, &group->right);
		*root = group;
		update_max(group);
		return;
	}
	treap_insert(cmp_interval(&group->interval, &tree->interval) < 0 ? &tree->left : &tree->right, group);
	update_max(tree);
}

static void treap_remove(struct ks_watch_group **root, struct ks_watch_group *group)
{
	struct ks_watch_group *tree = *root;

	if (tree == group) {
		*root = treap_join(group->left, group->right);
		return;
	}
	treap_remove(cmp_interval(&group->interval, &tree->interval) < 0 ? &tree->left : &tree->right, group);
	update_max(tree);
}

static struct ks_watch_group *treap_find(struct ks_watch_group *tree, const struct ks_interval *interval)
{
	while (tree) {
		int order = cmp_interval(interval, &tree->interval);

		if (order == 0)
			return tree;
		tree = order < 0 ? tree->left : tree->right;
	}
	return NULL;
}

/* ---- groups ---- */

static struct ks_watch_group **bucket_of(struct ks_watch_hub *hub, uint64_t hash)
{
	return &hub->buckets[hash & (hub->bucket_count - 1)];
}

static struct ks_watch_group *find_single(struct ks_watch_hub *hub, struct ks_slice key, uint64_t hash)
{
	struct ks_watch_group *group = *bucket_of(hub, hash);

	while (group && (group->hash != hash || !ks_slice_eq(group->interval.key, key)))
		group = group->next;
	return group;
}

/* Keeps chains short; when memory is short they just get longer. */
static void grow_buckets(struct ks_watch_hub *hub)
{
	size_t old_count = hub->bucket_count;
	struct ks_watch_group **old = hub->buckets;
	struct ks_watch_group **buckets;

	if (hub->single_count < old_count)
		return;
	buckets = calloc(old_count * 2, sizeof(*buckets));
	if (!buckets)
		return;
	hub->buckets = buckets;
	hub->bucket_count = old_count * 2;
	for (size_t i = 0; i < old_count; i++) {
		while (old[i]) {
			struct ks_watch_group *group = old[i];

			old[i] = group->next;
			group->next = *bucket_of(hub, group->hash);
			*bucket_of(hub, group->hash) = group;
		}
	}
	free(old);
}

/* The group of 'interval', made when there is none; NULL without memory. */
static struct ks_watch_group *get_group(struct ks_watch_hub *hub, const struct ks_interval *interval)
{
	bool single = interval->end.size == 0;
	uint64_t hash = hash_key(hub, interval->key);
	struct ks_watch_group *group = single ? find_single(hub, interval->key, hash) : treap_find(hub->root, interval);

	if (group)
		return group;
	group = calloc(1, sizeof(*group) + interval->key.size + interval->end.size);
	if (!group)
		return NULL;
	memcpy(group->bytes, interval->key.data, interval->key.size);
	if (!single)
		memcpy(group->bytes + interval->key.size, interval->end.data, interval->end.size);
	group->interval.key = ks_slice_of(group->bytes, interval->key.size);
	group->interval.end = ks_slice_of(group->bytes + interval->key.size, interval->end.size);
	ks_list_init(&group->idle);
	hub->group_count++;
	if (single) {
		group->hash = hash;
		hub->single_count++;
		grow_buckets(hub);
		group->next = *bucket_of(hub, hash);
		*bucket_of(hub, hash) = group;
	} else {
		hub->random += 0x9e3779b97f4a7c15u;
		group->hash = mix(hub->random ^ hub->seed);
		treap_insert(&hub->root, group);
	}
	return group;
}

static void put_group(struct ks_watch_hub *hub, struct ks_watch_group *group)
{
	if (--group->members > 0)
		return;
	if (group->interval.end.size == 0) {
		struct ks_watch_group **link = bucket_of(hub, group->hash);

		while (*link != group)
			link = &(*link)->next;
		*link = group->next;
		hub->single_count--;
	} else {
		treap_remove(&hub->root, group);
	}
	hub->group_count--;
	free(group);
}

/* ---- watchers ---- */

static void make_idle(struct ks_watch_hub *hub, struct ks_watcher *watcher)
{
	watcher->state = KS_WATCHER_IDLE;
	ks_list_append(&watcher->group->idle, &watcher->link);
	hub->idle_count++;
}

static void make_pending(struct ks_watch_hub *hub, struct ks_watcher *watcher)
{
	watcher->state = KS_WATCHER_PENDING;
	ks_list_remove(&watcher->link);
	hub->idle_count--;
}

enum ks_status ks_watch_add(struct ks_watch_hub *hub, struct ks_watcher *watcher, int64_t start, int64_t *current)
{
	enum ks_status status = KS_RESOURCE_EXHAUSTED;

	ks_list_init(&watcher->link);
	watcher->state = KS_WATCHER_OUT;
	ks_mutex_lock(&hub->lock);
	watcher->group = get_group(hub, &watcher->interval);
	if (!watcher->group)
		goto out;
	watcher->group->members++;
	watcher->epoch = hub->epoch;
	/* Without a start of its own a watcher is never "in the future" (spec 3.7), hence the revision itself. */
	watcher->start = start > 0 ? start : hub->revision;
	watcher->next = start > 0 ? start : hub->revision + 1;
	watcher->compacted = watcher->next < ks_store_committed(hub->store).compact_revision;
	hub->watcher_count++;
	ks_list_append(&hub->all, &watcher->all_link);
	if (watcher->next > hub->revision)
		make_idle(hub, watcher);
	else
		watcher->state = KS_WATCHER_PENDING;
	*current = hub->revision;
	status = KS_OK;
out:
	ks_mutex_unlock(&hub->lock);
	return status;
}

void ks_watch_remove(struct ks_watch_hub *hub, struct ks_watcher *watcher)
{
	/* The owner alone sets it; 'state' may be changing under the lock right now. */
	if (!watcher->group)
		return;
	ks_mutex_lock(&hub->lock);
	if (watcher->state == KS_WATCHER_IDLE)
		make_pending(hub, watcher);
	watcher->state = KS_WATCHER_OUT;
	ks_list_remove(&watcher->all_link);
	hub->watcher_count--;
	put_group(hub, watcher->group);
	watcher->group = NULL;
	ks_mutex_unlock(&hub->lock);
}

enum ks_watch_read_status ks_watch_read(struct ks_watch_hub *hub, struct ks_watcher *watcher,
					struct ks_watch_read *read)
{
	struct ks_event_scan scan = {
		.interval = watcher->interval,
		.from = watcher->next,
		.to = INT64_MAX,
		.prev_kv = watcher->prev_kv,
		.no_put = watcher->no_put,
		.no_delete = watcher->no_delete,
		.max_revisions = read->max_revisions,
		.max_events = read->max_events,
		.max_bytes = read->max_bytes,
		.max_scanned = read->max_scanned,
	};
	struct ks_event_scanned scanned = {0};
	enum ks_watch_read_status result = KS_WATCH_READ;
	enum ks_status status;

	read->events = 0;
	read->caught_up = false;
	if (watcher->compacted) {
		status = KS_OUT_OF_RANGE;
		read->compact_revision = ks_store_committed(hub->store).compact_revision;
	} else {
		/* Without the hub's lock: a publish meanwhile leaves a pending watcher alone. */
		status = ks_store_scan_events(hub->store, &scan, read->visit, read->ctx, &scanned,
					      &read->compact_revision);
	}
	ks_mutex_lock(&hub->lock);
	if (watcher->epoch != hub->epoch) {
		result = KS_WATCH_RESET;
	} else if (watcher->compacted || status != KS_OK) {
		result = KS_WATCH_COMPACTED;
	} else {
		read->events = scanned.events;
		read->current = scanned.current;
		read->next = scanned.next;
		watcher->next = scanned.next;
		if (watcher->next > hub->revision) {
			make_idle(hub, watcher);
			read->caught_up = true;
		}
	}
	ks_mutex_unlock(&hub->lock);
	return result;
}

/* What is compared is the owner's while both are pending, or was set when they were added. */
bool ks_watch_alike(const struct ks_watcher *one, const struct ks_watcher *other)
{
	return one->group == other->group && one->next == other->next && one->epoch == other->epoch &&
	       one->prev_kv == other->prev_kv && one->no_put == other->no_put && one->no_delete == other->no_delete &&
	       one->compacted == other->compacted;
}

bool ks_watch_follow(struct ks_watch_hub *hub, struct ks_watcher *const *watchers, size_t count, int64_t next,
		     bool *caught_up)
{
	bool same = true;

	ks_mutex_lock(&hub->lock);
	*caught_up = next > hub->revision;
	for (size_t i = 0; i < count && same; i++)
		same = watchers[i]->epoch == hub->epoch;
	for (size_t i = 0; i < count && same; i++) {
		watchers[i]->next = next;
		if (*caught_up)
			make_idle(hub, watchers[i]);
	}
	ks_mutex_unlock(&hub->lock);
	return same;
}

bool ks_watch_progress(struct ks_watch_hub *hub, struct ks_watcher *const *watchers, size_t count, int64_t *revision)
{
	bool synced = true;

	ks_mutex_lock(&hub->lock);
	*revision = hub->revision;
	for (size_t i = 0; i < count && synced; i++)
		synced = watchers[i]->state == KS_WATCHER_IDLE && watchers[i]->epoch == hub->epoch &&
			 watchers[i]->start <= hub->revision;
	ks_mutex_unlock(&hub->lock);
	return synced;
}

/* ---- publish ---- */

static void wake_group(struct ks_watch_hub *hub, struct ks_watch_group *group, const struct ks_event *event)
{
	struct ks_list *item = group->idle.next;

	while (item != &group->idle) {
		struct ks_watcher *watcher = ks_container_of(item, struct ks_watcher, link);

		item = item->next;
		if (event->revision < watcher->next || (event->is_delete ? watcher->no_delete : watcher->no_put))
			continue;
		watcher->next = event->revision;
		make_pending(hub, watcher);
		watcher->wake(watcher);
	}
}

static void wake_ranges(struct ks_watch_hub *hub, struct ks_watch_group *tree, const struct ks_event *event)
{
	while (tree) {
		struct ks_slice last = tree->max_end->interval.end;

		if (!unbounded(last) && ks_slice_cmp(last, event->key) <= 0)
			return;
		wake_ranges(hub, tree->left, event);
		if (ks_slice_cmp(tree->interval.key, event->key) > 0)
			return;
		if (!ks_list_empty(&tree->idle) && ks_interval_contains(&tree->interval, event->key))
			wake_group(hub, tree, event);
		tree = tree->right;
	}
}

static void publish_event(void *ctx, const struct ks_event *event)
{
	struct ks_watch_hub *hub = ctx;

	if (hub->single_count) {
		struct ks_watch_group *group = find_single(hub, event->key, hash_key(hub, event->key));

		if (group)
			wake_group(hub, group, event);
	}
	wake_ranges(hub, hub->root, event);
}

/*
 * This replica jumped over entries that a compaction trimmed (DESIGN.md, the log): nobody knows which watchers they would have
 * woken, so all of them read, and find themselves compacted if they needed what is gone.
 */
static void wake_overtaken(struct ks_watch_hub *hub, int64_t from)
{
	for (struct ks_list *item = hub->all.next; item != &hub->all; item = item->next) {
		struct ks_watcher *watcher = ks_container_of(item, struct ks_watcher, all_link);

		if (watcher->state != KS_WATCHER_IDLE)
			continue;
		if (watcher->next < from)
			watcher->next = from;
		make_pending(hub, watcher);
		watcher->wake(watcher);
	}
}

void ks_watch_hub_begin(struct ks_watch_hub *hub) KS_NO_TSA
{
	ks_mutex_lock(&hub->lock);
}

void ks_watch_hub_publish(struct ks_watch_hub *hub, int64_t from, int64_t to) KS_NO_TSA
{
	static const uint8_t zero[1] = {0};
	struct ks_event_scan scan = {
		.interval = {.key = {zero, 1}, .end = {zero, 1}},
		.from = from + 1,
		.to = to,
		.max_revisions = SIZE_MAX,
		.max_events = SIZE_MAX,
		.max_bytes = SIZE_MAX,
		.max_scanned = PUBLISH_SCAN,
	};
	struct ks_event_scanned scanned;
	int64_t compact_revision;

	hub->revision = to;
	while (hub->idle_count > 0 && scan.from <= to) {
		if (ks_store_scan_events(hub->store, &scan, publish_event, hub, &scanned, &compact_revision) != KS_OK) {
			wake_overtaken(hub, scan.from);
			break;
		}
		scan.from = scanned.next;
	}
	ks_mutex_unlock(&hub->lock);
}

void ks_watch_hub_reset(struct ks_watch_hub *hub, int64_t revision)
{
	ks_mutex_lock(&hub->lock);
	hub->epoch++;
	hub->revision = revision;
	for (struct ks_list *item = hub->all.next; item != &hub->all; item = item->next) {
		struct ks_watcher *watcher = ks_container_of(item, struct ks_watcher, all_link);

		if (watcher->state != KS_WATCHER_IDLE)
			continue;
		make_pending(hub, watcher);
		watcher->wake(watcher);
	}
	ks_mutex_unlock(&hub->lock);
}

bool ks_watch_hub_needs(struct ks_watch_hub *hub, int64_t revision)
{
	bool needed = false;

	ks_mutex_lock(&hub->lock);
	if (hub->watcher_count > hub->idle_count) {
		for (struct ks_list *item = hub->all.next; item != &hub->all && !needed; item = item->next) {
			const struct ks_watcher *watcher = ks_container_of(item, struct ks_watcher, all_link);

			needed =
				watcher->state == KS_WATCHER_PENDING && !watcher->compacted && watcher->next < revision;
		}
	}
	ks_mutex_unlock(&hub->lock);
	return needed;
}

uint64_t ks_watch_hub_epoch(struct ks_watch_hub *hub)
{
	return atomic_load_explicit(&hub->epoch, memory_order_acquire);
}

void ks_watch_hub_stats(struct ks_watch_hub *hub, struct ks_watch_stats *stats)
{
	ks_mutex_lock(&hub->lock);
	stats->watchers = hub->watcher_count;
	stats->pending = hub->watcher_count - hub->idle_count;
	stats->groups = hub->group_count;
	ks_mutex_unlock(&hub->lock);
}
