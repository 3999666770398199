/* SPDX-License-Identifier: Apache-2.0 */
/*
 * An outgoing message: bytes written in place, with large counted bytes inserted by reference instead of copied.
 *
 * 'buf' takes everything that is written directly (ks_wire_* work on it). ks_out_bytes inserts counted bytes at the current
 * end: small ones are copied, from KS_OUT_SHARE_SIZE on a reference is kept. The whole has a maximum size.
 * Owner: the ks_out owns buffer and references until ks_out_fini, or until a sender takes them. One thread at a time.
 * Errors: sticky, as in ks_buf: check ks_out_failed once at the end.
 */
#ifndef KS_BASE_OUT_H
#define KS_BASE_OUT_H

#include "base/buf.h"
#include "base/bytes.h"

#define KS_OUT_SHARE_SIZE 2048

struct ks_out_insert {
	size_t at; /* offset in buf where 'bytes' goes; ascending */
	struct ks_bytes *bytes;
};

struct ks_out {
	struct ks_buf buf;
	struct ks_out_insert *inserts;
	size_t insert_count, insert_capacity;
	size_t shared_size; /* bytes in inserts */
	size_t max;
};

void ks_out_init(struct ks_out *out, size_t max);
void ks_out_fini(struct ks_out *out);
/* Takes no reference of the caller's: adds its own when it shares. */
void ks_out_bytes(struct ks_out *out, struct ks_bytes *bytes);

static inline size_t ks_out_size(const struct ks_out *out)
{
	return out->buf.size + out->shared_size;
}
static inline bool ks_out_failed(const struct ks_out *out)
{
	return out->buf.failed;
}

#endif
