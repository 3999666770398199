/* SPDX-License-Identifier: Apache-2.0 */
/* Clients that do one random thing after another, and record it. See torture.h. */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/panic.h"
#include "tests/torture/torture.h"

#define POOL 24 /* leases that all clients use together */
#define AFTER_FAILURE_MS 30
#define REOPEN_EVERY 400 /* operations after which a client begins with another endpoint */

struct client {
	struct run *run;
	struct clients *clients;
	unsigned number;
	uint64_t random;
	struct etcdc *etcd;
	struct kv seen[HISTORY_KEYS]; /* what it read last, for comparisons that have a chance */
	pthread_t thread;
};

struct clients {
	struct run *run;
	pthread_mutex_t mutex;
	struct {
		int64_t id, ttl;
	} leases[POOL]; /* id 0: free; under the mutex */
	unsigned count;
	struct client *items;
};

/* ---- Requests out of numbers ---- */

/* What the requests of one operation point to. */
struct room {
	char keys[4 * HISTORY_ACTIONS][2][KEY_SIZE];
	char values[2 * HISTORY_ACTIONS][VALUE_SIZE];
	size_t key_count, value_count;
	Etcdserverpb__Compare compares[HISTORY_ACTIONS];
	Etcdserverpb__Compare *compare_list[HISTORY_ACTIONS];
	struct branch {
		Etcdserverpb__RequestOp ops[HISTORY_ACTIONS];
		Etcdserverpb__RequestOp *list[HISTORY_ACTIONS];
		union {
			Etcdserverpb__RangeRequest range;
			Etcdserverpb__PutRequest put;
			Etcdserverpb__DeleteRangeRequest delete_range;
		} requests[HISTORY_ACTIONS];
	} branches[2];
};

static ProtobufCBinaryData bytes(char *text, size_t size)
{
	return (ProtobufCBinaryData){.data = (uint8_t *)text, .len = size};
}

static ProtobufCBinaryData make_key(struct room *room, int key, unsigned end)
{
	char *text = room->keys[room->key_count][end];

	/* The end of a range that ends with the last key is a key that there is not. */
	return bytes(text, key_text(key, text));
}

/* Key and range_end of [from, to); the latter empty for a single key. */
static void make_range(struct room *room, int from, int to, ProtobufCBinaryData *key, ProtobufCBinaryData *range_end)
{
	*key = make_key(room, from, 0);
	if (to > from + 1)
		*range_end = make_key(room, to, 1);
	room->key_count++;
}

static ProtobufCBinaryData make_value(struct room *room, int64_t value)
{
	char *text = room->values[room->value_count++];

	return bytes(text, value_text(value, text));
}

static void make_range_request(struct room *room, const struct action *action, Etcdserverpb__RangeRequest *request)
{
	etcdserverpb__range_request__init(request);
	make_range(room, action->from, action->to, &request->key, &request->range_end);
}

static void make_put_request(struct room *room, const struct action *action, Etcdserverpb__PutRequest *request)
{
	ProtobufCBinaryData none;

	etcdserverpb__put_request__init(request);
	make_range(room, action->from, action->from + 1, &request->key, &none);
	request->value = make_value(room, action->value);
	request->lease = action->lease;
	request->prev_kv = action->prev;
}

static void make_delete_request(struct room *room, const struct action *action,
				Etcdserverpb__DeleteRangeRequest *request)
{
	etcdserverpb__delete_range_request__init(request);
	make_range(room, action->from, action->to, &request->key, &request->range_end);
	request->prev_kv = action->prev;
}

static void make_branch(struct room *room, const struct action *actions, size_t count, struct branch *branch)
{
	for (size_t i = 0; i < count; i++) {
		Etcdserverpb__RequestOp *op = &branch->ops[i];

		etcdserverpb__request_op__init(op);
		branch->list[i] = op;
		switch (actions[i].kind) {
		case ACTION_GET:
			make_range_request(room, &actions[i], &branch->requests[i].range);
			op->request_case = ETCDSERVERPB__REQUEST_OP__REQUEST_REQUEST_RANGE;
			op->request_range = &branch->requests[i].range;
			break;
		case ACTION_PUT:
			make_put_request(room, &actions[i], &branch->requests[i].put);
			op->request_case = ETCDSERVERPB__REQUEST_OP__REQUEST_REQUEST_PUT;
			op->request_put = &branch->requests[i].put;
			break;
		case ACTION_DELETE:
			make_delete_request(room, &actions[i], &branch->requests[i].delete_range);
			op->request_case = ETCDSERVERPB__REQUEST_OP__REQUEST_REQUEST_DELETE_RANGE;
			op->request_delete_range = &branch->requests[i].delete_range;
			break;
		}
	}
}

static void make_compare(struct room *room, const struct compare *from, Etcdserverpb__Compare *to)
{
	ProtobufCBinaryData none;

	etcdserverpb__compare__init(to);
	make_range(room, from->key, from->key + 1, &to->key, &none);
	switch (from->relation) {
	case COMPARE_EQUAL:
		to->result = ETCDSERVERPB__COMPARE__COMPARE_RESULT__EQUAL;
		break;
	case COMPARE_GREATER:
		to->result = ETCDSERVERPB__COMPARE__COMPARE_RESULT__GREATER;
		break;
	case COMPARE_LESS:
		to->result = ETCDSERVERPB__COMPARE__COMPARE_RESULT__LESS;
		break;
	case COMPARE_NOT_EQUAL:
		to->result = ETCDSERVERPB__COMPARE__COMPARE_RESULT__NOT_EQUAL;
		break;
	}
	switch (from->target) {
	case COMPARE_VERSION:
		to->target = ETCDSERVERPB__COMPARE__COMPARE_TARGET__VERSION;
		to->target_union_case = ETCDSERVERPB__COMPARE__TARGET_UNION_VERSION;
		to->version = from->operand;
		break;
	case COMPARE_CREATE:
		to->target = ETCDSERVERPB__COMPARE__COMPARE_TARGET__CREATE;
		to->target_union_case = ETCDSERVERPB__COMPARE__TARGET_UNION_CREATE_REVISION;
		to->create_revision = from->operand;
		break;
	case COMPARE_MOD:
		to->target = ETCDSERVERPB__COMPARE__COMPARE_TARGET__MOD;
		to->target_union_case = ETCDSERVERPB__COMPARE__TARGET_UNION_MOD_REVISION;
		to->mod_revision = from->operand;
		break;
	case COMPARE_LEASE:
		to->target = ETCDSERVERPB__COMPARE__COMPARE_TARGET__LEASE;
		to->target_union_case = ETCDSERVERPB__COMPARE__TARGET_UNION_LEASE;
		to->lease = from->operand;
		break;
	case COMPARE_VALUE:
		to->target = ETCDSERVERPB__COMPARE__COMPARE_TARGET__VALUE;
		to->target_union_case = ETCDSERVERPB__COMPARE__TARGET_UNION_VALUE;
		to->value = make_value(room, from->operand);
		break;
	}
}

/* ---- Answers into numbers ---- */

static void take_kvs(struct run *run, struct action_result *result, Mvccpb__KeyValue *const *kvs, size_t count)
{
	result->kv_count = count;
	result->kvs = count ? ks_xcalloc(count, sizeof(*result->kvs)) : NULL;
	for (size_t i = 0; i < count; i++) {
		result->kvs[i] = kv_of(kvs[i]);
		if (result->kvs[i].key < 0 || result->kvs[i].value < 0)
			complain(run, "a key or a value of an answer is damaged, at revision %" PRId64,
				 kvs[i]->mod_revision);
	}
}

static void take_range(struct run *run, struct action_result *result, const Etcdserverpb__RangeResponse *response)
{
	result->count = response->count;
	take_kvs(run, result, response->kvs, response->n_kvs);
}

static void take_put(struct run *run, struct action_result *result, const Etcdserverpb__PutResponse *response)
{
	result->count = 1;
	if (response->prev_kv)
		take_kvs(run, result, &response->prev_kv, 1);
}

static void take_delete(struct run *run, struct action_result *result,
			const Etcdserverpb__DeleteRangeResponse *response)
{
	result->count = response->deleted;
	take_kvs(run, result, response->prev_kvs, response->n_prev_kvs);
}

static bool take_txn(struct run *run, struct op *op, const Etcdserverpb__TxnResponse *response)
{
	const struct action *actions;
	size_t count;

	op->succeeded = response->succeeded != 0;
	actions = op->succeeded ? op->thens : op->elses;
	count = op->succeeded ? op->then_count : op->else_count;
	if (response->n_responses != count)
		return false;
	for (size_t i = 0; i < count; i++) {
		const Etcdserverpb__ResponseOp *answer = response->responses[i];

		switch (actions[i].kind) {
		case ACTION_GET:
			if (answer->response_case != ETCDSERVERPB__RESPONSE_OP__RESPONSE_RESPONSE_RANGE)
				return false;
			take_range(run, &op->results[i], answer->response_range);
			break;
		case ACTION_PUT:
			if (answer->response_case != ETCDSERVERPB__RESPONSE_OP__RESPONSE_RESPONSE_PUT)
				return false;
			take_put(run, &op->results[i], answer->response_put);
			break;
		case ACTION_DELETE:
			if (answer->response_case != ETCDSERVERPB__RESPONSE_OP__RESPONSE_RESPONSE_DELETE_RANGE)
				return false;
			take_delete(run, &op->results[i], answer->response_delete_range);
			break;
		}
	}
	return true;
}

/* ---- One call ---- */

/* What became of a call that failed. Only what etcd says of the request itself is certain: everything else may be gRPC's. */
static enum op_outcome judge(struct client *self, const struct op *op, const struct etcdc_err *err)
{
	bool of_etcd = strstr(err->text, "etcdserver:") != NULL;

	switch (err->status) {
	case KS_FAILED_PRECONDITION:
	case KS_NOT_FOUND:
	case KS_OUT_OF_RANGE:
	case KS_RESOURCE_EXHAUSTED:
		if (of_etcd) {
			if (strstr(err->text, "future revision") && !op->serializable)
				complain(self->run, "a linearizable read does not know revision %" PRId64 " yet",
					 op->at);
			if (strstr(err->text, "compacted") && op->at > atomic_load(&self->run->compact_asked))
				complain(self->run, "revision %" PRId64 " counts as compacted", op->at);
			return OP_FAILED;
		}
		break;
	case KS_INVALID_ARGUMENT:
	case KS_DATA_LOSS:
	case KS_UNIMPLEMENTED:
	case KS_ALREADY_EXISTS:
	case KS_PERMISSION_DENIED:
	case KS_UNAUTHENTICATED:
		/* A grant that was answered into a cut connection is repeated by the library. */
		if (err->status != KS_ALREADY_EXISTS || op->kind != OP_GRANT)
			complain(self->run, "a %s got status %d: %s", op->name, (int)err->status, err->text);
		break;
	case KS_OK:
	case KS_CANCELLED:
	case KS_UNKNOWN:
	case KS_DEADLINE_EXCEEDED:
	case KS_ABORTED:
	case KS_INTERNAL:
	case KS_UNAVAILABLE:
		break;
	}
	return err->sent ? OP_UNKNOWN : OP_FAILED;
}

/* A get, put or delete by itself is sent as such, all else as a transaction. */
static const struct etcdc_method *make_call(struct room *room, const struct op *op, Etcdserverpb__TxnRequest *txn,
					    const void **request)
{
	struct branch *branches = room->branches;

	make_branch(room, op->thens, op->then_count, &branches[0]);
	make_branch(room, op->elses, op->else_count, &branches[1]);
	if (op->compare_count == 0 && op->then_count == 1) {
		switch (op->thens[0].kind) {
		case ACTION_GET:
			branches[0].requests[0].range.serializable = op->serializable;
			branches[0].requests[0].range.revision = op->at;
			*request = &branches[0].requests[0].range;
			return &etcdc_method_range;
		case ACTION_PUT:
			*request = &branches[0].requests[0].put;
			return &etcdc_method_put;
		case ACTION_DELETE:
			*request = &branches[0].requests[0].delete_range;
			return &etcdc_method_delete_range;
		}
	}
	etcdserverpb__txn_request__init(txn);
	for (size_t i = 0; i < op->compare_count; i++) {
		make_compare(room, &op->compares[i], &room->compares[i]);
		room->compare_list[i] = &room->compares[i];
	}
	txn->n_compare = op->compare_count;
	txn->compare = room->compare_list;
	txn->n_success = op->then_count;
	txn->success = branches[0].list;
	txn->n_failure = op->else_count;
	txn->failure = branches[1].list;
	*request = txn;
	return &etcdc_method_txn;
}

static bool take_answer(struct run *run, struct op *op, const struct etcdc_method *method, const void *response)
{
	op->succeeded = true;
	if (method == &etcdc_method_range) {
		const Etcdserverpb__RangeResponse *range = response;

		op->revision = range->header->revision;
		take_range(run, &op->results[0], range);
	} else if (method == &etcdc_method_put) {
		const Etcdserverpb__PutResponse *put = response;

		op->revision = put->header->revision;
		take_put(run, &op->results[0], put);
	} else if (method == &etcdc_method_delete_range) {
		const Etcdserverpb__DeleteRangeResponse *deleted = response;

		op->revision = deleted->header->revision;
		take_delete(run, &op->results[0], deleted);
	} else {
		const Etcdserverpb__TxnResponse *txn = response;

		op->revision = txn->header->revision;
		return take_txn(run, op, txn);
	}
	return true;
}

static void free_results(struct op *op)
{
	for (size_t i = 0; i < HISTORY_ACTIONS; i++) {
		free(op->results[i].kvs);
		op->results[i] = (struct action_result){0};
	}
}

/* Sends it, and records it. The results are still there afterwards. */
static void call(struct client *self, struct op *op)
{
	struct room *room = ks_xcalloc(1, sizeof(*room));
	struct etcdc_call_options options = {.timeout_ms = 1000 + draw(&self->random, 9000),
					     .once = draw(&self->random, 2) == 0};
	Etcdserverpb__TxnRequest txn;
	const void *request;
	const struct etcdc_method *method = make_call(room, op, &txn, &request);
	struct etcdc_err err = {0};
	void *response = NULL;

	op->client = self->number;
	op->start_ns = now_ns();
	op->outcome = etcdc_unary(self->etcd, method, request, &options, &response, &err) == KS_OK
			      ? OP_OK
			      : judge(self, op, &err);
	op->end_ns = now_ns();
	if (op->outcome == OP_OK && !take_answer(self->run, op, method, response)) {
		complain(self->run, "the answer to a %s does not fit it", op->name);
		op->outcome = OP_UNKNOWN;
	}
	record_op(self->run, op);
	etcdc_free(response);
	free(room);
}

/* ---- Leases ---- */

/* A lease of the pool; 0: there is none. */
static int64_t any_lease(struct client *self)
{
	unsigned start = draw(&self->random, POOL);
	int64_t id = 0;

	pthread_mutex_lock(&self->clients->mutex);
	for (unsigned i = 0; i < POOL && !id; i++) {
		id = self->clients->leases[(start + i) % POOL].id;
	}
	pthread_mutex_unlock(&self->clients->mutex);
	return id;
}

/* Puts 'id' into the pool, or takes it out (ttl 0). */
static void pool(struct client *self, int64_t id, int64_t ttl)
{
	pthread_mutex_lock(&self->clients->mutex);
	for (unsigned i = 0; i < POOL; i++) {
		if (self->clients->leases[i].id != (ttl ? 0 : id))
			continue;
		self->clients->leases[i].id = ttl ? id : 0;
		self->clients->leases[i].ttl = ttl;
		break;
	}
	pthread_mutex_unlock(&self->clients->mutex);
}

static void do_grant(struct client *self)
{
	Etcdserverpb__LeaseGrantRequest request = ETCDSERVERPB__LEASE_GRANT_REQUEST__INIT;
	Etcdserverpb__LeaseGrantResponse *response = NULL;
	struct op op = {.kind = OP_GRANT, .name = "grant", .client = self->number};
	struct etcdc_err err = {0};

	request.id = op.lease = atomic_fetch_add(&self->run->next_lease, 1);
	request.ttl = 2 + draw(&self->random, 3);
	op.start_ns = now_ns();
	if (etcdc_lease_grant(self->etcd, &request, &response, &err) == KS_OK) {
		op.outcome = OP_OK;
		op.revision = response->header->revision;
		op.ttl = response->ttl;
	} else {
		op.outcome = judge(self, &op, &err);
	}
	op.end_ns = now_ns();
	record_op(self->run, &op);
	if (op.outcome == OP_OK && op.ttl < request.ttl)
		complain(self->run, "a lease was granted for less than asked");
	/* One whose grant is in doubt may be there. */
	if (op.outcome != OP_FAILED)
		pool(self, op.lease, request.ttl);
	etcdc_free(response);
}

static void do_keepalive(struct client *self)
{
	Etcdserverpb__LeaseKeepAliveRequest request = ETCDSERVERPB__LEASE_KEEP_ALIVE_REQUEST__INIT;
	Etcdserverpb__LeaseKeepAliveResponse *response = NULL;
	struct op op = {.kind = OP_KEEPALIVE, .name = "keepalive", .client = self->number, .outcome = OP_UNKNOWN};
	struct etcdc_stream *stream;
	void *message = NULL;

	op.lease = request.id = any_lease(self);
	if (!op.lease)
		return;
	op.start_ns = now_ns();
	stream = etcdc_stream_open(self->etcd, &etcdc_method_lease_keep_alive, &(struct etcdc_stream_options){0});
	if (etcdc_stream_send(stream, &request) && etcdc_stream_recv(stream, 3000, &message, NULL) == KS_OK &&
	    message) {
		response = message;
		op.outcome = OP_OK;
		op.revision = response->header ? response->header->revision : 0;
		op.ttl = response->ttl;
		if (response->id != op.lease)
			complain(self->run, "a keepalive was answered for another lease");
	}
	op.end_ns = now_ns();
	record_op(self->run, &op);
	if (op.outcome == OP_OK && op.ttl == 0)
		pool(self, op.lease, 0);
	etcdc_free(response);
	etcdc_stream_close(stream);
}

static void do_revoke(struct client *self)
{
	Etcdserverpb__LeaseRevokeRequest request = ETCDSERVERPB__LEASE_REVOKE_REQUEST__INIT;
	Etcdserverpb__LeaseRevokeResponse *response = NULL;
	struct op op = {.kind = OP_REVOKE, .name = "revoke", .client = self->number};
	/* Once: the library would repeat it, and "not found" would not tell who it was. */
	struct etcdc_call_options options = {.once = true};
	struct etcdc_err err = {0};
	void *answer = NULL;

	request.id = op.lease = any_lease(self);
	if (!op.lease)
		return;
	op.start_ns = now_ns();
	if (etcdc_unary(self->etcd, &etcdc_method_lease_revoke, &request, &options, &answer, &err) == KS_OK) {
		response = answer;
		op.outcome = OP_OK;
		op.revision = response->header->revision;
	} else {
		op.outcome = judge(self, &op, &err);
	}
	op.end_ns = now_ns();
	record_op(self->run, &op);
	pool(self, op.lease, 0);
	etcdc_free(response);
}

/* ---- What to do next ---- */

static int any_key(struct client *self)
{
	return (int)draw(&self->random, HISTORY_KEYS);
}

static struct action put_action(struct client *self, int key, bool with_lease)
{
	return (struct action){.kind = ACTION_PUT,
			       .from = key,
			       .to = key + 1,
			       .value = atomic_fetch_add(&self->run->next_value, 1),
			       .lease = with_lease ? any_lease(self) : 0,
			       .prev = draw(&self->random, 4) == 0};
}

/* One key, the keys of its group, or all. */
static struct action range_action(struct client *self, enum action_kind kind, unsigned spread)
{
	int key = any_key(self);
	struct action action = {.kind = kind, .from = key, .to = key + 1, .prev = draw(&self->random, 2) == 0};

	if (kind == ACTION_GET)
		action.prev = false;
	if (spread == 1) {
		action.from = key / HISTORY_GROUP_KEYS * HISTORY_GROUP_KEYS;
		action.to = action.from + 1 + (int)draw(&self->random, HISTORY_GROUP_KEYS);
	} else if (spread == 2) {
		action.from = 0;
		action.to = HISTORY_KEYS;
	}
	return action;
}

static struct compare compare_of(struct client *self, int key)
{
	const struct kv *seen = &self->seen[key];
	struct compare compare = {.key = key,
				  .target = (enum compare_target)draw(&self->random, 5),
				  .relation = draw(&self->random, 3) ? COMPARE_EQUAL
								     : (enum compare_relation)draw(&self->random, 4)};

	if (compare.target == COMPARE_VALUE) {
		/* Values are compared as bytes, and only for being equal do numbers say the same. */
		compare.relation = draw(&self->random, 3) ? COMPARE_EQUAL : COMPARE_NOT_EQUAL;
		compare.operand = seen->value ? seen->value : 1;
	} else {
		compare.operand = compare.target == COMPARE_VERSION  ? seen->version
				  : compare.target == COMPARE_CREATE ? seen->create
				  : compare.target == COMPARE_MOD    ? seen->mod
								     : seen->lease;
	}
	return compare;
}

static void learn(struct client *self, const struct op *op)
{
	const struct action *actions = op->succeeded ? op->thens : op->elses;
	size_t count = op->succeeded ? op->then_count : op->else_count;

	if (op->outcome != OP_OK || op->at)
		return;
	for (size_t i = 0; i < count; i++) {
		if (actions[i].kind != ACTION_GET)
			continue;
		for (int key = actions[i].from; key < actions[i].to; key++)
			self->seen[key] = (struct kv){.key = key};
		for (size_t k = 0; k < op->results[i].kv_count; k++)
			if (op->results[i].kvs[k].key >= 0)
				self->seen[op->results[i].kvs[k].key] = op->results[i].kvs[k];
	}
}

static void name(struct op *op, const char *text)
{
	snprintf(op->name, sizeof(op->name), "%s", text);
}

static void make_get(struct client *self, struct op *op)
{
	unsigned how = draw(&self->random, 10);

	op->thens[0] = range_action(self, ACTION_GET, draw(&self->random, 3));
	op->then_count = 1;
	if (how < 2) {
		int64_t newest = atomic_load(&self->run->newest), oldest = atomic_load(&self->run->compact_asked);

		if (oldest < self->run->first)
			oldest = self->run->first;
		name(op, "get-old");
		op->at = newest - (newest > oldest ? (int64_t)draw(&self->random, (unsigned)(newest - oldest)) : 0);
		op->serializable = how == 0;
	} else {
		op->serializable = how < 5;
		name(op, op->serializable ? "get-serial" : "get");
	}
}

/* Compare one or two keys of a group; then put one or two of it and look at it, else look or delete. */
static void make_txn(struct client *self, struct op *op)
{
	int group = (int)draw(&self->random, HISTORY_GROUPS) * HISTORY_GROUP_KEYS;
	int first = (int)draw(&self->random, HISTORY_GROUP_KEYS);
	struct action look = {.kind = ACTION_GET, .from = group, .to = group + HISTORY_GROUP_KEYS};
	unsigned puts = 1 + draw(&self->random, 3);

	op->compare_count = draw(&self->random, 3);
	name(op, op->compare_count ? "cas" : "txn");
	for (size_t i = 0; i < op->compare_count; i++)
		op->compares[i] = compare_of(self, group + (first + (int)i) % HISTORY_GROUP_KEYS);
	for (unsigned i = 0; i < puts; i++)
		op->thens[op->then_count++] =
			put_action(self, group + (first + (int)i) % HISTORY_GROUP_KEYS, draw(&self->random, 8) == 0);
	if (draw(&self->random, 2))
		op->thens[op->then_count++] = look;
	if (draw(&self->random, 3))
		op->elses[op->else_count++] = look;
	if (draw(&self->random, 3) == 0)
		op->elses[op->else_count++] = (struct action){.kind = ACTION_DELETE,
							      .from = group + first,
							      .to = group + first + 1,
							      .prev = draw(&self->random, 2) == 0};
}

static void make_op(struct client *self, struct op *op)
{
	unsigned what = draw(&self->random, 100);

	op->kind = OP_TXN;
	if (what < 30) {
		name(op, "put");
		op->thens[0] = put_action(self, any_key(self), what < 8);
		op->then_count = 1;
	} else if (what < 36) {
		name(op, "delete");
		op->thens[0] = range_action(self, ACTION_DELETE, what == 30);
		op->then_count = 1;
	} else if (what < 62) {
		make_txn(self, op);
	} else {
		make_get(self, op);
	}
}

static void *client_run(void *arg)
{
	struct client *self = arg;

	while (!atomic_load(&self->run->stop_clients)) {
		unsigned what = draw(&self->random, 1000);

		if (!self->etcd)
			self->etcd =
				open_client(self->run, draw(&self->random, self->run->options.instances), true, 5000);
		if (what < 20) {
			do_grant(self);
		} else if (what < 60) {
			do_keepalive(self);
		} else if (what < 64) {
			do_revoke(self);
		} else {
			struct op op = {0};

			make_op(self, &op);
			call(self, &op);
			learn(self, &op);
			free_results(&op);
			if (op.outcome != OP_OK)
				sleep_ms(AFTER_FAILURE_MS);
		}
		if (draw(&self->random, REOPEN_EVERY) == 0) {
			etcdc_close(self->etcd);
			self->etcd = NULL;
		}
		sleep_ms(1 + draw(&self->random, 20));
	}
	etcdc_close(self->etcd);
	return NULL;
}

struct clients *clients_start(struct run *run)
{
	struct clients *clients = ks_xcalloc(1, sizeof(*clients));

	clients->run = run;
	clients->count = run->options.clients;
	clients->items = ks_xcalloc(clients->count, sizeof(*clients->items));
	pthread_mutex_init(&clients->mutex, NULL);
	for (unsigned i = 0; i < clients->count; i++) {
		struct client *client = &clients->items[i];

		client->run = run;
		client->clients = clients;
		client->number = i;
		client->random = (uint64_t)run->options.seed << 32 | (i + 1);
		KS_ASSERT(pthread_create(&client->thread, NULL, client_run, client) == 0);
	}
	return clients;
}

void clients_stop(struct clients *clients)
{
	atomic_store(&clients->run->stop_clients, true);
	for (unsigned i = 0; i < clients->count; i++)
		pthread_join(clients->items[i].thread, NULL);
	pthread_mutex_destroy(&clients->mutex);
	free(clients->items);
	free(clients);
}

/* ---- For the end ---- */

bool record_dump(struct run *run, struct etcdc *etcd, const char *text, int64_t revision)
{
	struct client client = {.run = run, .number = UINT16_MAX, .random = (uint64_t)revision, .etcd = etcd};
	struct op op = {.kind = OP_TXN, .at = revision, .then_count = 1};

	name(&op, text);
	op.thens[0] = (struct action){.kind = ACTION_GET, .from = 0, .to = HISTORY_KEYS};
	call(&client, &op);
	free_results(&op);
	return op.outcome == OP_OK;
}

void record_large_put(struct run *run, struct etcdc *etcd)
{
	int64_t block = atomic_fetch_add(&run->next_value, LARGE_EVERY);
	struct client client = {.run = run, .number = UINT16_MAX, .random = (uint64_t)block, .etcd = etcd};
	struct op op = {.kind = OP_TXN, .name = "put-large", .then_count = 1};
	int key = any_key(&client);

	op.thens[0] = (struct action){.kind = ACTION_PUT,
				      .from = key,
				      .to = key + 1,
				      .value = (block + LARGE_EVERY - 1) / LARGE_EVERY * LARGE_EVERY};
	call(&client, &op);
	free_results(&op);
}

int64_t record_marker(struct run *run, struct etcdc *etcd)
{
	struct client client = {.run = run, .number = UINT16_MAX, .random = 1, .etcd = etcd};
	int64_t last = 0;

	for (int group = 0; group < HISTORY_GROUPS; group++) {
		struct op op = {.kind = OP_TXN, .name = "marker", .then_count = 1};

		op.thens[0] = (struct action){.kind = ACTION_PUT,
					      .from = group * HISTORY_GROUP_KEYS,
					      .to = group * HISTORY_GROUP_KEYS + 1,
					      .value = atomic_fetch_add(&run->next_value, 1)};
		call(&client, &op);
		last = op.outcome == OP_OK ? op.revision : 0;
		free_results(&op);
		if (!last)
			return 0;
	}
	return last;
}
