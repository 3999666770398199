/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The overlay file: keys of this machine that are merged over upstream's, for canaries and machine-specific settings. YAML or JSON, one mapping of
 * key → value (a text is taken as it is, a mapping or list becomes compact JSON, null hides the key). Read again when it changes; a malformed one raises the
 * alarm and the last good one counts. A file that is removed means no overlay.
 *
 * Threads: one of its own; dpa_overlay_json from any.
 */
#ifndef DPA_OVERLAY_H
#define DPA_OVERLAY_H

#include "mirror/board.h"
#include "mirror/replica.h"

struct dpa_overlay;

/* The first reading happens here: a malformed file is an error at start. */
struct dpa_overlay *dpa_overlay_start(const char *path, struct dpa_replica *replica, struct dpa_board *board,
				      struct ks_err *err);
void dpa_overlay_stop(struct dpa_overlay *overlay); /* NULL is fine; the replica keeps the keys */
/*
 * For /status: {"file": …, "loaded_ms": …, "error": … or null, "keys": {"KEY": "set" or "hide", …}}, malloc-ed; NULL without memory. These keys win over
 * upstream's. loaded_ms is 0 when there is no file.
 */
char *dpa_overlay_json(struct dpa_overlay *overlay);

#endif
