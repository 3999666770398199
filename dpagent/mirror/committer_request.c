/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Requests for upstream, see committer_request.h.
 *
 * A compare with a number is about the number that the client has seen, which is ours. What it means is kept: equal stays equal, smaller
 * stays smaller, by moving it as far as our number of that key is from upstream's. 0, "there is no such key", stays 0.
 */
#include "mirror/committer_request.h"

#include <stdlib.h>

/* Keys that a compare over a range, or a read of the past, may cover when their numbers have to be looked at. */
#define RANGE_KEYS_MAX 10000

struct making {
	struct dpa_committer *committer;
	struct ks_arena *arena;
	int64_t offset; /* local - up */
	struct ks_err *err;
};

static ProtobufCBinaryData bin(struct ks_slice slice)
{
	return (ProtobufCBinaryData){slice.size, (uint8_t *)(uintptr_t)slice.data};
}

/* Zeroed; NULL, and the error said, without memory. */
static void *array(struct making *making, size_t count, size_t size)
{
	void *memory = ks_arena_array(making->arena, count ? count : 1, size);

	if (!memory)
		(void)ks_fail(making->err, KS_RESOURCE_EXHAUSTED, "dpagent: out of memory");
	return memory;
}

static void *one(struct making *making, size_t size)
{
	return array(making, 1, size);
}

static bool is_inside(struct making *making, const struct ks_interval *interval)
{
	if (dpa_prefix_covers(&making->committer->prefix, interval))
		return true;
	(void)ks_fail(making->err, KS_PERMISSION_DENIED, "dpagent passes on only writes to keys under \"%s\"",
		      dpa_replica_prefix(making->committer->config.replica));
	return false;
}

static void refuse_numbers(struct making *making)
{
	(void)ks_fail(making->err, KS_FAILED_PRECONDITION,
		      "dpagent cannot pass on these revisions of a range: its own differ from the control plane's");
}

/* Do all keys of the interval have the numbers that upstream gave them? */
static bool numbers_are_upstreams(struct making *making, const struct ks_interval *interval)
{
	const struct ks_range_req ask = {.interval = *interval, .keys_only = true, .limit = RANGE_KEYS_MAX + 1};
	struct dpa_replica *replica = making->committer->config.replica;
	struct ks_range_result result;
	struct dpa_numbers numbers;
	int64_t revision;
	struct ks_kv kv;
	struct ks_err err;
	bool same;

	if (making->offset != 0 || ks_store_range(making->committer->store, &ask, &result, &revision, &err) != KS_OK)
		return false;
	same = result.kv_count <= RANGE_KEYS_MAX;
	for (size_t i = 0; i < result.kv_count && same; i++)
		same = result.kvs[i].encoded && ks_kv_decode(ks_bytes_slice(result.kvs[i].encoded), &kv) &&
		       dpa_replica_numbers(replica, kv.key, &numbers) && numbers.up_create == numbers.create &&
		       numbers.up_mod == numbers.mod && numbers.up_version == numbers.version;
	ks_range_result_fini(&result);
	return same;
}

/* ---- compares ---- */

/* As far from 'up' as 'number' is from 'local', and on its side of it; never 0, which means something else. */
static int64_t moved(int64_t number, int64_t local, int64_t up)
{
	int64_t result;

	if (number == 0)
		return 0;
	if (__builtin_add_overflow(number, up - local, &result))
		return number;
	if (number > 0 && result < 1)
		return up > 1 ? 1 : up - 1;
	return result;
}

/* A revision that the client has seen of a key that is gone. */
static int64_t of_absent(int64_t number, int64_t offset)
{
	if (number <= 0)
		return number;
	return number > offset ? number - offset : 1;
}

static int64_t upstreams_number(struct making *making, const struct ks_compare *from)
{
	struct dpa_numbers numbers;
	bool there = dpa_replica_numbers(making->committer->config.replica, from->interval.key, &numbers);

	switch (from->target) {
	case KS_CMP_VERSION:
		return there ? moved(from->number, numbers.version, numbers.up_version) : from->number;
	case KS_CMP_CREATE:
		return there ? moved(from->number, numbers.create, numbers.up_create)
			     : of_absent(from->number, making->offset);
	case KS_CMP_MOD:
		return there ? moved(from->number, numbers.mod, numbers.up_mod)
			     : of_absent(from->number, making->offset);
	default:
		return from->number; /* leases have upstream's ids */
	}
}

static void set_number(Etcdserverpb__Compare *to, int target, int64_t number)
{
	switch (target) {
	case KS_CMP_VERSION:
		to->target_union_case = ETCDSERVERPB__COMPARE__TARGET_UNION_VERSION;
		to->version = number;
		break;
	case KS_CMP_CREATE:
		to->target_union_case = ETCDSERVERPB__COMPARE__TARGET_UNION_CREATE_REVISION;
		to->create_revision = number;
		break;
	case KS_CMP_MOD:
		to->target_union_case = ETCDSERVERPB__COMPARE__TARGET_UNION_MOD_REVISION;
		to->mod_revision = number;
		break;
	default:
		to->target_union_case = ETCDSERVERPB__COMPARE__TARGET_UNION_LEASE;
		to->lease = number;
		break;
	}
}

/*
 * The value of a key that is served otherwise than upstream has it cannot be compared there. The compare is made here, and becomes "unchanged
 * since" or what is never true.
 */
static bool compare_altered(struct making *making, const struct ks_compare *from, Etcdserverpb__Compare *to)
{
	const struct ks_range_req ask = {.interval.key = from->interval.key};
	struct ks_range_result result;
	struct dpa_numbers numbers;
	struct ks_kv kv;
	int64_t revision;
	bool holds_here = false;

	if (ks_store_range(making->committer->store, &ask, &result, &revision, making->err) != KS_OK)
		return false;
	if (dpa_replica_numbers(making->committer->config.replica, from->interval.key, &numbers) &&
	    result.kv_count == 1 && result.kvs[0].encoded && ks_kv_decode(ks_bytes_slice(result.kvs[0].encoded), &kv))
		holds_here = ks_compare_holds(ks_slice_cmp(kv.value, from->value), from->result);
	ks_range_result_fini(&result);
	to->result = ETCDSERVERPB__COMPARE__COMPARE_RESULT__EQUAL;
	to->target = ETCDSERVERPB__COMPARE__COMPARE_TARGET__MOD;
	set_number(to, KS_CMP_MOD, holds_here ? numbers.up_mod : -1);
	return true;
}

static bool is_altered(struct making *making, struct ks_slice key)
{
	struct dpa_numbers numbers;

	(void)!dpa_replica_numbers(making->committer->config.replica, key, &numbers);
	return numbers.altered;
}

static bool make_compare(struct making *making, const struct ks_compare *from, Etcdserverpb__Compare *to)
{
	bool counts = from->target == KS_CMP_VERSION || from->target == KS_CMP_CREATE || from->target == KS_CMP_MOD;
	bool many = from->interval.end.size > 0;

	if (!is_inside(making, &from->interval))
		return false;
	etcdserverpb__compare__init(to);
	to->result = (Etcdserverpb__Compare__CompareResult)from->result;
	to->target = (Etcdserverpb__Compare__CompareTarget)from->target;
	to->key = bin(from->interval.key);
	to->range_end = bin(from->interval.end);
	if (from->target == KS_CMP_VALUE && !many && is_altered(making, from->interval.key))
		return compare_altered(making, from, to);
	if (from->target == KS_CMP_VALUE) {
		to->target_union_case = ETCDSERVERPB__COMPARE__TARGET_UNION_VALUE;
		to->value = bin(from->value);
		return true;
	}
	if (many && counts && from->number != 0 && !numbers_are_upstreams(making, &from->interval)) {
		refuse_numbers(making);
		return false;
	}
	set_number(to, from->target, many ? from->number : upstreams_number(making, from));
	return true;
}

/* ---- operations ---- */

static Etcdserverpb__RangeRequest *make_range(struct making *making, const struct ks_range_req *from)
{
	Etcdserverpb__RangeRequest *to = one(making, sizeof(*to));
	bool numbers = from->revision || from->min_mod_revision || from->max_mod_revision ||
		       from->min_create_revision || from->max_create_revision;

	if (!to || !is_inside(making, &from->interval))
		return NULL;
	if (numbers && !numbers_are_upstreams(making, &from->interval)) {
		refuse_numbers(making);
		return NULL;
	}
	etcdserverpb__range_request__init(to);
	to->key = bin(from->interval.key);
	to->range_end = bin(from->interval.end);
	to->limit = from->limit;
	to->revision = from->revision;
	to->sort_order = (Etcdserverpb__RangeRequest__SortOrder)from->sort_order;
	to->sort_target = (Etcdserverpb__RangeRequest__SortTarget)from->sort_target;
	to->serializable = from->serializable;
	to->keys_only = from->keys_only;
	to->count_only = from->count_only;
	to->min_mod_revision = from->min_mod_revision;
	to->max_mod_revision = from->max_mod_revision;
	to->min_create_revision = from->min_create_revision;
	to->max_create_revision = from->max_create_revision;
	return to;
}

/* The value without what discovery put into it. */
static bool strip(struct making *making, struct ks_slice value, struct ks_slice *stripped)
{
	const struct dpa_committer_config *config = &making->committer->config;
	struct ks_buf buf;
	uint8_t *copy = NULL;
	bool other;

	*stripped = value;
	if (!config->strip)
		return true;
	ks_buf_init(&buf, 2 * value.size + 1024);
	other = config->strip(value, &buf);
	if (other && buf.failed)
		(void)ks_fail(making->err, KS_RESOURCE_EXHAUSTED, "dpagent: out of memory");
	else if (other)
		copy = array(making, buf.size, 1);
	if (copy && buf.size)
		memcpy(copy, buf.data, buf.size);
	if (copy)
		*stripped = ks_slice_of(copy, buf.size);
	ks_buf_fini(&buf);
	return !other || copy;
}

static Etcdserverpb__PutRequest *make_put(struct making *making, const struct ks_put_req *from)
{
	const struct ks_interval interval = {.key = from->key};
	Etcdserverpb__PutRequest *to = one(making, sizeof(*to));
	struct ks_slice value;

	if (!to || !is_inside(making, &interval) || !strip(making, from->value, &value))
		return NULL;
	etcdserverpb__put_request__init(to);
	to->key = bin(from->key);
	to->value = bin(value);
	to->lease = from->lease;
	to->prev_kv = from->prev_kv;
	to->ignore_value = from->ignore_value;
	to->ignore_lease = from->ignore_lease;
	return to;
}

static Etcdserverpb__DeleteRangeRequest *make_delete(struct making *making, const struct ks_delete_req *from)
{
	Etcdserverpb__DeleteRangeRequest *to = one(making, sizeof(*to));

	if (!to || !is_inside(making, &from->interval))
		return NULL;
	etcdserverpb__delete_range_request__init(to);
	to->key = bin(from->interval.key);
	to->range_end = bin(from->interval.end);
	to->prev_kv = from->prev_kv;
	return to;
}

static Etcdserverpb__TxnRequest *make_txn(struct making *making, const struct ks_txn_req *from);

static Etcdserverpb__RequestOp *make_op(struct making *making, const struct ks_op *from)
{
	Etcdserverpb__RequestOp *to = one(making, sizeof(*to));
	const void *made = NULL;

	if (!to)
		return NULL;
	etcdserverpb__request_op__init(to);
	switch (from->kind) {
	case KS_OP_RANGE:
		to->request_case = ETCDSERVERPB__REQUEST_OP__REQUEST_REQUEST_RANGE;
		made = to->request_range = make_range(making, &from->range);
		break;
	case KS_OP_PUT:
		to->request_case = ETCDSERVERPB__REQUEST_OP__REQUEST_REQUEST_PUT;
		made = to->request_put = make_put(making, &from->put);
		break;
	case KS_OP_DELETE:
		to->request_case = ETCDSERVERPB__REQUEST_OP__REQUEST_REQUEST_DELETE_RANGE;
		made = to->request_delete_range = make_delete(making, &from->del);
		break;
	case KS_OP_TXN:
		to->request_case = ETCDSERVERPB__REQUEST_OP__REQUEST_REQUEST_TXN;
		made = to->request_txn = make_txn(making, from->txn);
		break;
	}
	return made ? to : NULL;
}

static bool make_ops(struct making *making, const struct ks_op *from, size_t count, Etcdserverpb__RequestOp ***to,
		     size_t *to_count)
{
	*to_count = count;
	*to = array(making, count, sizeof(**to));
	if (!*to)
		return false;
	for (size_t i = 0; i < count; i++) {
		(*to)[i] = make_op(making, &from[i]);
		if (!(*to)[i])
			return false;
	}
	return true;
}

static Etcdserverpb__TxnRequest *make_txn(struct making *making, const struct ks_txn_req *from)
{
	Etcdserverpb__TxnRequest *to = one(making, sizeof(*to));
	Etcdserverpb__Compare *compares = array(making, from->compare_count, sizeof(*compares));
	Etcdserverpb__Compare **pointers = array(making, from->compare_count, sizeof(*pointers));

	if (!to || !compares || !pointers)
		return NULL;
	etcdserverpb__txn_request__init(to);
	to->n_compare = from->compare_count;
	to->compare = pointers;
	for (size_t i = 0; i < from->compare_count; i++) {
		to->compare[i] = &compares[i];
		if (!make_compare(making, &from->compares[i], &compares[i]))
			return NULL;
	}
	if (!make_ops(making, from->success, from->success_count, &to->success, &to->n_success) ||
	    !make_ops(making, from->failure, from->failure_count, &to->failure, &to->n_failure))
		return NULL;
	return to;
}

/* ---- the others ---- */

static Etcdserverpb__LeaseGrantRequest *make_grant(struct making *making, const struct ks_lease_grant_req *from)
{
	Etcdserverpb__LeaseGrantRequest *to = one(making, sizeof(*to));

	if (!to)
		return NULL;
	etcdserverpb__lease_grant_request__init(to);
	to->id = from->id;
	to->ttl = from->ttl;
	return to;
}

static Etcdserverpb__LeaseRevokeRequest *make_revoke(struct making *making, const struct ks_lease_revoke_req *from)
{
	Etcdserverpb__LeaseRevokeRequest *to = one(making, sizeof(*to));

	if (!to)
		return NULL;
	etcdserverpb__lease_revoke_request__init(to);
	to->id = from->id;
	return to;
}

/* Never more than what was asked for: the offset grows, so a revision of before is rather a later one upstream than what this gives. */
static Etcdserverpb__CompactionRequest *make_compact(struct making *making, int64_t revision)
{
	Etcdserverpb__CompactionRequest *to = one(making, sizeof(*to));

	if (!to)
		return NULL;
	etcdserverpb__compaction_request__init(to);
	to->revision = revision - making->offset > 0 ? revision - making->offset : 0;
	return to;
}

static const void *make(struct making *making, const struct ks_request *from, const struct etcdc_method **method)
{
	switch (from->kind) {
	case KS_REQ_PUT:
		*method = &etcdc_method_put;
		return make_put(making, &from->put);
	case KS_REQ_DELETE:
		*method = &etcdc_method_delete_range;
		return make_delete(making, &from->del);
	case KS_REQ_TXN:
		*method = &etcdc_method_txn;
		return make_txn(making, &from->txn);
	case KS_REQ_COMPACT:
		*method = &etcdc_method_compact;
		return make_compact(making, from->compact_revision);
	case KS_REQ_LEASE_GRANT:
		*method = &etcdc_method_lease_grant;
		return make_grant(making, &from->grant);
	case KS_REQ_LEASE_REVOKE:
		*method = &etcdc_method_lease_revoke;
		return make_revoke(making, &from->revoke);
	case KS_REQ_AUTH:
	case KS_REQ_ALARM:
		break;
	}
	(void)ks_fail(making->err, KS_FAILED_PRECONDITION,
		      "dpagent passes on no changes of users, roles and alarms: make them at the control plane");
	return NULL;
}

enum ks_status dpa_request_make(struct dpa_committer *committer, const struct ks_request *from, struct dpa_request *to,
				struct ks_err *err)
{
	struct making making = {.committer = committer, .arena = &to->arena, .err = err};
	int64_t up_revision, revision;

	dpa_replica_revisions(committer->config.replica, &up_revision, &revision);
	making.offset = revision - up_revision;
	/* The client's request fits into what the api takes, and this is a small multiple of it. */
	ks_arena_init(&to->arena, (size_t)64 << 20);
	to->message = make(&making, from, &to->method);
	if (to->message)
		return KS_OK;
	ks_arena_fini(&to->arena);
	return err->status;
}

void dpa_request_fini(struct dpa_request *request)
{
	ks_arena_fini(&request->arena);
}
