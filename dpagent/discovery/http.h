/* SPDX-License-Identifier: Apache-2.0 */
/*
 * HTTP requests to registries: many at once on one thread, with libcurl. No redirects, no proxies of the environment, certificates are verified.
 *
 * Owner: a transfer belongs to this module; its handle is void once 'done' was called or it was cancelled. Threads: all functions are for one
 * thread, apart from dpa_fetch_wake. Errors: in the answer, with texts that show neither URLs nor secrets.
 */
#ifndef DPA_DISCOVERY_HTTP_H
#define DPA_DISCOVERY_HTTP_H

#include <curl/curl.h>

#include "base/bytes.h"
#include "discovery/settings.h"

struct dpa_http;
struct dpa_transfer;

struct dpa_http_answer {
	bool ok;           /* there is an answer, whatever its status */
	const char *error; /* when there is none */
	long status;
	struct ks_slice body;
	uint64_t consul_index; /* X-Consul-Index; 0: none */
};
typedef void dpa_http_done_fn(void *ctx, const struct dpa_http_answer *answer);

struct dpa_http_request {
	const struct dpa_http_config *config; /* time-outs, CA */
	const struct dpa_server *server;      /* user and password of it are sent when 'basic' */
	bool basic;
	const char *path;   /* begins with a slash; goes behind the server's URL */
	const char *header; /* one more header line, or NULL */
	const char *form;   /* the body of a POST; NULL: a GET */
	int64_t wait_ms;    /* how long the server may take on top of the time-outs */
};

struct dpa_http *dpa_fetch_new(void);       /* NULL without memory */
void dpa_fetch_free(struct dpa_http *http); /* after all transfers were cancelled */
/* All texts are copied. NULL: no memory; 'done' is never called then. 'done' is called by dpa_fetch_run. */
struct dpa_transfer *dpa_fetch_start(struct dpa_http *http, const struct dpa_http_request *request,
				     dpa_http_done_fn *done, void *ctx);
void dpa_fetch_cancel(struct dpa_http *http,
		      struct dpa_transfer *transfer); /* 'done' will not be called; NULL is fine */
/* Waits for sockets, 'extra' among them, and does what can be done. */
void dpa_fetch_run(struct dpa_http *http, struct curl_waitfd *extra, unsigned extra_count, int64_t wait_ms);
void dpa_fetch_wake(struct dpa_http *http); /* any thread: dpa_fetch_run returns */
/* 'text' for use in a path or a form, malloc-ed. */
char *dpa_http_escape(const char *text);

#endif
