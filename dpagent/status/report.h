/* SPDX-License-Identifier: Apache-2.0 */
/* The agent's state as JSON: the whole for /status, the short one for /status/ready and for what is registered upstream. */
#ifndef DPA_REPORT_H
#define DPA_REPORT_H

#include <jansson.h>

#include "mirror/board.h"
#include "mirror/replica.h"

/* Times as "2026-11-29T20:50:32Z", null for none; ages in seconds. NULL without memory. The caller's. */
json_t *dpa_report_time(int64_t ms);
json_t *dpa_report_short(const struct dpa_status *status, const struct dpa_point *point);
json_t *dpa_report_full(const struct dpa_status *status, const struct dpa_point *point);

#endif
