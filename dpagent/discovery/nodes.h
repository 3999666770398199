/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The nodes of one service: what a registry said, checked, in an order that depends on nothing but the nodes.
 *
 * Owner: a list owns its texts until fini or move. One thread at a time. Everything comes from outside: hosts must be names or
 * addresses, ports 1 to 65535, weights and counts have limits.
 */
#ifndef DPA_NODES_H
#define DPA_NODES_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#define DPA_NODES_MAX 5000
#define DPA_NODE_WEIGHT_MAX 1000000

struct dpa_node {
	char *host;   /* an IPv6 address has brackets */
	int64_t port; /* 0: none */
	int64_t weight;
	int64_t priority;
};

struct dpa_nodes {
	struct dpa_node *list;
	size_t count, capacity;
};

/* A name of letters, digits, '-', '_' and '.', or an address. Brackets around IPv6 are allowed. */
bool dpa_host_valid(const char *host);
/* False, and nothing is added, when host, port (0: none) or weight (below 0) are out of bounds; a large weight is cut. False, too, when
 * the list is full: dpa_nodes_full tells. */
bool dpa_nodes_add(struct dpa_nodes *nodes, const char *host, int64_t port, int64_t weight, int64_t priority);
bool dpa_nodes_full(const struct dpa_nodes *nodes);
/* Sorts; of nodes with the same host, port and priority the greatest weight stays. */
void dpa_nodes_settle(struct dpa_nodes *nodes);
bool dpa_nodes_equal(const struct dpa_nodes *a, const struct dpa_nodes *b); /* both settled */
void dpa_nodes_move(struct dpa_nodes *to, struct dpa_nodes *from);          /* 'from' is empty afterwards */
void dpa_nodes_fini(struct dpa_nodes *nodes);

/* As APISIX has them: [{"host","port"?,"weight","priority"?}]. NULL without memory. */
json_t *dpa_nodes_json(const struct dpa_nodes *nodes);
/* The same back; false when something is not as it should be ('nodes' may then hold some). */
bool dpa_nodes_read(const json_t *array, struct dpa_nodes *nodes);

#endif
