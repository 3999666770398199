/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Leases of the source: looked up one by one while keys come that name them, and compared as a whole at the end.
 */
#include <string.h>

#include "tools/import_etcd.h"

static struct ks_slice id_name(const int64_t *id)
{
	return ks_slice_of(id, sizeof(*id));
}

bool ks_import_etcd_knows_lease(struct ks_import_target *target, int64_t id)
{
	const struct ks_import_thing *thing =
		ks_import_map_find(&ks_import_target_known(target)->map, KS_IMPORT_LEASE, id_name(&id));

	return thing && thing->live;
}

enum ks_status ks_import_etcd_bring_lease(struct ks_import_source *source, struct ks_import_target *target, int64_t id,
					  struct ks_err *err)
{
	Etcdserverpb__LeaseTimeToLiveRequest request = ETCDSERVERPB__LEASE_TIME_TO_LIVE_REQUEST__INIT;
	Etcdserverpb__LeaseTimeToLiveResponse *response;
	struct sqlb_row row = {.kind = KS_EFFECT_LEASE_GRANT, .lease = id};
	struct etcdc_err failed = {0};
	enum ks_status status;

	request.id = id;
	status = etcdc_lease_time_to_live(source->client, &request, &response, &failed);
	if (status == KS_NOT_FOUND)
		return KS_OK;
	if (status != KS_OK)
		return ks_import_etcd_failed(source, "lease", &failed, err);
	row.version = response->grantedttl;
	if (response->ttl >= 0 && response->grantedttl > 0)
		status = ks_import_entry(target, ks_import_target_known(target)->revision, &row, err);
	etcdc_free(response);
	return status;
}

enum ks_status ks_import_etcd_settle_leases(struct ks_import_source *source, struct ks_import_target *target,
					    struct ks_err *err)
{
	struct ks_import_known *known = ks_import_target_known(target);
	Etcdserverpb__LeaseLeasesRequest request = ETCDSERVERPB__LEASE_LEASES_REQUEST__INIT;
	Etcdserverpb__LeaseLeasesResponse *response;
	struct etcdc_err failed = {0};
	struct ks_import_thing *thing;
	struct ks_slice name;
	enum ks_status status;
	size_t at = 0;

	if (etcdc_lease_leases(source->client, &request, &response, &failed) != KS_OK)
		return ks_import_etcd_failed(source, "leases", &failed, err);
	while ((thing = ks_import_map_next(&known->map, KS_IMPORT_LEASE, &at, &name)))
		thing->marked = false;
	status = response->header && response->header->revision == source->reached
			 ? KS_OK
			 : ks_fail(err, KS_ABORTED, "something was written meanwhile");
	for (size_t i = 0; status == KS_OK && i < response->n_leases; i++) {
		int64_t id = response->leases[i]->id;

		if (!ks_import_etcd_knows_lease(target, id))
			status = ks_import_etcd_bring_lease(source, target, id, err);
		thing = ks_import_map_find(&known->map, KS_IMPORT_LEASE, id_name(&id));
		if (thing)
			thing->marked = true;
	}
	at = 0;
	/* Those that ended: the deletes of their keys came with the watch. */
	while (status == KS_OK && (thing = ks_import_map_next(&known->map, KS_IMPORT_LEASE, &at, &name))) {
		struct sqlb_row row = {.kind = KS_EFFECT_LEASE_REVOKE};

		if (thing->marked)
			continue;
		memcpy(&row.lease, name.data, sizeof(row.lease));
		status = ks_import_entry(target, known->revision, &row, err);
	}
	etcdc_free(response);
	return status;
}
