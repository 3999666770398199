/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One consistent state of the mirror as data: what the replica gives and takes, and what is saved on disk and exported.
 *
 * Owner: an image owns its arrays and one reference on each ks_bytes; dpa_image_fini gives them back. Immutable once made, so any thread
 * may read it. Errors: enum ks_status; KS_RESOURCE_EXHAUSTED when memory is short.
 */
#ifndef DPA_IMAGE_H
#define DPA_IMAGE_H

#include <stdbool.h>
#include <stdint.h>

#include "base/bytes.h"
#include "base/status.h"

struct dpa_image_key {
	/* As served: a canonical mvccpb.KeyValue with local revisions, lease 0. NULL: an overlay hides the key; then 'hidden' is its name. */
	struct ks_bytes *kv;
	struct ks_bytes *hidden;
	/* Upstream's value where another one is served (overlay, discovery); NULL: the same, or there is none upstream. */
	struct ks_bytes *raw;
	/* Upstream's numbers; all 0: the key is the overlay's alone. */
	int64_t up_create, up_mod, up_version;
};

struct dpa_image {
	uint64_t cluster_id;  /* upstream's; 0: not known */
	int64_t up_revision;  /* upstream's revision that this is the state of */
	int64_t revision;     /* local; not below any mod_revision of the keys */
	int64_t confirmed_ms; /* wall clock: when upstream last confirmed this state */
	int64_t saved_ms;     /* wall clock: when it was written; set by the writer of the format */
	bool final;           /* written at a clean stop: nothing newer was ever served */
	struct ks_bytes *prefix;
	struct dpa_image_key *keys; /* ascending by key */
	size_t key_count;
};

void dpa_image_fini(struct dpa_image *image); /* also of a zeroed one; leaves a zeroed one */
/* The key's name; false when the image is malformed there (formats check with it). */
bool dpa_image_key_name(const struct dpa_image_key *key, struct ks_slice *name);
/*
 * What upstream alone has, by its own numbers: without overlay, discovery and offset. For object storage, which other machines read.
 * 'plain' is to be zeroed.
 */
enum ks_status dpa_image_plain(const struct dpa_image *image, struct dpa_image *plain,
			       struct ks_err *err) KS_MUST_CHECK;

#endif
