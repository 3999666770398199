/* SPDX-License-Identifier: Apache-2.0 */
/* Counting requests and entries, see count.h. As etcd, a transaction is one with more than one operation. */
#include "store/count.h"

#include "base/metrics.h"

struct tally {
	uint64_t ranges, puts, put_bytes, deletes;
};

static void add_put(struct tally *tally, const struct ks_put_req *put)
{
	tally->puts++;
	tally->put_bytes += put->key.size + put->value.size;
}

static void add_txn(struct tally *tally, const struct ks_txn_req *txn, const struct ks_txn_result *result)
{
	const struct ks_op *ops = result->succeeded ? txn->success : txn->failure;

	for (size_t i = 0; i < result->op_count; i++) {
		switch (ops[i].kind) {
		case KS_OP_RANGE:
			tally->ranges++;
			break;
		case KS_OP_PUT:
			add_put(tally, &ops[i].put);
			break;
		case KS_OP_DELETE:
			tally->deletes++;
			break;
		case KS_OP_TXN:
			add_txn(tally, ops[i].txn, result->ops[i].txn);
			break;
		}
	}
}

static void count(const struct tally *tally)
{
	if (tally->ranges)
		KS_COUNT(RANGES, tally->ranges);
	if (tally->puts) {
		KS_COUNT(PUTS, tally->puts);
		KS_COUNT(PUT_BYTES, tally->put_bytes);
	}
	if (tally->deletes)
		KS_COUNT(DELETES, tally->deletes);
	if (tally->ranges + tally->puts + tally->deletes > 1)
		KS_COUNT(TXNS, 1);
}

void ks_count_request(const struct ks_request *request, const struct ks_result *result)
{
	struct tally tally = {0};

	switch (request->kind) {
	case KS_REQ_PUT:
		add_put(&tally, &request->put);
		break;
	case KS_REQ_DELETE:
		tally.deletes = 1;
		break;
	case KS_REQ_TXN:
		add_txn(&tally, &request->txn, &result->txn);
		break;
	case KS_REQ_LEASE_GRANT:
		KS_COUNT(LEASE_GRANTED, 1);
		KS_OBSERVE(LEASE_TTL, request->grant.ttl);
		return;
	case KS_REQ_LEASE_REVOKE:
		KS_COUNT(LEASE_REVOKED, 1);
		if (request->revoke.expired)
			KS_COUNT(LEASE_EXPIRED, 1);
		return;
	case KS_REQ_COMPACT:
	case KS_REQ_AUTH:
	case KS_REQ_ALARM:
		return;
	}
	count(&tally);
}

static void add_result(struct tally *tally, const struct ks_txn_result *result)
{
	for (size_t i = 0; i < result->op_count; i++) {
		if (result->ops[i].kind == KS_OP_RANGE)
			tally->ranges++;
		else if (result->ops[i].kind == KS_OP_TXN)
			add_result(tally, result->ops[i].txn);
	}
}

void ks_count_read_txn(const struct ks_txn_result *result)
{
	struct tally tally = {0};

	add_result(&tally, result);
	count(&tally);
}

/* Which operations an entry came from is not known; its effects are. */
void ks_count_entry(const struct ks_entry *entry)
{
	struct tally tally = {0};
	size_t revoked = 0;

	for (size_t i = 0; i < entry->effect_count; i++) {
		const struct ks_effect *effect = &entry->effects[i];

		if (effect->kind == KS_EFFECT_PUT) {
			tally.puts++;
			tally.put_bytes += effect->key.size + effect->value.size;
		} else if (effect->kind == KS_EFFECT_DELETE) {
			tally.deletes++;
		} else if (effect->kind == KS_EFFECT_LEASE_GRANT) {
			KS_COUNT(LEASE_GRANTED, 1);
			KS_OBSERVE(LEASE_TTL, effect->version);
		} else if (effect->kind == KS_EFFECT_LEASE_REVOKE) {
			revoked++;
		}
	}
	if (revoked) /* with the deletes of its keys, which nobody asked for one by one */
		KS_COUNT(LEASE_REVOKED, revoked);
	else
		count(&tally);
}
