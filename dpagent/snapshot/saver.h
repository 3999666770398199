/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Writes the replica's image to disk after changes: a thread that waits for the first change, lets others gather for 'interval_ms' (longer when
 * writing takes long: at most a tenth of the time goes into it), and writes. Mere progress is written only with 'progress_ms' between. What fails is
 * tried again, with the alarm on. The last image, at the stop, is marked final.
 */
#ifndef DPA_SAVER_H
#define DPA_SAVER_H

#include "mirror/board.h"
#include "mirror/replica.h"
#include "snapshot/disk.h"

struct dpa_saver;

struct dpa_saver_config {
	struct dpa_disk *disk;
	struct dpa_replica *replica;
	struct dpa_board *board;
	int64_t interval_ms; /* 0: a default (1 s) */
	int64_t progress_ms; /* 0: a default (60 s) */
};

struct dpa_saver *dpa_saver_start(const struct dpa_saver_config *config, struct ks_err *err);
void dpa_saver_changed(struct dpa_saver *saver); /* any thread; only signals */
void dpa_saver_stop(struct dpa_saver *saver);    /* writes what is not written; NULL is fine */

#endif
