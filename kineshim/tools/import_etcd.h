/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the files of the import from etcd share.
 *
 *   import_etcd.c           the source, as import_source.h wants it
 *   import_etcd_open.c      who it is, and the way to it
 *   import_etcd_snapshot.c  the first part
 *   import_etcd_watch.c     what follows
 *   import_etcd_settle.c    the end
 *   import_etcd_leases.c    leases, of which a watch says nothing
 *   import_etcd_auth.c      users, roles and the switch, of which it says nothing either
 *
 * Owner: the source has all that it opened until its close. One thread. Errors: of a call on the source, with its place before them;
 * KS_ABORTED: something was written meanwhile.
 */
#ifndef KS_TOOLS_IMPORT_ETCD_H
#define KS_TOOLS_IMPORT_ETCD_H

#include "base/backoff.h"
#include "base/clock.h"
#include "client/etcdc.h"
#include "tools/import_source.h"
#include "tools/restore_source.h"

struct ks_import_source {
	const struct ks_import_source_config *config;
	struct etcdc *client;
	uint64_t cluster_id;
	char place[KS_IMPORT_SOURCE_MAX]; /* the endpoints */
	/* the first part */
	int fd; /* of the snapshot, a file without name */
	struct ks_restore_source *restore;
	/* what follows */
	struct etcdc_stream *watch; /* NULL: to be opened, at 'retry_at_ms' */
	int64_t retry_at_ms;
	struct ks_backoff backoff;
	bool away; /* and that was said */
	int64_t reached;
	Mvccpb__Event **parts; /* of responses in fragments, before the last one */
	size_t part_count;
};

static inline int64_t ks_import_etcd_now_ms(void)
{
	return ks_clock_now(ks_clock_system());
}

/* ---- import_etcd_open.c ---- */

enum ks_status ks_import_etcd_open(const struct ks_import_source_config *config, struct ks_import_source **source,
				   struct ks_err *err);
void ks_import_etcd_close(struct ks_import_source *source);
/* The error of a call on the source, as one of ours. */
enum ks_status ks_import_etcd_failed(const struct ks_import_source *source, const char *what,
				     const struct etcdc_err *failed, struct ks_err *err);
/* Reads nothing, and so learns who answers and what its newest revision is; logs in on the way. */
enum ks_status ks_import_etcd_ask_head(struct ks_import_source *source, int timeout_ms, uint64_t *cluster_id,
				       int64_t *revision, struct ks_err *err);

/* ---- import_etcd_snapshot.c ---- */

/* OK: source->restore has it, until it is dropped. */
enum ks_status ks_import_etcd_take_snapshot(struct ks_import_source *source, int64_t writer, struct ks_err *err);
void ks_import_etcd_drop_snapshot(struct ks_import_source *source);

/* ---- import_etcd_watch.c ---- */

enum ks_status ks_import_etcd_follow(struct ks_import_source *source, struct ks_import_target *target,
				     struct ks_err *err);
enum ks_status ks_import_etcd_poll(struct ks_import_source *source, struct ks_import_target *target, int wait_ms,
				   struct ks_err *err);
void ks_import_etcd_drop_watch(struct ks_import_source *source);

/* ---- import_etcd_settle.c ---- */

enum ks_status ks_import_etcd_settle(struct ks_import_source *source, struct ks_import_target *target,
				     struct ks_err *err);
enum ks_status ks_import_etcd_verify(struct ks_import_source *source, struct ks_import_target *target,
				     const struct ks_hash_result *hash, char proof[128], struct ks_err *err);

/* ---- import_etcd_leases.c ---- */

bool ks_import_etcd_knows_lease(struct ks_import_target *target, int64_t id);
/* Writes the grant of a lease that we do not have, unless the source has not got it either. */
enum ks_status ks_import_etcd_bring_lease(struct ks_import_source *source, struct ks_import_target *target, int64_t id,
					  struct ks_err *err);
/* Makes the leases those of the source: at this moment, whose revision we have reached. */
enum ks_status ks_import_etcd_settle_leases(struct ks_import_source *source, struct ks_import_target *target,
					    struct ks_err *err);

/* ---- import_etcd_auth.c ---- */

/* May users, roles or the switch have changed since we have them? */
enum ks_status ks_import_etcd_auth_changed(struct ks_import_source *source, struct ks_import_target *target,
					   bool *changed, struct ks_err *err);
/* Makes them those of the source. */
enum ks_status ks_import_etcd_bring_auth(struct ks_import_source *source, struct ks_import_target *target,
					 struct ks_err *err);

#endif
