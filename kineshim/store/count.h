/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What etcd calls puts, ranges, deletes and transactions "seen by this member" (base/metrics.h), counted when they are certain:
 * requests of ours when they are answered, entries of others when they are applied. Threads: any.
 */
#ifndef KS_STORE_COUNT_H
#define KS_STORE_COUNT_H

#include "store/store.h"

void ks_count_request(const struct ks_request *request, const struct ks_result *result);
void ks_count_read_txn(const struct ks_txn_result *result);
void ks_count_entry(const struct ks_entry *entry);

#endif
