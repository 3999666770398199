/* SPDX-License-Identifier: Apache-2.0 */
/*
 * etcd's JSON gateway (spec 9.3 to 9.6): requests under /v3/ become calls of the same methods that gRPC serves. Only http*.c
 * sees this header; handlers see a struct ks_call like any other (net/rpc.h), for which ks_call_is_http is true.
 *
 * Error bodies carry what clients of both generations of etcd's gateway read: {"error", "message", "code"}, and on streams
 * {"error": {"grpc_code", "http_code", "message", "http_status", "code"}}.
 *
 * A GET that is a WebSocket's handshake becomes a call whose messages go over the WebSocket.
 *
 * Threads: routing on the I/O thread; handlers on a cq thread, as always.
 */
#ifndef KS_NET_GATEWAY_H
#define KS_NET_GATEWAY_H

struct ks_http_request;
struct ks_rpc;
struct gateway_routes;

/* The paths of all methods that have one. */
struct gateway_routes *ks_gateway_routes_new(struct ks_rpc *rpc);
void ks_gateway_routes_free(struct gateway_routes *routes); /* NULL is fine */
/* Chooses what serves a request under /v3/ or /v3beta/; its header is complete. */
void ks_gateway_route(struct ks_http_request *request);

#endif
