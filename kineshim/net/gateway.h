/* SPDX-License-Identifier: Apache-2.0 */
/*
 * etcd's JSON gateway (spec 9.3 to 9.6): requests under /v3/ become calls of the same methods that gRPC serves. Only http*.c
 * sees this header; handlers see a struct ks_call like any other (net/rpc.h), for which ks_call_is_http is true.
 *
 * Threads: routing on the I/O thread; handlers on a cq thread, as always.
 */
#ifndef KS_NET_GATEWAY_H
#define KS_NET_GATEWAY_H

struct ks_http_request;

/* Chooses what serves a request under /v3/ or /v3beta/; its header is complete. */
void ks_gateway_route(struct ks_http_request *request);

#endif
