/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Two generations of the image in the data folder: last-known-good.snap and last-known-good.1.snap, for the owner only (0600 in a folder of 0700). A
 * write is atomic: a temporary file, fsync, the present one becomes the older, rename, fsync of the folder. A full disk leaves both as they are.
 * The folder is locked: one agent at a time.
 *
 * Threads: one at a time. Errors: enum ks_status with the file's name.
 */
#ifndef DPA_DISK_H
#define DPA_DISK_H

#include "snapshot/format.h"

struct dpa_disk;

struct dpa_disk_config {
	const char *dir;
	const struct dpa_signer *signer;     /* NULL: not signed */
	const struct dpa_verifier *verifier; /* NULL: signatures do not matter */
};

/* Makes the folder when it is not there. KS_FAILED_PRECONDITION when another process has it. */
struct dpa_disk *dpa_disk_open(const struct dpa_disk_config *config, struct ks_err *err);
void dpa_disk_close(struct dpa_disk *disk);
/*
 * The newest valid generation. KS_NOT_FOUND: there is none, and 'fault' is empty when there never was. 'fault' (at least 256 bytes) says what was wrong with
 * a newer one; "" when nothing.
 */
enum ks_status dpa_disk_load(struct dpa_disk *disk, struct dpa_image *image, char *fault, size_t room,
			     struct ks_err *err) KS_MUST_CHECK;
enum ks_status dpa_disk_save(struct dpa_disk *disk, const struct dpa_image *image, int64_t *bytes,
			     struct ks_err *err) KS_MUST_CHECK;

#endif
