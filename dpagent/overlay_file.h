/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What an overlay file says: YAML, or JSON, which is YAML too. One document, one mapping. A key that begins with the prefix is taken as it is, another one
 * is put behind it ("routes/1" under "/apisix" is "/apisix/routes/1"), one that begins with "/" outside of the prefix is an error.
 *
 * Inside of a value plain scalars are what YAML 1.2 and JSON agree on: null, true, false, numbers in JSON's form; what only YAML takes for a number
 * (0x1f, +1, 010, .5, .inf) is an error, because it is one thing here and another there; everything else is a text.
 *
 * Hostile input ends with an error that names the line: bytes, depth and keys are bounded, keys may not repeat, anchors, aliases and tags are refused. No
 * recursion. Threads: any; no state.
 */
#ifndef DPA_OVERLAY_FILE_H
#define DPA_OVERLAY_FILE_H

#include "mirror/replica.h"

#define DPA_OVERLAY_MAX_BYTES ((size_t)16 << 20)
#define DPA_OVERLAY_MAX_KEYS ((size_t)100000)
#define DPA_OVERLAY_MAX_KEY ((size_t)4096)
#define DPA_OVERLAY_MAX_DEPTH 64

struct dpa_overlay_set {
	struct dpa_overlay_key *keys; /* point into 'bytes' */
	size_t count;
	struct ks_buf bytes;
};

/* 'name' is for errors: "name:12: …". 'set' is to be zeroed, and stays so on errors. */
enum ks_status dpa_overlay_parse(struct ks_slice text, const char *name, const char *prefix,
				 struct dpa_overlay_set *set, struct ks_err *err) KS_MUST_CHECK;
void dpa_overlay_set_fini(struct dpa_overlay_set *set); /* also of a zeroed one */

#endif
