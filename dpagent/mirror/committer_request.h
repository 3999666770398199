/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A write of a client below, as the request for upstream: revisions and versions in it become upstream's, nodes of discovery go. Keys outside
 * of the prefix are refused, and so is what has no equivalent upstream.
 *
 * Owner: the request owns what it needs but for keys and values, which it borrows from the client's. Threads: any.
 */
#ifndef DPA_COMMITTER_REQUEST_H
#define DPA_COMMITTER_REQUEST_H

#include "mirror/committer_priv.h"

struct dpa_request {
	const struct etcdc_method *method;
	const ProtobufCMessage *message;
	struct ks_arena arena; /* the message's */
};

/* On errors there is nothing to be given back. */
enum ks_status dpa_request_make(struct dpa_committer *committer, const struct ks_request *from, struct dpa_request *to,
				struct ks_err *err) KS_MUST_CHECK;
void dpa_request_fini(struct dpa_request *request);

#endif
