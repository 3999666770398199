/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Users, roles and the switch of the source: whether they changed, and then all of them anew.
 */
#include "store/auth_codec.h"
#include "tools/import_etcd.h"

/* ---- whether they changed ---- */

static bool has_users(struct ks_import_target *target)
{
	const struct ks_import_map *map = &ks_import_target_known(target)->map;
	struct ks_slice name;
	size_t users = 0, roles = 0;

	return ks_import_map_next(map, KS_IMPORT_USER, &users, &name) ||
	       ks_import_map_next(map, KS_IMPORT_ROLE, &roles, &name);
}

/* Servers before etcd 3.5 do not say their auth revision: are there any users or roles at all? */
static enum ks_status lists_users(struct ks_import_source *source, bool *some, struct ks_err *err)
{
	Etcdserverpb__AuthUserListRequest users = ETCDSERVERPB__AUTH_USER_LIST_REQUEST__INIT;
	Etcdserverpb__AuthRoleListRequest roles = ETCDSERVERPB__AUTH_ROLE_LIST_REQUEST__INIT;
	Etcdserverpb__AuthUserListResponse *user_list = NULL;
	Etcdserverpb__AuthRoleListResponse *role_list = NULL;
	struct etcdc_err failed = {0};
	enum ks_status status = etcdc_user_list(source->client, &users, &user_list, &failed);

	if (status == KS_OK)
		status = etcdc_role_list(source->client, &roles, &role_list, &failed);
	*some = status == KS_OK && (user_list->n_users || role_list->n_roles);
	etcdc_free(user_list);
	etcdc_free(role_list);
	return status == KS_OK ? KS_OK : ks_import_etcd_failed(source, "users", &failed, err);
}

enum ks_status ks_import_etcd_auth_changed(struct ks_import_source *source, struct ks_import_target *target,
					   bool *changed, struct ks_err *err)
{
	Etcdserverpb__AuthStatusRequest request = ETCDSERVERPB__AUTH_STATUS_REQUEST__INIT;
	Etcdserverpb__AuthStatusResponse *response;
	struct etcdc_err failed = {0};
	enum ks_status status = etcdc_auth_status(source->client, &request, &response, &failed);
	int64_t known = ks_import_target_known(target)->auth_revision;

	if (status == KS_UNIMPLEMENTED) {
		*changed = has_users(target);
		return *changed ? KS_OK : lists_users(source, changed, err);
	}
	if (status != KS_OK)
		return ks_import_etcd_failed(source, "auth status", &failed, err);
	*changed = (response->authrevision > 1 ? (int64_t)response->authrevision : 1) != (known > 1 ? known : 1);
	etcdc_free(response);
	return KS_OK;
}

/* ---- all of them anew ---- */

static enum ks_status bring_auth_row(struct ks_import_target *target, const struct sqlb_row *row, struct ks_err *err)
{
	struct ks_import_known *known = ks_import_target_known(target);
	struct ks_auth_record record;
	struct ks_import_thing *thing;
	enum ks_status status = ks_import_entry(target, known->revision, row, err);

	if (status != KS_OK || !ks_auth_decode(row->payload, &record) || record.object == KS_AUTH_SWITCH)
		return status;
	thing = ks_import_map_find(&known->map, record.object == KS_AUTH_USER ? KS_IMPORT_USER : KS_IMPORT_ROLE,
				   record.name);
	if (thing)
		thing->marked = true;
	return KS_OK;
}

static enum ks_status drop_unmarked(struct ks_import_target *target, enum ks_import_kind kind, int64_t auth_revision,
				    struct ks_err *err)
{
	struct ks_import_known *known = ks_import_target_known(target);
	struct ks_import_thing *thing;
	struct ks_slice name;
	enum ks_status status = KS_OK;
	size_t at = 0;

	while (status == KS_OK && (thing = ks_import_map_next(&known->map, kind, &at, &name))) {
		struct sqlb_row row = {.kind = KS_EFFECT_AUTH, .version = auth_revision};
		struct ks_bytes *gone;

		if (thing->marked)
			continue;
		gone = ks_auth_encode_gone(kind == KS_IMPORT_USER ? KS_AUTH_USER : KS_AUTH_ROLE, name);
		if (!gone)
			return ks_fail(err, KS_RESOURCE_EXHAUSTED, "out of memory");
		row.payload = ks_bytes_slice(gone);
		status = ks_import_entry(target, known->revision, &row, err);
		ks_bytes_unref(gone);
	}
	return status;
}

static void unmark(struct ks_import_target *target, enum ks_import_kind kind)
{
	struct ks_import_thing *thing;
	struct ks_slice name;
	size_t at = 0;

	while ((thing = ks_import_map_next(&ks_import_target_known(target)->map, kind, &at, &name)))
		thing->marked = false;
}

/* No call tells a user's password: only another snapshot does. */
enum ks_status ks_import_etcd_bring_auth(struct ks_import_source *source, struct ks_import_target *target,
					 struct ks_err *err)
{
	int64_t known_revision = ks_import_target_known(target)->auth_revision, auth_revision = 0;
	enum sqlb_next what = SQLB_NEXT_END;
	struct sqlb_row row;
	enum ks_status status = ks_import_etcd_take_snapshot(source, ks_import_target_writer(target), err);

	unmark(target, KS_IMPORT_USER);
	unmark(target, KS_IMPORT_ROLE);
	while (status == KS_OK && (what = ks_restore_source_next(source->restore, &row)) == SQLB_NEXT_ROW) {
		if (row.kind == KS_EFFECT_PUT || row.kind == KS_EFFECT_DELETE || row.kind == KS_EFFECT_COMPACT)
			break;
		if (row.kind != KS_EFFECT_AUTH)
			continue;
		auth_revision = row.version;
		if (auth_revision == known_revision)
			break;
		status = bring_auth_row(target, &row, err);
	}
	if (status == KS_OK && what == SQLB_NEXT_FAILED) {
		*err = *ks_restore_source_error(source->restore);
		status = err->status;
	}
	ks_import_etcd_drop_snapshot(source);
	if (status != KS_OK || auth_revision == known_revision || auth_revision == 0)
		return status;
	status = drop_unmarked(target, KS_IMPORT_USER, auth_revision, err);
	return status == KS_OK ? drop_unmarked(target, KS_IMPORT_ROLE, auth_revision, err) : status;
}
