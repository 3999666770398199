/* SPDX-License-Identifier: Apache-2.0 */
/* From the TLS flags to a running TLS side (net/tls.h). */
#ifndef KS_SERVER_TLS_H
#define KS_SERVER_TLS_H

#include "base/status.h"
#include "net/tls.h"
#include "options.h"

/* Do the flags fit together, as far as that shows without reading a file? */
enum ks_status ks_server_tls_check(const struct ks_options *options, struct ks_err *err) KS_MUST_CHECK;
/*
 * *tls is NULL when nothing asks for TLS. 'handed_over': there are listening sockets of a service manager, which may be for TLS whatever
 * the URLs say.
 */
enum ks_status ks_server_tls_start(const struct ks_options *options, bool handed_over, struct ks_rpc *rpc,
				   struct ks_http *http, struct ks_tls **tls, struct ks_err *err) KS_MUST_CHECK;

#endif
