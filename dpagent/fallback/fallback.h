/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Last-known-good in object storage. Names are NAME/%020llu.snap, numbered by a sequence that is the fence: a writer creates sequence n+1 only if it
 * does not exist (a conditional write), after it read that n is not newer than what it has. So two backup nodes cannot interleave: whoever
 * was slower finds the name taken, reads it, and decides again. A writer that slept until its number was deleted as too old finds its object
 * among the too old ones, and begins anew. Storage without conditional writes is found out by a probe, and not written to.
 *
 * URLs: s3://bucket/path?region=…&endpoint=…&path_style=true, azure://account/container/path?endpoint=….
 * Credentials come from the environment or the machine's identity (aws_identity.h, azure.c); they are in no log and no error.
 *
 * Threads: exporter and importer have one of their own. Errors at run time go to the board.
 */
#ifndef DPA_FALLBACK_H
#define DPA_FALLBACK_H

#include "mirror/board.h"
#include "mirror/replica.h"
#include "snapshot/format.h"

struct dpa_bucket;

struct dpa_bucket_config {
	const char *url;
	const char *ca_file; /* NULL: the system's */
	int64_t timeout_ms;  /* of one request; 0: a default */
	char *(*getenv_fn)(const char *name);
};
struct dpa_bucket *dpa_bucket_open(const struct dpa_bucket_config *config, struct ks_err *err);
void dpa_bucket_close(struct dpa_bucket *bucket);

/* --role backup. */
struct dpa_exporter;
struct dpa_exporter_config {
	struct dpa_bucket *bucket;
	struct dpa_replica *replica;
	struct dpa_board *board;
	const struct dpa_signer *signer;
	const struct dpa_verifier *verifier;
	int64_t min_interval_ms; /* between two exports; 0: a default (10 s) */
	int keep;                /* versions; 0: a default (10) */
};
struct dpa_exporter *dpa_exporter_start(const struct dpa_exporter_config *config, struct ks_err *err);
void dpa_exporter_changed(struct dpa_exporter *exporter);
void dpa_exporter_stop(struct dpa_exporter *exporter);

/* --role traffic. Blocking: the newest valid image, its verifier passed. KS_NOT_FOUND: none. 'fault' as in disk.h. */
enum ks_status dpa_bucket_newest(struct dpa_bucket *bucket, const struct dpa_verifier *verifier,
				 struct dpa_image *image, char *name, size_t name_room, char *fault, size_t fault_room,
				 struct ks_err *err) KS_MUST_CHECK;
/* Is what 'image' holds newer than 'point'? Same cluster: by upstream's revision; else by when it was confirmed. */
bool dpa_image_newer(const struct dpa_image *image, const struct dpa_point *point);

/* Asks again every interval while upstream is not connected, and applies what is newer. */
struct dpa_importer;
struct dpa_importer_config {
	struct dpa_bucket *bucket;
	struct dpa_replica *replica;
	struct dpa_board *board;
	const struct dpa_verifier *verifier;
	int64_t interval_ms; /* 0: a default (30 s) */
};
struct dpa_importer *dpa_importer_start(const struct dpa_importer_config *config, struct ks_err *err);
/* Blocking: one look now, whether connected or not; true when something newer was applied. */
bool dpa_importer_once(struct dpa_importer *importer);
/* The same on the importer's thread, waited for so long at most: a start must not hang on storage that does not answer. */
bool dpa_importer_look(struct dpa_importer *importer, int64_t wait_ms);
void dpa_importer_stop(struct dpa_importer *importer);

#endif
