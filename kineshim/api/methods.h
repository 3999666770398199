/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Every RPC of etcd, once: the table behind method registration, decoding and the fuzzer. What has no handler yet
 * answers UNIMPLEMENTED. (A column for permissions will stand after the handler.)
 *
 * M(service, method, request, response, kind, handler, routes): request and response are prefixes of protoc-c's names; kind is
 * UNARY, SERVER (one request, many answers) or BIDI; routes are the paths of the JSON gateway below /v3/ (spec 9.3), separated by
 * spaces, or NULL.
 */
#ifndef KS_API_METHODS_H
#define KS_API_METHODS_H

/* clang-format off */
#define KS_API_METHODS(M) \
	M("etcdserverpb.KV", Range, etcdserverpb__range_request, \
	  etcdserverpb__range_response, UNARY, ks_api_range, "kv/range") \
	M("etcdserverpb.KV", RangeStream, etcdserverpb__range_request, \
	  etcdserverpb__range_stream_response, SERVER, ks_api_range_stream, NULL) \
	M("etcdserverpb.KV", Put, etcdserverpb__put_request, etcdserverpb__put_response, UNARY, ks_api_put, "kv/put") \
	M("etcdserverpb.KV", DeleteRange, etcdserverpb__delete_range_request, \
	  etcdserverpb__delete_range_response, UNARY, ks_api_delete_range, "kv/deleterange") \
	M("etcdserverpb.KV", Txn, etcdserverpb__txn_request, etcdserverpb__txn_response, UNARY, ks_api_txn, "kv/txn") \
	M("etcdserverpb.KV", Compact, etcdserverpb__compaction_request, \
	  etcdserverpb__compaction_response, UNARY, ks_api_compact, "kv/compaction") \
	M("etcdserverpb.Watch", Watch, etcdserverpb__watch_request, \
	  etcdserverpb__watch_response, BIDI, ks_api_watch, "watch") \
	M("etcdserverpb.Lease", LeaseGrant, etcdserverpb__lease_grant_request, \
	  etcdserverpb__lease_grant_response, UNARY, ks_api_lease_grant, "lease/grant") \
	M("etcdserverpb.Lease", LeaseRevoke, etcdserverpb__lease_revoke_request, \
	  etcdserverpb__lease_revoke_response, UNARY, ks_api_lease_revoke, "lease/revoke kv/lease/revoke") \
	M("etcdserverpb.Lease", LeaseKeepAlive, etcdserverpb__lease_keep_alive_request, \
	  etcdserverpb__lease_keep_alive_response, BIDI, ks_api_lease_keepalive, "lease/keepalive") \
	M("etcdserverpb.Lease", LeaseTimeToLive, etcdserverpb__lease_time_to_live_request, \
	  etcdserverpb__lease_time_to_live_response, UNARY, ks_api_lease_time_to_live, \
	  "lease/timetolive kv/lease/timetolive") \
	M("etcdserverpb.Lease", LeaseLeases, etcdserverpb__lease_leases_request, \
	  etcdserverpb__lease_leases_response, UNARY, ks_api_lease_leases, "lease/leases kv/lease/leases") \
	M("etcdserverpb.Cluster", MemberAdd, etcdserverpb__member_add_request, \
	  etcdserverpb__member_add_response, UNARY, ks_api_member_add, "cluster/member/add") \
	M("etcdserverpb.Cluster", MemberRemove, etcdserverpb__member_remove_request, \
	  etcdserverpb__member_remove_response, UNARY, ks_api_member_remove, "cluster/member/remove") \
	M("etcdserverpb.Cluster", MemberUpdate, etcdserverpb__member_update_request, \
	  etcdserverpb__member_update_response, UNARY, ks_api_member_update, "cluster/member/update") \
	M("etcdserverpb.Cluster", MemberList, etcdserverpb__member_list_request, \
	  etcdserverpb__member_list_response, UNARY, ks_api_member_list, "cluster/member/list") \
	M("etcdserverpb.Cluster", MemberPromote, etcdserverpb__member_promote_request, \
	  etcdserverpb__member_promote_response, UNARY, ks_api_member_promote, "cluster/member/promote") \
	M("etcdserverpb.Maintenance", Alarm, etcdserverpb__alarm_request, \
	  etcdserverpb__alarm_response, UNARY, ks_api_alarm, "maintenance/alarm") \
	M("etcdserverpb.Maintenance", Status, etcdserverpb__status_request, \
	  etcdserverpb__status_response, UNARY, ks_api_status, "maintenance/status") \
	M("etcdserverpb.Maintenance", Defragment, etcdserverpb__defragment_request, \
	  etcdserverpb__defragment_response, UNARY, ks_api_defragment, "maintenance/defragment") \
	M("etcdserverpb.Maintenance", Hash, etcdserverpb__hash_request, \
	  etcdserverpb__hash_response, UNARY, ks_api_hash, "maintenance/hash") \
	M("etcdserverpb.Maintenance", HashKV, etcdserverpb__hash_kvrequest, \
	  etcdserverpb__hash_kvresponse, UNARY, ks_api_hash_kv, "maintenance/hashkv") \
	M("etcdserverpb.Maintenance", Snapshot, etcdserverpb__snapshot_request, \
	  etcdserverpb__snapshot_response, SERVER, ks_api_snapshot, "maintenance/snapshot") \
	M("etcdserverpb.Maintenance", MoveLeader, etcdserverpb__move_leader_request, \
	  etcdserverpb__move_leader_response, UNARY, ks_api_move_leader, "maintenance/transfer-leadership") \
	M("etcdserverpb.Maintenance", Downgrade, etcdserverpb__downgrade_request, \
	  etcdserverpb__downgrade_response, UNARY, ks_api_downgrade, "maintenance/downgrade") \
	M("etcdserverpb.Auth", AuthEnable, etcdserverpb__auth_enable_request, \
	  etcdserverpb__auth_enable_response, UNARY, ks_api_auth_enable, "auth/enable") \
	M("etcdserverpb.Auth", AuthDisable, etcdserverpb__auth_disable_request, \
	  etcdserverpb__auth_disable_response, UNARY, ks_api_auth_disable, "auth/disable") \
	M("etcdserverpb.Auth", AuthStatus, etcdserverpb__auth_status_request, \
	  etcdserverpb__auth_status_response, UNARY, ks_api_auth_status, "auth/status") \
	M("etcdserverpb.Auth", Authenticate, etcdserverpb__authenticate_request, \
	  etcdserverpb__authenticate_response, UNARY, ks_api_authenticate, "auth/authenticate") \
	M("etcdserverpb.Auth", UserAdd, etcdserverpb__auth_user_add_request, \
	  etcdserverpb__auth_user_add_response, UNARY, ks_api_user_add, "auth/user/add") \
	M("etcdserverpb.Auth", UserGet, etcdserverpb__auth_user_get_request, \
	  etcdserverpb__auth_user_get_response, UNARY, ks_api_user_get, "auth/user/get") \
	M("etcdserverpb.Auth", UserList, etcdserverpb__auth_user_list_request, \
	  etcdserverpb__auth_user_list_response, UNARY, ks_api_user_list, "auth/user/list") \
	M("etcdserverpb.Auth", UserDelete, etcdserverpb__auth_user_delete_request, \
	  etcdserverpb__auth_user_delete_response, UNARY, ks_api_user_delete, "auth/user/delete") \
	M("etcdserverpb.Auth", UserChangePassword, etcdserverpb__auth_user_change_password_request, \
	  etcdserverpb__auth_user_change_password_response, UNARY, ks_api_user_change_password, "auth/user/changepw") \
	M("etcdserverpb.Auth", UserGrantRole, etcdserverpb__auth_user_grant_role_request, \
	  etcdserverpb__auth_user_grant_role_response, UNARY, ks_api_user_grant_role, "auth/user/grant") \
	M("etcdserverpb.Auth", UserRevokeRole, etcdserverpb__auth_user_revoke_role_request, \
	  etcdserverpb__auth_user_revoke_role_response, UNARY, ks_api_user_revoke_role, "auth/user/revoke") \
	M("etcdserverpb.Auth", RoleAdd, etcdserverpb__auth_role_add_request, \
	  etcdserverpb__auth_role_add_response, UNARY, ks_api_role_add, "auth/role/add") \
	M("etcdserverpb.Auth", RoleGet, etcdserverpb__auth_role_get_request, \
	  etcdserverpb__auth_role_get_response, UNARY, ks_api_role_get, "auth/role/get") \
	M("etcdserverpb.Auth", RoleList, etcdserverpb__auth_role_list_request, \
	  etcdserverpb__auth_role_list_response, UNARY, ks_api_role_list, "auth/role/list") \
	M("etcdserverpb.Auth", RoleDelete, etcdserverpb__auth_role_delete_request, \
	  etcdserverpb__auth_role_delete_response, UNARY, ks_api_role_delete, "auth/role/delete") \
	M("etcdserverpb.Auth", RoleGrantPermission, etcdserverpb__auth_role_grant_permission_request, \
	  etcdserverpb__auth_role_grant_permission_response, UNARY, ks_api_role_grant_permission, "auth/role/grant") \
	M("etcdserverpb.Auth", RoleRevokePermission, etcdserverpb__auth_role_revoke_permission_request, \
	  etcdserverpb__auth_role_revoke_permission_response, UNARY, ks_api_role_revoke_permission, "auth/role/revoke") \
	M("v3lockpb.Lock", Lock, v3lockpb__lock_request, v3lockpb__lock_response, UNARY, ks_api_lock, \
	  "lock/lock") \
	M("v3lockpb.Lock", Unlock, v3lockpb__unlock_request, \
	  v3lockpb__unlock_response, UNARY, ks_api_unlock, "lock/unlock") \
	M("v3electionpb.Election", Campaign, v3electionpb__campaign_request, \
	  v3electionpb__campaign_response, UNARY, ks_api_campaign, "election/campaign") \
	M("v3electionpb.Election", Proclaim, v3electionpb__proclaim_request, \
	  v3electionpb__proclaim_response, UNARY, ks_api_proclaim, "election/proclaim") \
	M("v3electionpb.Election", Leader, v3electionpb__leader_request, \
	  v3electionpb__leader_response, UNARY, ks_api_leader, "election/leader") \
	M("v3electionpb.Election", Observe, v3electionpb__leader_request, \
	  v3electionpb__leader_response, SERVER, ks_api_observe, "election/observe") \
	M("v3electionpb.Election", Resign, v3electionpb__resign_request, \
	  v3electionpb__resign_response, UNARY, ks_api_resign, "election/resign") \
	M("grpc.health.v1.Health", Check, grpc__health__v1__health_check_request, \
	  grpc__health__v1__health_check_response, UNARY, ks_api_health_check, NULL) \
	M("grpc.health.v1.Health", Watch, grpc__health__v1__health_check_request, \
	  grpc__health__v1__health_check_response, SERVER, ks_api_health_watch, NULL)
/* clang-format on */

#endif
