/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the files of the side thread share that serve requests (housekeeper.c; log_priv.h has its other work). Steps are called on that thread, ask the database on its connection, and do one
 * bounded piece of work; '*outcome' says what came of it, and 'err' why it is not OK: then what was asked for waits for the next time.
 * The others may be called on any thread. Requests that are failed came at 'than_ms' or before; INT64_MAX: all.
 */
#ifndef KS_LOG_HOUSEKEEPER_H
#define KS_LOG_HOUSEKEEPER_H

#include "log/log_priv.h"

/* ---- keepalive.c ---- */

/* True when there was something to do. */
bool ks_log_keepalives_step(struct ks_log *log, enum sqlb_outcome *outcome, struct ks_err *err);
void ks_log_keepalives_fail(struct ks_log *log, int64_t than_ms, const char *text);
/* Does the committed view have this lease? */
bool ks_log_lease_known(struct ks_log *log, int64_t id);

/* ---- lease_times.c ---- */

/* True when there was something to do. */
bool ks_log_lease_times_step(struct ks_log *log, enum sqlb_outcome *outcome, struct ks_err *err);
void ks_log_lease_times_fail(struct ks_log *log, int64_t than_ms, const char *text);

/* ---- expiry.c ---- */

void ks_log_expiry_init(struct ks_log *log);
void ks_log_expiry_fini(struct ks_log *log);
/* What was due, for a person; NULL: nothing was. */
const char *ks_log_expiry_step(struct ks_log *log, int64_t now, enum sqlb_outcome *outcome, struct ks_err *err);

/* ---- chores.c: those that wait for the side thread ---- */

void ks_log_side_chores_fail_all(struct ks_log *log, const char *text);
/* A physical compaction may take as long as it takes. */
void ks_log_side_chores_expire(struct ks_log *log, int64_t than_ms);

#endif
