/* SPDX-License-Identifier: Apache-2.0 */
/* See object.h. */
#include "object.h"

#include <stdlib.h>
#include <string.h>

#include "base/panic.h"

struct dpa_object {
	struct dpa_bucket *bucket;
	/* One of the two. */
	struct dpa_exporter *exporter;
	struct dpa_importer *importer;
};

static char *variable(const char *name)
{
	return getenv(name);
}

static bool start_role(struct dpa_object *object, const struct ks_options *options, struct dpa_replica *replica,
		       struct dpa_board *board, const struct dpa_signer *signer, const struct dpa_verifier *verifier,
		       struct ks_err *err)
{
	const struct dpa_exporter_config exporter = {
		.bucket = object->bucket,
		.replica = replica,
		.board = board,
		.signer = signer,
		.verifier = verifier,
		.min_interval_ms = options->export_interval,
		.keep = (int)options->export_keep,
	};
	const struct dpa_importer_config importer = {
		.bucket = object->bucket,
		.replica = replica,
		.board = board,
		.verifier = verifier,
		.interval_ms = options->import_interval,
	};

	if (strcmp(options->role, "backup") == 0)
		object->exporter = dpa_exporter_start(&exporter, err);
	else
		object->importer = dpa_importer_start(&importer, err);
	return object->exporter || object->importer;
}

enum ks_status dpa_object_start(const struct ks_options *options, struct dpa_replica *replica, struct dpa_board *board,
				const struct dpa_signer *signer, const struct dpa_verifier *verifier,
				struct dpa_object **object, struct ks_err *err)
{
	const struct dpa_bucket_config config = {
		.url = options->object_storage,
		.ca_file = *options->object_storage_cacert ? options->object_storage_cacert : NULL,
		.timeout_ms = options->object_storage_timeout,
		.getenv_fn = variable,
	};
	struct dpa_object *made;

	*object = NULL;
	if (!*options->object_storage) {
		if (strcmp(options->role, "backup") == 0)
			return ks_fail(err, KS_INVALID_ARGUMENT, "--role backup needs --object-storage");
		return KS_OK;
	}
	made = ks_xcalloc(1, sizeof(*made));
	made->bucket = dpa_bucket_open(&config, err);
	if (made->bucket && start_role(made, options, replica, board, signer, verifier, err)) {
		*object = made;
		return KS_OK;
	}
	dpa_object_stop(made);
	return err->status;
}

void dpa_object_changed(struct dpa_object *object)
{
	if (object && object->exporter)
		dpa_exporter_changed(object->exporter);
}

bool dpa_object_look(struct dpa_object *object, int64_t wait_ms)
{
	return object && object->importer && dpa_importer_look(object->importer, wait_ms);
}

void dpa_object_stop(struct dpa_object *object)
{
	if (!object)
		return;
	dpa_exporter_stop(object->exporter);
	dpa_importer_stop(object->importer);
	dpa_bucket_close(object->bucket);
	free(object);
}
