/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What operators and their machines ask over plain HTTP (spec 9.7, 9.8): /version, /health, /livez, /readyz, /metrics, /debug/vars.
 *
 * None of them asks who wants to know, none changes anything, and none blocks a thread: what needs the database is answered by
 * whoever hears of its answer, at the latest when the log's own time limit for reads is over.
 */
#ifndef KS_API_PROBES_H
#define KS_API_PROBES_H

struct ks_http_request;

/* For ks_http_config.plain; the context is the struct ks_api. Answers 404 to what it does not know. Threads: any. */
void ks_api_plain(void *ctx, struct ks_http_request *request);

#endif
