/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What clients meet: api, gRPC, HTTP/1.1, TLS and the listener over a store and a committer, set up from the options that all
 * programs have. Compiled once for each program, with its options (options_program.h).
 *
 * Threads: start and stop: the main thread. Errors: KS_INVALID_ARGUMENT for bad options, others for what the machine refuses.
 */
#ifndef KS_FRONTEND_H
#define KS_FRONTEND_H

#include "api/api.h"
#include "base/status.h"
#include "options.h"

struct ks_frontend;
struct ks_http_request;

struct ks_frontend_config {
	const struct ks_options *options; /* outlives the front end */
	/* store, committer, timers, and what depends on the program; sizes and intervals of the options are filled in. */
	struct ks_api_config api;
	bool no_clients; /* only the ports of --listen-metrics-urls */
	/* Plain HTTP that the program answers itself; false: it did not, and the api's probes may. NULL: none. */
	bool (*plain)(void *ctx, struct ks_http_request *request);
	void *plain_ctx;
	/* When a service manager handed sockets over, before they are listened on: waits for what their clients need. NULL: no. */
	void (*handed_over)(void *ctx);
	void *handed_over_ctx;
};

/* Do the URLs and the TLS flags make sense, as far as that shows without a port or a file? */
enum ks_status ks_frontend_check(const struct ks_options *options, struct ks_err *err) KS_MUST_CHECK;
struct ks_frontend *ks_frontend_start(const struct ks_frontend_config *config, struct ks_err *err);
/* What is really listened on, separated by commas; lives as long. */
const char *ks_frontend_urls(const struct ks_frontend *frontend);
/*
 * Nothing new is accepted; running requests get 'drain_ms'. 'late', unless NULL, is called on a timer's thread when that is over and
 * something still waits for the committer. Then all is freed, but for the committer's side. NULL is fine.
 */
void ks_frontend_stop(struct ks_frontend *frontend, int drain_ms, void (*late)(void *ctx), void *late_ctx);

/* Each client costs a descriptor. */
void ks_frontend_raise_file_limit(void);
/* Warns when clients that ask for the members would be told what they cannot connect to. */
void ks_frontend_check_advertised(const struct ks_options *options);
/* Is 'part' in the comma separated list, each element of which it sees with a comma behind it? */
bool ks_frontend_any_url_has(const char *urls, const char *part);

#endif
