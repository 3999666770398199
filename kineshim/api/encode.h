/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Store results → responses, straight into wire form: KeyValues lie encoded in the store, so an answer is a few tags and
 * lengths between them (field numbers: spec, appendix A). Values must be present: fetch what is missing first.
 * Errors: sticky in 'out'.
 */
#ifndef KS_API_ENCODE_H
#define KS_API_ENCODE_H

#include "api/api.h"

void ks_encode_range(const struct ks_api *api, struct ks_out *out, const struct ks_range_result *range,
		     int64_t revision);
/* kvs [first, first + count) as a RangeStreamResponse; header, more and count only in the last one (spec 1.5). */
void ks_encode_range_chunk(const struct ks_api *api, struct ks_out *out, const struct ks_range_result *range, bool last,
			   int64_t count, bool more, int64_t revision);
void ks_encode_put(const struct ks_api *api, struct ks_out *out, const struct ks_result *result);
void ks_encode_delete(const struct ks_api *api, struct ks_out *out, const struct ks_result *result);
/* 'arena' gives room for the sizes of the nested answers. */
void ks_encode_txn(const struct ks_api *api, struct ks_arena *arena, struct ks_out *out,
		   const struct ks_txn_result *txn, int64_t revision);

#endif
