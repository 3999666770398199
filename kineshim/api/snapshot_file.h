/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The database file of a snapshot: what the store holds at one revision, as a member of etcd 3.6 would have it on its disk
 * (spec 6.6). Nothing in it is ours alone, so that etcdutl and a real etcd take it.
 *
 * Threads: any but those that must not block: it writes files, and waits for values that the cache let go.
 * Errors: etcd's texts where there are any; KS_RESOURCE_EXHAUSTED when the disk is full.
 */
#ifndef KS_API_SNAPSHOT_FILE_H
#define KS_API_SNAPSHOT_FILE_H

#include <stdatomic.h>

#include "api/api.h"

/* An empty file without a name, which is gone when it is closed: in 'dir', else in TMPDIR, else in /tmp. -1 with 'err'. */
int ks_snapshot_file_open(const char *dir, struct ks_err *err);
/*
 * Writes the whole database; *size is a multiple of 512, *revision that of the copy. Ends early, with KS_CANCELLED, when
 * *cancelled becomes true.
 */
enum ks_status ks_snapshot_file_write(struct ks_api *api, int fd, const _Atomic bool *cancelled, uint64_t *size,
				      int64_t *revision, struct ks_err *err) KS_MUST_CHECK;

#endif
