/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The agent's side of object storage: the bucket of --object-storage, with the exporter of a backup node or the importer of a traffic node.
 *
 * Threads: start, look and stop belong to the main thread; changed is for any.
 */
#ifndef DPA_OBJECT_H
#define DPA_OBJECT_H

#include "fallback/fallback.h"
#include "options.h"

struct dpa_object;

/* The signer and the verifier are borrowed; either may be NULL. KS_OK with NULL in *object: there is no --object-storage. */
enum ks_status dpa_object_start(const struct ks_options *options, struct dpa_replica *replica, struct dpa_board *board,
				const struct dpa_signer *signer, const struct dpa_verifier *verifier,
				struct dpa_object **object, struct ks_err *err) KS_MUST_CHECK;
void dpa_object_changed(struct dpa_object *object); /* under the replica's lock; NULL is fine */
/* Traffic nodes: looks now, and waits for it so long. True when something newer was applied meanwhile. NULL is fine. */
bool dpa_object_look(struct dpa_object *object, int64_t wait_ms);
/* Before the replica is freed, when nothing else changes it. NULL is fine. */
void dpa_object_stop(struct dpa_object *object);

#endif
