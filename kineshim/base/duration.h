/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Durations as Go writes them, because etcd's flags take these: "1h30m", "1.5h", "300ms", "-2s", "0". Units: ns, us (also with
 * the micro sign), ms, s, m, h. No state; any thread.
 * Errors: KS_INVALID_ARGUMENT with the text that Go's time.ParseDuration has, which etcd shows.
 */
#ifndef KS_BASE_DURATION_H
#define KS_BASE_DURATION_H

#include <stdint.h>

#include "base/status.h"

#define KS_NS_PER_MS INT64_C(1000000)
#define KS_NS_PER_HOUR (INT64_C(3600000) * KS_NS_PER_MS)

enum ks_status ks_duration_parse(const char *text, int64_t *ns, struct ks_err *err) KS_MUST_CHECK;

#endif
