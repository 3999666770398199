/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Has upstream still the history that the replica knows? The cluster's id and a revision that is not lower are necessary, and not enough: a
 * database that was restored to the past and written to since has both. So a witness is called, the key that was written last: read
 * at the revision that the replica has reached, it must be what the replica has, and as many keys must have been there.
 * Where that revision was compacted away, the keys that are there now and older than it must all be in the replica.
 */
#include "mirror/upstream_priv.h"

struct head {
	uint64_t cluster_id;
	int64_t revision, count;
};

/* Counts at 'revision' (0: now). */
static enum ks_status count_keys(struct dpa_upstream *up, int64_t revision, struct head *head, struct ks_err *err)
{
	Etcdserverpb__RangeRequest request;
	Etcdserverpb__RangeResponse *response;
	enum ks_status status;

	dpa_range_init(up, &request);
	request.count_only = true;
	request.revision = revision;
	status = dpa_range(up, &request, DPA_ASK_MS, &response, err);
	if (status == KS_OK)
		*head = (struct head){.cluster_id = response->header->cluster_id,
				      .revision = response->header->revision,
				      .count = response->count};
	etcdc_free(response);
	return status;
}

/* What is served is upstream's own value, unless an overlay or discovery made it. */
static bool same_value(struct dpa_upstream *up, struct ks_slice key, struct ks_slice value)
{
	const struct ks_range_req request = {.interval.key = key};
	struct ks_range_result result;
	struct dpa_numbers numbers;
	struct ks_kv kv;
	int64_t revision;
	struct ks_err err;
	bool same = true;

	if (!dpa_replica_numbers(up->config.replica, key, &numbers))
		return false;
	if (numbers.altered)
		return true;
	if (ks_store_range(dpa_replica_store(up->config.replica), &request, &result, &revision, &err) != KS_OK)
		return false;
	if (result.kv_count == 1 && result.kvs[0].encoded)
		same = ks_kv_decode(ks_bytes_slice(result.kvs[0].encoded), &kv) && ks_slice_eq(kv.value, value);
	ks_range_result_fini(&result);
	return same;
}

/* *holds: the witness, read at 'revision' (0: now), says that it is the same history. */
static enum ks_status hear_witness(struct dpa_upstream *up, const struct dpa_point *point, int64_t revision,
				   bool *holds, struct ks_err *err)
{
	struct ks_slice key = ks_bytes_slice(point->witness);
	Etcdserverpb__RangeRequest request = ETCDSERVERPB__RANGE_REQUEST__INIT;
	Etcdserverpb__RangeResponse *response;
	enum ks_status status;

	*holds = true;
	if (key.size == 0)
		return KS_OK;
	request.key = (ProtobufCBinaryData){key.size, (uint8_t *)(uintptr_t)key.data};
	request.revision = revision;
	status = dpa_range(up, &request, DPA_ASK_MS, &response, err);
	if (status == KS_OK) {
		const Mvccpb__KeyValue *kv = response->n_kvs == 1 ? response->kvs[0] : NULL;

		*holds = kv && kv->mod_revision == point->witness_mod &&
			 same_value(up, key, ks_slice_of(kv->value.data, kv->value.len));
	}
	etcdc_free(response);
	return status;
}

/* ---- when the revision was compacted ---- */

struct comparison {
	struct dpa_walk walk; /* first */
	struct dpa_upstream *up;
	int64_t known;
	size_t same, other;
};

static enum ks_status compare_key(struct dpa_walk *walk, const Mvccpb__KeyValue *kv, struct ks_err *err)
{
	struct comparison *comparison = ks_container_of(walk, struct comparison, walk);
	struct dpa_numbers numbers;

	(void)err;
	if (kv->mod_revision > comparison->known)
		return KS_OK;
	if (dpa_replica_numbers(comparison->up->config.replica, ks_slice_of(kv->key.data, kv->key.len), &numbers) &&
	    numbers.up_mod == kv->mod_revision && numbers.up_create == kv->create_revision)
		comparison->same++;
	else
		comparison->other++;
	return KS_OK;
}

/* Listing as another history is always right, only less exact: so what cannot be told is another one. */
static enum ks_status judge_by_keys(struct dpa_upstream *up, const struct dpa_point *point, enum dpa_verdict *verdict,
				    struct ks_err *err)
{
	struct comparison comparison = {
		.walk = {.keys_only = true, .key = compare_key}, .up = up, .known = point->up_revision};
	enum ks_status status;
	bool holds;

	*verdict = DPA_COMPACTED;
	if (point->witness) {
		status = hear_witness(up, point, 0, &holds, err);
		if (status != KS_OK || holds)
			return status;
	}
	status = dpa_walk(up, &comparison.walk, err);
	if (status == KS_OK &&
	    (comparison.other > 0 || comparison.same == 0 || comparison.walk.cluster_id != point->cluster_id))
		*verdict = DPA_OTHER;
	return status;
}

/* ---- nothing has changed ---- */

/*
 * When no key is newer than what the replica has reached and as many are there, then it equals upstream at the revision of that answer,
 * *revision; else that is 0. Spares a start the wait for a watch that has nothing to say.
 */
static enum ks_status look_for_changes(struct dpa_upstream *up, const struct dpa_point *point, int64_t *revision,
				       struct ks_err *err)
{
	Etcdserverpb__RangeRequest request;
	Etcdserverpb__RangeResponse *response;
	enum ks_status status;

	*revision = 0;
	dpa_range_init(up, &request);
	request.keys_only = true;
	request.limit = 1;
	request.min_mod_revision = point->up_revision + 1;
	status = dpa_range(up, &request, DPA_PAGE_MS, &response, err);
	if (status == KS_OK && response->n_kvs == 0 && response->count == (int64_t)point->keys &&
	    response->header->cluster_id == point->cluster_id && response->header->revision >= point->up_revision)
		*revision = response->header->revision;
	etcdc_free(response);
	return status;
}

/* So the watch can begin behind that revision. */
static enum ks_status skip_what_changed_nothing(struct dpa_upstream *up, const struct dpa_point *point,
						struct ks_err *err)
{
	int64_t revision;
	enum ks_status status = look_for_changes(up, point, &revision, err);

	if (status != KS_OK || revision == 0)
		return status;
	status = dpa_replica_progress(up->config.replica, revision, err);
	if (status != KS_OK)
		return status;
	ks_mutex_lock(&up->lock);
	up->known = revision;
	ks_mutex_unlock(&up->lock);
	dpa_upstream_settle(up);
	return KS_OK;
}

bool dpa_is_current(struct dpa_upstream *up)
{
	struct dpa_point point;
	int64_t revision;
	struct ks_err err;
	bool current;

	dpa_replica_point(up->config.replica, &point);
	current = look_for_changes(up, &point, &revision, &err) == KS_OK && revision > 0;
	dpa_point_fini(&point);
	return current;
}

/* ---- the judgement ---- */

static enum ks_status judge_point(struct dpa_upstream *up, const struct dpa_point *point, const struct head *now,
				  enum dpa_verdict *verdict, struct ks_err *err)
{
	struct head then;
	enum ks_status status;
	bool holds;

	*verdict = DPA_OTHER;
	if (!point->loaded || now->cluster_id != point->cluster_id || now->revision < point->up_revision)
		return KS_OK;
	status = count_keys(up, point->up_revision, &then, err);
	if (status == KS_OK)
		status = hear_witness(up, point, point->up_revision, &holds, err);
	if (status != KS_OK && dpa_is_compacted(err))
		return judge_by_keys(up, point, verdict, err);
	if (status == KS_OK && holds && then.count == (int64_t)point->keys && then.cluster_id == point->cluster_id)
		*verdict = DPA_SAME;
	/* Somebody lower answered: a balancer has several behind it. */
	return status == KS_OUT_OF_RANGE ? KS_OK : status;
}

enum ks_status dpa_judge(struct dpa_upstream *up, enum dpa_verdict *verdict, struct ks_err *err)
{
	struct dpa_point point;
	struct head now;
	enum ks_status status = count_keys(up, 0, &now, err);

	if (status != KS_OK)
		return status;
	dpa_replica_point(up->config.replica, &point);
	status = judge_point(up, &point, &now, verdict, err);
	if (status == KS_OK && *verdict == DPA_SAME) {
		ks_mutex_lock(&up->lock);
		up->cluster_id = point.cluster_id;
		up->known = point.up_revision;
		up->held = false;
		ks_mutex_unlock(&up->lock);
		dpa_board_alarm(up->config.board, DPA_ALARM_HELD, NULL);
		dpa_replica_expect(up->config.replica, now.revision);
		if (!up->must_list)
			status = skip_what_changed_nothing(up, &point, err);
	}
	dpa_point_fini(&point);
	return status;
}
