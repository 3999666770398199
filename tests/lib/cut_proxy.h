/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A TCP proxy to a local port that cuts each connection some time after it began, at the worst moment it can
 * find: while a request passes. The request is then lost, cut in the middle, passed on without its answer, or
 * passed on later, when the client has long been told that its connection is gone. What the client is left with
 * is doubt.
 */
#ifndef TESTS_LIB_CUT_PROXY_H
#define TESTS_LIB_CUT_PROXY_H

struct cut_proxy;

/* Listens on 127.0.0.1:*port. Connections live up to 'life_ms'. NULL: no port or no thread. */
struct cut_proxy *cut_proxy_start(int target_port, int life_ms, unsigned seed, int *port);
/* Ends all connections and the proxy; says how many were cut. */
int cut_proxy_stop(struct cut_proxy *proxy);

#endif
