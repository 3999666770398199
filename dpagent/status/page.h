/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the agent says of itself over plain HTTP, beside kineshim's /health, /metrics and /version:
 *
 *	GET  /status          everything, as JSON
 *	GET  /status/ready    200 with a configuration, else 503; JSON says where it is from and how old it is
 *	POST /accept-empty    releases a hold against an empty upstream; only at a port of --listen-metrics-urls, and from this machine
 *
 * Threads: any, for dpa_page_serve; the others: the main one. Borrowed: everything in the configuration.
 */
#ifndef DPA_PAGE_H
#define DPA_PAGE_H

#include <jansson.h>

#include "discovery/discovery.h"
#include "mirror/board.h"
#include "mirror/replica.h"
#include "mirror/upstream.h"
#include "overlay.h"

struct ks_http_request;
struct dpa_page;

struct dpa_page_config {
	struct dpa_board *board;
	struct dpa_replica *replica;
	struct dpa_upstream *upstream;
	struct dpa_discovery *discovery; /* NULL: none */
	struct dpa_overlay *overlay;     /* NULL: none */
	const char *id, *role, *urls;
};

struct dpa_page *dpa_page_new(const struct dpa_page_config *config);
void dpa_page_free(struct dpa_page *page); /* NULL is fine */
/* False: not one of its paths, nothing was answered. */
bool dpa_page_serve(struct dpa_page *page, struct ks_http_request *request);

#endif
