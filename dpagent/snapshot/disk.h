/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Two generations of the image in the data folder: last-known-good.snap and last-known-good.1.snap, for the owner only (0600 in a folder of 0700). A
 * write is atomic: a temporary file, fsync, the present one becomes the older, rename, fsync of the folder. A full disk leaves both as they are.
 * Only an image that is valid becomes the older one: a damaged one is overwritten, and the older one stays.
 * The folder is locked: one agent at a time.
 *
 * Files are believed only when they are ours: regular files, not links, owned by this user, and nobody else may write them.
 *
 * Threads: one at a time. Errors: enum ks_status with the file's name.
 */
#ifndef DPA_DISK_H
#define DPA_DISK_H

#include "snapshot/format.h"

struct dpa_disk;

struct dpa_disk_config {
	const char *dir;
	const struct dpa_signer
		*signer; /* NULL: not signed, and signatures do not matter: what was saved is to be loaded again */
	const struct dpa_verifier *verifier; /* NULL: signatures do not matter */
};

/*
 * Makes the folder when it is not there. KS_FAILED_PRECONDITION when another process has it, KS_INVALID_ARGUMENT when the verifier does not trust the
 * signer.
 */
struct dpa_disk *dpa_disk_open(const struct dpa_disk_config *config, struct ks_err *err);
void dpa_disk_close(struct dpa_disk *disk);
/*
 * The newest valid generation. KS_NOT_FOUND: there is none, and 'fault' is empty when there never was. 'fault' (at least 256 bytes) says what was wrong with
 * a newer one; "" when nothing.
 *
 * The image is final only for the first who loads it after a clean stop, and only when it is the newest: the mark (last-known-good.final)
 * is taken away before this returns, so that a crash later does not look like a clean stop.
 */
enum ks_status dpa_disk_load(struct dpa_disk *disk, struct dpa_image *image, char *fault, size_t room,
			     struct ks_err *err) KS_MUST_CHECK;
enum ks_status dpa_disk_save(struct dpa_disk *disk, const struct dpa_image *image, int64_t *bytes,
			     struct ks_err *err) KS_MUST_CHECK;

/* The newest generation, as it was loaded or saved by this process; false when it was neither. */
struct dpa_disk_newest {
	uint64_t cluster_id;
	int64_t up_revision, revision, saved_ms, bytes;
};
bool dpa_disk_newest(const struct dpa_disk *disk, struct dpa_disk_newest *newest);

/* Any file, whoever owns it: for people's tools. The memory is the caller's. NULL: 'err' says why. */
uint8_t *dpa_disk_read_file(const char *path, size_t *size, struct ks_err *err);

#endif
