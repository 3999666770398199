/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Kubernetes' shapes of requests, the only ones that kine accepts: a create (no such key, then put), an update (the key has this
 * mod_revision, then put, else get), a delete likewise, and lists by pages at one revision.
 */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/panic.h"
#include "tests/bench/loop.h"
#include "tests/bench/wire.h"
#include "tests/bench/writer.h"

#define KEY_ROOM BENCH_KEY_ROOM
#define PREFIX "/registry/pods/"
#define LISTED "/registry/list/"
#define LISTED_END "/registry/list0"

static ProtobufCBinaryData text(const char *data)
{
	return (ProtobufCBinaryData){strlen(data), (uint8_t *)(uintptr_t)data};
}

/* One compare of mod_revision, one put or delete, and the else that all but a create have; everything it points to is inside, so it must not be moved. */
struct kube_txn {
	Etcdserverpb__TxnRequest txn;
	Etcdserverpb__Compare compare, *compares;
	Etcdserverpb__PutRequest put;
	Etcdserverpb__DeleteRangeRequest del;
	Etcdserverpb__RangeRequest range;
	Etcdserverpb__RequestOp success, failure, *successes, *failures;
};

static void make_txn(struct kube_txn *kube, const char *key, int64_t mod_revision, const uint8_t *value, size_t size)
{
	etcdserverpb__txn_request__init(&kube->txn);
	etcdserverpb__compare__init(&kube->compare);
	etcdserverpb__put_request__init(&kube->put);
	etcdserverpb__range_request__init(&kube->range);
	etcdserverpb__request_op__init(&kube->success);
	etcdserverpb__request_op__init(&kube->failure);
	kube->compares = &kube->compare;
	kube->successes = &kube->success;
	kube->failures = &kube->failure;
	kube->compare.target = ETCDSERVERPB__COMPARE__COMPARE_TARGET__MOD;
	kube->compare.target_union_case = ETCDSERVERPB__COMPARE__TARGET_UNION_MOD_REVISION;
	kube->compare.mod_revision = mod_revision;
	kube->compare.key = kube->put.key = kube->range.key = text(key);
	kube->put.value = (ProtobufCBinaryData){size, (uint8_t *)(uintptr_t)value};
	kube->success.request_case = ETCDSERVERPB__REQUEST_OP__REQUEST_REQUEST_PUT;
	kube->success.request_put = &kube->put;
	kube->failure.request_case = ETCDSERVERPB__REQUEST_OP__REQUEST_REQUEST_RANGE;
	kube->failure.request_range = &kube->range;
	kube->txn.n_compare = kube->txn.n_success = 1;
	kube->txn.compare = &kube->compares;
	kube->txn.success = &kube->successes;
	kube->txn.n_failure = mod_revision ? 1 : 0; /* a create has no else */
	kube->txn.failure = &kube->failures;
}

static void delete_instead(struct kube_txn *kube)
{
	etcdserverpb__delete_range_request__init(&kube->del);
	kube->del.key = kube->put.key;
	kube->success.request_case = ETCDSERVERPB__REQUEST_OP__REQUEST_REQUEST_DELETE_RANGE;
	kube->success.request_delete_range = &kube->del;
}

static void send_txn(struct slot *slot, int64_t mod_revision, bool deletes)
{
	struct kube_txn kube;

	make_txn(&kube, slot->key, mod_revision, (const uint8_t *)slot->value, (size_t)slot->loop->bench->value_size);
	if (deletes)
		delete_instead(&kube);
	bench_call(slot, &etcdc_method_txn, &kube.txn);
}

bool bench_kube_write(struct etcdc *client, const char *key, const uint8_t *value, size_t size, int64_t *mod_revision,
		      bool *succeeded)
{
	Etcdserverpb__TxnResponse *response;
	struct kube_txn kube;
	struct etcdc_err err;

	make_txn(&kube, key, *mod_revision, value, size);
	if (etcdc_txn(client, &kube.txn, &response, &err) != KS_OK) {
		(void)fprintf(stderr, "kineshim-bench: %s %s\n", ks_status_name(err.status), err.text);
		return false;
	}
	*succeeded = response->succeeded;
	*mod_revision = response->header->revision;
	etcdc_free(response);
	return true;
}

bool bench_mod_revision(struct etcdc *client, const char *key, int64_t *mod_revision)
{
	Etcdserverpb__RangeRequest request = ETCDSERVERPB__RANGE_REQUEST__INIT;
	Etcdserverpb__RangeResponse *response;
	struct etcdc_err err;

	request.key = text(key);
	if (etcdc_range(client, &request, &response, &err) != KS_OK) {
		(void)fprintf(stderr, "kineshim-bench: %s %s\n", ks_status_name(err.status), err.text);
		return false;
	}
	*mod_revision = response->n_kvs ? response->kvs[0]->mod_revision : 0;
	etcdc_free(response);
	return true;
}

/* Did the transaction succeed, and at what revision? */
static bool read_txn(struct ks_slice bytes, int64_t *revision)
{
	struct wire wire = {bytes.data, bytes.data + bytes.size}, inner, ignored;
	uint64_t number, field_number, value = 0, succeeded = 0;

	while (wire_field(&wire, &number, &inner, &value)) {
		if (number == 2)
			succeeded = value;
		while (number == 1 && wire_field(&inner, &field_number, &ignored, &value))
			if (field_number == 3)
				*revision = (int64_t)value;
	}
	return succeeded != 0;
}

bool bench_writer_kube(struct bench_writer *writer, const char *key, struct ks_slice value, int64_t *mod_revision,
		       bool *succeeded)
{
	struct kube_txn kube;

	make_txn(&kube, key, *mod_revision, value.data, value.size);
	if (!bench_writer_call(writer, &etcdc_method_txn, &kube.txn, read_txn))
		return false;
	*mod_revision = writer->revision;
	*succeeded = writer->succeeded;
	return true;
}

/* The field 'wanted' of a message, which is then the message; false when it has none. */
static bool enter(struct wire *wire, uint64_t wanted)
{
	struct wire inner;
	uint64_t number, value;

	while (wire_field(wire, &number, &inner, &value)) {
		if (number == wanted) {
			*wire = inner;
			return true;
		}
	}
	return false;
}

/* The mod_revision of the key that an else has read; 0: there is none. */
static int64_t read_else(struct ks_slice bytes)
{
	struct wire wire = {bytes.data, bytes.data + bytes.size}, inner;
	uint64_t number, value = 0;

	/* responses, response_range, kvs */
	if (!enter(&wire, 3) || !enter(&wire, 1) || !enter(&wire, 2))
		return 0;
	while (wire_field(&wire, &number, &inner, &value))
		if (number == 3)
			return (int64_t)value;
	return 0;
}

/* ---- create ---- */

static void start_create(struct slot *slot)
{
	/* New keys in every run: a number of the process, of the slot, and of the request. */
	(void)snprintf(slot->key, KEY_ROOM, PREFIX "%08x/%05" PRId64 "/%08" PRId64, slot->loop->run, slot->number,
		       slot->serial++);
	send_txn(slot, 0, false);
}

static bool answer_create(struct slot *slot, struct ks_slice bytes)
{
	int64_t revision;

	if (!read_txn(bytes, &revision))
		atomic_fetch_add(&slot->loop->failed, 1);
	return true;
}

int bench_kube_create(struct bench *bench)
{
	return bench_loop(bench, "kube-create", start_create, answer_create);
}

/* ---- update ---- */

/* Each slot has a key of its own. */
static void name_own_key(struct slot *slot)
{
	if (slot->serial++ == 0)
		(void)snprintf(slot->key, KEY_ROOM, PREFIX "%08x/%05" PRId64, slot->loop->run, slot->number);
}

/* The first request creates it. */
static void start_update(struct slot *slot)
{
	name_own_key(slot);
	send_txn(slot, slot->revision, false);
}

static bool answer_update(struct slot *slot, struct ks_slice bytes)
{
	if (!read_txn(bytes, &slot->revision))
		atomic_fetch_add(&slot->loop->failed, 1);
	return true;
}

int bench_kube_update(struct bench *bench)
{
	return bench_loop(bench, "kube-update", start_update, answer_update);
}

/* ---- delete ---- */

/*
 * What is deleted must be there: each delete is behind a create, which is not counted. With many under way kine says of deletes that they
 * succeeded, and then has the key. So what is refused is tried again with what is there, as an apiserver does, and not counted either.
 */
static void start_delete(struct slot *slot)
{
	name_own_key(slot);
	send_txn(slot, slot->revision, slot->revision != 0);
}

static bool answer_delete(struct slot *slot, struct ks_slice bytes)
{
	bool created = slot->revision == 0;
	int64_t revision = 0;

	if (read_txn(bytes, &revision)) {
		slot->revision = created ? revision : 0;
		if (!created)
			return true;
	} else {
		/* A create has no else: the delete that follows is refused, and says what is there. */
		slot->revision = created ? revision : read_else(bytes);
	}
	slot->started_ns = now_ns();
	return false;
}

int bench_kube_delete(struct bench *bench)
{
	return bench_loop(bench, "kube-delete", start_delete, answer_delete);
}

/* ---- list ---- */

static void start_list(struct slot *slot)
{
	Etcdserverpb__RangeRequest request = ETCDSERVERPB__RANGE_REQUEST__INIT;

	request.key = text(LISTED);
	if (slot->serial > 0) /* behind the last key, which a zero byte does */
		request.key = (ProtobufCBinaryData){(size_t)slot->serial, (uint8_t *)slot->key};
	request.range_end = text(LISTED_END);
	request.limit = slot->loop->bench->page;
	request.revision = slot->revision;
	request.serializable = slot->loop->bench->serializable;
	bench_call(slot, &etcdc_method_range, &request);
}

static bool answer_list(struct slot *slot, struct ks_slice bytes)
{
	struct wire wire = {bytes.data, bytes.data + bytes.size}, inner, last = {0}, field;
	uint64_t number, field_number, value = 0, more = 0;

	while (wire_field(&wire, &number, &inner, &value)) {
		if (number == 3)
			more = value;
		if (number == 2) {
			last = inner;
			slot->listed++;
		}
		while (number == 1 && slot->revision == 0 && wire_field(&inner, &field_number, &field, &value))
			if (field_number == 3)
				slot->revision = (int64_t)value;
	}
	if (more && wire_field(&last, &number, &field, &value) && number == 1 && field.end - field.at < KEY_ROOM - 1) {
		memcpy(slot->key, field.at, (size_t)(field.end - field.at));
		slot->key[field.end - field.at] = 0;
		slot->serial = field.end - field.at + 1;
		return false;
	}
	if (slot->listed != slot->loop->bench->keys)
		atomic_fetch_add(&slot->loop->failed, 1);
	slot->listed = slot->serial = slot->revision = 0;
	return true;
}

/* Creates what is listed, one after the other: kine takes one put in a transaction. */
static bool seed(struct bench *bench)
{
	uint8_t value[4096];

	KS_ASSERT(bench->value_size <= (int)sizeof(value));
	memset(value, 'v', sizeof(value));
	for (int64_t i = 0; i < bench->keys; i++) {
		int64_t revision = 0;
		char key[64];
		bool created; /* not in a second run */

		(void)snprintf(key, sizeof(key), LISTED "%08" PRId64, i);
		if (!bench_kube_write(bench->client[0], key, value, (size_t)bench->value_size, &revision, &created))
			return false;
	}
	return true;
}

int bench_kube_list(struct bench *bench)
{
	if (!seed(bench))
		return 1;
	return bench_loop(bench, "kube-list", start_list, answer_list);
}
