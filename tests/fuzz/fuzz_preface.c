/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The first bytes of a connection. Promise beside memory safety: how the bytes are cut into pieces changes nothing. The first
 * byte of an input says how to cut.
 */
#include <stdint.h>

#include "base/panic.h"
#include "net/preface.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static enum ks_preface classify_bytewise(struct ks_slice all)
{
	for (size_t i = 1; i <= all.size; i++) {
		enum ks_preface kind = ks_preface_classify(ks_slice_of(all.data, i));

		if (kind != KS_PREFACE_MORE)
			return kind;
	}
	return KS_PREFACE_MORE;
}

static bool end_seen(struct ks_slice all, size_t step)
{
	struct ks_header_end state = {0};
	bool seen = false;

	for (size_t at = 0; at < all.size; at += step) {
		size_t piece = all.size - at < step ? all.size - at : step;
		bool now = ks_header_end_seen(&state, ks_slice_of(all.data + at, piece));

		KS_ASSERT(now || !seen);
		seen = now;
	}
	return seen;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct ks_slice all, start;

	if (size < 2)
		return 0;
	all = ks_slice_of(data + 1, size - 1);
	start = ks_slice_of(all.data, all.size < KS_PREFACE_MAX ? all.size : KS_PREFACE_MAX);
	KS_ASSERT(classify_bytewise(start) == ks_preface_classify(start));
	KS_ASSERT(start.size < KS_PREFACE_MAX || ks_preface_classify(start) != KS_PREFACE_MORE);
	KS_ASSERT(end_seen(all, all.size) == end_seen(all, (size_t)data[0] % 16 + 1));
	return 0;
}
