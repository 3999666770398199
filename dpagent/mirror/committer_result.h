/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Upstream's answer to a write, as the api wants it: with local revisions, and keys as they are served. To be made when the mirror shows what
 * was written. Threads: any, without locks.
 */
#ifndef DPA_COMMITTER_RESULT_H
#define DPA_COMMITTER_RESULT_H

#include "mirror/committer_priv.h"

/* Upstream's revision from which on the mirror shows what the answer tells; 0: it may be told at once. *bounded: perhaps there is no
 * event of it, so a short wait must do. */
int64_t dpa_result_revision(const struct ks_request *request, const ProtobufCMessage *response, bool *bounded);
/* 'request' is changed where the answer corrects it (a lease's TTL). */
enum ks_status dpa_result_make(struct dpa_committer *committer, struct ks_request *request,
			       const ProtobufCMessage *response, struct ks_result *result,
			       struct ks_err *err) KS_MUST_CHECK;

#endif
