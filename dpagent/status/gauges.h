/* SPDX-License-Identifier: Apache-2.0 */
/* The agent's rows of /metrics (base/metrics_table.h), from the board and the replica's point, when somebody reads them. */
#ifndef DPA_GAUGES_H
#define DPA_GAUGES_H

#include "mirror/board.h"
#include "mirror/replica.h"

struct dpa_gauges;

struct dpa_gauges *dpa_gauges_start(struct dpa_board *board, struct dpa_replica *replica);
void dpa_gauges_stop(struct dpa_gauges *gauges); /* NULL is fine */

#endif
