/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Outgoing messages, see out.h. Sharing bytes lowers the maximum of the inner buffer by their size, so that the sum
 * of both stays within the message's maximum with no check but the buffer's own.
 */
#include "base/out.h"

#include <stdlib.h>

void ks_out_init(struct ks_out *out, size_t max)
{
	*out = (struct ks_out){.max = max};
	ks_buf_init(&out->buf, max);
}

void ks_out_fini(struct ks_out *out)
{
	for (size_t i = 0; i < out->insert_count; i++)
		ks_bytes_unref(out->inserts[i].bytes);
	free(out->inserts);
	ks_buf_fini(&out->buf);
	ks_out_init(out, out->max);
}

static bool make_room(struct ks_out *out)
{
	size_t capacity = out->insert_capacity ? out->insert_capacity * 2 : 16;
	struct ks_out_insert *inserts;

	if (out->insert_count < out->insert_capacity)
		return true;
	inserts = reallocarray(out->inserts, capacity, sizeof(*inserts));
	if (!inserts)
		return false;
	out->inserts = inserts;
	out->insert_capacity = capacity;
	return true;
}

void ks_out_bytes(struct ks_out *out, struct ks_bytes *bytes)
{
	if (!bytes || out->buf.failed)
		return;
	if (bytes->size < KS_OUT_SHARE_SIZE) {
		ks_buf_append_slice(&out->buf, ks_bytes_slice(bytes));
		return;
	}
	if (bytes->size > out->buf.max - out->buf.size || !make_room(out)) {
		out->buf.failed = true;
		return;
	}
	out->inserts[out->insert_count++] = (struct ks_out_insert){
		.at = out->buf.size,
		.bytes = ks_bytes_ref(bytes),
	};
	out->shared_size += bytes->size;
	out->buf.max -= bytes->size;
}
