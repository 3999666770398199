/* SPDX-License-Identifier: Apache-2.0 */
#include "discovery/nodes.h"

#include <arpa/inet.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/panic.h"

#define HOST_MAX 253
#define PRIORITY_MAX 1000000

static bool is_v6(const char *host)
{
	struct in6_addr address;

	return inet_pton(AF_INET6, host, &address) == 1;
}

bool dpa_host_valid(const char *host)
{
	size_t size = strlen(host);
	char inner[INET6_ADDRSTRLEN];

	if (size == 0 || size > HOST_MAX)
		return false;
	if (host[0] == '[') {
		if (size < 4 || size - 2 >= sizeof(inner) || host[size - 1] != ']')
			return false;
		memcpy(inner, host + 1, size - 2);
		inner[size - 2] = '\0';
		return is_v6(inner);
	}
	if (strchr(host, ':'))
		return is_v6(host);
	return strspn(host, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.") == size &&
	       host[0] != '.' && host[0] != '-' && !strstr(host, "..");
}

static char *host_copy(const char *host)
{
	char *copy = NULL;

	if (host[0] == '[' || !strchr(host, ':'))
		return ks_xstrdup(host);
	KS_ASSERT(asprintf(&copy, "[%s]", host) > 0);
	return copy;
}

bool dpa_nodes_full(const struct dpa_nodes *nodes)
{
	return nodes->count == DPA_NODES_MAX;
}

bool dpa_nodes_add(struct dpa_nodes *nodes, const char *host, int64_t port, int64_t weight, int64_t priority)
{
	if (dpa_nodes_full(nodes) || !dpa_host_valid(host) || port < 0 || port > 65535 || weight < 0)
		return false;
	if (priority < -PRIORITY_MAX || priority > PRIORITY_MAX)
		return false;
	if (nodes->count == nodes->capacity) {
		nodes->capacity = nodes->capacity ? nodes->capacity * 2 : 4;
		nodes->list = ks_xrealloc(nodes->list, nodes->capacity * sizeof(*nodes->list));
	}
	nodes->list[nodes->count++] = (struct dpa_node){
		.host = host_copy(host),
		.port = port,
		.weight = weight < DPA_NODE_WEIGHT_MAX ? weight : DPA_NODE_WEIGHT_MAX,
		.priority = priority,
	};
	return true;
}

static int compare_numbers(int64_t a, int64_t b)
{
	return (a > b) - (a < b);
}

/* Which node it is; the weight only says how much of it there is. */
static int compare_places(const struct dpa_node *a, const struct dpa_node *b)
{
	int order = strcmp(a->host, b->host);

	if (!order)
		order = compare_numbers(a->port, b->port);
	return order ? order : compare_numbers(b->priority, a->priority);
}

static int compare_nodes(const void *a, const void *b)
{
	const struct dpa_node *left = a, *right = b;
	int order = compare_places(left, right);

	return order ? order : compare_numbers(right->weight, left->weight);
}

void dpa_nodes_settle(struct dpa_nodes *nodes)
{
	size_t kept = 0;

	if (nodes->count == 0)
		return;
	qsort(nodes->list, nodes->count, sizeof(*nodes->list), compare_nodes);
	for (size_t i = 1; i < nodes->count; i++) {
		if (compare_places(&nodes->list[kept], &nodes->list[i]) == 0)
			free(nodes->list[i].host);
		else
			nodes->list[++kept] = nodes->list[i];
	}
	nodes->count = kept + 1;
}

bool dpa_nodes_equal(const struct dpa_nodes *a, const struct dpa_nodes *b)
{
	if (a->count != b->count)
		return false;
	for (size_t i = 0; i < a->count; i++) {
		if (compare_nodes(&a->list[i], &b->list[i]) != 0)
			return false;
	}
	return true;
}

void dpa_nodes_fini(struct dpa_nodes *nodes)
{
	for (size_t i = 0; i < nodes->count; i++)
		free(nodes->list[i].host);
	free(nodes->list);
	*nodes = (struct dpa_nodes){0};
}

void dpa_nodes_move(struct dpa_nodes *to, struct dpa_nodes *from)
{
	dpa_nodes_fini(to);
	*to = *from;
	*from = (struct dpa_nodes){0};
}

static json_t *node_json(const struct dpa_node *node)
{
	json_t *object = json_pack("{s:s}", "host", node->host);
	bool fine = object != NULL;

	if (fine && node->port)
		fine = json_object_set_new(object, "port", json_integer(node->port)) == 0;
	if (fine)
		fine = json_object_set_new(object, "weight", json_integer(node->weight)) == 0;
	if (fine && node->priority)
		fine = json_object_set_new(object, "priority", json_integer(node->priority)) == 0;
	if (fine)
		return object;
	json_decref(object);
	return NULL;
}

json_t *dpa_nodes_json(const struct dpa_nodes *nodes)
{
	json_t *array = json_array();

	for (size_t i = 0; array && i < nodes->count; i++) {
		if (json_array_append_new(array, node_json(&nodes->list[i])) != 0) {
			json_decref(array);
			return NULL;
		}
	}
	return array;
}

static bool read_number(const json_t *object, const char *name, int64_t *number)
{
	const json_t *value = json_object_get(object, name);

	*number = value ? (int64_t)json_integer_value(value) : 0;
	return !value || json_is_integer(value);
}

bool dpa_nodes_read(const json_t *array, struct dpa_nodes *nodes)
{
	size_t i;
	json_t *object;

	if (!json_is_array(array))
		return false;
	json_array_foreach(array, i, object)
	{
		const char *host = json_string_value(json_object_get(object, "host"));
		int64_t port, weight, priority;

		if (!host || !read_number(object, "port", &port) || !read_number(object, "weight", &weight) ||
		    !read_number(object, "priority", &priority) || !dpa_nodes_add(nodes, host, port, weight, priority))
			return false;
	}
	dpa_nodes_settle(nodes);
	return true;
}
