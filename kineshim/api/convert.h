/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Validated messages → the store's requests. The requests borrow keys and values from the message, so they live as long
 * as its arena. Only transactions need memory of their own: false when the arena is full. Pure; any thread.
 */
#ifndef KS_API_CONVERT_H
#define KS_API_CONVERT_H

#include <stdbool.h>

#include "base/arena.h"
#include "proto/rpc.pb-c.h"
#include "store/store.h"

static inline struct ks_slice ks_slice_pb(ProtobufCBinaryData data)
{
	return ks_slice_of(data.data, data.len);
}

void ks_convert_range(const Etcdserverpb__RangeRequest *from, struct ks_range_req *to);
void ks_convert_put(const Etcdserverpb__PutRequest *from, struct ks_put_req *to);
void ks_convert_delete(const Etcdserverpb__DeleteRangeRequest *from, struct ks_delete_req *to);
bool ks_convert_txn(struct ks_arena *arena, const Etcdserverpb__TxnRequest *from, struct ks_txn_req *to);

/* Spec 2.5. *serializable: every range of it is (also when there is none). */
bool ks_txn_is_read_only(const Etcdserverpb__TxnRequest *txn, bool *serializable);

#endif
