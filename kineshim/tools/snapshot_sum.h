/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The checksum at the end of an etcd snapshot: SHA-256 of the database in front of it. No state; one thread.
 */
#ifndef KS_TOOLS_SNAPSHOT_SUM_H
#define KS_TOOLS_SNAPSHOT_SUM_H

#include <stdbool.h>
#include <stdint.h>

#include "base/status.h"

/*
 * *size: in, of the file; out, of the database in it. *summed: a member's own file has no checksum. With 'skip' it is not compared.
 * KS_DATA_LOSS: damaged, or no snapshot. 'name' is for texts.
 */
enum ks_status ks_snapshot_sum_check(int fd, const char *name, bool skip, uint64_t *size, bool *summed,
				     struct ks_err *err) KS_MUST_CHECK;

#endif
