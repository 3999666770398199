/* SPDX-License-Identifier: Apache-2.0 */
/* The duplicate-key rule for transactions (spec 2.4, rule 4), on one branch of the outermost one. No state; any thread. */
#ifndef KS_API_VALIDATE_KEYS_H
#define KS_API_VALIDATE_KEYS_H

#include "base/status.h"
#include "proto/rpc.pb-c.h"

enum ks_status ks_validate_keys(Etcdserverpb__RequestOp *const *ops, size_t count, struct ks_err *err) KS_MUST_CHECK;

#endif
