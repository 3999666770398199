/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The end of an import from etcd: what no watch tells, and whether both sides are the same.
 */
#include <inttypes.h>
#include <stdio.h>

#include "tools/import_etcd.h"

/* The hash of the source as it is now, if that is where we are. */
static enum ks_status ask_hash(struct ks_import_source *source, uint32_t *hash, int64_t *compact_revision,
			       struct ks_err *err)
{
	/* Not by its revision: newer servers then answer from a cache, with a compact revision of before. */
	Etcdserverpb__HashKVRequest request = ETCDSERVERPB__HASH_KVREQUEST__INIT;
	struct etcdc_call_options options = {.timeout_ms = 600000};
	Etcdserverpb__HashKVResponse *response;
	struct etcdc_err failed = {0};
	void *answer;
	enum ks_status status;

	status = etcdc_unary(source->client, &etcdc_method_hash_kv, &request, &options, &answer, &failed);
	if (status != KS_OK)
		return ks_import_etcd_failed(source, "hash", &failed, err);
	response = answer;
	*hash = response->hash;
	*compact_revision = response->compact_revision;
	if (!response->header || response->header->revision != source->reached)
		status = ks_fail(err, KS_ABORTED, "something was written meanwhile");
	etcdc_free(response);
	return status;
}

enum ks_status ks_import_etcd_settle(struct ks_import_source *source, struct ks_import_target *target,
				     struct ks_err *err)
{
	struct ks_import_known *known = ks_import_target_known(target);
	struct sqlb_row row = {.kind = KS_EFFECT_COMPACT};
	bool changed = false;
	uint32_t hash;
	enum ks_status status = ks_import_etcd_settle_leases(source, target, err);

	if (status == KS_OK)
		status = ks_import_etcd_auth_changed(source, target, &changed, err);
	if (status == KS_OK && changed)
		status = ks_import_etcd_bring_auth(source, target, err);
	if (status == KS_OK)
		status = ask_hash(source, &hash, &row.version, err);
	if (status == KS_OK && row.version > known->compact_revision)
		status = ks_import_entry(target, known->revision, &row, err);
	return status;
}

enum ks_status ks_import_etcd_verify(struct ks_import_source *source, struct ks_import_target *target,
				     const struct ks_hash_result *hash, char proof[128], struct ks_err *err)
{
	int64_t compact_revision;
	uint32_t theirs;
	enum ks_status status = ask_hash(source, &theirs, &compact_revision, err);

	(void)target;
	if (status != KS_OK)
		return status;
	/* Compacted once more: as good as a write, but for the numbers. */
	if (compact_revision > hash->compact_revision)
		return ks_fail(err, KS_ABORTED, "the source was compacted meanwhile");
	if (theirs != hash->hash)
		return ks_fail(err, KS_DATA_LOSS,
			       "the two sides differ: HashKV of %s is %" PRIu32 " at revision %" PRId64
			       ", here it is %" PRIu32 "; the import stays unfinished",
			       source->place, theirs, source->reached, hash->hash);
	(void)snprintf(proof, 128, "HashKV %" PRIu32 " on both sides", theirs);
	return KS_OK;
}
