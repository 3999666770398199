/* SPDX-License-Identifier: Apache-2.0 */
/* The handlers that methods.h names, and the stream call-backs that do nothing. */
#ifndef KS_API_HANDLERS_H
#define KS_API_HANDLERS_H

#include "api/api.h"

ks_api_handler_fn ks_api_unimplemented;
extern const struct ks_stream_ops ks_api_unimplemented_stream_ops;
void ks_api_ignore_message(struct ks_call *call, struct ks_slice message);
void ks_api_ignore(struct ks_call *call);

/* kv.c, range.c, range_stream.c */
ks_api_handler_fn ks_api_range;
ks_api_handler_fn ks_api_put;
ks_api_handler_fn ks_api_delete_range;
ks_api_handler_fn ks_api_txn;
ks_api_handler_fn ks_api_compact;
extern const struct ks_stream_ops ks_api_range_stream_ops;

/* lease.c, keepalive.c */
ks_api_handler_fn ks_api_lease_grant;
ks_api_handler_fn ks_api_lease_revoke;
ks_api_handler_fn ks_api_lease_time_to_live;
ks_api_handler_fn ks_api_lease_leases;
extern const struct ks_stream_ops ks_api_lease_keepalive_ops;

/* cluster.c, maintenance.c */
ks_api_handler_fn ks_api_member_list;
ks_api_handler_fn ks_api_member_add;
ks_api_handler_fn ks_api_member_remove;
ks_api_handler_fn ks_api_member_update;
ks_api_handler_fn ks_api_member_promote;
ks_api_handler_fn ks_api_status;
ks_api_handler_fn ks_api_alarm;
ks_api_handler_fn ks_api_defragment;
ks_api_handler_fn ks_api_hash;
ks_api_handler_fn ks_api_hash_kv;
ks_api_handler_fn ks_api_move_leader;
ks_api_handler_fn ks_api_downgrade;

/* snapshot.c */
extern const struct ks_stream_ops ks_api_snapshot_ops;

/* lock.c, election.c, observe.c */
ks_api_handler_fn ks_api_lock;
ks_api_handler_fn ks_api_unlock;
ks_api_handler_fn ks_api_campaign;
ks_api_handler_fn ks_api_proclaim;
ks_api_handler_fn ks_api_resign;
ks_api_handler_fn ks_api_leader;
extern const struct ks_stream_ops ks_api_observe_ops;

/* auth.c, login.c */
ks_api_handler_fn ks_api_auth_enable;
ks_api_handler_fn ks_api_auth_disable;
ks_api_handler_fn ks_api_auth_status;
ks_api_handler_fn ks_api_authenticate;
ks_api_handler_fn ks_api_user_add;
ks_api_handler_fn ks_api_user_get;
ks_api_handler_fn ks_api_user_list;
ks_api_handler_fn ks_api_user_delete;
ks_api_handler_fn ks_api_user_change_password;
ks_api_handler_fn ks_api_user_grant_role;
ks_api_handler_fn ks_api_user_revoke_role;
ks_api_handler_fn ks_api_role_add;
ks_api_handler_fn ks_api_role_get;
ks_api_handler_fn ks_api_role_list;
ks_api_handler_fn ks_api_role_delete;
ks_api_handler_fn ks_api_role_grant_permission;
ks_api_handler_fn ks_api_role_revoke_permission;

/* health.c */
ks_api_handler_fn ks_api_health_check;
extern const struct ks_stream_ops ks_api_health_watch_ops;

#endif
