/* SPDX-License-Identifier: Apache-2.0 */
/* Which services are wanted, and by which keys. All of it under the lock. */
#include <search.h>
#include <stdlib.h>
#include <string.h>

#include "base/panic.h"
#include "discovery/discovery_priv.h"

struct key_entry {
	struct ks_slice key; /* of 'bytes', or what is looked for */
	struct ks_bytes *bytes;
	struct dpa_service **services;
	size_t count;
};

static int compare(const struct dpa_service *service, enum dpa_discovery_type type, const char *name,
		   const char *namespace_id, const char *group_name)
{
	int order = (service->type > type) - (service->type < type);

	if (!order)
		order = strcmp(service->name, name);
	if (!order)
		order = strcmp(service->namespace_id, namespace_id);
	return order ? order : strcmp(service->group_name, group_name);
}

/* Where it stands, or where it would. */
static size_t place_of(struct dpa_discovery *discovery, enum dpa_discovery_type type, const char *name,
		       const char *namespace_id, const char *group_name, bool *found)
{
	size_t low = 0, high = discovery->service_count;

	*found = false;
	while (low < high) {
		size_t middle = (low + high) / 2;
		int order = compare(discovery->services[middle], type, name, namespace_id, group_name);

		if (order == 0) {
			*found = true;
			return middle;
		}
		if (order < 0)
			low = middle + 1;
		else
			high = middle;
	}
	return low;
}

static struct dpa_service *new_service(struct dpa_discovery *discovery, enum dpa_discovery_type type, const char *name,
				       const char *namespace_id, const char *group_name)
{
	struct dpa_service *service = ks_xcalloc(1, sizeof(*service));
	uint64_t seed = (uint64_t)(uintptr_t)service;

	service->discovery = discovery;
	service->type = type;
	service->name = ks_xstrdup(name);
	service->namespace_id = ks_xstrdup(namespace_id);
	service->group_name = ks_xstrdup(group_name);
	service->unwanted_ms = dpa_discovery_now();
	ks_backoff_init(&service->poll.backoff, 500, 30000, seed);
	return service;
}

void dpa_service_free(struct dpa_service *service)
{
	dpa_nodes_fini(&service->nodes);
	free(service->name);
	free(service->namespace_id);
	free(service->group_name);
	free(service);
}

struct dpa_service *dpa_service_get(struct dpa_discovery *discovery, enum dpa_discovery_type type, const char *name,
				    const char *namespace_id, const char *group_name)
{
	bool found;
	size_t place = place_of(discovery, type, name, namespace_id, group_name, &found);

	if (found)
		return discovery->services[place];
	if (discovery->service_count == DPA_SERVICES_MAX) {
		discovery->full = true;
		return NULL;
	}
	if (!*name || strlen(name) > DPA_SERVICE_NAME_MAX || strlen(namespace_id) > DPA_SERVICE_NAME_MAX ||
	    strlen(group_name) > DPA_SERVICE_NAME_MAX)
		return NULL;
	if (discovery->service_count == discovery->service_capacity) {
		discovery->service_capacity = discovery->service_capacity ? discovery->service_capacity * 2 : 16;
		discovery->services =
			ks_xrealloc(discovery->services, discovery->service_capacity * sizeof(*discovery->services));
	}
	memmove(&discovery->services[place + 1], &discovery->services[place],
		(discovery->service_count - place) * sizeof(*discovery->services));
	discovery->service_count++;
	discovery->services[place] = new_service(discovery, type, name, namespace_id, group_name);
	return discovery->services[place];
}

/* ---- Keys ---- */

static int compare_entries(const void *a, const void *b)
{
	const struct key_entry *left = a, *right = b;

	return ks_slice_cmp(left->key, right->key);
}

static struct key_entry *entry_of(struct dpa_discovery *discovery, struct ks_slice key)
{
	struct key_entry wanted = {.key = key};
	struct key_entry **found = tfind(&wanted, &discovery->keys, compare_entries);

	return found ? *found : NULL;
}

static void free_entry(void *entry)
{
	struct key_entry *owned = entry;

	ks_bytes_unref(owned->bytes);
	free(owned->services);
	free(owned);
}

static struct key_entry *new_entry(struct dpa_discovery *discovery, struct ks_slice key)
{
	struct key_entry *entry = ks_xcalloc(1, sizeof(*entry));

	entry->bytes = ks_bytes_copy(key);
	KS_ASSERT(entry->bytes);
	entry->key = ks_bytes_slice(entry->bytes);
	KS_ASSERT(tsearch(entry, &discovery->keys, compare_entries));
	return entry;
}

static bool want(struct dpa_service *const *services, size_t count)
{
	bool fresh = false;

	for (size_t i = 0; i < count; i++)
		fresh |= services[i]->refs++ == 0;
	return fresh;
}

/* True when one is named by nobody any more. */
static bool leave(struct dpa_service *const *services, size_t count)
{
	bool unwanted = false;

	for (size_t i = 0; i < count; i++) {
		KS_ASSERT(services[i]->refs > 0);
		if (--services[i]->refs == 0) {
			services[i]->unwanted_ms = dpa_discovery_now();
			unwanted = true;
		}
	}
	return unwanted;
}

bool dpa_keys_set(struct dpa_discovery *discovery, struct ks_slice key, struct dpa_service *const *services,
		  size_t count)
{
	struct key_entry *entry = entry_of(discovery, key);
	struct dpa_service **copy;
	bool news;

	if (!entry && count == 0)
		return false;
	if (!entry)
		entry = new_entry(discovery, key);
	/* The new ones first, so that one which stays is not let go of in between. */
	news = want(services, count);
	news |= leave(entry->services, entry->count);
	if (count == 0) {
		(void)tdelete(entry, &discovery->keys, compare_entries);
		free_entry(entry);
		return news;
	}
	copy = ks_xmalloc(count * sizeof(*copy));
	memcpy(copy, services, count * sizeof(*copy));
	free(entry->services);
	entry->services = copy;
	entry->count = count;
	return news;
}

struct dirty_walk {
	struct ks_bytes **keys;
	size_t count, capacity;
};

static void take_dirty(const void *node, VISIT visit, void *ctx)
{
	const struct key_entry *entry = *(struct key_entry *const *)node;
	struct dirty_walk *walk = ctx;
	bool dirty = false;

	if (visit != postorder && visit != leaf)
		return;
	for (size_t i = 0; i < entry->count; i++)
		dirty |= entry->services[i]->dirty;
	if (!dirty)
		return;
	if (walk->count == walk->capacity) {
		walk->capacity = walk->capacity ? walk->capacity * 2 : 16;
		walk->keys = ks_xrealloc(walk->keys, walk->capacity * sizeof(struct ks_bytes *));
	}
	walk->keys[walk->count++] = ks_bytes_ref(entry->bytes);
}

struct ks_bytes **dpa_keys_dirty(struct dpa_discovery *discovery, size_t *count)
{
	struct dirty_walk walk = {0};
	bool any = false;

	for (size_t i = 0; i < discovery->service_count; i++)
		any |= discovery->services[i]->dirty && discovery->services[i]->refs > 0;
	if (any)
		twalk_r(discovery->keys, take_dirty, &walk);
	for (size_t i = 0; i < discovery->service_count; i++)
		discovery->services[i]->dirty = false;
	*count = walk.count;
	return walk.keys;
}

void dpa_services_free(struct dpa_discovery *discovery)
{
	tdestroy(discovery->keys, free_entry);
	for (size_t i = 0; i < discovery->service_count; i++)
		dpa_service_free(discovery->services[i]);
	free(discovery->services);
}
