/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Service discovery for data planes that have none: upstream objects (and inline upstreams of routes, services and stream_routes) that name a service_name and a
 * discovery_type get the nodes that the registry gives, as "nodes", beside what they have. Configured by a YAML file with APISIX's own
 * keys (spec/apisix.md 4.5): dns, consul, nacos, eureka.
 *
 * What was found is kept on disk (DIR/discovery.json, owner only) and counts until the registry answers again. A service that is unknown or has no
 * nodes gives "nodes": [].
 *
 * Threads: one of its own with curl_multi; dpa_discovery_transform is the replica's call-back and runs under the replica's lock.
 */
#ifndef DPA_DISCOVERY_H
#define DPA_DISCOVERY_H

#include "mirror/board.h"
#include "mirror/replica.h"

struct dpa_discovery;

/* Reads the file; nothing runs yet. 'dir' is the data folder. */
struct dpa_discovery *dpa_discovery_new(const char *path, const char *dir, struct dpa_board *board, struct ks_err *err);
bool dpa_discovery_transform(void *discovery, struct ks_slice key, const struct ks_slice *raw, struct ks_buf *out);
/* Takes 'nodes' out of a value that a client writes back, for what is passed upstream. False: the value is to stay as it is. */
bool dpa_discovery_strip(struct ks_slice value, struct ks_buf *out);
enum ks_status dpa_discovery_start(struct dpa_discovery *discovery, struct dpa_replica *replica,
				   struct ks_err *err) KS_MUST_CHECK;
void dpa_discovery_stop(struct dpa_discovery *discovery); /* before the replica is freed */
void dpa_discovery_free(struct dpa_discovery *discovery); /* after it; NULL is fine */
/* For /status: a JSON array of services with their nodes, malloc-ed; NULL without memory. */
char *dpa_discovery_json(struct dpa_discovery *discovery);

#endif
