/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a request must look like before it runs: spec 1.5, 1.6, 2.1, 2.2, 2.4, in etcd's order, because the first error wins.
 * Pure functions on decoded messages.
 * Errors: etcd's status and text; KS_RESOURCE_EXHAUSTED without memory.
 */
#ifndef KS_API_VALIDATE_H
#define KS_API_VALIDATE_H

#include "api/errors.h"
#include "base/bytes.h"
#include "proto/rpc.pb-c.h"

/*
 * How deep transactions may nest, whatever --max-txn-ops says: decoder, validation and store recurse on them. With
 * etcd's default of 128 operations a legal one cannot nest deeper than that either.
 */
#define KS_TXN_MAX_DEPTH 256

/*
 * Looks at the undecoded bytes of a TxnRequest for what must not reach a recursive decoder: too deep, or lists that
 * are longer than any valid one. Such requests get the error that etcd gives for too many operations.
 */
enum ks_status ks_txn_shape_check(struct ks_slice bytes, size_t max_txn_ops, struct ks_err *err) KS_MUST_CHECK;

enum ks_status ks_validate_range(const Etcdserverpb__RangeRequest *request, struct ks_err *err) KS_MUST_CHECK;
enum ks_status ks_validate_range_stream(const Etcdserverpb__RangeRequest *request, struct ks_err *err) KS_MUST_CHECK;
enum ks_status ks_validate_put(const Etcdserverpb__PutRequest *request, struct ks_err *err) KS_MUST_CHECK;
enum ks_status ks_validate_delete(const Etcdserverpb__DeleteRangeRequest *request, struct ks_err *err) KS_MUST_CHECK;
enum ks_status ks_validate_txn(const Etcdserverpb__TxnRequest *request, size_t max_txn_ops,
			       struct ks_err *err) KS_MUST_CHECK;

#endif
