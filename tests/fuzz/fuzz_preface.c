/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The first bytes of a connection. Promise beside memory safety: how the bytes are cut into pieces changes nothing. (The first
 * byte of an input is not looked at; it once said how to cut.)
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

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct ks_slice start;

	if (size < 2)
		return 0;
	start = ks_slice_of(data + 1, size - 1 < KS_PREFACE_MAX ? size - 1 : KS_PREFACE_MAX);
	KS_ASSERT(classify_bytewise(start) == ks_preface_classify(start));
	/* Else a port with TLS and without would let one in where the other is meant. */
	KS_ASSERT((ks_preface_classify(start) == KS_PREFACE_TLS) == (start.data[0] == 0x16));
	KS_ASSERT(start.size < KS_PREFACE_MAX || ks_preface_classify(start) != KS_PREFACE_MORE);
	return 0;
}
