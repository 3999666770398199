/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The api's seam over the replica, see committer_priv.h. What the mirror has is all there is, so reads are proven as soon as something is
 * loaded, and maintenance has nothing to do.
 */
#include "mirror/committer_priv.h"

#include <stdlib.h>

#include "base/clock.h"
#include "base/panic.h"

#define TIMEOUT_MS 5000
#define SIZE_MS 1000
#define TERM 2 /* what an etcd has after its first election */
#define NO_LEADER "etcdserver: no leader"

static bool is_loaded(struct dpa_committer *committer)
{
	return ks_store_committed(committer->store).position > 0;
}

enum ks_status dpa_refuse(struct ks_err *err)
{
	return ks_fail(err, KS_FAILED_PRECONDITION,
		       "dpagent is read-only: write to the control plane, or start it with --forward-writes");
}

enum ks_status dpa_writable(struct dpa_committer *committer, struct ks_err *err)
{
	struct dpa_status status;

	if (!committer->config.client)
		return dpa_refuse(err);
	dpa_board_read(committer->config.board, &status);
	if (status.connected)
		return KS_OK;
	return ks_fail(err, KS_UNAVAILABLE,
		       "dpagent is not connected to the control plane: it cannot be written to now");
}

/* ---- reads ---- */

static void prove_read(struct ks_committer *base, struct ks_read_proof *proof)
{
	if (is_loaded(dpa_committer_of(base)))
		proof->err.status = KS_OK;
	else
		(void)ks_fail(&proof->err, KS_UNAVAILABLE, NO_LEADER);
	proof->done(proof);
}

static void fetch(struct ks_committer *base, struct ks_fetch *fetch)
{
	(void)base;
	(void)ks_fail(&fetch->err, KS_INTERNAL, "dpagent keeps all values in memory");
	fetch->done(fetch);
}

/* ---- writes ---- */

static void submit(struct ks_committer *base, struct ks_submit *submit)
{
	struct dpa_committer *committer = dpa_committer_of(base);

	if (dpa_writable(committer, &submit->err) != KS_OK)
		submit->done(submit);
	else
		dpa_forward(committer, submit);
}

static void keepalive(struct ks_committer *base, struct ks_keepalive *keepalive)
{
	struct dpa_committer *committer = dpa_committer_of(base);

	if (committer->config.client) {
		dpa_lease_keepalive(committer, keepalive);
		return;
	}
	(void)dpa_refuse(&keepalive->err);
	keepalive->done(keepalive);
}

/* Without forwarding there are none, as the mirror's keys show none. */
static void lease_times(struct ks_committer *base, struct ks_lease_times *times)
{
	struct dpa_committer *committer = dpa_committer_of(base);

	if (committer->config.client) {
		dpa_lease_times(committer, times);
		return;
	}
	times->leases = NULL;
	times->lease_count = 0;
	times->err.status = KS_OK;
	times->done(times);
}

/* ---- maintenance ---- */

static void chore(struct ks_committer *base, struct ks_chore *chore)
{
	struct dpa_committer *committer = dpa_committer_of(base);

	chore->err.status = KS_OK;
	switch (chore->kind) {
	case KS_CHORE_DEFRAGMENT:
	case KS_CHORE_COMPACT_PHYSICAL:
	case KS_CHORE_SIZE:
		break;
	case KS_CHORE_HASH_KV:
		/* The status is also the function's value. */
		(void)!ks_store_hash_kv(committer->store, chore->revision, NULL, NULL, &chore->hash, &chore->err);
		break;
	case KS_CHORE_MOVE_LEADER:
		(void)ks_fail(&chore->err, KS_FAILED_PRECONDITION, "dpagent has no other member to lead");
		break;
	}
	chore->done(chore);
}

/* Part of what is asked for with each answer, so not counted more often than once a second: that takes the store's lock. */
static int64_t db_size(struct ks_committer *base)
{
	struct dpa_committer *committer = dpa_committer_of(base);
	int64_t now_ms = ks_clock_now(ks_clock_system());
	struct ks_store_stats stats;

	if (now_ms < atomic_load_explicit(&committer->size_until_ms, memory_order_relaxed))
		return atomic_load_explicit(&committer->size, memory_order_relaxed);
	ks_store_stats(committer->store, &stats);
	atomic_store_explicit(&committer->size, (int64_t)stats.cached_bytes, memory_order_relaxed);
	atomic_store_explicit(&committer->size_until_ms, now_ms + SIZE_MS, memory_order_relaxed);
	return (int64_t)stats.cached_bytes;
}

/* Asked for with each answer, and dpa_replica_point is not cheap: so once there is one, that is it. */
static uint64_t cluster_id(struct dpa_committer *committer)
{
	uint64_t id = atomic_load_explicit(&committer->cluster_id, memory_order_relaxed);
	struct dpa_point point;

	if (id || !is_loaded(committer))
		return id;
	dpa_replica_point(committer->config.replica, &point);
	id = point.cluster_id;
	dpa_point_fini(&point);
	atomic_store_explicit(&committer->cluster_id, id, memory_order_relaxed);
	return id;
}

static void status(struct ks_committer *base, struct ks_cluster_status *status)
{
	struct dpa_committer *committer = dpa_committer_of(base);
	struct ks_position position = ks_store_committed(committer->store);
	int64_t size = db_size(base);

	*status = (struct ks_cluster_status){
		.cluster_id = cluster_id(committer),
		.member_id = committer->config.member_id,
		.leader_id = committer->config.member_id,
		.raft_term = TERM,
		.raft_index = (uint64_t)position.revision,
		.raft_applied_index = (uint64_t)position.revision,
		.db_size = size,
		.db_size_in_use = size,
		.available = position.position > 0,
	};
}

/* One block: the member and its texts. */
static struct ks_member *members(struct ks_committer *base, size_t *count)
{
	struct dpa_committer *committer = dpa_committer_of(base);
	size_t name_size = strlen(committer->config.name) + 1, urls_size = strlen(committer->config.client_urls) + 1;
	struct ks_member *member = malloc(sizeof(*member) + name_size + urls_size);

	if (!member)
		return NULL;
	*member = (struct ks_member){
		.id = committer->config.member_id,
		.name = (char *)(member + 1),
		.client_urls = (char *)(member + 1) + name_size,
	};
	memcpy(member->name, committer->config.name, name_size);
	memcpy(member->client_urls, committer->config.client_urls, urls_size);
	*count = 1;
	return member;
}

/* ---- life cycle ---- */

static const struct ks_committer_ops reading = {
	.submit = submit,
	.prove_read = prove_read,
	.fetch = fetch,
	.keepalive = keepalive,
	.lease_times = lease_times,
	.chore = chore,
	.status = status,
	.db_size = db_size,
	.members = members,
};

static const struct ks_committer_ops forwarding = {
	.submit = submit,
	.prove_read = prove_read,
	.fetch = fetch,
	.keepalive = keepalive,
	.lease_times = lease_times,
	.leases_elsewhere = true,
	.chore = chore,
	.status = status,
	.db_size = db_size,
	.members = members,
};

static void committer_free(struct dpa_committer *committer)
{
	if (committer->leases)
		dpa_leases_free(committer->leases);
	ks_cond_fini(&committer->changed);
	ks_mutex_fini(&committer->lock);
	free(committer->prefix_memory);
	free(committer);
}

struct ks_committer *dpa_committer_start(const struct dpa_committer_config *config, struct ks_err *err)
{
	struct dpa_committer *committer = ks_xcalloc(1, sizeof(*committer));

	committer->base.ops = config->client ? &forwarding : &reading;
	committer->config = *config;
	if (committer->config.timeout_ms <= 0)
		committer->config.timeout_ms = TIMEOUT_MS;
	committer->store = dpa_replica_store(config->replica);
	committer->prefix = dpa_prefix_interval(dpa_replica_prefix(config->replica), &committer->prefix_memory);
	ks_mutex_init(&committer->lock);
	ks_cond_init(&committer->changed);
	if (!config->client)
		return &committer->base;
	committer->leases = dpa_leases_new(committer);
	if (dpa_forward_start(committer, err) == KS_OK)
		return &committer->base;
	committer_free(committer);
	return NULL;
}

void dpa_committer_stop(struct ks_committer *base)
{
	struct dpa_committer *committer;

	if (!base)
		return;
	committer = dpa_committer_of(base);
	if (committer->config.client)
		dpa_forward_stop(committer);
	committer_free(committer);
}
