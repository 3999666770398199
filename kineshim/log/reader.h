/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the files of the reader share.
 *
 *   reader.c  its step; what waited for too long
 *   head.c    proofs
 *   values.c  values that the cache let go
 *
 * Owner: proofs and fetches are their callers' again as soon as they were finished. Nothing is finished under the role's mutex.
 */
#ifndef KS_LOG_READER_H
#define KS_LOG_READER_H

#include "log/log_priv.h"

#define KS_LOG_FETCH_CHUNK 512 /* rows in one query */

struct ks_log_fetch_slot {
	struct ks_loc loc;
	struct ks_kvref *ref;
};

static inline struct ks_read_proof *ks_log_proof_of(struct ks_list *link)
{
	return ks_container_of(link, struct ks_read_proof, link);
}

/* ---- head.c ---- */

/* Answers all of the list; NULL: they are proven, else the text for KS_UNAVAILABLE. Any thread. */
void ks_log_proofs_finish(struct ks_list *proofs, const char *failure);
/* True when there was something to do. *wait_ms: after trouble. [reader] */
bool ks_log_prove(struct ks_log *log, int64_t *wait_ms);

/* ---- values.c ---- */

/* Answers all of the list with an error; any thread. */
void ks_log_fetches_fail(struct ks_list *fetches, enum ks_status status, const char *text);
/* One query for values that are waited for; returns as ks_log_prove does. [reader] */
bool ks_log_fetch_some(struct ks_log *log, int64_t *wait_ms);

#endif
