/* SPDX-License-Identifier: Apache-2.0 */
/* What discovery adds to an object, and what it takes out again. */
#include <stdlib.h>
#include <string.h>

#include "base/diag.h"
#include "base/panic.h"
#include "discovery/discovery_priv.h"

#define NEEDLE "\"service_name\""
#define SERVICES_PER_KEY 256
/* APISIX writes numbers with a fraction as it reads them: 17 digits give the same number, though perhaps in more digits. */
#define DUMP_FLAGS JSON_COMPACT

/* An upstream object, wherever it stands. */
typedef void visit_fn(void *ctx, json_t *upstream);

static void visit_if_named(json_t *object, visit_fn *visit, void *ctx)
{
	if (json_is_string(json_object_get(object, "service_name")) &&
	    json_is_string(json_object_get(object, "discovery_type")))
		visit(ctx, object);
}

static void visit_traffic_split(json_t *root, visit_fn *visit, void *ctx)
{
	json_t *plugin = json_object_get(json_object_get(root, "plugins"), "traffic-split");
	json_t *rule, *target;
	size_t i, j;

	json_array_foreach(json_object_get(plugin, "rules"), i, rule)
	{
		json_array_foreach(json_object_get(rule, "weighted_upstreams"), j, target)
			visit_if_named(json_object_get(target, "upstream"), visit, ctx);
	}
}

/* The object itself (of /upstreams/), that of a route, a service or a stream_route, and those of the plugin traffic-split. */
static void visit_all(json_t *root, visit_fn *visit, void *ctx)
{
	visit_if_named(root, visit, ctx);
	visit_if_named(json_object_get(root, "upstream"), visit, ctx);
	visit_traffic_split(root, visit, ctx);
}

static bool mentions_services(struct ks_slice value)
{
	return value.size && memmem(value.data, value.size, NEEDLE, sizeof(NEEDLE) - 1);
}

/* NULL: no object, or not JSON. */
static json_t *load(struct ks_slice value)
{
	json_t *root = json_loadb((const char *)value.data, value.size, JSON_ALLOW_NUL, NULL);

	if (json_is_object(root))
		return root;
	json_decref(root);
	return NULL;
}

static int append(const char *text, size_t size, void *ctx)
{
	struct ks_buf *out = ctx;

	ks_buf_append(out, text, size);
	return out->failed ? -1 : 0;
}

static bool dump(const json_t *root, struct ks_buf *out)
{
	return json_dump_callback(root, append, out, DUMP_FLAGS) == 0;
}

/* ---- In ---- */

struct adding {
	struct dpa_discovery *discovery;
	struct dpa_service *services[SERVICES_PER_KEY];
	size_t count;
	bool changed;
};

static const char *argument(const json_t *upstream, const char *name)
{
	const char *text = json_string_value(json_object_get(json_object_get(upstream, "discovery_args"), name));

	return text ? text : "";
}

/* With the lock held: a call-back hides that from the compiler. */
static void add_nodes(void *ctx, json_t *upstream) KS_NO_TSA
{
	struct adding *adding = ctx;
	struct dpa_discovery *discovery = adding->discovery;
	const char *name = json_string_value(json_object_get(upstream, "service_name"));
	struct dpa_service *service;
	enum dpa_discovery_type type;

	if (!dpa_discovery_type_of(json_string_value(json_object_get(upstream, "discovery_type")), &type) ||
	    !discovery->config.has[type] || adding->count == SERVICES_PER_KEY)
		return;
	/* Only Nacos knows the arguments. */
	service = dpa_service_get(discovery, type, name, type == DPA_NACOS ? argument(upstream, "namespace_id") : "",
				  type == DPA_NACOS ? argument(upstream, "group_name") : "");
	if (!service)
		return;
	adding->services[adding->count++] = service;
	if (service->known && json_object_set_new(upstream, "nodes", dpa_nodes_json(&service->nodes)) == 0)
		adding->changed = true;
}

static void forget(struct dpa_discovery *discovery, struct ks_slice key)
{
	bool news;

	ks_mutex_lock(&discovery->lock);
	news = dpa_keys_set(discovery, key, NULL, 0);
	ks_mutex_unlock(&discovery->lock);
	if (news)
		dpa_fetch_wake(discovery->http);
}

/* A service is named in upstreams/ID, or in an object that has one inside. */
static bool is_of_kind(struct ks_slice key)
{
	static const char *const kinds[] = {"upstreams",      "routes",       "services",  "stream_routes",
					    "plugin_configs", "global_rules", "consumers", "consumer_groups"};
	const uint8_t *slash = memrchr(key.data, '/', key.size), *before;
	size_t size;

	if (!slash)
		return false;
	before = memrchr(key.data, '/', (size_t)(slash - key.data));
	before = before ? before + 1 : key.data;
	size = (size_t)(slash - before);
	for (size_t i = 0; i < sizeof(kinds) / sizeof(*kinds); i++) {
		if (strlen(kinds[i]) == size && memcmp(kinds[i], before, size) == 0)
			return true;
	}
	return false;
}

bool dpa_discovery_transform(void *ctx, struct ks_slice key, const struct ks_slice *raw, struct ks_buf *out)
{
	struct adding adding = {.discovery = ctx};
	json_t *root = raw && mentions_services(*raw) && is_of_kind(key) ? load(*raw) : NULL;
	bool news, changed;

	if (!root) {
		forget(adding.discovery, key);
		return false;
	}
	ks_mutex_lock(&adding.discovery->lock);
	visit_all(root, add_nodes, &adding);
	news = dpa_keys_set(adding.discovery, key, adding.services, adding.count);
	ks_mutex_unlock(&adding.discovery->lock);
	if (news)
		dpa_fetch_wake(adding.discovery->http);
	changed = adding.changed && dump(root, out);
	json_decref(root);
	return changed;
}

/* ---- Out ---- */

static void take_nodes(void *ctx, json_t *upstream)
{
	bool *changed = ctx;

	if (json_object_del(upstream, "nodes") == 0)
		*changed = true;
}

bool dpa_discovery_strip(struct ks_slice value, struct ks_buf *out)
{
	bool changed = false;
	json_t *root = mentions_services(value) ? load(value) : NULL;

	if (!root)
		return false;
	visit_all(root, take_nodes, &changed);
	changed = changed && dump(root, out);
	json_decref(root);
	return changed;
}
