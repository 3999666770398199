/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Are the keys and their revisions those of upstream? Upstream is asked for the revision at which the replica stands, while the replica goes on. A key
 * that the replica has newer has changed since; one that it has not may have been deleted since, so upstream is asked once more. And the
 * number of keys must be the same, so that the replica has none beyond upstream's.
 */
#include "mirror/upstream_priv.h"

struct verification {
	struct dpa_walk walk; /* first */
	struct dpa_upstream *up;
	uint64_t differences;
	int64_t keys;
};

/* Upstream has it, the replica has not: was it deleted since? */
static enum ks_status check_absent(struct verification *verification, const Mvccpb__KeyValue *kv, struct ks_err *err)
{
	struct dpa_upstream *up = verification->up;
	Etcdserverpb__RangeRequest request = ETCDSERVERPB__RANGE_REQUEST__INIT;
	Etcdserverpb__RangeResponse *response;
	struct dpa_numbers numbers;
	enum ks_status status;

	request.key = kv->key;
	request.keys_only = true;
	status = dpa_range(up, &request, DPA_ASK_MS, &response, err);
	/* Also when it came again since: then the replica is about to hear of it. */
	if (status == KS_OK && response->n_kvs == 1 && response->kvs[0]->mod_revision == kv->mod_revision &&
	    !dpa_replica_numbers(up->config.replica, ks_slice_of(kv->key.data, kv->key.len), &numbers))
		verification->differences++;
	etcdc_free(response);
	return status;
}

static enum ks_status check_key(struct dpa_walk *walk, const Mvccpb__KeyValue *kv, struct ks_err *err)
{
	struct verification *verification = ks_container_of(walk, struct verification, walk);
	struct dpa_numbers numbers;

	verification->keys++;
	if (!dpa_replica_numbers(verification->up->config.replica, ks_slice_of(kv->key.data, kv->key.len), &numbers))
		return check_absent(verification, kv, err);
	if (numbers.up_mod <= walk->revision &&
	    (numbers.up_mod != kv->mod_revision || numbers.up_create != kv->create_revision ||
	     numbers.up_version != kv->version))
		verification->differences++;
	return KS_OK;
}

enum ks_status dpa_verify(struct dpa_upstream *up, uint64_t *differences, struct ks_err *err)
{
	struct verification verification = {.walk = {.keys_only = true, .key = check_key}, .up = up};
	struct dpa_point point;
	enum ks_status status;

	*differences = 0;
	dpa_replica_point(up->config.replica, &point);
	verification.walk.revision = point.up_revision;
	status = dpa_walk(up, &verification.walk, err);
	if (status == KS_OK) {
		*differences = verification.differences;
		if (*differences == 0 && verification.keys != (int64_t)point.keys)
			*differences = 1;
	}
	dpa_point_fini(&point);
	return status;
}
