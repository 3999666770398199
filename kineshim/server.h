/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The whole server as one object: database, log, API, gRPC, listener. It starts without waiting for the database and logs one
 * line when it can serve.
 */
#ifndef KS_SERVER_H
#define KS_SERVER_H

#include "base/status.h"
#include "options.h"

struct ks_server;

/* Says whether a server could start with these, as far as that shows without a database, a port or a file. */
enum ks_status ks_server_check(const struct ks_options *options, struct ks_err *err) KS_MUST_CHECK;
/* NULL with KS_INVALID_ARGUMENT for bad options, other errors for what the machine refuses. Options outlive the server. */
struct ks_server *ks_server_start(const struct ks_options *options, struct ks_err *err);
/* Lets running requests end, then stops everything and frees it. */
void ks_server_stop(struct ks_server *server);

#endif
