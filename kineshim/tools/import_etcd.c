/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A running etcd as the source of an import, or whatever else speaks its protocol: kineshim on another database, too.
 *
 * The first part is its own snapshot (Maintenance.Snapshot), which has all that can be had: revisions, leases, users with their
 * passwords. What follows is one watch on everything from the next revision on; each revision becomes one entry with the changes in
 * their order, so that both sides keep the same sub-revisions, which HashKV covers. A watch says nothing of leases: one that a key
 * names and nobody knows is looked up before the key is written; the rest (leases without keys, leases that ended, users, roles,
 * compactions) is compared at the end, when nobody writes any more.
 *
 * A lease that ended between its last key and our look is written as the key had it. Its delete follows.
 */
#include "tools/import_etcd.h"

#include <inttypes.h>
#include <stdio.h>

static void etcd_describe(const struct ks_import_source *source, char text[KS_IMPORT_SOURCE_MAX])
{
	(void)snprintf(text, KS_IMPORT_SOURCE_MAX, "etcd:%" PRIx64 " %.90s", source->cluster_id, source->place);
}

/* ---- the first part ---- */

static enum ks_status etcd_begin(struct ks_import_source *source, struct ks_import_target *target, struct ks_err *err)
{
	return ks_import_etcd_take_snapshot(source, ks_import_target_writer(target), err);
}

static enum sqlb_next etcd_next(void *ctx, struct sqlb_row *row)
{
	struct ks_import_source *source = ctx;

	return ks_restore_source_next(source->restore, row);
}

static const struct ks_err *etcd_next_err(const struct ks_import_source *source)
{
	return ks_restore_source_error(source->restore);
}

/* ---- what follows ---- */

static enum ks_status etcd_head(struct ks_import_source *source, int64_t *newest, struct ks_err *err)
{
	uint64_t cluster_id;

	return ks_import_etcd_ask_head(source, 0, &cluster_id, newest, err);
}

static int64_t etcd_reached(const struct ks_import_source *source)
{
	return source->reached;
}

const struct ks_import_source_ops ks_import_etcd = {
	.open = ks_import_etcd_open,
	.close = ks_import_etcd_close,
	.describe = etcd_describe,
	.begin = etcd_begin,
	.next = etcd_next,
	.next_err = etcd_next_err,
	.follow = ks_import_etcd_follow,
	.poll = ks_import_etcd_poll,
	.head = etcd_head,
	.reached = etcd_reached,
	.settle = ks_import_etcd_settle,
	.verify = ks_import_etcd_verify,
};
